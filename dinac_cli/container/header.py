"""The metadata of a record: its image, model, geometry and precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dinac_cli.container.frame import FORMAT_VERSION, newer_format
from dinac_cli.container.names import check_name, is_safe_text
from dinac_cli.errors import FormatError, Rejection

PRECISIONS = ("f32", "bf16", "q8", "q7", "q6", "q5", "q4", "q3")
PREDICTORS = ("none",)

MAX_CHANNELS = 4096
MAX_TOKENS = 1 << 20
MAX_VALUES = 1 << 28  # 1 GiB as float32
MAX_PATCH = 1024

_IDENTITY = re.compile("[0-9a-f]{16}")
_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_DIGITS = 15
_INTEGER = re.compile(f"0|[1-9][0-9]{{0,{_MAX_DIGITS - 1}}}")
_SHAPE = re.compile(r"\[([1-9][0-9]{0,9}),([1-9][0-9]{0,9}),([1-9][0-9]{0,9})\]")

_TEXTS = ("compute", "created_by", "image", "model", "revision", "step")
_IDENTITIES = ("latent_space", "weights")


@dataclass(frozen=True, kw_only=True)
class RecordHeader:
    """The metadata of a record. The constructor validates it.

    `shape` (C, h, w) is the shape of the latents. `height` and `width` of the image are in pixels.
    Each latent position covers a square of `patch` x `patch` pixels. `latent_space` and `weights`
    (16 hex digits each) identify the latent space and the weights. An anonymous record has no
    `name`, no `source_bytes` and no `source_sha256`.
    Raises FormatError with rejection NAME, PRECISION, PREDICTOR, SHAPE or METADATA.
    """

    shape: tuple[int, int, int]
    height: int
    width: int
    patch: int
    latent_space: str
    weights: str
    precision: str
    predictor: str = "none"
    name: str = ""
    model: str = ""
    revision: str = ""
    compute: str = ""
    created_by: str = ""
    image: str = ""
    step: str = ""
    source_bytes: int | None = None
    source_sha256: str | None = None

    @property
    def is_anonymous(self) -> bool:
        """True if the header has no name, no size and no hash of the source."""
        return not self.name and self.source_bytes is None and self.source_sha256 is None

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name)
        _check_coding(self)
        _check_shape(self.shape)
        _check_pixels(self)
        _check_texts(self)


def header_to_metadata(header: RecordHeader) -> dict[str, str]:
    """Returns the values of a header as strings. A missing value becomes an empty string."""
    values = {**vars(header), "dinac": FORMAT_VERSION, "shape": _shape_text(header.shape)}
    return {key: "" if value is None else str(value) for key, value in values.items()}


def header_from_metadata(metadata: Mapping[str, str]) -> RecordHeader:
    """Reads a header from metadata strings. Ignores unknown keys.

    Raises FormatError with rejection VERSION, and every FormatError that RecordHeader raises.
    """
    name = metadata.get("name", "")
    if name:
        check_name(name)
    version = _require(metadata, "dinac")
    if version != str(FORMAT_VERSION):
        raise newer_format(version)
    source_bytes = metadata.get("source_bytes")
    return RecordHeader(
        shape=_read_shape(_require(metadata, "shape")),
        height=_read_integer("height", _require(metadata, "height")),
        width=_read_integer("width", _require(metadata, "width")),
        patch=_read_integer("patch", _require(metadata, "patch")),
        **{key: _require(metadata, key) for key in (*_IDENTITIES, "precision", "predictor")},
        name=name,
        **{key: metadata.get(key, "") for key in _TEXTS},
        source_bytes=_read_integer("source_bytes", source_bytes) if source_bytes else None,
        source_sha256=metadata.get("source_sha256") or None,
    )


def _check_coding(header: RecordHeader) -> None:
    for key, value, known, rejection in (
        ("precision", header.precision, PRECISIONS, Rejection.PRECISION),
        ("predictor", header.predictor, PREDICTORS, Rejection.PREDICTOR),
    ):
        if value not in known:
            raise FormatError(rejection, f"unknown {key} {value[:20]!a}; update dinac-cli")


def _check_shape(shape: tuple[int, int, int]) -> None:
    channels, rows, columns = shape
    if min(shape) < 1 or channels > MAX_CHANNELS or rows * columns > MAX_TOKENS:
        raise _too_large(shape, f"{MAX_CHANNELS} channels of {MAX_TOKENS} positions")
    if channels * rows * columns > MAX_VALUES:
        raise _too_large(shape, f"{MAX_VALUES} values")


def _check_pixels(header: RecordHeader) -> None:
    if not 1 <= header.patch <= MAX_PATCH:
        raise FormatError(
            Rejection.SHAPE, f"patch of {header.patch} pixels, not 1 to {MAX_PATCH}; re-encode"
        )
    for side, positions in zip(("height", "width"), header.shape[1:], strict=True):
        pixels = getattr(header, side)
        if -(-pixels // header.patch) != positions:
            raise FormatError(
                Rejection.SHAPE,
                f"{side} of {pixels} pixels does not fill {positions} patches of {header.patch}; "
                "re-encode",
            )


def _check_texts(header: RecordHeader) -> None:
    for key in _IDENTITIES:
        if not _IDENTITY.fullmatch(getattr(header, key)):
            raise _bad_value(key, "is not 16 hexadecimal digits")
    if header.source_sha256 is not None and not _SHA256.fullmatch(header.source_sha256):
        raise _bad_value("source_sha256", "is not 64 hexadecimal digits")
    if header.source_bytes is not None and not 0 <= header.source_bytes < 10**_MAX_DIGITS:
        raise _bad_value("source_bytes", "is not a file size")
    for key in _TEXTS:
        if not is_safe_text(getattr(header, key)):
            raise _bad_value(key, "holds control characters or invalid Unicode")


def _require(metadata: Mapping[str, str], key: str) -> str:
    if key not in metadata:
        raise _bad_value(key, "is missing")
    return metadata[key]


def _read_integer(key: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise _bad_value(key, "is not a plain decimal number")
    return int(text)


def _read_shape(text: str) -> tuple[int, int, int]:
    match = _SHAPE.fullmatch(text)
    if not match:
        raise _bad_value("shape", "is not [C,h,w] in plain decimal numbers")
    channels, rows, columns = map(int, match.groups())
    return channels, rows, columns


def _shape_text(shape: tuple[int, int, int]) -> str:
    return "[{},{},{}]".format(*shape)


def _bad_value(key: str, fault: str) -> FormatError:
    return FormatError(Rejection.METADATA, f"header value {key} {fault}; re-encode")


def _too_large(shape: tuple[int, int, int], limit: str) -> FormatError:
    message = f"latents of shape {_shape_text(shape)}; the limit is {limit}"
    return FormatError(Rejection.SHAPE, message)

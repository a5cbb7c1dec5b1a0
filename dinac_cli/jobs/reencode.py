"""A sample of records encoded anew from their sources: which, from what pixels, how near."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record
from dinac_cli.container.tensors import join_planes, split_planes
from dinac_cli.errors import DinacError, ImageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import Geometry, read_geometry
from dinac_cli.images.reading import WHITE, read_shaped
from dinac_cli.jobs.encode import Twins
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.freshness import read_description
from dinac_cli.storage.content import read_content

Latents = npt.NDArray[np.float32]

DEFAULT_MAX_DELTA = 0.25
"""In units of a whitened latent, whose standard deviation is about 1.

`nano` in float32 and in bfloat16 differed by 0.15 at most over 60 photographs (0.002 on average),
and another device differs by less than another arithmetic. Latents of another picture are several
units away.
"""

_COMPOSITED = re.compile("composited-#([0-9a-f]{6})")


@dataclass(frozen=True)
class Reencoding:
    """How much is encoded anew (percent), with which models, and how far it may be off.

    `max_delta` of None is `DEFAULT_MAX_DELTA` and, at q8 to q3, one step of the quantiser more: a
    latent on the edge of two steps may come down on the other side.
    """

    percent: float
    find_model: Callable[[RecordHeader], ModelHandle]
    max_delta: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A record, and whether it belongs to the sample."""

    entry: RecordEntry
    is_sampled: bool = False

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.entry.label


def choose_sample(entries: Iterable[RecordEntry], percent: float) -> Iterator[Candidate]:
    """Mark the first record and, by the CRC of their names, about `percent` of all others.

    The same names give the same sample, in every order of work; of 0 percent there is none.
    """
    is_first = percent > 0
    for entry in entries:
        if entry.error is not None:
            yield Candidate(entry)
            continue
        crc = zlib.crc32(entry.name.encode(errors="surrogateescape"))
        yield Candidate(entry, is_first or crc < 2**32 * percent / 100)
        is_first = False


def read_source_pixels(
    path: str, header: RecordHeader, hold: Callable[[int], None]
) -> npt.NDArray[np.uint8]:
    """The pixels uint8 [H, W, 3] that a record was encoded from, as it tells of them.

    That is on its background, scaled and cropped; see `read_shaped` for `hold`. Raises ImageError,
    which names the file, also where its size is not that of the record, or what the record tells
    is not understood.
    """
    geometry = _read_geometry(header)
    try:
        pixels = read_shaped(
            read_content(path).data,
            hold,
            background=_read_background(header),
            max_pixels=max(MAX_PIXELS, header.height * header.width),
            geometry=geometry,
        ).pixels
    except DinacError as exc:
        raise ImageError(f"its source {path}: {exc}") from exc
    height, width, _ = pixels.shape
    if (height, width) != (header.height, header.width):
        raise ImageError(
            f"its source {path} has {width}x{height} pixels{_describe_change(geometry)}, "
            f"the record {header.width}x{header.height}"
        )
    return pixels


def measure_delta(record: Record, computed: Twins, model: ModelHandle) -> tuple[float, float]:
    """Largest |Δ| of what was encoded, stored as the record's is, and what of it exceeds a step.

    Over the latents and, where the record has them, those of the mirrored image. Without a
    quantiser the two are the same. Raises FormatError where they cannot be stored.
    """
    pairs = [(computed.upright.latents, record.latents)]
    if computed.flipped is not None and record.flipped is not None:
        pairs.append((computed.flipped.latents, record.flipped.latents))
    deltas = [_measure_latents(*pair, record.header.precision, model) for pair in pairs]
    return max(delta for delta, _ in deltas), max(excess for _, excess in deltas)


def _measure_latents(
    latents: Latents, held: Latents, precision: str, model: ModelHandle
) -> tuple[float, float]:
    channels, rows, columns = held.shape
    steps = model.choose_steps(precision)
    stored = join_planes(split_planes(latents, precision, steps), (channels, rows, columns))
    deltas = np.abs(stored - held).max(axis=(1, 2))  # [C]
    excess = deltas if steps is None else deltas - steps
    return float(deltas.max()), float(excess.max())


def describe_delta(deltas: tuple[float, float], max_delta: float | None) -> str | None:
    """What is wrong with what `measure_delta` gave, in one line; None where nothing is."""
    delta, excess = deltas
    measured = excess if max_delta is None else delta
    limit = DEFAULT_MAX_DELTA if max_delta is None else max_delta
    if measured <= limit:
        return None
    beyond = " and a step of the quantiser" if excess < delta and max_delta is None else ""
    return f"encoded anew, its latents differ by up to {delta:.3g}, more than {limit:g}{beyond}"


def _read_geometry(header: RecordHeader) -> Geometry:
    try:
        return read_geometry(header.image)
    except ImageError as exc:
        raise ImageError(f"cannot be encoded anew: {exc}") from exc


def _describe_change(geometry: Geometry) -> str:
    return f" after {geometry.text}" if geometry.changes_pixels else ""


def _read_background(header: RecordHeader) -> tuple[int, int, int]:
    match = _COMPOSITED.fullmatch(read_description(header.image).get("alpha", ""))
    if match is None:
        return WHITE
    red, green, blue = bytes.fromhex(match[1])
    return red, green, blue

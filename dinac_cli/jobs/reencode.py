"""Chooses which records to re-encode, and measures how much the new latents differ."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record
from dinac_cli.container.tensors import join_planes, split_planes
from dinac_cli.errors import DamagedImageError, DinacError, ImageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import Geometry, read_geometry
from dinac_cli.images.hdr import REFUSE, read_hdr
from dinac_cli.images.reading import WHITE, SourceImage, read_shaped
from dinac_cli.jobs.encode import Twins
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.held import read_background, read_damage_choice
from dinac_cli.jobs.model_choice import ModelFinder
from dinac_cli.jobs.results import drop_advice
from dinac_cli.storage.content import read_content

Latents = npt.NDArray[np.float32]

DEFAULT_MAX_DELTA = 0.25
"""The largest difference allowed. Whitened latents have a standard deviation of about 1.

Over 60 photographs, the latents of `nano` in float32 and in bfloat16 differed by 0.15 at most and
by 0.002 on average. Latents computed on two devices differ less than latents computed in two
dtypes. Latents of another picture differ by several units.
"""


@dataclass(frozen=True)
class Reencoding:
    """The share of records to re-encode (`percent`), the models, and the allowed difference.

    If `max_delta` is None, the limit is `DEFAULT_MAX_DELTA`. At the precisions q8 to q3, one
    quantiser step is added to this limit, because a latent between two steps may be rounded to
    either step.
    """

    percent: float
    models: ModelFinder
    max_delta: float | None = None


@dataclass(frozen=True)
class Candidate(RecordEntry):
    """A record, and whether it belongs to the sample."""

    is_sampled: bool = False


def choose_sample(entries: Iterable[RecordEntry], percent: float) -> Iterator[Candidate]:
    """Yields all records, and marks the records of the sample.

    The sample is the first readable record and about `percent` percent of the other records. The
    CRC of a record's name decides whether the record belongs to the sample. So the same names
    always give the same sample. At 0 percent, the sample is empty.
    """
    is_first = percent > 0
    for entry in entries:
        crc = zlib.crc32(entry.name.encode(errors="surrogateescape"))
        yield Candidate(**vars(entry), is_sampled=is_first or crc < 2**32 * percent / 100)
        is_first = is_first and entry.error is not None


def read_source(path: str, header: RecordHeader, hold: Callable[[int], None]) -> SourceImage:
    """Reads the image that a record was encoded from.

    The record's header gives the background, `hdr`, the geometry, and whether the source may be
    damaged. See `read_shaped` for `hold`. Raises ImageError if the source cannot be read, or if its
    size is not the size in the header; the message names the source. Also raises ImageError if the
    header's description is unknown.
    """
    geometry = _read_geometry(header)
    try:
        image = read_shaped(
            read_content(path).data,
            hold,
            background=read_background(header) or WHITE,
            max_pixels=max(MAX_PIXELS, header.height * header.width),
            geometry=geometry,
            hdr=read_hdr(header.image) or REFUSE,
            damaged=read_damage_choice(header),
        )
    except DamagedImageError as exc:
        found = drop_advice(str(exc))
        raise ImageError(
            f"its source {path}: {found}; restore the image, then encode it again", exc.details
        ) from exc
    except DinacError as exc:
        raise ImageError(f"its source {path}: {exc}", exc.details) from exc
    height, width, _ = image.pixels.shape
    if (height, width) != (header.height, header.width):
        raise ImageError(
            f"its source {path} has {width}x{height} pixels{_describe_change(geometry)}, "
            f"the record {header.width}x{header.height}; re-encode it"
        )
    return image


def measure_delta(record: Record, computed: Twins, model: ModelHandle) -> tuple[float, float]:
    """Returns the largest |Δ| of the latents, and the largest (|Δ| - quantiser step).

    Compares the latents at the record's precision. If the record holds a mirrored image, its
    latents are also compared. Without a quantiser, both values are equal. Raises FormatError if the
    latents cannot be stored.
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
    """Returns a finding in one line if the result of `measure_delta` is too large, or None."""
    delta, excess = deltas
    measured = excess if max_delta is None else delta
    limit = DEFAULT_MAX_DELTA if max_delta is None else max_delta
    if measured <= limit:
        return None
    beyond = " plus a step of the quantiser" if excess < delta and max_delta is None else ""
    return f"re-encoded, its latents differ by up to {delta:.3g}, more than {limit:g}{beyond}"


def _read_geometry(header: RecordHeader) -> Geometry:
    try:
        return read_geometry(header.image)
    except ImageError as exc:
        raise ImageError(f"cannot be re-encoded: {exc}") from exc


def _describe_change(geometry: Geometry) -> str:
    return f" after {geometry.text}" if geometry.changes_pixels else ""

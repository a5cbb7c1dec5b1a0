"""What an encode run would do, found out without doing any of it. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dinac_cli.container.record import read_header
from dinac_cli.errors import DinacError, ImageError, InputError, OutputError
from dinac_cli.images.geometry import Geometry
from dinac_cli.images.reading import measure_file
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.freshness import (
    Cause,
    State,
    Verdict,
    WantedLatents,
    check_latents,
    is_latent_file,
    list_latents,
)
from dinac_cli.jobs.request import Selection
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import ignores_case, name_latents
from dinac_cli.storage.output import Output, OutputKind

# Of nano on photographs; the README's table of precisions.
TYPICAL_BITS_PER_PIXEL = {
    "f32": 14.49,
    "bf16": 5.28,
    "q8": 3.01,
    "q7": 2.66,
    "q6": 2.41,
    "q5": 2.15,
    "q4": 1.79,
    "q3": 1.53,
}

# Of nano in bf16 on the same photographs; in f32 the log-SNR has more digits, and takes more.
POSTERIOR_BITS_PER_PIXEL = 4.53


class Fate(str, Enum):
    """What a run would make of one file."""

    NEW = "new"
    STALE = "stale"
    DAMAGED = "damaged"
    DONE = "done"
    CONFLICT = "conflict"  # what stands there is not to be replaced
    ORPHANED = "orphaned"  # a record whose source is not among the inputs
    FAILED = "failed"  # the input cannot be read


WORK = (Fate.NEW, Fate.STALE, Fate.DAMAGED)


@dataclass(frozen=True)
class PlannedFile:
    """One input, or one orphaned record, and why it has its fate (one line).

    `pixels` is the size of the image, None where it is unknown; `size_bytes` that of a record that
    is done or orphaned; `entry` the input, of a file to encode.
    """

    file: str
    fate: Fate
    output: str | None = None
    reason: str | None = None
    changed: str | None = None
    pixels: int | None = None
    size_bytes: int | None = None
    entry: Input | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object; fields that say nothing are left out."""
        facts = {
            "file": self.file,
            "state": self.fate.value,
            "output": self.output,
            "reason": self.reason,
            "changed": self.changed,
            "pixels": self.pixels,
            "bytes": self.size_bytes,
        }
        return {key: value for key, value in facts.items() if value is not None}


def plan_files(
    selection: Selection, output: Output, wanted: WantedLatents, options: EncodeOptions
) -> Iterator[PlannedFile]:
    """What an encode run would make of each input, and the orphaned records of a folder OUT.

    Reads only: no folder is made, no temporary removed. What concerns one file is its fate.
    """
    for entry in selection:
        try:
            yield _plan_file(entry, output, wanted, options)
        except OutputError as exc:
            yield PlannedFile(entry.label, Fate.CONFLICT, reason=str(exc))
        except DinacError as exc:
            yield PlannedFile(entry.label, Fate.FAILED, reason=str(exc))
        except OSError as exc:
            yield PlannedFile(entry.label, Fate.FAILED, reason=f"cannot read: {exc.strerror}")
    yield from _find_orphans(selection, output)


def _plan_file(
    entry: Input, output: Output, wanted: WantedLatents, options: EncodeOptions
) -> PlannedFile:
    if entry.problem:
        raise InputError(entry.problem)
    if output.kind is OutputKind.STREAM:
        pixels = _count_pixels(entry, options)
        return PlannedFile(entry.label, Fate.NEW, pixels=pixels, entry=entry)
    target = output.locate(name_latents(entry.name))
    if output.kind is OutputKind.FOLDER:
        output.require_inside(os.path.dirname(target) or ".")
    verdict = _judge(entry, target, output, wanted, options)
    if verdict.state is State.DONE:
        with open(target, "rb") as file:
            header = read_header(file)
        pixels = header.height * header.width
        size_bytes = os.path.getsize(target)
        return PlannedFile(entry.label, Fate.DONE, target, pixels=pixels, size_bytes=size_bytes)
    fate, reason, changed = Fate.NEW, verdict.reason, None
    if verdict.state is not State.ABSENT:
        fate = Fate.DAMAGED if verdict.cause is Cause.DAMAGE else Fate.STALE
    if fate is Fate.STALE and verdict.cause is not None:
        changed = verdict.cause.value
        reason = f"{reason} ({changed})"
    pixels = _count_pixels(entry, options)
    return PlannedFile(entry.label, fate, target, reason, changed, pixels, entry=entry)


def _judge(
    entry: Input, target: str, output: Output, wanted: WantedLatents, options: EncodeOptions
) -> Verdict:
    if not output.overwrite:
        return check_latents(target, entry.path, wanted, checksum=options.checksum)
    if os.path.lexists(target):
        return Verdict(State.STALE, "--overwrite makes it again")
    return Verdict(State.ABSENT)


def _count_pixels(entry: Input, options: EncodeOptions) -> int | None:
    """Pixels to encode, by the header; None for standard input and pipes, which are left unread."""
    if entry.path is None:
        return None
    if os.path.exists(entry.path) and not os.path.isfile(entry.path):
        return None
    try:
        size = measure_file(
            entry.path, max_pixels=options.max_pixels, upright=_tells_sides_apart(options.geometry)
        )
        width, height = options.geometry.measure(*size)
    except ImageError as exc:
        raise InputError(str(exc)) from exc
    return width * height


def _tells_sides_apart(geometry: Geometry) -> bool:
    """Whether an image that lies on its side may come out otherwise than an upright one."""
    return geometry.crop is not None and geometry.crop[0] != geometry.crop[1]


def _find_orphans(selection: Selection, output: Output) -> Iterator[PlannedFile]:
    """Records in OUT of no input; also not of those that a shard or limit leaves to other runs."""
    scan = selection.scan
    if output.kind is not OutputKind.FOLDER or not os.path.isdir(output.path):
        return
    if scan.listed is not None or not all(os.path.isdir(path) for path in scan.paths):
        return
    folds = ignores_case(output.path)
    # Hashes, not names, so that a long list takes little memory.
    expected = {hash(_fold(name_latents(entry.name), folds)) for entry in scan}
    for path in list_latents(output.path):
        name = os.path.relpath(path, output.path).replace(os.sep, "/")
        if hash(_fold(name, folds)) in expected or not is_latent_file(path):
            continue
        reason = "its source is not among the inputs"
        size_bytes = os.path.getsize(path)
        yield PlannedFile(path, Fate.ORPHANED, path, reason, size_bytes=size_bytes)


def _fold(name: str, folds: bool) -> str:
    return name.casefold() if folds else name


@dataclass
class FateCount:
    """Files of one fate, and what is known of their sizes."""

    files: int = 0
    pixels: int = 0
    size_bytes: int = 0
    unmeasured: int = 0


class Plan:
    """Counts over the files of a plan, and the estimate of what encoding them would write.

    `posterior` and a class token of `token_width` values (0: none) are stored beside the latents,
    and all of it once more `with_twins`.
    """

    def __init__(
        self,
        precision: str,
        *,
        posterior: bool = False,
        token_width: int = 0,
        with_twins: bool = False,
    ) -> None:
        copies = 2 if with_twins else 1
        typical = TYPICAL_BITS_PER_PIXEL[precision]
        self._typical = copies * (typical + (POSTERIOR_BITS_PER_PIXEL if posterior else 0))
        self._token_bytes = copies * 4 * token_width
        self.counts = {fate: FateCount() for fate in Fate}

    def add(self, file: PlannedFile) -> None:
        """Count one file."""
        count = self.counts[file.fate]
        count.files += 1
        count.pixels += file.pixels or 0
        count.size_bytes += file.size_bytes or 0
        count.unmeasured += file.fate in WORK and file.pixels is None

    @property
    def is_measured(self) -> bool:
        """True where the rate is that of records that are done, not the typical one."""
        return self.counts[Fate.DONE].pixels > 0

    @property
    def bits_per_pixel(self) -> float:
        """Of the records that are done, else what the precision typically takes."""
        done = self.counts[Fate.DONE]
        if not self.is_measured:
            return self._typical
        return 8 * done.size_bytes / done.pixels

    def estimate_bytes(self, fate: Fate) -> int:
        """Bytes of its records: as they are for done and orphaned, else as estimated."""
        count = self.counts[fate]
        if fate not in WORK:
            return count.size_bytes
        tokens = 0 if self.is_measured else self._token_bytes * count.files
        return tokens + round(count.pixels * self.bits_per_pixel / 8)

    @property
    def bytes_to_write(self) -> int:
        """Estimate of what the run would write."""
        return sum(map(self.estimate_bytes, WORK))

    @property
    def unmeasured(self) -> int:
        """Files to encode of unknown size, which the estimate leaves out."""
        return sum(self.counts[fate].unmeasured for fate in WORK)

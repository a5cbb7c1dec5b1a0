"""The result of each file, and the counts of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dinac_cli.errors import DinacError, FormatError, PruneError


class Status(str, Enum):
    """How the work on one file ended."""

    WRITTEN = "written"  # an output was written
    DONE = "done"  # a complete, current output already existed
    MEASURED = "measured"  # the file was compared with its counterpart
    VERIFIED = "verified"  # undamaged, and passed every check that was requested
    READ = "read"  # a record was read, and nothing was written
    RENAMED = "renamed"  # the source has a new name, and so has its output now; nothing was encoded
    PRUNED = "pruned"  # an output without a source was moved away; `output` is its new path
    SKIPPED = "skipped"  # not encoded, as the options request; `reason` says why
    MISSING = "missing"  # its counterpart does not exist
    FAILED = "failed"  # refused, or an error occurred; `reason` says why


class SourceState(str, Enum):
    """The state of the image that a record was encoded from."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    MISSING = "missing"
    UNKNOWN = "unknown"  # the record holds no hash of the image


@dataclass(frozen=True)
class FileResult:
    """The outcome of one input.

    `file` is the input as the user names it. `name` is the input's name relative to the input
    folder. If there is an output, `output` is its path. `reason` says in one line why the file
    failed, was skipped or was made again, or which output was renamed. `error` is the class of the
    error. `rejection` is the rule that a damaged record breaks. `details` are the details of the
    error. Sizes are in bytes and pixels. `is_decoded` is true if the image was skipped because
    dinac decoded it. `metrics` are the values of a measured pair, by name and in the order of the
    request; None if the metric does not take images of this size. `delta` is the largest
    difference between the stored and the re-encoded latents. `facts` are added to the JSON object
    of the result.

    A result may stand for `images` images, such as those of a shard; `pixels` is then their sum,
    and `parts` are the results of further images of the shard: those that failed or need a line.
    `upscaled` of the images were scaled up; in `unchecked` of them, damage would not have been
    found. Beside `captions` of the images lay files or columns that were left out. For `unmasked`
    of them, --masks has no file, or --mask finds that they are opaque. `lacking` are the extensions
    of --keep that an image has no file of. An image `has_alpha` if it has transparency, but
    --masks has no file for it. A part `is_redone` if its shard, whose result has the reason, was
    encoded again.
    """

    file: str
    status: Status
    output: str | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    source: SourceState | None = None
    delta: float | None = None
    facts: Mapping[str, Any] | None = None
    name: str = ""
    error: str | None = None
    rejection: str | None = None
    details: tuple[str, ...] = ()
    upscaled: int = 0
    unchecked: int = 0
    is_decoded: bool = False
    images: int = 1
    pixels: int | None = None
    parts: tuple[FileResult, ...] = ()
    captions: int = 0
    unmasked: int = 0
    lacking: tuple[str, ...] = ()
    has_alpha: bool = False
    is_redone: bool = False

    @classmethod
    def fail(
        cls, file: str, exc: DinacError, *, name: str = "", output: str | None = None
    ) -> FileResult:
        """Returns the result of an input that failed with `exc`."""
        rejection = exc.rejection.value if isinstance(exc, FormatError) else None
        return cls(
            file,
            Status.FAILED,
            output=output,
            reason=str(exc),
            name=name,
            error=type(exc).__name__,
            rejection=rejection,
            details=exc.details,
        )

    @property
    def psnr_db(self) -> float | None:
        """The PSNR of a measured pair, or None if it was not requested."""
        return self.metrics.get("psnr")

    @property
    def is_shard(self) -> bool:
        """True if the result stands for the images of a shard."""
        return self.pixels is not None

    @property
    def lack(self) -> str:
        """What the image lacks, such as ", no mask, without txt"; empty if it lacks nothing."""
        mask = ", no mask" if self.unmasked and not self.is_shard else ""
        return mask + (f", without {' and '.join(self.lacking)}" if self.lacking else "")

    @property
    def failed(self) -> bool:
        """True if the run's exit code must report a failure because of this file."""
        return self.status in (Status.FAILED, Status.MISSING)

    def to_json(self) -> dict[str, Any]:
        """Returns one flat JSON object without the empty fields."""
        entry: dict[str, Any] = {"file": self.file, "status": self.status.value}
        if self.name and self.facts is None:  # `facts` already hold the record's name
            entry["name"] = self.name
        entry |= {key: value for key in _SHOWN if (value := getattr(self, key))}
        if self.is_shard:
            entry |= {"images": self.images, "pixels": self.pixels}
        if self.source is not None:
            entry["source"] = self.source.value
        if self.delta is not None:
            entry["delta"] = self.delta
        if self.facts is not None:
            entry |= self.facts
        if self.details:
            entry["details"] = list(self.details)
        if self.unmasked:
            entry["unmasked"] = self.unmasked if self.is_shard else True
        if self.lacking:
            entry["lacking"] = list(self.lacking)
        if self.warnings:
            entry["warnings"] = list(self.warnings)
        return entry


_SHOWN = (
    "output",
    "reason",
    "error",
    "rejection",
    "width",
    "height",
    "upscaled",
    "bytes_in",
    "bytes_out",
)
_WORKED = (Status.WRITTEN, Status.MEASURED, Status.VERIFIED, Status.READ)


def drop_advice(reason: str) -> str:
    """Returns a message without the part after its first semicolon, which says what to do."""
    return reason.partition("; ")[0]


@dataclass
class Tally:
    """Totals of all files of a run. They need the same memory for any number of files.

    `known` is the number of failures that an earlier run already reported. `prune_refused`
    says why the run pruned nothing, or is None; that is a failure of no file.
    """

    counts: Counter[Status] = field(default_factory=Counter)
    redone: int = 0
    pixels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    not_inputs: int = 0
    unknown_sources: int = 0
    reencoded: int = 0
    max_delta: float = 0.0
    unchecked: int = 0
    known: int = 0
    prune_refused: str | None = None
    decoded: int = 0

    def add(self, result: FileResult) -> None:
        """Counts one result.

        Adds the pixels if this run worked on the file, and the bytes if this run wrote the output.
        """
        if result.error == PruneError.__name__:
            self.prune_refused = result.reason
            return
        self.counts[result.status] += result.images
        self.unchecked += result.unchecked
        self.decoded += result.is_decoded
        self.unknown_sources += result.source is SourceState.UNKNOWN
        if result.delta is not None:
            self.reencoded += 1
            self.max_delta = max(self.max_delta, result.delta)
        if result.status in _WORKED:
            self.pixels += result.width * result.height if result.pixels is None else result.pixels
        if result.status is Status.WRITTEN:
            if result.is_redone or result.reason is not None:
                self.redone += result.images
            self.bytes_in += result.bytes_in
            self.bytes_out += result.bytes_out

    @property
    def finished(self) -> int:
        """The number of inputs that have a result."""
        return sum(self.counts.values()) - self.counts[Status.PRUNED]

    @property
    def written(self) -> int:
        """The number of outputs that this run wrote."""
        return self.counts[Status.WRITTEN]

    @property
    def worked(self) -> int:
        """The number of files that this run wrote, measured, verified or read."""
        return sum(self.counts[status] for status in _WORKED)

    @property
    def failures(self) -> int:
        """The number of files that failed or have no counterpart."""
        return self.counts[Status.FAILED] + self.counts[Status.MISSING]

    @property
    def new_failures(self) -> int:
        """The number of failures for which the exit code is 3, with a refusal to prune."""
        return self.failures + (self.prune_refused is not None) - self.known

    def to_json(self) -> dict[str, Any]:
        """Returns the summary object that ends a `--json` run."""
        return {
            "summary": True,
            "written": self.written,
            "redone": self.redone,
            "done": self.counts[Status.DONE],
            "failed": self.failures,
            "not_inputs": self.not_inputs,
            "pixels": self.pixels,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }

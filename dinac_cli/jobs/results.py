"""The result of each file of a run, and the tally of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dinac_cli.errors import DinacError, FormatError


class Status(str, Enum):
    """How the work on one file ended."""

    WRITTEN = "written"  # an output was written
    DONE = "done"  # a complete, current output already existed
    MEASURED = "measured"  # compared with its counterpart
    VERIFIED = "verified"  # undamaged, and passed every check that was requested
    READ = "read"  # a record that was read, without an output
    MISSING = "missing"  # its counterpart does not exist
    FAILED = "failed"  # refused or not possible; `reason` says why


class SourceState(str, Enum):
    """The state of the image that a record was encoded from."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    MISSING = "missing"
    UNKNOWN = "unknown"  # the record holds no hash of it


@dataclass(frozen=True)
class FileResult:
    """The outcome of one input.

    `file` is the input as the user would name it, `name` its name relative to the folder that it
    was found in, `output` the path written (None if there is none), `reason` one line for a failure
    or a redone file. `error` is the class of a failure's error, `rejection` the broken rule of a
    damaged record. Sizes are in bytes and pixels. `delta` is the largest difference of re-encoded
    latents. `facts` are further keys for JSON.
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
    psnr_db: float | None = None
    source: SourceState | None = None
    delta: float | None = None
    facts: Mapping[str, Any] | None = None
    name: str = ""
    error: str | None = None
    rejection: str | None = None

    @classmethod
    def fail(
        cls, file: str, exc: DinacError, *, name: str = "", output: str | None = None
    ) -> FileResult:
        """Returns the result of an input that failed with `exc`, whose code it keeps."""
        rejection = exc.rejection.value if isinstance(exc, FormatError) else None
        return cls(
            file,
            Status.FAILED,
            output=output,
            reason=str(exc),
            name=name,
            error=type(exc).__name__,
            rejection=rejection,
        )

    @property
    def failed(self) -> bool:
        """True if the run's exit code must report this file."""
        return self.status in (Status.FAILED, Status.MISSING)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as one flat JSON object without its empty fields."""
        entry: dict[str, Any] = {"file": self.file, "status": self.status.value}
        if self.name and self.facts is None:  # facts have a name of their own: the record's
            entry["name"] = self.name
        entry |= {key: value for key in _SHOWN if (value := getattr(self, key))}
        if self.source is not None:
            entry["source"] = self.source.value
        if self.delta is not None:
            entry["delta"] = self.delta
        if self.facts is not None:
            entry |= self.facts
        if self.warnings:
            entry["warnings"] = list(self.warnings)
        return entry


_SHOWN = ("output", "reason", "error", "rejection", "width", "height", "bytes_in", "bytes_out")
_WORKED = (Status.WRITTEN, Status.MEASURED, Status.VERIFIED, Status.READ)


@dataclass
class Tally:
    """Counts over a run; its size does not depend on the number of files."""

    counts: Counter[Status] = field(default_factory=Counter)
    redone: int = 0
    pixels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    not_inputs: int = 0
    unknown_sources: int = 0
    reencoded: int = 0
    max_delta: float = 0.0

    def add(self, result: FileResult) -> None:
        """Counts one result; pixels and bytes only if this run worked on the file."""
        self.counts[result.status] += 1
        self.unknown_sources += result.source is SourceState.UNKNOWN
        if result.delta is not None:
            self.reencoded += 1
            self.max_delta = max(self.max_delta, result.delta)
        if result.status in _WORKED:
            self.pixels += result.width * result.height
        if result.status is Status.WRITTEN:
            self.redone += result.reason is not None
            self.bytes_in += result.bytes_in
            self.bytes_out += result.bytes_out

    @property
    def finished(self) -> int:
        """Files that have an outcome."""
        return sum(self.counts.values())

    @property
    def written(self) -> int:
        """Outputs that this run wrote."""
        return self.counts[Status.WRITTEN]

    @property
    def worked(self) -> int:
        """Files that this run worked on: wrote an output, measured, verified or read."""
        return sum(self.counts[status] for status in _WORKED)

    @property
    def failures(self) -> int:
        """Files that failed or lack their counterpart."""
        return self.counts[Status.FAILED] + self.counts[Status.MISSING]

    def to_json(self) -> dict[str, Any]:
        """Returns the tally as the summary object that ends a `--json` run."""
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

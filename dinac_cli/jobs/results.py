"""What became of each file of a run, and the running tally of a whole one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How one file ended."""

    WRITTEN = "written"  # an output was made
    DONE = "done"  # an output that is whole and current was there already
    MEASURED = "measured"  # compared with its counterpart
    VERIFIED = "verified"  # whole, and all that was asked of it
    READ = "read"  # a record that was only looked into
    MISSING = "missing"  # its counterpart is not there
    FAILED = "failed"  # refused or not possible; `reason` says why


class SourceState(str, Enum):
    """What became of the image that a record was made of."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    MISSING = "missing"
    UNKNOWN = "unknown"  # the record holds no hash of it


@dataclass(frozen=True)
class FileResult:
    """One input's outcome.

    `file` is the input as the user would name it, `output` where its result went (None where
    there is none), `reason` one line for a failure or a redone file. Sizes are in bytes and pixels.
    `delta` is the largest difference of latents that were encoded anew, `facts` what else there is
    to say in JSON.
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

    @property
    def failed(self) -> bool:
        """True where the run's exit code must say so."""
        return self.status in (Status.FAILED, Status.MISSING)

    def to_json(self) -> dict[str, Any]:
        """The result as one flat JSON object; fields that say nothing are left out."""
        entry: dict[str, Any] = {"file": self.file, "status": self.status.value}
        for key in ("output", "reason", "width", "height", "bytes_in", "bytes_out"):
            value = getattr(self, key)
            if value:
                entry[key] = value
        if self.source is not None:
            entry["source"] = self.source.value
        if self.delta is not None:
            entry["delta"] = self.delta
        if self.facts is not None:
            entry |= self.facts
        if self.warnings:
            entry["warnings"] = list(self.warnings)
        return entry


_WORKED = (Status.WRITTEN, Status.MEASURED, Status.VERIFIED, Status.READ)


@dataclass
class Tally:
    """Counts over a run; grows with nothing but numbers."""

    counts: Counter[Status] = field(default_factory=Counter)
    redone: int = 0
    warned: int = 0
    pixels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    not_inputs: int = 0
    unknown_sources: int = 0
    encoded_anew: int = 0
    max_delta: float = 0.0

    def add(self, result: FileResult) -> None:
        """Count one result; pixels and bytes only of what this run worked on."""
        self.counts[result.status] += 1
        self.warned += len(result.warnings)
        self.unknown_sources += result.source is SourceState.UNKNOWN
        if result.delta is not None:
            self.encoded_anew += 1
            self.max_delta = max(self.max_delta, result.delta)
        if result.status in _WORKED:
            self.pixels += result.width * result.height
        if result.status is Status.WRITTEN:
            self.redone += result.reason is not None
            self.bytes_in += result.bytes_in
            self.bytes_out += result.bytes_out

    @property
    def finished(self) -> int:
        """How many files have an outcome."""
        return sum(self.counts.values())

    @property
    def written(self) -> int:
        """How many outputs this run made."""
        return self.counts[Status.WRITTEN]

    @property
    def worked(self) -> int:
        """How many files this run did something for: made an output, measured, verified."""
        return sum(self.counts[status] for status in _WORKED)

    @property
    def failures(self) -> int:
        """How many files failed or lack their counterpart."""
        return self.counts[Status.FAILED] + self.counts[Status.MISSING]

    def to_json(self) -> dict[str, Any]:
        """The tally as the summary object that ends a `--json` run."""
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

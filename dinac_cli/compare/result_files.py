"""What a comparison has measured: one file of JSON lines per variant, which a later run resumes.

The first line describes the variant. Every other line holds the figures of one image, and is
appended when they are known. If a run is killed, at most the last line is incomplete; it is
skipped. The last line of an image counts.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from dinac_cli.compare.variants import Variant
from dinac_cli.errors import OutputError
from dinac_cli.storage.atomic import describe_write_error, start_file

# sha256 of the source, of the record; size, mtime, ctime of the source; bytes, height, width;
# PSNR, SSIM, MS-SSIM. Packed, because there may be a million images.
_PACKED = struct.Struct("<32s32s6q3d")
_LARGEST_SHARE = 1.001  # SSIM and MS-SSIM are at most 1, but for rounding


@dataclass(frozen=True)
class SourceStat:
    """The size and the times of a source, which tell quickly that it has not changed."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> SourceStat:
        """Returns those of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The figures of one image in one variant.

    `source_sha256` is the hash of the image file, and `source` its state when it was read.
    `record_sha256` is the hash of the record, `record_bytes` its size. `psnr_db` may be infinite.
    `ssim` and `ms_ssim` are None if the image is too small for them.
    """

    source_sha256: str
    source: SourceStat
    record_sha256: str
    record_bytes: int
    height: int
    width: int
    psnr_db: float
    ssim: float | None
    ms_ssim: float | None

    @property
    def pixels(self) -> int:
        """The number of pixels of the image as it was encoded."""
        return self.height * self.width

    @property
    def is_plausible(self) -> bool:
        """False if an image cannot have these figures, because somebody edited them."""
        shares = [share for share in (self.ssim, self.ms_ssim) if share is not None]
        return (
            min(self.record_bytes, self.height, self.width) > 0
            and self.psnr_db >= 0
            and all(abs(share) <= _LARGEST_SHARE for share in shares)
        )

    def to_json(self, name: str) -> dict[str, Any]:
        """Returns the line of an image."""
        return {
            "name": name,
            "source_bytes": self.source.size_bytes,
            "source_mtime_ns": self.source.mtime_ns,
            "source_ctime_ns": self.source.ctime_ns,
            "source_sha256": self.source_sha256,
            "record_bytes": self.record_bytes,
            "record_sha256": self.record_sha256,
            "height": self.height,
            "width": self.width,
            "psnr_db": self.psnr_db if math.isfinite(self.psnr_db) else None,
            "ssim": self.ssim,
            "ms_ssim": self.ms_ssim,
        }

    def pack(self) -> bytes:
        """Returns the figures as bytes."""
        return _PACKED.pack(
            bytes.fromhex(self.source_sha256),
            bytes.fromhex(self.record_sha256),
            self.source.size_bytes,
            self.source.mtime_ns,
            self.source.ctime_ns,
            self.record_bytes,
            self.height,
            self.width,
            self.psnr_db,
            math.nan if self.ssim is None else self.ssim,
            math.nan if self.ms_ssim is None else self.ms_ssim,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Measure:
        """Returns what `pack` has packed."""
        source, record, size, mtime, ctime, record_bytes, height, width, *figures = _PACKED.unpack(
            data
        )
        psnr_db, ssim, ms_ssim = figures
        return cls(
            source_sha256=source.hex(),
            source=SourceStat(size, mtime, ctime),
            record_sha256=record.hex(),
            record_bytes=record_bytes,
            height=height,
            width=width,
            psnr_db=psnr_db,
            ssim=None if math.isnan(ssim) else ssim,
            ms_ssim=None if math.isnan(ms_ssim) else ms_ssim,
        )


class ResultFile:
    """The results of one variant, in memory and in a file of OUT. Several threads may use it."""

    def __init__(self, path: str, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        """`facts` describe the variant. Reads the file, unless `overwrite` is set.

        Raises OutputError.
        """
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block forever
            raise OutputError(f"{path}: not a regular file; remove it")
        self.path = path
        self._facts = dict(facts)
        self._measures: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        lines = 0
        for name, measure in () if overwrite else _read_results(path, facts):
            self._measures[sys.intern(name)] = measure.pack()
            lines += 1
        if lines != len(self._measures) or not _is_whole(path, facts, lines):
            self._rewrite()

    def find(self, name: str) -> Measure | None:
        """Returns the figures of the image called `name`, as it was when it was measured."""
        packed = self._measures.get(name)
        return None if packed is None else Measure.unpack(packed)

    def add(self, name: str, measure: Measure) -> None:
        """Adds the figures of an image, and appends them to the file. Raises OutputError."""
        line = _write_line(measure.to_json(name))
        with self._lock:
            try:
                if self._file is None:
                    self._file = open(self.path, "ab")  # noqa: SIM115 (`close` closes it)
                self._file.write(line)
                self._file.flush()
            except OSError as exc:
                raise describe_write_error(exc, self.path) from exc
            self._measures[sys.intern(name)] = measure.pack()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self) -> None:
        """Writes the whole file, with one line per image."""
        with start_file(self.path, self.path) as rewrite:
            rewrite.write(_write_line(self._facts))
            for name, packed in self._measures.items():
                rewrite.write(_write_line(Measure.unpack(packed).to_json(name)))
            rewrite.publish()


def open_result_file(
    folder: str, variant: Variant, facts: Mapping[str, Any], *, overwrite: bool
) -> ResultFile:
    """Opens the results of a variant in a folder, which exists. Raises OutputError."""
    return ResultFile(os.path.join(folder, f"{variant.slug}.jsonl"), facts, overwrite=overwrite)


def _write_line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def _is_whole(path: str, facts: Mapping[str, Any], lines: int) -> bool:
    """True if a file has a first line with these facts, `lines` further lines, and no rest."""
    try:
        with open(path, "rb") as file:
            first = last = file.readline()
            count = 0
            for line in file:
                last, count = line, count + 1
    except OSError:
        return False
    return first == _write_line(facts) and count == lines and last.endswith(b"\n")


def _read_results(path: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, Measure]]:
    """Yields the name and the figures of each image. Skips damaged lines.

    Yields nothing if the file belongs to another variant.
    """
    try:
        with open(path, "rb") as file:
            if _parse_line(file.readline()).get("digest") != facts["digest"]:
                return
            for line in file:
                if (found := _parse_result(line)) is not None:
                    yield found
    except OSError:
        return


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _parse_result(line: bytes) -> tuple[str, Measure] | None:
    entry = _parse_line(line)
    try:
        measure = Measure(
            source_sha256=str(entry["source_sha256"]),
            source=SourceStat(
                entry["source_bytes"], entry["source_mtime_ns"], entry["source_ctime_ns"]
            ),
            record_sha256=str(entry["record_sha256"]),
            record_bytes=entry["record_bytes"],
            height=entry["height"],
            width=entry["width"],
            psnr_db=math.inf if entry["psnr_db"] is None else entry["psnr_db"],
            ssim=entry["ssim"],
            ms_ssim=entry["ms_ssim"],
        )
        is_valid = Measure.unpack(measure.pack()) == measure and measure.is_plausible
    except (KeyError, ValueError, TypeError, struct.error):
        return None
    return (str(entry["name"]), measure) if is_valid else None

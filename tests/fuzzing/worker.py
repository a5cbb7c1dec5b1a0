"""One worker process of a fuzzing run: makes mutants, reads them and reports the outcomes.

`python -m tests.fuzzing.worker KIND SEED START STOP STATE` writes its report as JSON to stdout.
The file STATE holds the number and the bytes of the current mutant, in case this process dies.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import PIL

import dinac_cli
from tests.fuzzing import archives, images, indexes, records, shard_facts
from tests.fuzzing.coverage import Coverage

SECONDS_AT_MOST = 2.0
SPARE_BYTES = 256 << 20
_CORPUS_AT_MOST = 2000
_PACKAGE = str(Path(dinac_cli.__file__).parent)


@dataclass(frozen=True)
class Target:
    """A reader to fuzz: valid inputs, how to damage and read one, and what it may allocate."""

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, bytes, bytes], tuple[bytes, bool]]
    check: Callable[[bytes], str]
    declared_bytes: Callable[[bytes], int]
    folders: tuple[str, ...]


TARGETS = {
    "records": Target(
        records.list_seeds,
        records.mutate_record,
        records.check_record,
        # the content, and float32 latents: 8 times as many bytes as packed symbols
        lambda data: 9 * records.count_declared_bytes(data),
        (os.path.join(_PACKAGE, "container"),),
    ),
    "images": Target(
        images.list_seeds,
        images.mutate_image,
        images.check_image,
        lambda data: 12 * images.MAX_PIXELS,
        (os.path.join(_PACKAGE, "images"), str(Path(PIL.__file__).parent)),
    ),
    "indexes": Target(
        indexes.list_seeds,
        indexes.mutate_index,
        indexes.check_index,
        lambda data: 100 * len(data),  # JSON that is nested or full of short values
        (os.path.join(_PACKAGE, "storage"), os.path.join(_PACKAGE, "container")),
    ),
    "facts": Target(
        shard_facts.list_seeds,
        shard_facts.mutate_facts,
        shard_facts.check_facts,
        lambda data: 100 * len(data),
        (os.path.join(_PACKAGE, "jobs", "shards"), os.path.join(_PACKAGE, "storage", "markers")),
    ),
    "tars": Target(
        archives.list_tars,
        archives.mutate_tar,
        archives.check_tar,
        lambda data: 0,  # a tar of any declared size is read in small pieces
        (os.path.join(_PACKAGE, "storage", "tars.py"),),
    ),
    "parquet": Target(
        archives.list_parquet_files,
        archives.mutate_parquet,
        archives.check_parquet,
        lambda data: 0,
        (os.path.join(_PACKAGE, "storage", "parquet"), os.path.join(_PACKAGE, "storage", "thrift")),
    ),
}


@dataclass
class Report:
    """The outcomes of a run. `findings` are (number of the mutant, problem, its bytes in hex)."""

    mutants: int = 0
    reframed: int = 0
    kept: int = 0
    arcs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    peak_bytes: int = 0
    findings: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Adds another worker's report."""
        for key in ("mutants", "reframed", "kept"):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.outcomes.update(other.outcomes)
        self.arcs = max(self.arcs, other.arcs)
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.findings += other.findings


def fuzz(kind: str, seed: int, start: int, stop: int, state: Path) -> Report:
    """Makes and reads mutants `start` to `stop` of a run; equal arguments give equal mutants."""
    target, report = TARGETS[kind], Report()
    rng = random.Random(f"{kind} {seed} {start}")
    seeds, corpus = target.seeds(), list[bytes]()
    coverage = Coverage(target.folders)
    for seed_data in seeds:
        with coverage.watch():
            outcome = target.check(seed_data)
        assert outcome == "accepted", (outcome, seed_data[:32])
        coverage.take_new()
    for number in range(start, stop):
        pool = corpus if corpus and rng.random() < 0.5 else seeds
        data, reframed = target.mutate(rng, rng.choice(pool), rng.choice(seeds))
        state.write_bytes(number.to_bytes(8, "little") + data)
        report.mutants += 1
        report.reframed += reframed
        outcome, problem = _try(target, data, coverage, report)
        report.outcomes[outcome] += 1
        if problem:
            report.findings.append((number, problem, data.hex()))
        if coverage.take_new() and len(corpus) < _CORPUS_AT_MOST:
            corpus.append(data)
    report.kept, report.arcs = len(corpus), coverage.arcs
    return report


def _try(target: Target, data: bytes, coverage: Coverage, report: Report) -> tuple[str, str | None]:
    """Reads one mutant with coverage; returns the outcome, and the problem if it is a finding."""
    held = _reset_peak()
    start = time.process_time()  # other processes do not count
    try:
        with coverage.watch():
            outcome, problem = target.check(data), None
    except Exception as exc:  # every unexpected exception is a finding
        outcome, problem = type(exc).__name__, traceback.format_exc(limit=-3)
    seconds = time.process_time() - start
    grown = _read_status("VmHWM") - held
    report.slowest_seconds = max(report.slowest_seconds, seconds)
    report.peak_bytes = max(report.peak_bytes, grown)
    if seconds > SECONDS_AT_MOST:
        problem = f"took {seconds:.1f} s"
    if grown > target.declared_bytes(data) + SPARE_BYTES:
        problem = f"took {grown / 2**20:.0f} MiB"
    return outcome, problem


def _reset_peak() -> int:
    """Resets the peak of resident memory; returns the resident bytes (0 if not on Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _read_status("VmRSS")


def _read_status(key: str) -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    kind, seed, start, stop, state = sys.argv[1:]
    print(json.dumps(vars(fuzz(kind, int(seed), int(start), int(stop), Path(state)))))

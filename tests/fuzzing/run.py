"""A fuzzing run in a series of worker processes: if one dies, the run notices and continues."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzzing.worker import Report

MUTANTS_PER_PROCESS = 5000
_SECONDS_PER_PROCESS = 600.0
_SHOWN = 20


@dataclass(frozen=True)
class Figures:
    """The figures of a run as lines of text."""

    kind: str
    report: Report

    def describe(self) -> Iterator[str]:
        """Yields counts, the largest time and memory, outcomes, and findings."""
        report = self.report
        yield (
            f"{self.kind}: {report.mutants} mutants, {report.reframed} of them with valid "
            f"checksums; {report.kept} reached new code and were mutated further; "
            f"slowest {report.slowest_seconds:.2f} s, "
            f"peak memory {report.peak_bytes / 2**20:.0f} MiB; {len(report.findings)} findings"
        )
        yield "  " + ", ".join(f"{count} {name}" for name, count in report.outcomes.most_common())
        for number, problem, _ in report.findings[:_SHOWN]:
            yield f"  mutant {number}: {problem}"


def run_target(kind: str, count: int, seed: int, findings: Path | None) -> Report:
    """Reads `count` mutants in worker processes; writes findings to the folder `findings`."""
    total = Report()
    with tempfile.TemporaryDirectory(prefix="dinac-fuzz-") as place:
        start = 0
        while start < count:
            stop = min(count, start + MUTANTS_PER_PROCESS)
            report = _run_worker(kind, seed, start, stop, Path(place) / "state")
            total.add(report)
            start += max(1, report.mutants)
    for number, _, data in total.findings:
        if findings is not None:
            findings.mkdir(exist_ok=True)
            (findings / f"{kind}-{seed}-{number}").write_bytes(bytes.fromhex(data))
    return total


def _run_worker(kind: str, seed: int, start: int, stop: int, state: Path) -> Report:
    """Returns one worker's report; if it dies or hangs, its current mutant is a finding."""
    line = [sys.executable, "-m", "tests.fuzzing.worker", kind, str(seed), str(start), str(stop)]
    root = Path(__file__).parent.parent.parent
    try:
        done = subprocess.run(
            [*line, str(state)],
            stdout=subprocess.PIPE,
            cwd=root,
            timeout=_SECONDS_PER_PROCESS,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return _blame(state, start, "hangs")
    if done.returncode and not state.exists():
        raise RuntimeError("the worker ended before its first mutant")
    if done.returncode:
        return _blame(state, start, f"ended the process with {done.returncode}")
    values = json.loads(done.stdout)
    values["outcomes"] = Counter(values["outcomes"])
    values["findings"] = [tuple(finding) for finding in values["findings"]]
    return Report(**values)


def _blame(state: Path, start: int, problem: str) -> Report:
    content = state.read_bytes()
    number = int.from_bytes(content[:8], "little")
    finding = (number, problem, content[8:].hex())
    return Report(mutants=number - start + 1, findings=[finding])

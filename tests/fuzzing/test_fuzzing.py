"""A short fuzzing run, and tests that fuzzing finds planted faults.

The long run is `python -m tests.fuzzing`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import list_files
from tests.cli.processes import run
from tests.fuzzing import records, worker
from tests.fuzzing.run import Figures, run_target
from tests.fuzzing.worker import TARGETS, fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(
    ("kind", "count", "kept"),
    [
        ("records", 1200, 20),
        ("images", 500, 20),
        ("indexes", 800, 10),
        ("facts", 600, 10),
        ("tars", 2500, 20),
        ("parquet", 600, 20),
    ],
)
def test_short_run_has_no_findings(kind: str, count: int, kept: int) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    report = run_target(kind, count, seed=1, findings=None)
    assert report.findings == [], "\n".join(Figures(kind, report).describe())
    assert report.mutants == count
    assert report.kept > kept
    assert report.outcomes["accepted"] > 0
    assert kind == "images" or report.reframed >= count / 2


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Fuzzes a record reader that runs `fault` on the tenth mutant; returns the findings."""

    def run_with(fault):  # type: ignore[no-untyped-def]
        calls = 0

        def check(data: bytes) -> str:
            nonlocal calls
            calls += data not in seeds
            return fault() if calls == 10 else "accepted"

        seeds = records.list_seeds()
        monkeypatch.setitem(TARGETS, "records", replace(TARGETS["records"], check=check))
        return fuzz("records", 0, 0, 20, tmp_path / "state").findings

    return run_with


def test_unexpected_exception_is_a_finding(plant) -> None:  # type: ignore[no-untyped-def]
    [(_, problem, data)] = plant(lambda: 1 // 0)
    assert "ZeroDivisionError" in problem
    assert len(bytes.fromhex(data)) > 0


def test_slow_mutant_is_a_finding(plant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(worker, "SECONDS_AT_MOST", 0.2)

    def compute() -> str:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        return "accepted"

    [(_, problem, _)] = plant(compute)
    assert problem.startswith("took 0.")


def test_mutant_that_takes_much_memory_is_a_finding(plant, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(worker, "SPARE_BYTES", 32 << 20)
    [(_, problem, _)] = plant(lambda: str(len(bytearray(b"x") * (200 << 20))))
    assert problem.endswith(" MiB")


def test_dead_worker_is_a_finding_and_the_run_continues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killer = tmp_path / "sitecustomize.py"
    killer.write_text(
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('state') and 'w' in arguments[1]:\n"
        "        watch.calls += 1\n"
        "        if watch.calls == 5: os._exit(9)\n"
        "watch.calls = 0\n"
        "if 'tests.fuzzing.worker' in sys.orig_argv: sys.addaudithook(watch)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = run_target("records", 7, seed=0, findings=tmp_path / "found")
    [(number, problem, data)] = report.findings
    assert problem == "ended the process with 9"
    assert report.mutants == 7  # a second worker read the mutants after it
    assert (tmp_path / f"found/records-0-{number}").read_bytes() == bytes.fromhex(data)


def test_decode_reports_mutants_and_writes_only_below_out(tmp_path: Path) -> None:
    """Decodes mutants as files and as a stream, in whole processes."""
    import random

    rng = random.Random(0)
    seeds = records.list_seeds()
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        mutant, _ = records.mutate_record(rng, rng.choice(seeds), rng.choice(seeds))
        (folder / f"{number:03}.dinac").write_bytes(mutant)
    stream = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    before = set(list_files(tmp_path))
    for arguments, stdin in (((folder,), b""), (("-",), stream)):
        done = run("decode", *arguments, tmp_path / "out", "--model", "nano", stdin=stdin)
        assert done.code == 3
        assert "Traceback" not in done.err
        assert all(line.startswith("dinac: ") for line in done.err.splitlines())
    after = set(list_files(tmp_path)) - before
    assert all(name.startswith("out/") for name in after)

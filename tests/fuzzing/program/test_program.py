"""A short run of mutants through the program, and tests that it finds planted faults.

The long run is `python -m tests.fuzzing.program --mutants 10000`.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from dinac_cli.container.record import unpack_record
from tests.cli.conftest import make_png
from tests.cli.processes import get_client

from .run import Program, Report, Trial, compare, run_mutants, run_task
from .tasks import TASKS, must_succeed

ENCODE, _, STREAM = TASKS
FAULT = b"this file meets a planted fault"

# Python imports this module at the start of a worker process. `{fault}` happens when the worker
# reads a file that holds FAULT.
SITE = f"""
import os
from dinac_cli.jobs import encode

read = encode.read_shaped

def read_or_fail(data, *arguments, **options):
    if {FAULT!r} in data:
        {{fault}}
    return read(data, *arguments, **options)

encode.read_shaped = read_or_fail
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks, to be fast")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_short_run_has_no_findings(task) -> None:  # type: ignore[no-untyped-def]
    report = run_task(task, 100, seed=1, findings=None, program=Program(get_client()))
    assert report.findings == [], "\n".join(report.describe())
    assert (report.mutants, report.runs) == (100, 2)
    assert report.outcomes["written"] > 5
    assert sum(report.outcomes.values()) >= 100


@pytest.mark.parametrize(
    ("fault", "name", "problem"),
    [
        (
            "os.abort()",
            "3.png",
            r"--processes 2: killed the worker process \(SIGABRT\); leave it out",
        ),
        ("1 / 0", "run", r"--processes 2: ended with 1: [^$]*ZeroDivisionError[^$]*"),
        (
            "open('../in/new', 'w').close()",
            "run",
            r"--processes 2: changed files outside .*in/new.*",
        ),
        ("data = data[:60]", "3.png", r"the runs differ: .*(written|truncated).*"),
    ],
)
def test_a_fault_of_workers_is_a_finding(
    fault: str, name: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE.format(fault=fault))
    report = Report("encode")
    mutants = {f"{n}.png": make_png(16, 16, n) + FAULT * (n == 3) for n in range(8)}
    program = Program(get_client(), {"PYTHONPATH": str(tmp_path)})
    run_mutants(ENCODE, mutants, (), report, program)
    assert report.findings
    for found, text, data in report.findings:
        assert found == name
        assert re.fullmatch(problem, text), text
        assert data == mutants.get(name, b"".join(mutants.values()))


def test_other_bytes_are_a_difference() -> None:
    assert list(compare(Trial(outputs={"a": b"1"}), Trial(outputs={"a": b"2"}))) == [
        ("", "the bytes of a")
    ]


def test_a_stream_holds_undamaged_records_after_each_mutant() -> None:
    mutants = STREAM.draw_mutants(random.Random(0), 0, 20)
    names = list(mutants)
    assert [must_succeed(name) for name in names] == [False, False, True] * 20
    for name in names[1:3]:
        assert unpack_record(mutants[name]).header.name == name

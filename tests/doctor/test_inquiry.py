"""The other process may crash, hang, leave or fail: each costs one step."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.doctor import inquiry, probe
from dinac_cli.doctor.inquiry import Answer, inquire
from dinac_cli.errors import DeviceError

from .canned import CRASH, HANG, KILL, LEAVE, replace_probe

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

LONG = 600.0


def ask(
    monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any], seconds: float = LONG
) -> list[Answer]:
    replace_probe(monkeypatch, plan)
    found = list(inquire(list(plan), "cpu", seconds))
    names = [one for one in found if isinstance(one, str)]
    answers = [one for one in found if isinstance(one, Answer)]
    assert set(names) <= {one.step for one in answers} == set(plan)
    return answers


def test_facts_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, {"a": {"x": 1}, "b": "ImportError: y; install it", "c": None, "d": {}})
    assert found == [
        Answer("a", {"x": 1}),
        Answer("b", problem="ImportError: y", remedy="install it"),
        Answer("c"),
        Answer("d", {}),
    ]


def test_a_crash_costs_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    first, crashed, last = ask(monkeypatch, {"a": {"x": 1}, "b": CRASH, "c": {"x": 2}})
    assert (first, last) == (Answer("a", {"x": 1}), Answer("c", {"x": 2}))
    assert crashed.problem == "the process crashed (SIGILL)"
    assert crashed.details == ("Fatal error in a kernel",)
    assert not crashed.is_late


def test_every_step_may_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, {"a": CRASH, "b": CRASH})
    assert [one.step for one in found] == ["a", "b"]


def test_a_process_that_the_system_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    (killed,) = ask(monkeypatch, {"a": KILL})
    assert killed.problem == "the system killed the process (SIGKILL); perhaps memory ran out"


def test_a_process_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    left, last = ask(monkeypatch, {"a": LEAVE, "b": {}})
    assert left.problem == "the process ended with exit code 7"
    assert last.facts == {}


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    (hung,) = ask(monkeypatch, {"a": HANG}, seconds=1.5)
    assert hung.is_late
    assert hung.problem == "no answer within 1.5 s"


def test_nothing_is_left_if_the_caller_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = subprocess.Popen
    replace_probe(monkeypatch, {"a": {}, "b": HANG})

    def note(*args: Any, **options: Any) -> Any:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    answers = inquire(["a", "b"], "cpu", LONG)
    assert next(answers) == "a"
    assert next(answers) == Answer("a", {})
    assert next(answers) == "b"
    answers.close()  # type: ignore[attr-defined]
    assert [one.returncode for one in started] == [-9]
    assert [one.stdout.closed for one in started] == [True]


def test_a_program_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "make_command", lambda: ["/no/such/python"])
    with pytest.raises(OSError, match="No such file"):
        list(inquire(["a"], "cpu", LONG))


def test_the_real_probe_answers_every_step(tmp_path: Path) -> None:
    steps = [probe.MODELS, probe.EXTRAS, probe.COMPILER]
    found = [one for one in inquire(steps, "cpu", LONG) if isinstance(one, Answer)]
    assert [one.step for one in found] == steps
    assert all(one.facts and not one.problem for one in found)


def test_the_current_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    (found,) = (one for one in inquire([probe.EXTRAS], "cpu", LONG) if isinstance(one, Answer))
    assert found.problem == ""


def test_output_of_libraries_is_no_answer(tmp_path: Path) -> None:
    """A library that writes to the descriptor of standard output does not disturb the lines."""
    code = (
        "import os, sys; from dinac_cli.doctor import probe; answers = probe.reserve_answers(); "
        "os.write(1, b'noise'); print('more'); answers.write('line'); answers.flush()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line", "noisemore\n")


def test_steps_that_raise_are_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> Any:
        raise RuntimeError(f"no\nluck on {device}")

    def refuse(device: str) -> Any:
        raise DeviceError("no memory; free some")

    monkeypatch.setitem(probe.STEPS, "bad", fail)
    monkeypatch.setitem(probe.STEPS, "refused", refuse)
    monkeypatch.setitem(probe.STEPS, "good", lambda device: {"x": device})
    answers = io.StringIO()
    probe.run_steps(["bad", "refused", "good"], "cpu", LONG, answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"step": "bad"},
        {"step": "bad", "error": "RuntimeError: no luck on cpu", "remedy": ""},
        {"step": "refused"},
        {"step": "refused", "error": "no memory", "remedy": "free some"},
        {"step": "good"},
        {"step": "good", "facts": {"x": "cpu"}},
    ]

"""The whole examination: what a crash, a hang or a broken package costs, and the JSON object."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.doctor import examination, installation, probe
from dinac_cli.doctor.examination import Examination, count, judge_problem, to_document
from dinac_cli.doctor.finding import Finding, Level, ok
from dinac_cli.doctor.inquiry import Answer
from dinac_cli.doctor.privacy import Privacy
from dinac_cli.jobs.executor.phase import Phase

from .canned import CPU, CRASH, CUDA, keep_places, replace_probe

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

BEFORE = ["dinac", "packages", "torch", "device", "arithmetic", "memory"]
PARITY = ["nano in f32", "nano in bf16"]
KERNELS = ["kernels (nano)", "kernels (d2)", "batches"]
AFTER = ["threads", "disk", "temporary", "cache", "hub cache", "extra fast", "extra formats"]
AFTER += ["compiler", "extra remote", "extra parquet", "extra cluster", "extra flux2"]
AFTER += ["completions"]


def examine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plan: dict[str, Any], **options: Any
) -> dict[str, Finding]:
    replace_probe(monkeypatch, keep_places(plan, tmp_path))
    found = list(Examination(folder=tmp_path, **options).run())
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


@pytest.mark.parametrize(("plan", "kernels"), [(CPU, []), (CUDA, KERNELS)])
def test_a_sound_machine(
    plan: Any, kernels: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = examine(monkeypatch, tmp_path, plan)
    assert list(found) == [*BEFORE, *PARITY, *kernels, *AFTER]
    assert not [one for one in found.values() if one.level is Level.FAIL]


@pytest.mark.parametrize(
    ("step", "name", "level"),
    [
        (probe.ARITHMETIC, "arithmetic", Level.FAIL),
        (probe.MEMORY, "memory", Level.NOTE),
        (probe.FLOAT32, "nano in f32", Level.FAIL),
        (probe.BFLOAT16, "nano in bf16", Level.FAIL),
        (probe.KERNELS_NANO, "kernels (nano)", Level.FAIL),
        (probe.KERNELS_D2, "kernels (d2)", Level.FAIL),
        (probe.BATCHES, "batches", Level.FAIL),
        (probe.MODELS, "models", Level.NOTE),
        (probe.EXTRAS, "image libraries", Level.FAIL),
        (probe.COMPILER, "compiler", Level.NOTE),
    ],
)
@pytest.mark.parametrize("what", [CRASH, "ImportError: no such symbol"])
def test_a_step_that_fails_is_one_line(
    step: str, name: str, level: Level, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = examine(monkeypatch, tmp_path, {**CUDA, step: what})
    assert found[name].level is level
    problem = "the process crashed (SIGILL)" if what == CRASH else what
    assert found[name].text.endswith(f": {problem}")
    assert found["completions"]  # the examination went on
    assert [one.name for one in found.values() if one.level is Level.FAIL] == (
        [name] if level is Level.FAIL else []
    )


@pytest.mark.parametrize("what", [CRASH, "OSError: libtorch_cpu.so: cannot open"])
def test_without_torch_nothing_else_is_blamed(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = examine(monkeypatch, tmp_path, {**CPU, probe.DEVICE: what})
    assert list(found) == ["dinac", "packages", "torch", *AFTER]
    assert found["torch"].level is Level.FAIL
    assert found["torch"].text.startswith("torch cannot be used: ")


def test_without_the_device_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = {
        **CPU[probe.DEVICE],
        "asked": "cuda",
        "kind": None,
        "device": None,
        "problem": "device cuda is not available; torch finds only cpu; use --device auto",
    }
    found = examine(monkeypatch, tmp_path, {**CPU, probe.DEVICE: absent})
    assert list(found) == ["dinac", "packages", "torch", "device", *AFTER]
    assert found["device"].level is Level.FAIL


def test_a_user_without_a_home_folder_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as a number without an entry, in a container that sets no HOME."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    found = examine(monkeypatch, tmp_path, dict(CPU))
    assert found["completions"].level is Level.NOTE
    assert "Could not determine home directory" in found["completions"].text


def test_a_step_that_hangs_names_the_option() -> None:
    late = Answer(probe.FLOAT32, problem="no answer within 9 s", is_late=True)
    found = judge_problem(late, "cpu")
    assert (found.name, found.level) == ("nano in f32", Level.FAIL)
    assert found.remedy.startswith("on a busy machine, repeat with a longer --time-limit; else ")
    assert judge_problem(replace(late, step=probe.MODELS), "cpu").level is Level.NOTE


def test_the_remedy_is_that_of_the_error_or_of_the_device() -> None:
    failed = Answer(probe.FLOAT32, problem="DINAC_CUDA=x")
    assert judge_problem(failed, "cpu").remedy.startswith("pip install ")
    assert judge_problem(failed, "cuda").remedy.startswith("set DINAC_CUDA=torch, or use ")
    assert judge_problem(replace(failed, remedy="choose one"), "cuda").remedy == "choose one"


def test_a_check_that_the_system_refuses_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(version: str) -> Finding:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(installation, "check_system", refuse)
    found = examine(monkeypatch, tmp_path, dict(CPU))
    assert found["dinac"].level is Level.NOTE
    assert "Permission denied" in found["dinac"].text


def test_phases_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace_probe(monkeypatch, keep_places(CPU, tmp_path))
    phases: list[Phase] = []
    list(Examination(folder=tmp_path).run(phases.append))
    assert [one.detail for one in phases if one.name == "checking"] == list(probe.STEPS)


def test_every_step_has_a_judge() -> None:
    assert set(examination._JUDGES) == set(probe.STEPS)
    assert list(probe.STEPS)[: len(probe.DEVICE_STEPS)] == list(probe.DEVICE_STEPS)


def test_the_object_counts_hides_and_rounds() -> None:
    findings = [ok("a", "/home/alice/x", {"figure": 1 / 3, "list": [2 / 3], "count": 123456})]
    document = to_document(findings, Privacy(("/home/alice",), ("alice",), ()))
    assert document == {
        "doctor": 1,
        "failed": 0,
        "notes": 0,
        "checks": [
            {
                "check": "a",
                "level": "ok",
                "text": "~/x",
                "remedy": "",
                "facts": {"figure": 0.3333, "list": [0.6667], "count": 123456},
            }
        ],
    }
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert count(findings, Level.OK) == 1

"""The checks of a GPU's kernels, with a stand-in for the ladder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dinac_cli.codec import engine
from dinac_cli.doctor import gpu, probe
from dinac_cli.doctor.finding import Level
from dinac_cli.doctor.gpu import (
    judge_batches,
    judge_ladder,
    measure_batches,
    measure_ladder,
    measure_task,
    repeat_batches,
)
from dinac_cli.models import device
from dinac_cli.models.dinac.config import RELEASED, DinacAEConfig

from .canned import CUDA

LADDER, BATCHES = CUDA[probe.KERNELS_D2], CUDA[probe.BATCHES]


@dataclass(frozen=True)
class OperationCheck:
    """The interface of the ladder's checks."""

    name: str
    error: float | None
    limit: float
    fault: str


@dataclass(frozen=True)
class Choice:
    """The interface of the ladder's choice."""

    step: str
    reason: str
    remedy: str
    checks: tuple[OperationCheck, ...]


def test_the_ladder_is_asked_for_the_widths_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def choose_step(config: DinacAEConfig, place: torch.device, dtype: torch.dtype) -> Choice:
        asked.append((config, place, dtype))
        checks = (
            OperationCheck("convolve", 1e-6, 1e-4, ""),
            OperationCheck("normalize", None, 1e-4, "PTXASError"),
            OperationCheck("add_gated", float("nan"), 1e-4, ""),
        )
        return Choice("torch", "Triton cannot compile", "install gcc", checks)

    ladder = ModuleType("ladder")
    ladder.choose_step = choose_step  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, gpu._LADDER, ladder)
    monkeypatch.setattr(device, "_list_devices", lambda: ["cuda:0", "cpu"])
    facts = measure_ladder("auto", "d2")
    assert facts is not None
    assert asked == [(RELEASED["d2"], torch.device("cuda:0"), torch.bfloat16)]
    assert [one["error"] for one in facts["operations"]] == [1e-6, None, None]
    found = judge_ladder(facts)
    assert (found.name, found.level, found.remedy) == ("kernels (d2)", Level.NOTE, "install gcc")
    assert found.text == (
        "step torch instead of graphs: Triton cannot compile; errors of the operations: "
        "convolve 1e-06 (limit 0.0001), normalize failed (PTXASError), "
        "add_gated failed (not a number)"
    )
    measure_ladder("cuda", "nano")
    assert asked[1][0].model_dim == 256


def test_on_a_cpu_there_is_nothing_to_measure() -> None:
    assert measure_ladder("cpu", "nano") is None
    assert measure_batches("cpu") is None


def test_the_highest_step_is_right() -> None:
    found = judge_ladder(LADDER)
    assert found.level is Level.OK
    assert found.text.startswith("step graphs, the fastest; errors of the operations: convolve")


def test_a_step_that_was_forced_is_a_note() -> None:
    forced = {**LADDER, "step": "plain", "reason": "DINAC_CUDA=plain", "operations": []}
    found = judge_ladder(forced)
    assert (found.level, found.text) == (
        Level.NOTE,
        "step plain instead of graphs: DINAC_CUDA=plain",
    )


@pytest.mark.parametrize("step", ["graphs", "triton"])
@pytest.mark.parametrize("error", [1.0, None])
def test_kernels_that_are_used_although_they_are_wrong_are_a_fault(
    step: str, error: float | None
) -> None:
    operation = {"name": "convolve", "error": error, "limit": 1e-4, "fault": "x"}
    found = judge_ladder({**LADDER, "step": step, "operations": [operation]})
    assert found.level is Level.FAIL
    assert "WRONG" in found.text
    assert judge_ladder({**LADDER, "step": "torch", "operations": [operation]}).level is Level.NOTE


def test_full_batches_repeat_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with batches as on a GPU; the memory is a counter."""
    monkeypatch.setattr(engine, "choose_batch_size", lambda place, tokens: 2)
    monkeypatch.setattr(gpu, "_SIDE", 32)
    monkeypatch.setattr(gpu, "_BATCHES", 2)
    facts = repeat_batches("cpu", lambda: 5)
    assert facts["batch"] == 2
    for one in facts["tasks"].values():
        assert (one["ends_equal"], one["replay_equal"], one["growth_bytes"]) == (True, True, 0)
        assert one["ms_per_batch"] > 0
    assert judge_batches(facts).level is Level.OK


def test_differences_within_a_batch_and_between_calls_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "_BATCHES", 2)
    calls = iter(range(1000))
    held = iter((100, 700))

    def drift() -> list[Any]:
        """From the fourth call on, values differ by the last bit."""
        last = np.nextafter(np.float32(1), np.float32(2)) if next(calls) >= 3 else np.float32(1)
        return [np.full(4, last, np.float32), np.full(4, last, np.float32)]

    found = measure_task(drift, lambda: next(held))
    assert (found["ends_equal"], found["replay_equal"]) == (True, False)
    assert found["growth_bytes"] == 600

    def tilt() -> list[Any]:
        return [np.zeros(4, np.float32), np.full(4, -0.0, np.float32)]

    found = measure_task(tilt, lambda: 0)
    assert (found["ends_equal"], found["replay_equal"]) == (False, True)


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "32 images of 256x256 with nano: encode 3.2 ms, decode 3.2 ms"),
        ({"ends_equal": False}, Level.FAIL, "the first and the last image of a batch differ"),
        ({"replay_equal": False}, Level.FAIL, "later calls differ from the first"),
        ({"growth_bytes": 2**30}, Level.NOTE, "the memory of decode grew over 50 batches"),
    ],
)
def test_batches_are_judged(changes: dict[str, Any], level: Level, words: str) -> None:
    tasks = {**BATCHES["tasks"], "decode": {**BATCHES["tasks"]["decode"], **changes}}
    found = judge_batches({**BATCHES, "tasks": tasks})
    assert found.level is level
    assert words in found.text

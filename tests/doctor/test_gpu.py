"""The checks of a GPU's kernels, with a stand-in for the GPU."""

from __future__ import annotations

import json
import math
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
from dinac_cli.models.dinac.fast import ladder
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.dinac.fast.self_check import OperationCheck

from .canned import CUDA

LADDER, BATCHES = CUDA[probe.KERNELS_D2], CUDA[probe.BATCHES]


def test_the_ladder_is_asked_for_the_widths_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def choose_step(config: DinacAEConfig, place: torch.device, dtype: torch.dtype) -> Choice:
        asked.append((config, place, dtype))
        checks = (
            OperationCheck("convolve", 1e-6, 1e-4),
            OperationCheck("add_gated", math.inf, 1e-4),
            OperationCheck("normalize", None, 1e-4, RuntimeError("no\nluck")),
        )
        return Choice("torch", "Triton cannot compile", "install gcc", checks)

    monkeypatch.setattr(ladder, "choose_step", choose_step)
    monkeypatch.setattr(device, "_list_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr(device, "runs_kernels", lambda place: True)
    monkeypatch.setattr(device, "prepare_device", lambda place: None)
    monkeypatch.delenv("DINAC_CUDA", raising=False)
    facts = measure_ladder("auto", "d2")
    assert facts is not None
    json.dumps(facts, allow_nan=False)
    assert asked == [(RELEASED["d2"], torch.device("cuda:0"), torch.bfloat16)]
    found = judge_ladder(facts)
    assert (found.name, found.level, found.remedy) == ("kernels (d2)", Level.NOTE, "install gcc")
    assert found.text == (
        "step torch instead of graphs: Triton cannot compile; errors of the operations: "
        "convolve 1e-06 (limit 0.0001), add_gated failed (not a number), "
        "normalize failed (RuntimeError: no luck)"
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


def test_a_step_that_was_named_is_a_note() -> None:
    found = judge_ladder({**LADDER, "step": "plain", "named": "plain", "operations": []})
    assert (found.level, found.remedy) == (Level.NOTE, "unset DINAC_CUDA")
    assert found.text == "step plain instead of graphs, because DINAC_CUDA is plain"


def test_a_reason_without_a_remedy_needs_no_action() -> None:
    found = judge_ladder({**LADDER, "step": "plain", "reason": "the GPU is unknown"})
    assert (found.level, found.remedy) == (Level.NOTE, "nothing to do; the results are right")


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


def test_graphs_that_failed_are_a_note() -> None:
    found = judge_batches({**BATCHES, "remarks": ["cuda:0 runs its kernels one by one"]})
    assert found.level is Level.NOTE
    assert found.text.endswith("; cuda:0 runs its kernels one by one")


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

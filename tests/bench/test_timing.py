"""Timing in turns, and memory that a call takes."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from dinac_cli.bench.timing import (
    FEWEST_ROUNDS,
    measure_growth,
    measure_matmul,
    time_in_turns,
)

CPU = torch.device("cpu")


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    taken = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, seconds=0.0
    )
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * FEWEST_ROUNDS
    assert set(taken) == {"a", "b"}


def test_median_of_the_time_that_calls_take() -> None:
    pauses = iter([0.0, 0.0, 0.3, *[0.01] * 99])
    taken = time_in_turns({"sleep": lambda: time.sleep(next(pauses))}, CPU, seconds=0.0)
    assert 0.01 <= taken["sleep"] < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_growth_is_what_a_call_adds_at_its_peak() -> None:
    growth = measure_growth(lambda: torch.ones(16 * 2**20).sum(), CPU)  # 64 MiB, freed again
    assert growth is not None
    assert 60 * 2**20 <= growth <= 96 * 2**20


def test_matmul_rate_is_a_rate() -> None:
    assert 1e8 < measure_matmul(CPU, torch.float32) < 1e15

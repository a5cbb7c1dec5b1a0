"""Timing in turns, and the memory that a call adds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import pytest
import torch

from dinac_cli.bench import timing
from dinac_cli.bench.timing import (
    FEWEST_ROUNDS,
    Work,
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


def test_time_is_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = 100.0, iter([9.0, 9.0, 3.0, *[1.0] * 99])

    def work() -> None:
        nonlocal now
        now += next(pauses)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert time_in_turns({"work": work}, CPU, seconds=0.0) == {"work": 1.0}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux")
def test_growth_is_the_peak_that_a_call_adds() -> None:
    growth = measure_growth(lambda: torch.ones(16 * 2**20).sum(), CPU)  # 64 MiB, freed again
    assert growth is not None
    assert 60 * 2**20 <= growth <= 96 * 2**20


def test_matmul_rate_is_operations_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_once(
        contenders: Mapping[str, Work], device: torch.device, seconds: float
    ) -> dict[str, float]:
        product = contenders["matmul"]()
        assert isinstance(product, torch.Tensor)
        assert product.shape == (2048, 2048)
        return {"matmul": 0.5}

    monkeypatch.setattr(timing, "time_in_turns", time_once)
    assert measure_matmul(CPU, torch.float32) == 2 * 2048**3 / 0.5

"""Recordings of GPU work: few are kept, each replays what was computed before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.fast.graphs import GRAPHS_KEPT, Compute, GraphCache


class Recorder:
    """Counts what is recorded and replayed; the recording is the function itself."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.recorded: list[str] = []
        self.replayed = 0

    def __call__(self, compute: Compute, x: Tensor) -> Compute:
        if self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.recorded.append(str(tuple(x.shape)))

        def replay(x: Tensor) -> tuple[Tensor, ...]:
            self.replayed += 1
            return compute(x)

        return replay


def double(x: Tensor) -> tuple[Tensor, ...]:
    return 2 * x, x


def run(cache: GraphCache, length: int, times: int = 1) -> None:
    for _ in range(times):
        x = torch.randn(length)
        doubled, same = cache.run(length, double, x)
        assert torch.equal(doubled, 2 * x)
        assert torch.equal(same, x)


def test_the_fourth_call_is_recorded_and_replayed() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    run(cache, 5, times=3)
    assert recorder.recorded == []
    run(cache, 5, times=4)
    assert recorder.recorded == ["(5,)"]
    assert recorder.replayed == 4


def test_those_used_last_are_kept() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    for length in range(1, GRAPHS_KEPT + 2):
        run(cache, length, times=4)
        run(cache, 1)
    assert len(recorder.recorded) == GRAPHS_KEPT + 1
    run(cache, 1)  # always in use: still there
    assert len(recorder.recorded) == GRAPHS_KEPT + 1
    run(cache, 2)  # the one that was used longest ago
    assert recorder.recorded[-1] == "(2,)"


def test_keys_without_end_take_no_memory_without_end() -> None:
    cache = GraphCache(Recorder())
    for length in range(300):
        run(cache, length)
    assert len(cache._calls) <= 64


def test_what_cannot_be_recorded_is_computed() -> None:
    recorder = Recorder(fails=True)
    run(GraphCache(recorder), 3, times=6)
    assert recorder.replayed == 0


def test_clear_forgets() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    run(cache, 3, times=5)
    cache.clear()
    run(cache, 3, times=3)
    assert len(recorder.recorded) == 1


@pytest.mark.parametrize("failure", [ValueError, TypeError])
def test_other_failures_are_ours(failure: Callable[[str], Exception]) -> None:
    def record(compute: Compute, x: Tensor) -> Compute:
        raise failure("a bug")

    cache = GraphCache(record)
    run(cache, 3, times=3)
    with pytest.raises((ValueError, TypeError)):
        run(cache, 3)

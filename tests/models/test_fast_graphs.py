"""Recordings of GPU work: they replay the computation, and only a few are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.fast.graphs import GRAPHS_KEPT, Compute, GraphCache


class Recorder:
    """Counts recordings and replays; a recording is the function itself."""

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


def test_fourth_call_is_recorded_and_replayed() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    run(cache, 5, times=3)
    assert recorder.recorded == []
    run(cache, 5, times=4)
    assert recorder.recorded == ["(5,)"]
    assert recorder.replayed == 4


def test_recently_used_recordings_are_kept() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    for length in range(1, GRAPHS_KEPT + 2):
        run(cache, length, times=4)
        run(cache, 1)
    assert len(recorder.recorded) == GRAPHS_KEPT + 1
    run(cache, 1)  # used all the time, so it is still recorded
    assert len(recorder.recorded) == GRAPHS_KEPT + 1
    run(cache, 2)  # the least recently used one
    assert recorder.recorded[-1] == "(2,)"


def test_call_counts_of_old_keys_are_forgotten() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    for _ in range(6):
        for length in range(300):
            run(cache, length)
    assert recorder.recorded == []


def test_computation_that_cannot_be_recorded_runs_every_time() -> None:
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
def test_bug_while_recording_is_raised(failure: Callable[[str], Exception]) -> None:
    def record(compute: Compute, x: Tensor) -> Compute:
        raise failure("a bug")

    cache = GraphCache(record)
    run(cache, 3, times=3)
    with pytest.raises((ValueError, TypeError)):
        run(cache, 3)

"""Recordings of GPU work: they replay the computation, and only a few are kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from dinac_cli.models.graphs import GRAPHS_KEPT, Compute, CudaRecorder, GraphCache
from dinac_cli.models.recent import Recent


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


def test_after_the_first_failure_nothing_is_recorded_or_replayed() -> None:
    recorder = Recorder()
    cache = GraphCache(recorder)
    run(cache, 3, times=5)
    assert (recorder.recorded, recorder.replayed) == (["(3,)"], 2)
    recorder.fails = True
    run(cache, 4, times=6)
    recorder.fails = False
    run(cache, 3, times=6)
    run(cache, 5, times=6)
    assert (recorder.recorded, recorder.replayed) == (["(3,)"], 2)
    assert cache.failure == "CUDA error: operation not permitted when stream is capturing"


def test_what_a_failed_recording_held_is_freed_before_the_function_is_called() -> None:
    """Otherwise, a recording that fails for lack of memory leaves too little for the call."""
    held: list[weakref.ref[Tensor]] = []

    def record(compute: Compute, x: Tensor) -> Compute:
        activation = x * 2
        held.append(weakref.ref(activation))
        raise RuntimeError("CUDA out of memory")

    def compute(x: Tensor) -> tuple[Tensor, ...]:
        assert all(ref() is None for ref in held)
        return (x,)

    cache = GraphCache(record)
    for _ in range(5):
        cache.run("key", compute, torch.ones(3))
    assert len(held) == 1


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


class Cuda:
    """In place of `torch.cuda`, whose graphs cannot be recorded without a GPU.

    Work is run when it is recorded, and when the recording is replayed. Like torch, a recording
    that fails leaves its own stream current.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: object = "computing"
        self.pools: list[object] = []
        self.streams = 0
        self.fails_at_end = False
        self.replays: Callable[[], object] = lambda: None
        names = ("CUDAGraph", "Stream", "current_stream", "graph", "graph_pool_handle")
        for name in (*names, "set_stream", "stream", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def CUDAGraph(self) -> Cuda:  # noqa: N802
        return self

    def Stream(self, device: object) -> Cuda:  # noqa: N802
        self.streams += 1
        return self

    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self, device: object) -> None:
        pass

    def current_stream(self, device: object) -> object:
        return self.current

    def set_stream(self, stream: object) -> None:
        self.current = stream

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def graph_pool_handle(self) -> object:
        return object()

    @contextmanager
    def graph(
        self, graph: object, *, pool: object, stream: object, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.current = stream
        yield
        if self.fails_at_end:
            raise RuntimeError("CUDA error: capture invalidated")
        self.current = "computing"

    def replay(self) -> None:
        self.replays()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


class Tripling:
    """Triples its input with a factor from a cache, into a buffer that a recording reuses."""

    def __init__(self, cuda: Cuda) -> None:
        self.factors: Recent[int, Tensor] = Recent(2)
        self.buffers: list[Tensor] = []
        self.inputs: list[Tensor] = []
        cuda.replays = self.replay

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        factor = self.factors.get(len(x), lambda: torch.tensor(3.0))
        self.inputs.append(x)
        self.buffers.append(x * factor)
        return (self.buffers[-1],)

    def replay(self) -> None:
        torch.mul(self.inputs[-1], 3.0, out=self.buffers[-1])

    def list_constants(self) -> list[Tensor]:
        return self.factors.list_values()


def test_a_replay_computes_new_inputs_and_keeps_old_results(cuda: Cuda) -> None:
    tripling = Tripling(cuda)
    recorder = CudaRecorder(tripling.list_constants)
    replay = recorder(tripling, torch.ones(2))
    (first,) = replay(torch.tensor([1.0, 2.0]))
    (second,) = replay(torch.tensor([5.0, 6.0]))
    assert (first.tolist(), second.tolist()) == ([3.0, 6.0], [15.0, 18.0])
    assert cuda.current == "computing"


def test_all_recordings_share_one_pool_and_one_stream(cuda: Cuda) -> None:
    tripling = Tripling(cuda)
    recorder = CudaRecorder(tripling.list_constants)
    replays = [recorder(tripling, torch.ones(length)) for length in (2, 3, 4)]
    assert len(cuda.pools) == 3
    assert len(set(map(id, cuda.pools))) == 1
    replays.clear()
    recorder(tripling, torch.ones(5))
    assert cuda.pools[-1] is not cuda.pools[0]  # all graphs of that pool are gone
    assert cuda.streams == 1


def test_everything_that_is_cached_exists_before_the_recording(cuda: Cuda) -> None:
    tripling = Tripling(cuda)
    CudaRecorder(tripling.list_constants)(tripling, torch.ones(2))
    assert len(tripling.list_constants()) == 1

    def forgets(x: Tensor) -> tuple[Tensor, ...]:
        made = tripling(x)
        for length in (7, 8):  # the cache holds two values
            tripling.factors.get(length, lambda: torch.tensor(3.0))
        return made

    with pytest.raises(RuntimeError, match="the value of 2 is needed, but was not made before"):
        CudaRecorder(tripling.list_constants)(forgets, torch.ones(2))
    assert cuda.current == "computing"


def test_a_cache_never_keeps_a_value_of_a_recording_that_failed(cuda: Cuda) -> None:
    """Such a value was never computed, so every later result would be wrong."""
    tripling = Tripling(cuda)

    def forgets(x: Tensor) -> tuple[Tensor, ...]:
        for length in (7, 8):
            tripling.factors.get(length, lambda: torch.tensor(3.0))
        return tripling(x)

    made: list[float] = []

    def make() -> Tensor:
        made.append(1.0)
        return torch.tensor(3.0)

    with pytest.raises(RuntimeError, match="was not made before"):
        CudaRecorder(tripling.list_constants)(forgets, torch.ones(2))
    tripling.factors.get(9, make)
    assert made == [1.0]
    assert forgets(torch.ones(2))[0].tolist() == [3.0, 3.0]


def test_a_failed_recording_restores_the_stream_and_gives_the_right_result(cuda: Cuda) -> None:
    tripling = Tripling(cuda)
    cache = GraphCache(CudaRecorder(tripling.list_constants))
    cuda.fails_at_end = True
    for value in range(6):
        (result,) = cache.run("key", tripling, torch.full((2,), float(value)))
        assert result.tolist() == [3.0 * value] * 2
        assert cuda.current == "computing"
    assert len(cuda.pools) == 1
    assert cache.failure == "CUDA error: capture invalidated"


def test_a_replay_with_other_bytes_is_never_used(cuda: Cuda) -> None:
    tripling = Tripling(cuda)
    cuda.replays = lambda: tripling.buffers[-1].fill_(3.0000002)
    cache = GraphCache(CudaRecorder(tripling.list_constants))
    for value in range(6):
        (result,) = cache.run("key", tripling, torch.full((2,), float(value)))
        assert result.tolist() == [3.0 * value] * 2
    assert cache.failure == "a replayed graph gives another result than its kernels one by one"

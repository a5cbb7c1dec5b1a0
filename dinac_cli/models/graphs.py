"""Records the GPU kernels of a call and replays them for later inputs of the same shape."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from dinac_cli.errors import first_line
from dinac_cli.models.recent import frozen

Compute = Callable[[Tensor], tuple[Tensor, ...]]
Record = Callable[[Compute, Tensor], Compute]

GRAPHS_KEPT = 8
_CALLS_BEFORE = 3
_KEYS_COUNTED = 64


class GraphCache:
    """Runs functions. From the fourth call with the same key, the cache replays a recording.

    A key identifies the function, its settings and the shape of its input. The cache keeps the
    recordings of the `GRAPHS_KEPT` most recently used keys. A replay runs the same kernels as the
    function, so the results have the same bytes. After the first recording that fails, the cache
    drops all recordings, records nothing more, and calls the functions.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._graphs: OrderedDict[Hashable, Compute] = OrderedDict()
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self.failure: str | None = None
        """Why the first recording failed, if one has failed."""

    def run(self, key: Hashable, compute: Compute, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the result of `compute(x)`: calls `compute` or replays a recording."""
        if self.failure is not None:
            return compute(x)
        if key not in self._graphs:
            if self._count_call(key) <= _CALLS_BEFORE:
                return compute(x)
            try:
                self._graphs[key] = self._record(compute, x)
            except RuntimeError as exc:  # no memory is left, or the work waits for the CPU
                self.failure = first_line(exc)
                self.clear()
            if self.failure is not None:  # the error, and all that its frames hold, is gone
                return compute(x)
            if len(self._graphs) > GRAPHS_KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key](x)

    def clear(self) -> None:
        """Frees all recordings and their memory."""
        self._graphs.clear()
        self._calls.clear()

    def _count_call(self, key: Hashable) -> int:
        self._calls[key] = self._calls.pop(key, 0) + 1
        if len(self._calls) > _KEYS_COUNTED:
            self._calls.popitem(last=False)
        return self._calls[key]


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they never run at the same time.

    `list_constants` returns the cached tensors of the functions to record. A recording uses their
    addresses, so it keeps them alive.
    """

    def __init__(self, list_constants: Callable[[], list[Tensor]]) -> None:
        self._list_constants = list_constants
        self._pool: Any = None
        self._side: Any = None
        self._replays: weakref.WeakSet[Compute] = weakref.WeakSet()

    def __call__(self, compute: Compute, x: Tensor) -> Compute:
        """Records the kernels that `compute` launches for `x`.

        Runs `compute` first, so that all values that it caches exist, and compares its result with
        the first replay. Raises RuntimeError if the kernels cannot be recorded, or if the bytes of
        the two results differ. The current stream is then the same as before.
        """
        given, computing = x.clone(), torch.cuda.current_stream(x.device)
        if self._side is None:
            # One stream for all recordings: cuBLAS keeps a workspace for each stream that it sees.
            self._side = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        side = self._side
        side.wait_stream(computing)
        with torch.cuda.stream(side):
            expected = compute(given)
        torch.cuda.synchronize(x.device)
        constants = self._list_constants()
        graph = torch.cuda.CUDAGraph()
        if not self._replays:  # torch refuses a pool whose graphs are all gone
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with (
                frozen(),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
                ),
            ):
                made = compute(given)
        finally:
            # A recording that fails may leave its own stream current.
            torch.cuda.set_stream(computing)

        def replay(x: Tensor, kept: list[Tensor] = constants) -> tuple[Tensor, ...]:
            given.copy_(x)
            graph.replay()
            return tuple(tensor.clone() for tensor in made)

        if not all(map(_have_equal_bytes, replay(x), expected)):
            raise RuntimeError("a replayed graph gives another result than its kernels one by one")
        self._replays.add(replay)
        return replay


def _have_equal_bytes(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))

"""Records the GPU kernels of a call and replays them for later inputs of the same shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Compute = Callable[[Tensor], tuple[Tensor, ...]]
Record = Callable[[Compute, Tensor], Compute]

GRAPHS_KEPT = 8
_CALLS_BEFORE = 3
_KEYS_COUNTED = 64


class GraphCache:
    """Runs functions. From the fourth call with the same key, the cache replays a recording.

    A key identifies the function, its settings and the shape of its input. The cache keeps the
    recordings of the `GRAPHS_KEPT` most recently used keys. If a call cannot be recorded, the
    function runs every time. A replay runs the same kernels as the function, so the results have
    the same bytes.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._graphs: OrderedDict[Hashable, Compute] = OrderedDict()
        self._calls: OrderedDict[Hashable, int] = OrderedDict()

    def run(self, key: Hashable, compute: Compute, x: Tensor) -> tuple[Tensor, ...]:
        """Returns the result of `compute(x)`: calls `compute` or replays a recording."""
        if key not in self._graphs:
            if self._count_call(key) <= _CALLS_BEFORE:
                return compute(x)
            self._graphs[key] = self._try_to_record(compute, x)
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

    def _try_to_record(self, compute: Compute, x: Tensor) -> Compute:
        try:
            return self._record(compute, x)
        except RuntimeError:  # no memory is left, or the work waits for the CPU
            return compute


def record_cuda_graph(
    compute: Compute, x: Tensor, list_constants: Callable[[], list[Tensor]]
) -> Compute:
    """Records the kernels that `compute` launches for `x`.

    The caches of `compute` must already be filled; `list_constants` returns the cached tensors. The
    recording uses the addresses of these tensors, so it keeps the tensors alive. Raises
    RuntimeError if the kernels cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    given = x.clone()
    torch.cuda.synchronize(x.device)
    with torch.cuda.graph(graph):
        made = compute(given)
    constants = list_constants()

    def replay(x: Tensor, kept: list[Tensor] = constants) -> tuple[Tensor, ...]:
        given.copy_(x)
        graph.replay()
        return tuple(tensor.clone() for tensor in made)

    return replay

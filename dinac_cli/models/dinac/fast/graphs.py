"""Recorded GPU work: what a call launches is replayed for the next input of the same shape."""

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
    """Computes as it is told, and from the fourth call with a key on by replaying a recording.

    A key stands for all that a result depends on beside the content of its input: the function,
    what it is asked for, and the shape. The recordings of the `GRAPHS_KEPT` keys used last are
    kept; a call that cannot be recorded goes on being computed. A replay runs the kernels that it
    has seen, so that results are the same bytes.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._graphs: OrderedDict[Hashable, Compute] = OrderedDict()
        self._calls: OrderedDict[Hashable, int] = OrderedDict()

    def run(self, key: Hashable, compute: Compute, x: Tensor) -> tuple[Tensor, ...]:
        """What `compute` makes of `x`."""
        if key not in self._graphs:
            if self._count_call(key) <= _CALLS_BEFORE:
                return compute(x)
            self._graphs[key] = self._try_to_record(compute, x)
            if len(self._graphs) > GRAPHS_KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key](x)

    def clear(self) -> None:
        """Give up all recordings, and the memory that they hold."""
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
        except RuntimeError:  # no memory for it, or work that has to wait for the host
            return compute


def record_cuda_graph(
    compute: Compute, x: Tensor, list_constants: Callable[[], list[Tensor]]
) -> Compute:
    """Record what `compute` launches for `x`; everything that it caches must be there already.

    `list_constants` tells which tensors these are: a recording knows them by their address, so it
    keeps them. Raises RuntimeError where that cannot be recorded.
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

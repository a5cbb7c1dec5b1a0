"""Micro-batches under way: handed to a device, or computed side by side on the processor."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

R = TypeVar("R")

Array = npt.NDArray[np.generic]


class Download:
    """A tensor on its way to the host."""

    def __init__(self, host: Tensor, arrival: torch.cuda.Event | None = None) -> None:
        self._host = host
        self._arrival = arrival

    @property
    def has_arrived(self) -> bool:
        """Whether `fetch` returns at once."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def fetch(self) -> Array:
        """The tensor's content, when it is there. RuntimeError where the device has failed."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._host.numpy()


Sent = Sequence[Download] | None
"""What a device sends back of a micro-batch; None where it lacked the memory to compute it."""


class Pending(Generic[R]):
    """A micro-batch that is under way, or done.

    `finish` makes its result of what was sent back, in the thread that asks for it.
    """

    def __init__(self, sent: Future[Sent], finish: Callable[[Sent], R], tokens: int) -> None:
        self._sent = sent
        self._finish: Callable[[Sent], R] | None = finish
        self._result: R
        self.tokens = tokens

    @property
    def is_done(self) -> bool:
        """Whether the device is through with it: `result` waits for nothing, or computes anew."""
        if self._finish is None:
            return True
        return self._sent.done() and all(part.has_arrived for part in self._list_downloads())

    def wait(self) -> None:
        """Return when the device is through with it; what went wrong is for `result` to say."""
        wait([self._sent])
        with contextlib.suppress(RuntimeError):
            for part in self._list_downloads():
                part.fetch()

    def result(self) -> R:
        """What came of it, when it is there. Raises DeviceError, ImageError."""
        if self._finish is not None:
            self._result, self._finish = self._finish(self._sent.result()), None
        return self._result

    def _list_downloads(self) -> Sequence[Download]:
        return () if self._sent.exception() else self._sent.result() or ()


def settle(sent: Sent) -> Future[Sent]:
    """What is there already, as `Pending` takes it."""
    future: Future[Sent] = Future()
    future.set_result(sent)
    return future


class UnderWay:
    """The micro-batches that a device has been given, of so many tokens together at most.

    One that is larger goes alone.
    """

    def __init__(self, tokens_at_most: int) -> None:
        self._pendings: deque[Pending[Any]] = deque()
        self._tokens_at_most = tokens_at_most

    def make_room(self, tokens: int) -> None:
        """Wait for the oldest until one more of this size may be in flight."""
        while self._pendings and (
            self._pendings[0].is_done or self._count_tokens() + tokens > self._tokens_at_most
        ):
            self._pendings.popleft().wait()

    def add(self, pending: Pending[Any]) -> None:
        """Remember one until it is done."""
        if not pending.is_done:
            self._pendings.append(pending)

    def wait(self) -> bool:
        """Wait for all; whether there was any."""
        waited = bool(self._pendings)
        while self._pendings:
            self._pendings.popleft().wait()
        return waited

    def allow_fewer(self, *, one_by_one: bool) -> None:
        """Remember that one more than these was too much, or any two."""
        fewer = 0 if one_by_one else self._count_tokens()
        self._tokens_at_most = min(self._tokens_at_most, fewer)

    def _count_tokens(self) -> int:
        return sum(pending.tokens for pending in self._pendings)


class Transfer:
    """Moves micro-batches between the host and one device.

    On CUDA each direction has a stream of its own, so that one batch goes up and another one down
    while a third is computed. Elsewhere both directions wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        is_cuda = device.type == "cuda"
        self._up, self._down = (_make_stream(device) if is_cuda else None for _ in range(2))

    def upload(self, arrays: Sequence[Array], count: int) -> Tensor:
        """One tensor of `count` arrays, the last one repeated where there are fewer."""
        dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        shape = (count, *arrays[0].shape)
        host = torch.empty(shape, dtype=dtype, pin_memory=self._up is not None)
        np.stack([*arrays, *([arrays[-1]] * (count - len(arrays)))], out=host.numpy())
        if self._up is None:
            return host.to(self._device)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._up):
            on_device = host.to(self._device, non_blocking=True)
        computing.wait_stream(self._up)
        on_device.record_stream(computing)  # its memory is not free before that stream is through
        return on_device

    def download(self, x: Tensor) -> Download:
        """Send a contiguous tensor to the host."""
        if self._down is None:
            return Download(x.cpu())
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._down):
            host.copy_(x, non_blocking=True)
            arrival.record(self._down)
        x.record_stream(self._down)
        return Download(host, arrival)


def _make_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

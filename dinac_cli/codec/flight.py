"""Micro-batches in flight: they are submitted to a device, but their results are not back yet."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

R = TypeVar("R")

Array = npt.NDArray[np.generic]


class Download:
    """A tensor that is being copied to the host."""

    def __init__(self, host: Tensor, arrival: torch.cuda.Event | None = None) -> None:
        self._host = host
        self._arrival = arrival

    @property
    def has_arrived(self) -> bool:
        """Whether `fetch` would return at once, or raise the error of a device that failed."""
        try:
            return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]
        except RuntimeError:
            return True

    def fetch(self) -> Array:
        """Waits for the copy and returns the array. Raises RuntimeError if the device failed."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._host.numpy()


Sent = Sequence[Download] | None
"""The downloads of a micro-batch, or None if the device ran out of memory."""


class Pending(Generic[R]):
    """A micro-batch in flight or done.

    `finish` turns the downloads into the result, in the thread that calls `result`.
    """

    def __init__(self, sent: Future[Sent], finish: Callable[[Sent], R], tokens: int) -> None:
        self._sent = sent
        self._finish: Callable[[Sent], R] | None = finish
        self._result: R
        self.tokens = tokens

    @property
    def is_done(self) -> bool:
        """Whether the device is done. `result` then returns at once, unless it must retry."""
        if self._finish is None:
            return True
        return self._sent.done() and all(part.has_arrived for part in self._list_downloads())

    def wait(self) -> None:
        """Waits until the device is done. `result`, not `wait`, raises the errors of the device."""
        wait([self._sent])
        with contextlib.suppress(RuntimeError):
            for part in self._list_downloads():
                part.fetch()

    def result(self) -> R:
        """Waits for the result and returns it. Raises DeviceError, ImageError."""
        if self._finish is not None:
            self._result, self._finish = self._finish(self._sent.result()), None
        return self._result

    def _list_downloads(self) -> Sequence[Download]:
        return () if self._sent.exception() else self._sent.result() or ()


def settle(sent: Sent) -> Future[Sent]:
    """Returns a finished future that holds `sent`."""
    future: Future[Sent] = Future()
    future.set_result(sent)
    return future


class TimingEvent(Protocol):
    """A moment in the stream of a device, such as `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Marks the moment."""

    def query(self) -> bool:
        """True if the device has passed the moment."""

    def elapsed_time(self, end_event: Any) -> float:
        """Returns the milliseconds to a later moment that the device has passed."""


@dataclass(frozen=True)
class _TimedWork:
    """Work on a device, between two events. It was sent at `sent_at`."""

    sent_at: float
    start: TimingEvent
    end: TimingEvent


class BusyTimer:
    """Measures when a device computes. `make_event` is None if that cannot be measured.

    The spans are (start, end) in seconds of `time.perf_counter`, which all processes of a machine
    share. The events only give the time from one event to another. So the first work starts when it
    is sent, and later work as long after the work before it as the events say. Each span is moved
    so that no work starts before it is sent, or ends after its end was seen. This corrects the
    start, and the drift of the device's clock.
    """

    def __init__(self, make_event: Callable[[], TimingEvent] | None) -> None:
        self._make_event = make_event
        self._sent: deque[_TimedWork] = deque()
        self._spans: list[tuple[float, float]] = []
        self._last: tuple[TimingEvent, float] | None = None  # the last end: event and time

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measures the work that the block sends to the device."""
        if self._make_event is None:
            yield
            return
        self._add_finished()  # keeps the events few, even if nobody asks for the spans
        work = _TimedWork(time.perf_counter(), self._make_event(), self._make_event())
        work.start.record()
        yield
        work.end.record()
        self._sent.append(work)

    def take_spans(self) -> list[tuple[float, float]]:
        """Returns the spans of the work that is done since the last call, in order."""
        self._add_finished()
        spans, self._spans = self._spans, []
        return spans

    def _add_finished(self) -> None:
        while self._sent and self._sent[0].end.query():
            work = self._sent.popleft()
            seconds = work.start.elapsed_time(work.end) / 1000
            start = work.sent_at
            if self._last is not None:
                event, ended_at = self._last
                start = max(start, ended_at + event.elapsed_time(work.start) / 1000)
            end = min(start + seconds, time.perf_counter())
            self._spans.append((end - seconds, end))
            self._last = work.end, end


class InFlight:
    """Limits the micro-batches in flight to `limit` tokens in total.

    A micro-batch that has more than `limit` tokens runs alone.
    """

    def __init__(self, limit: int) -> None:
        self._pendings: deque[Pending[Any]] = deque()
        self._limit = limit

    def make_room(self, tokens: int) -> None:
        """Waits for old micro-batches until a new micro-batch of `tokens` tokens may be added."""
        while self._pendings and (
            self._pendings[0].is_done or self._count_tokens() + tokens > self._limit
        ):
            self._pendings.popleft().wait()

    def add(self, pending: Pending[Any]) -> None:
        """Counts the micro-batch `pending` as in flight until the device is done."""
        if not pending.is_done:
            self._pendings.append(pending)

    def wait(self) -> bool:
        """Waits for all micro-batches. Returns False if none was in flight."""
        waited = bool(self._pendings)
        while self._pendings:
            self._pendings.popleft().wait()
        return waited

    def lower_limit(self, *, one_by_one: bool) -> None:
        """Lowers the limit to the tokens now in flight, or to one micro-batch if `one_by_one`."""
        self._limit = min(self._limit, 0 if one_by_one else self._count_tokens())

    def _count_tokens(self) -> int:
        return sum(pending.tokens for pending in self._pendings)


class Transfer:
    """Copies micro-batches between the host and one device.

    On CUDA, each direction has its own stream. So the device can compute one micro-batch while
    another is uploaded and a third is downloaded. On other devices, the caller waits for each copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up = self._down = None
        if device.type == "cuda":
            self._up, self._down = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def upload(self, arrays: Sequence[Array], count: int) -> Tensor:
        """Uploads `count` arrays as one tensor. If there are fewer, repeats the last array."""
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
        on_device.record_stream(computing)  # torch keeps the memory until `computing` is done
        return on_device

    def download(self, x: Tensor) -> Download:
        """Starts copying a contiguous tensor to the host."""
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

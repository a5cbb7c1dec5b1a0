"""Micro-batches in flight, and when a device computes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import pytest
import torch

from dinac_cli.codec.flight import BusyTimer, Download, Pending, settle


@dataclass
class Device:
    """A device that has passed all moments up to `passed`, in milliseconds of its own clock.

    `now` is the moment that the next event marks. `host` is the time of `perf_counter` in seconds.
    """

    now: float = 5000.0
    passed: float = 0.0
    host: float = 100.0

    def compute(self, timer: BusyTimer, milliseconds: float) -> None:
        """Queues work that takes this time; the host does not wait."""
        with timer.measure():
            self.now += milliseconds

    def wait(self) -> None:
        """Lets the host wait until the work is done."""
        self.host += (self.now - max(self.passed, 5000.0)) / 1000
        self.passed = self.now

    def rest(self, seconds: float) -> None:
        """Lets device and host do nothing."""
        self.host += seconds
        self.now += 1000 * seconds
        self.passed = self.now


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(time, "perf_counter", lambda: device.host)
    return device


@dataclass
class Event:
    device: Device
    moment: float = 0.0

    def record(self) -> None:
        self.moment = self.device.now

    def query(self) -> bool:
        return self.moment <= self.device.passed

    def elapsed_time(self, end_event: Event) -> float:
        return end_event.moment - self.moment


class FailingEvent:
    """An event of a device on which a kernel has failed."""

    def query(self) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def synchronize(self) -> None:
        self.query()


def test_a_device_that_failed_is_done_and_its_result_raises_the_error() -> None:
    download = Download(torch.zeros(1), cast(torch.cuda.Event, FailingEvent()))
    pending = Pending(settle([download]), lambda sent: [part.fetch() for part in sent or ()], 1)
    assert pending.is_done
    pending.wait()
    with pytest.raises(RuntimeError, match="an illegal memory access"):
        pending.result()


def near(*spans: tuple[float, float]) -> list[object]:
    return [pytest.approx(span) for span in spans]


def test_only_finished_work_counts_and_only_once(device: Device) -> None:
    timer = BusyTimer(lambda: Event(device))
    for _ in range(3):
        device.compute(timer, 200)
    assert timer.take_spans() == []
    device.passed, device.host = 5450, 100.45
    assert timer.take_spans() == near((100.0, 100.2), (100.2, 100.4))
    assert timer.take_spans() == []
    device.passed, device.host = 5600, 100.6
    assert timer.take_spans() == near((100.4, 100.6))


def test_gaps_are_not_busy(device: Device) -> None:
    timer = BusyTimer(lambda: Event(device))
    device.compute(timer, 200)
    device.wait()
    device.rest(0.05)
    device.compute(timer, 100)
    device.wait()
    assert timer.take_spans() == near((100.0, 100.2), (100.25, 100.35))


def test_no_work_starts_before_it_is_sent(device: Device) -> None:
    """The first work waited for another process, and the clock of the device is slow."""
    timer = BusyTimer(lambda: Event(device))
    device.compute(timer, 200)
    device.wait()
    assert timer.take_spans() == near((100.0, 100.2))
    device.host = 103.0
    device.compute(timer, 100)
    device.wait()
    assert timer.take_spans() == near((103.0, 103.1))


def test_no_work_ends_after_its_end_was_seen(device: Device) -> None:
    """The clock of the device is fast."""
    timer = BusyTimer(lambda: Event(device))
    device.compute(timer, 100)
    device.rest(1.0)
    device.now += 500
    device.compute(timer, 100)
    device.wait()
    device.host = 101.15
    assert timer.take_spans() == near((100.0, 100.1), (101.05, 101.15))


def test_events_of_finished_work_are_not_kept(device: Device) -> None:
    timer = BusyTimer(lambda: Event(device))
    for _ in range(100):
        device.compute(timer, 10)
        device.wait()
    assert len(timer._sent) == 1
    assert len(timer.take_spans()) == 100


def test_a_device_that_cannot_tell_is_not_measured() -> None:
    timer = BusyTimer(None)
    with timer.measure():
        pass
    assert timer.take_spans() == []

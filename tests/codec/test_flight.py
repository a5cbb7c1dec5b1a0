"""Micro-batches in flight, and how long a device computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch

from dinac_cli.codec.flight import BusyTimer, Download, Pending, settle


@dataclass
class Device:
    """A device with a clock in milliseconds; it has passed all moments up to `passed`."""

    now: float = 0.0
    passed: float = 0.0


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


def test_only_finished_work_counts_and_only_once() -> None:
    device = Device()
    timer = BusyTimer(lambda: Event(device))
    for _ in range(3):  # 200 ms of work, then 50 ms without
        with timer.measure():
            device.now += 200
        device.now += 50
    assert timer.take_seconds() == 0.0
    device.passed = 450
    assert timer.take_seconds() == 0.4
    assert timer.take_seconds() == 0.0
    device.passed = 1000
    assert timer.take_seconds() == 0.2


def test_events_of_finished_work_are_not_kept() -> None:
    device = Device()
    timer = BusyTimer(lambda: Event(device))
    for _ in range(100):
        with timer.measure():
            device.now += 10
        device.passed = device.now
    assert len(timer._spans) == 1
    assert timer.take_seconds() == pytest.approx(1.0)


def test_a_device_that_cannot_tell_is_not_measured() -> None:
    timer = BusyTimer(None)
    with timer.measure():
        pass
    assert timer.take_seconds() == 0.0

"""A stop request takes no more items, and the clock names the bottleneck."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dinac_cli.jobs.executor.control import StageClock, StopRequest, until_stopped


def test_stop_request_ends_an_iteration_after_the_current_item() -> None:
    stop = StopRequest()
    assert not stop
    taken = []
    for item in until_stopped(range(10), stop):
        taken.append(item)
        if item == 3:
            stop.set()
    assert stop
    assert taken == [0, 1, 2, 3]


class TestClock:
    def test_the_longest_stage_is_the_limiting_one(self) -> None:
        clock = StageClock()
        clock.seconds = {"read": 1.0, "model": 3.0, "write": 2.0}
        assert clock.limiting == "model"

    def test_waiting_for_items_counts_and_using_them_does_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: now)
        clock = StageClock()

        def items() -> Iterator[int]:
            nonlocal now
            for number in range(3):
                now += 2
                yield number

        for _ in clock.wait_for("read", items()):
            now += 5
        assert clock.seconds == {"read": 6.0, "model": 0.0, "write": 0.0}

    def test_a_failing_stage_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([1.0, 4.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(times))
        clock = StageClock()
        with pytest.raises(ValueError, match="x"), clock.measure("write"):
            raise ValueError("x")
        assert clock.seconds["write"] == 3.0

    def test_the_clock_of_a_worker_is_added(self) -> None:
        """Also its stage, so that the progress line says what the run does at its start."""
        clock, worker = StageClock(), StageClock()
        worker.seconds["read"], worker.current = 2.0, "read"
        clock.add(worker.take())
        clock.add(worker.take())
        assert (clock.seconds["read"], clock.current) == (2.0, "read")

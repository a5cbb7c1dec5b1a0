"""Spans of several processes on one device become one time."""

from __future__ import annotations

import pickle
import random

import pytest

from dinac_cli.jobs.executor import busy
from dinac_cli.jobs.executor.busy import BusyTime, Span
from dinac_cli.jobs.executor.control import StageClock


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 2.0), (3.0, 5.0)], 3.0),
        ([(1.0, 3.0), (2.0, 5.0)], 4.0),
        ([(2.0, 5.0), (1.0, 3.0)], 4.0),
        ([(1.0, 9.0), (2.0, 3.0)], 8.0),
        ([(2.0, 3.0), (5.0, 6.0), (1.0, 9.0)], 8.0),
        ([(1.0, 2.0), (2.0, 3.0)], 2.0),
        ([(1.0, 2.0), (1.0, 2.0)], 1.0),
        ([(2.0, 2.0), (3.0, 1.0)], 0.0),
    ],
)
def test_time_counts_once(spans: list[Span], seconds: float) -> None:
    busy_time = BusyTime()
    busy_time.add(spans)
    assert busy_time.seconds == seconds


def test_any_order_gives_the_same_time() -> None:
    """Compared with marks on a ruler."""
    chance = random.Random(3)
    for _ in range(50):
        starts = [chance.randrange(100) for _ in range(20)]
        spans = [(start, start + chance.randrange(12)) for start in starts]
        marks = {tick for start, end in spans for tick in range(start, end)}
        busy_time = BusyTime()
        busy_time.add(spans)
        assert busy_time.seconds == len(marks)


def test_few_spans_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "_MOST_SPANS", 10)
    busy_time = BusyTime()
    for number in range(100):  # two processes, the second one a little later
        busy_time.add([(number, number + 0.5)])
        busy_time.add([(number - 2, number - 1.5), (number - 2 + 0.25, number - 1.25)])
        assert len(busy_time._spans) <= 11
    assert busy_time.seconds == 100 * 0.75 + 2 * 0.5
    busy_time.add([(-5.0, 1.0)])  # much too late: part of it was counted
    assert busy_time.seconds == 100 * 0.75 + 2 * 0.5


def test_clocks_of_workers_are_united_by_device() -> None:
    clock = StageClock()
    for device, spans in (("a", [(1.0, 2.0)]), ("a", [(1.5, 3.0)]), ("b", [(1.0, 2.0)])):
        worker = StageClock()
        worker.add_busy(device, spans)
        clock.add(pickle.loads(pickle.dumps(worker.take())))
        clock.add(worker.take())
    assert clock.device_seconds == 3.0

"""A worker process sends its reports one at a time, and loses no result."""

from __future__ import annotations

import threading
import time
from typing import Any

from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Made
from dinac_cli.jobs.executor.messages import Order, Report
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.worker import _Worker

RESULT = Made(FileResult("a.png", Status.WRITTEN))


class SlowConnection:
    """Notes what is sent, and fails if two threads send at once."""

    def __init__(self) -> None:
        self.sent: list[Report] = []
        self._is_sending = False

    def recv(self) -> Order:
        return Order.END

    def send(self, report: Report) -> None:
        assert not self._is_sending, "two messages would be mixed"
        self._is_sending = True
        time.sleep(0.001)
        self.sent.append(report)
        self._is_sending = False


class NoJob:
    def measure_room(self) -> None:
        return None


def test_two_threads_report_one_after_the_other() -> None:
    """A job may take its entries in a thread of its own, as shards do, and that thread reports."""
    connection: Any = SlowConnection()
    worker = _Worker(connection, RunControl())
    worker._job = NoJob()  # type: ignore[assignment]
    failures: list[BaseException] = []

    def report() -> None:
        try:
            for _ in range(40):
                worker._report()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=report)
    thread.start()
    for number in range(40):
        worker._unsent.append((number, RESULT))
        worker._control.warn(f"remark {number}")
        worker._report()
    thread.join()
    worker._report()
    assert failures == []
    numbers = [number for each in connection.sent for number, _ in each.made]
    assert sorted(numbers) == list(range(40))
    remarks = [remark for each in connection.sent for remark in each.remarks]
    assert sorted(remarks) == sorted(f"remark {number}" for number in range(40))

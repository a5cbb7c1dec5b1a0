"""The program of a worker process: runs a job on the parts that `jobs/executor/pool.py` sends.

`pool.py` starts it as `python -m dinac_cli.worker`, with one end of a connection. It sends back
results, never pixels.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from dinac_cli.codec.machine import bound_memory, configure_threads, keep_memory
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Job, Made
from dinac_cli.jobs.executor.local import run_numbered
from dinac_cli.jobs.executor.messages import Assignment, Order, Part, Report, make_portable
from dinac_cli.jobs.executor.program import open_connection
from dinac_cli.storage.atomic import discard_live_temporaries

REPORT_SECONDS = 0.1
"""Results wait at most this long, so that one message carries many of them."""

TICK_SECONDS = 0.5
"""How often a worker reports while it works on one long entry, such as a shard."""

_LINGER_SECONDS = 0.05
"""If no part comes for this long, batches that are not full are computed."""


def main() -> None:
    """Serves the connection whose descriptor (on Windows: handle) is the only argument."""
    serve(open_connection(int(sys.argv[1])))


def serve(connection: Connection[Any, Any]) -> None:
    """Runs parts until the parent ends the run. Sends every error to the parent."""
    try:
        try:
            assignment: Assignment = connection.recv()
        except EOFError:  # the parent is gone
            return
        worker = _Worker(connection, assignment.control)
        configure_threads(assignment.control.threads)
        (bound_memory if assignment.control.bounds_memory else keep_memory)()
        with pickle.loads(assignment.job)() as job:
            if assignment.control.device:
                job.use_device(assignment.control.device)
            _spare_collections()
            worker.work(job)
    except BaseException as exc:
        with closing(connection), suppress(OSError):
            connection.send(Report(error=make_portable(exc)))


def _spare_collections() -> None:
    """Makes the collector of reference cycles run rarely: a run makes few of them.

    The modules and the job never become garbage.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _Worker:
    """The worker's side of the connection. It ends the process soon after the parent is gone."""

    def __init__(self, connection: Connection[Any, Any], control: RunControl) -> None:
        self._connection = connection
        self._remarks: list[str] = []
        self._control = replace(control, warn=self._remarks.append)
        self._inbox: queue.SimpleQueue[Part | Order] = queue.SimpleQueue()
        self._has_ended = self._has_told_room = self._has_told_model = False
        self._numbers: dict[int, int] = {}
        self._unsent: list[tuple[int, Made]] = []
        self._sent_at = time.monotonic()
        # A job may take its entries in a thread of its own, as shards do.
        self._reporting = threading.Lock()
        # Receives also while the job opens, because loading a large model takes long.
        threading.Thread(target=self._receive, daemon=True).start()

    def work(self, job: Job[Any, Any, Any]) -> None:
        """Runs a job on all parts until the run ends. Before an error, sends what is finished."""
        try:
            self._work(job)
        except BaseException:
            with suppress(OSError):
                self._connection.send(Report(tuple(self._unsent)))
            raise

    def _work(self, job: Job[Any, Any, Any]) -> None:
        self._job = job
        self._connection.send(Report())
        self._control.note_model = self._tell_model
        self._control.tick = self._report_now_and_then
        while not self._has_ended:
            self._adapt()
            self._numbers.clear()
            entries = self._take_entries()
            with closing(run_numbered(self._job, entries, self._control, ordered=False)) as outputs:
                for number, made in outputs:
                    self._unsent.append((self._numbers.pop(number), made))
                    self._report_if_due()
            self._report(has_stopped=bool(self._control.stop))

    def _receive(self) -> None:
        """Receives parts while the worker computes.

        Ends the process if the parent is gone, or if a message cannot be read: a worker that
        receives nothing would wait forever.
        """
        try:
            while True:
                message = self._connection.recv()
                if message is Order.STOP:
                    self._control.stop.set()
                self._inbox.put(message)
                if message is Order.END:
                    return
        except (EOFError, OSError):
            pass
        except BaseException:
            traceback.print_exc()
        discard_live_temporaries()
        os._exit(1)

    def _take_entries(self) -> Iterator[Any]:
        """Waits for a part; yields its entries, and those of the parts that follow at once."""
        message: Part | Order | None = self._inbox.get()
        taken = 0
        while message is not None and not isinstance(message, Order):
            for number, entry in message:
                self._report_if_due()
                self._numbers[taken] = number
                taken += 1
                yield entry
            if self._needs_threads:
                return
            message = self._wait_for_more()
        self._has_ended = message is Order.END

    @property
    def _needs_threads(self) -> bool:
        """True if the CPU computes, although a GPU was expected: threads must read ahead."""
        return self._control.cpu_limits is not None and self._job.is_on_cpu

    def _adapt(self) -> None:
        """Lets threads read and write if they are needed: this process works alone."""
        if self._needs_threads and self._control.cpu_limits is not None:
            workers, in_flight = self._control.cpu_limits
            self._control = replace(
                self._control, workers=workers, in_flight=in_flight, sharers=1, cpu_limits=None
            )

    def _tell_model(self) -> None:
        if not self._has_told_model:
            self._has_told_model = True
            with self._reporting:
                self._connection.send(Report(uses_model=True))

    def _wait_for_more(self) -> Part | Order | None:
        """Returns the next message; None if none comes for some time."""
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            self._report()
        try:
            return self._inbox.get(timeout=_LINGER_SECONDS)
        except queue.Empty:
            return None

    def _report_now_and_then(self) -> None:
        """Sends the clock, although no entry is finished."""
        if time.monotonic() - self._sent_at >= TICK_SECONDS:
            self._report()

    def _report_if_due(self) -> None:
        if self._unsent and time.monotonic() - self._sent_at >= REPORT_SECONDS:
            self._report()

    def _report(self, *, has_stopped: bool = False) -> None:
        with self._reporting:
            clock = self._control.clock.take()
            room = None if self._has_told_room else self._job.measure_room()
            self._has_told_room = self._has_told_room or room is not None
            made, remarks = tuple(self._unsent), tuple(self._remarks)
            self._connection.send(Report(made, clock, remarks, room, has_stopped=has_stopped))
            del self._unsent[: len(made)], self._remarks[: len(remarks)]
            self._sent_at = time.monotonic()


if __name__ == "__main__":
    main()

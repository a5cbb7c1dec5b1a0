"""The program that drives a Ray cluster for a run: one stateless task for each entry.

`ray.py` starts it as `python -m dinac_cli.jobs.executor.ray_driver`, with one end of a connection.
Ray prints to the screen, takes over signals and may end its process. So it has a process of its
own, which outlives Ctrl-C and cleans up if the parent is gone.
"""

from __future__ import annotations

import pickle
import queue
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import dinac_cli
from dinac_cli.errors import ClusterError, DeviceError, InputError, quote_error
from dinac_cli.jobs.executor.cluster import (
    Cluster,
    Node,
    choose_share,
    count_in_flight,
    describe,
)
from dinac_cli.jobs.executor.job import Entry, Made
from dinac_cli.jobs.executor.messages import Capacity, Order, Part, Report, make_portable
from dinac_cli.jobs.executor.program import end_process, open_connection
from dinac_cli.jobs.executor.ray_connection import connect
from dinac_cli.jobs.executor.ray_nodes import inspect_nodes, list_nodes, quote_cause
from dinac_cli.jobs.executor.ray_task import TaskSetup, run_entry
from dinac_cli.jobs.results import FileResult

MOST_RETRIES = 3
"""How many times Ray retries an entry whose worker process or node dies."""

MOST_DEATHS = 5
"""If this many entries in a row are given up, and none was finished, the run ends."""

READERS_PER_CPU = 4
"""The most threads that read, and the most that write, for each CPU of a process."""

PATIENCE_SECONDS = 20.0
"""If the cluster has no room for this long, the run says that it waits."""

_POLL_SECONDS = 0.1
_REFRESH_SECONDS = 2.0
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class DriverSetup:
    """The first message to the driver."""

    cluster: Cluster
    tasks: TaskSetup


class _ParentGoneError(Exception):
    """Nobody waits for results any more."""


def main() -> None:
    """Serves the connection whose descriptor (on Windows: handle) is the only argument."""
    serve(open_connection(int(sys.argv[1])))


def serve(connection: Connection[Any, Any]) -> None:
    """Runs the entries that the parent sends until it ends the run. Sends it every error."""
    try:
        setup: DriverSetup = connection.recv()
        inbox = _Inbox(connection)
        with connect(setup.cluster.find_address()) as ray:
            connection.send(Report())
            _Run(ray, setup, inbox, connection).go()
    except (EOFError, _ParentGoneError):
        pass
    except BaseException as exc:
        with closing(connection), suppress(OSError):
            connection.send(Report(error=make_portable(exc)))


class _Inbox:
    """The messages of the parent, received in a thread, so that its end is noticed soon."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self._is_gone = False
        self.has_stopped = self.has_ended = False
        threading.Thread(target=self._receive, daemon=True).start()

    def take(self, timeout: float) -> Part:
        """Returns entries that came within some seconds. Raises _ParentGoneError."""
        if self._is_gone:
            raise _ParentGoneError
        try:
            return self._parts.get(timeout=timeout) if timeout else self._parts.get_nowait()
        except queue.Empty:
            return []

    def _receive(self) -> None:
        try:
            while not self.has_ended:
                message = self._connection.recv()
                if message is Order.STOP:
                    self.has_stopped = True
                elif message is Order.END:
                    self.has_ended = True
                else:
                    self._parts.put(message)
        except (EOFError, OSError):
            self._is_gone = True
            time.sleep(_GRACE_SECONDS)  # Ray may wait for a cluster forever
            end_process()


class _Run:
    """The tasks of one run."""

    def __init__(
        self, ray: Any, setup: DriverSetup, inbox: _Inbox, connection: Connection[Any, Any]
    ) -> None:
        self._ray = ray
        self._cluster = setup.cluster
        self._tasks = setup.tasks
        self._inbox = inbox
        self._connection = connection
        self._running: dict[Any, tuple[int, Entry]] = {}
        self._capacity: Capacity | None = None
        self._refreshed_at = 0.0
        self._deaths = 0
        self._has_finished = self._is_stopping = self._has_told_stop = False

    def go(self) -> None:
        """Runs entries until the parent ends the run. Cancels the tasks in flight on an error."""
        try:
            nodes = list_nodes(self._ray)
            self._share = choose_share(self._cluster, nodes)
            self._fit_tasks(nodes)
            if not self._inbox.has_ended:
                self._inspect([node for node in nodes if self._share.count_on(node)])
                self._wait_for_room()
                self._work()
        except BaseException:
            for ref in self._running:
                with suppress(Exception):
                    self._ray.cancel(ref, force=True)
            raise

    def _fit_tasks(self, nodes: Sequence[Node]) -> None:
        """All nodes compute with the same number of threads, so that they write the same bytes."""
        control = self._tasks.control
        control = replace(
            control,
            threads=control.threads or self._share.cpus,
            # The caller counted the processors of its own machine.
            workers=min(control.workers, READERS_PER_CPU * self._share.cpus),
            sharers=max(self._share.count_on(node) for node in nodes),
        )
        self._tasks = replace(self._tasks, control=control)

    def _inspect(self, nodes: Sequence[Node]) -> None:
        """Checks every node. Raises ClusterError, which names all that cannot take part."""
        expected = inspect_nodes(
            self._ray, nodes, self._tasks, self._share, lambda: self._inbox.take(0)
        )
        trusted = frozenset(node.identity for node in nodes)
        self._tasks = replace(self._tasks, expected=expected, trusted=trusted)

    def _wait_for_room(self) -> None:
        """Tells the user if other work occupies the cluster."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._has_room() and not (self._inbox.has_stopped or self._inbox.has_ended):
            if time.monotonic() > deadline:
                remark = f"no node has {self._share} free; the run waits until other work ends"
                self._connection.send(Report(remarks=(remark,)))
                return
            self._inbox.take(0)
            time.sleep(_POLL_SECONDS)

    def _has_room(self) -> bool:
        free = self._ray.available_resources()
        has_gpu = free.get("GPU", 0) >= float(self._share.gpus)
        return bool(free.get("CPU", 0) >= self._share.cpus and has_gpu)

    def _work(self) -> None:
        self._task = self._ray.remote(
            num_cpus=self._share.cpus,
            num_gpus=float(self._share.gpus),
            max_calls=0,  # for tasks with GPUs, Ray's default is a new process for each task
            max_retries=MOST_RETRIES,
            scheduling_strategy="SPREAD",
        )(run_entry)
        self._shared = self._ray.put(pickle.dumps(self._tasks))
        while not (self._inbox.has_ended and not self._running):
            self._tell_capacity()
            self._submit(self._inbox.take(0 if self._running else _POLL_SECONDS))
            if self._inbox.has_stopped:
                self._obey_stop()
            for ref in self._wait_for_tasks():
                self._finish(ref, *self._running.pop(ref))

    def _submit(self, part: Part) -> None:
        if self._inbox.has_stopped:
            return
        for number, entry in part:
            ref = self._task.remote(self._shared, number, entry)
            self._running[ref] = number, entry

    def _tell_capacity(self) -> None:
        """Looks for nodes that joined or left, and tells the parent how many entries fit."""
        if time.monotonic() - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = time.monotonic()
        nodes = list_nodes(self._ray)
        in_flight = count_in_flight(self._cluster, self._share, nodes)
        capacity = Capacity(in_flight, describe(self._cluster, self._share, nodes))
        if capacity != self._capacity:
            self._capacity = capacity
            self._connection.send(capacity)

    def _obey_stop(self) -> None:
        """Cancels the tasks that have not started, and tells the parent when the others ended.

        Ray does not say which have started; those ignore it, see `ray_task._uninterrupted`.
        """
        if not self._is_stopping:
            self._is_stopping = True
            for ref in self._running:
                self._ray.cancel(ref, force=False, recursive=False)
        if not self._running and not self._has_told_stop:
            self._has_told_stop = True
            self._connection.send(Report(has_stopped=True))

    def _wait_for_tasks(self) -> list[Any]:
        if not self._running:
            return []
        running = list(self._running)
        ready, _ = self._ray.wait(running, num_returns=1, timeout=_POLL_SECONDS)
        if ready:
            ready, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        return list(ready)

    def _finish(self, ref: Any, number: int, entry: Entry) -> None:
        errors = self._ray.exceptions
        try:
            report: Report = self._ray.get(ref)
        except errors.TaskCancelledError:
            return
        except errors.RayTaskError as exc:
            raise ClusterError(
                f"a node cannot run dinac {dinac_cli.__version__}; install dinac-cli there, in "
                "this version, and run again",
                [quote_cause(exc)],
            ) from exc
        except errors.RayError as exc:
            report = Report(((number, Made(self._give_up(entry, exc))),))
        else:
            if report.error is not None:
                raise report.error
            self._has_finished = True
        self._connection.send(report)

    def _give_up(self, entry: Entry, exc: Exception) -> FileResult:
        """Returns the failure of an entry whose processes all died. Raises DeviceError."""
        reason = _explain_death(self._ray.exceptions, exc)
        self._deaths += 1
        if self._deaths >= MOST_DEATHS and not self._has_finished:
            raise DeviceError(
                f"none of the first {MOST_DEATHS} inputs was computed; the last one {reason}. "
                "Choose another --device, or try one input without --engine ray",
                [quote_error(exc)],
            ) from exc
        failure = InputError(f"{reason}; try it alone, without --engine ray", [quote_error(exc)])
        return replace(FileResult.fail(entry.label, failure), name=entry.name)


def _explain_death(errors: Any, exc: Exception) -> str:
    times = MOST_RETRIES + 1
    if isinstance(exc, errors.OutOfMemoryError):
        return f"ran out of memory {times} times"
    if isinstance(exc, errors.NodeDiedError):
        return f"lost its node {times} times"
    return f"killed its worker process {times} times"


if __name__ == "__main__":
    main()

"""Runs a job on a Ray cluster: one stateless task for each entry.

This process lists the entries and yields the results. Another one drives the cluster; see
`ray_driver.py`. Ray sees entries and results, never pixels.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any, Generic

from dinac_cli.errors import ClusterError, UsageError
from dinac_cli.jobs.executor.cluster import LOCAL, Cluster
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.job import E, R, W
from dinac_cli.jobs.executor.messages import Capacity, Order, Report
from dinac_cli.jobs.executor.pool import OpenJob, ignore_result
from dinac_cli.jobs.executor.program import start_program
from dinac_cli.jobs.executor.ray_driver import MOST_RETRIES, DriverSetup
from dinac_cli.jobs.executor.ray_task import Check, TaskSetup, check_nothing
from dinac_cli.jobs.executor.supply import Supply
from dinac_cli.jobs.results import FileResult

START_SECONDS = 120.0
"""The driver must have joined or started a cluster within this time."""

_DRIVER = "dinac_cli.jobs.executor.ray_driver"
_POLL_SECONDS = 0.2
_END_SECONDS = 30.0
_BREAK_SECONDS = 10.0
_QUOTED_BYTES = 2000
_LEASE_SECONDS = 600


def run_on_ray(
    open_job: OpenJob[E, W, R],
    entries: Iterable[E],
    control: RunControl,
    cluster: Cluster,
    check: Check = check_nothing,
    note: Callable[[E, FileResult], None] = ignore_result,
) -> Generator[FileResult, None, None]:
    """Runs a job on every entry in tasks of a Ray cluster, and yields each result when it is final.

    Results come in any order. `open_job` and `check` are pickled, and called on the nodes. An entry
    whose worker process or node dies is tried 3 times more; then it is a failure. `note` learns the
    entry of each result, and `control.say` the nodes and processes. Errors that end the run are
    those of `local.run_job`. Also raises UsageError without an address or without Ray, and
    ClusterError if the cluster does not answer, a node differs or fails `check`, no node has room
    for a process, or the cluster is lost.
    """
    cluster = replace(cluster, address=cluster.find_address())
    _require_ray()
    tasks = TaskSetup(
        key=secrets.token_hex(8),
        job=pickle.dumps(open_job),
        check=pickle.dumps(check),
        control=_limit(control),
        folder=os.getcwd(),
    )
    with (
        Supply(until_stopped(entries, control.stop)) as supply,
        _Driver(DriverSetup(cluster, tasks), supply, control, note) as driver,
    ):
        yield from driver.run()


def _require_ray() -> None:
    """Raises UsageError if Ray is not installed."""
    spec = find_spec("ray")
    if spec is None or spec.origin is None:  # a folder called ray is not Ray
        raise UsageError("--engine ray needs Ray; pip install 'dinac-cli[cluster]'")


def _limit(control: RunControl) -> RunControl:
    """Returns the limits of each task. Ray chooses the device of a process."""
    return replace(control.detach(), processes=1, devices=(), fits_device=False, cpu_limits=None)


def _choose_variables(address: str) -> dict[str, str]:
    """Returns the environment variables of the driver.

    Ray reports no usage, never copies the working folder to the nodes, and tries tasks that run out
    of memory as often as others. A worker process gets one task after another from this run for
    `_LEASE_SECONDS`, so it stays on its GPU. A cluster that the run starts has a token of its own.
    """
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_task_oom_retries": str(MOST_RETRIES),
        "RAY_worker_lease_timeout_milliseconds": str(1000 * _LEASE_SECONDS),
    }
    if address == LOCAL and "RAY_AUTH_MODE" not in os.environ:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return variables


class _Driver(Generic[E]):
    """The process that drives the cluster, and the entries that it holds, by number."""

    def __init__(
        self,
        setup: DriverSetup,
        supply: Supply[E],
        control: RunControl,
        note: Callable[[E, FileResult], None],
    ) -> None:
        self._setup = setup
        self._supply = supply
        self._stop = control.stop
        self._clock = control.clock
        self._say, self._warn = control.say, control.warn
        self._tick = control.tick
        self._note = note
        self._remarks: set[str] = set()
        self._held: dict[int, E] = {}
        self._in_flight = self._next = 0
        self._is_connected = self._is_stopping = self._has_stopped = False

    def __enter__(self) -> _Driver[E]:
        self._errors = tempfile.TemporaryFile()
        self._connection, theirs = Pipe()
        address = self._setup.cluster.find_address()
        try:
            with theirs:
                self._process: subprocess.Popen[bytes] = start_program(
                    _DRIVER,
                    theirs,
                    _choose_variables(address),
                    self._errors,
                    cwd=os.sep,  # Ray lets the nodes import modules from the folder of the driver
                    start_new_session=True,  # so that a terminal does not send Ctrl-C to Ray
                )
        except OSError as exc:
            self._connection.close()
            self._errors.close()
            raise ClusterError(
                f"cannot start the process that drives Ray: {exc}; end other processes, or run "
                "without --engine ray"
            ) from exc
        self._deadline = time.monotonic() + START_SECONDS
        self._send(self._setup)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._send(Order.END)
        else:
            self._connection.close()
        self._bury(_END_SECONDS if kind is None else _BREAK_SECONDS)
        self._connection.close()
        self._errors.close()

    def run(self) -> Iterator[FileResult]:
        """Yields every result. Raises the error that ends the run."""
        while not self._is_over():
            self._supply_driver()
            yield from self._listen()

    def _is_over(self) -> bool:
        if self._stop:
            return self._has_stopped or not self._held
        return not self._held and self._supply.has_ended

    def _supply_driver(self) -> None:
        if self._stop:
            if not self._is_stopping:
                self._is_stopping = True
                self._send(Order.STOP)
            return
        room = self._in_flight - len(self._held)
        if room > 0 and (entries := self._supply.take(room)):
            part = list(enumerate(entries, start=self._next))
            self._next += len(part)
            self._held.update(part)
            self._send(part)

    def _listen(self) -> Iterator[FileResult]:
        ready = wait([self._connection, self._supply.wake], _POLL_SECONDS)
        if self._supply.wake in ready:
            self._supply.clear_wake()
        if self._connection in ready:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                raise self._explain_end() from None
            yield from self._accept(message)
        elif not self._is_connected and time.monotonic() > self._deadline:
            raise ClusterError(
                f"Ray does not answer within {START_SECONDS:.0f} s; check --address, and the "
                "cluster with `ray status`",
                self._quote_errors(),
            )

    def _accept(self, message: Capacity | Report) -> Iterator[FileResult]:
        self._is_connected = True
        if isinstance(message, Capacity):
            self._in_flight = message.in_flight
            self._say(message.description)
            return
        if message.error is not None:
            raise message.error
        if message.clock is not None:
            self._clock.add(message.clock)
            self._tick()
        for remark in message.remarks:
            if remark not in self._remarks:
                self._remarks.add(remark)
                self._warn(remark)
        for number, made in message.made:
            self._note(self._held.pop(number), made.result)
            yield made.result
        self._has_stopped = self._has_stopped or message.has_stopped

    def _send(self, message: Any) -> None:
        """Sends a message. If the driver is dead, its connection reports that later."""
        with suppress(OSError):
            self._connection.send(message)

    def _explain_end(self) -> ClusterError:
        end = self._bury(_BREAK_SECONDS)
        return ClusterError(
            f"the Ray cluster was lost ({end}); start it again, and run the same command again to "
            "continue",
            self._quote_errors(),
        )

    def _bury(self, patience_seconds: float) -> str:
        """Waits for the driver to end; kills it after some time. Returns how it ended."""
        try:
            code = self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with suppress(ValueError):
            if code < 0 and sys.platform != "win32":
                return signal.Signals(-code).name
        return f"exit code {code}"

    def _quote_errors(self) -> list[str]:
        """Returns the last lines that Ray printed."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _QUOTED_BYTES))
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        return ["".join(c if c.isprintable() else "?" for c in line) for line in lines[-8:]]

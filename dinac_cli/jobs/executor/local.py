"""Runs a job on this machine: threads read and write, the caller's thread runs the model."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, BinaryIO, Generic

from dinac_cli.errors import DinacError, ImageError, InputError, OutputError, UnwritableDiskError
from dinac_cli.jobs.executor.batches import Batcher
from dinac_cli.jobs.executor.budget import READ_BYTES, ByteBudget, start_ahead
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.job import Computing, E, Job, Made, R, W
from dinac_cli.jobs.results import FileResult

REORDER_BYTES = 256 * 2**20
"""Memory that works may occupy together while they wait for their batches to fill."""

BATCHES_AHEAD = 3
"""Batches that the device may hold besides the one that the run waits for."""

_NICENESS, _MOST_NICENESS = 10, 19


def run_job(
    job: Job[E, W, R], entries: Iterable[E], control: RunControl, stream: BinaryIO | None = None
) -> Generator[FileResult, None, None]:
    """Runs `job` on every entry and yields each result as soon as it is final.

    If `stream` is given, outputs are written to it in the order of the entries. The number of
    entries does not change the memory that is needed. A full disk or a failing device ends the run
    with an error; any other error is the failure of one input.
    """
    with (
        ThreadPoolExecutor(control.workers, "read", initializer=_yield_to_model) as readers,
        ThreadPoolExecutor(control.workers, "write", initializer=_yield_to_model) as writers,
        ByteBudget(READ_BYTES) as budget,
    ):
        run = _Run(job, control, writers, budget, ordered=stream is not None)
        with closing(run.go(readers, until_stopped(entries, control.stop))) as outputs:
            for made in outputs:
                if stream is not None and made.data:
                    with control.clock.measure("write"):
                        stream.write(made.data)
                        stream.flush()
                yield made.result


def _yield_to_model() -> None:
    """Lowers the calling thread's priority below that of the threads that compute (Linux only).

    The computing threads wait for one another, so a reader that displaces one of them delays them
    all. With one micro-batch at a time, 300 photographs on two cores took 1.15 times as long as the
    model alone, and 1.19 times without this priority (means of four runs). With two at a time, the
    gain was 1 %.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _MOST_NICENESS))


class _Outbox:
    """Futures of outputs that are being written, numbered in the order of the inputs.

    If `ordered` (for a stream), outputs leave in this order; otherwise each leaves when it is done.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._pending: dict[int, Future[Made]] = {}
        self._next = 0

    def put(self, number: int, future: Future[Made]) -> None:
        """Adds the output of input `number`."""
        self._pending[number] = future

    def put_result(self, number: int, result: FileResult) -> None:
        """Adds a result that needs no writing."""
        future = self._pending[number] = Future()
        future.set_result(Made(result))

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def waits_for_model(self) -> bool:
        """True if outputs are ordered and the next one has not been computed yet."""
        return self._ordered and bool(self._pending) and self._next not in self._pending

    def list_leaving(self) -> list[Future[Made]]:
        """Returns the pending outputs that may leave next."""
        if not self._ordered:
            return list(self._pending.values())
        return [self._pending[self._next]] if self._next in self._pending else []

    def take_ready(self, at_most: int) -> Iterator[Made]:
        """Yields finished outputs; waits until `at_most` are left, unless the model is behind."""
        while self._pending:
            number = self._find_ready(must_wait=len(self._pending) > at_most)
            if number is None:
                return
            self._next = number + 1
            yield self._pending.pop(number).result()

    def _find_ready(self, *, must_wait: bool) -> int | None:
        if self._ordered:
            future = self._pending.get(self._next)
            return self._next if future and (must_wait or future.done()) else None
        if must_wait:
            wait(self._pending.values(), return_when=FIRST_COMPLETED)
        return next((n for n, future in self._pending.items() if future.done()), None)


class _Run(Generic[E, W, R]):
    def __init__(
        self,
        job: Job[E, W, R],
        control: RunControl,
        writers: ThreadPoolExecutor,
        budget: ByteBudget,
        *,
        ordered: bool,
    ) -> None:
        self._job = job
        self._clock = control.clock
        self._in_flight = control.in_flight
        self._writers = writers
        self._budget = budget
        self._outbox = _Outbox(ordered=ordered)
        self._computing: deque[tuple[list[tuple[int, W]], Computing[R]]] = deque()
        self._batcher: Batcher[Hashable, tuple[int, W]] = Batcher(job.batch_size, REORDER_BYTES)

    def go(self, readers: ThreadPoolExecutor, entries: Iterable[E]) -> Generator[Made, None, None]:
        """Yields every output; closing the generator stops the reading."""
        with closing(
            start_ahead(readers, self._read, enumerate(entries), self._in_flight)
        ) as reads:
            for read in self._clock.wait_for("read", reads):
                yield from self._drain_while_waiting(read)
                with self._clock.measure("read"):
                    number, outcome = read.result()
                self._budget.give_back(number)
                self._pass_on(number, outcome)
                yield from self._take(self._in_flight)
        for batch in self._batcher.flush():
            self._compute(batch)
            yield from self._take(self._in_flight)
        self._collect(0)
        yield from self._take(0)

    def _drain_while_waiting(self, read: Future[tuple[int, W | FileResult]]) -> Iterator[Made]:
        """Yields the outputs that finish before the next input is read.

        If input arrives slowly, finished outputs are emitted immediately.
        """
        while self._computing and not read.done():
            self._collect(len(self._computing) - 1)
            yield from self._take(self._in_flight)
        while not read.done() and (leaving := self._outbox.list_leaving()):
            either: list[Future[Any]] = [read, *leaving]
            with self._clock.measure("read"):
                wait(either, return_when=FIRST_COMPLETED)
            yield from self._take(len(self._outbox))

    def _pass_on(self, number: int, outcome: W | FileResult) -> None:
        """Passes read inputs to the model and final results to the outbox."""
        if isinstance(outcome, FileResult):
            self._outbox.put_result(number, outcome)
        else:
            for batch in self._batcher.add((number, outcome), outcome.group, outcome.held_bytes):
                self._compute(batch)
        if self._outbox.waits_for_model and len(self._outbox) >= self._in_flight:
            for batch in self._batcher.flush():
                self._compute(batch)
            self._collect(0)

    def _read(self, numbered: tuple[int, E]) -> tuple[int, W | FileResult]:
        number, entry = numbered
        try:
            outcome = self._job.read(entry, lambda size: self._budget.take(number, size))
        except UnwritableDiskError:  # the disk may lack the room for another folder
            raise
        except DinacError as exc:
            outcome = FileResult.fail(entry.label, exc)
        except OSError as exc:
            error = InputError(f"cannot read: {exc.strerror or exc}")
            outcome = FileResult.fail(entry.label, error)
        except MemoryError:
            error = InputError("not enough memory to read it; scale it down")
            outcome = FileResult.fail(entry.label, error)
        if isinstance(outcome, FileResult):
            outcome = replace(outcome, name=entry.name)
        return number, outcome

    def _compute(self, batch: list[tuple[int, W]]) -> None:
        try:
            with self._clock.measure("model"):
                self._computing.append((batch, self._job.submit([work for _, work in batch])))
        except ImageError as exc:
            for number, work in batch:
                self._outbox.put_result(number, FileResult.fail(work.label, exc, name=work.name))
        self._collect(BATCHES_AHEAD)

    def _collect(self, at_most: int) -> None:
        """Passes finished batches to the writers; waits until at most `at_most` are in flight."""
        while self._computing and (len(self._computing) > at_most or self._computing[0][1].is_done):
            batch, computing = self._computing.popleft()
            with self._clock.measure("model"):
                computed = computing.result()
            for (number, work), result in zip(batch, computed, strict=True):
                self._outbox.put(number, self._writers.submit(self._finish, work, result))

    def _finish(self, work: W, computed: R) -> Made:
        try:
            made = self._job.finish(work, computed)
        except UnwritableDiskError:
            raise
        except DinacError as exc:
            made = Made(FileResult.fail(work.label, exc))
        except MemoryError:
            failure = OutputError("not enough memory to write it; free some and run again")
            made = Made(FileResult.fail(work.label, failure))
        return replace(made, result=replace(made.result, name=work.name))

    def _take(self, at_most: int) -> Iterator[Made]:
        return self._clock.wait_for("write", self._outbox.take_ready(at_most))

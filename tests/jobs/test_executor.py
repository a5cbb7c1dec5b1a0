"""The loop of every job: order, failures, the end of a run, and no thread left behind."""

from __future__ import annotations

import io
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from dinac_cli.errors import (
    DeviceError,
    DinacError,
    ImageError,
    OutputError,
    UnwritableDiskError,
    UsageError,
)
from dinac_cli.jobs.executor import local as job_module
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.results import FileResult, Status


@dataclass(frozen=True)
class Entry:
    number: int
    group: Hashable = "one"
    size_bytes: int = 1

    @property
    def label(self) -> str:
        return f"entry {self.number}"


@dataclass(frozen=True)
class NumberedWork(Work):
    number: int


@dataclass
class Doubled:
    """A batch that is done at once, or when it is waited for."""

    job: Doubling
    numbers: list[int]
    is_done: bool

    def result(self) -> list[int]:
        self.job.under_way -= 1
        return self.numbers


@dataclass
class Doubling(Job[Entry, NumberedWork, int]):
    """Doubles the numbers of its entries; what a step should raise is said by number."""

    at_read: dict[int, Exception] = field(default_factory=dict)
    at_compute: dict[int, Exception] = field(default_factory=dict)
    at_finish: dict[int, Exception] = field(default_factory=dict)
    done_already: frozenset[int] = frozenset()
    capacity: int = 1
    pause: Callable[[], float] = lambda: 0.0
    to_stream: bool = False
    read_numbers: list[int] = field(default_factory=list)
    takes_time: bool = False
    under_way: int = 0
    most_under_way: int = 0
    batches: list[list[int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
        self.read_numbers.append(entry.number)
        time.sleep(self.pause())
        if entry.number in self.at_read:
            raise self.at_read[entry.number]
        if entry.number in self.done_already:
            return FileResult(entry.label, Status.DONE)
        hold(entry.size_bytes)
        return NumberedWork(entry.label, entry.group, entry.size_bytes, entry.number)

    def batch_size(self, group: Hashable) -> int:
        return self.capacity

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        self.threads.add(threading.current_thread().name)
        self.batches.append([work.number for work in batch])
        for work in batch:
            if work.number in self.at_compute:
                raise self.at_compute[work.number]
        if self.takes_time:
            time.sleep(0.02)  # in which what is read next gets ahead
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return Doubled(self, [2 * work.number for work in batch], is_done=not self.takes_time)

    def finish(self, work: NumberedWork, computed: int) -> Made:
        time.sleep(self.pause())
        if work.number in self.at_finish:
            raise self.at_finish[work.number]
        result = FileResult(work.label, Status.WRITTEN, bytes_out=computed)
        return Made(result, f"{computed}\n".encode() if self.to_stream else b"")


def run(
    job: Doubling,
    entries: Iterable[Entry],
    control: RunControl | None = None,
    stream: io.BytesIO | None = None,
) -> Generator[FileResult, None, None]:
    return run_job(job, entries, control or RunControl(workers=2, in_flight=4), stream)


def make_entries(count: int) -> list[Entry]:
    return [Entry(number) for number in range(count)]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_everything_is_done_once() -> None:
    job = Doubling(pause=lambda: random.random() / 500)
    results = list(run(job, make_entries(50)))
    assert sorted(result.bytes_out for result in results) == [2 * n for n in range(50)]
    assert all(result.status is Status.WRITTEN for result in results)


def test_nothing_to_do() -> None:
    assert list(run(Doubling(), [])) == []


@pytest.mark.parametrize("to_stream", [True, False])
@pytest.mark.parametrize("takes_time", [True, False])
def test_few_batches_are_under_way(takes_time: bool, to_stream: bool) -> None:
    job = Doubling(takes_time=takes_time, capacity=2, to_stream=to_stream)
    stream = io.BytesIO() if to_stream else None
    control = RunControl(workers=2, in_flight=16)
    results = list(run(job, make_entries(31), control, stream=stream))
    assert sorted(result.bytes_out for result in results) == [2 * n for n in range(31)]
    assert job.under_way == 0
    assert job.most_under_way == (1 + job_module.BATCHES_AHEAD if takes_time else 1)
    if stream is not None:
        assert stream.getvalue() == b"".join(b"%d\n" % (2 * n) for n in range(31))


@pytest.mark.parametrize("to_stream", [True, False])
@pytest.mark.parametrize("takes_time", [True, False])
def test_outputs_do_not_wait_for_the_next_input(takes_time: bool, to_stream: bool) -> None:
    fed = threading.Event()

    class Fed(Doubling):
        def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
            if entry.number == 3:
                assert fed.wait(timeout=30)
            return super().read(entry, hold)

    job = Fed(takes_time=takes_time, to_stream=to_stream)
    stream = io.BytesIO() if to_stream else None
    results = run(job, make_entries(6), RunControl(workers=4, in_flight=4), stream)
    began = time.monotonic()
    assert sorted(next(results).bytes_out for _ in range(3)) == [0, 2, 4]
    assert time.monotonic() - began < 15
    if stream is not None:
        assert stream.getvalue() == b"0\n2\n4\n"
    fed.set()
    assert sorted(result.bytes_out for result in results) == [6, 8, 10]


def test_model_runs_in_the_callers_thread() -> None:
    job = Doubling()
    list(run(job, make_entries(3)))
    assert job.threads == {threading.current_thread().name}


@pytest.mark.parametrize("capacity", [1, 3, 100])
@pytest.mark.parametrize(("workers", "in_flight"), [(1, 1), (4, 2), (3, 16)])
def test_stream_has_the_order_of_the_entries(capacity: int, workers: int, in_flight: int) -> None:
    rng = random.Random(0)
    job = Doubling(
        capacity=capacity,
        pause=lambda: rng.random() / 1000,
        to_stream=True,
        at_read={5: ImageError("bad")},
        at_compute={11: ImageError("large")} if capacity == 1 else {},
        at_finish={17: OutputError("no")},
        done_already=frozenset({2, 3}),
    )
    entries = [Entry(number, group=number % 3) for number in range(40)]
    stream = io.BytesIO()
    results = list(run(job, entries, RunControl(workers, in_flight), stream))
    assert [result.file for result in results] == [entry.label for entry in entries]
    left_out = {2, 3, 5, 17} | ({11} if capacity == 1 else set())
    written = [2 * number for number in range(40) if number not in left_out]
    assert stream.getvalue() == "".join(f"{number}\n" for number in written).encode()


def test_stream_is_flushed_after_each_record() -> None:
    class Watched(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Watched()
    list(run(Doubling(to_stream=True), make_entries(3), stream=stream))
    assert stream.flushed == 3


def test_batches_are_of_one_group() -> None:
    job = Doubling(capacity=3)
    entries = [Entry(number, group="even" if number % 2 == 0 else "odd") for number in range(10)]
    list(run(job, entries))
    assert sorted(map(tuple, job.batches)) == [(0, 2, 4), (1, 3, 5), (6, 8), (7, 9)]


class TestFailures:
    def test_bad_input_is_one_failure(self) -> None:
        job = Doubling(
            at_read={
                1: ImageError("not an image"),
                2: OSError(5, "Input/output error"),
                3: MemoryError(),
                4: OSError("odd"),
            },
        )
        results = {result.file: result for result in run(job, make_entries(6))}
        reasons = {file: result.reason for file, result in results.items() if result.failed}
        assert reasons == {
            "entry 1": "not an image",
            "entry 2": "cannot read: Input/output error",
            "entry 3": "not enough memory to read it; scale it down",
            "entry 4": "cannot read: odd",
        }
        assert results["entry 5"].status is Status.WRITTEN

    def test_batch_that_cannot_be_computed_fails_as_a_whole(self) -> None:
        job = Doubling(capacity=2, at_compute={3: ImageError("out of memory")})
        results = {result.file: result for result in run(job, make_entries(6))}
        failed = {file for file, result in results.items() if result.failed}
        assert failed == {"entry 2", "entry 3"}
        assert results["entry 2"].reason == "out of memory"

    def test_output_that_cannot_be_written_is_one_failure(self) -> None:
        job = Doubling(at_finish={1: OutputError("exists"), 2: MemoryError()})
        results = {result.file: result for result in run(job, make_entries(4))}
        assert results["entry 1"].reason == "exists"
        assert results["entry 2"].reason == "not enough memory to write it; free some and run again"
        assert [result.status for result in results.values()].count(Status.WRITTEN) == 2

    @pytest.mark.parametrize(
        "job",
        [
            Doubling(at_read={3: UnwritableDiskError("full")}),
            Doubling(at_finish={3: UnwritableDiskError("full")}),
            Doubling(at_compute={3: DeviceError("gone")}),
        ],
    )
    def test_end_of_the_run(self, job: Doubling) -> None:
        results = run(job, make_entries(1000))
        with pytest.raises(DinacError, match=r"full|gone"):
            for _ in results:
                pass
        assert len(job.read_numbers) < 50

    def test_reads_that_are_not_begun_are_given_up(self) -> None:
        job = Doubling(pause=lambda: 0.01, at_compute={0: DeviceError("gone")})
        with pytest.raises(DeviceError):
            list(run(job, make_entries(100), RunControl(workers=1, in_flight=60)))
        assert len(job.read_numbers) < 20 + 60 // 2  # the first may wait for all to be submitted

    def test_entries_that_cannot_be_listed(self) -> None:
        def entries() -> Iterator[Entry]:
            yield from make_entries(3)
            raise UsageError("second record")

        with pytest.raises(UsageError, match="second record"):
            list(run(Doubling(), entries()))


class TestBounds:
    def test_in_flight(self) -> None:
        taken = 0

        def entries() -> Iterator[Entry]:
            nonlocal taken
            for entry in make_entries(100):
                taken += 1
                yield entry

        control = RunControl(workers=2, in_flight=5)
        for given, _ in enumerate(run(Doubling(), entries(), control)):
            # as many are read ahead as are on their way out
            assert taken <= given + 2 * 5 + 1

    def test_one_that_waits_for_company_does_not_hold_up_a_stream(self) -> None:
        """The rest would pile up behind it until the end of the run."""
        taken = 0

        def entries() -> Iterator[Entry]:
            nonlocal taken
            for entry in make_entries(500):
                taken += 1
                yield entry

        job = Doubling(capacity=100, done_already=frozenset(range(1, 500)))
        results = run(job, entries(), RunControl(workers=2, in_flight=5), io.BytesIO())
        assert next(results).file == "entry 0"
        assert taken <= 3 * 5
        results.close()

    @pytest.mark.parametrize("ordered", [False, True])
    def test_large_inputs_pass_one_by_one(
        self, ordered: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_module, "READ_BYTES", 10)
        monkeypatch.setattr(job_module, "REORDER_BYTES", 10)
        entries = [Entry(number, number % 2, size_bytes=8) for number in range(30)]
        job = Doubling(capacity=4, to_stream=ordered)
        control = RunControl(workers=4, in_flight=8)
        stream = io.BytesIO() if ordered else None
        assert len(list(run(job, entries, control, stream))) == 30
        assert all(len(batch) <= 2 for batch in job.batches)


class TestEarlyEnd:
    def test_closing_lets_go_of_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job_module, "READ_BYTES", 10)
        entries = [Entry(number, size_bytes=8) for number in range(1000)]
        job = Doubling(pause=lambda: 0.001)
        results = run(job, entries, RunControl(workers=4, in_flight=8))
        next(results)
        results.close()
        assert len(job.read_numbers) < 40
        assert not [t for t in threading.enumerate() if t.name.startswith(("read", "write"))]

    def test_closing_before_the_start(self) -> None:
        job = Doubling()
        run(job, make_entries(3)).close()
        assert job.read_numbers == []

    def test_stop_finishes_what_is_in_flight(self) -> None:
        taken = 0

        def entries() -> Iterator[Entry]:
            nonlocal taken
            for entry in make_entries(1000):
                taken += 1
                yield entry

        job = Doubling(capacity=3, pause=lambda: 0.001)
        control = RunControl(workers=2, in_flight=6)
        results = []
        for result in run(job, entries(), control):
            results.append(result)
            control.stop.set()
        assert {result.status for result in results} == {Status.WRITTEN}
        assert sorted(job.read_numbers) == sorted(result.bytes_out // 2 for result in results)
        assert len(results) in (taken, taken - 1)  # one may have been looked at and left
        assert taken < 30


def test_clock_sees_every_stage() -> None:
    control = RunControl()
    list(run(Doubling(pause=lambda: 0.002), make_entries(20), control))
    assert all(seconds > 0 for seconds in control.clock.seconds.values())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_readers_and_writers_give_way_to_the_model() -> None:
    def measure() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = measure()
    with ThreadPoolExecutor(1, initializer=job_module._yield_to_model) as pool:
        assert pool.submit(measure).result() == max(before, job_module._NICENESS)
    assert measure() == before

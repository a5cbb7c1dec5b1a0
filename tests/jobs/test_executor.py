"""The loop of every job: order, failures, the end of a run, and no leftover thread."""

from __future__ import annotations

import io
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from dinac_cli.errors import (
    DeviceError,
    DinacError,
    FormatError,
    ImageError,
    OutputError,
    Rejection,
    UnwritableDiskError,
    UsageError,
)
from dinac_cli.jobs.executor import local
from dinac_cli.jobs.executor.budget import READ_BYTES
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Job, Made
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.results import FileResult, Status

from .hand_made import Counted, run_control
from .numbered import Entry, NumberedWork

PATIENCE_SECONDS = 120.0
MOMENT_SECONDS = 0.05


@dataclass
class Doubled:
    """A batch that is done at once, or only if `result` waits for it."""

    job: Doubling
    numbers: list[int]
    is_done: bool

    def result(self) -> list[int]:
        self.job.in_flight -= 1
        return self.numbers


@dataclass
class Doubling(Job[Entry, NumberedWork, int]):
    """Doubles the numbers of its entries; `at_…` are the errors of each step, by number."""

    at_read: dict[int, Exception] = field(default_factory=dict)
    at_compute: dict[int, Exception] = field(default_factory=dict)
    at_finish: dict[int, Exception] = field(default_factory=dict)
    done_already: frozenset[int] = frozenset()
    capacity: int = 1
    pause: Callable[[], float] = lambda: 0.0
    to_stream: bool = False
    read_numbers: list[int] = field(default_factory=list)
    takes_time: bool = False
    entries: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
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
        return NumberedWork(entry.label, entry.name, entry.group, entry.size_bytes, entry.number)

    def batch_size(self, group: Hashable) -> int:
        return self.capacity

    def submit(self, batch: list[NumberedWork]) -> Doubled:
        self.threads.add(threading.current_thread().name)
        self.batches.append([work.number for work in batch])
        for work in batch:
            if work.number in self.at_compute:
                raise self.at_compute[work.number]
        if self.takes_time:
            self._wait_for_readers(batch[-1].number + 1 + 2 * self.capacity * local.BATCHES_AHEAD)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return Doubled(self, [2 * work.number for work in batch], is_done=not self.takes_time)

    def _wait_for_readers(self, count: int) -> None:
        """Waits until `count` entries, or all, have been read or are being read."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self.read_numbers) < min(count, self.entries) and time.monotonic() < end:
            time.sleep(0.001)

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
def no_leftover_thread() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_entry_is_done_once() -> None:
    job = Doubling(pause=lambda: random.random() / 500)
    results = list(run(job, make_entries(50)))
    assert sorted(result.bytes_out for result in results) == [2 * n for n in range(50)]
    assert all(result.status is Status.WRITTEN for result in results)


def test_no_entries_give_no_results() -> None:
    assert list(run(Doubling(), [])) == []


@pytest.mark.parametrize("to_stream", [True, False])
@pytest.mark.parametrize("takes_time", [True, False])
def test_few_batches_are_in_flight(takes_time: bool, to_stream: bool) -> None:
    job = Doubling(takes_time=takes_time, entries=31, capacity=2, to_stream=to_stream)
    stream = io.BytesIO() if to_stream else None
    control = RunControl(workers=2, in_flight=16)
    results = list(run(job, make_entries(31), control, stream=stream))
    assert sorted(result.bytes_out for result in results) == [2 * n for n in range(31)]
    assert job.in_flight == 0
    assert job.most_in_flight == (1 + local.BATCHES_AHEAD if takes_time else 1)
    if stream is not None:
        assert stream.getvalue() == b"".join(b"%d\n" % (2 * n) for n in range(31))


@pytest.mark.parametrize("to_stream", [True, False])
@pytest.mark.parametrize("takes_time", [True, False])
def test_outputs_do_not_wait_for_the_next_input(takes_time: bool, to_stream: bool) -> None:
    fed = threading.Event()

    class Fed(Doubling):
        def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
            if entry.number == 3:
                assert fed.wait(PATIENCE_SECONDS)
            return super().read(entry, hold)

    job = Fed(takes_time=takes_time, entries=3, to_stream=to_stream)
    stream = io.BytesIO() if to_stream else None
    results = run(job, make_entries(6), RunControl(workers=4, in_flight=4), stream)
    # If an output waited for the next input, that input would fail, and raise its error here.
    assert sorted(next(results).bytes_out for _ in range(3)) == [0, 2, 4]
    if stream is not None:
        assert stream.getvalue() == b"0\n2\n4\n"
    fed.set()
    assert sorted(result.bytes_out for result in results) == [6, 8, 10]


def test_the_model_runs_in_the_callers_thread() -> None:
    job = Doubling()
    list(run(job, make_entries(3)))
    assert job.threads == {threading.current_thread().name}


@pytest.mark.parametrize("capacity", [1, 3, 100])
@pytest.mark.parametrize(("workers", "in_flight"), [(1, 1), (4, 2), (3, 16)])
def test_a_stream_has_the_order_of_the_entries(capacity: int, workers: int, in_flight: int) -> None:
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
    control = RunControl(workers=workers, in_flight=in_flight)
    results = list(run(job, entries, control, stream))
    assert [result.file for result in results] == [entry.label for entry in entries]
    left_out = {2, 3, 5, 17} | ({11} if capacity == 1 else set())
    written = [2 * number for number in range(40) if number not in left_out]
    assert stream.getvalue() == "".join(f"{number}\n" for number in written).encode()


def test_a_stream_is_flushed_after_each_record() -> None:
    class Watched(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Watched()
    list(run(Doubling(to_stream=True), make_entries(3), stream=stream))
    assert stream.flushed == 3


class TestOutputOrder:
    """Outputs leave in the order of the entries if they go to a stream, else when they are done."""

    @staticmethod
    def make_job(written: dict[int, threading.Event], *, to_stream: bool) -> Doubling:
        """Returns a job whose writer of each number waits for its event."""

        class Held(Doubling):
            def finish(self, work: NumberedWork, computed: int) -> Made:
                assert written[work.number].wait(PATIENCE_SECONDS)
                return super().finish(work, computed)

        return Held(to_stream=to_stream)

    def test_a_slow_write_does_not_hold_up_a_finished_one(self) -> None:
        written = {number: threading.Event() for number in range(3)}
        results = run(self.make_job(written, to_stream=False), make_entries(3), run_control(4, 4))
        for number in (1, 2, 0):
            written[number].set()
            assert next(results).name == f"entry {number}"
        assert list(results) == []

    def test_a_slow_write_does_not_hold_up_the_next_input(self) -> None:
        fed, written = threading.Event(), threading.Event()

        class Slow(Doubling):
            def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
                assert entry.number == 0 or fed.wait(PATIENCE_SECONDS)
                return super().read(entry, hold)

            def finish(self, work: NumberedWork, computed: int) -> Made:
                assert work.number == 1 or written.wait(PATIENCE_SECONDS)
                return super().finish(work, computed)

        results = run(Slow(), make_entries(2), run_control(4, 4))
        feed = threading.Timer(MOMENT_SECONDS, fed.set)
        feed.start()
        assert next(results).name == "entry 1"
        written.set()
        assert [result.name for result in results] == ["entry 0"]
        feed.join()

    def test_a_stream_holds_back_a_finished_output_until_its_turn(self) -> None:
        written = {number: threading.Event() for number in range(3)}
        stream, left = io.BytesIO(), list[str]()
        results = run(
            self.make_job(written, to_stream=True), make_entries(3), run_control(4, 4), stream
        )
        taking = threading.Thread(target=lambda: left.extend(r.name for r in results))
        taking.start()
        written[1].set()
        taking.join(MOMENT_SECONDS)
        assert (left, stream.getvalue()) == ([], b"")
        written[0].set()
        written[2].set()
        taking.join(PATIENCE_SECONDS)
        assert left == ["entry 0", "entry 1", "entry 2"]
        assert stream.getvalue() == b"0\n2\n4\n"

    @pytest.mark.parametrize("to_stream", [False, True])
    def test_entries_are_not_read_on_while_too_many_writes_are_pending(
        self, to_stream: bool
    ) -> None:
        written = {number: threading.Event() for number in range(100)}
        job = self.make_job(written, to_stream=to_stream)
        stream = io.BytesIO() if to_stream else None
        results = run(job, make_entries(100), RunControl(workers=2, in_flight=4), stream)
        taken: list[FileResult] = []
        taking = threading.Thread(target=lambda: taken.extend(results))
        taking.start()
        taking.join(2 * MOMENT_SECONDS)
        assert taken == []
        assert len(job.read_numbers) <= 3 * 4
        for event in written.values():
            event.set()
        taking.join(PATIENCE_SECONDS)
        assert sorted(result.bytes_out for result in taken) == [2 * n for n in range(100)]

    def test_failures_before_the_first_computed_output_leave_in_order(self) -> None:
        """The first entry is not computed before its batch fills or the entries end."""
        job = Doubling(capacity=9, to_stream=True, at_read={1: ImageError("bad")})
        stream = io.BytesIO()
        names = [result.name for result in run(job, make_entries(3), run_control(4, 4), stream)]
        assert names == ["entry 0", "entry 1", "entry 2"]
        assert stream.getvalue() == b"0\n4\n"


def test_only_an_output_without_a_file_keeps_its_bytes() -> None:
    streamed = FileResult("a.jpg", Status.WRITTEN)
    written = FileResult("a.jpg", Status.WRITTEN, output="out/a.jpg.dinac")
    assert Made.from_output(streamed, b"record") == Made(streamed, b"record")
    assert Made.from_output(written, b"record") == Made(written, b"")


class Glancing(Doubling):
    """Knows entries that are done already without reading them."""

    @property
    def glances(self) -> bool:
        return True

    def glance(self, entry: Entry) -> FileResult | None:
        if entry.number not in self.done_already:
            return None
        return FileResult(entry.label, Status.DONE, name=entry.name)


@pytest.mark.parametrize("to_stream", [False, True])
@pytest.mark.parametrize(("workers", "in_flight"), [(0, 4), (1, 1), (2, 4), (4, 2)])
def test_known_outputs_are_not_read(workers: int, in_flight: int, to_stream: bool) -> None:
    known = frozenset(n for n in range(500) if n % 7)
    job = Glancing(done_already=known, to_stream=to_stream, capacity=3)
    stream = io.BytesIO() if to_stream else None
    control = RunControl(workers=workers, in_flight=in_flight)
    results = list(run(job, make_entries(500), control, stream))
    assert len({result.name for result in results}) == len(results) == 500
    assert {r.name for r in results if r.status is Status.DONE} == {f"entry {n}" for n in known}
    assert sorted(job.read_numbers) == sorted(set(range(500)) - known)
    if to_stream:
        assert [result.name for result in results] == [f"entry {n}" for n in range(500)]


@pytest.mark.parametrize("to_stream", [False, True])
def test_a_known_output_leaves_while_the_next_entry_is_read(to_stream: bool) -> None:
    pause = iter([MOMENT_SECONDS, 0.0])  # a slow read, then its output
    job = Glancing(done_already=frozenset({0}), pause=lambda: next(pause), to_stream=to_stream)
    stream = io.BytesIO() if to_stream else None
    results = list(run(job, make_entries(2), RunControl(workers=1, in_flight=1), stream))
    assert [result.name for result in results] == ["entry 0", "entry 1"]


class Overtaking(Glancing):
    """The second entry that is read takes its memory before the first one."""

    def __init__(self, first: int) -> None:
        super().__init__(done_already=frozenset(range(first)))
        self._first = first
        self._overtaken = threading.Event()

    def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
        if entry.number == self._first:
            assert self._overtaken.wait(PATIENCE_SECONDS)
        work = super().read(entry, hold)
        self._overtaken.set()
        return work


@pytest.mark.parametrize("first", [0, 1, 100])
def test_the_oldest_read_never_waits_for_memory(first: int) -> None:
    """Also if the entries before it were known, and not read."""
    entries = [Entry(number, size_bytes=READ_BYTES) for number in range(first + 2)]
    results = list(run(Overtaking(first), entries, RunControl(workers=2, in_flight=4)))
    assert len(results) == first + 2


def test_a_full_memory_does_not_stop_the_glances() -> None:
    """Readers that wait for memory do not keep the entries after them from being looked at."""
    job = Glancing(done_already=frozenset(range(100, 400)), capacity=50)
    entries = [Entry(number, size_bytes=READ_BYTES) for number in range(500)]
    results = list(run(job, entries, RunControl(workers=2, in_flight=4)))
    assert len(results) == 500


def test_known_outputs_do_not_wait_for_a_slow_list_of_entries() -> None:
    fed = threading.Event()

    def entries() -> Iterator[Entry]:
        yield from make_entries(3)
        time.sleep(2 * local._CHUNK_SECONDS)
        yield Entry(3)
        assert fed.wait(PATIENCE_SECONDS)
        yield Entry(4)

    job = Glancing(done_already=frozenset(range(5)))
    results = run(job, entries(), RunControl(workers=0, in_flight=1))
    assert [next(results).name for _ in range(4)] == [f"entry {n}" for n in range(4)]
    fed.set()
    assert [result.name for result in results] == ["entry 4"]


def test_a_batch_holds_one_group() -> None:
    job = Doubling(capacity=3)
    entries = [Entry(number, group="even" if number % 2 == 0 else "odd") for number in range(10)]
    list(run(job, entries))
    assert sorted(map(tuple, job.batches)) == [(0, 2, 4), (1, 3, 5), (6, 8), (7, 9)]


class TestFailures:
    def test_a_bad_input_is_one_failure(self) -> None:
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
            "folder/entry 1": "not an image",
            "folder/entry 2": "cannot read: Input/output error; check the path and its permissions",
            "folder/entry 3": "not enough memory to read it; scale it down",
            "folder/entry 4": "cannot read: odd; check the path and its permissions",
        }
        errors = {result.name: result.error for result in results.values() if result.failed}
        assert errors == {
            "entry 1": "ImageError",
            "entry 2": "InputError",
            "entry 3": "InputError",
            "entry 4": "InputError",
        }
        assert results["folder/entry 5"].status is Status.WRITTEN

    def test_every_result_has_the_name_of_its_entry(self) -> None:
        steps: dict[str, Doubling] = {
            "read": Doubling(at_read={1: FormatError(Rejection.VERSION, "new")}),
            "compute": Doubling(at_compute={1: ImageError("large")}),
            "finish": Doubling(at_finish={1: OutputError("exists")}),
            "done": Doubling(done_already=frozenset({1})),
        }
        for step, job in steps.items():
            results = {result.name: result for result in run(job, make_entries(3))}
            assert sorted(results) == ["entry 0", "entry 1", "entry 2"]
            assert results["entry 1"].failed == (step != "done")

    def test_a_batch_that_cannot_be_computed_fails_as_a_whole(self) -> None:
        job = Doubling(capacity=2, at_compute={3: ImageError("out of memory")})
        results = {result.file: result for result in run(job, make_entries(6))}
        failed = {file for file, result in results.items() if result.failed}
        assert failed == {"folder/entry 2", "folder/entry 3"}
        assert results["folder/entry 2"].reason == "out of memory"

    def test_an_output_that_cannot_be_written_is_one_failure(self) -> None:
        job = Doubling(at_finish={1: OutputError("exists"), 2: MemoryError()})
        results = {result.file: result for result in run(job, make_entries(4))}
        assert results["folder/entry 1"].reason == "exists"
        assert (
            results["folder/entry 2"].reason
            == "not enough memory to write it; free some memory and run again"
        )
        assert [result.status for result in results.values()].count(Status.WRITTEN) == 2

    @pytest.mark.parametrize(
        "job",
        [
            Doubling(at_read={3: UnwritableDiskError("full")}),
            Doubling(at_finish={3: UnwritableDiskError("full")}),
            Doubling(at_compute={3: DeviceError("gone")}),
        ],
    )
    def test_a_full_disk_or_a_failing_device_ends_the_run(self, job: Doubling) -> None:
        # A second writer could overtake the failing one, however long that takes.
        results = run(job, make_entries(1000), RunControl(workers=1, in_flight=4))
        with pytest.raises(DinacError, match=r"full|gone"):
            for _ in results:
                pass
        assert len(job.read_numbers) < 50

    def test_an_error_cancels_reads_that_have_not_started(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        all_cancelled = threading.Event()

        class Gated(Doubling):
            def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
                assert entry.number < 20 or all_cancelled.wait(PATIENCE_SECONDS)
                return super().read(entry, hold)

        def cancel(future: Future[object]) -> bool:
            """The last read is cancelled first, so a read that has started is met last."""
            is_cancelled = real_cancel(future)
            if not is_cancelled:
                all_cancelled.set()
            return is_cancelled

        real_cancel = Future.cancel
        monkeypatch.setattr(Future, "cancel", cancel)
        job = Gated(at_compute={0: DeviceError("gone")})
        with pytest.raises(DeviceError):
            list(run(job, make_entries(100), RunControl(workers=1, in_flight=60)))
        assert len(job.read_numbers) <= 21

    def test_an_error_of_the_listing_ends_the_run(self) -> None:
        def entries() -> Iterator[Entry]:
            yield from make_entries(3)
            raise UsageError("second record")

        with pytest.raises(UsageError, match="second record"):
            list(run(Doubling(), entries()))


class TestBounds:
    def test_entries_read_ahead_are_bounded(self) -> None:
        entries = Counted(make_entries(100))
        control = RunControl(workers=2, in_flight=5)
        for given, _ in enumerate(run(Doubling(), entries, control)):
            # as many are read ahead as wait to be written
            assert entries.taken <= given + 2 * 5 + 1

    def test_a_batch_that_does_not_fill_does_not_hold_up_a_stream(self) -> None:
        """All later outputs would pile up behind it until the end of the run."""
        entries = Counted(make_entries(500))
        job = Doubling(capacity=100, done_already=frozenset(range(1, 500)))
        results = run(job, entries, RunControl(workers=2, in_flight=5), io.BytesIO())
        assert next(results).file == "folder/entry 0"
        assert entries.taken <= 3 * 5
        results.close()

    @pytest.mark.parametrize("ordered", [False, True])
    def test_large_inputs_pass_one_at_a_time(
        self, ordered: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "READ_BYTES", 10)
        monkeypatch.setattr(local, "REORDER_BYTES", 10)
        entries = [Entry(number, group=number % 2, size_bytes=8) for number in range(30)]
        job = Doubling(capacity=4, to_stream=ordered)
        control = RunControl(workers=4, in_flight=8)
        stream = io.BytesIO() if ordered else None
        assert len(list(run(job, entries, control, stream))) == 30
        assert all(len(batch) <= 2 for batch in job.batches)


class TestEarlyEnd:
    def test_closing_ends_the_reading_and_the_threads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "READ_BYTES", 10)
        entries = [Entry(number, size_bytes=8) for number in range(1000)]
        job = Doubling(pause=lambda: 0.001)
        results = run(job, entries, RunControl(workers=4, in_flight=8))
        next(results)
        results.close()
        assert len(job.read_numbers) < 40
        assert not [t for t in threading.enumerate() if t.name.startswith(("read", "write"))]

    def test_closing_before_the_first_result_reads_nothing(self) -> None:
        job = Doubling()
        run(job, make_entries(3)).close()
        assert job.read_numbers == []

    def test_a_stop_request_finishes_the_entries_in_flight(self) -> None:
        entries = Counted(make_entries(1000))
        job = Doubling(capacity=3, pause=lambda: 0.001)
        control = RunControl(workers=2, in_flight=6)
        results = []
        for result in run(job, entries, control):
            results.append(result)
            control.stop.set()
        assert {result.status for result in results} == {Status.WRITTEN}
        assert sorted(job.read_numbers) == sorted(result.bytes_out // 2 for result in results)
        assert len(results) in (entries.taken, entries.taken - 1)  # the last may be dropped
        assert entries.taken < 30


def test_the_clock_measures_every_stage() -> None:
    control = RunControl()
    list(run(Doubling(pause=lambda: 0.002), make_entries(20), control))
    assert all(seconds > 0 for seconds in control.clock.seconds.values())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_readers_and_writers_give_way_to_the_model() -> None:
    """Holds under any niceness of the tests themselves, 19 included."""

    def measure() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    readers, writers = set[int](), set[int]()

    class Measured(Doubling):
        def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
            readers.add(measure())
            return super().read(entry, hold)

        def finish(self, work: NumberedWork, computed: int) -> Made:
            writers.add(measure())
            return super().finish(work, computed)

    before = measure()
    assert len(list(run(Measured(), make_entries(6)))) == 6
    assert readers == writers == {min(before + 10, 19)}
    assert measure() == before

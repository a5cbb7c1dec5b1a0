"""Worker processes: every entry is done once, whatever happens to a worker."""

from __future__ import annotations

import io
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dinac_cli.errors import DeviceError, UnwritableDiskError, UsageError
from dinac_cli.jobs.executor import pool, supply
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Made
from dinac_cli.jobs.executor.messages import Assignment, Report
from dinac_cli.jobs.executor.pool import hold_job, run_in_processes
from dinac_cli.jobs.executor.supply import Supply
from dinac_cli.jobs.results import FileResult, Status

from ..cli.processes import get_python
from .numbered import Entry
from .worker_jobs import (
    AbsentDeviceJob,
    ActingJob,
    BrokenDeviceJob,
    CpuJob,
    CrashingJob,
    DevicesJob,
    DyingWriter,
    ExclusiveJob,
    RemarkingJob,
    RoomyJob,
    kill_at_start,
)

ROOT = Path(__file__).parent.parent.parent
PYTHON = sys.executable
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes are forks, which start fast, except in tests of their start and end."""
    monkeypatch.setattr(sys, "executable", get_python())


@pytest.fixture
def real_workers(forked_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", PYTHON)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread and no worker process is left after a test."""
    before = set(threading.enumerate())
    started: list[subprocess.Popen[bytes]] = []
    start = pool._start_process

    def note(connection: Any) -> subprocess.Popen[bytes]:
        started.append(start(connection))
        return started[-1]

    monkeypatch.setattr(pool, "_start_process", note)
    yield
    assert set(threading.enumerate()) <= before
    assert all(process.returncode is not None for process in started)


def run(
    entries: Iterable[Entry],
    *,
    count: int = 2,
    job: ActingJob | None = None,
    stream: io.BytesIO | None = None,
    control: RunControl | None = None,
) -> Generator[FileResult, None, None]:
    control = control or RunControl(workers=0, processes=count)
    return run_in_processes(hold_job(job or ActingJob()), entries, control, stream)


def make_entries(count: int, **actions: int) -> list[Entry]:
    """Returns numbered entries; `fail=3` says that entry 3 fails."""
    by_number = {number: action for action, number in actions.items()}
    return [Entry(number, by_number.get(number, "")) for number in range(count)]


def numbers(results: Iterable[FileResult]) -> list[int]:
    return [result.bytes_out // 2 for result in results if result.status is Status.WRITTEN]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_every_entry_is_done_once(count: int, workers: int) -> None:
    control = RunControl(workers=workers, processes=count)
    results = list(run(make_entries(500), control=control))
    assert sorted(numbers(results)) == list(range(500))
    assert {result.name for result in results} == {f"entry {n}" for n in range(500)}
    assert os.getpid() not in {result.bytes_in for result in results}


def test_no_entries_give_no_results() -> None:
    assert list(run([])) == []


def test_several_processes_share_the_work() -> None:
    entries = [Entry(number, "wait") for number in range(12)]
    assert len({result.bytes_in for result in run(entries, count=3)}) == 3


@pytest.mark.usefixtures("real_workers")
def test_a_remark_of_several_workers_is_told_once() -> None:
    told: list[str] = []
    control = RunControl(workers=0, processes=3, warn=told.append)
    entries = [Entry(number, "wait") for number in range(12)]
    results = list(run(entries, job=RemarkingJob(), control=control))
    assert len({result.bytes_in for result in results}) == 3
    assert told == ["the device is slow"]


def test_few_entries_start_one_process() -> None:
    assert len({result.bytes_in for result in run(make_entries(3), count=8)}) == 1


def test_a_stream_has_the_order_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ORDER_WINDOW", 32)
    stream = io.BytesIO()
    entries = [Entry(n, "wait" if n in (0, 40) else "") for n in range(300)]
    results = list(run(entries, stream=stream, job=ActingJob(record_bytes=4096)))
    assert numbers(results) == list(range(300))
    assert [int(line) for line in stream.getvalue().split()] == [2 * n for n in range(300)]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("action", "end"), [("kill", "SIGKILL"), ("exit", "exit code 7")])
def test_an_entry_that_kills_a_worker_is_one_failure(action: str, end: str, ordered: bool) -> None:
    stream = io.BytesIO() if ordered else None
    results = list(run(make_entries(100, **{action: 30}), stream=stream))
    assert sorted(numbers(results)) == [n for n in range(100) if n != 30]
    (failure,) = (result for result in results if result.failed)
    assert failure.name == "entry 30"
    assert failure.reason is not None
    assert failure.reason.startswith(f"killed the worker process ({end}); ")
    if ordered:
        assert [result.name for result in results] == [f"entry {n}" for n in range(100)]


def test_the_temporary_of_a_dead_worker_is_removed(tmp_path: Path) -> None:
    results = list(run([Entry(0, "die")], job=DyingWriter(folder=str(tmp_path))))
    assert [result.failed for result in results] == [False]
    assert os.listdir(tmp_path) == ["entry 0"]


@pytest.mark.usefixtures("real_workers")
def test_no_worker_starts_if_no_entry_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    start, count = pool._start_process, 0

    def note(connection: Any) -> subprocess.Popen[bytes]:
        nonlocal count
        count += 1
        return start(connection)

    monkeypatch.setattr(pool, "_start_process", note)
    assert [result.failed for result in run([Entry(0, "exit")])] == [True]
    assert count == 2  # the second one has the entry alone


def test_several_killers_are_several_failures() -> None:
    entries = [Entry(n, "exit" if n % 20 == 7 else "") for n in range(100)]
    results = list(run(entries, count=3))
    assert sorted(r.name for r in results if r.failed) == sorted(
        f"entry {n}" for n in range(7, 100, 20)
    )
    assert len(results) == 100


def test_failures_keep_their_reasons() -> None:
    results = {r.name: r for r in run(make_entries(6, fail=2, reject=4))}
    assert results["entry 2"].reason == "not an image"
    assert results["entry 2"].details == ("a detail",)
    assert results["entry 4"].rejection == "version"
    assert sum(r.failed for r in results.values()) == 2


def test_a_full_disk_ends_the_run() -> None:
    with pytest.raises(UnwritableDiskError, match=r"^the disk is full$"):
        list(run(make_entries(1000, fill=3)))


def test_what_was_finished_before_an_error_is_told() -> None:
    results = run(make_entries(4, fill=3), count=1)
    assert sorted(numbers(next(results) for _ in range(3))) == [0, 1, 2]
    with pytest.raises(UnwritableDiskError):
        next(results)


@pytest.mark.usefixtures("real_workers")
@pytest.mark.parametrize(("action", "kind"), [("bug", "ZeroDivisionError"), ("end", "EOFError")])
def test_a_bug_ends_the_run_with_its_traceback(action: str, kind: str) -> None:
    with pytest.raises(RuntimeError, match=rf"(?s)worker_jobs.*{kind}: a bug"):
        list(run(make_entries(10, **{action: 3})))


@pytest.mark.usefixtures("real_workers")
def test_a_worker_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_WORKER", "dinac_cli.no_such_module")
    with pytest.raises(DeviceError, match=r"could not start \(exit code 1\); use --processes 1$"):
        list(run(make_entries(10)))


def test_a_later_worker_that_cannot_start_leaves_the_work_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, count = pool._start_process, 0

    def start_only_first(connection: Any) -> subprocess.Popen[bytes]:
        nonlocal count
        count += 1
        if count == 2:
            monkeypatch.setattr(pool, "_WORKER", "dinac_cli.no_such_module")
        return start(connection)

    monkeypatch.setattr(pool, "_start_process", start_only_first)

    results = list(run([Entry(number, "pause") for number in range(60)]))
    assert sorted(numbers(results)) == list(range(60))
    assert count == 2


def test_a_later_worker_that_the_system_refuses_leaves_the_work_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, told, count = pool._start_process, list[str](), 0

    def start_only_first(connection: Any) -> subprocess.Popen[bytes]:
        nonlocal count
        count += 1
        if count > 1:
            raise DeviceError("cannot start a worker process: no memory; use --processes 1")
        return start(connection)

    monkeypatch.setattr(pool, "_start_process", start_only_first)
    entries = [Entry(number, "pause") for number in range(60)]
    control = RunControl(workers=0, processes=3, warn=told.append)
    assert sorted(numbers(run(entries, control=control))) == list(range(60))
    assert count == 2
    assert told == [
        "cannot start a worker process: no memory; use --processes 1; the run goes on with 1"
    ]


def test_an_error_of_the_listing_comes_after_the_results() -> None:
    def entries() -> Iterator[Entry]:
        yield from make_entries(5)
        raise UsageError("a second record")

    results = run(entries())
    assert sorted(numbers(next(results) for _ in range(5))) == list(range(5))
    with pytest.raises(UsageError, match="second record"):
        next(results)


def test_results_do_not_wait_for_a_slow_listing() -> None:
    fed = threading.Event()

    def entries() -> Iterator[Entry]:
        yield from make_entries(5)
        assert fed.wait(PATIENCE_SECONDS)
        yield Entry(5)

    results = run(entries())
    # If a result waited for the next entry, the listing would fail, and raise its error here.
    assert sorted(numbers(next(results) for _ in range(5))) == list(range(5))
    fed.set()
    assert numbers(results) == [5]


def test_the_last_entry_is_not_lost_if_it_is_listed_during_a_look() -> None:
    looked = threading.Event()

    class Looked(deque[Entry]):
        def __bool__(self) -> bool:
            is_filled = len(self) > 0
            looked.set()
            time.sleep(0.1)  # without a lock, the listing ends here
            return is_filled

    def entries() -> Iterator[Entry]:
        assert looked.wait(PATIENCE_SECONDS)
        yield Entry(0)

    taken: list[Entry] = []
    listing = Supply(entries())
    listing._listed = Looked()
    with listing:
        while not listing.has_ended:
            time.sleep(0.01)
            if taken := listing.take(1):
                break
        assert taken == [Entry(0)]


def test_signals_of_the_listing_never_pile_up() -> None:
    """A pipe that is full of signals would block the listing, which holds its lock meanwhile."""
    fed: queue.SimpleQueue[Entry] = queue.SimpleQueue()
    with Supply(iter(fed.get, Entry(4))) as listing:
        for number in range(4):  # several workers look in turns, before the pool listens again
            assert listing.take(1) == []
            fed.put(Entry(number))
            assert listing.wake.poll(PATIENCE_SECONDS)
            while not listing.take(1):
                time.sleep(0.001)
        listing.clear_wake()
        assert not listing.wake.poll()
        fed.put(Entry(4))


@pytest.mark.parametrize("to_stream", [False, True])
def test_a_stop_finishes_the_work_in_flight(to_stream: bool) -> None:
    control = RunControl(workers=0, processes=2)
    entries = (Entry(number) for number in range(10**9))
    stream = io.BytesIO() if to_stream else None
    results = []
    for result in run(entries, control=control, stream=stream):
        results.append(result)
        if len(results) == 20:
            control.stop.set()
    assert len(results) >= 20
    assert len({result.name for result in results}) == len(results)
    if stream is not None:
        assert stream.getvalue().count(b"\n") == len(results)


@pytest.mark.usefixtures("real_workers")
def test_closing_the_results_ends_the_processes() -> None:
    entries = (Entry(number) for number in range(10**9))
    with closing(run(entries)) as results:
        pids = {next(results).bytes_in for _ in range(50)}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_listing_stays_a_few_entries_ahead() -> None:
    listed = 0

    def entries() -> Iterator[Entry]:
        nonlocal listed
        for number in range(100_000):
            listed += 1
            yield Entry(number)

    with closing(run(entries())) as results:
        next(results)
        bound = supply.ENTRIES_AHEAD + 2 * 2 * pool.MOST_PART
        assert listed <= bound


def test_listed_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "LISTED_BYTES", 10)
    results = run([Entry(number, held_bytes=7) for number in range(40)])
    assert sorted(numbers(results)) == list(range(40))


def test_the_processes_share_the_memory() -> None:
    """An image larger than a worker's share of the memory is read nevertheless."""
    control = RunControl(workers=0, processes=2)
    processes_ = run(make_entries(4), control=control, job=ActingJob(record_bytes=10))
    assert sorted(numbers(processes_)) == list(range(4))


class QuickProcess(pool._Process[Any]):
    """A process that seems to start at once, so a run never does without it."""

    start_seconds = property(lambda _: 0.0, lambda *_: None)


class SlowProcess(pool._Process[Any]):
    """A process that seems to take long to start."""

    start_seconds = property(lambda _: 1000.0, lambda *_: None)


@pytest.mark.parametrize("is_automatic", [True, False])
def test_a_process_that_would_start_too_late_is_not_started(
    is_automatic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the user names the number of processes, all of them start."""
    monkeypatch.setattr(pool, "_Process", SlowProcess)
    control = RunControl(workers=0, processes=3, fits_device=is_automatic)
    job = RoomyJob(rooms={"": (10 * 2**30, 2**30)})
    results = list(run([Entry(n, "pause") for n in range(60)], job=job, control=control))
    assert sorted(numbers(results)) == list(range(60))
    assert len({result.bytes_in for result in results}) == (1 if is_automatic else 3)


class Growing:
    """A pool of one process, which does nothing by itself, at a time that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, listed: int, held: int) -> None:
        self.now = 0.0
        monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(pool, "_start_process", lambda _: None)
        control = RunControl(workers=0, processes=8, fits_device=True)
        assignment = Assignment(b"", control)
        listing: Any = Listed([Entry(number) for number in range(held, held + listed)])
        self.pool: Any = pool._Pool(assignment, listing, control, pool.ignore_result, ordered=False)
        [self.device] = self.pool._devices
        self.process: pool._Process[Any] = pool._Process(assignment, self.device)
        self.process.give([(number, Entry(number)) for number in range(held)])
        self.pool._processes.append(self.process)

    def report(self, count: int = 0, room: tuple[int, int] | None = None) -> None:
        made = Made(FileResult("a", Status.WRITTEN))
        finished = tuple((number, made) for number in list(self.process.held)[:count])
        list(self.pool._accept(self.process, Report(finished, room=room)))

    def pays(self) -> bool:
        return bool(self.pool._pays(self.device))


class Listed(list[Any]):
    is_complete = True


@pytest.mark.parametrize(("listed", "pays"), [(230, False), (3000, True)])
def test_the_time_to_load_the_model_does_not_count_as_time_to_compute(
    listed: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process starts in 10 s, and then finishes 100 images per second."""
    growing = Growing(monkeypatch, listed=listed, held=64)
    growing.report()  # it is ready, but has not loaded the model
    growing.now = 10.0
    growing.report(8, room=(10, 1))
    assert not growing.pays()  # nobody knows how fast it is
    for first in range(64, 264, 10):
        growing.now += 0.1
        growing.report(10)
        growing.process.give([(number, Entry(number)) for number in range(first, first + 10)])
    assert growing.pays() is pays


def test_a_further_process_starts_during_the_first_long_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a shard, which reports that the model works before it is finished."""
    growing = Growing(monkeypatch, listed=18, held=2)
    growing.now = 5.0
    growing.report()
    assert not growing.pays()
    growing.report(room=(10, 1))
    growing.now = 5.1
    assert not growing.pays()
    growing.now = 8.0
    assert growing.pays()


@pytest.mark.parametrize(
    ("free", "used", "most", "expected"), [(10, 1, 3, 3), (3, 1, 8, 3), (1, 1, 8, 1), (9, 2, 1, 1)]
)
def test_processes_fit_into_the_memory_of_the_device(
    free: int, used: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process measures how much memory it needs and how much is left."""
    monkeypatch.setattr(pool, "_Process", QuickProcess)
    job = RoomyJob(rooms={"": (free * 2**30, used * 2**30)})
    said: list[str] = []
    control = RunControl(workers=0, processes=most, fits_device=True, say=said.append)
    entries = [Entry(number, "pause") for number in range(20 * min(most, 3))]
    results = list(run(entries, job=job, control=control))
    assert len(results) == len(entries)
    assert len({result.bytes_in for result in results}) == expected
    assert said == (
        []
        if most == 1
        else [
            f"processes: {expected} (at most {most} for the processors; {free:.1f} GiB are free on "
            f"the device, and one takes {used:.1f} GiB)"
        ]
    )


@pytest.mark.parametrize("is_automatic", [True, False])
def test_a_process_that_the_device_refuses_is_only_needed_if_the_user_named_the_count(
    is_automatic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_Process", QuickProcess)
    told: list[str] = []
    control = RunControl(workers=0, processes=3, fits_device=is_automatic, warn=told.append)
    job = ExclusiveJob(rooms={"": (10 * 2**30, 2**30)}, folder=str(tmp_path))
    results = run([Entry(n, "pause") for n in range(80)], job=job, control=control)
    if is_automatic:
        assert sorted(numbers(results)) == list(range(80))
        assert told == ["one process less computes: the device is busy"]
    else:
        with pytest.raises(DeviceError, match=r"^the device is busy$"):
            list(results)


def test_a_cpu_keeps_one_process() -> None:
    control = RunControl(workers=0, processes=4, fits_device=True)
    assert len({result.bytes_in for result in run(make_entries(300), control=control)}) == 1


def test_threads_read_if_there_is_no_gpu_after_all() -> None:
    control = RunControl(workers=0, processes=4, fits_device=True, cpu_limits=(2, 8))
    results = list(run(make_entries(300), control=control, job=CpuJob()))
    assert sorted(numbers(results)) == list(range(300))
    readers = {str(result.output) for result in results}
    assert readers == {"MainThread", "read_0", "read_1"}


TWO = ("gpu:0", "gpu:1")


def list_devices(results: Iterable[FileResult]) -> dict[str | None, int]:
    """Returns the number of processes that computed on each device."""
    pairs = {(result.output, result.bytes_in) for result in results}
    return dict(Counter(device for device, _ in pairs))


@pytest.mark.parametrize(("processes", "expected"), [(2, (1, 1)), (4, (2, 2)), (5, (3, 2))])
def test_processes_are_spread_over_the_devices(processes: int, expected: tuple[int, int]) -> None:
    control = RunControl(workers=0, processes=processes, devices=TWO)
    entries = [Entry(number, "pause") for number in range(40 * processes)]
    results = list(run(entries, control=control, job=DevicesJob()))
    assert sorted(numbers(results)) == list(range(len(entries)))
    assert list_devices(results) == dict(zip(TWO, expected, strict=True))


def test_a_stream_from_several_devices_has_the_order_of_the_entries() -> None:
    stream = io.BytesIO()
    control = RunControl(workers=0, processes=2, devices=TWO)
    entries = [Entry(number, "pause") for number in range(60)]
    results = list(run(entries, control=control, job=DevicesJob(record_bytes=10), stream=stream))
    assert numbers(results) == list(range(60))
    assert [int(line) for line in stream.getvalue().split()] == [2 * n for n in range(60)]
    assert set(list_devices(results)) == set(TWO)


def test_processes_fit_into_the_memory_of_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_Process", QuickProcess)
    rooms = {"gpu:0": (10 * 2**30, 2**30), "gpu:1": (2**30, 2**30)}
    said: list[str] = []
    control = RunControl(workers=0, processes=6, devices=TWO, fits_device=True, say=said.append)
    entries = [Entry(number, "pause") for number in range(200)]
    results = list(run(entries, job=RoomyJob(rooms=rooms), control=control))
    assert list_devices(results) == {"gpu:0": 3, "gpu:1": 1}
    assert sorted(said) == [
        "processes on gpu:0: 3 (at most 3 for the processors; 10.0 GiB are free on the device, "
        "and one takes 1.0 GiB)",
        "processes on gpu:1: 1 (at most 3 for the processors; 1.0 GiB are free on the device, and "
        "one takes 1.0 GiB)",
    ]


def test_a_worker_that_dies_is_replaced_on_its_device() -> None:
    control = RunControl(workers=0, processes=2, devices=TWO)
    entries = [Entry(n, "exit" if n == 30 else "pause") for n in range(100)]
    results = list(run(entries, control=control, job=DevicesJob()))
    assert [result.name for result in results if result.failed] == ["entry 30"]
    assert sorted(numbers(results)) == [n for n in range(100) if n != 30]
    written = [result for result in results if not result.failed]
    assert set(list_devices(written)) == set(TWO)


def test_time_in_which_processes_share_a_device_counts_once() -> None:
    """Two processes per device, which report the same spans."""
    spans = {"gpu:0": ((100.0, 102.0), (101.0, 104.0)), "gpu:1": ((100.0, 101.0),)}
    control = RunControl(workers=0, processes=4, devices=TWO)
    entries = [Entry(number, "pause") for number in range(120)]
    results = list(run(entries, control=control, job=DevicesJob(spans=spans)))
    assert list_devices(results) == {"gpu:0": 2, "gpu:1": 2}
    assert control.clock.device_seconds == 5.0


@pytest.mark.parametrize("count", [1, 3])
def test_a_job_that_kills_its_process_at_the_start_ends_the_run(count: int) -> None:
    control = RunControl(workers=0, processes=count)
    with pytest.raises(DeviceError, match=r"could not start \(SIGKILL\); use --processes 1$"):
        list(run_in_processes(kill_at_start, make_entries(1000), control))


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_kills_every_process_ends_the_run(count: int) -> None:
    with pytest.raises(DeviceError) as caught:
        list(run(make_entries(10_000), job=CrashingJob(), count=count))
    assert str(caught.value) == (
        "5 worker processes in a row died in the model (exit code 7); "
        "choose another --device, or another --model"
    )


def test_a_device_that_kills_every_process_ends_the_run_though_others_work() -> None:
    """Otherwise, each of its crashes would be blamed on an entry."""
    control = RunControl(workers=0, processes=2, devices=TWO)
    entries = [Entry(number, "pause") for number in range(1000)]
    with pytest.raises(DeviceError) as caught:
        list(run(entries, control=control, job=BrokenDeviceJob()))
    assert str(caught.value) == (
        "5 worker processes in a row died in the model on gpu:1 (exit code 7); "
        "choose another --device, or another --model"
    )


def test_a_device_on_which_no_process_can_start_is_told() -> None:
    told: list[str] = []
    control = RunControl(workers=0, processes=2, devices=TWO, warn=told.append)
    entries = [Entry(number, "pause") for number in range(60)]
    results = list(run(entries, control=control, job=AbsentDeviceJob()))
    assert sorted(numbers(results)) == list(range(60))
    assert told == [
        "no worker process could start on gpu:1 (exit code 7); the other devices do its work"
    ]


def test_finished_entries_between_crashes_let_the_run_go_on() -> None:
    healthy = frozenset(n for n in range(40) if n % 4 == 0)
    job = CrashingJob(healthy=healthy, capacity=1)
    results = list(run(make_entries(40), job=job, count=1))  # of two, one may be slow to start
    assert set(numbers(results)) == healthy
    assert sum(result.failed for result in results) == 30


def test_entries_that_kill_their_reader_never_end_the_run() -> None:
    results = list(run([Entry(number, "exit") for number in range(12)]))
    assert len(results) == 12
    assert all(result.failed for result in results)


SCRIPT = """
import sys
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.pool import hold_job, run_in_processes
from tests.jobs.numbered import Entry
from tests.jobs.worker_jobs import ActingJob

print("started", flush=True)
entries = (Entry(number, "wait") for number in range(10**9))
pids = set()
for result in run_in_processes(hold_job(ActingJob()), entries, RunControl(workers=0, processes=2)):
    pids.add(result.bytes_in)
    if len(pids) == 2:
        print(*pids, flush=True)
"""


@pytest.mark.usefixtures("real_workers")
def test_workers_end_with_a_killed_parent() -> None:
    """The script has no main guard, and its workers do not run it again."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2
        parent.kill()
    end = time.monotonic() + PATIENCE_SECONDS
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.usefixtures("real_workers")
def test_a_worker_ends_with_a_killed_parent_before_its_model_is_loaded(tmp_path: Path) -> None:
    script = f"""
    from functools import partial
    from dinac_cli.jobs.executor.control import RunControl
    from dinac_cli.jobs.executor.pool import run_in_processes
    from tests.jobs.numbered import Entry
    from tests.jobs.worker_jobs import open_slowly

    open_job = partial(open_slowly, {str(tmp_path / "pid")!r})
    list(run_in_processes(open_job, [Entry(0)], RunControl(workers=0, processes=2)))
    """
    end = time.monotonic() + PATIENCE_SECONDS
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT) as parent:
        while not (text := read_text(tmp_path / "pid")).endswith("\n"):
            assert parent.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        parent.kill()
    while is_running(int(text)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(int(text))


def read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.usefixtures("real_workers")
def test_a_worker_ignores_ctrl_c() -> None:
    """A terminal sends Ctrl-C to all processes; the parent decides."""
    entries = (Entry(number, "wait") for number in range(10**9))
    control = RunControl(workers=0, processes=2)
    seen = 0
    for result in run(entries, control=control):
        seen += 1
        if seen == 1:
            os.kill(result.bytes_in, signal.SIGINT)
            os.kill(result.bytes_in, signal.SIGTERM)
        if seen == 12:
            control.stop.set()
        assert not result.failed
    assert seen >= 12

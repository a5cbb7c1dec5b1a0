"""Shards are committed whole or not at all, whatever fails while their images are encoded."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.container.frame import RECORD_START
from dinac_cli.errors import StorageError, UnwritableDiskError, UsageError
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.executor import read_ahead
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards import packing, shard_run
from dinac_cli.jobs.shards import sample as sample_module
from dinac_cli.jobs.shards.contents import write_index
from dinac_cli.jobs.shards.packing import SampleJob, ShardJob
from dinac_cli.storage import local
from dinac_cli.storage.atomic import TEMPORARY_PREFIX
from dinac_cli.storage.local import LocalStore

from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    locate,
    make_photo,
    make_request,
    make_tar,
    read_index,
    read_markers,
    read_shards,
    run,
    write_file,
    write_photos,
)

NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "in", NAMES)


@pytest.fixture
def expected(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    """OUT of an uninterrupted run, two images a shard."""
    encode(photos, tmp_path / "expected", shard_size=2)
    return read_tree(tmp_path / "expected")


def fail_on(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fails: Callable[[int], Exception | None]
) -> list[int]:
    """Makes a method raise what `fails` returns for the number of the call. Returns the calls."""
    method, calls, lock = getattr(owner, name), [0], threading.Lock()

    def act(*args: Any, **named: Any) -> Any:
        with lock:
            calls[0] += 1
            error = fails(calls[0])
        if error is not None:
            raise error
        return method(*args, **named)

    monkeypatch.setattr(owner, name, act)
    return calls


def busy(times: int) -> Callable[[int], Exception | None]:
    return lambda call: StorageError("the place is busy") if call <= times else None


def assert_no_part(out: Path) -> None:
    """Every tar in OUT is whole, and every marker is of a tar; no temporary file is left."""
    tree = read_tree(out)
    assert not [name for name in tree if TEMPORARY_PREFIX in name]
    for data in tree.values():
        assert data
    tars = read_shards(tree)
    for shard, marker in read_markers(tree).items():
        assert len(tars[f"{shard}.tar"]) == marker["images"]
        assert hashlib.sha256(tree[f"{shard}.tar"]).hexdigest() == marker["sha256"]


def test_an_image_that_fails_is_in_the_marker_and_is_reported_again(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "c.png"])
    write_file(photos / "b.png", b"no image")
    out = tmp_path / "out"
    results = encode(photos, out, shard_size=3)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 2}
    [failure] = (result for result in results if result.failed)
    assert failure.file == str(photos / "b.png")
    tree = read_tree(out)
    marker = read_markers(tree)["000/000000"]
    assert (marker["images"], marker["failed"], marker["skipped"]) == (2, 1, 0)
    assert marker["failures"] == [
        {"key": "b%2Epng", "name": failure.file, "reason": failure.reason, "error": "ImageError"}
    ]
    assert read_index(tree)["000/000000.tar"]["missed"] == 1
    again = encode(photos, out)
    assert count(again) == {Status.FAILED: 1, Status.DONE: 2}
    [repeated] = (each for each in again if each.failed)
    for fact in ("file", "reason", "error"):
        assert getattr(repeated, fact) == getattr(failure, fact)
    assert read_tree(out) == tree


def test_retry_failed_encodes_shards_with_failures_again(tmp_path: Path) -> None:
    """The fingerprint stays, because a file of the same size and time may fail for a while."""
    names = ["a.png", "b.png", "c.png", "d.png"]
    photos = write_photos(tmp_path / "in", names)
    encode(photos, tmp_path / "expected", shard_size=2)
    good, status = (photos / "b.png").read_bytes(), (photos / "b.png").stat()
    (photos / "b.png").write_bytes(bytes(len(good)))
    os.utime(photos / "b.png", ns=(status.st_mtime_ns, status.st_mtime_ns))
    out = tmp_path / "out"
    encode(photos, out, shard_size=2)
    write_file(photos / "b.png", good, 1_000_000_001)
    assert count(encode(photos, out)) == {Status.FAILED: 1, Status.DONE: 3}
    assert count(encode(photos, out, retry_failed=True)) == {Status.WRITTEN: 2, Status.DONE: 2}
    assert read_tree(out) == read_tree(tmp_path / "expected")  # the index, too


def test_an_index_that_another_run_writes_meanwhile_does_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It describes shards before they are encoded again: with failures, or by other threads."""
    photos = write_photos(tmp_path / "in", ["a.png", "b.png"])
    good, status = (photos / "b.png").read_bytes(), (photos / "b.png").stat()
    (photos / "b.png").write_bytes(bytes(len(good)))
    os.utime(photos / "b.png", ns=(status.st_mtime_ns, status.st_mtime_ns))
    out = tmp_path / "out"
    encode(photos, out, shard_size=2)
    write_file(photos / "b.png", good, 1_000_000_001)
    prepare = ShardJob.prepare

    def prepare_late(job: ShardJob) -> None:
        prepare(job)
        assert write_index(job.store) == 1

    for fields in ({"retry_failed": True}, {"overwrite": True, "shard_size": 2}):
        with monkeypatch.context() as patch:
            patch.setattr(ShardJob, "prepare", prepare_late)
            encode(photos, out, **fields)
        tree = read_tree(out)
        [entry], [marker] = read_index(tree).values(), read_markers(tree).values()
        assert (entry["nsamples"], entry["missed"]) == (2, 0)
        assert entry["sha256"] == marker["sha256"]


def test_skipped_images_are_counted_once(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", NAMES)  # two of them are too small
    from dinac_cli.images.geometry import GeometryChoice

    choice = EncodeChoice(skip_small=True, geometry=GeometryChoice(crop=(16, 16)))
    results = encode(photos, tmp_path / "out", choice, shard_size=3)
    assert count(results) == {Status.SKIPPED: 2, Status.WRITTEN: 3}
    again = encode(photos, tmp_path / "out", choice)
    assert count(again) == {Status.SKIPPED: 2, Status.DONE: 3}


def test_a_cut_archive_commits_nothing_and_is_named(tmp_path: Path) -> None:
    whole = make_tar({f"{key}.png": make_photo(seed) for seed, key in enumerate("abc")})
    end = len(whole.rstrip(b"\0"))
    write_file(tmp_path / "cut.tar", whole[: end + -end % 512])  # between two members
    write_file(tmp_path / "good.tar", whole)
    out = tmp_path / "out"
    results = encode([tmp_path / "cut.tar", tmp_path / "good.tar"], out)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 3}
    [failure] = (result for result in results if result.failed)
    assert failure.file == str(tmp_path / "cut.tar")
    assert failure.error == "ArchiveError"
    assert "cut off" in (failure.reason or "")
    assert list(read_shards(read_tree(out))) == ["good.tar"]
    assert_no_part(out)


def test_an_archive_for_which_there_is_no_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a.tar", make_tar({"a.png": make_photo(0)}))

    def list_samples(*args: object) -> Iterator[object]:
        raise MemoryError

    monkeypatch.setattr(packing, "list_samples", list_samples)
    [failure] = encode(tmp_path / "a.tar", tmp_path / "out")
    assert failure.file == str(tmp_path / "a.tar")
    assert failure.reason == "not enough memory to read it; use fewer --processes"


def test_a_shard_is_tried_again_if_the_place_does_not_answer(
    photos: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    commit = local._LocalSpool.commit
    for suffix in (".tar", ".json"):  # tars, then markers
        failed: list[str] = []

        def refuse(self: Any, suffix: str = suffix, failed: list[str] = failed) -> None:
            target = self._rewrite.target
            if target.endswith(suffix) and "/000/" in target and failed.count(target) < 2:
                failed.append(target)
                raise StorageError("the place is busy")
            commit(self)

        with monkeypatch.context() as patch:
            patch.setattr(local._LocalSpool, "commit", refuse)
            results = encode(photos, out / suffix[1:], shard_size=2)
        assert count(results) == {Status.WRITTEN: 5}
        assert len(failed) == 6  # each of three shards twice
        assert read_tree(out / suffix[1:]) == expected


def test_a_shard_fails_after_four_tries(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(packing, "BACKOFF_SECONDS", (1.0, 4.0, 16.0))
    monkeypatch.setattr(packing, "_pause", lambda seconds, stop: pauses.append(seconds))
    tries: list[str] = []
    spool = LocalStore.spool

    def refuse(self: LocalStore, name: str) -> Any:
        if name == "000/000001.tar":
            tries.append(name)
            raise StorageError("the place is busy")
        return spool(self, name)

    monkeypatch.setattr(LocalStore, "spool", refuse)
    out = tmp_path / "out"
    results = encode(photos, out, shard_size=2)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 3}
    [failure] = (result for result in results if result.failed)
    assert (failure.file, failure.reason) == ("shard 000/000001", "the place is busy")
    assert (len(tries), pauses) == (packing.MOST_TRIES, [1.0, 4.0, 16.0])
    assert_no_part(out)


def test_ten_storage_errors_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "in", [f"{number:02}.png" for number in range(14)])
    opened: list[str] = []
    spool = LocalStore.spool

    def refuse(self: LocalStore, name: str) -> Any:
        if not name.endswith(".tar"):
            return spool(self, name)
        opened.append(name)
        raise StorageError("the place is busy")

    request = make_request(photos, tmp_path / "out", shard_size=1)
    monkeypatch.setattr(LocalStore, "spool", refuse)
    with pytest.raises(StorageError, match="the place is busy") as caught:
        run(request)
    assert caught.value.exit_code == 1
    assert len(opened) == len(set(opened)) >= packing.MOST_STORAGE_ERRORS  # none was tried again
    assert not read_shards(read_tree(tmp_path / "out"))


def test_ten_archives_in_a_row_that_cannot_be_opened_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image comes, and each of 100,000 archives would wait for the place."""
    opened: list[str] = []

    def refuse(shard: Any) -> Any:
        opened.append(shard.name)
        raise StorageError("the place is busy")

    monkeypatch.setattr(sample_module, "open_archive", refuse)
    data = make_tar({"a.png": make_photo(0)})
    tars = [write_file(tmp_path / f"{number:03}.tar", data) for number in range(400)]
    with pytest.raises(StorageError, match="the place is busy"):
        encode(tars, tmp_path / "out")
    assert len(opened) == len(set(opened)) < 400


@pytest.mark.parametrize(("lost", "ends"), [(9, False), (10, True)])
def test_ten_storage_errors_in_a_row_end_a_run_whose_tasks_have_one_shard_each(
    lost: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster: no task sees the shards of the others."""

    def run_one_by_one(
        request: Any, plan: Any, open_job: Any, shards: Any, control: Any
    ) -> Iterator[FileResult]:
        for shard in shards:
            yield from run_opened(open_job, [shard], control)

    spool = LocalStore.spool

    def refuse(self: LocalStore, name: str) -> Any:
        if name.endswith(".tar") and 2 <= int(name[-10:-4]) < 2 + lost:
            raise StorageError("the place is busy", ["503"])
        return spool(self, name)

    monkeypatch.setattr(shard_run, "_run_shards", run_one_by_one)
    monkeypatch.setattr(LocalStore, "spool", refuse)
    photos = write_photos(tmp_path / "in", [f"{number:02}.png" for number in range(14)])
    request = make_request(photos, tmp_path / "out", shard_size=1)
    if not ends:
        assert count(run(request)) == {Status.WRITTEN: 5, Status.FAILED: 9}
        return
    with pytest.raises(StorageError, match="the place is busy") as caught:
        run(request)
    assert (caught.value.exit_code, caught.value.details) == (1, ("503",))
    assert len(read_shards(read_tree(tmp_path / "out"))) == 2


@pytest.mark.parametrize("method", ["write", "commit"])
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    method: str,
    photos: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = UnwritableDiskError("OUT: No space left on device")
    for moment in (2, 5, 8, 11):
        out = tmp_path / f"{moment}"
        with monkeypatch.context() as patch:
            calls = fail_on(
                patch,
                local._LocalSpool,
                method,
                {moment: full}.get,
            )
            with pytest.raises(UnwritableDiskError) as caught:
                encode(photos, out, shard_size=2)
            assert caught.value is full
            assert calls[0] >= moment
        assert_no_part(out)
        encode(photos, out, shard_size=2)
        assert read_tree(out) == expected


@pytest.mark.parametrize("error", [UnwritableDiskError("full"), RuntimeError("a bug")])
def test_a_write_that_fails_last_never_leads_to_a_tar_with_a_hole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Later writes may succeed again: the end mark would then close a tar that lacks a part."""
    out = tmp_path / "out"

    spool_write = local._LocalSpool.write
    records = [0]

    def write(self: Any, data: bytes) -> None:
        records[0] += data.startswith(RECORD_START)
        if records[0] == 5:  # the last record of the last shard
            records[0] += 1
            raise error
        spool_write(self, data)

    monkeypatch.setattr(local._LocalSpool, "write", write)
    with pytest.raises(type(error)):
        encode(photos, out, shard_size=2)
    assert "000/000002.tar" not in read_tree(out)
    assert_no_part(out)


def test_a_kill_between_a_tar_and_its_marker_leaves_no_marker_that_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The markers of earlier states go first, also if their fingerprint is the same."""
    photos = write_photos(tmp_path / "in", ["a.png", "b.png"])
    out = tmp_path / "out"
    encode(photos, out, shard_size=2)
    write_file(photos / "a.png", make_photo(9), 2_000_000_000)

    class Killed(BaseException):
        pass

    def die(*args: object, **named: object) -> None:
        raise Killed

    for fields in ({}, {"overwrite": True}):
        with monkeypatch.context() as patch:
            patch.setattr(packing, "make_marker", die)
            with pytest.raises(Killed):
                encode(photos, out, shard_size=2, **fields)
        assert not read_markers(read_tree(out))
        assert count(encode(photos, out, shard_size=2)) == {Status.WRITTEN: 2}
    encode(photos, tmp_path / "expected", shard_size=2)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_a_stop_finishes_the_shards_that_were_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_ITEMS", 1)
    photos = write_photos(tmp_path / "in", [f"{number:02}.png" for number in range(24)])
    out = tmp_path / "out"
    request = make_request(photos, out, shard_size=3, workers=1, in_flight=1)
    stop = StopRequest()
    opened = request.open()
    opened.count()
    results: list[FileResult] = []
    for result in opened.start(request.make_control(stop)):
        results.append(result)
        stop.set()
    written = count(results)[Status.WRITTEN]
    assert written % 3 == 0
    assert 3 <= written < 24
    assert_no_part(out)
    assert sum(entry["nsamples"] for entry in read_index(read_tree(out)).values()) == written
    run(request)
    encode(photos, tmp_path / "expected", shard_size=3)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_a_stop_reads_no_further_in_an_archive_that_was_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be large, and far away."""
    monkeypatch.setattr(read_ahead, "READ_AHEAD_ITEMS", 1)
    for name in ("a.tar", "b.tar"):
        write_file(tmp_path / name, make_tar({f"{k}.png": make_photo(k) for k in range(40)}))
    stop = StopRequest()
    taken: list[str] = []
    list_samples = sample_module.list_samples

    def note(shard: Any, *args: Any) -> Iterator[Any]:
        for sample in list_samples(shard, *args):
            if shard.name == "b":
                stop.set()
                taken.append(sample.key)
            yield sample

    monkeypatch.setattr(packing, "list_samples", note)
    request = make_request(
        [tmp_path / "a.tar", tmp_path / "b.tar"], tmp_path / "out", workers=1, in_flight=1
    )
    assert count(run(request, stop)) == {Status.WRITTEN: 40}
    assert len(taken) <= 4


def test_images_of_a_shard_that_is_tried_again_count_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the progress would pass its total."""
    fail_on(monkeypatch, packing, "make_marker", busy(1))
    request = make_request(photos, tmp_path / "out", shard_size=2)
    opened = request.open()
    control = request.make_control()
    assert count(list(opened.start(control))) == {Status.WRITTEN: 5}
    assert control.clock.images == 5


def test_an_exception_of_the_caller_ends_the_threads_and_commits_no_part(
    photos: Path, tmp_path: Path
) -> None:
    opened = make_request(photos, tmp_path / "out", shard_size=2).open()
    results = opened.start(make_request(photos, tmp_path / "out").make_control())
    next(results)
    results.close()
    assert_no_part(tmp_path / "out")
    names = {thread.name.split("_")[0] for thread in threading.enumerate()}
    assert not names & {"read-ahead", "pack", "upload"}


def test_a_device_error_ends_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinac_cli.errors import DeviceError

    error = DeviceError("the device is gone")
    fail_on(monkeypatch, SampleJob, "submit", {2: error}.get)
    with pytest.raises(DeviceError, match="the device is gone"):
        encode(photos, tmp_path / "out", shard_size=1, workers=1, in_flight=1)
    assert_no_part(tmp_path / "out")


def test_another_run_with_other_settings_that_came_first_ends_this_one(
    photos: Path, tmp_path: Path
) -> None:
    """Both had found OUT without settings."""
    out = tmp_path / "out"
    request = make_request(photos, out, shard_size=2)
    late = request.open()
    late.count()
    encode(photos, out, EncodeChoice(precision="q8"), shard_size=2)
    tree = read_tree(out)
    with pytest.raises(UsageError) as caught:
        list(late.start(request.make_control()))
    assert str(caught.value) == (
        f"{locate(out)} holds shards of another run with --precision q8; you asked for "
        "--precision bf16; choose another OUT"
    )
    assert read_tree(out) == tree


def test_settings_that_cannot_be_written_at_once_are_tried_again(
    photos: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fail_on(monkeypatch, ShardJob, "prepare", busy(2))
    assert count(encode(photos, out, shard_size=2)) == {Status.WRITTEN: 5}
    assert read_tree(out) == expected

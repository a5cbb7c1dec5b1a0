"""Shards on S3, from end to end and with faults: OUT is that of an uninterrupted local run."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.container.record import unpack_record
from dinac_cli.errors import StorageError
from dinac_cli.jobs.results import Status
from dinac_cli.storage import remote

from ...s3 import FaultyS3
from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    make_photo,
    make_request,
    make_tar,
    read_index,
    read_markers,
    read_shards,
    run,
    write_photos,
)

NAMES = [f"{number}.png" for number in range(6)]
TARS = {f"{number}.tar": [f"{number}{key}.png" for key in "ab"] for number in range(3)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), NAMES)


@pytest.fixture(scope="module")
def expected(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """OUT of a local run, two images a shard."""
    out = tmp_path_factory.mktemp("expected")
    encode(photos, out, shard_size=2)
    return read_tree(out)


def read_out(s3: FaultyS3, prefix: str = "out/") -> dict[str, bytes]:
    """Returns the objects of an OUT by their names in it."""
    found = {key: data for key, data in s3.objects.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): data for key, data in found.items()}


def put_tars(s3: FaultyS3) -> None:
    for name, members in TARS.items():
        files = {each: make_photo(int(name[0]) * 2 + at) for at, each in enumerate(members)}
        s3.put(f"wds/{name}", make_tar(files))


def test_local_images_to_s3(photos: Path, expected: dict[str, bytes], faulty_s3: FaultyS3) -> None:
    out = f"{faulty_s3.url}/out"
    assert count(encode(photos, out, shard_size=2)) == {Status.WRITTEN: 6}
    assert read_out(faulty_s3) == expected
    faulty_s3.requests.clear()
    assert count(encode(photos, out)) == {Status.DONE: 6}
    assert not [request for request in faulty_s3.requests if request.startswith(("PUT", "POST"))]
    assert len(faulty_s3.requests) < 30
    assert read_out(faulty_s3) == expected


def test_tars_on_s3_to_s3_and_into_training(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    from dinac_cli import LatentShards

    put_tars(faulty_s3)
    out = f"{faulty_s3.url}/out"
    results = encode(f"{faulty_s3.url}/wds/{{0..2}}.tar", out)
    assert count(results) == {Status.WRITTEN: 6}
    keys = [key for members in read_shards(read_out(faulty_s3)).values() for key in members]
    assert keys == [
        f"{name.removesuffix('.png')}.dinac" for name in itertools.chain(*TARS.values())
    ]
    seen: Counter[str] = Counter()
    for rank in range(2):
        shards = LatentShards(out, shuffle=3, rank=rank, world_size=2)
        context = "fork" if sys.platform == "linux" else "spawn"
        loader = DataLoader(
            shards, num_workers=2, batch_size=None, multiprocessing_context=context, timeout=120
        )
        seen.update(item["key"] for item in loader)
    assert seen == Counter({key.removesuffix(".dinac"): 1 for key in keys})


class Killed(BaseException):
    """The process dies."""


def die_at(monkeypatch: pytest.MonkeyPatch, suffix: str, moment: int, *, is_before: bool) -> None:
    """Makes the process die before or after the upload of a tar or a marker, by its number."""
    name = "put" if suffix == ".tar" else "write"
    method, calls = getattr(remote.RemoteStore, name), itertools.count(1)

    def upload(store: Any, *args: Any) -> None:
        target = args[1] if suffix == ".tar" else args[0]
        is_shard = target.endswith(suffix) and "000/" in target
        is_now = is_shard and next(calls) == moment
        if not (is_now and is_before):
            method(store, *args)
        if is_now:
            raise Killed

    monkeypatch.setattr(remote.RemoteStore, name, upload)


@pytest.mark.parametrize("suffix", [".tar", ".json"])
def test_a_run_that_died_is_completed(
    photos: Path,
    expected: dict[str, bytes],
    faulty_s3: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    for moment, is_before in ((1, True), (2, False), (3, True)):
        out = f"{faulty_s3.url}/out/{moment}"
        with monkeypatch.context() as patch:
            die_at(patch, suffix, moment, is_before=is_before)
            with pytest.raises(Killed):
                encode(photos, out, shard_size=2)
        tree = read_out(faulty_s3, f"out/{moment}/")
        assert tree == {name: expected[name] for name in tree}
        assert "index.json" not in tree
        encode(photos, out, shard_size=2)
        assert read_out(faulty_s3, f"out/{moment}/") == expected
        assert not faulty_s3.uploads


def test_a_changed_object_makes_its_shard_stale(faulty_s3: FaultyS3) -> None:
    put_tars(faulty_s3)
    out, inputs = f"{faulty_s3.url}/out", f"{faulty_s3.url}/wds/*.tar"
    encode(inputs, out)
    before = read_out(faulty_s3)
    faulty_s3.put("wds/1.tar", make_tar({"new.png": make_photo(20)}))
    results = encode(inputs, out)
    assert count(results) == {Status.DONE: 4, Status.WRITTEN: 1}
    after = read_out(faulty_s3)
    assert {name for name in before if before[name] != after.get(name)} == {
        "1.tar",
        "index.json",
        next(name for name in before if name.startswith("_dinac/shards/1.")),
    }
    assert len(read_markers(after)) == 3
    assert read_index(after)["1.tar"]["nsamples"] == 1


def test_an_object_that_changes_while_it_is_read_commits_nothing(
    faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tars(faulty_s3)
    other = make_tar({"new.png": make_photo(20)})
    faulty_s3.before(lambda: faulty_s3.put("wds/1.tar", other), method="GET", path="wds/1.tar")
    results = encode(f"{faulty_s3.url}/wds/{{0..2}}.tar", f"{faulty_s3.url}/out")
    tree = read_out(faulty_s3)
    if count(results).get(Status.FAILED):
        assert "1.tar" not in tree
    else:  # the first request had not read anything
        assert list(read_shards(tree)["1.tar"]) == ["new.dinac"]


def test_a_loose_image_that_is_gone_or_damaged_fails_alone(
    faulty_s3: FaultyS3,
) -> None:
    for seed, name in enumerate(NAMES):
        faulty_s3.put(f"in/{name}", make_photo(seed))
    faulty_s3.put("in/1.png", b"no image")
    faulty_s3.refuse(404, "NoSuchKey", path="in/2.png", method="GET", times=9)
    faulty_s3.refuse(path="in/0.png", method="GET", times=4)  # so its shard is tried again
    results = encode(f"{faulty_s3.url}/in", f"{faulty_s3.url}/out", shard_size=3)
    assert count(results) == {Status.FAILED: 2, Status.WRITTEN: 4}
    assert {each.file for each in results if each.failed} == {
        f"{faulty_s3.url}/in/1.png",
        f"{faulty_s3.url}/in/2.png",
    }


def test_a_dangling_upload_does_not_matter(
    photos: Path, expected: dict[str, bytes], faulty_s3: FaultyS3
) -> None:
    """An object appears when its upload is completed."""
    import s3fs

    system = s3fs.S3FileSystem()
    system.call_s3("create_multipart_upload", Bucket=faulty_s3.bucket, Key="out/000/000001.tar")
    assert faulty_s3.uploads == ["out/000/000001.tar"]
    out = f"{faulty_s3.url}/out"
    assert count(encode(photos, out, shard_size=2)) == {Status.WRITTEN: 6}
    assert read_out(faulty_s3) == expected


Fault = Callable[[FaultyS3], None]

FAULTS: dict[str, Fault] = {
    "SlowDown of a tar": lambda s3: s3.refuse(method="PUT", path="000001.tar", times=7),
    "500 of a marker": lambda s3: s3.refuse(
        500, "InternalError", method="PUT", path="shards/000/000000", times=7
    ),
    "SlowDown of run.json": lambda s3: s3.refuse(method="PUT", path="run.json", times=4),
    "reset of all": lambda s3: s3.reset(path="out/000", times=3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_storage_errors_end_with_the_bytes_of_an_uninterrupted_run(
    photos: Path, expected: dict[str, bytes], faulty_s3: FaultyS3, name: str
) -> None:
    FAULTS[name](faulty_s3)
    results = encode(photos, f"{faulty_s3.url}/out", shard_size=2)
    assert count(results) == {Status.WRITTEN: 6}
    assert all(fault.times <= 0 for fault in faulty_s3.faults)  # it has happened
    assert read_out(faulty_s3) == expected


def test_a_silent_server_ends_with_the_bytes_of_an_uninterrupted_run(
    photos: Path,
    expected: dict[str, bytes],
    faulty_s3: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsspec.config import conf

    # A busy machine answers in this time; if not, the request is made again.
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": 1.5}})
    monkeypatch.setattr(remote, "UPLOAD_SECONDS", 2)
    faulty_s3.stall(method="PUT", path="000001.tar", times=remote.TRIES)
    results = encode(photos, f"{faulty_s3.url}/out", shard_size=2)
    assert count(results) == {Status.WRITTEN: 6}
    assert all(fault.times <= 0 for fault in faulty_s3.faults)
    assert read_out(faulty_s3) == expected


def test_inputs_that_do_not_answer_at_first(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    put_tars(faulty_s3)
    inputs = f"{faulty_s3.url}/wds/*.tar"
    encode(inputs, tmp_path / "expected")
    faulty_s3.refuse(method="GET", path="wds/0.tar", times=7)
    faulty_s3.cut(method="GET", path="wds/1.tar", times=2)
    faulty_s3.reset(method="GET", path="wds/2.tar", times=4)
    assert count(encode(inputs, tmp_path / "out")) == {Status.WRITTEN: 6}
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "expected")


def test_a_place_that_never_answers_fails_its_shards_and_the_next_run_completes_them(
    photos: Path, expected: dict[str, bytes], faulty_s3: FaultyS3
) -> None:
    faulty_s3.refuse(method="PUT", path="000001.tar", times=1000)
    out = f"{faulty_s3.url}/out"
    results = encode(photos, out, shard_size=2)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 4}
    [failure] = (each for each in results if each.failed)
    assert failure.file == "shard 000/000001"
    assert failure.error == "StorageError"
    faulty_s3.faults.clear()
    assert count(encode(photos, out)) == {Status.DONE: 4, Status.WRITTEN: 2}
    assert read_out(faulty_s3) == expected


def test_ten_shards_that_fail_end_the_run(
    tmp_path: Path, faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 1)
    photos = write_photos(tmp_path / "in", [f"{number:02}.png" for number in range(12)])
    faulty_s3.refuse(method="PUT", path=".tar", times=1000)
    with pytest.raises(StorageError, match="does not answer"):
        encode(photos, f"{faulty_s3.url}/out", shard_size=1)
    assert not read_shards(read_out(faulty_s3))


def test_the_shares_of_a_job_on_s3_at_the_same_time(
    photos: Path, expected: dict[str, bytes], faulty_s3: FaultyS3
) -> None:
    def work(share: str) -> None:
        request = make_request(photos, f"{faulty_s3.url}/out", shard=share, shard_size=2)
        assert not [result for result in run(request) if result.failed]

    threads = [threading.Thread(target=work, args=(f"{number}/3",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_out(faulty_s3) == expected


def test_a_record_on_s3_is_that_of_a_local_run(faulty_s3: FaultyS3, tmp_path: Path) -> None:
    """Also its header: the name is relative to the folder, wherever that is."""
    for seed, name in enumerate(NAMES):
        faulty_s3.put(f"in/{name}", make_photo(seed))
    encode(f"{faulty_s3.url}/in", tmp_path / "out", shard_size=2)
    tars = read_shards(read_tree(tmp_path / "out"))
    headers = [unpack_record(data).header for tar in tars.values() for data in tar.values()]
    assert [header.name for header in headers] == NAMES

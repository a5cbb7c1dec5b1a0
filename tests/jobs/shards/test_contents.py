"""What a sharded OUT holds: markers, tars and the index, also if they are damaged or lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import InputError
from dinac_cli.jobs.results import Status
from dinac_cli.jobs.shards.contents import OutContents, read_index, write_index
from dinac_cli.storage import markers
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.markers import (
    Failure,
    Marker,
    name_marker,
    parse_marker,
    split_marker_name,
)

from ...storage.leftovers import leave_temporary
from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    make_photo,
    make_tar,
    read_shards,
    write_file,
    write_photos,
)

MARK = "0123456789abcdef"
HASH = "0" * 64
MARKER = Marker(
    shard="000/000000",
    fingerprint=MARK,
    images=2,
    failed=1,
    skipped=1,
    size_bytes=10240,
    sha256=HASH,
    bytes_in=999,
    pixels=512,
    source="in.tar",
    compute="cpu/f32",
    failures=(Failure("b", "in/b.png", "no image", "ImageError"),),
)


def change(**values: object) -> bytes:
    return json.dumps({**json.loads(MARKER.to_bytes()), **values}).encode()


def test_a_marker_that_is_written_is_read() -> None:
    assert parse_marker(MARKER.to_bytes(), MARKER.shard) == MARKER
    assert MARKER.name == f"_dinac/shards/000/000000.{MARK}.json"
    assert split_marker_name(MARKER.name) == (MARKER.shard, MARK)


@pytest.mark.parametrize(
    "name",
    [
        f"_dinac/shards/a.{MARK[:-1]}.json",
        f"_dinac/shards/a.{MARK.upper()}.json",
        f"_dinac/shards/.{MARK}.json",
        f"_dinac/plan/a.{MARK}.json",
        f"a.{MARK}.json",
        "_dinac/run.json",
    ],
)
def test_other_files_are_no_markers(name: str) -> None:
    assert split_marker_name(name) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        change(images="2"),
        change(images=2.0),
        change(images=True),
        change(images=-1),
        change(images=11),  # more than the tar has room for
        change(images=2**70),
        MARKER.to_bytes().replace(b'"pixels": 512', b'"pixels": ' + b"9" * 5000),
        change(failed=2),
        change(failed=0),
        change(failures=None),
        change(failures=[{"key": "b"}]),
        change(failures=[["b", "b", "b", "b"]]),
        change(failures=[{"key": 1, "name": "", "reason": "", "error": ""}]),
        change(skipped=None),
        change(size_bytes=2**50),
        change(sha256="0" * 63),
        change(sha256=None),
        change(fingerprint="x"),
        change(bytes_in=-1),
        change(pixels=2**63),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_marker_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_marker(data, MARKER.shard)


@pytest.mark.parametrize("shard", ["../a", "/a", "a/../../b", "a\0", "a\n", "C:a", "a//b", "000/1"])
def test_a_marker_that_names_another_place_is_refused(shard: str) -> None:
    """A tar is found by the name of the marker's file, never by a name in it."""
    with pytest.raises(InputError):
        parse_marker(change(shard=shard), MARKER.shard)


def test_a_huge_marker_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinac_cli.jobs.shards.contents.MAX_MARKER_BYTES", 100)
    store = LocalStore(str(tmp_path))
    store.write(MARKER.name, MARKER.to_bytes())
    with pytest.raises(InputError, match="larger than 100 bytes"):
        list(OutContents.list(store).read_markers([(MARKER.shard, MARK)]))
    assert markers.MAX_MARKER_BYTES == 64 * 2**20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "in", ["a.png", "b.png", "c.png"])


@pytest.fixture
def out(photos: Path, tmp_path: Path) -> Path:
    """OUT of a run, two images a shard."""
    encode(photos, tmp_path / "out", shard_size=2)
    return tmp_path / "out"


def find_marker(out: Path, number: int = 0) -> Path:
    [path] = (out / "_dinac/shards/000").glob(f"00000{number}.*.json")
    return path


def test_a_damaged_marker_is_named_with_what_to_do(photos: Path, out: Path) -> None:
    expected = read_tree(out)
    marker = find_marker(out)
    marker.write_bytes(b"")
    (out / "index.json").unlink()
    done, failure = encode(photos, out)  # the other shard goes on
    assert (done.status, done.name) == (Status.DONE, "000/000001")
    assert (failure.status, failure.name) == (Status.FAILED, "000/000000")
    assert failure.reason == (
        f"{marker}: not a marker of dinac; delete it, and its shard is encoded again"
    )
    assert read_tree(out)["index.json"].count(b'"url"') == 1
    marker.unlink()
    assert count(encode(photos, out)) == {Status.DONE: 1, Status.WRITTEN: 2}
    assert read_tree(out) == expected


def lie(entry: dict[str, Any], **values: object) -> dict[str, Any]:
    return {**entry, **values}


LIES: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "no entry": lambda entries: [],
    "one entry": lambda entries: entries[:1],
    "another fingerprint": lambda entries: [lie(each, fingerprint=MARK) for each in entries],
    "another size": lambda entries: [lie(entries[0], filesize=20480), *entries[1:]],
    "a shard that is not there": lambda entries: [*entries, lie(entries[0], url="x.tar")],
    "a path outside": lambda entries: [lie(each, url=f"../{each['url']}") for each in entries],
    "no list": lambda entries: 7,
}


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_made_again_from_the_markers(
    photos: Path, out: Path, name: str
) -> None:
    expected = read_tree(out)
    index = json.loads(expected["index.json"])
    index["shardlist"] = LIES[name](index["shardlist"])
    (out / "index.json").write_text(json.dumps(index))
    encode(photos, out)
    assert read_tree(out) == expected


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 200_000, b"\xff"])
def test_a_damaged_index_is_made_again(photos: Path, out: Path, data: bytes) -> None:
    expected = read_tree(out)
    (out / "index.json").write_bytes(data)
    assert count(encode(photos, out)) == {Status.DONE: 3}
    assert read_tree(out) == expected


def test_a_tar_of_another_size_than_its_marker_says(photos: Path, out: Path) -> None:
    expected = read_tree(out)
    tar = out / "000/000000.tar"
    tar.write_bytes(expected["000/000000.tar"][:5120])
    results = encode(photos, out)  # the index shows it
    assert count(results) == {Status.DONE: 1, Status.WRITTEN: 2}
    assert read_tree(out) == expected
    tar.write_bytes(expected["000/000000.tar"][:5120])
    (out / "index.json").unlink()
    [failure] = (result for result in encode(photos, out) if result.failed)
    assert failure.reason == (
        f"{tar}: has 5120 bytes, not 10240 as its marker says; "
        "delete it, and its shard is encoded again"
    )
    tar.unlink()
    assert count(encode(photos, out)) == {Status.DONE: 1, Status.WRITTEN: 2}
    assert read_tree(out) == expected


def test_a_tar_of_the_user_in_the_place_of_a_shard_is_not_replaced(photos: Path, out: Path) -> None:
    mine = make_tar({"notes.txt": b"mine" * 5000})
    (out / "000/000000.tar").write_bytes(mine)
    results = encode(photos, out)
    assert count(results) == {Status.DONE: 1, Status.FAILED: 1}
    [failure] = (result for result in results if result.failed)
    assert "exists and was not written by dinac" in (failure.reason or "")
    assert (out / "000/000000.tar").read_bytes() == mine
    encode(photos, out, overwrite=True, shard_size=2)
    assert len(read_shards(read_tree(out))["000/000000.tar"]) == 2


def test_a_tar_or_a_marker_that_is_gone_is_made_again(photos: Path, out: Path) -> None:
    expected = read_tree(out)
    (out / "000/000000.tar").unlink()
    find_marker(out, 1).unlink()
    assert count(encode(photos, out)) == {Status.WRITTEN: 3}
    assert read_tree(out) == expected


def test_two_markers_of_one_shard_lead_to_one(photos: Path, out: Path) -> None:
    """Two runs at the same time saw different sources: the tar may be of either."""
    expected = read_tree(out)
    marker = json.loads(find_marker(out).read_bytes())
    other = out / name_marker("000/000000", MARK)
    other.write_text(json.dumps({**marker, "fingerprint": MARK}))
    assert count(encode(photos, out)) == {Status.DONE: 1, Status.WRITTEN: 2}
    assert read_tree(out) == expected


def test_markers_of_an_earlier_source_are_removed(tmp_path: Path) -> None:
    tar, out = tmp_path / "in.tar", tmp_path / "out"
    for seed in range(3):
        write_file(tar, make_tar({"a.png": make_photo(seed)}), 1_000_000_000 + seed)
        assert count(encode(tar, out)) == {Status.WRITTEN: 1}
        assert len(list((out / "_dinac/shards").iterdir())) == 1


def test_temporary_files_of_killed_runs_are_removed_also_if_nothing_is_to_do(
    photos: Path, out: Path
) -> None:
    """A killed worker leaves one where another one completes its shard."""
    expected = read_tree(out)
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    left = [leave_temporary(folder, age_seconds=120) for folder in folders]
    assert len(left) == 7
    living = leave_temporary(out / "000", os.getpid())
    assert count(encode(photos, out)) == {Status.DONE: 3}
    living.unlink()
    assert read_tree(out) == expected


def test_the_index_lists_what_is_complete(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    assert write_index(store) == 0
    assert read_index(store) == {}
    for shard in ("b", "a/c", "lost"):
        store.write(f"{shard}.tar", bytes(10240))
        store.write(name_marker(shard, MARK), replace(MARKER, shard=shard).to_bytes())
    store.remove("lost.tar")
    store.write("unmarked.tar", bytes(10240))
    assert write_index(store) == 2
    assert list(read_index(store)) == ["a/c.tar", "b.tar"]
    assert {entry.missed for entry in read_index(store).values()} == {2}


def test_a_rerun_reads_no_marker_that_the_index_knows(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = LocalStore.read

    def note(store: LocalStore, name: str, *args: Any) -> bytes:
        read.append(name)
        return original(store, name, *args)

    monkeypatch.setattr(LocalStore, "read", note)
    encode(photos, out)
    assert not [name for name in read if name.startswith("_dinac/shards")]

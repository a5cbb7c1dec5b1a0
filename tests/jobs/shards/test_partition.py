"""The division of inputs: kinds, patterns, names, and how often remote places are asked."""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.jobs.request import InputRequest
from dinac_cli.jobs.results import Status
from dinac_cli.jobs.shards import partition
from dinac_cli.jobs.shards.partition import Archive, ShardInputs, names_shards
from dinac_cli.jobs.shards.shard import (
    ShardKind,
    find_kind,
    fingerprint,
    number_shard,
    parse_number,
)
from dinac_cli.storage.remote import RemoteStore
from dinac_cli.storage.store import open_store

from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    make_photo,
    make_request,
    make_tar,
    read_markers,
    read_shards,
    write_file,
    write_photos,
)


@pytest.fixture
def place() -> str:
    """A remote place of its own."""
    pytest.importorskip("fsspec")
    return f"memory://{uuid.uuid4()}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the listings and the questions for single files."""
    counts: Counter[str] = Counter()
    for name in ("list", "stat"):
        method = getattr(RemoteStore, name)

        def ask(
            store: RemoteStore, *args: Any, _name: str = name, _method: Any = method, **named: Any
        ) -> Any:
            counts[_name] += 1
            return _method(store, *args, **named)

        monkeypatch.setattr(RemoteStore, name, ask)
    return counts


def put(place: str, names: Iterator[str] | list[str]) -> None:
    store = open_store(place, for_writing=True)
    for seed, name in enumerate(names):
        stem = os.path.basename(name).removesuffix(".tar")
        data = make_photo(seed)
        store.write(name, make_tar({f"{stem}.png": data}) if name.endswith(".tar") else data)


def find(*paths: object, out: str = "out", **fields: Any) -> ShardInputs:
    return ShardInputs.find(InputRequest(paths=tuple(map(str, paths)), **fields), out)


def names(inputs: ShardInputs) -> list[str]:
    return [archive.name for archive in inputs.archives]


@pytest.mark.parametrize(
    ("path", "kind", "is_sharded"),
    [
        ("a.tar", ShardKind.TAR, True),
        ("A.TAR", ShardKind.TAR, True),
        ("s3://b/a.parquet", ShardKind.PARQUET, True),
        ("a.tar.gz", ShardKind.TAR, True),
        ("tar", ShardKind.LOOSE, False),
        ("s3://b/photos/", ShardKind.LOOSE, True),
        ("photos", ShardKind.LOOSE, False),
        ("a.jpg", ShardKind.LOOSE, False),
    ],
)
def test_the_kind_of_an_input(path: str, kind: ShardKind, is_sharded: bool) -> None:
    assert find_kind(path) is kind
    assert names_shards(path) is is_sharded


def test_names_of_numbered_shards() -> None:
    assert [number_shard(number) for number in (0, 42, 12_345)] == [
        "000/000000",
        "000/000042",
        "012/012345",
    ]
    for number in (0, 999, 1000, 123_456_789):
        assert parse_number(number_shard(number)) == number
    for name in (
        "000000",
        "001/000000",
        "000/00000",
        "000/0000000",
        "000/" + "\u0660" * 6,
        "9" * 5000,
        "",
    ):
        assert parse_number(name) is None


def test_a_fingerprint_changes_with_each_fact() -> None:
    facts = [
        ("s", "tar", "a", 1, "v"),
        ("t", "tar", "a", 1, "v"),
        ("s", "parquet", "a", 1, "v"),
        ("s", "tar", "b", 1, "v"),
        ("s", "tar", "a", 2, "v"),
        ("s", "tar", "a", 1, "w"),
        ("s", "tar", "a\udcff", 1, "v"),
    ]
    marks = [fingerprint(*each) for each in facts]
    assert len(set(marks)) == len(facts)
    assert {len(mark) for mark in marks} == {16}


def test_the_fingerprint_of_an_archive_does_not_depend_on_its_folder() -> None:
    one, two = (Archive(f"{folder}/x.tar", 7, "etag-1") for folder in ("s3://a", "s3://b/c"))
    assert one.make_shard("s").fingerprint == two.make_shard("s").fingerprint


def test_braces_and_patterns_keep_their_order(tmp_path: Path) -> None:
    for number in range(4):
        write_file(tmp_path / f"{number:02}.tar", b"x")
    ranges = find(tmp_path / "{02..00}.tar", tmp_path / "03.tar")
    assert names(ranges) == ["02", "01", "00", "03"]
    assert names(find(tmp_path / "*.tar")) == ["00", "01", "02", "03"]
    assert names(find(tmp_path / "{00,03}.tar", tmp_path / "*3.tar")) == ["00", "03"]


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    write_file(tmp_path / "a[1].tar", b"x")
    assert names(find(tmp_path / "a[1].tar")) == ["a[1]"]


def test_a_pattern_without_a_match(tmp_path: Path, place: str) -> None:
    for pattern in (f"{tmp_path}/*.tar", f"{place}/*.tar"):
        with pytest.raises(UsageError) as caught:
            find(pattern)
        assert str(caught.value) == f"{pattern}: no file matches this pattern"
    with pytest.raises(UsageError, match="only the last part of a URL may be a pattern"):
        find(f"{place}/*/a.tar")


def test_two_archives_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = write_file(tmp_path / "1/a.tar", b"x"), write_file(tmp_path / "2/a.tar", b"x")
    with pytest.raises(UsageError) as caught:
        find(one, two)
    assert str(caught.value) == (
        f"{one} and {two} would both be written to a.tar; give them different OUTs or rename one"
    )
    with pytest.raises(UsageError, match=r"would both be written to a\.tar"):
        find(one, tmp_path / "2/a.parquet")
    assert names(find(one, one)) == ["a"]  # named twice


@pytest.mark.parametrize(("length", "fits"), [(233, True), (234, False), (251, False)])
def test_an_archive_whose_name_is_too_long_for_a_marker_fails_before_it_is_read(
    length: int, fits: bool, tmp_path: Path
) -> None:
    """Its tar would be written in every run, and never be complete."""
    if sys.platform == "win32":
        pytest.skip("paths have at most 260 characters")
    tar = tmp_path / f"{'x' * length}.tar"
    write_file(tar, make_tar({"a.png": make_photo(0)}))
    [result] = encode(tar, tmp_path / "out")
    assert result.status is (Status.WRITTEN if fits else Status.FAILED)
    assert fits or (result.reason or "").endswith("longer than 255 bytes; rename it")
    assert ("_dinac/run.json" in read_tree(tmp_path / "out")) == fits


def test_two_names_that_are_one_on_the_disk_of_out_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One would replace the other. In a bucket, they are two."""
    one, two = write_file(tmp_path / "1/a.tar", b"x"), write_file(tmp_path / "2/A.tar", b"x")
    monkeypatch.setattr(partition, "ignores_case", lambda folder: True)
    with pytest.raises(UsageError, match=r"would both be written to A\.tar"):
        find(one, two)
    request = InputRequest(paths=(str(one), str(two)))
    assert names(ShardInputs.find(request, "s3://b/out")) == ["a", "A"]
    monkeypatch.setattr(partition, "ignores_case", lambda folder: False)
    assert names(find(one, two)) == ["a", "A"]


def test_an_archive_that_is_missing_fails_alone(tmp_path: Path, place: str) -> None:
    write_file(tmp_path / "1.tar", make_tar({"a.png": make_photo(0)}))
    put(place, ["2.tar"])
    inputs = [tmp_path / "{0..1}.tar", f"{place}/{{2..3}}.tar"]
    results = encode(inputs, tmp_path / "out")
    assert count(results) == {Status.FAILED: 2, Status.WRITTEN: 2}
    assert [(each.file, each.reason) for each in results if each.failed] == [
        (str(tmp_path / "0.tar"), "no such file; check its name"),
        (f"{place}/3.tar", "no such file; check its name"),
    ]


@pytest.mark.parametrize(("number", "listings", "questions"), [(3, 0, 3), (40, 1, 0)])
def test_many_remote_archives_are_found_by_one_listing(
    place: str, asked: Counter[str], number: int, listings: int, questions: int
) -> None:
    store = open_store(f"{place}/wds", for_writing=True)
    for index in range(number):
        store.write(f"{index:03}.tar", b"x")
    inputs = find(f"{place}/wds/{{000..{number - 1:03}}}.tar")
    assert len(inputs.archives) == number
    assert not [each for each in inputs.archives if each.problem]
    assert {each.size_bytes for each in inputs.archives} == {1}
    assert (asked["list"], asked["stat"]) == (listings, questions)


def test_a_remote_folder_is_listed_once_for_all_patterns(place: str, asked: Counter[str]) -> None:
    put(place, [f"wds/{index}.tar" for index in range(4)])
    inputs = find(f"{place}/wds/*0.tar", f"{place}/wds/*1.tar", f"{place}/wds/{{2..3}}.tar")
    assert names(inputs) == ["0", "1", "2", "3"]
    assert (asked["list"], asked["stat"]) == (1, 0)


def test_a_remote_folder_of_images(place: str, tmp_path: Path, asked: Counter[str]) -> None:
    photos = ["b.png", "a/c.png", "a/d.v2.png"]
    put(place, [f"in/{name}" for name in photos])
    store = open_store(f"{place}/in", for_writing=True)
    for name in (".hidden.png", "a/._c.png", ".trash/x.png", "notes.txt", "a/old.tar"):
        store.write(name, b"x")
    asked.clear()
    inputs = find(f"{place}/in")
    assert [file.name for file in inputs.list_loose()] == ["a/c.png", "a/d.v2.png", "b.png"]
    assert inputs.others == 2
    assert asked["list"] == 1
    results = encode(f"{place}/in", tmp_path / "out", shard_size=2)
    assert count(results) == {Status.WRITTEN: 3}
    keys = [key for members in read_shards(read_tree(tmp_path / "out")).values() for key in members]
    assert keys == ["a/c%2Epng.dinac", "a/d%2Ev2%2Epng.dinac", "b%2Epng.dinac"]


def test_remote_and_local_images_of_one_name_have_equal_records(place: str, tmp_path: Path) -> None:
    local = write_photos(tmp_path / "in", ["a.png", "b.png"])
    put(place, ["in/a.png", "in/b.png"])
    for source, out in ((local, "one"), (f"{place}/in", "two")):
        encode(source, tmp_path / out, shard_size=2)
    tars = [read_tree(tmp_path / out)["000/000000.tar"] for out in ("one", "two")]
    assert tars[0] == tars[1]


def test_exclude_holds_for_remote_images(place: str) -> None:
    put(place, ["in/a.png", "in/b.png", "in/old/c.png"])
    inputs = find(f"{place}/in", exclude=("old", "b.*"))
    assert [file.name for file in inputs.list_loose()] == ["a.png"]


def test_a_remote_image_by_its_name(place: str, tmp_path: Path) -> None:
    put(place, ["in/a.png"])
    assert count(encode(f"{place}/in/a.png", tmp_path / "out")) == {Status.WRITTEN: 1}
    with pytest.raises(UsageError) as caught:
        encode(f"{place}/in/b.png", tmp_path / "out2")
    assert str(caught.value) == f"{place}/in/b.png: no such file; check the URL"


def test_two_images_of_one_key_are_refused(tmp_path: Path) -> None:
    folders = [write_photos(tmp_path / name, ["x/a.png"]) for name in ("one", "two")]
    request = make_request(folders, tmp_path / "out", shard_size=2)
    with pytest.raises(UsageError) as caught:
        request.open().count()
    first, second = (folder / "x/a.png" for folder in folders)
    assert str(caught.value) == (
        f"{first} and {second} would both have the key x/a%2Epng; rename one, or "
        "leave it out with --exclude"
    )
    assert not (tmp_path / "out").exists()


def test_keys_of_odd_names_do_not_collide(tmp_path: Path) -> None:
    odd = ["a.b.png", "a%2Eb.png", "a%252Eb.png", "a.png", "A b.png", "é.png"]
    photos = write_photos(tmp_path / "in", odd)
    encode(photos, tmp_path / "out", shard_size=10)
    [members] = read_shards(read_tree(tmp_path / "out")).values()
    assert sorted(members) == sorted(
        f"{key}%2Epng.dinac" for key in ("a%2Eb", "a%252Eb", "a%25252Eb", "a", "A b", "é")
    )


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs permissions")
def test_an_image_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "b.png"])
    (photos / "b.png").chmod(0)
    results = encode(photos, tmp_path / "out", shard_size=2)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 1}


def test_a_broken_link_is_an_image_that_fails(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png"])
    try:
        (photos / "b.png").symlink_to(tmp_path / "gone.png")
    except OSError:
        pytest.skip("no links here")
    results = encode(photos, tmp_path / "out", shard_size=2)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 1}
    write_file(tmp_path / "gone.png", make_photo(5))
    assert count(encode(photos, tmp_path / "out")) == {Status.WRITTEN: 2}


def test_loose_images_and_archives_in_one_run(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "b.png", "c.png"])
    tar = write_file(tmp_path / "000.tar", make_tar({"x.png": make_photo(4)}))
    results = encode([photos, tar], tmp_path / "out", shard_size=2)
    assert count(results) == {Status.WRITTEN: 4}
    markers = read_markers(read_tree(tmp_path / "out"))
    assert sorted(markers) == ["000", "000/000000", "000/000001"]


def test_an_out_inside_the_input_is_no_input(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png"])
    out = photos / "latents"
    encode(photos, out, shard_size=2)
    before = read_tree(out)
    assert count(encode(photos, out)) == {Status.DONE: 1}
    assert read_tree(out) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are not UTF-8")
def test_names_that_are_not_utf8_and_names_of_255_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(write_photos(tmp_path / "in", ["a.png"]))
    names = [b"\xff.png", b"x" * 239 + b".png", b"y" * 251 + b".png", b"\xfe.jpg"]
    for seed, name in enumerate(names):
        data = b"no image" if name == b"\xfe.jpg" else make_photo(seed)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    out = tmp_path / "out"
    results = encode(tmp_path / "in", out, shard_size=10)
    assert count(results) == {Status.FAILED: 2, Status.WRITTEN: 3}
    [members] = read_shards(read_tree(out)).values()
    assert sorted(members) == ["%25FF%2Epng.dinac", "a%2Epng.dinac", f"{'x' * 239}%2Epng.dinac"]
    tree = read_tree(out)
    again = encode(tmp_path / "in", out)
    assert count(again) == {Status.FAILED: 2, Status.DONE: 3}
    failed = [{each.file for each in run if each.failed} for run in (results, again)]
    assert failed[0] == failed[1]
    assert read_tree(out) == tree

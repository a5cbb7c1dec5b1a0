"""The samples of a shard: their keys, their images, and what lies beside them."""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.container.record import unpack_record
from dinac_cli.errors import UsageError
from dinac_cli.jobs.decode import DecodeRequest
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.request import InputRequest, run_request
from dinac_cli.jobs.results import Status
from dinac_cli.jobs.shards.run_settings import parse_extensions
from dinac_cli.jobs.shards.sample import (
    Leftovers,
    Sample,
    SampleChoice,
    list_samples,
)
from dinac_cli.jobs.shards.shard import LooseFile, Shard, ShardKind
from dinac_cli.storage.store import open_store
from dinac_cli.storage.tars import make_key

from ..hand_made import read_tree
from .shard_runs import (
    NANO,
    count,
    encode,
    make_photo,
    make_tar,
    read_members,
    write_file,
    write_photos,
)

PNG, JPEG = make_photo(0), make_photo(1, "JPEG")


def encode_tar(
    tmp_path: Path, files: Mapping[str, bytes], *args: Any, **fields: Any
) -> tuple[dict[str, bytes], dict[str, str | None], int]:
    """Encodes a tar. Returns the members of its shard, the failures, and how many lost captions."""
    tar = write_file(tmp_path / "in.tar", make_tar(files))
    results = encode(tar, tmp_path / "out", *args, **fields)
    failures = {each.file.removeprefix(f"{tar}: "): each.reason for each in results if each.failed}
    return read_members(tmp_path / "out/in.tar"), failures, sum(each.captions for each in results)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a%2Ejpg"),
        ("a/b.JPEG", "a/b%2EJPEG"),
        ("a.b/c.d.png", "a%2Eb/c%2Ed%2Epng"),
        ("a.v1", "a%2Ev1"),  # found by its content
        ("a%2Eb.png", "a%252Eb%2Epng"),
        (".png", "%2Epng"),
        ("con.png", "con%2Epng"),
        ("é.webp", "é%2Ewebp"),
    ],
)
def test_the_key_of_a_loose_image(name: str, key: str) -> None:
    assert make_key(name) == key


def test_samples_of_a_tar_keep_their_keys(tmp_path: Path) -> None:
    files = {"b/1.png": PNG, "b/1.txt": b"one", "a.b/2.jpg": JPEG, "é.PNG": PNG, "__meta__": b"x"}
    members, failures, captions = encode_tar(tmp_path, files)
    assert list(members) == ["b/1.dinac", "a.b/2.dinac", "é.dinac"]
    assert (failures, captions) == ({}, 1)
    names = [unpack_record(data).header.name for data in members.values()]
    assert names == ["b/1.png", "a.b/2.jpg", "é.PNG"]


def test_captions_are_kept_on_request_beside_their_record(tmp_path: Path) -> None:
    files = {
        "1.json": b'{"a": 1}',
        "1.png": PNG,
        "1.TXT": b"one",
        "1.cls": b"7",
        "2.png": PNG,
        "2.txt": b"two",
    }
    members, failures, captions = encode_tar(tmp_path, files, keep=("txt", "json"))
    assert list(members) == ["1.dinac", "1.json", "1.txt", "2.dinac", "2.txt"]
    assert [members[name] for name in ("1.json", "1.txt", "2.txt")] == [b'{"a": 1}', b"one", b"two"]
    assert (failures, captions) == ({}, 1)  # the file of the class


def test_a_sample_with_several_images(tmp_path: Path) -> None:
    files = {
        "1.jpg": JPEG,
        "1.mask.png": PNG,
        "2.jpg": JPEG,
        "2.png": PNG,
        "3.seg.png": PNG,
        "4.txt": b"no image",
    }
    members, failures, _ = encode_tar(tmp_path, files)
    assert list(members) == ["1.dinac", "3.dinac"]
    assert unpack_record(members["1.dinac"]).header.name == "1.jpg"
    assert failures == {"2.jpg": "2 images in one sample (jpg, png); keep one of them"}


def test_a_sample_without_an_image_fails_if_its_caption_is_kept(tmp_path: Path) -> None:
    members, failures, _ = encode_tar(tmp_path, {"1.png": PNG, "2.txt": b"x"}, keep=("txt",))
    assert list(members) == ["1.dinac"]
    assert failures == {"2": "no image in this sample"}


def test_a_bad_member_fails_its_sample_alone(tmp_path: Path) -> None:
    files = {"../1.png": PNG, "2.png": b"no image", "3.png": PNG, "4.png": PNG, "3.txt": b"late"}
    members, failures, _ = encode_tar(tmp_path, files, keep=("txt",))
    assert list(members) == ["3.dinac", "4.dinac"]
    assert len(failures) == 3
    assert "/" not in "".join(name.removeprefix("../") for name in os.listdir(tmp_path / "out"))


def test_a_key_that_is_too_long_for_the_name_of_a_record_fails(tmp_path: Path) -> None:
    """Readers would refuse the member."""
    long = "x" * 251
    members, failures, _ = encode_tar(tmp_path, {f"{long}.png": PNG, f"{long[:249]}.png": PNG})
    assert list(members) == [f"{long[:249]}.dinac"]
    assert failures == {
        f"{long}.png": "the name of its record has a component longer than 255 bytes; rename it"
    }


@pytest.mark.parametrize(
    ("sample", "label"),
    [
        (Sample(None, "a.png", place="https://me:pw@h/x.tar?sig=s"), "https://h/x.tar: a.png"),
        (Sample("https://me:pw@h/a.png?sig=s", "a.png"), "https://h/a.png"),
        (Sample("d/a?b.png", "a?b.png"), "d/a?b.png"),
    ],
)
def test_labels_hold_no_secrets(sample: Sample, label: str) -> None:
    """They are printed, and markers keep those of images that failed."""
    assert sample.label == label


def test_anonymous_keys_are_numbers(tmp_path: Path) -> None:
    files = {"bob.png": PNG, "bob.txt": b"x", "carol.png": b"no image", "dave.png": PNG}
    members, failures, _ = encode_tar(tmp_path, files, EncodeChoice(anonymous=True), keep=("txt",))
    assert list(members) == ["in_00000000.dinac", "in_00000000.txt", "in_00000002.dinac"]
    assert list(failures) == ["carol.png"]


def test_captions_beside_loose_images(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "b.c.png", "d/e.png"])
    write_file(photos / "a.txt", b"one")
    write_file(photos / "b.c.json", b"{}")
    write_file(photos / "a.json", b"{}")
    left = encode(photos, tmp_path / "left", shard_size=3)
    assert sum(result.captions for result in left) == 2  # images, not captions
    kept = encode(photos, tmp_path / "kept", shard_size=3, keep=("json", "txt"))
    assert sum(result.captions for result in kept) == 0
    members = read_members(tmp_path / "kept/000/000000.tar")
    assert list(members) == [
        "a%2Epng.dinac",
        "a%2Epng.json",
        "a%2Epng.txt",
        "b%2Ec%2Epng.dinac",
        "b%2Ec%2Epng.json",
        "d/e%2Epng.dinac",
    ]
    records = {name: data for name, data in members.items() if name.endswith(".dinac")}
    assert records == read_members(tmp_path / "left/000/000000.tar")


def test_captions_beside_loose_images_of_a_remote_folder(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    place = f"memory://{uuid.uuid4()}"
    store = open_store(place, for_writing=True)
    files = {"a.png": PNG, "a.json": b"{}", "a.txt": b"a", "b.png": PNG, "d/b.txt": b"b"}
    for name, data in files.items():
        store.write(name, data)
    out = tmp_path / "out"
    assert [each.captions for each in encode(place, out, shard_size=3)] == [1]
    assert [each.captions for each in encode(place, out, shard_size=3)] == [0]  # nothing to do
    kept = encode(place, tmp_path / "kept", shard_size=3, keep=("json", "txt"))
    assert sum(each.captions for each in kept) == 0
    assert {each.name: each.lacking for each in kept if each.lacking} == {"b.png": ("json", "txt")}


def test_folders_of_captions_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is shuffled would otherwise list a folder for each image."""
    names = [f"{folder}/{number}.png" for number in range(8) for folder in ("a", "b", "c")]
    photos = write_photos(tmp_path / "in", names)
    write_file(photos / "b/5.txt", b"five")
    files = tuple(LooseFile(str(photos / name), name, 1, "v") for name in names)
    shard = Shard(name="0", kind=ShardKind.LOOSE, fingerprint="0" * 16, files=files)
    listed: list[str] = []
    listdir = os.listdir

    def note(folder: str) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", note)
    left = Leftovers()
    assert len(list(list_samples(shard, SampleChoice(), left))) == 24
    assert (left.images, len(listed)) == (1, 3)


@pytest.mark.parametrize("text", ["", "txt,", "dinac", "../x", "a/b", "x" * 40, "txt,DINAC", "ü"])
def test_extensions_that_cannot_be_kept(text: str) -> None:
    with pytest.raises(UsageError, match="name extensions, such as txt,json"):
        parse_extensions(text)


def test_extensions_are_read_without_case_dots_and_repeats() -> None:
    assert parse_extensions("TXT, .json,txt") == ("txt", "json")


def write_parquet(path: Path, columns: Mapping[str, list[Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(columns)), file)
    return write_file(path, file.getvalue())


def test_rows_of_parquet(tmp_path: Path) -> None:
    images = [{"bytes": PNG, "path": "p"}, None, {"bytes": b"no image", "path": None}]
    columns: dict[str, list[Any]] = {
        "image": [*images, {"bytes": JPEG, "path": ""}],
        "label": [1, 2, 3, 4],
    }
    table = write_parquet(tmp_path / "part.v1.parquet", columns)
    results = encode(table, tmp_path / "out", keep=("json", "txt"))
    assert count(results) == {Status.FAILED: 2, Status.WRITTEN: 2}
    assert not any(result.lacking for result in results)  # rows have no files beside them
    members = read_members(tmp_path / "out/part.v1.tar")
    stem = "part%2Ev1"
    assert list(members) == [
        f"{stem}_{row:08}.{extension}" for row in (0, 3) for extension in ("dinac", "json")
    ]
    assert [json.loads(members[f"{stem}_{row:08}.json"]) for row in (0, 3)] == [
        {"label": 1},
        {"label": 4},
    ]


@pytest.mark.parametrize(
    ("columns", "keep", "lost"),
    [
        ({}, (), 0),
        ({"label": [1, 2]}, (), 2),
        ({"label": [1, 2]}, ("txt",), 2),
        ({"label": [1, 2]}, ("json",), 0),
        ({"mask": [b"1", b"2"]}, (), 0),  # --keep json would not copy it either
    ],
)
def test_the_end_tells_of_columns_that_were_left_out(
    tmp_path: Path, columns: Mapping[str, list[Any]], keep: tuple[str, ...], lost: int
) -> None:
    table = write_parquet(tmp_path / "a.parquet", {"image": [PNG, JPEG], **columns})
    assert sum(result.captions for result in encode(table, tmp_path / "out", keep=keep)) == lost


def test_the_column_of_parquet_follows_out(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "a.parquet", {"photo": [PNG, JPEG]})
    out = tmp_path / "out"
    [failure] = encode(table, out)
    assert failure.file == str(table)
    assert failure.failed
    assert count(encode(table, out, image_column="photo")) == {Status.WRITTEN: 2}
    tree = read_tree(out)
    assert count(encode(table, out)) == {Status.DONE: 2}
    assert read_tree(out) == tree


def test_images_that_dinac_decoded_are_skipped_as_in_a_loose_run(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png"])
    encode(photos, tmp_path / "loose")
    request = DecodeRequest(
        inputs=InputRequest(paths=(str(tmp_path / "loose"),)),
        out=str(photos / "decoded"),
        model=NANO,
        processes=1,
    )
    assert count(run_request(request)) == {Status.WRITTEN: 1}
    [decoded] = (photos / "decoded").iterdir()
    skipped = {Status.SKIPPED: 1, Status.WRITTEN: 1}
    assert count(encode(photos, tmp_path / "new", overwrite=True)) == skipped
    results = encode(photos, tmp_path / "out", shard_size=3)
    assert count(results) == skipped
    assert sum(result.is_decoded for result in results) == 1
    assert list(read_members(tmp_path / "out/000/000000.tar")) == ["a%2Epng.dinac"]
    named = encode(
        [photos / "a.png", decoded.rename(tmp_path / "b.png")], tmp_path / "named", shard_size=3
    )
    assert count(named) == {Status.WRITTEN: 2}

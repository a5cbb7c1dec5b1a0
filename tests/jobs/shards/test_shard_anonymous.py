"""`--anonymous` holds for all that a sharded OUT keeps."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dinac_cli.container.record import unpack_record
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.results import Status

from ..hand_made import GOLDEN, draw, read_tree
from .shard_runs import (
    NANO,
    count,
    encode,
    make_tar,
    read_markers,
    read_shards,
    write_file,
    write_photos,
)

ANONYMOUS = EncodeChoice(anonymous=True)


def make_source(seed: int) -> bytes:
    """Returns an image of at least 20 kB, most of which is no picture."""
    file = io.BytesIO()
    facts = PngInfo()
    facts.add_text("comment", "x" * (20_011 + seed))
    Image.fromarray(draw(seed)).save(file, "PNG", pnginfo=facts)
    return file.getvalue()


def list_texts(tree: dict[str, bytes]) -> Iterator[bytes]:
    """Yields all bytes of an OUT: names, files, and what is in records."""
    for name, data in tree.items():
        yield name.encode()
        yield data
    for members in read_shards(tree).values():
        for name, data in members.items():
            yield name.encode()
            yield repr(unpack_record(data).header).encode()


def assert_absent(tree: dict[str, bytes], sources: dict[str, bytes], *names: str) -> None:
    """No name, size or hash of a source is in OUT."""
    texts = list(list_texts(tree))
    words = [name.encode() for name in names]
    for data in sources.values():
        assert len(data) > 10_240  # a short number would occur by chance
        words += [f" {len(data)},".encode(), f" {len(data)}\n".encode(), f"={len(data)},".encode()]
        digest = hashlib.sha256(data)
        words += [digest.hexdigest().encode(), digest.digest()]
    for word in words:
        assert not [text for text in texts if word in text], word


def test_an_anonymous_out_of_loose_images_tells_nothing_of_them(tmp_path: Path) -> None:
    photos = tmp_path / "in"
    for seed, name in enumerate(["alice.png", "bob/carol.png", "dave.png"]):
        write_file(photos / name, make_source(seed))
    write_file(photos / "erin.png", b"no image" * 4001)
    out = tmp_path / "out"
    results = encode(photos, out, ANONYMOUS, shard_size=1)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 3}
    tree, sources = read_tree(out), read_tree(photos)
    private = ("alice", "bob", "carol", "dave", "erin", ".png", str(photos))
    assert_absent(tree, sources, *private)
    [failed] = (each for each in read_markers(tree).values() if each["failed"])
    assert failed["failures"] == [
        {"key": "000003_00000000", "name": "", "reason": "", "error": "ImageError"}
    ]
    assert {each["bytes_in"] for each in read_markers(tree).values()} == {0}
    [again] = (each for each in encode(photos, out) if each.failed)
    assert (again.file, again.reason) == (
        "shard 000/000003: 000003_00000000",
        "failed in an earlier run; --retry-failed tries it again",
    )


def test_an_anonymous_out_of_a_tar_tells_nothing_of_its_members(tmp_path: Path) -> None:
    files = {f"{name}.png": make_source(seed) for seed, name in enumerate(["alice", "bob/carol"])}
    damaged = {
        "dave.jpg": b"no image" * 4001,
        "dave.png": b"no" * 9001,
        "bob/erin.png": b"x" * 20_011,
    }
    members = {**files, **damaged, "alice.jpeg": make_source(3)}
    tar = write_file(tmp_path / "faces.tar", make_tar(members))
    out = tmp_path / "out"
    results = encode(tar, out, ANONYMOUS)
    assert count(results) == {Status.FAILED: 3, Status.WRITTEN: 2}
    tree = read_tree(out)
    assert_absent(tree, members, "alice", "bob", "carol", "dave", "erin", ".png", ".jp")
    [shard] = read_shards(tree).values()
    assert list(shard) == ["faces_00000000.dinac", "faces_00000001.dinac"]


def test_the_name_of_a_private_model_is_not_kept(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png"])
    for choice, label in ((EncodeChoice(), "tiny"), (ANONYMOUS, "")):
        out = tmp_path / f"out-{label}"
        model = replace(NANO, model=str(GOLDEN / "tiny"))
        encode(photos, out, choice, shard_size=1, model=model)
        assert json.loads((out / "_dinac/run.json").read_bytes())["model"] == label


def test_overwrite_removes_the_names_that_out_had(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(["alice.png", "bob.png"]):
        write_file(photos / name, make_source(seed))
    encode(photos, out, shard_size=1)
    with pytest.raises(AssertionError, match="alice"):
        assert_absent(read_tree(out), read_tree(photos), "alice", "bob")
    encode(photos, out, ANONYMOUS, shard_size=1, overwrite=True)
    assert_absent(read_tree(out), read_tree(photos), "alice", "bob")

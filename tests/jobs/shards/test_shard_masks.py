"""Masks in shards: of loose images, which a changed mask encodes again, and of tars."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli import verify_files
from dinac_cli.container.record import unpack_record
from dinac_cli.container.tensors import ALL_COMPANIONS
from dinac_cli.errors import UsageError
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.results import Status, Tally

from .shard_runs import count, encode, make_tar, read_members, write_file, write_photos

NAMES = ("a.png", "b.png", "c.png")  # of 16x16, 17x9 and 32x16 pixels
ASKED = EncodeChoice(mask=True)


def make_gray(width: int, height: int, level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def read_masks(out: Path) -> dict[str, object]:
    """Returns the masks of all records in OUT, by their keys."""
    found: dict[str, object] = {}
    for tar in sorted(out.rglob("*.tar")):
        for name, data in read_members(tar).items():
            mask = unpack_record(data, ALL_COMPANIONS).mask
            found[name.removesuffix(".dinac").replace("%2E", ".")] = (
                None if mask is None else mask.tolist()
            )
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", NAMES)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    write_file(tmp_path / "masks/a.png", make_gray(16, 16, 100))
    write_file(tmp_path / "masks/c.png", make_gray(32, 16, 50))
    return tmp_path / "masks"


def test_a_changed_mask_encodes_its_shard_again(photos: Path, masks: Path, tmp_path: Path) -> None:
    out, choice = tmp_path / "out", EncodeChoice(masks=str(masks))
    results = encode(photos, out, choice, shard_size=2)
    assert (count(results), sum(r.unmasked for r in results)) == ({Status.WRITTEN: 3}, 1)
    assert read_masks(out) == {"a.png": [[100]], "b.png": None, "c.png": [[50, 50]]}
    assert count(encode(photos, out, choice)) == {Status.DONE: 3}
    assert json.loads((out / "_dinac/run.json").read_bytes())["mask"] == "files"
    write_file(masks / "c.png", make_gray(32, 16, 0), 1_100_000_000)
    again = encode(photos, out, choice)
    assert count(again) == {Status.DONE: 2, Status.WRITTEN: 1}
    assert {each.reason for each in again} == {None, "its source or a mask has changed"}
    (masks / "a.png").unlink()
    last = encode(photos, out, choice)
    assert count(last) == {Status.DONE: 1, Status.WRITTEN: 2}
    tally = Tally()
    for result in last:
        tally.add(result)
    assert (tally.written, tally.redone) == (2, 2)  # neither image has a mask now
    assert read_masks(out) == {"a.png": None, "b.png": None, "c.png": [[0, 0]]}
    assert {result.status for result in verify_files(out)} == {Status.VERIFIED}
    with pytest.raises(UsageError, match=r"name the folder .* again, or choose another OUT$"):
        encode(photos, out)


def test_records_without_masks_keep_their_settings(photos: Path, tmp_path: Path) -> None:
    encode(photos, tmp_path / "out", shard_size=2)
    assert "mask" not in json.loads((tmp_path / "out/_dinac/run.json").read_bytes())


def test_images_of_a_tar_find_their_masks_by_name(masks: Path, tmp_path: Path) -> None:
    tar = make_tar({"x/a.png": make_gray(16, 16, 9), "x/b.png": make_gray(16, 16, 9)})
    write_file(tmp_path / "in.tar", tar)
    write_file(tmp_path / "m/x/a.png", make_gray(16, 16, 7))
    out, choice = tmp_path / "out", EncodeChoice(masks=str(tmp_path / "m"))
    assert count(encode(tmp_path / "in.tar", out, choice)) == {Status.WRITTEN: 2}
    assert read_masks(out) == {"x/a": [[7]], "x/b": None}
    assert count(encode(tmp_path / "in.tar", out, choice)) == {Status.DONE: 2}
    write_file(tmp_path / "m/x/b.png", make_gray(16, 16, 8))
    assert count(encode(tmp_path / "in.tar", out, choice, processes=2)) == {Status.WRITTEN: 2}
    assert read_masks(out) == {"x/a": [[7]], "x/b": [[8]]}


@pytest.mark.skipif(sys.platform != "linux", reason="names that other systems refuse")
def test_names_that_records_escape_find_their_masks(tmp_path: Path) -> None:
    names = ("a:b.png", "con.png", "d \udcff/e.png")
    for name in names:
        write_file(tmp_path / "photos" / name, make_gray(16, 16, 9))
        write_file(tmp_path / "masks" / name, make_gray(16, 16, 7))
    out, choice = tmp_path / "out", EncodeChoice(masks=str(tmp_path / "masks"))
    results = encode(tmp_path / "photos", out, choice, shard_size=4)
    assert [(result.status, result.unmasked) for result in results] == [(Status.WRITTEN, 0)]
    assert list(read_masks(out).values()) == [[[7]]] * 3


def test_alpha_needs_no_files(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (16, 16), (9, 9, 9, 60)).save(file, "PNG")
    write_file(
        tmp_path / "in.tar", make_tar({"a.png": file.getvalue(), "b.png": make_gray(16, 16, 9)})
    )
    encode(tmp_path / "in.tar", tmp_path / "out", ASKED)
    assert read_masks(tmp_path / "out") == {"a": [[60]], "b": None}
    assert {result.status for result in verify_files(tmp_path / "out")} == {Status.VERIFIED}


def test_refusals(photos: Path, masks: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "in.parquet", b"PAR1")
    choice = EncodeChoice(masks=str(masks))
    with pytest.raises(UsageError, match=r"in.parquet: --masks needs names, which images of parq"):
        encode(tmp_path / "in.parquet", tmp_path / "out", choice)
    write_file(tmp_path / "typo/x.png", b"")
    with pytest.raises(UsageError, match="typo: holds no mask of any image; check the folder"):
        encode(photos, tmp_path / "out", EncodeChoice(masks=str(tmp_path / "typo")), shard_size=2)
    with pytest.raises(UsageError, match="is the folder of the images"):
        encode(photos, tmp_path / "out", EncodeChoice(masks=str(photos)), shard_size=2)


def test_a_record_unlike_the_settings_is_found(photos: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode(photos, out, EncodeChoice(masks=str(masks)), shard_size=4)
    path = out / "_dinac/run.json"
    path.write_bytes(path.read_bytes().replace(b'"files"', b'"alpha"'))
    reasons = [result.reason for result in verify_files(out)]
    assert [str(reason) for reason in reasons][:3] == (
        ["encoded with --masks, which _dinac/run.json contradicts"] * 3
    )
    path.write_bytes(path.read_bytes().replace(b'"alpha"', b'"other"'))
    with pytest.raises(UsageError, match="not the settings of a run"):
        encode(photos, out)

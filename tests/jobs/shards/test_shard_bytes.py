"""Records in shards have the bytes of loose records, and runs of any kind give the same OUT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinac_cli.images.geometry import GeometryChoice
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.results import Status

from ..hand_made import GOLDEN, read_tree
from .shard_runs import (
    NANO,
    count,
    encode,
    make_photo,
    make_tar,
    read_shards,
    write_file,
    write_photos,
)

TINY = replace(NANO, model=str(GOLDEN / "tiny"))

NAMES = ["a.png", "b/c.png", "b/d.png", "e f.png", "é.png", "z.b.png"]
KEYS = [f"{key}%2Epng" for key in ("a", "b/c", "b/d", "e f", "z%2Eb", "é")]

CHOICES = {
    "defaults": EncodeChoice(),
    "q8": EncodeChoice(precision="q8"),
    "companions": EncodeChoice(features=True, posterior=True, precision="f32"),
    "geometry": EncodeChoice(geometry=GeometryChoice(resize=24, crop=(16, 16), flip=True)),
    "max side": EncodeChoice(geometry=GeometryChoice(max_side=12)),
    "background": EncodeChoice(background=(1, 2, 3), hdr="clip", damaged="warn"),
    "anonymous": EncodeChoice(anonymous=True),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), NAMES)


@pytest.mark.parametrize("name", CHOICES)
def test_records_in_shards_have_the_bytes_of_loose_records(
    photos: Path, tmp_path: Path, name: str
) -> None:
    choice = CHOICES[name]
    model = TINY if choice.features else NANO
    loose = encode(photos, tmp_path / "loose", choice, model=model)
    shards = encode(photos, tmp_path / "shards", choice, shard_size=4, model=model)
    assert count(loose) == count(shards) == {Status.WRITTEN: len(NAMES)}
    expected = read_tree(tmp_path / "loose")
    tars = read_shards(read_tree(tmp_path / "shards"))
    assert [len(members) for members in tars.values()] == [4, 2]
    packed = [data for members in tars.values() for data in members.values()]
    assert packed == [expected[f"{each}.dinac"] for each in sorted(NAMES)]


def test_records_of_a_tar_have_the_bytes_of_the_same_loose_images(tmp_path: Path) -> None:
    files = {f"{key}.png": make_photo(seed) for seed, key in enumerate("abc")}
    tar = write_file(tmp_path / "in.tar", make_tar(files))
    for name, data in files.items():
        write_file(tmp_path / "in" / name, data)
    encode(tar, tmp_path / "shards")
    encode(tmp_path / "in", tmp_path / "loose")
    loose = read_tree(tmp_path / "loose")
    [members] = read_shards(read_tree(tmp_path / "shards")).values()
    assert list(members) == ["a.dinac", "b.dinac", "c.dinac"]
    assert [*members.values()] == [loose[f"{name}.dinac"] for name in files]


def test_keys_have_no_dot_in_the_base_name_and_keep_the_order_of_the_list(
    photos: Path, tmp_path: Path
) -> None:
    encode(photos, tmp_path / "out", shard_size=10)
    [members] = read_shards(read_tree(tmp_path / "out")).values()
    assert list(members) == [f"{key}.dinac" for key in KEYS]


def test_a_run_that_is_repeated_has_the_same_bytes_wherever_the_images_are(
    photos: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "moved", NAMES)
    for out, inputs in (("one", photos), ("two", tmp_path / "moved")):
        encode(inputs, tmp_path / out, shard_size=4)
    first = read_tree(tmp_path / "one")
    assert read_tree(tmp_path / "two") == first
    again = encode(photos, tmp_path / "one")
    assert count(again) == {Status.DONE: len(NAMES)}
    assert read_tree(tmp_path / "one") == first

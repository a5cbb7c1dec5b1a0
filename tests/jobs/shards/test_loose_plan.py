"""The division of loose images into shards: it lasts, grows, and bounds what it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import zstandard

from dinac_cli.errors import InputError
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.results import Status
from dinac_cli.jobs.shards import loose_plan
from dinac_cli.jobs.shards.loose_plan import LoosePlan
from dinac_cli.jobs.shards.shard import LooseFile
from dinac_cli.storage.local import LocalStore

from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    make_photo,
    read_index,
    read_markers,
    read_shards,
    write_file,
    write_photos,
)

PART = "_dinac/plan/000/000000.jsonl.zst"


def list_files(*names: str, version: str = "1") -> list[LooseFile]:
    return [LooseFile(f"/in/{name}", name, len(name), version) for name in names]


def divide(
    out: Path, files: Iterable[LooseFile], size: int = 2, *, done: Iterable[str] = ()
) -> LoosePlan:
    """Divides files, and writes the plan."""
    marks = set(done)
    plan = LoosePlan(LocalStore(str(out)), "settings", size, False, lambda _, mark: mark in marks)
    plan.add(files)
    plan.write()
    return plan


def list_shards(plan: LoosePlan) -> dict[str, list[str] | None]:
    """Returns the names of the images of each shard to do."""
    return {
        name: None if shard is None else [file.name for file in shard.files]
        for name, _, shard in plan.list_all()
    }


def pack(lines: Iterable[object]) -> bytes:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    return zstandard.ZstdCompressor().compress(text.encode())


def test_new_images_become_new_shards_and_the_others_keep_their_place(tmp_path: Path) -> None:
    first = divide(tmp_path, list_files("b", "d", "f"))
    assert list_shards(first) == {"000/000000": ["b", "d"], "000/000001": ["f"]}
    done = [mark for _, mark, _ in first.list_all()]
    grown = divide(tmp_path, list_files("a", "b", "c", "d", "e", "f"), done=done)
    assert list_shards(grown) == {
        "000/000000": None,
        "000/000001": None,
        "000/000002": ["a", "c"],
        "000/000003": ["e"],
    }
    assert (grown.images, grown.vanished, grown.changed, grown.count) == (6, 0, 0, 4)


def test_a_changed_image_makes_only_its_shard_stale(tmp_path: Path) -> None:
    first = divide(tmp_path, list_files("a", "b", "c", "d"))
    done = [mark for _, mark, _ in first.list_all()]
    files = [*list_files("a", "b", "c"), *list_files("d", version="2")]
    again = divide(tmp_path, files, done=done)
    assert list_shards(again) == {"000/000000": None, "000/000001": ["c", "d"]}
    assert again.changed == 1


def test_images_that_are_gone_are_counted_and_their_shard_stays(tmp_path: Path) -> None:
    first = divide(tmp_path, list_files("a", "b", "c"))
    done = [mark for _, mark, _ in first.list_all()]
    before = read_tree(tmp_path)
    again = divide(tmp_path, list_files("a"), done=done)
    assert list_shards(again) == {"000/000000": None, "000/000001": None}
    assert (again.images, again.vanished) == (1, 2)
    assert read_tree(tmp_path) == before


def test_two_runs_write_the_same_plan(tmp_path: Path) -> None:
    for out in ("one", "two"):
        divide(tmp_path / out, list_files("a", "b", "c"))
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")
    divide(tmp_path / "one", list_files("a", "b", "c"))
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


def test_a_part_that_another_run_is_writing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its images would go into another shard, too."""
    divide(tmp_path, list_files("a", "b", "c", "d", "e", "f"))
    missing = tmp_path / "_dinac/plan/000/000001.jsonl.zst"
    data = missing.read_bytes()
    missing.unlink()
    monkeypatch.setattr("time.sleep", lambda _: missing.write_bytes(data))
    plan = divide(tmp_path, list_files("a", "b", "c", "d", "e", "f"))
    assert [*list_shards(plan).values()] == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_a_part_that_is_lost_gets_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loose_plan, "_PAUSE_SECONDS", 0.0)
    divide(tmp_path, list_files("a", "b", "c"))
    (tmp_path / PART).unlink()
    plan = divide(tmp_path, list_files("a", "b", "c"))
    assert list_shards(plan) == {"000/000001": ["c"], "000/000002": ["a", "b"]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        pack([["a", 1, "1"]])[:-3],
        zstandard.ZstdCompressor().compress(b'["a", 1, "1"]'),
        zstandard.ZstdCompressor().compress(b'["a", 1, "1"\n'),
        zstandard.ZstdCompressor().compress(b"\xff\n"),
        zstandard.ZstdCompressor().compress(b"[" * 100_000 + b"\n"),
        zstandard.ZstdCompressor().compress(b'["a", ' + b"9" * 10_000 + b', "1"]\n'),
        zstandard.ZstdCompressor(write_content_size=False).compress(b'["a", 1, "1"]\n'),
        pack([["a", 1]]),
        pack([["a", -1, "1"]]),
        pack([["a", True, "1"]]),
        pack([["a", 2**63, "1"]]),
        pack([["a", 1, 1]]),
        pack([{"a": 1}]),
        pack([["../a", 1, "1"]]),
        pack([["/a", 1, "1"]]),
        pack([["", 1, "1"]]),
        pack([["a\x1b[2J", 1, "1"]]),
        pack([["\ud800", 1, "1"]]),
        pack([["x" * 300, 1, "1"]]),
    ],
)
def test_a_damaged_or_hostile_part_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    write_file(tmp_path / PART, data)
    with pytest.raises(InputError) as caught:
        divide(tmp_path, list_files("a"))
    place = tmp_path / PART
    assert str(caught.value) == f"{place}: a damaged plan; restore it, or choose another OUT"


def test_a_huge_part_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / PART, zstandard.ZstdCompressor().compress(bytes(2**28 + 1)))
    monkeypatch.setattr(zstandard, "ZstdDecompressor", None)
    with pytest.raises(InputError, match="a damaged plan"):
        divide(tmp_path, list_files("a"))


def test_a_part_with_more_images_than_a_shard_may_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loose_plan, "MAX_SHARD_SIZE", 2)
    write_file(tmp_path / PART, pack([["a", 1, "1"], ["b", 1, "1"], ["c", 1, "1"]]))
    with pytest.raises(InputError, match="a damaged plan"):
        divide(tmp_path, list_files("a"))


@pytest.mark.parametrize("name", ["000/000000.jsonl", "x.jsonl.zst", f"{'9' * 200}.jsonl.zst"])
def test_other_files_beside_the_plan_do_not_matter(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "_dinac/plan" / name, b"text")
    assert list_shards(divide(tmp_path, list_files("a"))) == {"000/000000": ["a"]}


def test_a_run_encodes_what_is_new_or_changed(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    write_photos(photos, ["b.png", "c.png", "d.png"])
    encode(photos, out, shard_size=2)
    before = read_tree(out)
    write_file(photos / "a.png", make_photo(7))
    write_file(photos / "d.png", make_photo(8), seconds=2_000_000_000)
    (photos / "b.png").unlink()
    results = encode(photos, out)
    assert count(results) == {Status.DONE: 2, Status.WRITTEN: 2}
    tree = read_tree(out)
    assert tree["000/000000.tar"] == before["000/000000.tar"]
    keys = {name: list(members) for name, members in read_shards(tree).items()}
    assert keys == {
        "000/000000.tar": ["b%2Epng.dinac", "c%2Epng.dinac"],
        "000/000001.tar": ["d%2Epng.dinac"],
        "000/000002.tar": ["a%2Epng.dinac"],
    }
    markers, index = read_markers(tree), read_index(tree)
    assert len(markers) == 3  # none of the earlier state of the second shard
    for name, entry in index.items():
        assert entry["sha256"] == markers[name.removesuffix(".tar")]["sha256"]


def test_what_is_encoded_again_says_why(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "b.png", "c.png"])
    out = tmp_path / "out"
    assert {result.reason for result in encode(photos, out, shard_size=2)} == {None}
    write_file(photos / "a.png", make_photo(9), 2_000_000_000)
    write_file(photos / "d.png", make_photo(8))
    reasons = {result.name: result.reason for result in encode(photos, out)}
    assert reasons == {
        "000/000000": "its source has changed",
        "000/000001": None,
        "000/000002": None,
    }
    again = encode(photos, out, overwrite=True, shard_size=2)
    assert {result.reason for result in again} == {None}


def test_an_image_of_a_stale_shard_that_is_gone_fails(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    write_photos(photos, ["a.png", "b.png"])
    encode(photos, out, shard_size=2)
    (photos / "a.png").unlink()
    write_file(photos / "b.png", make_photo(8), seconds=2_000_000_000)
    for _ in range(2):  # the second run reports it again
        results = encode(photos, out)
        [failure] = (result for result in results if result.failed)
        assert failure.reason == "no longer there; it was in the list of an earlier run"
    assert list(read_shards(read_tree(out))["000/000000.tar"]) == ["b%2Epng.dinac"]


def test_an_anonymous_out_has_no_plan_and_its_shards_follow_the_order(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    write_photos(photos, ["b.png", "c.png", "d.png"])
    encode(photos, out, EncodeChoice(anonymous=True), shard_size=2)
    write_file(photos / "a.png", make_photo(7))
    results = encode(photos, out)
    assert count(results) == {Status.WRITTEN: 4}  # every image has moved
    tree = read_tree(out)
    assert not [name for name in tree if name.startswith("_dinac/plan")]
    assert {name: list(members) for name, members in read_shards(tree).items()} == {
        "000/000000.tar": ["000000_00000000.dinac", "000000_00000001.dinac"],
        "000/000001.tar": ["000001_00000000.dinac", "000001_00000001.dinac"],
    }


def test_a_plan_that_a_killed_run_left_without_a_shard_does_not_bind_the_next(
    tmp_path: Path,
) -> None:
    photos = write_photos(tmp_path / "in", ["a.png", "b.png", "c.png"])
    for size, out in ((2, "fresh"), (1, "killed")):
        encode(photos, tmp_path / out, shard_size=size)
    plan = tmp_path / "killed/_dinac/plan"
    shutil.move(plan, tmp_path / "plan")
    shutil.rmtree(tmp_path / "killed")
    shutil.copytree(tmp_path / "plan", plan)
    encode(photos, tmp_path / "killed", shard_size=2)
    assert read_tree(tmp_path / "killed") == read_tree(tmp_path / "fresh")

"""Several runs into one OUT, at the same time and one after another, give the tree of one run."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards import contents
from dinac_cli.storage.local import LocalStore

from ..hand_made import read_tree
from .shard_runs import (
    count,
    encode,
    make_photo,
    make_request,
    make_tar,
    read_index,
    read_markers,
    run,
    write_file,
    write_photos,
)

NAMES = [f"{number:02}.png" for number in range(9)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), NAMES)


@pytest.fixture
def expected(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    encode(photos, tmp_path / "expected", shard_size=2)
    return read_tree(tmp_path / "expected")


def run_together(photos: Path, out: Path, shares: list[str | None]) -> list[list[FileResult]]:
    """Runs shares in threads, which all list OUT and the images before one of them writes."""
    barrier = threading.Barrier(len(shares))

    def work(share: str | None) -> list[FileResult]:
        request = make_request(photos, out, shard=share, shard_size=2)
        opened = request.open()
        opened.count()
        barrier.wait(60)
        return list(opened.start(request.make_control()))

    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(work, shares))


def test_the_shares_of_a_job_together_give_the_out_of_one_run(
    photos: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    for number, share in enumerate(("2/3", "0/3", "1/3")):
        results = encode(photos, tmp_path / "out", shard=share, shard_size=2)
        assert count(results)[Status.WRITTEN] == (2, 4, 3)[number]
    assert read_tree(tmp_path / "out") == expected


@pytest.mark.parametrize("shares", [["0/3", "1/3", "2/3"], [None, None]])
def test_runs_at_the_same_time_give_the_out_of_one_run(
    photos: Path, expected: dict[str, bytes], tmp_path: Path, shares: list[str | None]
) -> None:
    results = run_together(photos, tmp_path / "out", shares)
    assert not [result for each in results for result in each if result.failed]
    assert read_tree(tmp_path / "out") == expected


def test_the_shares_of_archives(tmp_path: Path) -> None:
    for seed in range(3):
        files = {f"{seed}.png": make_photo(seed)}
        write_file(tmp_path / f"wds/{seed}.tar", make_tar(files))
    for share in ("0/2", "1/2"):
        encode(tmp_path / "wds/{0..2}.tar", tmp_path / "out", shard=share)
    encode(tmp_path / "wds/*.tar", tmp_path / "expected")
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "expected")


def test_a_share_without_a_shard_is_no_error(photos: Path, tmp_path: Path) -> None:
    assert encode(photos, tmp_path / "out", shard="7/9", shard_size=2) == []


def test_limit_counts_shards(photos: Path, tmp_path: Path) -> None:
    for limit, written in ((2, 4), (3, 2), (9, 3)):
        results = encode(photos, tmp_path / "out", limit=limit, shard_size=2)
        assert count(results)[Status.WRITTEN] == written


def test_runs_that_grow_one_out_at_the_same_time(
    photos: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A third one follows, because the two may have seen different lists."""
    more = tmp_path / "more"
    shutil.copytree(photos, more)
    out = tmp_path / "out"
    encode(more, out, shard_size=2)
    write_photos(more, [f"new{number}.png" for number in range(5)], first=20)
    run_together(more, out, ["0/2", "1/2"])
    one_by_one = tmp_path / "one"
    encode(photos, one_by_one, shard_size=2)
    encode(more, one_by_one)
    assert read_tree(out) == read_tree(one_by_one)


def test_the_last_of_several_runs_completes_the_index(
    photos: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run finishes a shard after this one has listed OUT for its index."""
    out = tmp_path / "out"
    encode(photos, out, shard="0/2", shard_size=2)
    original = contents.OutContents.list.__func__  # type: ignore[attr-defined]
    looks = [0]

    def look(kind: type[contents.OutContents], store: object) -> contents.OutContents:
        found: contents.OutContents = original(kind, store)
        looks[0] += 1
        if looks[0] == 2:  # the first look is that of the plan
            monkeypatch.setattr(contents.OutContents, "list", classmethod(original))
            encode(photos, out, shard="1/4", shard_size=2)
            monkeypatch.setattr(contents.OutContents, "list", classmethod(look))
        return found

    monkeypatch.setattr(contents.OutContents, "list", classmethod(look))
    run(make_request(photos, out, shard="3/4", shard_size=2))
    tree = read_tree(out)
    assert looks[0] >= 4
    assert set(read_index(tree)) == {f"{name}.tar" for name in read_markers(tree)}
    assert tree == expected


def test_a_listing_that_misses_a_tar_does_not_end_the_index(
    photos: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run commits a tar and its marker while OUT is listed, in the order of names."""
    out = tmp_path / "out"
    encode(photos, out, shard_size=2)
    (out / "index.json").unlink()
    original = contents.OutContents.list.__func__  # type: ignore[attr-defined]
    looks = [0]

    def look(kind: type[contents.OutContents], store: object) -> contents.OutContents:
        found: contents.OutContents = original(kind, store)
        looks[0] += 1
        if looks[0] == 1:
            del found.tars["000/000001"]
        return found

    monkeypatch.setattr(contents.OutContents, "list", classmethod(look))
    contents.write_index(LocalStore(str(out)))
    assert read_tree(out) == expected

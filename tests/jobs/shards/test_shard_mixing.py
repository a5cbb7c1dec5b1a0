"""One OUT holds shards of one kind: the refusals, what a run follows, and --overwrite."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.container.record import open_record
from dinac_cli.errors import Exit, UsageError
from dinac_cli.images.geometry import GeometryChoice
from dinac_cli.jobs.encode import EncodeChoice
from dinac_cli.jobs.executor import read_ahead
from dinac_cli.jobs.executor.control import StopRequest
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards import shard_run
from dinac_cli.jobs.shards.packing import SampleJob
from dinac_cli.storage.local import LocalStore

from ..hand_made import GOLDEN, read_tree
from .shard_runs import (
    NANO,
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

TINY = replace(NANO, model=str(GOLDEN / "tiny"))
NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "in", NAMES)


@pytest.fixture
def out(photos: Path, tmp_path: Path) -> Path:
    """An OUT of shards of two images."""
    encode(photos, tmp_path / "out", shard_size=2)
    return tmp_path / "out"


def refuse(*args: Any, **fields: Any) -> str:
    """Runs a request that must be refused as a whole, in one line. Returns the line."""
    with pytest.raises(UsageError) as caught:
        encode(*args, **fields)
    assert caught.value.exit_code == Exit.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_are_not_written_among_loose_records(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "loose"
    encode(photos, out)
    before = read_tree(out)
    line = refuse(photos, out, shard_size=2)
    assert line == (
        f"{locate(out, 'a.png.dinac')} is a loose record; shards and loose records never mix; "
        "choose another OUT"
    )
    assert read_tree(out) == before


def test_a_run_without_a_shard_size_follows_out(photos: Path, out: Path) -> None:
    """So it writes no loose record among shards."""
    write_file(photos / "f.png", make_photo(9))
    write_file(photos / "g.png", make_photo(10))
    write_file(photos / "h.png", make_photo(11))
    results = encode(photos, out)
    assert count(results) == {Status.DONE: 5, Status.WRITTEN: 3}
    tree = read_tree(out)
    assert [len(members) for members in read_shards(tree).values()] == [2, 2, 1, 2, 1]
    assert not [name for name in tree if name.endswith(".dinac")]


def test_a_run_into_shards_without_their_settings_writes_no_loose_record(
    photos: Path, out: Path
) -> None:
    expected = read_tree(out)
    (out / "_dinac/run.json").unlink()
    assert count(encode(photos, out)) == {Status.DONE: 5}
    (out / "000/000000.tar").unlink()
    assert count(encode(photos, out, shard_size=2)) == {Status.DONE: 3, Status.WRITTEN: 2}
    assert read_tree(out) == expected


def test_another_shard_size_is_refused(photos: Path, out: Path) -> None:
    before = read_tree(out)
    assert refuse(photos, out, shard_size=3) == (
        f"{locate(out)} holds shards with --shard-size 2; you asked for --shard-size 3; "
        "choose another OUT, or add --overwrite to encode everything again"
    )
    assert read_tree(out) == before


CONFLICTS: dict[str, tuple[EncodeChoice, dict[str, Any], str, str]] = {
    "model": (EncodeChoice(), {"model": TINY}, "--model nano", "--model tiny"),
    "precision": (EncodeChoice(precision="q8"), {}, "--precision bf16", "--precision q8"),
    "background": (
        EncodeChoice(background=(0, 0, 0)), {}, "--background '#ffffff'", "--background '#000000'",
    ),
    "hdr": (EncodeChoice(hdr="clip"), {}, "--hdr refuse", "--hdr clip"),
    "damaged": (EncodeChoice(damaged="warn"), {}, "--damaged fail", "--damaged warn"),
    "anonymous": (EncodeChoice(anonymous=True), {}, "--no-anonymous", "--anonymous"),
    "mask": (EncodeChoice(mask=True), {}, "--no-mask", "--mask"),
    "posterior": (EncodeChoice(posterior=True), {}, "--no-posterior", "--posterior"),
    "geometry": (
        EncodeChoice(geometry=GeometryChoice(resize=64)), {}, "full-size latents", "--resize 64",
    ),
    "keep": (EncodeChoice(), {"keep": ("txt",)}, "no --keep", "--keep txt"),
    "column": (
        EncodeChoice(), {"image_column": "photo"}, "--image-column image", "--image-column photo",
    ),
    "threads": (EncodeChoice(), {"threads": 3}, "--threads 1", "--threads 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFLICTS)
def test_other_settings_are_refused(photos: Path, out: Path, name: str) -> None:
    choice, fields, held, asked = CONFLICTS[name]
    before = read_tree(out)
    assert refuse(photos, out, choice, **fields).startswith(
        f"{locate(out)} holds shards with {held}; you asked for {asked}"
    )
    assert read_tree(out) == before


def test_settings_that_are_not_given_follow_out(photos: Path, tmp_path: Path) -> None:
    choice = EncodeChoice(
        precision="q8",
        background=(1, 2, 3),
        hdr="clip",
        damaged="warn",
        anonymous=True,
        posterior=True,
        mask=True,
        geometry=GeometryChoice(resize=16, flip=True),
    )
    out = tmp_path / "out"
    encode(photos, out, choice, shard_size=2, model=TINY, keep=("txt",), image_column="x")
    before = read_tree(out)
    assert count(encode(photos, out, model=TINY)) == {Status.DONE: 5}
    assert read_tree(out) == before


def test_the_number_of_threads_is_used_again(photos: Path, out: Path) -> None:
    assert json.loads((out / "_dinac/run.json").read_bytes())["threads"] == 1
    assert make_request(photos, out).open().threads == 1
    assert make_request(photos, out, overwrite=True).open().threads is None
    assert make_request(photos, out, overwrite=True, threads=3).open().threads == 3


OVERWRITES: dict[str, tuple[EncodeChoice, dict[str, Any]]] = {
    "the same": (EncodeChoice(), {"shard_size": 2}),
    "larger shards": (EncodeChoice(), {"shard_size": 4}),
    "smaller shards": (EncodeChoice(), {"shard_size": 1}),
    "another precision": (EncodeChoice(precision="q8"), {"shard_size": 4}),
    "another model": (EncodeChoice(), {"shard_size": 4, "model": TINY}),
    "anonymous": (EncodeChoice(anonymous=True), {"shard_size": 2}),
}


@pytest.mark.parametrize("name", OVERWRITES)
def test_overwrite_replaces_everything(photos: Path, out: Path, tmp_path: Path, name: str) -> None:
    choice, fields = OVERWRITES[name]
    (photos / "b.png").unlink()  # the division is made anew, too
    results = encode(photos, out, choice, overwrite=True, **fields)
    assert count(results) == {Status.WRITTEN: 4}
    encode(photos, tmp_path / "expected", choice, **fields)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_overwrite_with_other_inputs_and_settings_leaves_no_shard_of_the_old_ones(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    tar = write_file(tmp_path / "t.tar", make_tar({"a.png": make_photo(0)}))
    encode(tar, out, overwrite=True, shard_size=2)
    assert len(read_markers(read_tree(out))) == 4  # the settings are the same
    encode(tar, out, EncodeChoice(precision="q8"), overwrite=True)
    encode(tar, tmp_path / "expected", EncodeChoice(precision="q8"))
    assert read_tree(out) == read_tree(tmp_path / "expected")
    encode(photos, out, overwrite=True, shard_size=2)
    encode(photos, tmp_path / "photos", shard_size=2)
    assert read_tree(out) == read_tree(tmp_path / "photos")


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"text"])
def test_overwrite_replaces_damaged_settings(
    photos: Path, out: Path, tmp_path: Path, data: bytes
) -> None:
    expected = read_tree(out)
    (out / "_dinac/run.json").write_bytes(data)
    assert refuse(photos, out) == (
        f"{locate(out, '_dinac/run.json')}: not the settings of a run; restore it, or choose "
        "another OUT"
    )
    encode(photos, out, overwrite=True, shard_size=2)
    assert read_tree(out) == expected


def test_parts_of_a_run_with_overwrite_together_replace_everything(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    choice = EncodeChoice(precision="q8")
    for share in ("0/2", "1/2"):
        encode(photos, out, choice, shard=share, overwrite=True, shard_size=1)
    encode(photos, tmp_path / "expected", choice, shard_size=1)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_a_stopped_overwrite_leaves_no_shard_of_the_earlier_settings_in_the_index(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a training would mix the latents of two runs."""
    monkeypatch.setattr(read_ahead, "READ_AHEAD_ITEMS", 1)
    choice = EncodeChoice(precision="q8")
    request = make_request(
        photos, out, choice, overwrite=True, shard_size=2, workers=1, in_flight=1
    )
    stop, opened, submit = StopRequest(), request.open(), SampleJob.submit

    def submit_and_stop(self: SampleJob, batch: list[Any]) -> Any:
        stop.set()
        return submit(self, batch)

    monkeypatch.setattr(SampleJob, "batch_size", lambda self, group: 1)
    monkeypatch.setattr(SampleJob, "submit", submit_and_stop)
    opened.count()
    list(opened.start(request.make_control(stop)))
    tree = read_tree(out)
    begun = list(read_markers(tree))
    assert 0 < len(begun) < 3
    assert list(read_index(tree)) == [f"{shard}.tar" for shard in begun]
    assert {"q8"} == {
        open_record(record).header.precision
        for shard in begun
        for record in read_shards(tree)[f"{shard}.tar"].values()
    }
    encode(photos, out, choice, shard_size=2)  # the other tars are known to be dinac's
    encode(photos, tmp_path / "expected", choice, shard_size=2)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_shards_that_are_not_in_the_plan_are_refused(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    """Images in two shards would be there twice in a training."""
    request = make_request(photos, out, overwrite=True, shard_size=4)
    stopped = request.open()
    stopped.count()
    stopped.start(request.make_control()).close()
    stop = StopRequest()
    stop.set()
    list(stopped.start(request.make_control(stop)))
    reason = (
        f"{out}/000/000002.tar: not in the plan of this run, and its images may be in another "
        "shard too; add --overwrite to encode everything again, or choose another OUT"
    )
    assert refuse(photos, out) == reason
    run(request)
    encode(photos, tmp_path / "expected", shard_size=4)
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_an_anonymous_out_of_fewer_images_is_refused(photos: Path, tmp_path: Path) -> None:
    choice = EncodeChoice(anonymous=True)
    encode(photos, tmp_path / "anonymous", choice, shard_size=2)
    for name in NAMES[:2]:
        (photos / name).unlink()
    assert "000/000002.tar: not in the plan of this run" in refuse(photos, tmp_path / "anonymous")


def test_processes_of_a_run_with_overwrite_remove_the_earlier_shards_once(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of a cluster has one shard, and 100,000 tasks would ask for all removals again."""

    def run_one_by_one(
        request: Any, plan: Any, open_job: Any, shards: Any, control: Any
    ) -> Iterator[FileResult]:
        for shard in shards:
            yield from run_opened(open_job, [shard], control)

    removed: Counter[str] = Counter()
    remove = LocalStore.remove

    def note(self: LocalStore, name: str) -> None:
        removed[name] += 1
        remove(self, name)

    monkeypatch.setattr(shard_run, "_run_shards", run_one_by_one)
    monkeypatch.setattr(LocalStore, "remove", note)
    tar = write_file(tmp_path / "t.tar", make_tar({"a.png": make_photo(0)}))
    other = write_file(tmp_path / "u.tar", make_tar({"b.png": make_photo(1)}))
    encode([tar, other], out, EncodeChoice(precision="q8"), overwrite=True)
    assert removed["000/000000.tar"] == 1
    assert set(removed.values()) == {1}
    encode([tar, other], tmp_path / "expected", EncodeChoice(precision="q8"))
    assert read_tree(out) == read_tree(tmp_path / "expected")


def test_a_tar_of_another_program_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    foreign = make_tar({"notes.txt": b"mine", "a.dinac": b"x"})
    write_file(out / "000/000001.tar", foreign)
    results = encode(photos, out, shard_size=2)
    assert count(results) == {Status.FAILED: 1, Status.WRITTEN: 3}
    [failure] = (result for result in results if result.failed)
    assert (failure.file, failure.reason) == (
        "shard 000/000001",
        f"{locate(out, '000/000001.tar')}: exists and was not written by dinac; "
        "choose another output folder or add --overwrite",
    )
    assert (out / "000/000001.tar").read_bytes() == foreign
    assert list(read_markers(read_tree(out))) == ["000/000000", "000/000002"]
    encode(photos, out, overwrite=True, shard_size=2)
    encode(photos, tmp_path / "expected", shard_size=2)
    assert read_tree(out) == read_tree(tmp_path / "expected")


@pytest.mark.parametrize("name", ["a.png", f"{'x' * 120}.png", "é.png"])
def test_a_tar_that_a_killed_run_left_is_replaced(tmp_path: Path, name: str) -> None:
    """The first member of some tars is an extended header."""
    photos, out = write_photos(tmp_path / "in", [name]), tmp_path / "out"
    encode(photos, out, shard_size=2)
    expected = read_tree(out)
    for marker in (out / "_dinac/shards/000").iterdir():
        marker.unlink()
    assert count(encode(photos, out)) == {Status.WRITTEN: 1}
    assert read_tree(out) == expected


WRONG: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "standard input": (
        lambda photos, out: make_request("-", out, shard_size=2),
        "-: an image from standard input cannot go into shards; name files",
    ),
    "standard output": (
        lambda photos, out: make_request(photos, "-", shard_size=2),
        "shards cannot be written to standard output; name a folder or a URL",
    ),
    "prune": (
        lambda photos, out: make_request(photos, out, shard_size=2, prune="some"),
        "--prune works on loose records only; shards keep the records of gone images",
    ),
    "checksum": (
        lambda photos, out: make_request(photos, out, EncodeChoice(checksum=True), shard_size=2),
        "--checksum works on loose records only; for shards, size and time or ETag count",
    ),
    "anonymous checksum": (
        lambda photos, out: make_request(
            photos, out, EncodeChoice(checksum=True, anonymous=True), shard_size=2
        ),
        "--anonymous records hold no hash to compare; leave out --checksum",
    ),
    "no images a shard": (
        lambda photos, out: make_request(photos, out, shard_size=0),
        "--shard-size 0: expected 1 to 1000000",
    ),
    "too many images a shard": (
        lambda photos, out: make_request(photos, out, shard_size=1_000_001),
        "--shard-size 1000001: expected 1 to 1000000",
    ),
    "an OUT that is a file": (
        lambda photos, out: make_request(photos, write_file(out, b"x"), shard_size=2),
        "{out}: OUT must be a folder or a URL for shards",
    ),
    "nothing": (
        lambda photos, out: make_request(write_file(out / "x.txt", b"x").parent, out / "o",
                                         shard_size=2),
        "no images found in {out} (1 other file); name image files or folders",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_shards_cannot_have_is_one_line(photos: Path, tmp_path: Path, name: str) -> None:
    make, expected = WRONG[name]
    out = tmp_path / "new"
    request = make(photos, out)
    with pytest.raises(UsageError) as caught:
        request.open().count()
    assert str(caught.value) == expected.format(out=out)
    assert not [path for path in read_tree(tmp_path) if path.endswith((".tar", "run.json"))]

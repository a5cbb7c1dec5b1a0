"""Runs into shards from the command line: exit codes and messages, and kills during an upload."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ..s3 import FaultyS3
from .conftest import read_files, save
from .processes import DEADLINE_SECONDS, Finished, get_client, make_environment, run, run_process


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(6):
        save(tmp_path / f"photos/{number}.png", 32, 32, number)
    return tmp_path / "photos"


def encode(folder: Path, *options: str, out: str = "out") -> Finished:
    return run("encode", "photos", out, *options, cwd=folder)


def test_failures_are_reported_by_every_run(photos: Path, tmp_path: Path) -> None:
    (photos / "1.png").write_bytes(b"no image")
    first = encode(tmp_path, "--shard-size", "4")
    assert first.code == 3
    assert first.err.startswith("dinac: photos/1.png: ")
    assert first.summary.startswith("5 encoded with nano")
    tree = read_files(tmp_path / "out")
    again = encode(tmp_path)
    assert (again.code, again.err) == (3, first.err)
    assert read_files(tmp_path / "out") == tree
    save(photos / "1.png", 32, 32, 9)
    last = encode(tmp_path)
    redone = "dinac: shard 000/000000: redone: its source has changed\n"
    assert (last.code, last.err) == (0, redone)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ("--shard-size", "3"),
            "out/ holds shards with --shard-size 4; you asked for --shard-size 3; choose another "
            "OUT, or add --overwrite to encode everything again",
        ),
        (
            ("--precision", "q8"),
            "out/ holds shards with --precision bf16; you asked for --precision q8; choose another "
            "OUT, or add --overwrite to encode everything again",
        ),
        (
            ("--prune",),
            "--prune works on loose records only; shards keep the records of gone images",
        ),
        (
            ("--checksum",),
            "--checksum works on loose records only; for shards, size and time or ETag count",
        ),
    ],
)
def test_what_out_does_not_allow_is_wrong_usage(
    photos: Path, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    assert encode(tmp_path, "--shard-size", "4").code == 0
    done = encode(tmp_path, *options)
    assert (done.code, done.out, done.err) == (2, "", f"dinac: {line}\n")


def test_captions_that_were_left_out_are_named_once(photos: Path, tmp_path: Path) -> None:
    names = sorted(path for path in photos.iterdir() if path.suffix == ".png")[:2]
    for path in names:
        path.with_suffix(".txt").write_text("a caption")
        path.with_suffix(".json").write_text("{}")
    done = encode(tmp_path, "--shard-size", "1")
    assert done.err == (
        "dinac: left out what lies beside 2 images, such as captions; --keep txt,json copies it "
        "into the shards\n"
    )
    assert encode(tmp_path, "--shard-size", "1").err == ""


def test_images_without_a_file_to_keep_are_named(photos: Path, tmp_path: Path) -> None:
    names = sorted(path for path in photos.iterdir() if path.suffix == ".png")
    for path in names[1:]:
        path.with_suffix(".txt").write_text("")  # an empty caption
    done = encode(tmp_path, "--shard-size", "4", "--keep", "txt,json", "--json")
    assert done.code == 0
    first = names[0].relative_to(tmp_path)
    advice = "add what is missing and encode again with the same options and --overwrite"
    assert done.err == (
        f"dinac: without json: {len(names)} images, such as {first}; {advice}\n"
        f"dinac: without txt: 1 image: {first}; {advice}, or train with "
        "LatentShards(captions=…)\n"
    )
    objects = {one["file"]: one.get("lacking") for one in done.objects[:-1]}
    assert objects[str(first)] == ["json", "txt"]
    assert [lacking for lacking in objects.values() if lacking] == [
        ["json", "txt"],
        *[["json"]] * (len(names) - 1),
    ]
    assert done.objects[-1]["lacking"] == {"json": len(names), "txt": 1}
    assert done.objects[-1]["written"] == len(names)


def test_archives_without_images_are_named(photos: Path, tmp_path: Path) -> None:
    """Such as the shards of a run, which are no inputs of the next one."""
    assert encode(tmp_path, "--shard-size", "4").code == 0
    done = run("encode", "out/000/000000.tar", "out/000/000001.tar", "again", cwd=tmp_path)
    assert done.summary == "0 encoded with nano (default on a CPU) into 2 shards\n"
    assert done.err == "dinac: found no images in 2 archives, such as out/000/000000.tar\n"


def test_archives_in_a_folder_are_named_in_the_advice(photos: Path, tmp_path: Path) -> None:
    assert encode(tmp_path, "--shard-size", "4").code == 0
    (tmp_path / "tars").mkdir()
    (tmp_path / "out/000/000001.tar").rename(tmp_path / "tars/a.tar")
    for options in ((), ("--shard-size", "4")):
        done = run("encode", "tars", "again", *options, cwd=tmp_path)
        assert (done.code, done.err) == (
            2,
            "dinac: no images found in tars (1 other file); name the archives in it, such as "
            "tars/a.tar\n",
        )


def test_compressed_tars_are_named_as_such(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as tar:
        tar.add(photos, "photos")
    done = run("encode", "photos.tgz", "out", cwd=tmp_path)
    assert (done.code, done.err) == (
        3, "dinac: photos.tgz: a compressed tar (gzip); unpack it first\n",
    )  # fmt: skip


def test_shards_do_not_go_into_the_name_of_a_file(photos: Path, tmp_path: Path) -> None:
    for out in ("out.tar", "s3://bucket/out.tar"):
        done = encode(tmp_path, "--shard-size", "4", out=out)
        assert (done.code, done.err) == (
            2,
            f"dinac: {out}: OUT, the last argument, is named like a file, but must be a folder "
            f"here; write {out}/ if this is a folder\n",
        )


def test_shards_among_loose_records_are_wrong_usage(photos: Path, tmp_path: Path) -> None:
    assert encode(tmp_path).code == 0
    done = encode(tmp_path, "--shard-size", "4")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: out/0.png.dinac is a loose record; shards and loose records never mix; "
        "choose another OUT\n"
    )


def test_the_number_of_processes_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    for processes in ("1", "2"):
        options = ("--shard-size", "1", "--processes", processes, "--threads", "1")
        command = ("encode", photos, tmp_path / processes, *options)
        done = run_process(*command, program=get_client())
        assert (done.code, done.err) == (0, "")
    assert read_files(tmp_path / "1") == read_files(tmp_path / "2")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_run_that_is_killed_during_an_upload_is_completed(
    photos: Path, tmp_path: Path, faulty_s3: FaultyS3
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    changes = {**faulty_s3.environment, "TMPDIR": str(spool)}
    command = ("encode", str(photos), f"{faulty_s3.url}/out", "--shard-size", "1")
    local = ("encode", photos, tmp_path / "expected", "--shard-size", "1")
    assert run_process(*local, program=get_client()).code == 0
    expected = read_files(tmp_path / "expected")
    for name in ("000002.tar", "_dinac/shards/000/000004"):
        process = subprocess.Popen(
            [*get_client(), *command],
            env=make_environment(changes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        faulty_s3.before(process.kill, method="PUT", path=name)
        _, err = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == -9, err.decode()
        tree = {key.removeprefix("out/"): data for key, data in faulty_s3.objects.items()}
        assert tree == {key: expected[key] for key in tree}
        assert "index.json" not in tree
    done = run_process(*command, program=get_client(), environment=changes)
    assert (done.code, done.err) == (0, "")
    tree = {key.removeprefix("out/"): data for key, data in faulty_s3.objects.items()}
    assert tree == expected
    assert os.listdir(spool) == []

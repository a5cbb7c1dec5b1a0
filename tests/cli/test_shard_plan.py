"""`dinac plan` and `encode --dry-run` of shards: the whole output, JSON and exit codes."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import list_files, save
from .processes import run, run_noting_imports


def hide_times(text: str) -> str:
    return re.sub(r"about [\d.]+ ms", "about N ms", re.sub(r"about [\d.]+ s\b", "about N s", text))


def test_new_shards(own: Path) -> None:
    before = list_files(own)
    shards = ("photos", "fresh", "--shard-size", "3")
    planned = run("plan", *shards, "--verbose", cwd=own)
    assert planned.code == 0
    assert planned.err == "dinac: new shard 000/000000\ndinac: new shard 000/000001\n"
    size = sum(path.stat().st_size for path in (own / "photos").rglob("[abc].*"))
    assert re.fullmatch(
        r"state  shards images bytes in bytes out\n"
        r"new         2      4 +[\d.]+ kB         -\n"
        r"stale       0      0      0 B         -\n"
        r"done        0      0        -       0 B\n"
        r"failed      0      0      0 B         -\n"
        rf"2 shards to encode with 4 images, {size / 1000:.1f} kB in; "
        r"about [\d.]+ kB out, at [\d.]+ kB an image \(from a sample of 4\)\n"
        r"time: about [\d.]+ s \(cpu/\w+, from a sample of 4 images\); limited by: \w+\n"
        r"processor: about [\d.]+ ms of one core for each image\n"
        r"objects to write: 8\n",
        planned.out,
    )
    dry = run("encode", *shards, "--dry-run", cwd=own)
    figures = re.compile(r"[\d.]+ (?:ms|s|[kM]?B)\b|limited by: \w+")
    assert figures.sub("N", dry.out) == figures.sub("N", planned.out)
    assert list_files(own) == before


def test_shards_of_an_earlier_run(own: Path) -> None:
    save(own / "photos/large.png", 200, 200)
    (own / "photos/gone.jpg").write_bytes((own / "photos/a.jpg").read_bytes())
    encoded = run("encode", "photos", "out", "--shard-size", "3", "--max-pixels", "10000", cwd=own)
    assert encoded.code == 3
    save(own / "photos/a.jpg", 20, 20)
    (own / "photos/gone.jpg").unlink()
    done = run("plan", "photos", "out", "--quick", cwd=own)
    assert (done.code, done.err) == (3, "")
    assert hide_times(re.sub(r"[\d.]+ k?B\b", "SIZE", done.out)).splitlines()[5:] == [
        "changed since they were encoded: 1 image",
        "gone from the inputs: 1 image; its record stays, but not in the shards to encode, where "
        "1 image will fail",
        "failed in earlier runs: 1 image; --retry-failed would encode 1 shard with 3 images again",
        "1 shard to encode with 2 images, SIZE in; about SIZE out, at SIZE an image "
        "(from finished shards)",
        "time: not estimated (--quick)",
        "processor: about N ms of one core for each image",
        "objects to write: 4",
    ]
    *shards, summary = run("plan", "photos", "out", "--quick", "--json", cwd=own).objects
    assert [(shard["shard"], shard["state"]) for shard in shards] == [
        ("000/000000", "stale"),
        ("000/000001", "done"),
    ]
    assert shards[0]["reason"] == "its source has changed"
    assert shards[1]["images_failed"] == 1
    assert summary["images_to_encode"] == 2
    assert summary["retry_failed"] == {"shards": 1, "images": 3}
    assert summary["requests_predicted"]["out"]["put"] == 0  # a folder of this machine


def test_remote_shards_are_planned_without_torch(own: Path, tmp_path: Path) -> None:
    place = "memory://plan/out"
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch", "ray", "rich", "s3fs"),
        "plan", str(own / "photos"), place, "--json", "--model-rate", "1000", "--engine", "ray",
    )  # fmt: skip
    assert (done.code, done.err, imported) == (0, "", "")
    summary = done.objects[-1]
    assert summary["requests_predicted"]["out"] == {
        "list": 10, "head": 7, "get": 2, "put": 6, "delete": 1,
    }  # fmt: skip
    assert summary["device_images_per_second"] == 1000
    assert summary["device_rate_assumed"] is True
    assert summary["seconds_estimated"] == 4 / 1000
    assert summary["upload_bytes_per_second"] == summary["bytes_estimated"] / (4 / 1000)
    assert summary["ray"] == {
        "tasks": 1, "cpus_per_task": None, "gpus_per_task": 0.25, "uses_gpus": None,
    }  # fmt: skip


def test_exit_code_says_whether_work_remains(own: Path) -> None:
    options = ("plan", "photos", "out", "--shard-size", "3", "--quiet")
    codes = [run(*options, *more, cwd=own).code for more in ((), ("--exit-code",))]
    assert codes == [0, 3]
    missing = run("plan", "missing.tar", "out", "--quiet", cwd=own)
    assert (missing.code, missing.err) == (3, "dinac: missing.tar: no such file; check its name\n")


def test_an_assumed_rate_needs_shards(own: Path) -> None:
    done = run("plan", "photos", "fresh", "--model-rate", "1000", cwd=own)
    assert done.code == 2
    assert done.err == "dinac: --model-rate needs shards; add --shard-size, or leave it out\n"

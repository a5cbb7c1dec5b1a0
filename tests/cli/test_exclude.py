"""`--exclude` leaves out the same files in every command that takes inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import list_files
from .processes import run
from .test_train import QUICK

PATTERNS = ("--exclude", "deep/", "--exclude", "/b.*")


def test_encode_and_plan_agree(work: Path, tmp_path: Path) -> None:
    done = run("encode", "photos", tmp_path / "out", *PATTERNS, cwd=work)
    assert (done.code, done.err) == (0, "")
    assert list_files(tmp_path / "out") == ["a.jpg.dinac", "sub/b.png.dinac"]
    planned = run("plan", "photos", tmp_path / "other", "--quick", "--json", *PATTERNS, cwd=work)
    assert [entry["file"] for entry in planned.objects[:-1]] == ["photos/a.jpg", "photos/sub/b.png"]


def test_records_of_excluded_sources_are_no_orphans(own: Path) -> None:
    """The pages show a command that deletes orphans."""
    for line in ("encode photos latents", "plan photos latents --quick"):
        done = run(*line.split(), "--exclude", "*.png", cwd=own)
        assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[7].split() == ["orphaned", "0", "0", "B"]


@pytest.mark.parametrize("command", ["decode", "export"])
def test_commands_that_write(work: Path, tmp_path: Path, command: str) -> None:
    done = run(command, "latents", tmp_path / "out", *PATTERNS, cwd=work)
    assert (done.code, done.err) == (0, "")
    assert len(list_files(tmp_path / "out")) == 2


def test_commands_that_read(work: Path) -> None:
    assert run("info", "latents", "--json", *PATTERNS, cwd=work).objects[-1]["records"] == 2
    assert run("verify", "latents", "--json", *PATTERNS, cwd=work).objects[-1]["verified"] == 2
    compared = run("psnr", "photos", "decoded", "--json", *PATTERNS, cwd=work).objects[0]
    assert (compared["count"], compared["missing"]) == (2, 0)


def test_report_and_train(work: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("report", "photos", "decoded", page, *PATTERNS, cwd=work)
    assert done.code == 0
    assert done.out.startswith("2 images in ")
    excluded = ("--exclude", "sub/", "--exclude", "a.jpg")
    done = run("train", "photos", tmp_path / "model", "--steps", "2", *excluded, *QUICK, cwd=work)
    assert done.code == 0
    assert done.out.startswith("2 steps on 1 image; ")


def test_nothing_left_is_refused(work: Path) -> None:
    done = run("encode", "photos", "out", "--exclude", "*", cwd=work)
    assert (done.code, done.err) == (
        2,
        "dinac: no images found in photos, apart from what --exclude leaves out; "
        "check its patterns\n",
    )

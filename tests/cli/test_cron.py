"""Unattended runs: cron mails whatever a command prints on stdout and stderr."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import list_files, save
from .processes import parse_lines, run

REPEATED = ("--failures", "failed.jsonl", "--known-failures", "failed.jsonl")
NIGHTLY = ("encode", "photos", "latents", "--model", "nano", *REPEATED)
BAD = "dinac: photos/bad.png: not an image (no known image format); see 'dinac man images'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photos, one of them bad."""
    save(tmp_path / "photos/a.png")
    (tmp_path / "photos/bad.png").write_text("not a picture")
    return tmp_path


def test_mail_comes_only_if_something_new_is_wrong(folder: Path) -> None:
    nightly = (*NIGHTLY, "--quiet")
    first = run(*nightly, cwd=folder)
    assert (first.code, first.out, first.err) == (3, "", BAD)

    save(folder / "photos/b.png", seed=1)
    second = run(*nightly, cwd=folder)
    assert (second.code, second.out, second.err) == (3, "", "")
    assert list_files(folder / "latents") == ["a.png.dinac", "b.png.dinac"]
    [failure] = parse_lines((folder / "failed.jsonl").read_text())
    assert failure["file"] == "photos/bad.png"

    (folder / "photos/bad.png").write_bytes(b"")
    (folder / "photos/worse.png").write_text("not a picture")
    third = run(*nightly, cwd=folder)
    assert (third.code, third.out) == (3, "")
    assert sorted(third.err.splitlines()) == [
        "dinac: photos/bad.png: empty file (0 bytes); copy or download it again",
        "dinac: photos/worse.png: not an image (no known image format); see 'dinac man images'",
    ]

    for name in ("bad.png", "worse.png"):
        save(folder / "photos" / name, seed=2)
    assert run(*nightly, cwd=folder).code == 0
    (folder / "photos/bad.png").write_text("not a picture")
    assert run(*nightly, cwd=folder).err == BAD  # it was mended, so it is new again


def test_a_log_gets_the_summary_and_mail_the_rest(folder: Path) -> None:
    nightly = (*NIGHTLY, "--no-progress")
    first = run(*nightly, cwd=folder)
    summary = "1 encoded with nano, 1 failed; SIZES in TIME\n"
    assert (first.code, first.summary, first.err) == (3, summary, BAD)
    second = run(*nightly, cwd=folder)
    assert (second.code, second.err) == (3, "")
    assert second.out == (
        "0 encoded with nano, 1 already done, 1 failed\n1 known failure is listed in failed.jsonl\n"
    )


@pytest.mark.parametrize(
    "command", ["decode latents out", "verify latents", "info latents", "export latents out"]
)
def test_other_commands_know_failures_too(folder: Path, command: str) -> None:
    (folder / "latents").mkdir()
    (folder / "latents/bad.dinac").write_text("no record")
    line = (*command.split(), "--quiet", *REPEATED)
    first, second = (run(*line, cwd=folder) for _ in range(2))
    assert (first.code, second.code) == (3, 3)
    assert first.err.startswith("dinac: latents/bad.dinac: ")
    assert second.err == ""


def test_dry_run_has_no_known_failures(folder: Path) -> None:
    done = run("encode", "photos", "latents", "--dry-run", "--known-failures", "x", cwd=folder)
    said = "dinac: --dry-run prints all failures; leave out --known-failures\n"
    assert (done.code, done.out, done.err) == (2, "", said)

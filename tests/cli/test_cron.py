"""Unattended runs: cron mails whatever a command prints on stdout and stderr."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from pathlib import Path

import pytest

import dinac_cli
from dinac_cli.commands.screen.file_lines import SHOWN_FILES
from dinac_cli.storage.lock import hold_folder

from .conftest import list_files, read_files, save
from .processes import parse_lines, run

RUNNING = Path(dinac_cli.__file__).parent / "jobs/RUNNING.md"
REPEATED = ("--failures", "failed.jsonl", "--known", "failed.jsonl")
NAMES = "abcdefghijkl"
NOT_AN_IMAGE = "not an image (no known image format); see 'dinac man images'"
BAD = f"dinac: photos/bad.png: {NOT_AN_IMAGE}\n"


def read_recipe() -> list[str]:
    """Returns the arguments of the line that the page gives for a crontab."""
    [line] = re.findall(
        r"^[\d*]+ [\d*]+ \* \* \*  cd /data && dinac (.*)$", RUNNING.read_text(), re.M
    )
    return shlex.split(line)


def read_log(path: Path) -> list[str]:
    """Returns the lines of a log without times, processes and durations."""
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d dinac\[\d+\] "
    lines = path.read_text().splitlines()
    assert all(re.match(start, line) for line in lines)
    return [
        re.sub(r"; [^;]* in [\d.:]+( s)?$", "; SIZES in TIME", re.sub(start, "", line))
        for line in lines
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photos, one of them bad."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / f"photos/{name}.png", seed=seed)
    (tmp_path / "photos/bad.png").write_text("not a picture")
    return tmp_path


def require_fresh(folder: Path) -> None:
    """The records of all sources equal those of a new OUT."""
    fresh = f"fresh{len(list(folder.iterdir()))}"
    run("encode", "photos", fresh, "--model", "nano", cwd=folder)
    records = read_files(folder / "latents")
    expected = read_files(folder / fresh)
    assert expected
    assert {name: records[name] for name in expected} == expected


@pytest.mark.skipif(sys.platform == "win32", reason="--lock warns")
def test_nights(folder: Path) -> None:
    """The recipe of the page: silent nights, and short mails if something new is wrong."""
    nightly, photos = read_recipe(), folder / "photos"
    command = shlex.join(["dinac", *nightly])

    first = run(*nightly, cwd=folder)
    assert (first.code, first.out) == (3, "")
    error, summary, last = first.err.splitlines()
    assert f"{error}\n" == BAD
    assert summary.startswith("dinac: 12 encoded with nano (default on a CPU), 1 failed; ")
    assert last == "dinac: nightly.log has the details"
    done = "12 encoded with nano (default on a CPU), 1 failed; SIZES in TIME"
    log = [f"start: {command}", f"error: photos/bad.png: {NOT_AN_IMAGE}", done, "exit 3"]
    assert read_log(folder / "nightly.log") == log

    save(photos / "new.png", seed=7)
    save(photos / "a.png", seed=8)  # changed
    (photos / "b.png").rename(photos / "renamed.png")
    (photos / "c.png").rename(photos / "swap")  # swapped
    (photos / "d.png").rename(photos / "c.png")
    (photos / "swap").rename(photos / "d.png")
    (photos / "e.png").unlink()
    second = run(*nightly, cwd=folder)
    assert (second.code, second.out, second.err) == (0, "", "")
    require_fresh(folder)
    *changes, done, known, end = read_log(folder / "nightly.log")[len(log) :]
    assert changes[0] == f"start: {command}"
    redone = sorted(line for line in changes if "redone: the source has changed" in line)
    assert [line.partition(":")[0] for line in redone] == [f"photos/{n}.png" for n in "acd"]
    assert done == (
        "4 encoded with nano, 3 of them again, 7 already done, 1 renamed, "
        "1 moved to latents/.dinac-removed, 1 failed; SIZES in TIME"
    )
    assert list_files(folder / "latents/.dinac-removed") == ["e.png.dinac"]
    assert known == "1 known failure is listed in failed.jsonl"
    assert end == "exit 0"

    quiet = run(*nightly, cwd=folder)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")

    (photos / "bad.png").write_bytes(b"")
    for number in range(12):
        (photos / f"worse{number:02}.png").write_text("not a picture")
    fourth = run(*nightly, cwd=folder)
    assert (fourth.code, fourth.out) == (3, "")
    lines = fourth.err.splitlines()
    assert len(lines) == 1 + SHOWN_FILES + 1 + 2
    assert lines[0] == "dinac: photos/bad.png: empty file (0 bytes); copy or download it again"
    assert lines[-3].startswith("dinac: 9 more files failed for the same reason (not an image ")
    assert lines[-2] == "dinac: 0 encoded with nano, 12 already done, 13 failed"
    logged = [line for line in read_log(folder / "nightly.log") if "worse" in line]
    assert len(logged) == 12  # the log names every file
    assert run(*nightly, cwd=folder).code == 0


def test_a_missing_disk_is_reported_each_night(folder: Path) -> None:
    nightly = read_recipe()
    run(*nightly, cwd=folder)
    for name in NAMES[:4]:
        (folder / f"photos/{name}.png").unlink()
    for _ in range(2):
        done = run(*nightly, cwd=folder)
        assert (done.code, done.out) == (3, "")
        refusal, _, _, last = done.err.splitlines()
        assert refusal.startswith(
            "dinac: latents/: --prune moved nothing: 4 of 12 outputs have no "
        )
        assert last == "dinac: nightly.log has the details"
    assert len(list_files(folder / "latents")) == len(NAMES)


def test_mended_file_is_new_if_it_fails_again(folder: Path) -> None:
    nightly = ("encode", "photos", "latents", "--quiet", *REPEATED)
    first = run(*nightly, cwd=folder)
    assert (first.code, first.out, first.err) == (3, "", BAD)
    [failure] = parse_lines((folder / "failed.jsonl").read_text())
    assert failure["file"] == "photos/bad.png"
    save(folder / "photos/bad.png", seed=9)
    assert run(*nightly, cwd=folder).code == 0
    assert (folder / "failed.jsonl").read_text() == ""
    (folder / "photos/bad.png").write_text("not a picture")
    again = run(*nightly, cwd=folder)
    assert (again.code, again.err) == (3, BAD)


def test_summary_counts_known_failures(folder: Path) -> None:
    nightly = ("encode", "photos", "latents", "--no-progress", "--model", "nano", *REPEATED)
    first = run(*nightly, cwd=folder)
    summary = "12 encoded with nano, 1 failed; SIZES in TIME\n"
    assert (first.code, first.summary, first.err) == (3, summary, BAD)
    second = run(*nightly, cwd=folder)
    assert (second.code, second.err) == (0, "")
    assert second.out == (
        "0 encoded with nano, 12 already done, 1 failed\n"
        "1 known failure is listed in failed.jsonl\n"
    )


def test_known_failures_do_not_stop_a_run_that_fails_fast(folder: Path) -> None:
    (folder / "photos/0.png").write_text("not a picture")  # the first file
    arguments = ("encode", "photos", "latents", "--fail-fast", "--batch-size", "1", *REPEATED)
    assert run(*arguments, cwd=folder).code == 3
    assert not (folder / "failed.jsonl").exists()  # the list of a stopped run is not complete
    assert run("encode", "photos", "latents", *REPEATED, cwd=folder).code == 3
    assert run(*arguments, cwd=folder).code == 0


@pytest.mark.parametrize(
    "command",
    [
        "decode latents out",
        "verify latents",
        "info latents",
        "export latents out",
        "psnr photos damaged",
        "report photos damaged page.html --overwrite",
    ],
)
def test_other_commands_know_failures_and_keep_a_log(folder: Path, command: str) -> None:
    (folder / "latents").mkdir()
    (folder / "latents/bad.dinac").write_text("no record")
    (folder / "photos/bad.png").unlink()
    save(folder / "damaged/a.png")
    for name in "bcdef":
        (folder / f"damaged/{name}.png").write_text("no image")
    line = (*command.split(), "--quiet", "--log", "log", *REPEATED)
    first, second = (run(*line, cwd=folder) for _ in range(2))
    assert (first.code, second.code) == (3, 0)
    assert first.err.startswith(("dinac: latents/bad.dinac: ", "dinac: photos/b.png: "))
    assert second.err == ""
    log = read_log(folder / "log")
    assert [entry for entry in log if entry.startswith("exit")] == ["exit 3", "exit 0"]
    assert f"start: dinac {shlex.join(line)}" in log
    assert any(entry.startswith("error: ") for entry in log)


def test_errors_of_a_whole_run_are_logged(folder: Path) -> None:
    done = run("encode", "nowhere", "latents", "--quiet", "--log", "log", cwd=folder)
    error = "nowhere: no such file or folder; check the path"
    assert (done.code, done.err) == (2, f"dinac: {error}\n")
    assert read_log(folder / "log")[1:] == [f"error: {error}", "exit 2"]


def test_line_that_a_full_disk_cut_stays_apart_from_the_next_run(folder: Path) -> None:
    log = folder / "log"
    log.write_text("2026-01-01 02:30:00+00:00 dinac[1] 0 enco")
    for _ in range(2):
        run("encode", "photos/a.png", "latents", "--quiet", "--log", "log", cwd=folder)
    cut, *later = read_log(log)
    assert cut == "0 enco"
    assert [line for line in later if not line.startswith("start")][1::2] == ["exit 0"] * 2


def test_log_that_cannot_be_written_stops_the_run_before_any_work(folder: Path) -> None:
    cases = {
        "nowhere/log": "cannot write: No such file or directory; choose another place",
        "photos": "cannot write: Is a directory; choose another place",
        "photos/a.png": "not a text file; name a new file or a log",
    }
    before = read_files(folder)
    for path, reason in cases.items():
        done = run("encode", "photos", "latents", "--log", path, cwd=folder)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: --log {path}: {reason}\n")
    assert read_files(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_second_run_with_a_lock_exits_at_once(folder: Path) -> None:
    commands = ("encode photos latents", "decode latents out", "export latents out")
    assert run(*commands[0].split(), "--lock", cwd=folder).code == 3
    before = list_files(folder)
    for command in commands:
        out = command.split()[-1]
        with hold_folder(str(folder / out), "held"):
            locked = run(*command.split(), "--lock", *REPEATED, cwd=folder)
            reason = "another run holds the lock of this folder; wait for its end"
            assert (locked.code, locked.out, locked.err) == (1, "", f"dinac: {out}: {reason}\n")
            assert list_files(folder) == before
    with hold_folder(str(folder / "latents"), "held"):
        assert run(*commands[0].split(), cwd=folder).code == 3  # runs without --lock share OUT


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_lock_that_has_no_effect_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    done = run("encode", "photos/a.png", "latents", "--lock", cwd=folder)
    reason = "latents: this system cannot lock the folder; --lock has no effect"
    assert (done.code, done.err) == (0, f"dinac: warning: {reason}\n")


@pytest.mark.parametrize("out", ["-", "one.dinac"])
def test_lock_needs_a_folder(folder: Path, out: str) -> None:
    done = run("encode", "photos/a.png", out, "--lock", cwd=folder)
    said = "dinac: --lock needs a folder as OUT; name a folder, or leave out --lock\n"
    assert (done.code, done.out, done.err) == (2, "", said)
    assert not (folder / out).exists()


@pytest.mark.parametrize("option", ["--known x", "--failures x", "--log x", "--lock"])
def test_dry_run_refuses_what_it_would_ignore(folder: Path, option: str) -> None:
    done = run("encode", "photos", "latents", "--dry-run", *option.split(), cwd=folder)
    said = f"dinac: --dry-run only prints the plan; leave out {option.split()[0]}\n"
    assert (done.code, done.out, done.err) == (2, "", said)
    assert not (folder / "x").exists()

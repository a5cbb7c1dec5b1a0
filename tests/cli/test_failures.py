"""Bad files among good ones are named, counted and listed; the rest is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..jobs.hand_made import make_handle, make_record
from .conftest import draw, list_files, read_files, save
from .processes import parse_lines, run

CORRUPT = "the content does not match its checksum; copy the record again or re-encode"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Good images, a truncated one, a huge one, and a file that is no image."""
    folder = tmp_path / "mixed"
    for number, name in enumerate(("a.png", "c.png", "e.jpg")):
        save(folder / name, 32, 32, number)
    frames = [draw(20, 20, seed) for seed in range(3)]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    save(folder / "vast.png", 100, 100)
    whole = save(tmp_path / "whole.png", 64, 64).read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "d.jpg").write_text("not a picture")
    return folder


def test_bad_files_are_reported_and_the_rest_is_done(mixed: Path, tmp_path: Path) -> None:
    arguments = ("encode", "mixed", "out", "--failures", "failed.jsonl", "--max-pixels", "2000")
    done = run(*arguments, "--json", cwd=tmp_path)
    assert done.code == 3
    *files, summary = done.objects
    assert sorted((entry["file"], entry["status"]) for entry in files) == [
        ("mixed/a.png", "written"),
        ("mixed/b.png", "failed"),
        ("mixed/c.png", "written"),
        ("mixed/d.jpg", "failed"),
        ("mixed/e.jpg", "written"),
        ("mixed/moves.gif", "written"),
        ("mixed/vast.png", "failed"),
    ]
    failed = {entry["file"]: entry["reason"] for entry in files if entry["status"] == "failed"}
    assert "2000" in failed["mixed/vast.png"]
    assert failed["mixed/d.jpg"] == "not an image (no known image format); see 'dinac man images'"
    assert (summary["written"], summary["failed"], summary["not_inputs"]) == (4, 3, 0)
    complaints = sorted(f"dinac: {file}: {reason}" for file, reason in failed.items())
    warning = "dinac: warning: mixed/moves.gif: animated: only frame 1 of 3 encoded"
    assert sorted(done.err.splitlines()) == [*complaints, warning]
    written = parse_lines((tmp_path / "failed.jsonl").read_text())
    assert written == [entry for entry in files if entry["status"] == "failed"]
    good = ["a.png.dinac", "c.png.dinac", "e.jpg.dinac", "moves.gif.dinac"]
    assert list_files(tmp_path / "out") == good

    again = run(*arguments, "--quiet", cwd=tmp_path)
    assert (again.code, again.out) == (3, "")
    assert sorted(again.err.splitlines()) == complaints


def test_fail_fast_stops_and_reports_the_files_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number in range(30):
        save(folder / f"{number:02}.png", 16, 16, number)
    (folder / "00.png").write_text("not a picture")
    done = run("encode", folder, tmp_path / "out", "--fail-fast", "--json", "--batch-size", "4")
    assert done.code == 3
    assert done.err == (
        f"dinac: {folder}/00.png: not an image (no known image format); see 'dinac man images'\n"
        "dinac: stopped before the end; run the same command again to continue\n"
    )
    *files, summary = done.objects
    assert f"{folder}/00.png" in [entry["file"] for entry in files]
    assert len(files) < 10
    assert summary["written"] == len(list_files(tmp_path / "out")) == len(files) - 1


def test_verbose_quotes_the_library_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(path, 16, 16, 0)
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDOT"))
    arguments = ("encode", path, tmp_path / "out")
    reason = "damaged PNG file; copy or download it again"
    detail = "SyntaxError: broken PNG file (bad header checksum in b'IDOT')"
    brief, full, as_json = (run(*arguments, *flag) for flag in ([], ["-v"], ["--json"]))
    assert brief.err == f"dinac: {path}: {reason}\n"
    assert f"dinac: {path}: {reason}\ndinac: {path}: {detail}\n" in full.err
    assert as_json.objects[0]["details"] == [detail]
    assert (brief.code, full.code, as_json.code) == (3, 3, 3)


def test_missing_files_fail_alone(own: Path) -> None:
    arguments = ("photos/b.png", "photos/none.png", "photos/notes.txt", "no*.gif")
    done = run("encode", *arguments, "latents", cwd=own)
    assert (done.code, done.out) == (3, "0 encoded with nano, 1 already done, 3 failed\n")
    assert sorted(done.err.splitlines()) == [
        "dinac: no*.gif: no file matches this pattern",
        "dinac: photos/none.png: no such file or folder; check the path",
        "dinac: photos/notes.txt: not an image (no known image format); see 'dinac man images'",
    ]


def test_corrupt_records_fail_alone(own: Path) -> None:
    path = own / "latents/b.png.dinac"
    content = bytearray(path.read_bytes())
    content[900] ^= 0x40
    path.write_bytes(content)
    shutil.copy(own / "photos/a.jpg", own / "latents/wrong.dinac")
    (own / "latents/empty.dinac").touch()
    before = read_files(own / "decoded")
    done = run("decode", "latents", "decoded", "--failures", "failed.jsonl", cwd=own)
    assert (done.code, done.out) == (3, "0 decoded, 3 already done, 3 failed\n")
    first, second, third = sorted(done.err.splitlines())
    assert first == f"dinac: latents/b.png.dinac: {CORRUPT}"
    assert second.startswith("dinac: latents/empty.dinac: ")
    assert third.startswith("dinac: latents/wrong.dinac: an image, not a latent record; ")
    failed = [json.loads(line) for line in (own / "failed.jsonl").read_text().splitlines()]
    assert {
        "file": "latents/b.png.dinac",
        "name": "b.png.dinac",
        "status": "failed",
        "reason": CORRUPT,
        "error": "FormatError",
        "rejection": "checksum",
    } in failed
    assert read_files(own / "decoded") == before


def test_one_cause_of_many_failures_is_one_line_in_a_pipe(tmp_path: Path) -> None:
    sizes = [(24, 32), (32, 24), (40, 24), (24, 40), (40, 40)]
    for number, (width, height) in enumerate(sizes):
        save(tmp_path / f"one/{number}.png", 32, 32, number)
        save(tmp_path / f"two/{number}.png", width, height, number)
        save(tmp_path / f"one/lonely{number}.png", 32, 32, number)
    save(tmp_path / "one/good.png", 32, 32)
    save(tmp_path / "two/good.png", 32, 32)
    arguments = ("psnr", "one", "two", "--failures", "failed.jsonl")
    brief, full = (run(*arguments, *more, cwd=tmp_path) for more in ((), ("-v",)))
    assert (brief.code, full.code) == (3, 3)
    *_, sizes_differ, no_counterpart = brief.err.splitlines()
    assert sizes_differ == (
        "dinac: 2 more files failed for the same reason (sizes differ: 32x32 and …); "
        "failed.jsonl lists them"
    )
    assert no_counterpart == (
        "dinac: 2 more files failed for the same reason (has no counterpart in two); "
        "failed.jsonl lists them"
    )
    assert len(brief.err.splitlines()) == 2 * 3 + 2
    assert len(full.err.splitlines()) == 2 * 5
    assert len(parse_lines((tmp_path / "failed.jsonl").read_text())) == 2 * 5
    assert len(run("psnr", "one", "two", "--json", cwd=tmp_path).objects[0]["files"]) == 11


def test_a_model_that_is_not_available_is_named_once(tmp_path: Path) -> None:
    tiny = make_handle("tiny", "decoder")
    (tmp_path / "latents").mkdir()
    for number in range(5):
        record = make_record(tiny, f"{number}.png", number, latent_space="fedcba9876543210")
        (tmp_path / f"latents/{number}.dinac").write_bytes(record)
    done = run("decode", "latents", "out", cwd=tmp_path)
    assert done.code == 3
    *named, counted = done.err.splitlines()
    assert len(named) == 3
    assert counted.startswith("dinac: 2 more files failed for the same reason (encoded with model ")
    assert counted.endswith("); -v or --failures FILE lists them")

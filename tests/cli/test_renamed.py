"""A source that was renamed, swapped, copied or restored never keeps the latents of another one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dinac_cli.images import revisions
from dinac_cli.images.revisions import ReaderRule
from dinac_cli.jobs import freshness
from dinac_cli.storage import source_memory
from dinac_cli.storage.content import hash_file
from dinac_cli.storage.source_memory import MEMORY_NAME

from .conftest import draw
from .processes import run

FRAMES = tuple(f"{take}/f{number}.bmp" for take in ("x", "y") for number in range(3))
TIME = (1.6e9, 1.6e9)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of one size and one time in two folders, and their records."""
    folder = tmp_path_factory.mktemp("frames")
    for seed, name in enumerate(FRAMES):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(32, 32, seed).save(path)
        os.utime(path, TIME)
    assert run("encode", "in", "out", cwd=folder).code == 0
    return folder


@pytest.fixture
def frames(encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `encoded` whose sources are all remembered, although they are new files."""
    folder = tmp_path / "frames"
    shutil.copytree(encoded, folder)
    monkeypatch.setattr(source_memory, "SETTLE_NS", -(10**18))
    assert encode(folder) == []
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that the runs hash."""
    names: list[str] = []

    def note(path: str) -> str:
        names.append(os.path.relpath(path, "in"))
        return hash_file(path)

    monkeypatch.setattr(freshness, "hash_file", note)
    return names


def encode(folder: Path, *options: str) -> list[str]:
    """Plans and encodes; returns the names of the sources that were encoded."""
    planned = run("plan", "in", "out", "--quick", "--json", *options, cwd=folder)
    done = run("encode", "in", "out", "--json", *options, cwd=folder)
    assert done.code == 0
    made = [entry["name"] for entry in done.objects[:-1] if entry["status"] == "written"]
    states = {entry["file"]: entry["state"] for entry in planned.objects[:-1]}
    work = [name[3:] for name, state in states.items() if state not in ("done", "orphaned")]
    assert sorted(work) == sorted(made)
    return sorted(made)


def require_right(folder: Path) -> None:
    """Requires that each record is the record of the file of its name, and nothing is to do."""
    assert encode(folder) == []
    verified = run("verify", "out", "--source", "in", cwd=folder)
    assert (verified.code, verified.err) == (0, "")


def swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def copy_with_times(source: Path, target: Path) -> None:
    """Copies as `cp -p` does."""
    shutil.copy2(source, target)


def sync_with_times(source: Path, target: Path) -> None:
    """Copies as `rsync -a` does: to a new file that replaces the target."""
    new = target.with_name(".new")
    shutil.copy2(source, new)
    new.replace(target)


def test_renumbered_frames_get_their_own_latents(frames: Path) -> None:
    """D1 of the walk: a frame is deleted, and `mv` renumbers the others."""
    (frames / "in/x/f0.bmp").unlink()
    (frames / "in/x/f1.bmp").rename(frames / "in/x/f0.bmp")
    (frames / "in/x/f2.bmp").rename(frames / "in/x/f1.bmp")
    (frames / "out/x/f2.bmp.dinac").unlink()
    done = run("encode", "in", "out", cwd=frames)
    assert (done.code, sorted(done.err.splitlines())) == (
        0,
        [f"dinac: in/x/f{number}.bmp: redone: the source has changed" for number in (0, 1)],
    )
    require_right(frames)


@pytest.mark.parametrize(
    "replace", [os.replace, copy_with_times, sync_with_times], ids=["mv", "cp -p", "rsync -a"]
)
@pytest.mark.parametrize("memory", ["kept", "lost", "other"])
def test_a_file_in_the_place_of_another(
    frames: Path, replace: Callable[[Path, Path], None], memory: str
) -> None:
    replace(frames / "in/x/f0.bmp", frames / "in/y/f0.bmp")
    if memory != "kept":
        (frames / "out" / MEMORY_NAME).unlink()
    if memory == "other":
        (frames / "out" / MEMORY_NAME).write_text("not a memory")
    if replace is os.replace:
        (frames / "out/x/f0.bmp.dinac").unlink()
    assert encode(frames) == ["y/f0.bmp"]
    require_right(frames)


def test_swapped_names(frames: Path) -> None:
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    assert encode(frames) == ["x/f0.bmp", "x/f1.bmp"]
    require_right(frames)


@pytest.mark.parametrize("same_ctime", [False, True])
def test_swapped_folders_whose_files_keep_their_ctime(
    frames: Path, same_ctime: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_ctime:  # as if all files had been written within one tick of the clock
        real = source_memory._digest

        def ignore_ctime(size: int, *parts: int | bytes) -> bytes:
            return real(size, *(parts[:2] + parts[3:] if len(parts) == 4 else parts))

        monkeypatch.setattr(source_memory, "_digest", ignore_ctime)
        (frames / "out" / MEMORY_NAME).unlink()
        assert encode(frames) == []
    before = (frames / "in/x/f0.bmp").stat().st_ctime_ns
    swap(frames / "in/x", frames / "in/y")
    assert (frames / "in/y/f0.bmp").stat().st_ctime_ns == before
    assert encode(frames) == sorted(FRAMES)
    require_right(frames)


def test_swapped_records(frames: Path) -> None:
    swap(frames / "out/x/f0.bmp.dinac", frames / "out/x/f1.bmp.dinac")
    assert encode(frames) == ["x/f0.bmp", "x/f1.bmp"]
    require_right(frames)


def test_hard_links_and_touched_files_are_hashed_once(
    frames: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(frames)
    assert encode(frames) == hashed == []
    os.link("in/x/f0.bmp", "in/x/link.bmp")  # changes the ctime of f0.bmp
    os.utime("in/x/f1.bmp")
    assert encode(frames) == ["x/link.bmp"]
    assert sorted(set(hashed)) == ["x/f0.bmp", "x/f1.bmp"]
    hashed.clear()
    require_right(frames)
    assert hashed == []
    swap(Path("in/x/f0.bmp"), Path("in/x/link.bmp"))  # the same content
    require_right(frames)


def test_a_restored_backup_is_hashed_once(
    frames: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(frames)
    shutil.copytree("in", "backup")
    shutil.rmtree("in")
    Path("backup").rename("in")
    assert encode(frames) == []
    assert sorted(hashed) == sorted(2 * FRAMES)  # by plan, which remembers nothing, and by encode
    hashed.clear()
    require_right(frames)
    assert hashed == []


def test_inodes_that_differ_in_every_run_are_hashed_once(
    frames: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMB and FUSE may number files anew after each mount."""
    monkeypatch.chdir(frames)
    real = source_memory._digest
    mount = 1

    def renumber(size: int, *parts: int | bytes) -> bytes:
        return real(size, *parts, mount) if size == 8 else real(size, *parts)

    monkeypatch.setattr(source_memory, "_digest", renumber)
    (frames / "out" / MEMORY_NAME).unlink()
    for mount in range(1, 5):  # read by `renumber`
        assert run("encode", "in", "out", cwd=frames).code == 0
        assert len(hashed) == (len(FRAMES) if mount < 3 else 0)
        hashed.clear()
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    assert encode(frames) == ["x/f0.bmp", "x/f1.bmp"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_out_is_still_judged_right(frames: Path) -> None:
    folders = [frames / "out", frames / "out/x", frames / "out/y"]
    for path in [*folders, frames / "out" / MEMORY_NAME]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        assert encode(frames) == []
    finally:
        for path in folders:
            path.chmod(0o755)


def test_one_file_into_one_record_is_judged_by_its_hash(frames: Path) -> None:
    command = ("encode", "in/x/f0.bmp", "one.dinac")
    assert run(*command, cwd=frames).out.startswith("1 encoded")
    assert run(*command, cwd=frames).out == "0 encoded with nano, 1 already done\n"
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    assert run(*command, cwd=frames).out.startswith("1 encoded with nano, 1 of them again")
    assert not list(frames.glob(f"{MEMORY_NAME}*"))


def test_anonymous_records(frames: Path) -> None:
    shutil.rmtree(frames / "out")
    assert encode(frames, "--anonymous") == sorted(FRAMES)
    assert encode(frames) == []
    memory = (frames / "out" / MEMORY_NAME).read_bytes()
    words = [b"f0", b"bmp", hash_file(str(frames / "in/x/f0.bmp")).encode()]
    assert not [word for word in words if word in memory]
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    assert encode(frames) == ["x/f0.bmp", "x/f1.bmp"]
    swap(frames / "in/x", frames / "in/y")
    assert encode(frames) == sorted(FRAMES)
    (frames / "out" / MEMORY_NAME).unlink()
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    assert encode(frames) == ["x/f0.bmp", "x/f1.bmp"]
    assert encode(frames) == []


def test_the_advice_of_verify_works(frames: Path) -> None:
    swap(frames / "in/x/f0.bmp", frames / "in/x/f1.bmp")
    found = run("verify", "out", "--source", "in", cwd=frames)
    assert found.code == 3
    assert all(line.endswith("; run encode --checksum again") for line in found.err.splitlines())
    assert encode(frames, "--checksum") == ["x/f0.bmp", "x/f1.bmp"]
    require_right(frames)


def is_wide(opened: Image.Image, data: bytes) -> bool:
    """The rule of this test: in BMP files wider than 40 pixels, something was read wrong."""
    return opened.width > 40 and data.startswith(b"BM")


def test_records_of_files_that_are_read_better_now_are_stale(
    frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(48, 32, 9).save(frames / "in/x/f0.bmp")
    assert encode(frames) == ["x/f0.bmp"]
    rule = ReaderRule(3, "wide BMP files", frozenset({"BMP"}), is_wide)
    monkeypatch.setattr(revisions, "RULES", (rule,))
    planned = run("plan", "in", "out", "--quick", "-v", cwd=frames)
    reason = "earlier versions read wide BMP files with wrong pixels"
    assert f"stale in/x/f0.bmp: {reason} (reader)\n" in planned.err
    done = run("encode", "in", "out", cwd=frames)
    assert done.err == f"dinac: in/x/f0.bmp: redone: {reason}\n"
    assert done.out.startswith("1 encoded with nano, 1 of them again, 5 already done")
    facts = {entry["name"]: entry["image"] for entry in run_info(frames)}
    assert facts.pop("x/f0.bmp").endswith(";frame=1/1;reader=3")
    assert not [image for image in facts.values() if "reader" in image]
    assert run("verify", "out", "--source", "in", "--reencode", "100%", cwd=frames).code == 0
    judged: list[str] = []

    def note(path: str, *, since: int = 0) -> ReaderRule | None:
        judged.append(path)
        return None

    monkeypatch.setattr(revisions, "find_file_rule", note)
    assert encode(frames) == judged == []


def run_info(folder: Path) -> list[dict[str, str]]:
    return run("info", "out", "--json", cwd=folder).objects[:-1]

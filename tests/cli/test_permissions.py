"""Folders and files that are not the user's: a real other user, where root runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .conftest import list_files, save
from .processes import DEADLINE_SECONDS, DINAC, Finished, drop_progress, make_environment, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")

TINY = Path(__file__).parents[1] / "golden/tiny"
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may write to; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="dinac-permissions-"))
    folder.chmod(0o777)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)  # or it could not be removed
    shutil.rmtree(folder)


def run_unprivileged(place: Path, *arguments: str | Path) -> Finished:
    """Run one command line in `place` as somebody whom permissions bind."""
    environment = {"HOME": str(place), "DINAC_CACHE": str(place / "cache")}
    if os.geteuid() != 0:
        return run(*arguments, cwd=place, environment=environment)
    done = _run_as_nobody(place, *DINAC, *arguments, environment=environment)
    said = drop_progress(done.stderr.decode())
    return Finished(done.returncode, done.stdout.decode(), said)


def _run_as_nobody(
    place: Path, *command: str | Path, environment: Mapping[str, str | None]
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=place,
        env=make_environment({"PYTHONPATH": str(Path(__file__).parents[2]), **environment}),
        timeout=DEADLINE_SECONDS,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )


@pytest.fixture(autouse=True)
def _skip_without_another_user(place: Path) -> None:
    """Skip where root's own Python cannot be run by anybody else."""
    if os.geteuid() != 0:
        return
    try:
        done = _run_as_nobody(place, sys.executable, "-c", "import dinac_cli", environment={})
    except (OSError, subprocess.SubprocessError):
        pytest.skip("another user cannot be taken here")
    if done.returncode:
        pytest.skip("another user cannot run this Python")


def test_out_that_cannot_be_written_to(place: Path) -> None:
    """OUT, or the folder that it would be made in: an error of the run, exit code 1."""
    save(place / "images/a.png")
    assert run("encode", "images", "latents", cwd=place).code == 0
    (place / "closed").mkdir()
    (place / "closed").chmod(0o555)
    train = ("train", "images", "--steps", "1", "--init", TINY, "--crop", "32", "--device", "cpu")
    for command in (("encode", "images"), ("decode", "latents"), train):
        made = run_unprivileged(place, *command, "closed/out")
        assert (made.code, made.out) == (1, "")
        assert made.err == "dinac: closed/out: cannot write: Permission denied\n"
    found = run_unprivileged(place, *train, "closed")
    assert (found.code, found.out) == (1, "")
    assert found.err == "dinac: closed: cannot write there: choose another folder\n"
    assert list_files(place / "closed") == []


def test_a_folder_of_out_that_cannot_be_written_to(place: Path) -> None:
    """Files that go there fail, each in a line, and the others are done."""
    for name in ("a.png", "sub/b.png", "z.png"):
        save(place / "images" / name)
    assert run("encode", "images", "latents", cwd=place).code == 0
    cases = {
        "encode": ("images", "new", "images/sub/b.png", "new/sub/b.png.dinac"),
        "decode": ("latents", "decoded", "latents/sub/b.png.dinac", "decoded/sub/b.png"),
    }
    for command, (source, out, failed, target) in cases.items():
        (place / out / "sub").mkdir(parents=True)
        (place / out).chmod(0o777)
        (place / out / "sub").chmod(0o555)
        done = run_unprivileged(place, command, source, out)
        assert done.code == 3
        assert done.err == f"dinac: {failed}: {target}: cannot write: Permission denied\n"
        assert [Path(name).stem.split(".")[0] for name in list_files(place / out)] == ["a", "z"]


def test_inputs_that_cannot_be_read(place: Path) -> None:
    """A file and a folder: one line each, and the others are done."""
    for name in ("a.png", "closed/b.png", "secret.png", "z.png"):
        save(place / "images" / name)
    assert run("encode", "images", "latents", cwd=place).code == 0
    for command, source, suffix in (("encode", "images", ""), ("decode", "latents", ".dinac")):
        (place / source / f"secret.png{suffix}").chmod(0)
        (place / source / "closed").chmod(0)
        done = run_unprivileged(place, command, source, f"{command}d")
        assert done.code == 3
        assert sorted(done.err.splitlines()) == [
            f"dinac: {source}/closed: cannot list this folder: Permission denied",
            f"dinac: {source}/secret.png{suffix}: cannot read: Permission denied",
        ]
        assert len(list_files(place / f"{command}d")) == 2


def test_an_input_named_by_itself_that_cannot_be_read(place: Path) -> None:
    save(place / "a.png")
    (place / "a.png").chmod(0)
    done = run_unprivileged(place, "encode", "a.png", "latents")
    assert done.code == 3
    assert done.err == "dinac: a.png: cannot read: Permission denied\n"
    assert list_files(place / "latents") == []

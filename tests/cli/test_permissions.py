"""Folders and files that are not the user's: a real other user, where root runs the tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinac_cli.cli import run as run_here

from .conftest import list_files, save
from .processes import Finished, drop_progress, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")

DENIED = "cannot write: Permission denied: name another place"

TINY = Path(__file__).parents[1] / "golden/tiny"

_NOT_POSSIBLE = 77

# Root's Python may lie where another user cannot import from it. So the command runs once as root,
# into another OUT, which imports all that it needs, and then as nobody.
_AS_ANOTHER = f"""
import contextlib, io, os, shutil, sys
import dinac_cli
from dinac_cli.cli import run
*arguments, out = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    run([*arguments, "warm-up"])
shutil.rmtree("warm-up", ignore_errors=True)
try:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
except OSError:
    sys.exit({_NOT_POSSIBLE})
if not os.access(dinac_cli.__file__, os.R_OK) or not os.access(".", os.W_OK):
    sys.exit({_NOT_POSSIBLE})
sys.exit(run([*arguments, out]))
"""


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
    """Run one command line, whose last argument is OUT, as somebody whom permissions bind."""
    environment = {"HOME": str(place)}
    if os.geteuid() != 0:
        return run(*arguments, cwd=place, environment=environment)
    program = (sys.executable, "-c", _AS_ANOTHER)
    done = run(*arguments, program=program, cwd=place, environment=environment)
    if done.code == _NOT_POSSIBLE:
        pytest.skip("another user cannot run the program here")
    return Finished(done.code, done.out, drop_progress(done.err))


def encode(place: Path, *names: str) -> None:
    """Images with these names, and their latents, as they are before anything is closed."""
    for name in names:
        save(place / "images" / name)
    assert run_here(["encode", str(place / "images"), str(place / "latents")]) == 0


def test_out_that_cannot_be_written_to(place: Path) -> None:
    """An error of the run, before any work; also where a folder OUT would have to be made."""
    encode(place, "a.png")
    (place / "closed").mkdir()
    (place / "closed").chmod(0o555)
    for command in (("encode", "images"), ("decode", "latents")):
        made = run_unprivileged(place, *command, "closed/out")
        assert (made.code, made.out) == (1, "")
        assert made.err == f"dinac: closed/out: {DENIED}\n"
    planned = run_unprivileged(place, "plan", "images", "--quick", "closed/new/out")
    assert (planned.code, planned.out) == (1, "")
    assert planned.err == "dinac: closed: cannot write there: choose another OUT\n"
    train = ("train", "images", "--steps", "1", "--init", TINY, "--crop", "32", "--device", "cpu")
    found = run_unprivileged(place, *train, "closed")
    assert (found.code, found.out) == (1, "")
    assert found.err == "dinac: closed: cannot write there: choose another folder\n"
    assert list_files(place / "closed") == []


@pytest.mark.parametrize(
    ("command", "source", "suffix"), [("encode", "images", ""), ("decode", "latents", ".dinac")]
)
def test_what_is_closed_in_a_batch(place: Path, command: str, source: str, suffix: str) -> None:
    """A file, a folder, a file named by itself, a folder of OUT: a line each; the rest is done."""
    encode(place, "a.png", "closed/b.png", "full/c.png", "named.png", "secret.png", "z.png")
    named = f"named.png{suffix}"
    (place / source / named).rename(place / named)
    for closed in (named, f"{source}/secret.png{suffix}", f"{source}/closed"):
        (place / closed).chmod(0)
    (place / "out/full").mkdir(parents=True)
    (place / "out").chmod(0o777)
    (place / "out/full").chmod(0o555)
    done = run_unprivileged(place, command, source, named, "out")
    assert done.code == 3
    made = "out/full/c.png.dinac" if command == "encode" else "out/full/c.png"
    assert sorted(done.err.splitlines()) == [
        f"dinac: {source}/closed: cannot list this folder: Permission denied",
        f"dinac: {source}/full/c.png{suffix}: {made}: {DENIED}",
        f"dinac: {source}/secret.png{suffix}: cannot read: Permission denied",
        f"dinac: {named}: cannot read: Permission denied",
    ]
    assert [Path(name).name[0] for name in list_files(place / "out")] == ["a", "z"]

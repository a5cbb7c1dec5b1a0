"""Folders and files that the user may not read or write; root becomes another user for a while."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dinac_cli

from .conftest import list_files, save
from .processes import Finished, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")

CHECK = "check the path and its permissions"
CLOSED = "cannot list this folder: Permission denied; check its permissions"
DENIED = "cannot write: Permission denied; choose another place"

TINY = Path(__file__).parents[1] / "golden/tiny"

NOBODY = 65534


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, which everybody may write to; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="dinac-permissions-"))
    folder.chmod(0o777)
    monkeypatch.chdir(folder)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)  # or it could not be removed
    shutil.rmtree(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Makes root another user within the block; skips the test if that is impossible."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    try:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, 0)
            os.setresuid(NOBODY, NOBODY, 0)
        except PermissionError:
            pytest.skip("root cannot become another user here")
        if not os.access(dinac_cli.__file__, os.R_OK) or not os.access(".", os.W_OK):
            pytest.skip("another user cannot run the program here")
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def run_unprivileged(*arguments: str | Path, warm_up: str = "images/a.png/out") -> Finished:
    """Runs one command line, whose last argument is OUT, as a user whom permissions bind.

    Runs it into `warm_up` first, as root: that imports what another user may not be able to.
    """
    run(*arguments[:-1], warm_up)
    with without_privileges():
        return run(*arguments)


def encode(*names: str) -> None:
    """Makes images with these names, and their latents, before anything is closed."""
    for name in names:
        save(Path("images") / name)
    assert run("encode", "images", "latents").code == 0


def test_unwritable_out_is_refused_before_any_work(place: Path) -> None:
    """Also if the folder OUT does not exist yet."""
    encode("a.png")
    (place / "closed").mkdir()
    (place / "closed").chmod(0o555)
    for command in (("encode", "images"), ("decode", "latents")):
        made = run_unprivileged(*command, "closed/out")
        assert (made.code, made.out) == (1, "")
        assert made.err == f"dinac: closed/out: {DENIED}\n"
    planned = run_unprivileged("plan", "images", "--quick", "closed/new/out")
    assert (planned.code, planned.out) == (1, "")
    assert planned.err == "dinac: closed: cannot write there; choose another OUT\n"
    train = ("train", "images", "--steps", "1", "--init", TINY, "--crop", "32", "--device", "cpu")
    found = run_unprivileged(*train, "closed")
    assert (found.code, found.out) == (1, "")
    assert found.err == "dinac: closed: cannot write there; choose another folder\n"
    assert list_files(place / "closed") == []


@pytest.mark.parametrize(
    ("command", "source", "suffix"), [("encode", "images", ""), ("decode", "latents", ".dinac")]
)
def test_closed_files_and_folders_fail_and_the_rest_is_done(
    place: Path, command: str, source: str, suffix: str
) -> None:
    """A file, a folder, a named file and a folder of OUT get one line each."""
    encode("a.png", "closed/b.png", "full/c.png", "named.png", "secret.png", "z.png")
    named = f"named.png{suffix}"
    (place / source / named).rename(place / named)
    for closed in (named, f"{source}/secret.png{suffix}", f"{source}/closed"):
        (place / closed).chmod(0)
    (place / "out/full").mkdir(parents=True)
    (place / "out").chmod(0o777)
    (place / "out/full").chmod(0o555)
    done = run_unprivileged(command, source, named, "out", warm_up="warm-up")
    assert done.code == 3
    made = "out/full/c.png.dinac" if command == "encode" else "out/full/c.png"
    assert sorted(done.err.splitlines()) == [
        f"dinac: {source}/closed: {CLOSED}",
        f"dinac: {source}/full/c.png{suffix}: {made}: {DENIED}",
        f"dinac: {source}/secret.png{suffix}: cannot read: Permission denied; {CHECK}",
        f"dinac: {named}: cannot read: Permission denied; {CHECK}",
    ]
    assert [Path(name).name[0] for name in list_files(place / "out")] == ["a", "z"]

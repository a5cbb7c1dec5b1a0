"""Patterns exclude the files and folders that the same lines of a .gitignore ignore."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.storage.exclusion import Exclusion

FILES = (
    "a.tmp",
    "b.png",
    "top",
    "c!",
    "x y",
    "end ",
    "[z]",
    "a*b",
    "axb",
    "-dash.png",
    "]",
    "^",
    "dir/a.tmp",
    "dir/keep.tmp",
    "dir/top",
    "dir/sub/b.png",
    "dir/sub/deep/x",
    "sub/dir/b.png",
    "sub/x",
    "one/two/three/x",
    "one/x",
    "x1",
    "x2",
    "xa",
    "!bang",
    "#hash",
    "back\\slash",
    "ü.png",
    "A.TMP",
    "new\nline.png",
)

PATTERNS = (
    ("*.tmp",),
    ("*.tmp", "!keep.tmp"),
    ("!keep.tmp", "*.tmp"),
    ("/top",),
    ("top",),
    ("dir/",),
    ("/dir/",),
    ("dir/*",),
    ("dir/*", "!dir/sub/"),
    ("dir/", "!dir/sub/b.png"),
    ("dir/sub",),
    ("sub/",),
    ("/sub",),
    ("**/x",),
    ("**/x/",),
    ("one/**",),
    ("one/**/x",),
    ("one/**/three/*",),
    ("**/sub/**",),
    ("**",),
    ("/**",),
    ("**/",),
    ("*/",),
    ("*",),
    ("*", "!*/", "!*.png"),
    ("*", "!*.png"),
    ("/*", "!/dir"),
    ("/*", "!/dir", "/dir/*", "!/dir/sub"),
    ("x?",),
    ("?",),
    ("one?x",),
    ("one*x",),
    ("x[0-9]",),
    ("x[!0-9]",),
    ("x[^0-9]",),
    ("x[21a]",),
    ("x[b-a]",),
    ("x[[:digit:]]",),
    ("x[[:alpha:][:digit:]]",),
    ("[]]",),
    ("[!]]",),
    ("[\\]]",),
    ("[\\^]",),
    ("[a-]*",),
    ("[-a]*",),
    ("one[/]x",),
    ("one[!a]x",),
    ("\\[z\\]",),
    ("[[]z]",),
    ("a\\*b",),
    ("a*b",),
    ("\\!bang",),
    ("\\#hash",),
    ("back\\\\slash",),
    ("x y",),
    ("end\\ ",),
    ("end ",),
    ("b.png   ",),
    ("*.TMP",),
    ("ü.png",),
    ("ü*",),
    ("-*",),
    ("***/x",),
    ("dir/***",),
    ("a**",),
    ("**p",),
    ("dir/s*b/b.png",),
    ("di?/sub/",),
    ("*/sub",),
    ("*.png", "!/b.png", "b.*"),
)


def list_kept(patterns: tuple[str, ...]) -> set[str]:
    excluded = Exclusion(patterns)
    return {name for name in FILES if not excluded.excludes_any(name, is_folder=False)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of git that holds FILES."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("repository")
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "init", "-q", folder], check=True)
    for setting in ("core.ignoreCase", "core.excludesFile"):
        subprocess.run(["git", "-C", folder, "config", setting, ""], check=True)
    return folder


@pytest.mark.parametrize("patterns", PATTERNS, ids=" ".join)
def test_git_agrees(repository: Path, patterns: tuple[str, ...]) -> None:
    (repository / ".gitignore").write_text("".join(f"{line}\n" for line in patterns))
    listed = subprocess.run(
        ["git", "-C", repository, "check-ignore", "--no-index", "--stdin", "-z"],
        input="\0".join(FILES).encode(),
        capture_output=True,
        check=False,  # 1 means that no file is ignored
    )
    assert (listed.returncode in (0, 1), listed.stderr) == (True, b"")
    ignored = set(listed.stdout.decode().split("\0"))
    assert list_kept(patterns) == {name for name in FILES if name not in ignored}


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (("*.tmp",), {"a", "d/a"}),
        (("d/",), {"a", "a.tmp"}),
        (("/a.tmp", "!*.tmp"), {"a", "a.tmp", "d/a", "d/a.tmp"}),
        (("d/*", "!d/a"), {"a", "a.tmp", "d/a"}),
        (("**/a",), {"a.tmp", "d/a.tmp"}),
        (("[b-d]/",), {"a", "a.tmp"}),
        ((), {"a", "a.tmp", "d/a", "d/a.tmp"}),
    ],
)
def test_patterns_without_git(patterns: tuple[str, ...], kept: set[str]) -> None:
    excluded = Exclusion(patterns)
    names = ("a", "a.tmp", "d/a", "d/a.tmp")
    assert {name for name in names if not excluded.excludes_any(name, is_folder=False)} == kept


def test_a_pattern_of_a_folder_matches_no_file() -> None:
    excluded = Exclusion(["dir/"])
    assert excluded.excludes("dir", is_folder=True)
    assert not excluded.excludes("dir", is_folder=False)


@pytest.mark.parametrize("pattern", ["", " ", "/", "!", "!/"])
def test_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="names nothing; write"):
        Exclusion([pattern])


@pytest.mark.parametrize("pattern", ["[a", "a\\", "[[:no:]]", "[[:alpha]", "[", "[!", "[a-", "[]"])
def test_incomplete_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="not a valid pattern"):
        Exclusion([pattern])

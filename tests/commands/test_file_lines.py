"""Many files with one reason share a line; every reason stays visible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dinac_cli.commands.run import ScreenOptions
from dinac_cli.commands.screen import file_lines
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.file_lines import SHOWN_FILES, FileLines, Topic
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.errors import Exit
from dinac_cli.jobs.results import FileResult, Status

from .given import GivenRun, run_given

SMALL = "{0}x9 is smaller than the crop of 64x64; crop less, or scale with --resize first"


@contextmanager
def open_lines(*, verbose: bool = False) -> Iterator[FileLines]:
    with closing(FileLines(Console(verbose=verbose))) as lines:
        yield lines


def read_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return [line.removeprefix("dinac: ") for line in err.splitlines()]


def add_small(lines: FileLines, count: int) -> list[str]:
    """Adds failures and returns their lines."""
    added = []
    for number in range(count):
        file, reason = f"in/{number}.png", SMALL.format(number)
        lines.add(Topic.FAILURE, file, reason, f"{number}.png")
        added.append(f"{file}: {reason}")
    return added


def test_the_first_files_are_named_and_the_others_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_lines() as lines:
        added = add_small(lines, 25)
        lines.add(Topic.FAILURE, "in/odd.png", "empty file (0 bytes)", "odd.png")
        assert read_lines(capsys) == [*added[:SHOWN_FILES], "in/odd.png: empty file (0 bytes)"]
    assert read_lines(capsys) == [
        "22 more files failed for the same reason (… is smaller than the crop of 64x64); "
        "-v lists them"
    ]


@pytest.mark.parametrize("count", [1, SHOWN_FILES, SHOWN_FILES + 1])
def test_few_failures_are_all_named(capsys: pytest.CaptureFixture[str], count: int) -> None:
    with open_lines() as lines:
        added = add_small(lines, count)
    assert read_lines(capsys) == added


def test_reasons_that_differ_in_a_word_are_different(capsys: pytest.CaptureFixture[str]) -> None:
    with open_lines() as lines:
        for number in range(20):
            lines.add(Topic.FAILURE, f"{number}.jpg", "truncated JPEG file")
            lines.add(Topic.FAILURE, f"{number}.png", "truncated PNG file")
    shown = read_lines(capsys)
    assert len(shown) == 2 * SHOWN_FILES + 2
    assert shown[-2:] == [
        f"17 more files failed for the same reason (truncated {kind} file); -v lists them"
        for kind in ("JPEG", "PNG")
    ]


def test_names_in_a_reason_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a b/{letter}.png" for letter in "abcdefghijklmnop"]
    with open_lines() as lines:
        for name in names:
            lines.add(
                Topic.FAILURE,
                f"in/{name}",
                f"out/{name}.dinac holds precision q6, not bf16; go",
                name,
            )
            lines.add(
                Topic.FAILURE, f"{name}.dinac", f"its source in/{name} is lost", f"{name}.dinac"
            )
    assert read_lines(capsys)[-2:] == [
        "13 more files failed for the same reason (out/….dinac holds precision q6, not bf16); "
        "-v lists them",
        "13 more files failed for the same reason (its source in/… is lost); -v lists them",
    ]


def test_verbose_names_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    with open_lines(verbose=True) as lines:
        added = add_small(lines, 25)
    assert read_lines(capsys) == added


def test_number_of_reasons_in_memory_is_bounded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lines, "MAX_REASONS", 1)
    with open_lines() as lines:
        add_small(lines, 20)
        for number in range(20):
            lines.add(Topic.FAILURE, f"{number}.png", "empty file")
    shown = read_lines(capsys)
    assert sum(line.endswith(": empty file") for line in shown) == 20
    assert shown[-1].startswith("17 more files failed for the same reason (… is smaller ")


def test_warnings_and_redone_files_share_lines_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_lines() as lines:
        for number in range(6):
            lines.add(Topic.WARNING, f"{number}.gif", f"animated: only frame 1 of {number + 2}")
            lines.add(Topic.REDONE, f"{number}.png", "the source has changed")
    shown = read_lines(capsys)
    assert shown[0] == "warning: 0.gif: animated: only frame 1 of 2"
    assert shown[1] == "0.png: redone: the source has changed"
    assert shown[6:] == [
        "3 more files have the same warning (animated: only frame 1 of …); -v lists them",
        "3 more files were redone for the same reason (the source has changed); -v lists them",
    ]


def test_a_quiet_run_counts_no_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(FileLines(Console(quiet=True))) as lines:
        for number in range(6):
            lines.add(Topic.WARNING, f"{number}.gif", "animated")
    assert read_lines(capsys) == []


@pytest.mark.parametrize(
    ("path", "where"),
    [(None, "-v or --failures FILE lists them"), ("failed.jsonl", "failed.jsonl lists them")],
)
def test_a_run_says_where_its_failures_are_listed(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str | None,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    results = (FileResult(f"{n}.png", Status.FAILED, reason="empty file") for n in range(12))
    options = ScreenOptions(failures=path)
    code = run_given(GivenRun(*results), Summary("encoded"), options)
    assert code == Exit.FAILURES
    out, err = capsys.readouterr()
    assert out == "0 encoded, 12 failed, 7 other files skipped\n"
    assert err.splitlines()[SHOWN_FILES:] == [
        f"dinac: 9 more files failed for the same reason (empty file); {where}"
    ]

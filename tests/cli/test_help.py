"""`--help`, `dinac help` and `dinac man PAGE`: plain words, an example, and pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dinac_cli.cli import app
from dinac_cli.commands.examples import EXAMPLES, MORE_EXAMPLES, list_examples
from dinac_cli.commands.screen.pages import format_page
from dinac_cli.commands.topics import TOPICS, read_page

from .processes import run, run_on_terminal, strip_escapes


def list_tree(command: Any, path: str = "dinac") -> Iterator[tuple[str, Any]]:
    """Lists all commands and groups with their full names."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from list_tree(child, f"{path} {name}")


TREE = dict(list_tree(get_command(app)))
UNRUN = {
    "dinac features",  # needs a class head
    "dinac train",
    "dinac bench",
    "dinac models pull",
    "dinac models rm",
    "dinac demo",
}
"""The commands whose examples are only parsed: they take long, or need a model of the Hub."""


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(TREE)


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("path", sorted(TREE.keys() - UNRUN))
def test_example_runs(own: Path, path: str) -> None:
    done = run(*path.split()[1:], *shlex.split(EXAMPLES[path]), cwd=own)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "line",
    [
        *(list_examples(path)[0] for path in sorted(UNRUN)),
        *(line for path in MORE_EXAMPLES for line in list_examples(path)[1:]),
    ],
)
def test_example_that_does_not_run_is_parsed(line: str) -> None:
    words = shlex.split(line)[1:]
    command = TREE["dinac"]
    context = command.make_context("dinac", list(words))
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
        context = command.make_context(command.name, list(words), parent=context)
    assert any(value is not None for value in context.params.values()) or not words


@pytest.mark.parametrize("path", list(TREE))
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_begins_with_an_example_and_has_plain_words(path: str, columns: int) -> None:
    done = run(*path.split()[1:], "--help", environment={"COLUMNS": str(columns)})
    assert (done.code, done.err) == (0, "")
    usage, _, rest = " ".join(done.out.split()).partition(" Example: ")
    assert usage.startswith(f"Usage: {path} ")
    assert rest.startswith(f"{' Example: '.join(list_examples(path))} ")
    assert max(map(len, done.out.splitlines())) <= columns
    for notation in (r"<\w", r"x>=", r"<=x", r"\[default", r"\[env"):
        assert not re.search(notation, done.out), notation


def test_defaults_are_sentences() -> None:
    text = " ".join(run("encode", "--help", environment={"COLUMNS": "200"}).out.split())
    for sentence in (
        "Default: what OUT holds, else bf16.",
        "Default: 178956970.",
        "Default: DINAC_MODEL if set, else auto.",
        "Default: DINAC_WORKERS if set, else one per processor.",
    ):
        assert sentence in text, sentence
    decode = " ".join(run("decode", "--help", environment={"COLUMNS": "200"}).out.split())
    assert "Seed of the noise. Default: what OUT holds, else 0." in decode


@pytest.mark.parametrize("columns", ["40", "80"])
def test_precisions_are_a_table_with_heads(columns: str) -> None:
    lines = run("encode", "--help", environment={"COLUMNS": columns}).out.splitlines()
    [head] = [line for line in lines if "bits/pixel" in line]
    column = head.index("P  ")
    rows = [line[column:].rstrip(" │") for line in lines[lines.index(head) :]][:9]
    assert rows[0] == "P     bits/pixel  dB lost"
    assert rows[1] == "f32         14.5     0"
    assert rows[8] == "q3           1.5     0.98"


def test_commands_are_grouped() -> None:
    out = run("--help").out
    titles = re.findall(r"^╭─ (.+?) ─", out, re.MULTILINE)
    assert titles == ["Options", "Convert", "Inspect and measure", "Train", "Set up"]


def test_help_without_a_name_also_lists_the_pages() -> None:
    overview, done = run("--help"), run("help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(overview.out)
    for name, topic in TOPICS.items():
        assert re.search(rf"^  {name} +{re.escape(topic.summary)}$", done.out, re.MULTILINE)


@pytest.mark.parametrize("names", [["encode"], ["models"], ["models", "pull"], ["report"]])
def test_help_of_a_command(names: list[str]) -> None:
    done, asked = run("help", *names), run(*names, "--help")
    assert (done.code, done.err) == (0, "")
    note = f"'dinac man {names[0]}' shows the page about {names[0]}.\n"
    assert done.out == asked.out + (note if names[0] in TOPICS else "")


@pytest.mark.parametrize("topic", list(TOPICS))
def test_a_page_in_a_pipe_is_its_source(topic: str) -> None:
    done = run("man", topic)
    assert (done.code, done.out, done.err) == (0, read_page(topic).rstrip("\n") + "\n", "")
    if topic not in get_command(app).commands:  # type: ignore[attr-defined]
        assert run("help", topic) == done


def test_a_heading_shows_its_section() -> None:
    done = run("man", "masks")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("## Masks\n")
    assert done.out.endswith("This is a section of `dinac man images`.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("help formt", "no command or page 'formt'; did you mean 'format'?"),
        ("help encod", "no command or page 'encod'; did you mean 'encode'?"),
        ("help xyzzy", "no command or page 'xyzzy'; 'dinac help' lists all names"),
        ("help models lst", "no such command 'models lst'; did you mean 'models list'?"),
        ("man formt", "no page 'formt'; did you mean 'format'?"),
        ("man mask", "no page 'mask'; did you mean 'masks'?"),
        ("man encode", "'encode' is a command, not a page; use 'dinac help encode'"),
    ],
)
def test_unknown_names_are_refused_in_one_line(arguments: str, message: str) -> None:
    done = run(*arguments.split())
    assert (done.code, done.out, done.err) == (2, "", f"dinac: {message}\n")


TALL = {"LINES": "1000"}
"""A screen on which a page fits; otherwise the pager would wait for keys."""


def test_a_page_on_a_terminal_is_formatted() -> None:
    code, screen = run_on_terminal("help", "nano", environment=TALL)
    assert code == 0
    assert "\x1b[" in screen
    plain = strip_escapes(screen)
    assert "license:" not in plain
    assert "`" not in plain
    assert max(map(len, plain.splitlines())) <= 100


def test_a_page_without_colours() -> None:
    _, screen = run_on_terminal("help", "nano", environment={**TALL, "NO_COLOR": "1"})
    codes = {code for codes in re.findall(r"\x1b\[([\d;]*)m", screen) for code in codes.split(";")}
    assert not {code for code in codes if re.fullmatch(r"[349]\d", code)}
    _, dumb = run_on_terminal("help", "nano", environment={**TALL, "TERM": "dumb"})
    assert dumb == strip_escapes(dumb)


def test_a_long_page_goes_through_the_pager(tmp_path: Path) -> None:
    paged = tmp_path / "paged"
    pager = {"PAGER": f"cat >{shlex.quote(str(paged))}"}
    assert run_on_terminal("help", "nano", environment={**pager, "LINES": "3"}) == (0, "")
    assert "DINAC-AE-D2" in strip_escapes(paged.read_text())
    paged.unlink()
    code, screen = run_on_terminal("help", "nano", environment={**pager, **TALL})
    assert (code, paged.exists()) == (0, False)
    assert "DINAC-AE-D2" in strip_escapes(screen)


def test_a_page_fits_its_width() -> None:
    text = "# Title\n\n" + "word " * 100 + "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    for width in (30, 100):
        lines = strip_escapes(format_page(text, width)).splitlines()
        assert max(map(len, lines)) <= width
        assert "".join(lines).count("word") == 100

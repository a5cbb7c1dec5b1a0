"""`dinac man`: the manual page, generated from the command tree and shipped in the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dinac_cli.commands.completions import PROGRAM
from dinac_cli.commands.examples import list_examples
from dinac_cli.commands.parser import list_arguments
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.pages import show_page
from dinac_cli.commands.topics import (
    TOPICS,
    find_section,
    list_headings,
    prepare_page,
    prepare_section,
    read_page,
    read_section,
)
from dinac_cli.commands.values import complete, find_nearest
from dinac_cli.errors import UsageError

MANUAL = Path(__file__).parent.parent / "man" / "dinac.1"

_EXIT_CODES = (
    ("0", "all done, or already done"),
    ("1", "could not run, or the system stopped the run (disk full, no such device or model)"),
    ("2", "wrong usage"),
    (
        "3",
        "finished, but some files failed, are missing, or did not verify; or a doctor check failed",
    ),
    ("130, 143, 141", "Ctrl-C, SIGTERM, closed pipe"),
)
_ENVIRONMENT = (
    ("DINAC_MODEL", "the default of --model, except for verify"),
    ("DINAC_DEVICE", "the default of --device"),
    ("DINAC_WORKERS", "the default of --workers"),
    (
        "DINAC_CUDA",
        "how a GPU computes: graphs, triton, torch or plain; by default, the first that works",
    ),
    ("DINAC_NO_PROGRESS", "1: show no progress, as with --no-progress"),
    ("DINAC_CACHE", "the cache folder of dinac; the folder contains the identities of models"),
    ("HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN", "settings of huggingface_hub"),
    ("OMP_NUM_THREADS", "number of computing threads"),
    ("PAGER", "the program that shows pages longer than the screen"),
    ("NO_COLOR", "no colours"),
)


Page = Annotated[
    str | None,
    typer.Argument(
        metavar="[PAGE]",
        autocompletion=complete(tuple(TOPICS)),
        help="A page to show, such as format; 'dinac help' lists all pages.",
    ),
]


def man(context: typer.Context, page: Page = None) -> None:
    """Show the manual, or one of its pages; a heading of a page, such as masks, shows its section.

    In a pipe, the manual is in the man(7) format, ready to install, and a page is in Markdown.
    """
    if page is not None:
        commands = list_commands(context)
        if page not in TOPICS and page in commands:
            raise UsageError(f"'{page}' is a command, not a page; use '{PROGRAM} help {page}'")
        print_page(page, TOPICS)
        return
    pager = shutil.which("man") if sys.stdout is not None and sys.stdout.isatty() else None
    if pager is not None:
        raise typer.Exit(subprocess.run([pager, "-l", str(MANUAL)]).returncode)
    print(MANUAL.read_text(encoding="utf-8"), end="")


def list_commands(context: typer.Context) -> list[str]:
    """Returns the names of the program's commands."""
    root: Any = context.find_root().command
    return list(root.commands)


def print_page(name: str, known: Iterable[str], what: str = "page") -> None:
    """Shows a page on a terminal, or prints its Markdown source.

    If there is no such page, shows the section with this heading, such as "masks". Raises
    UsageError if there is none either; the error suggests the nearest `known` names and headings.
    """
    section = None if name in TOPICS else find_section(name)
    if name not in TOPICS and section is None:
        names = find_nearest(name, [*known, *list_headings()])
        nearest = " or ".join(f"'{near}'" for near in names)
        advice = f"did you mean {nearest}?" if nearest else f"'{PROGRAM} help' lists all names"
        raise UsageError(f"no {what} '{name}'; {advice}")
    if sys.stdout is not None and sys.stdout.isatty():
        show_page(prepare_page(name) if section is None else prepare_section(section))
    else:
        source = read_page(name).rstrip("\n") if section is None else read_section(section)
        Console().print_result(source)


def make_manual(root: Any, version: str) -> str:
    """Returns the manual page of the command tree below `root`, in the man(7) format."""
    return "\n".join([*_begin(root, version), *_describe_commands(root), *_end()]) + "\n"


def _begin(root: Any, version: str) -> Iterator[str]:
    yield f'.TH DINAC 1 "" "dinac {version}" "User Commands"'
    yield ".SH NAME"
    yield "dinac \\- batch image codec: folders of images to small files of latents, and back"
    yield ".SH SYNOPSIS"
    for path, command in _walk(root, PROGRAM):
        yield ".br"
        usage = " ".join(["[options]", *list_arguments(command)])
        yield f"\\fB{_escape(path)}\\fR {_escape(usage)}"
    yield ".SH DESCRIPTION"
    yield _escape(root.help or "")


def _describe_commands(root: Any) -> Iterator[str]:
    yield ".SH COMMANDS"
    for path, command in _walk(root, PROGRAM):
        yield f".SS {_escape(path)}"
        yield from _paragraphs(command.help or "")
        yield ".PP"
        for number, example in enumerate(list_examples(path)):
            yield from (".br",) if number else ()
            yield f"Example: \\fB{_escape(example)}\\fR"
        for parameter in command.params:
            names = ", ".join((*parameter.opts, *parameter.secondary_opts))
            metavar = _escape(parameter.metavar or "")
            yield ".TP"
            yield f"\\fB{_escape(names)}\\fR {metavar}" if names.startswith("-") else metavar
            yield from _paragraphs(parameter.help or "", first=True)


def _end() -> Iterator[str]:
    pages = [(f"{PROGRAM} man {name}", topic.summary) for name, topic in TOPICS.items()]
    sections = (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _ENVIRONMENT), ("PAGES", pages))
    for title, entries in sections:
        yield f".SH {title}"
        for name, meaning in entries:
            yield from (".TP", f"\\fB{_escape(name)}\\fR", _escape(meaning))


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields each command below a group as (full name, command)."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _walk(child, f"{path} {name}")


def _paragraphs(text: str, *, first: bool = False) -> Iterator[str]:
    """Yields the lines of a text. A paragraph that starts with a backspace keeps its lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".br" if first else ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_escape, paragraph.strip("\b\n").split("\n")), ".fi")
        else:
            yield _escape(" ".join(paragraph.split()))


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text

"""The pages agree with the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

import dinac_cli
from dinac_cli import cli
from dinac_cli.container.header import PRECISIONS
from dinac_cli.errors import Exit
from dinac_cli.jobs.plan import TYPICAL_BITS_PER_PIXEL
from dinac_cli.storage import remote
from dinac_cli.storage.braces import MOST_PLACES
from dinac_cli.storage.urls import CLIENT_ATTEMPTS, WRITABLE

from .commands import COMMANDS, INSTALL, TESTS
from .pages import PACKAGE, PAGES, README, ROOT, Page, read_page

FIGURES = read_page("dinac_cli/bench/FIGURES.md")
PLACES = read_page("dinac_cli/storage/PLACES.md")
TROUBLESHOOTING = read_page("dinac_cli/TROUBLESHOOTING.md")
MAX_README_LINES = 200


def test_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= MAX_README_LINES


def test_first_two_commands_install_and_test() -> None:
    first, second = (command.text for command in COMMANDS[:2])
    assert first == f"{INSTALL} '.[fast]' && .venv/bin/dinac demo"
    assert second == TESTS
    assert TESTS in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_exported_names_exist_and_are_documented() -> None:
    text = read_page("dinac_cli/PYTHON.md").text
    for name in dinac_cli.__all__:
        assert getattr(dinac_cli, name) is not None
        assert name == "__version__" or name in text


def list_options(command: Any) -> Iterator[str]:
    """Lists the options of a command and of its subcommands."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from list_options(child)


FOREIGN = ("python -m tests.", "pytest ", "ruff ", "ray ", "srun ", "#SBATCH ")
"""Starts of command lines with options of their own."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_on_a_page_exists(page: Page) -> None:
    known = {*list_options(get_command(cli.app)), "--help"}
    lines = [line for line in page.text.splitlines() if not line.startswith(FOREIGN)]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert named <= known, named - known


def test_every_command_is_on_a_page() -> None:
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    text = "\n".join(page.text for page in PAGES)
    for name in group.commands:
        assert f"dinac {name}" in text


@pytest.mark.parametrize("name", ["README.md", "dinac_cli/jobs/RUNNING.md"])
def test_exit_codes_are_those_of_the_program(name: str) -> None:
    table = re.search(
        r"^\| exit \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", read_page(name).text, re.MULTILINE
    )
    assert table is not None
    first_cells = " ".join(row.split("|")[1] for row in table[1].splitlines())
    assert sorted(map(int, re.findall(r"\d+", first_cells))) == sorted(Exit)


def read_precision_rows() -> tuple[list[str], list[float], list[float]]:
    """The names, mean PSNR values in dB and bits per pixel of the table of precisions."""
    rows = re.search(
        r"^\| precision \| (f32 .*) \|\n.*\n"
        r"\| mean PSNR, dB \| (.*) \|\n\| bits a pixel \| (.*) \|",
        FIGURES.text,
        re.MULTILINE,
    )
    assert rows is not None
    names, decibels, bits = (cells.split(" | ") for cells in rows.groups())
    return names, list(map(float, decibels)), list(map(float, bits))


def test_precision_help_matches_the_measured_table() -> None:
    names, decibels, bits = read_precision_rows()
    group = get_command(cli.app)
    assert isinstance(group, TyperGroup)
    [option] = [p for p in group.commands["encode"].params if p.name == "precision"]
    assert isinstance(option, TyperOption)
    assert option.help
    shown = dict(re.findall(r"\b(f32|bf16|q\d)\s+([\d.]+ +[\d.]+)", option.help))
    assert names == sorted(shown, key=PRECISIONS.index) == list(PRECISIONS)
    for name, decibel, size in zip(names, decibels, bits, strict=True):
        size_shown, loss_shown = map(float, shown[name].split())
        assert size_shown == pytest.approx(size, abs=0.051)
        assert loss_shown == pytest.approx(decibels[1] - decibel, abs=0.011)


def test_typical_rates_of_plan_are_the_measured_ones() -> None:
    names, _, bits = read_precision_rows()
    assert dict(zip(names, bits, strict=True)) == TYPICAL_BITS_PER_PIXEL


UNMEASURED = {"Machines", "Measure your own machine"}


@pytest.mark.parametrize("section", re.findall(r"^## (.+)$", FIGURES.prose, re.MULTILINE))
def test_every_figure_says_when_and_on_what_it_was_measured(section: str) -> None:
    if section in UNMEASURED:
        return
    text = FIGURES.text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", text), "no date"
    assert re.search(r"\bmachine [A-Z]\b|\b(one|two) (idle |busy )?cores?\b", text), "no machine"
    assert "```sh" in text or "](../weights" in text, "no command"


@cache
def list_messages() -> list[str]:
    """All texts in the package's code; `…` stands for values."""
    found: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        found += _find_texts(path)
    return found


def _find_texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_page_of_places_states_the_limits() -> None:
    text = " ".join(PLACES.text.split())
    part = remote.UPLOAD_PART_BYTES >> 20
    assert f"Below {2 * part} MiB, that is one request." in text
    assert f"in parts of {part} MiB, four at a time, which takes {4 * part} MiB of memory" in text
    assert remote.PARTS_AT_ONCE == 4
    assert f"a name may stand for at most {MOST_PLACES:,} files" in text
    assert CLIENT_ATTEMPTS == 4
    assert remote.TRIES == 3
    assert f"unless {remote.PATIENCE_SECONDS:.0f} seconds have passed" in text
    shown = re.findall(r"^\| `(\w+)://[^|]*\|[^|]*\| (yes|never) \|", PLACES.text, re.MULTILINE)
    assert {scheme for scheme, written in shown if written == "yes"} == {"s3", "gs", "az"}
    for scheme, written in shown:
        assert (scheme in WRITABLE) == (written == "yes")


QUOTED = re.findall(r"^\| `(.+?)`", TROUBLESHOOTING.text, re.MULTILINE)


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_messages_are_those_of_the_program(quoted: str) -> None:
    parts = [part.strip() for part in quoted.split("…") if part.strip()]
    assert any(all(part in text for part in parts) for text in list_messages()), parts


def test_page_of_troubles_quotes_messages() -> None:
    assert len(QUOTED) > 20

"""Exit codes as the documents list them, and the details of a checkpoint's error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dinac_cli.cli import run
from dinac_cli.commands.man import MANUAL
from dinac_cli.errors import CheckpointError, Exit
from dinac_cli.jobs.info import InfoRequest

README = Path(__file__).parents[2] / "README.md"


def read_codes(text: str) -> list[int]:
    return sorted(int(number) for number in re.findall(r"\d+", text))


def test_exit_codes_are_those_of_the_manual() -> None:
    section = MANUAL.read_text("utf-8").partition(".SH EXIT STATUS\n")[2].partition("\n.SH ")[0]
    assert read_codes(" ".join(re.findall(r"^\\fB(.*)\\fR$", section, re.M))) == sorted(Exit)


@pytest.mark.parametrize(
    ("flags", "has_details"),
    [
        ((), False),
        (("-q",), False),
        (("-v",), True),
        (("--verbose",), True),
        (("-q", "-v"), True),
        (("-qv",), True),
        (("-vq",), True),
    ],
)
def test_verbose_shows_the_details_of_an_error(
    flags: tuple[str, ...],
    has_details: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> object:
        raise CheckpointError("it does not fit", ["missing: a.weight", "unexpected: b.weight"])

    monkeypatch.setattr(InfoRequest, "open", refuse)
    for arguments in (["info", *flags, "latents"], ["info", "latents", *flags]):
        assert run(arguments) == Exit.REFUSED
        assert capsys.readouterr() == (
            "",
            "dinac: it does not fit\n"
            + has_details * "dinac: missing: a.weight\ndinac: unexpected: b.weight\n",
        )

"""`dinac doctor`: says what dinac uses on this machine and why, and finds faults."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.values import real
from dinac_cli.errors import Exit, UsageError

if TYPE_CHECKING:
    from dinac_cli.doctor.finding import Finding
    from dinac_cli.doctor.privacy import Privacy

_LEVEL_COLUMNS = 6
_NAME_COLUMNS = 16
_LEAST_COLUMNS = 60
"""On a narrower screen, each text begins below the name of its check."""

_INVITATION = "For a bug report, copy this JSON. It names neither you nor this machine."

Folder = Annotated[
    str | None,
    typer.Argument(
        metavar="[DIR]",
        show_default="the current folder",
        help="The folder whose disk is checked: where your outputs go.",
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        parser=real("--time-limit", lambda value: 1 <= value < math.inf, "1 second or more"),
        metavar="S",
        help="A check that takes longer than S seconds fails.",
    ),
]


def doctor(
    folder: Folder = None,
    device: opt.Device = "auto",
    time_limit: TimeLimit = 300.0,
    as_json: opt.JsonObject = False,
    no_progress: opt.NoProgress = False,
) -> None:
    """Check the machine and the installation: what dinac uses, and what is wrong.

    Prints one line per check: ok, note (something is missing or slow), or FAIL
    (results are wrong, or dinac cannot work). Then prints JSON for a bug report.
    Exits with 3 if a check failed. Changes no file, and stays offline.
    """
    from dinac_cli.codec.compute import refuse_devices
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.screen.progress import show_phases
    from dinac_cli.doctor.examination import Examination, count, to_document
    from dinac_cli.doctor.finding import Level
    from dinac_cli.doctor.privacy import Privacy

    refuse_devices(device, "doctor")
    place = os.curdir if folder is None else folder
    if not os.path.isdir(place):
        raise UsageError(
            f"{place}: no such folder; name an existing folder on the disk of your outputs"
        )
    examination = Examination(
        device=device, folder=Path(place), is_named=folder is not None, seconds=time_limit
    )
    console, privacy = Console(progress=not no_progress), Privacy.of_this_machine()
    findings = []
    with show_phases(console, "doctor") as watch:
        for finding in examination.run(watch):
            findings.append(finding)
            if not as_json:
                for line in format_finding(finding, privacy, console.result_width):
                    console.print_result(line)
    document = to_document(findings, privacy)
    if as_json:
        console.print_json(document)
    else:
        console.print_result(f"\n{_summarise(findings)}\n\n{_INVITATION}\n")
        console.print_result("\n".join(format_document(document)))
    raise typer.Exit(Exit.FAILURES if count(findings, Level.FAIL) else Exit.DONE)


def format_finding(finding: Finding, privacy: Privacy, width: int | None) -> Iterator[str]:
    """Yields the lines of a finding on a screen: one line if `width` is None.

    The home folder is shown as `~`.
    """
    text, remedy = privacy.shorten(finding.text), privacy.shorten(finding.remedy)
    head = f"{finding.level.value:<{_LEVEL_COLUMNS}}{finding.name:<{_NAME_COLUMNS}}"
    if width is None:
        yield f"{head}{text} → {remedy}" if remedy else f"{head}{text}"
        return
    parts = [text, f"→ {remedy}"] if remedy else [text]
    if width < _LEAST_COLUMNS:
        yield head.rstrip()
        head = " " * _LEVEL_COLUMNS
    indent = " " * len(head)
    for part in parts:
        yield from textwrap.wrap(
            part,
            max(width - 1, len(indent) + 10),
            initial_indent=head,
            subsequent_indent=indent,
            break_long_words=False,  # a path can be copied whole
            break_on_hyphens=False,
        )
        head = indent


def format_document(document: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the JSON object, one per check."""
    *others, checks = document.items()
    yield "{"
    for key, value in others:
        yield f" {json.dumps(key)}: {json.dumps(value)},"
    yield f" {json.dumps(checks[0])}: ["
    last = len(checks[1]) - 1
    for number, check in enumerate(checks[1]):
        yield f"  {json.dumps(check, allow_nan=False)}{'' if number == last else ','}"
    yield " ]"
    yield "}"


def _summarise(findings: Sequence[Finding]) -> str:
    """Returns e.g. `18 checks: 1 failed, 3 notes. …`."""
    from dinac_cli.doctor.examination import count
    from dinac_cli.doctor.finding import Level

    failed, notes = count(findings, Level.FAIL), count(findings, Level.NOTE)
    counts = f"{len(findings)} checks: {failed} failed, {notes} {'note' if notes == 1 else 'notes'}"
    if failed:
        return f"{counts}. Do what the lines with FAIL say first."
    if notes:
        return f"{counts}. dinac works; the notes say what is missing or slow."
    return f"{counts}. dinac works."

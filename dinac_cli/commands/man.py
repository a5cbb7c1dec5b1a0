"""`dinac man`: the manual page, generated from the command tree and shipped in the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

MANUAL = Path(__file__).parent.parent / "man" / "dinac.1"

_EXIT_CODES = (
    ("0", "all done, or already done"),
    ("1", "could not run, or the system stopped the run (disk full, no such device or model)"),
    ("2", "wrong usage"),
    ("3", "finished, but some files failed, are missing, or did not verify"),
    ("130, 143, 141", "Ctrl-C, SIGTERM, closed pipe"),
)
_ENVIRONMENT = (
    ("DINAC_MODEL", "the default of --model, except for verify"),
    ("DINAC_DEVICE", "the default of --device"),
    ("DINAC_WORKERS", "the default of --workers"),
    ("DINAC_CACHE", "the cache folder of dinac; the folder contains the identities of models"),
    ("HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN", "settings of huggingface_hub"),
    ("OMP_NUM_THREADS", "number of computing threads"),
    ("NO_COLOR", "no colours"),
)


def man() -> None:
    """Show the manual. In a pipe, print the page in the man(7) format, ready to install."""
    pager = shutil.which("man") if sys.stdout is not None and sys.stdout.isatty() else None
    if pager is not None:
        raise typer.Exit(subprocess.run([pager, "-l", str(MANUAL)]).returncode)
    print(MANUAL.read_text(encoding="utf-8"), end="")


def make_manual(root: Any, version: str) -> str:
    """Returns the manual page of the command tree below `root`, in the man(7) format."""
    return "\n".join([*_begin(root, version), *_list_commands(root), *_end()]) + "\n"


def _begin(root: Any, version: str) -> Iterator[str]:
    yield f'.TH DINAC 1 "" "dinac {version}" "User Commands"'
    yield ".SH NAME"
    yield "dinac \\- batch image codec: folders of images to small files of latents, and back"
    yield ".SH SYNOPSIS"
    for path, command in _walk(root, "dinac"):
        yield ".br"
        yield f"\\fB{_escape(path)}\\fR {_escape(_usage(command))}"
    yield ".SH DESCRIPTION"
    yield _escape(root.help or "")


def _list_commands(root: Any) -> Iterator[str]:
    yield ".SH COMMANDS"
    for path, command in _walk(root, "dinac"):
        yield f".SS {_escape(path)}"
        yield from _paragraphs(command.help or "")
        for parameter in command.params:
            names = ", ".join((*parameter.opts, *parameter.secondary_opts))
            is_option = names.startswith("-")
            is_flag = getattr(parameter, "is_flag", False)
            metavar = "" if is_flag else parameter.metavar or parameter.type.name.upper()
            yield ".TP"
            yield f"\\fB{_escape(names)}\\fR {_escape(metavar)}" if is_option else _escape(metavar)
            yield from _paragraphs(parameter.help or "", first=True)
            default = _describe_default(parameter)
            if default:
                yield _escape(f"Default: {default}.")


def _end() -> Iterator[str]:
    for title, entries in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _ENVIRONMENT)):
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


def _usage(command: Any) -> str:
    arguments = (p for p in command.params if not p.opts[0].startswith("-"))
    return " ".join(["[options]", *map(_name_argument, arguments)])


def _name_argument(parameter: Any) -> str:
    name = parameter.metavar or ""
    if parameter.nargs == -1 and not name.endswith("..."):
        name += "..."
    return name if parameter.required else f"[{name}]"


def _describe_default(parameter: Any) -> str:
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    if shown is False or default in (None, False, "") or parameter.required or callable(default):
        return ""
    return str(default)


def _paragraphs(text: str, *, first: bool = False) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".br" if first else ".PP"
        yield _escape(" ".join(paragraph.split()))


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text

"""The values of options: completed, checked and parsed."""

from __future__ import annotations

import re
from collections.abc import Callable

import typer

from dinac_cli.errors import UsageError


def complete(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Returns a completer that offers `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def one_of(name: str, values: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """Returns a check that accepts `values` only, with `-` or `_`; None, a default, passes."""

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        for known in values:
            if value.replace("-", "_") == known.replace("-", "_"):
                return known
        raise UsageError(f"{name} {value}: choose one of {', '.join(values)}")

    return check


def check_device(value: str) -> str:
    """Raises UsageError if the value names no device; whether it exists, only torch can tell."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value) is None:
        raise UsageError(f"--device {value}: choose one of auto, cpu, cuda, cuda:N, mps")
    return value


def within(
    name: str, holds: Callable[[float], bool], wanted: str
) -> Callable[[float | None], float | None]:
    """Returns a check that accepts numbers for which `holds` is true; None, a default, passes."""

    def check(value: float | None) -> float | None:
        if value is not None and not holds(value):
            raise UsageError(f"{name} {value}: expected {wanted}")
        return value

    return check


def parse_batch_size(text: str) -> int | None:
    """Returns a positive number, or None for `auto`. Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--batch-size {text}: expected a positive number or auto")
    return int(text)


def parse_percent(text: str) -> float:
    """Returns `5%` or `5` as 5.0: more than 0, at most 100. Raises UsageError."""
    digits = text.removesuffix("%")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", digits, re.ASCII) or not 0 < float(digits) <= 100:
        raise UsageError(
            f"--reencode {text}: expected a share such as 5%, more than 0, at most 100%"
        )
    return float(digits)


def note_verbose(context: typer.Context, value: bool) -> bool:
    """Records `--verbose` for the whole command line: errors of the command then show details."""
    if context.obj is not None:
        context.obj["verbose"] = value
    return value

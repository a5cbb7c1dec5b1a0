"""Completes, checks and parses the values of options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import typer

from dinac_cli.errors import UsageError
from dinac_cli.images.geometry import MAX_SIDE, Geometry, parse_size

_COUNT = re.compile("[1-9][0-9]{0,6}")


def complete(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Returns a completer that offers `values`."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def one_of(name: str, values: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """Returns a check that accepts only `values` and None, the default. `_` counts as `-`."""

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        for known in values:
            if value.replace("-", "_") == known.replace("-", "_"):
                return known
        raise UsageError(f"{name} {value}: choose one of {', '.join(values)}")

    return check


def choices(name: str, values: tuple[str, ...]) -> dict[str, Any]:
    """Returns the keywords that make an option accept and complete only `values`."""
    return {"callback": one_of(name, values), "autocompletion": complete(values)}


def within(
    name: str, holds: Callable[[float], bool], wanted: str
) -> Callable[[float | None], float | None]:
    """Returns a check that accepts numbers for which `holds` is true, and None, the default."""

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


def parse_side(name: str) -> Callable[[str], int | Literal["none"]]:
    """Returns a parser of a number of pixels, or `none`. The parser raises UsageError."""

    def parse(text: str) -> int | Literal["none"]:
        if text == "none":
            return "none"
        if not _COUNT.fullmatch(text) or int(text) > MAX_SIDE:
            raise UsageError(f"{name} {text}: expected 1 to {MAX_SIDE} pixels, or none")
        return int(text)

    return parse


def parse_crop_choice(text: str) -> tuple[int, int] | Literal["none"]:
    """Returns `none`, or what `parse_crop` returns. Raises UsageError."""
    return "none" if text == "none" else parse_crop(text)


def parse_guidance(text: str) -> float | Literal["off"]:
    """Returns a finite number, or `off`; `none` also means `off`. Raises UsageError."""
    if text in ("off", "none"):
        return "off"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--guidance {text}: expected a finite number, or off")
    return value


def parse_crop(text: str) -> tuple[int, int]:
    """Returns (width, height) from `256x128`, or from `256` for a square. Raises UsageError."""
    try:
        size = parse_size(text)
        Geometry(crop=size)  # checks the range
    except ValueError as exc:
        raise UsageError(f"--crop {text}: expected WxH or N, 1 to {MAX_SIDE} pixels") from exc
    return size


def parse_percent(text: str) -> float:
    """Returns 5.0 for `5%` or `5`. Raises UsageError unless 0 < percent <= 100."""
    digits = text.removesuffix("%")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", digits, re.ASCII) or not 0 < float(digits) <= 100:
        raise UsageError(
            f"--reencode {text}: expected a share such as 5%, more than 0, at most 100%"
        )
    return float(digits)


def check_workers(text: str | None) -> int | None:
    """Returns a positive number, or None, the default. Raises UsageError."""
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise UsageError(f"--workers {text}: expected 1 or more")
    return int(text)


def from_variable(check: Callable[[Any], Any]) -> Callable[..., Any]:
    """Returns a callback that checks a value of an option which an environment variable can set.

    If the variable has set the value, the callback records this in the context, so that
    `name_variables` can name the variable in an error.
    """

    def note(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        source = context.get_parameter_source(str(parameter.name))
        if context.obj is not None and source is not None and source.name == "ENVIRONMENT":
            context.obj["variables"][parameter.opts[0]] = (parameter.envvar, value)
        return check(value)

    return note


def name_variables(message: str, variables: Mapping[str, tuple[str, str]]) -> str:
    """Returns an error that names variables instead of options: `DINAC_MODEL=foo: no such file`.

    `variables` maps an option, such as `--model`, to the name and the value of its variable.
    """
    for option, (variable, value) in variables.items():
        spelled = f"{variable}={value}"
        if message.startswith(f"{option.removeprefix('--')} "):  # model x is not cached
            return f"{spelled}: {message}"
        named = rf"^{option} {re.escape(value)}(?=:)|(?<=you asked for ){option} \S+"
        message = re.sub(named, spelled.replace("\\", r"\\"), message)
    return message


def note_verbose(context: typer.Context, value: bool) -> bool:
    """Records `--verbose` in the context, so that an error of the command shows its details."""
    if context.obj is not None:
        context.obj["verbose"] = value
    return value

"""Completes, checks and parses the values of options."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import typer

from dinac_cli.errors import UsageError
from dinac_cli.images.geometry import MAX_SIDE, Geometry, parse_size


def complete(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Returns a completer that offers `values`."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def complete_list(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Returns a completer of `values` separated by commas. It offers values that are not there."""

    def offer(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        named = before.split(",")
        found = (value for value in values if value.startswith(last) and value not in named)
        return [f"{before}{comma}{value}" for value in found]

    return offer


def parse_list(name: str, text: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the values separated by commas, in their order.

    `name` is the option. `_` counts as `-`. Raises UsageError if a value is not one of `values`, or
    occurs twice.
    """
    found = tuple(value.strip().replace("_", "-") for value in text.split(","))
    for index, value in enumerate(found):
        if value not in values:
            raise UsageError(f"{name} {value}: choose from {', '.join(values)}")
        if value in found[:index]:
            raise UsageError(f"{name}: {value} is named twice; name each once")
    return found


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


def whole(
    name: str, low: int, high: int | None = None, wanted: str = ""
) -> Callable[[str | int], int]:
    """Returns a parser of whole numbers from `low` to `high` (None: any larger number).

    The parser raises UsageError, which says what is `wanted`; by default, the range.
    """
    wanted = wanted or (f"{low} or more" if high is None else f"{low} to {high}")

    def parse(value: str | int) -> int:  # Typer also parses the default
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise UsageError(f"{name} {value}: expected {wanted}")
        return number

    return parse


def real(name: str, holds: Callable[[float], bool], wanted: str) -> Callable[[str | float], float]:
    """Returns a parser of numbers for which `holds` is true. The parser raises UsageError."""

    def parse(value: str | float) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not holds(number):
            raise UsageError(f"{name} {value}: expected {wanted}")
        return number

    return parse


def parse_prune(text: str) -> Literal["some", "all"]:
    """Returns `some` or `all`. Raises UsageError."""
    if text not in ("some", "all"):
        raise UsageError(f"--prune={text}: expected --prune or --prune=all")
    return "all" if text == "all" else "some"


def count_or_auto(option: str) -> Callable[[str], int | None]:
    """Returns a parser of a positive number, or None for `auto`. The parser raises UsageError."""

    def parse(text: str) -> int | None:
        if text == "auto":
            return None
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise UsageError(f"{option} {text}: expected a positive number or auto")
        return int(text)

    return parse


def parse_side(name: str) -> Callable[[str], int | Literal["none"]]:
    """Returns a parser of a number of pixels, or `none`. The parser raises UsageError."""

    def parse(text: str) -> int | Literal["none"]:
        return "none" if text == "none" else parse_number(text)

    parse_number = whole(name, 1, MAX_SIDE, f"1 to {MAX_SIDE} pixels, or none")
    return parse


def parse_crop_choice(text: str) -> tuple[int, int] | Literal["none"]:
    """Returns `none`, or what `parse_crop` returns. Raises UsageError."""
    return "none" if text == "none" else parse_crop(text, ", or none")


def parse_guidance(text: str) -> float | Literal["off"]:
    """Returns a finite number, or `off`; `none` also means `off`. Raises UsageError."""
    if text in ("off", "none"):
        return "off"
    return real("--guidance", math.isfinite, "a finite number, or off")(text)


def parse_quality(text: str) -> int | Literal["default"]:
    """Returns 1 to 100, or `default`. Raises UsageError."""
    return "default" if text == "default" else whole("--quality", 1, 100)(text)


def parse_crop(text: str, other: str = "") -> tuple[int, int]:
    """Returns (width, height) from `256x128`, or from `256` for a square.

    Raises UsageError, which ends with the `other` allowed values.
    """
    try:
        size = parse_size(text)
        Geometry(crop=size)  # checks the range
    except ValueError as exc:
        raise UsageError(
            f"--crop {text}: expected WxH or N, 1 to {MAX_SIDE} pixels{other}"
        ) from exc
    return size


def parse_percent(text: str) -> float:
    """Returns 5.0 for `5%` or `5`. Raises UsageError unless 0 < percent <= 100."""
    digits = text.removesuffix("%")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", digits, re.ASCII) or not 0 < float(digits) <= 100:
        raise UsageError(
            f"--reencode {text}: expected a share such as 5%, more than 0, at most 100%"
        )
    return float(digits)


def find_nearest(word: str, names: Iterable[str]) -> list[str]:
    """Returns the names that are about as close to `word` as the closest name, best first."""
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(b=word)
    ratios = {}
    for name in names:
        matcher.set_seq1(name)
        ratios[name] = matcher.ratio()
    least = max(0.6, max(ratios.values(), default=0.0) - 0.05)
    nearest = [name for name in ratios if ratios[name] >= least]
    return sorted(nearest, key=lambda name: -ratios[name])


def check_workers(text: str | None) -> int | None:
    """Returns a positive number, or None, the default. Raises UsageError."""
    return None if text is None else whole("--workers", 1)(text)


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


def note_command_line(context: typer.Context, path: str | None) -> Any:
    """Returns a `LogChoice` of this path and of the command line of this run, or None."""
    if path is None:
        return None
    from dinac_cli.commands.screen.log import LogChoice
    from dinac_cli.storage.urls import hide_secrets_in

    given = () if context.obj is None else context.obj["arguments"]
    arguments = [hide_secrets_in(text) if "://" in text else text for text in given]
    command_line = shlex.join((context.find_root().info_name or "", *arguments))
    return LogChoice(path=path, command_line=command_line)


def parse_keep(text: str) -> tuple[str, ...]:
    """Parses `--keep txt,json`: the extensions without a dot. Raises UsageError."""
    from dinac_cli.jobs.shards.run_settings import parse_extensions

    return parse_extensions(text)

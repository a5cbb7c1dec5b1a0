"""What values of options may be: completed, checked, and turned into what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat, format_of_suffix
from dinac_cli.images.geometry import MAX_SIDE, Geometry, parse_size
from dinac_cli.storage.output import OutputKind


def complete(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A completer that offers `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def one_of(name: str, values: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A check that refuses everything but `values` (`-` and `_` alike); None, a default, passes."""

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        for known in values:
            if value.replace("-", "_") == known.replace("-", "_"):
                return known
        raise UsageError(f"{name} {value}: choose one of {', '.join(values)}")

    return check


def check_batch_size(value: str) -> str:
    """Refuse what `parse_batch_size` does."""
    parse_batch_size(value)
    return value


def check_device(value: str) -> str:
    """Refuse what names no device; whether it is there, only torch can tell."""
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value) is None:
        raise UsageError(f"--device {value}: choose one of auto, cpu, cuda, cuda:N, mps")
    return value


def within(
    name: str, holds: Callable[[float], bool], wanted: str
) -> Callable[[float | None], float | None]:
    """A check that refuses numbers for which `holds` is false; None, a default, passes."""

    def check(value: float | None) -> float | None:
        if value is not None and not holds(value):
            raise UsageError(f"{name} {value}: expected {wanted}")
        return value

    return check


def parse_color(text: str) -> tuple[int, int, int]:
    """`white`, `black`, `gray` or `#rrggbb` as (red, green, blue), 0 to 255 each."""
    named = {"white": "ffffff", "black": "000000", "gray": "808080", "grey": "808080"}
    digits = named.get(text.lower(), text.removeprefix("#"))
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(value) != 3:
        raise UsageError(f"--background {text}: expected white, black, gray or #rrggbb")
    return value[0], value[1], value[2]


def choose_geometry(
    resize: int | None, max_side: int | None, crop: str | None, *, flip: bool = False
) -> Geometry:
    """What `--resize`, `--max-side`, `--crop` and `--flip` ask for. Raises UsageError."""
    if resize is not None and max_side is not None:
        raise UsageError("--resize and --max-side exclude each other: leave one of them out")
    try:
        size = None if crop is None else parse_size(crop)
        return Geometry(resize, max_side, size, flip)
    except ValueError as exc:
        raise UsageError(f"--crop {crop}: expected WxH or N, 1 to {MAX_SIDE} pixels") from exc


def parse_batch_size(text: str) -> int | None:
    """A positive number, or None for `auto`."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--batch-size {text}: expected a positive number or auto")
    return int(text)


def check_percent(value: str | None) -> str | None:
    """Refuse what `parse_percent` does; None, a default, passes."""
    if value is not None:
        parse_percent(value)
    return value


def parse_percent(text: str) -> float:
    """`5%` or `5` as 5.0: more than 0, at most 100."""
    digits = text.removesuffix("%")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", digits, re.ASCII) or not 0 < float(digits) <= 100:
        raise UsageError(
            f"--reencode {text}: expected a share such as 5%, more than 0, at most 100%"
        )
    return float(digits)


def choose_format(name: str | None, out: str, kind: OutputKind) -> OutputFormat:
    """The image format of a decode: `--format`, else what OUT's suffix says, else PNG.

    Raises UsageError where the two disagree or the name is unknown.
    """
    by_suffix = format_of_suffix(out) if kind is OutputKind.FILE else None
    if name is None:
        return by_suffix or OUTPUT_FORMATS["png"]
    chosen = OUTPUT_FORMATS.get(name.lower()) or format_of_suffix(f"x.{name}")
    if chosen is None:
        raise UsageError(f"--format {name}: choose one of {', '.join(OUTPUT_FORMATS)}")
    if by_suffix not in (None, chosen):
        raise UsageError(f"--format {name} contradicts the suffix of {out}: leave one of them out")
    return chosen

"""Ranges of files in one name, as WebDataset writes them: `{000..099}.tar`, `{train,test}.tar`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dinac_cli.errors import UsageError
from dinac_cli.storage.urls import hide_secrets, is_url

MOST_PLACES = 1_000_000
"""One name stands for this many files at most."""

_MOST_GROUPS = 64
_RANGE = re.compile(r"(-?\d{1,15})\.\.(-?\d{1,15})(?:\.\.(-?\d{1,15}))?")


class _Range(NamedTuple):
    """`{first..last..step}`: numbers, padded with zeros to `width` characters."""

    numbers: range
    width: int


class _Choice(NamedTuple):
    """`{a,b}`: several texts, which may contain groups themselves."""

    texts: Sequence[Sequence[_Part]]


_Part = str | _Range | _Choice


def expand_braces(place: str) -> Iterator[str]:
    """Returns the paths or URLs that a name with braces stands for; the last group varies fastest.

    A file of this machine whose name contains the braces is meant itself. Braces without a comma
    and without a range are part of the name. Raises UsageError above `MOST_PLACES`, before it
    yields or stores any.
    """
    if "{" not in place or (not is_url(place) and os.path.lexists(place)):
        return iter((place,))
    problem = f"{hide_secrets(place)}: stands for more than {MOST_PLACES:,} files; name fewer"
    if place.count("{") > _MOST_GROUPS:
        raise UsageError(problem)
    parts = _parse(place, 0, len(place), _match_braces(place))
    if _count(parts) > MOST_PLACES:
        raise UsageError(problem)
    return _expand(parts)


def _match_braces(text: str) -> dict[int, int]:
    """Returns the end of each closed brace."""
    opened, closed = [], {}
    for index, char in enumerate(text):
        if char == "{":
            opened.append(index)
        elif char == "}" and opened:
            closed[opened.pop()] = index
    return closed


def _parse(text: str, start: int, end: int, closed: dict[int, int]) -> list[_Part]:
    parts: list[_Part] = []
    index = literal = start
    while index < end:
        group = _parse_group(text, index, closed)
        if group is not None:
            parts += [text[literal:index], group]
            index = literal = closed[index] + 1
        else:
            index += 1
    return [*parts, text[literal:end]]


def _parse_group(text: str, index: int, closed: dict[int, int]) -> _Range | _Choice | None:
    """Returns the group that begins here; None if there is none."""
    if index not in closed:
        return None
    end = closed[index]
    if match := _RANGE.fullmatch(text, index + 1, end):
        return _read_range(*match.groups())
    commas = list(_find_commas(text, index + 1, end, closed))
    if not commas:
        return None
    bounds = zip([index, *commas], [*commas, end], strict=True)
    return _Choice([_parse(text, before + 1, after, closed) for before, after in bounds])


def _find_commas(text: str, start: int, end: int, closed: dict[int, int]) -> Iterator[int]:
    """Yields the commas that are in no group between `start` and `end`."""
    index = start
    while index < end:
        if text[index] == ",":
            yield index
        index = closed.get(index, index) + 1


def _read_range(first: str, last: str, step: str | None) -> _Range:
    start, end, stride = int(first), int(last), abs(int(step or 1)) or 1
    padded = any(re.match(r"-?0\d", each) for each in (first, last))
    numbers = range(start, end + 1, stride) if start <= end else range(start, end - 1, -stride)
    return _Range(numbers, max(len(first), len(last)) if padded else 0)


def _count(parts: Sequence[_Part]) -> int:
    return math.prod(_count_part(part) for part in parts)


def _count_part(part: _Part) -> int:
    if isinstance(part, str):
        return 1
    if isinstance(part, _Range):
        # `len` fails above the size of an index.
        return (part.numbers[-1] - part.numbers[0]) // part.numbers.step + 1
    return sum(map(_count, part.texts))


def _expand(parts: Sequence[_Part]) -> Iterator[str]:
    if not parts:
        yield ""
        return
    for head in _list_texts(parts[0]):
        for tail in _expand(parts[1:]):
            yield head + tail


def _list_texts(part: _Part) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, _Range):
        yield from (f"{number:0{part.width}}" for number in part.numbers)
    else:
        for text in part.texts:
            yield from _expand(text)

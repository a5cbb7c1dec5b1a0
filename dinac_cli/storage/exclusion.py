"""Patterns of `--exclude`: which files and folders are not inputs. They work as in .gitignore."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dinac_cli.errors import UsageError

_TRAILING_SPACES = re.compile(r"(?<!\\) +\Z")

_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True)
class _Pattern:
    """One pattern. `rule` matches a whole path, or the last part of a path if `is_name` is true."""

    rule: re.Pattern[str]
    is_name: bool
    needs_folder: bool
    keeps: bool

    def matches(self, path: str, *, is_folder: bool) -> bool:
        if self.needs_folder and not is_folder:
            return False
        subject = path.rpartition("/")[2] if self.is_name else path
        return self.rule.fullmatch(subject) is not None


class Exclusion:
    """The patterns of one run. Raises UsageError for a pattern that can match nothing.

    The paths to compare are relative to the folder that the user named, with `/`. As in .gitignore:
    `*.tmp` matches at any depth, `/top` and `a/b` from the folder that the user named, and `dir/`
    only folders. `*` and `?` match no `/`; `**/`, `/**/` and `/**` match any number of folders.
    `[a-c]` matches one character, and `\\` quotes the next character. The last pattern that matches
    decides, and `!` keeps what it matches; but nothing in an excluded folder is kept.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = tuple(map(_parse_pattern, patterns))[::-1]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excludes(self, path: str, *, is_folder: bool) -> bool:
        """True if a file or folder is excluded. Its folders are not excluded: the caller knows."""
        for pattern in self._patterns:
            if pattern.matches(path, is_folder=is_folder):
                return not pattern.keeps
        return False

    def excludes_any(self, path: str, *, is_folder: bool) -> bool:
        """True if a file or folder is excluded, or a folder of its path."""
        ends = (index for index, char in enumerate(path) if char == "/") if self else ()
        in_excluded = any(self.excludes(path[:end], is_folder=True) for end in ends)
        return in_excluded or self.excludes(path, is_folder=is_folder)


def _parse_pattern(text: str) -> _Pattern:
    pattern = _TRAILING_SPACES.sub("", text)
    keeps = pattern.startswith("!")
    pattern = pattern.removeprefix("!")
    needs_folder = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    is_name = "/" not in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        raise UsageError(f"--exclude {text!r}: names nothing; write e.g. '*.tmp' or 'thumbnails/'")
    try:
        rule = re.compile(_translate(pattern), re.DOTALL)
    except (IndexError, ValueError, re.error) as exc:
        raise UsageError(
            f"--exclude {text!r}: not a valid pattern; write \\[ or \\\\ for the character itself"
        ) from exc
    return _Pattern(rule, is_name, needs_folder, keeps)


def _translate(pattern: str) -> str:
    """Returns a pattern as a regular expression.

    Raises IndexError or ValueError if the pattern ends in `\\` or inside of `[`.
    """
    parts = []
    start = 0
    while start < len(pattern):
        char, end = pattern[start], start + 1
        if char == "*":
            part, end = _translate_stars(pattern, start)
        elif char == "?":
            part = "[^/]"
        elif char == "[":
            part, end = _translate_set(pattern, start + 1)
        elif char == "\\":
            part, end = re.escape(pattern[end]), end + 1
        else:
            part = re.escape(char)
        parts.append(part)
        start = end
    return "".join(parts)


def _translate_stars(pattern: str, start: int) -> tuple[str, int]:
    """Returns the expression for the stars at `start`, and the position after them."""
    end = start
    while pattern.startswith("*", end):
        end += 1
    is_whole_part = pattern[:start].endswith("/") or start == 0
    if end - start > 1 and is_whole_part:
        if end == len(pattern):
            return ".*", end
        if pattern[end] == "/":
            return "(?:.*/)?", end + 1
    return "[^/]*", end


def _translate_set(pattern: str, start: int) -> tuple[str, int]:
    """Returns the expression for a set such as `[a-c]`, and the position after it.

    `start` is the position after `[`.
    """
    is_negated = pattern[start] in "!^"
    position = first = start + is_negated
    members: list[str] = []
    while position == first or pattern[position] != "]":
        if pattern.startswith("[:", position):
            end = pattern.index(":]", position)
            members.append(_find_class(pattern[position + 2 : end]))
            position = end + 2
            continue
        low, position = _read_member(pattern, position)
        members.append(re.escape(low))
        if pattern[position] == "-" and pattern[position + 1] != "]":
            high, position = _read_member(pattern, position + 1)
            if low < high:
                members.append(f"{re.escape(low)}-{re.escape(high)}")
    sign = "^" if is_negated else ""
    return f"(?!/)[{sign}{''.join(members)}]", position + 1


def _read_member(pattern: str, position: int) -> tuple[str, int]:
    """Returns one character of a set, and the position after it."""
    position += pattern[position] == "\\"
    return pattern[position], position + 1


def _find_class(name: str) -> str:
    if name not in _CLASSES:
        raise ValueError(f"[:{name[:40]}:] is no class of characters")
    return _CLASSES[name]


NO_EXCLUSION = Exclusion()
"""Excludes nothing."""

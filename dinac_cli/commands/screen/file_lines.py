"""Prints failed files. Many failures for one reason share a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dinac_cli.commands.screen.console import Console
from dinac_cli.jobs.results import drop_advice
from dinac_cli.storage.naming import strip_suffix

SHOWN_FAILURES = 3
"""The number of files that are named at once for each reason."""

MAX_REASONS = 1000
"""Failures for further reasons are always named, so that the memory is bounded."""

_NUMBER = re.compile(r"\d+")
_VARYING = "…"


@dataclass
class _Group:
    """The failures for one reason.

    `words` is the reason without advice; words that differ between the files are "…". `hidden` is
    the number of files that were not named, and `last` is the line of the last file.
    """

    words: list[str]
    files: int = 0
    hidden: int = 0
    last: str = ""

    def merge(self, words: list[str]) -> None:
        pairs = zip(self.words, words, strict=True)
        self.words = [mine if mine == other else _VARYING for mine, other in pairs]


class FailureLines:
    """Prints one line per failed file, until too many files fail for the same reason.

    Two reasons are the same if they differ only in numbers and in the name of the file. Names the
    first `SHOWN_FAILURES` files for each reason; `close` prints how many more there were. `where`
    says how the user can list them. The log and `--verbose` name every file.
    """

    def __init__(self, console: Console, where: str) -> None:
        self._console = console
        self._where = where
        self._groups_failures = not console.verbose
        self._groups: dict[str, _Group] = {}

    def add(self, file: str, reason: str, name: str = "") -> None:
        """Prints or counts one failure. `name` is the file's name relative to its folder."""
        line = f"{file}: {reason}"
        group = self._find_group(reason, file, name) if self._groups_failures else None
        if group is None or group.files < SHOWN_FAILURES:
            self._console.fail(line)
        else:
            self._console.write_log(f"error: {line}")
            group.hidden += 1
            group.last = line
        if group is not None:
            group.files += 1

    def close(self) -> None:
        """Prints one line for each reason whose files were not all named."""
        for group in self._groups.values():
            if group.hidden == 1:
                self._console.mention(group.last)
            elif group.hidden:
                reason = " ".join(group.words)
                self._console.mention(
                    f"{group.hidden} more files failed for the same reason ({reason}); "
                    f"{self._where}"
                )

    def _find_group(self, reason: str, file: str, name: str) -> _Group | None:
        """Returns the group of a reason. Returns None if there are too many groups."""
        masked = _mask_names(reason, file, name)
        key, words = _NUMBER.sub("0", masked), drop_advice(masked).split(" ")
        if key in self._groups:
            self._groups[key].merge(words)
        elif len(self._groups) < MAX_REASONS:
            self._groups[key] = _Group(words)
        return self._groups.get(key)


def _mask_names(reason: str, file: str, name: str) -> str:
    """Replaces the names of a file and of its source by "…"."""
    names = {file, name, strip_suffix(name)} - {""}
    longest_first = sorted((one for one in names if one in reason), key=len, reverse=True)
    if not longest_first:
        return reason  # compiling a pattern for each of many failures takes long
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", _VARYING, reason)

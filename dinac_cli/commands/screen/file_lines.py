"""Prints lines about files. Many failures, warnings or repairs for one reason share a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from dinac_cli.commands.screen.console import Console
from dinac_cli.jobs.results import drop_advice
from dinac_cli.storage.naming import strip_suffix

SHOWN_FILES = 3
"""The number of files that are named at once for each reason."""

MAX_REASONS = 1000
"""Files with further reasons are always named, so that the memory is bounded."""

_LISTED = "-v lists them"
_NUMBER = re.compile(r"\d+")
_VARYING = "…"


class Topic(Enum):
    """What a line says of a file: its form, and what the line about further files says."""

    FAILURE = "{file}: {reason}", "failed for the same reason"
    REDONE = "{file}: redone: {reason}", "were redone for the same reason"
    WARNING = "warning: {file}: {reason}", "have the same warning"

    def __init__(self, form: str, rest: str) -> None:
        self.form = form
        self.rest = rest


@dataclass
class _Group:
    """The files of one topic with one reason.

    `words` is the reason without advice; words that differ between the files are "…". `hidden` is
    the number of files that were not named, and `last` is the line of the last file.
    """

    topic: Topic
    words: list[str]
    files: int = 0
    hidden: int = 0
    last: str = ""

    def merge(self, words: list[str]) -> None:
        pairs = zip(self.words, words, strict=True)
        self.words = [mine if mine == other else _VARYING for mine, other in pairs]


class FileLines:
    """Prints one line per file, until too many files have the same topic and reason.

    Two reasons are the same if they differ only in numbers and in the name of the file. Names the
    first `SHOWN_FILES` files for each reason; `close` prints how many more there were, and where
    they are listed: in the log, or with `--verbose`. `failures` says where failures are listed if
    there is no log.
    """

    def __init__(self, console: Console, failures: str = _LISTED) -> None:
        self._console = console
        self._failures = failures
        self._groups: dict[tuple[Topic, str], _Group] = {}

    def add(self, topic: Topic, file: str, reason: str, name: str = "") -> None:
        """Prints or counts one file. `name` is the file's name relative to its folder."""
        line = topic.form.format(file=file, reason=reason)
        group = None if self._console.verbose else self._find_group(topic, reason, file, name)
        if group is None or group.files < SHOWN_FILES:
            (self._console.fail if topic is Topic.FAILURE else self._console.say)(line)
        else:
            self._console.write_log(f"error: {line}" if topic is Topic.FAILURE else line)
            group.hidden += 1
            group.last = line
        if group is not None:
            group.files += 1

    def close(self) -> None:
        """Prints one line for each reason whose files were not all named."""
        for group in self._groups.values():
            if not group.hidden or (self._console.quiet and group.topic is not Topic.FAILURE):
                continue
            line = group.last
            if group.hidden > 1:
                reason = " ".join(group.words)
                line = f"{group.hidden} more files {group.topic.rest} ({reason}); "
                line += self._say_where(group.topic)
            self._console.mention(line)

    def _say_where(self, topic: Topic) -> str:
        """Says where the user finds the files that are not named."""
        if self._console.log is not None:
            return f"{self._console.log.path} lists them"
        return self._failures if topic is Topic.FAILURE else _LISTED

    def _find_group(self, topic: Topic, reason: str, file: str, name: str) -> _Group | None:
        """Returns the group of a reason. Returns None if there are too many groups."""
        masked = _mask_names(reason, file, name)
        key, words = (topic, _NUMBER.sub("0", masked)), drop_advice(masked).split(" ")
        if key in self._groups:
            self._groups[key].merge(words)
        elif len(self._groups) < MAX_REASONS:
            self._groups[key] = _Group(topic, words)
        return self._groups.get(key)


def _mask_names(reason: str, file: str, name: str) -> str:
    """Replaces the names of a file and of its source by "…"."""
    names = {file, name, strip_suffix(name)} - {""}
    longest_first = sorted((one for one in names if one in reason), key=len, reverse=True)
    if not longest_first:
        return reason  # compiling a pattern for each of many failures takes long
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", _VARYING, reason)

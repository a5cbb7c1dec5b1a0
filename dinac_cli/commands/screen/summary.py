"""The last line of a run, for people, and its summary object, for programs."""

from __future__ import annotations

from typing import Any

from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.tables import format_duration, format_sizes
from dinac_cli.errors import Exit
from dinac_cli.jobs.results import FileResult, Status, Tally

STOPPED = "stopped before the end; run the same command again to go on"


class Summary:
    """The end of a run that writes outputs; other verbs override parts of it.

    `verb` says what was done: "encoded", "decoded". `lists_files` is false for a verb that prints
    its files itself, at the end.
    """

    lists_files = True

    def __init__(self, verb: str = "") -> None:
        self._verb = verb

    @property
    def stopped(self) -> str:
        """The last line on stderr of a run that was stopped."""
        return STOPPED

    def add(self, result: FileResult) -> None:
        """Takes in one result."""

    def describe(self, progress: RunProgress) -> str:
        """Returns the lines that a person reads; nothing is printed for ""."""
        tally = progress.tally
        parts = [f"{tally.written} {self._verb}"]
        if tally.redone:
            parts.append(f"{tally.redone} of them again")
        if tally.counts[Status.DONE]:
            parts.append(f"{tally.counts[Status.DONE]} already done")
        if tally.failures:
            parts.append(f"{tally.failures} failed")
        parts += describe_others(tally)
        text = ", ".join(parts)
        if tally.written:
            text += f"; {format_sizes(tally.bytes_in, tally.bytes_out)}"
            text += f" in {format_duration(progress.elapsed)}"
        return text

    def remark(self) -> str | None:
        """Returns the last line on stderr of a run that was not stopped."""
        return None

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        """Returns the summary object."""
        return progress.tally.to_json()

    def choose_exit(self, tally: Tally) -> Exit:
        """Returns the exit code of a run that came to its end."""
        return Exit.FAILURES if tally.failures else Exit.DONE


def describe_others(tally: Tally) -> list[str]:
    """Returns the part of a summary that counts skipped files; empty if there are none."""
    if not tally.not_inputs:
        return []
    files = "file" if tally.not_inputs == 1 else "files"
    return [f"{tally.not_inputs} other {files} skipped"]

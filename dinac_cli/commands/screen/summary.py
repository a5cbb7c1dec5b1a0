"""The summary of a run: text for people, a JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.tables import format_duration, format_sizes
from dinac_cli.errors import Exit
from dinac_cli.jobs.results import FileResult, Status, Tally

STOPPED = "stopped before the end; run the same command again to continue"
UNCHECKED = (
    "damaged JPEGs were not recognised: simplejpeg is not installed; pip install 'dinac-cli[fast]'"
)


class Summary:
    """The summary of a run that writes outputs. Other commands use subclasses.

    `verb` says what was done, such as "decoded". If the run prunes, `removed` is the folder of the
    outputs that it moves away. If `lists_files` is false, the run prints no line per file.
    """

    lists_files = True
    skip_reason = "smaller than the crop"
    """Why images are skipped if a run asks for that."""

    def __init__(self, verb: str = "", removed: str | None = None) -> None:
        self._verb = verb
        self._removed = removed

    @property
    def stopped(self) -> str:
        """The last line on stderr of a run that was stopped."""
        return STOPPED

    def add(self, result: FileResult) -> None:
        """Adds one result."""

    def describe(self, progress: RunProgress) -> str:
        """Returns the text for a person. An empty text is not printed."""
        tally = progress.tally
        counts = {
            "of them again": tally.redone,
            "already done": tally.counts[Status.DONE],
            "renamed": tally.counts[Status.RENAMED],
            f"moved to {self._removed}": tally.counts[Status.PRUNED],
            f"skipped ({self.skip_reason})": tally.counts[Status.SKIPPED] - tally.decoded,
            "failed": tally.failures,
        }
        parts = [f"{tally.written} {self._verb}"]
        parts += [f"{count} {what}" for what, count in counts.items() if count]
        parts += describe_skips(tally.decoded, "decoded image")
        text = ", ".join(parts + describe_others(tally))
        if not tally.written:
            return text
        sizes = format_sizes(tally.bytes_in, tally.bytes_out)
        return f"{text}; {sizes} in {format_duration(progress.elapsed)}"

    def remarks(self) -> Iterator[str]:
        """Yields the last lines on stderr of a run that was not stopped."""
        yield from ()

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        """Returns the summary object. If the run prunes, it also counts the outputs it moved."""
        summary = progress.tally.to_json()
        if self._removed is None:
            return summary
        counts = progress.tally.counts
        return summary | {
            "renamed": counts[Status.RENAMED],
            "pruned": counts[Status.PRUNED],
            "prune_refused": progress.tally.prune_refused,
        }

    def choose_exit(self, tally: Tally) -> Exit:
        """Returns the exit code of a run that no signal stopped."""
        return Exit.FAILURES if tally.new_failures else Exit.DONE


def describe_others(tally: Tally) -> list[str]:
    """Returns [] if no file was skipped, else a list of one text: how many were skipped."""
    return describe_skips(tally.not_inputs, "other file")


def describe_skips(count: int, what: str) -> list[str]:
    """Returns e.g. `["2 other files skipped"]`, or [] if `count` is 0."""
    if not count:
        return []
    return [f"{count} {what}{'' if count == 1 else 's'} skipped"]

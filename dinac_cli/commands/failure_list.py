"""The list of failed files: `--failures` writes it, and `--known-failures` reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO

from dinac_cli.errors import UsageError, describe_read_error
from dinac_cli.jobs.results import FileResult
from dinac_cli.storage.atomic import describe_write_error


@contextmanager
def open_failures(path: str | None) -> Iterator[Callable[[FileResult], None]]:
    """Opens the `--failures` file. Yields a function that writes one result at once.

    If `path` is None, the function does nothing. If the disk is full, opening and writing
    raise UnwritableDiskError. After any other failure, they raise OutputError.
    """
    if path is None:
        yield lambda result: None
        return
    try:
        file = FileIO(path, "w")
    except OSError as exc:
        raise describe_write_error(exc, f"--failures {path}") from exc

    def write(result: FileResult) -> None:
        line = memoryview(json.dumps(result.to_json()).encode() + b"\n")
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as exc:
            raise describe_write_error(exc, f"--failures {path}") from exc

    with file:
        yield write


def read_known_failures(
    path: str | None, warn: Callable[[str], None]
) -> frozenset[tuple[str, str]]:
    """Reads a file that an earlier run wrote for `--failures`. Returns pairs of file and reason.

    A missing file lists no failures, so the first run of a repeated command needs no special case.
    Skips lines that are not failures, such as the last line of a run that was killed, and warns
    once. Raises UsageError if the file cannot be read.
    """
    if path is None:
        return frozenset()
    known: set[tuple[str, str]] = set()
    skipped = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if (failure := _parse_failure(line)) is None:
                    skipped += 1
                else:
                    known.add(failure)
    except FileNotFoundError:
        return frozenset()
    except OSError as exc:
        raise UsageError(f"--known-failures {path}: {describe_read_error(exc)}") from exc
    if skipped:
        lines = "1 line" if skipped == 1 else f"{skipped} lines"
        warn(f"--known-failures {path}: ignored {lines} not written by --failures")
    return frozenset(known)


def _parse_failure(line: bytes) -> tuple[str, str] | None:
    """Returns the file and the reason of a line of `--failures`, or None for any other line."""
    try:
        entry = json.loads(line)
        file, reason = entry["file"], entry["reason"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (file, reason) if isinstance(file, str) and isinstance(reason, str) else None

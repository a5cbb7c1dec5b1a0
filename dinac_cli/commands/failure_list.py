"""The list of failed files: `--failures` writes it, and `--known` reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO

from dinac_cli.errors import PruneError, UsageError, describe_read_error
from dinac_cli.jobs.results import FileResult
from dinac_cli.storage.atomic import describe_write_error, rewrite_file

Note = Callable[[FileResult], None]
"""Adds one failed file to the list."""


@contextmanager
def open_failures(
    path: str | None, known: str | None = None, is_whole: Callable[[], bool] = lambda: True
) -> Iterator[Note]:
    """Opens the `--failures` file. Yields a function that adds one failure.

    Each failure reaches the file at once. But if `known` names the same file, the file keeps its
    old content until the end, and then only changes if `is_whole()`: the list of a run that was
    stopped or killed would lack the failures of the files that the run did not reach. A device or
    pipe, such as /dev/null, is written to, never replaced.

    If `path` is None, the function does nothing. If the disk is full, opening and writing
    raise UnwritableDiskError. After any other failure, they raise OutputError.
    """
    if path is None:
        yield lambda result: None
    elif known is not None and is_same_file(path, known):
        with rewrite_file(path, f"--failures {path}") as rewrite:
            yield lambda result: rewrite.write(_format_line(result))
            if is_whole():
                rewrite.publish()
    else:
        with _open_plain(path) as note:
            yield note


def is_same_file(one: str, other: str) -> bool:
    """True if two paths name one file, also if it does not exist yet.

    False for a device or pipe, such as /dev/null: what is written there replaces nothing.
    """
    if os.path.exists(one) and os.path.exists(other):
        return os.path.isfile(one) and os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def _open_plain(path: str) -> Iterator[Note]:
    try:
        file = FileIO(path, "w")
    except OSError as exc:
        raise describe_write_error(exc, f"--failures {path}") from exc

    def note(result: FileResult) -> None:
        line = memoryview(_format_line(result))
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as exc:
            raise describe_write_error(exc, f"--failures {path}") from exc

    with file:
        yield note


def _format_line(result: FileResult) -> bytes:
    return json.dumps(result.to_json()).encode() + b"\n"


@dataclass(frozen=True)
class KnownFailures:
    """Failures that an earlier run reported. Needs about 60 bytes of memory per failure."""

    _hashes: frozenset[int] = frozenset()

    def hold(self, result: FileResult) -> bool:
        """True if the file failed, and failed before for the same reason.

        A refusal to prune is never known: the disk that is missing is missed each night.
        """
        if result.error == PruneError.__name__:
            return False
        return result.failed and hash((result.file, result.reason or "")) in self._hashes


def read_known(path: str | None, warn: Callable[[str], None]) -> KnownFailures:
    """Reads a file that an earlier run wrote for `--failures`.

    A missing file lists no failures, so the first run of a repeated command needs no special case.
    Skips lines that are not failures, such as the last line of a run that was killed, and warns
    once. Raises UsageError if the file cannot be read.
    """
    if path is None:
        return KnownFailures()
    known: set[int] = set()
    skipped = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if (failure := _parse_failure(line)) is None:
                    skipped += 1
                else:
                    known.add(hash(failure))
    except FileNotFoundError:
        return KnownFailures()
    except OSError as exc:
        raise UsageError(f"--known {path}: {describe_read_error(exc)}") from exc
    if skipped:
        lines = "1 line" if skipped == 1 else f"{skipped} lines"
        warn(f"--known {path}: ignored {lines} not written by --failures")
    return KnownFailures(frozenset(known))


def _parse_failure(line: bytes) -> tuple[str, str] | None:
    """Returns the file and the reason of a line of `--failures`, or None for any other line."""
    try:
        entry = json.loads(line)
        file, reason = entry["file"], entry["reason"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (file, reason) if isinstance(file, str) and isinstance(reason, str) else None

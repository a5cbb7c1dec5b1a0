"""The log of a run: a text file to which every run appends lines, each with the time."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from io import FileIO

from dinac_cli.errors import DinacError, Exit, OutputError, UsageError, describe_read_error
from dinac_cli.storage.atomic import describe_write_error

_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class LogChoice:
    """The file of `--log`, and the command line that a run writes there first."""

    path: str
    command_line: str


@dataclass
class Log:
    """An open log. Each line reaches the file at once, in one piece.

    Runs that append to one file at the same time differ in the number of their process.
    """

    path: str
    _file: FileIO = field(repr=False)

    def write(self, text: str) -> None:
        """Appends one line. Raises OutputError."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        line = f"{now} dinac[{os.getpid()}] {text}\n"
        self._append(line.encode("utf-8", "backslashreplace"))

    def complete_line(self) -> None:
        """Ends a line that an earlier run could only write in part. Raises OutputError."""
        if _ends_inside_line(self.path):
            self._append(b"\n")

    def end(self, code: int) -> None:
        """Appends the exit code of the run. Raises OutputError."""
        self.write(f"exit {int(code)}")

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as exc:
            raise describe_write_error(exc, f"--log {self.path}") from exc


@contextmanager
def open_log(choice: LogChoice | None) -> Iterator[Log | None]:
    """Opens a log and writes the command line. After an error, writes the error and its exit code.

    The caller writes the exit code of a run without an error (`Log.end`). Yields None if `choice`
    is None. Raises UsageError if the file cannot be opened, or holds something else than text.
    """
    if choice is None:
        yield None
        return
    with _open_text(choice.path) as file:
        log = Log(choice.path, file)
        log.complete_line()
        log.write(f"start: {choice.command_line}")
        try:
            yield log
        except BaseException as exc:
            with suppress(OutputError):  # the log itself may be the error
                _write_error(log, exc)
            raise


def _open_text(path: str) -> FileIO:
    """Opens a text file to append to it. Raises UsageError."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                if b"\0" in file.read(_HEAD_BYTES):
                    raise UsageError(f"--log {path}: not a text file; name a new file or a log")
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise UsageError(f"--log {path}: {describe_read_error(exc)}") from exc
    try:
        return FileIO(path, "a")
    except OSError as exc:
        raise UsageError(str(describe_write_error(exc, f"--log {path}"))) from exc


def _ends_inside_line(path: str) -> bool:
    """True for a file whose last line has no end, as on a full disk."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:  # empty, or removed meanwhile
        return False


def _write_error(log: Log, exc: BaseException) -> None:
    if isinstance(exc, KeyboardInterrupt):
        log.end(Exit.INTERRUPTED)
    elif isinstance(exc, BrokenPipeError):
        log.end(Exit.CLOSED_PIPE)
    else:
        log.write(f"error: {' '.join(str(exc).split()) or type(exc).__name__}")
        log.end(exc.exit_code if isinstance(exc, DinacError) else Exit.REFUSED)

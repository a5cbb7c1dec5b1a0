"""Handles Ctrl-C and SIGTERM.

The first signal lets the work in flight finish. The second signal ends the process.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from types import FrameType
from typing import BinaryIO

from dinac_cli.commands.screen.console import Console
from dinac_cli.errors import UsageError
from dinac_cli.jobs.executor.control import StopRequest

POLL_SECONDS = 0.1
_SHOW_CURSOR = b"\x1b[?25h\n"  # the bar hides the cursor
STDIN_CLOSED = "standard input is closed: redirect it, or name files or folders"
STOPPING = "finishing the work in flight; press again to stop at once"


class SignalledStop(StopRequest):
    """A stop request that remembers the signal that caused it."""

    def __init__(self) -> None:
        super().__init__()
        self.signal_number: int | None = None

    @property
    def exit_code(self) -> int | None:
        """130 after Ctrl-C, 143 after SIGTERM, None if no signal came."""
        return None if self.signal_number is None else 128 + self.signal_number


@contextmanager
def stop_on_signals(console: Console) -> Iterator[SignalledStop]:
    """Turns the first signal inside the block into a stop request.

    The second signal ends the process.
    """
    from dinac_cli.storage.atomic import discard_live_temporaries  # not needed for --help

    stop = SignalledStop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop:
            discard_live_temporaries()
            if console.draws_bar:
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        stop.signal_number = number
        stop.set()
        # Do not use the console: the interrupted code may hold the console's lock. If there is a
        # bar, the bar shows this text.
        if not (console.quiet or console.draws_bar):
            os.write(2, f"dinac: {STOPPING}\n".encode())

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, old in zip(numbers, previous, strict=True):
            signal.signal(number, old)


class _StoppableRaw(RawIOBase):
    """Standard input. A stop request ends the input, even while a reader waits for data."""

    def __init__(self, descriptor: int, stop: StopRequest) -> None:
        self._descriptor = descriptor
        self._stop = stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._stop:
            if select.select([self._descriptor], [], [], POLL_SECONDS)[0]:
                data = os.read(self._descriptor, len(buffer))
                buffer[: len(data)] = data
                return len(data)
        return 0


def open_stdin(stop: StopRequest) -> BinaryIO:
    """Returns binary stdin; a stop request ends it. Raises UsageError if stdin is closed."""
    if sys.stdin is None:
        raise UsageError(STDIN_CLOSED)
    if sys.platform == "win32":
        return sys.stdin.buffer
    return BufferedReader(_StoppableRaw(sys.stdin.fileno(), stop))

"""What a person sees: results on stdout, everything else on stderr, a bar on a terminal.

Used by the commands alone. Rich is imported only when a bar is drawn. File names are printed as
they are, with unprintable characters escaped; they are never markup. What is longer than a
terminal's line goes on at a space; in pipes and files a message is one line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.live import Live

_FACT = re.compile(r" *\S.{0,20}? {2,}\S")
"""A line of a name and its value, as tables have them; the value goes on indented."""

PLAIN_INTERVAL_SECONDS = 5.0


class RunState(Protocol):
    """What a progress display shows of a run."""

    def describe_line(self, width: int) -> str:
        """Figures in at most `width` characters, most important first."""

    @property
    def done(self) -> int:
        """Files that are finished."""

    @property
    def total(self) -> int | None:
        """Files there are, None where it cannot be known."""


class Console:
    """Where one command writes. `quiet` leaves only errors and requested data."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._live: Live | None = None

    @property
    def draws_bar(self) -> bool:
        """True where a bar can be redrawn in place."""
        return (
            sys.stderr is not None
            and sys.stderr.isatty()
            and os.environ.get("TERM", "") not in ("dumb", "unknown")
        )

    def print_result(self, text: str) -> None:
        """A result, on stdout."""
        if not self.quiet:
            _write_text(sys.stdout, text)

    @property
    def result_width(self) -> int | None:
        """Columns that a result has, None where it does not go to a terminal."""
        return _measure_width(sys.stdout)

    def print_json(self, value: dict[str, Any], *, to_stderr: bool = False) -> None:
        """One JSON object on a line of its own, on stdout unless records go there."""
        text = json.dumps(value, allow_nan=False)
        if to_stderr:
            self._write_above_bar(text, wrap=False)
        else:
            _write_line(sys.stdout, text)

    def say(self, text: str) -> None:
        """A remark, on stderr."""
        if not self.quiet:
            self._write_above_bar(escape_unprintable(text))

    def warn(self, text: str) -> None:
        """A warning, on stderr."""
        self.say(f"dinac: warning: {text}")

    def fail(self, text: str) -> None:
        """An error, on stderr, also when quiet."""
        self._write_above_bar(escape_unprintable(f"dinac: {text}"))

    def track(self, title: str, state: RunState) -> AbstractContextManager[Callable[[], None]]:
        """Show the progress of a run; call what the context gives after every file."""
        if self.quiet:
            return _Silent()
        return _Bar(self, title, state) if self.draws_bar else _PlainLines(self, title, state)

    def _write_above_bar(self, text: str, *, wrap: bool = True) -> None:
        if self._live is None:
            (_write_text if wrap else _write_line)(sys.stderr, text)
            return
        from rich.text import Text

        self._live.console.print(Text(_wrap(text, sys.stderr) if wrap else text), soft_wrap=True)


class _Silent(AbstractContextManager[Callable[[], None]]):
    def __enter__(self) -> Callable[[], None]:
        return lambda: None

    def __exit__(self, *exc: object) -> None:
        return None


class _PlainLines(AbstractContextManager[Callable[[], None]]):
    """One plain line every few seconds, for logs and pipes."""

    def __init__(self, console: Console, title: str, state: RunState) -> None:
        self._console = console
        self._title = title
        self._state = state
        self._last = time.monotonic()

    def __enter__(self) -> Callable[[], None]:
        return self._update

    def __exit__(self, *exc: object) -> None:
        return None

    def _update(self) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_SECONDS:
            self._last = now
            total = "" if self._state.total is None else f"/{self._state.total}"
            figures = self._state.describe_line(200)
            self._console.say(f"dinac: {self._title} {self._state.done}{total}, {figures}")


class _Bar(AbstractContextManager[Callable[[], None]]):
    """A bar and a line of figures, redrawn in place and gone at the end."""

    def __init__(self, console: Console, title: str, state: RunState) -> None:
        self._console = console
        self._title = title
        self._state = state

    def __enter__(self) -> Callable[[], None]:
        from rich.console import Console as RichConsole
        from rich.live import Live

        screen = RichConsole(stderr=True, highlight=False, markup=False)
        live = Live(
            get_renderable=self._render,
            console=screen,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        self._console._live = live
        return lambda: None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live, self._console._live = self._console._live, None
        if live is not None:
            live.stop()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        live = self._console._live
        width = live.console.width if live is not None else 80
        state = self._state
        total = "?" if state.total is None else str(state.total)
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(
            total=state.total, completed=state.done, pulse=state.total is None, width=width // 3
        )
        head.add_row(Text(self._title, style="bold"), bar, Text(f"{state.done}/{total}"))
        figures = Text(state.describe_line(width - 1), style="dim", no_wrap=True)
        return Group(head, figures)


def escape_unprintable(text: str) -> str:
    """`text` on one line, with control characters and undecodable bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def _write_text(stream: TextIO | None, text: str) -> None:
    _write_line(stream, _wrap(text, stream))


def _wrap(text: str, stream: TextIO | None) -> str:
    """`text` with its long lines broken at spaces, for a terminal would break them anywhere."""
    width = _measure_width(stream)
    if width is None:
        return text
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent="  " if _FACT.match(line) else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        if len(line) > width
        else line
        for line in text.split("\n")
    )


def _measure_width(stream: TextIO | None) -> int | None:
    """Columns of the terminal that `stream` goes to, None where it goes elsewhere."""
    try:
        if stream is None or not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _write_line(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed by whoever started the program
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()

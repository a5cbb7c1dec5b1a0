"""Prints results on stdout and everything else on stderr; draws a bar on a terminal.

Rich is imported only to draw a bar. File names are never read as markup; their unprintable
characters are escaped. On a terminal, too, a message is one line: the terminal wraps it, and a path
can be copied whole.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.live import Live

    from dinac_cli.commands.screen.log import Log

# dinac's own characters → ASCII. The characters around them tell them from parts of file names.
_PLAIN_SYMBOLS = (
    (re.compile("(?<= )→(?= )"), "->"),
    (re.compile(r"\|Δ\|"), "|delta|"),
    (re.compile(r"(?<![\w.])…(?![\w.])"), "..."),
    (re.compile(r"≥(?= \d)"), ">="),
)

PLAIN_INTERVAL_SECONDS = 5.0


class RunState(Protocol):
    """The state of a run, for the progress display."""

    def describe_line(self, width: int) -> str:
        """Returns at most `width` characters of text, the most important values first.

        If the text is empty, no bar is drawn.
        """

    @property
    def done(self) -> int:
        """Number of finished files."""

    @property
    def total(self) -> int | None:
        """Number of all files; None if unknown."""


class Console:
    """Prints the output of one command. If `quiet`, prints only errors and requested data.

    If `progress` is false, shows neither a bar nor progress lines. If there is a `log`, results,
    remarks, warnings and errors are also written there, even if `quiet`.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        progress: bool = True,
        log: Log | None = None,
    ) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.log = log
        self.shows_progress = progress and not quiet
        self._live: Live | None = None
        self._start_bar: Callable[[], Live]

    @property
    def is_terminal(self) -> bool:
        """True if stderr is a terminal."""
        return sys.stderr is not None and sys.stderr.isatty()

    @property
    def draws_bar(self) -> bool:
        """True if progress is shown as a bar, because stderr is a terminal that can redraw it."""
        can_redraw = self.is_terminal and os.environ.get("TERM") not in ("dumb", "unknown")
        return self.shows_progress and can_redraw

    def write_log(self, text: str) -> None:
        """Writes each line of a text to the log only."""
        if self.log is not None:
            for line in text.splitlines():
                self.log.write(escape_unprintable(line))

    def print_result(self, text: str) -> None:
        """Prints a result on stdout, unless quiet."""
        self.write_log(text)
        if not self.quiet:
            with self._remove_bar(sys.stdout):
                _write_line(sys.stdout, text)

    @property
    def keeps_remarks(self) -> bool:
        """True if remarks are printed or logged."""
        return not self.quiet or self.log is not None

    @property
    def result_width(self) -> int | None:
        """Columns available for a result; None if stdout is not a terminal."""
        return _measure_width(sys.stdout)

    def print_json(self, value: dict[str, Any], *, to_stderr: bool = False) -> None:
        """Prints a JSON object as one line on stdout, or on stderr if `to_stderr`."""
        text = json.dumps(value, allow_nan=False)
        if to_stderr:
            self._write_above_bar(text)
        else:
            with self._remove_bar(sys.stdout):
                _write_line(sys.stdout, text)

    def say(self, text: str) -> None:
        """Prints a remark on stderr, unless quiet."""
        self.write_log(text)
        if not self.quiet:
            self._print_message(text)

    def warn(self, text: str) -> None:
        """Prints a warning on stderr, unless quiet."""
        self.say(f"warning: {text}")

    def fail(self, text: str) -> None:
        """Prints an error on stderr, even if quiet."""
        self.write_log(f"error: {text}")
        self._print_message(text)

    def mention(self, text: str) -> None:
        """Prints text on stderr that the log already holds in other words, even if quiet."""
        self._print_message(text)

    @property
    def can_ask(self) -> bool:
        """True if a person can read a question on stderr and answer it on stdin."""
        return all(one is not None and one.isatty() for one in (sys.stdin, sys.stderr))

    def ask(self, question: str) -> bool:
        """Asks on stderr and reads a line of stdin; any answer but y or yes is a no."""
        sys.stderr.write(escape_unprintable(f"dinac: {question} [y/N] "))
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:  # end of input: the cursor is still in the line of the question
            _write_line(sys.stderr, "")
        return answer.strip().lower() in ("y", "yes")

    def track(self, title: str, state: RunState) -> AbstractContextManager[Callable[[], None]]:
        """Shows the progress of a run. The context yields a function to call after every file."""
        if self.draws_bar:
            return self._draw_bar(title, state)
        if self.shows_progress:
            return nullcontext(self._make_printer(title, state))
        return nullcontext(lambda: None)

    def track_phases(
        self, title: str, state: RunState, *, ticks: bool = True
    ) -> AbstractContextManager[Callable[[], None]]:
        """Shows the progress of work that has phases instead of files; prints no progress lines.

        The context yields a function to call after every change. If `ticks` is false, the bar is
        redrawn only then, so that redrawing does not disturb a measurement. SIGTERM may end the
        process at any time, so the cursor stays visible.
        """
        if self.draws_bar:
            return self._draw_bar(title, state, ticks=ticks, hides_cursor=False)
        return nullcontext(lambda: None)

    def _make_printer(self, title: str, state: RunState) -> Callable[[], None]:
        """Returns a function that prints a line every few seconds, for logs and pipes."""
        last = time.monotonic()

        def print_line() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL_SECONDS:
                last = now
                total = "" if state.total is None else f"/{state.total}"
                self._print_message(f"{title} {state.done}{total}, {state.describe_line(200)}")

        return print_line

    @contextmanager
    def _draw_bar(
        self, title: str, state: RunState, *, ticks: bool = True, hides_cursor: bool = True
    ) -> Iterator[Callable[[], None]]:
        """Draws a bar and a line of text, redraws both in place, and removes both at the end."""
        from rich.console import Console as RichConsole
        from rich.live import Live

        screen = RichConsole(stderr=True, highlight=False, markup=False)

        def start_bar() -> Live:
            live = Live(
                get_renderable=lambda: _render_progress(title, state, screen.width),
                console=screen,
                auto_refresh=ticks,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            live.start()
            if not hides_cursor:
                screen.show_cursor(True)
            return live

        self._start_bar = start_bar
        self._live = start_bar()
        try:
            yield (lambda: None) if ticks else self._redraw
        finally:
            live, self._live = self._live, None
            live.stop()

    def _redraw(self) -> None:
        assert self._live is not None, "called only while the bar is drawn"
        self._live.refresh()

    @contextmanager
    def _remove_bar(self, stream: TextIO | None) -> Iterator[None]:
        """Removes the bar while the caller writes to `stream`, if `stream` is a terminal too."""
        if self._live is None or stream is None or not stream.isatty():
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._start_bar()

    def _print_message(self, text: str) -> None:
        self._write_above_bar(escape_unprintable(f"dinac: {text}"))

    def _write_above_bar(self, text: str) -> None:
        if self._live is None:
            _write_line(sys.stderr, text)
            return
        from rich.text import Text

        self._live.console.print(Text(fit_encoding(text, sys.stderr)), soft_wrap=True)


def _render_progress(title: str, state: RunState, width: int) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = fit_encoding(state.describe_line(width - 1), sys.stderr)
    if not line:
        return Group()
    done, total = state.done, state.total
    bar = ProgressBar(total=total, completed=done, pulse=total is None, width=width // 3)
    head = Table.grid(padding=(0, 1))
    head.add_row(Text(title, style="bold"), bar, Text(_format_count(done, total)))
    return Group(head, Text(line, style="dim", no_wrap=True))


def _format_count(done: int, total: int | None) -> str:
    """Returns e.g. `1,200/5,000`, or an empty text for work that is not counted."""
    if total is None:
        return f"{done:,}/?" if done else ""
    return f"{done:,}/{total:,}"


def escape_unprintable(text: str) -> str:
    """Returns `text` on one line. Control characters and undecodable bytes become escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def _measure_width(stream: TextIO | None) -> int | None:
    """Returns the width of the terminal that `stream` writes to, or None without a terminal."""
    try:
        if stream is None or not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _write_line(stream: TextIO | None, text: str) -> None:
    if stream is None:  # the parent process closed the stream
        return
    stream.write(fit_encoding(text, stream) + "\n")
    stream.flush()


def fit_encoding(text: str, stream: TextIO) -> str:
    """Returns `text` with characters that `stream` can write.

    dinac's own symbols become ASCII, and other characters become escapes.
    """
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for symbol, plain in _PLAIN_SYMBOLS:
            text = symbol.sub(plain, text)
    return text.encode(encoding, "backslashreplace").decode(encoding)

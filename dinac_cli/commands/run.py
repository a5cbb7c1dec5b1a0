"""Turns the results of a run into what is printed, written and returned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from typing import Any

from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import STOPPING, SignalledStop
from dinac_cli.jobs.executor.control import StageClock, StopRequest
from dinac_cli.jobs.results import FileResult, Status, Tally
from dinac_cli.storage.atomic import describe_write_error
from dinac_cli.storage.inputs import STDIN_NAME

EXIT_FAILURES = 3
STOPPED = "dinac: stopped before the end; run the same command again to go on"


@dataclass(frozen=True)
class Ending:
    """What a run says last: one line for people, one object for programs, and if it was stopped."""

    describe: Callable[[RunProgress], str]
    to_json: Callable[[Tally], dict[str, Any]] = Tally.to_json
    stopped: str = STOPPED


@dataclass(frozen=True)
class ReportOptions:
    """The "Screen and reports" options of a command. With `records_on_stdout`, JSON moves away."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    failures: str | None = None
    fail_fast: bool = False
    records_on_stdout: bool = False


@dataclass
class RunProgress:
    """The figures of a running job, as the progress display shows them."""

    clock: StageClock
    total: int | None
    stop: StopRequest
    tally: Tally = field(default_factory=Tally)
    started: float = field(default_factory=time.monotonic)
    first_done: float | None = None

    @property
    def done(self) -> int:
        """Files that have an outcome."""
        return self.tally.finished

    def add(self, result: FileResult) -> None:
        """Count one result."""
        self.tally.add(result)
        if self.total is not None and self.done > self.total:
            self.total = None  # a file held several records, and others may
        if self.tally.worked and self.first_done is None:
            # Speed counts from the first output: loading the model is no part of it.
            self.first_done = time.monotonic()

    def describe_line(self, width: int) -> str:
        """Figures that fit into `width` characters, the more important ones kept."""
        if self.stop:
            return STOPPING[:width]
        tally = self.tally
        parts = [(0, f"{tally.failures} failed")] if tally.failures else []
        speed = self._files_per_second()
        if speed:
            parts.append((1, f"{speed:.1f} images/s"))
            if self.total is not None:
                parts.append((2, f"ETA {format_duration((self.total - self.done) / speed)}"))
            pixels = tally.pixels / tally.worked * speed
            parts.append((5, f"{pixels / 1e6:.1f} MP/s"))
        if tally.bytes_out:
            parts.append((3, format_sizes(tally.bytes_in, tally.bytes_out)))
            parts.append((4, f"limit: {self.clock.limiting}"))
        if not parts:
            parts = [(0, "starting")]
        while len(parts) > 1 and len(_join(parts)) > width:
            parts.remove(max(parts))
        return _join(parts)[:width]

    def _files_per_second(self) -> float | None:
        if self.first_done is None or self.tally.worked < 2:
            return None
        elapsed = time.monotonic() - self.first_done
        return (self.tally.worked - 1) / elapsed if elapsed > 0 else None


def report_run(
    title: str,
    ending: Ending,
    results: Generator[FileResult, None, None],
    progress: RunProgress,
    options: ReportOptions,
    console: Console,
    stop: SignalledStop,
    count_others: Callable[[], int],
) -> int:
    """Consume a run; returns the exit code."""
    with ExitStack() as stack:
        failures = stack.enter_context(open_failures(options.failures))
        stack.callback(results.close)
        update = stack.enter_context(console.track(title, progress))
        for result in results:
            if stop and result.failed and result.file == STDIN_NAME:
                continue  # reading it was cut off, which says nothing about what it holds
            progress.add(result)
            _report_file(result, options, console, failures)
            update()
            if result.failed and options.fail_fast:
                stop.set()  # what is in flight is finished, and reported
    progress.tally.not_inputs = count_others()
    if options.json:
        console.print_json(ending.to_json(progress.tally), to_stderr=options.records_on_stdout)
    else:
        text = ending.describe(progress)
        (console.say if options.records_on_stdout else console.print_result)(text)
    if stop:
        console.say(ending.stopped)
    if stop.exit_code is not None:
        return stop.exit_code
    return EXIT_FAILURES if progress.tally.failures else 0


def end_with(verb: str) -> Ending:
    """The ending of a run that makes outputs; `verb` is what was done: "encoded", "decoded"."""
    return Ending(partial(describe_summary, verb=verb))


def describe_summary(progress: RunProgress, verb: str) -> str:
    """The last line of a run that makes outputs."""
    tally = progress.tally
    parts = [f"{tally.written} {verb}"]
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
        text += f" in {format_duration(time.monotonic() - progress.started)}"
    return text


def describe_others(tally: Tally) -> list[str]:
    """The part of a summary that counts files which are no inputs; empty where there are none."""
    if not tally.not_inputs:
        return []
    files = "file" if tally.not_inputs == 1 else "files"
    return [f"{tally.not_inputs} other {files} passed over"]


def format_sizes(size_in: int, size_out: int) -> str:
    """`3.1 MB → 1.2 MB (0.39x)`."""
    ratio = f" ({size_out / size_in:.2f}x)" if size_in else ""
    return f"{format_size(size_in)} → {format_size(size_out)}{ratio}"


def format_size(size_bytes: float) -> str:
    """Bytes in decimal units: `1.2 MB`."""
    if size_bytes < 999.5:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:  # what is not rounded up to 1000.0
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"


def format_duration(seconds: float) -> str:
    """`4.2 s`, `3:07` or `2:03:07`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _join(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)


@dataclass(frozen=True)
class FailuresFile:
    """The `--failures` file, to which each failure goes at once."""

    path: str
    file: FileIO

    def add(self, result: FileResult) -> None:
        """Write one line of JSON. Raises OutputError; UnwritableDiskError where no more fits."""
        line = memoryview(json.dumps(result.to_json()).encode() + b"\n")
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as exc:
            raise describe_write_error(exc, f"--failures {self.path}") from exc


@contextmanager
def open_failures(path: str | None) -> Iterator[FailuresFile | None]:
    """The `--failures` file, or None where it is not asked for. Raises OutputError."""
    if path is None:
        yield None
        return
    try:
        file = FileIO(path, "w")
    except OSError as exc:
        raise describe_write_error(exc, f"--failures {path}") from exc
    with file:
        yield FailuresFile(path, file)


def report_problems(result: FileResult, console: Console, failures: FailuresFile | None) -> None:
    """Name a file that failed, with its reason, on stderr and in the failures file; and warn."""
    if result.failed:
        console.fail(f"{result.file}: {result.reason}")
        if failures is not None:
            failures.add(result)
    for warning in result.warnings:
        console.warn(f"{result.file}: {warning}")


def _report_file(
    result: FileResult, options: ReportOptions, console: Console, failures: FailuresFile | None
) -> None:
    report_problems(result, console, failures)
    if result.status is Status.WRITTEN and result.reason:
        console.say(f"dinac: {result.file}: made again: {result.reason}")
    elif options.verbose and not result.failed:
        place = f" → {result.output}" if result.output else ""
        delta = "" if result.delta is None else f", largest |Δ| {result.delta:.3g}"
        console.say(f"dinac: {result.file}{place} ({result.status.value}{delta})")
    if options.json:
        console.print_json(result.to_json(), to_stderr=options.records_on_stdout)

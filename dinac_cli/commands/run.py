"""Runs a request, shows its progress, stops it on signals, and reports its results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from dinac_cli.codec.machine import bound_memory, configure_threads
from dinac_cli.commands.failure_list import open_failures, read_known_failures
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.failures import FailureLines
from dinac_cli.commands.screen.progress import RunProgress, show_phases
from dinac_cli.commands.screen.signals import (
    STDIN_CLOSED,
    SignalledStop,
    open_stdin,
    stop_on_signals,
)
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.errors import UsageError
from dinac_cli.jobs.request import InputRequest, Request, Run
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import STDIN, STDIN_NAME
from dinac_cli.storage.output import STDOUT

R = TypeVar("R", bound=Run)

_UNCHECKED = (
    "damaged JPEGs were not recognised: simplejpeg is not installed; pip install 'dinac-cli[fast]'"
)


@dataclass(frozen=True, kw_only=True)
class ScreenOptions:
    """The "Screen and reports" options of a command, and `--fail-fast`."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    failures: str | None = None
    fail_fast: bool = False
    no_progress: bool = False
    known_failures: str | None = None

    def open_console(self) -> Console:
        """Returns a console with these options."""
        return Console(quiet=self.quiet, verbose=self.verbose, progress=not self.no_progress)


def read_inputs(
    paths: list[str] | None,
    files_from: str | None,
    null: bool,
    root: str | None,
    limit: int | None,
    shard: str | None,
) -> InputRequest:
    """Makes a request from the "Inputs" options.

    If `files_from` is `-`, reads the list from standard input, unless `-` is one of the paths.
    Raises UsageError if standard input is closed.
    """
    named = tuple(paths or ())
    listed = None
    if files_from == STDIN and STDIN not in named:
        if sys.stdin is None:
            raise UsageError(STDIN_CLOSED)
        listed = sys.stdin.buffer.read()
    return InputRequest(
        paths=named,
        files_from=files_from,
        listed=listed,
        null=null,
        root=root,
        limit=limit,
        shard=shard,
    )


def run_request(
    request: Request[R],
    summarise: Callable[[R], Summary],
    options: ScreenOptions,
    out: str | None = None,
) -> int:
    """Runs a request to the end; returns the exit code.

    `summarise` makes the summary of the run. `out` is the argument OUT, or None if the
    command never writes to standard output.
    """
    console = options.open_console()
    stdout = open_stdout(out)
    known = read_known_failures(options.known_failures, console.warn)
    run = request.open(console.say)
    with show_phases(console, request.command) as watch:
        total = run.count(watch)
    if request.uses_model:
        tune_process(request)
    with stop_on_signals(console) as stop:
        control = request.make_control(stop)
        progress = RunProgress(control.clock, total, stop)
        control.stdin = open_stdin(stop) if run.reads_stdin else None
        control.stdout = stdout
        results = run.start(control)
        reporter = _Reporter(
            summarise(run), progress, options, console, stop, known, stdout is not None
        )
        reporter.consume(request.command, results, run)
        return reporter.finish()


def tune_process(request: Request[Run]) -> None:
    """Configures the threads and the memory of torch. Call this before torch is imported."""
    configure_threads()
    if request.bounds_memory:
        bound_memory()


def open_stdout(out: str | None) -> BinaryIO | None:
    """Returns the binary standard output if OUT is `-`, else None.

    Raises UsageError if standard output is a terminal or is closed.
    """
    if out != STDOUT:
        return None
    if sys.stdout is None:
        raise UsageError("standard output is closed; name a file or folder")
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal; redirect it, or name a file or folder")
    return sys.stdout.buffer


@dataclass
class _Reporter:
    """Prints results, writes the failures file, and chooses the exit code.

    `known` are the failures that need not be printed, as pairs of file and reason.
    """

    summary: Summary
    progress: RunProgress
    options: ScreenOptions
    console: Console
    stop: SignalledStop
    known: frozenset[tuple[str, str]]
    records_on_stdout: bool
    known_count: int = 0

    def consume(self, title: str, results: Generator[FileResult, None, None], run: Run) -> None:
        """Reports every result of a run."""
        with (
            open_failures(self.options.failures) as note_failure,
            closing(results),
            closing(FailureLines(self.console, self._say_where())) as failures,
            self.console.track(title, self.progress) as update,
        ):
            for result in results:
                if self.stop and result.failed and result.file == STDIN_NAME:
                    continue  # the stop cut off the input; the data may be valid
                self.progress.add(result)
                self.summary.add(result)
                if result.failed:
                    self._report_failure(result, failures)
                    note_failure(result)
                self._report_file(result)
                update()
                if result.failed and self.options.fail_fast:
                    self.stop.set()  # the work in flight finishes, and results still come
        self.progress.tally.not_inputs = run.not_inputs

    def finish(self) -> int:
        """Prints the summary and returns the exit code."""
        if self.options.json:
            summary = self.summary.to_json(self.progress)
            if self.options.known_failures is not None:
                summary["known_failures"] = self.known_count
            self.console.print_json(summary, to_stderr=self.records_on_stdout)
        else:
            text = self._describe()
            if text:
                (self.console.say if self.records_on_stdout else self.console.print_result)(text)
        if self.stop:
            self.console.say(self.summary.stopped)
        elif not self.console.quiet:  # remarks may take time to find
            if self.progress.tally.unchecked:
                self.console.say(_UNCHECKED)
            for remark in self.summary.remarks():
                self.console.say(remark)
        if self.stop.exit_code is not None:
            return self.stop.exit_code
        return self.summary.choose_exit(self.progress.tally)

    def _describe(self) -> str:
        """Returns the summary, and how many failures were not printed because they are known."""
        lines = [self.summary.describe(self.progress)]
        if self.known_count:
            are = "failure is" if self.known_count == 1 else "failures are"
            lines.append(f"{self.known_count} known {are} listed in {self.options.known_failures}")
        return "\n".join(filter(None, lines))

    def _report_failure(self, result: FileResult, failures: FailureLines) -> None:
        is_known = (result.file, result.reason or "") in self.known
        self.known_count += is_known
        if self.console.verbose or not is_known:
            failures.add(result.file, result.reason or "", result.name)
        for line in result.details if self.options.verbose else ():
            self.console.fail(f"{result.file}: {line}")

    def _say_where(self) -> str:
        """Says where the user finds the failed files that the screen does not name."""
        path = self.options.failures
        return "-v or --failures FILE lists them" if path is None else f"{path} lists them"

    def _report_file(self, result: FileResult) -> None:
        for warning in result.warnings:
            self.console.warn(f"{result.file}: {warning}")
        if not self.summary.lists_files:
            return
        if result.status is Status.WRITTEN and result.reason:
            self.console.say(f"{result.file}: redone: {result.reason}")
        elif self.options.verbose and not result.failed:
            place = f" → {result.output}" if result.output else ""
            delta = "" if result.delta is None else f", largest |Δ| {result.delta:.3g}"
            reason = f": {result.reason}" if result.status is Status.SKIPPED else ""
            self.console.say(f"{result.file}{place} ({result.status.value}{delta}{reason})")
        if self.options.json:
            self.console.print_json(result.to_json(), to_stderr=self.records_on_stdout)

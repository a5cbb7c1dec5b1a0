"""Runs a request, shows its progress, stops it on signals, and reports its results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

from dinac_cli.codec.machine import bound_memory, configure_threads
from dinac_cli.commands.failure_list import KnownFailures, is_same_file, open_failures, read_known
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.file_lines import FileLines, Topic
from dinac_cli.commands.screen.log import Log, LogChoice, open_log
from dinac_cli.commands.screen.progress import RunProgress, show_phases
from dinac_cli.commands.screen.signals import (
    STDIN_CLOSED,
    SignalledStop,
    open_stdin,
    stop_on_signals,
)
from dinac_cli.commands.screen.summary import UNCHECKED, Summary
from dinac_cli.errors import UsageError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.request import InputRequest, ProcessRequest, Request, Run
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import STDIN, STDIN_NAME
from dinac_cli.storage.lock import hold_folder
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.urls import hide_secrets, is_url

R = TypeVar("R", bound=Run)


@dataclass(frozen=True, kw_only=True)
class ScreenOptions:
    """The "Screen and reports" options of a command, `--fail-fast` and `--lock`."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    failures: str | None = None
    known: str | None = None
    log: LogChoice | None = None
    no_progress: bool = False
    fail_fast: bool = False
    lock: bool = False

    def open_console(self, log: Log | None = None) -> Console:
        """Returns a console with these options, which also writes to `log`."""
        return Console(
            quiet=self.quiet, verbose=self.verbose, progress=not self.no_progress, log=log
        )


def read_inputs(
    paths: list[str] | None,
    files_from: str | None,
    null: bool,
    root: str | None,
    exclude: list[str] | None,
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
        exclude=tuple(exclude or ()),
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
    log_path = None if options.log is None else options.log.path
    if log_path and options.failures and is_same_file(log_path, options.failures):
        raise UsageError("--log and --failures name the same file; name two files")
    with open_log(options.log) as log:
        code = _run_and_report(request, summarise, options, options.open_console(log), out)
        if log is not None:
            log.end(code)
    return code


def _run_and_report(
    request: Request[R],
    summarise: Callable[[R], Summary],
    options: ScreenOptions,
    console: Console,
    out: str | None,
) -> int:
    stdout = open_stdout(out)
    known = read_known(options.known, console.warn)
    run = request.open(console.say)
    for remark in run.describe_list():
        console.say(remark)
    with hold_out(run.output, console, out) if options.lock else nullcontext():
        with show_phases(console, request.command) as watch:
            total = run.count(watch)
        if isinstance(request, ProcessRequest) and run.threads is not None:
            request = replace(request, threads=run.threads)
        if request.uses_model:
            tune_process(request)
        with stop_on_signals(console) as stop:
            control = request.make_control(stop)
            workers = control.processes * max(1, control.workers)
            if isinstance(request, ProcessRequest) and not request.knows_processes:
                workers = 0
            devices = max(1, len(control.devices))
            progress = RunProgress(control.clock, total, stop, lambda: run.total, workers, devices)
            control.stdin = open_stdin(stop) if run.reads_stdin else None
            control.stdout = stdout
            control.say = console.say if options.verbose else control.say
            control.warn = console.warn
            results = run.start(control)
            reporter = _Reporter(
                summarise(run), progress, options, console, stop, known, stdout is not None
            )
            reporter.consume(request.command, results, run, control)
            return reporter.finish()


@contextmanager
def hold_out(
    output: Output | None, console: Console, argument: str | None = None
) -> Iterator[None]:
    """Keeps other runs with `--lock` out of OUT during the `with` block.

    `argument` is OUT as the user named it. A remote place has no locks and needs none. Raises
    UsageError if OUT is not a folder, and OutputError if another run holds it.
    """
    if argument is not None and is_url(argument):
        place = hide_secrets(argument)
        console.warn(f"{place}: --lock has no effect here; two runs write the same files")
        yield
        return
    if output is None or output.kind is not OutputKind.FOLDER:
        raise UsageError("--lock needs a folder as OUT; name a folder, or leave out --lock")
    refusal = f"{output.path}: another run holds the lock of this folder; wait for its end"
    with hold_folder(output.path, refusal) as is_locked:
        if not is_locked:
            console.warn(f"{output.path}: this system cannot lock the folder; --lock has no effect")
        yield


def tune_process(request: Request[Run]) -> None:
    """Configures the threads and the memory of torch. Call this before torch is imported.

    Worker processes configure themselves.
    """
    threads = None
    if isinstance(request, ProcessRequest):
        if request.make_control().processes > 1:
            return
        threads = request.threads
    configure_threads(threads)
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

    `known` are the failures that an earlier run reported.
    """

    summary: Summary
    progress: RunProgress
    options: ScreenOptions
    console: Console
    stop: SignalledStop
    known: KnownFailures
    records_on_stdout: bool

    def consume(
        self,
        title: str,
        results: Generator[FileResult, None, None],
        run: Run,
        control: RunControl,
    ) -> None:
        """Reports every result of a run."""
        with (
            open_failures(self.options.failures, self.options.known, self._is_whole) as note,
            closing(results),
            closing(FileLines(self.console, self._say_where())) as lines,
            self.console.track(title, self.progress) as update,
        ):
            control.tick = update
            for result in results:
                if self.stop and result.failed and result.file == STDIN_NAME:
                    continue  # the stop cut off the input; the data may be valid
                self.progress.add(result)
                self.summary.add(result)
                is_known = self.known.hold(result)
                self.progress.tally.known += is_known
                if result.failed:
                    self._report_failure(result, lines, is_known=is_known)
                    note(result)
                self._report_file(result, lines)
                update()
                if result.failed and not is_known and self.options.fail_fast:
                    self.stop.set()  # the work in flight finishes, and results still come
        self.progress.tally.not_inputs = run.not_inputs

    def finish(self) -> int:
        """Prints the summary and returns the exit code."""
        code = self.stop.exit_code
        if code is None:
            code = self.summary.choose_exit(self.progress.tally)
        self._print_summary()
        if self.stop:
            self.console.say(self.summary.stopped)
        elif self.console.keeps_remarks:  # remarks may take time to find
            if self.progress.tally.unchecked:
                self.console.say(UNCHECKED)
            if hint := self.progress.describe_idle_device():
                self.console.say(hint)
            for remark in self.summary.remarks():
                self.console.say(remark)
        if code and self.console.quiet and self.console.log is not None:
            self._explain_failure(self.console.log)
        return code

    def _print_summary(self) -> None:
        text = self._describe()
        if self.options.json:
            summary = self.summary.to_json(self.progress)
            if self.options.known is not None:
                summary["known"] = self.progress.tally.known
            self.console.write_log(text)
            self.console.print_json(summary, to_stderr=self.records_on_stdout)
        elif self.records_on_stdout:
            for line in text.splitlines():
                self.console.say(line)
        elif text:
            self.console.print_result(text)

    def _explain_failure(self, log: Log) -> None:
        """Ends a quiet run that keeps a log and failed: a mail of its output needs a summary."""
        for line in self._describe().splitlines():
            self.console.mention(line)
        if self.stop:
            self.console.mention(self.summary.stopped)
        self.console.mention(f"{log.path} has the details")

    def _is_whole(self) -> bool:
        return not self.stop

    def _describe(self) -> str:
        """Returns the summary, and how many failures are known."""
        lines = [self.summary.describe(self.progress)]
        if known := self.progress.tally.known:
            are = "failure is" if known == 1 else "failures are"
            lines.append(f"{known} known {are} listed in {self.options.known}")
        return "\n".join(filter(None, lines))

    def _report_failure(self, result: FileResult, lines: FileLines, *, is_known: bool) -> None:
        if self.console.verbose or not is_known:
            lines.add(Topic.FAILURE, result.file, result.reason or "", result.name)
        for line in result.details if self.options.verbose else ():
            self.console.fail(f"{result.file}: {line}")

    def _say_where(self) -> str:
        """Says where the user finds the failed files that the screen does not name."""
        path = self.options.failures
        return "-v or --failures FILE lists them" if path is None else f"{path} lists them"

    def _report_file(self, result: FileResult, lines: FileLines) -> None:
        for warning in result.warnings:
            lines.add(Topic.WARNING, result.file, warning, result.name)
        if not self.summary.lists_files:
            return
        if result.status is Status.WRITTEN and result.reason:
            reason = result.reason + (result.lack if self.options.verbose else "")
            lines.add(Topic.REDONE, result.file, reason, result.name)
        elif self.options.verbose and not result.failed:
            place = f" → {result.output}" if result.output else ""
            delta = "" if result.delta is None else f", largest |Δ| {result.delta:.3g}"
            has_reason = result.status in (Status.SKIPPED, Status.RENAMED)
            reason = f": {result.reason}" if has_reason else ""
            self.console.say(
                f"{result.file}{place} ({result.status.value}{delta}{result.lack}{reason})"
            )
        if self.options.json:
            self.console.print_json(result.to_json(), to_stderr=self.records_on_stdout)

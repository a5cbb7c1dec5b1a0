"""What encode, decode and verify have in common: from options to a running job and its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import BinaryIO

from dinac_cli.codec.machine import bound_memory, configure_threads, count_processors
from dinac_cli.commands.run import Ending, ReportOptions, RunProgress, report_run
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import open_stdin, stop_on_signals
from dinac_cli.commands.values import parse_batch_size
from dinac_cli.errors import UsageError
from dinac_cli.jobs.executor.control import RunControl, StopRequest
from dinac_cli.jobs.request import reads_stdin
from dinac_cli.jobs.results import FileResult
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.output import STDOUT, Output, OutputKind

Start = Callable[[RunControl, BinaryIO | None], Generator[FileResult, None, None]]


@dataclass(frozen=True)
class RunOptions:
    """The "Run" options of such a command, and whether it bounds memory at the cost of speed."""

    workers: int | None
    batch_size: str
    is_bounded: bool = False


def run_batch(
    title: str,
    ending: Ending,
    start: Start,
    scan: InputScan,
    total: int | None,
    run: RunOptions,
    report: ReportOptions,
    console: Console,
) -> int:
    """Run a job under signals, progress and report; returns the exit code.

    `start` gets the control and, where it is an input, standard input, and gives the results.
    """
    with stop_on_signals(console) as stop:
        control = make_control(run, stop)
        progress = RunProgress(control.clock, total, stop)
        results = start(control, open_stdin(stop) if reads_stdin(scan) else None)
        return report_run(
            title, ending, results, progress, report, console, stop, lambda: scan.others
        )


def make_control(run: RunOptions, stop: StopRequest) -> RunControl:
    """The limits of a run, and what is told to torch before it is imported. Raises UsageError."""
    workers = run.workers or min(16, count_processors())
    in_flight = parse_batch_size(run.batch_size) or 4 * workers
    configure_threads()
    if run.is_bounded:
        bound_memory()
    return RunControl(workers, in_flight, stop)


def prepare_out(output: Output) -> None:
    """Make OUT's folder: where that fails it is an error of the run, not of each file of it.

    Raises OutputError.
    """
    if output.kind is not OutputKind.STREAM:
        output.prepare(output.locate(""))


def open_stdout(out: str) -> BinaryIO | None:
    """Standard output as bytes where OUT is `-`, else None.

    Raises UsageError where that is a person's screen, or closed.
    """
    if out != STDOUT:
        return None
    if sys.stdout is None:
        raise UsageError("standard output is closed: name a file or folder")
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal: redirect it, or name a file or folder")
    return sys.stdout.buffer

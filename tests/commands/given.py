"""A run that yields given results, to test how commands report a run."""

from __future__ import annotations

import signal
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from dinac_cli.commands.run import ScreenOptions, run_request
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.phase import Watch, ignore_phase
from dinac_cli.jobs.request import Announce, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult


class GivenRun(Run):
    """A run that yields given results, after a signal to this process if it has one."""

    def __init__(self, *results: FileResult, signal_number: int | None = None) -> None:
        self.results = results
        self.signal_number = signal_number
        self.given = 0
        self.closed = False

    @property
    def not_inputs(self) -> int:
        return 7

    def count(self, watch: Watch = ignore_phase) -> int:
        return len(self.results)

    def start(self, control: RunControl) -> Generator[FileResult, None, None]:
        try:
            if self.signal_number is not None:
                signal.raise_signal(self.signal_number)
            for result in self.results:
                if control.stop:
                    return
                self.given += 1
                yield result
        finally:
            self.closed = True


@dataclass(frozen=True, kw_only=True)
class EncodeRequest(Request[GivenRun]):
    """A request that opens as a given run. Its progress lines start with "encode"."""

    run: GivenRun
    command: ClassVar[str] = "encode"
    uses_model: ClassVar[bool] = False

    def open(self, announce: Announce = keep_quiet) -> GivenRun:
        return self.run


def run_given(
    run: GivenRun, summary: Summary, screen: ScreenOptions, out: str | None = None
) -> int:
    """Reports a run as a command does; returns the exit code."""
    return run_request(EncodeRequest(run=run), lambda run: summary, screen, out)

"""The report of a PSNR run: a table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

from dinac_cli.commands.run import (
    EXIT_FAILURES,
    ReportOptions,
    RunProgress,
    open_failures,
    report_problems,
)
from dinac_cli.commands.screen.console import Console, escape_unprintable
from dinac_cli.commands.screen.signals import SignalledStop
from dinac_cli.commands.screen.tables import list_facts
from dinac_cli.images.metrics import PsnrSummary, psnr_as_json, summarise_psnr
from dinac_cli.jobs.executor.control import StageClock
from dinac_cli.jobs.results import FileResult, Status

_TABLE_WIDTH = 80
STOPPED_MEASURING = "dinac: stopped before the end; these are the figures of what was measured"
_COLUMNS = ("mean", "std", "median", "p5", "p95", "min", "max")


@dataclass
class MeasureReport:
    """Consumes the results of a PSNR run and prints what they come to."""

    console: Console
    options: ReportOptions
    total: int | None = None

    def consume(
        self, pairs: Generator[FileResult, None, None], clock: StageClock, stop: SignalledStop
    ) -> int:
        """Print every failure and the summary; returns the exit code."""
        progress = RunProgress(clock, self.total, stop)
        files: list[dict[str, Any]] = []
        values: list[float] = []
        with (
            open_failures(self.options.failures) as failures,
            self.console.track("psnr", progress) as update,
        ):
            for result in pairs:
                progress.add(result)
                report_problems(result, self.console, failures)
                if result.psnr_db is not None:
                    values.append(result.psnr_db)
                if self.options.json or self.options.verbose:
                    files.append(describe_pair(result))
                update()
        self._print(summarise_psnr(values), progress.tally.failures, files, progress)
        if stop.exit_code is not None:
            self.console.say(STOPPED_MEASURING)
            return stop.exit_code
        return EXIT_FAILURES if progress.tally.failures or not values else 0

    def _print(
        self,
        summary: PsnrSummary,
        failed: int,
        files: list[dict[str, Any]],
        progress: RunProgress,
    ) -> None:
        missing = progress.tally.counts[Status.MISSING]
        if self.options.json:
            counts = {"missing": missing, "failed": failed - missing, "files": files}
            self.console.print_json({**asdict(summary), **counts})
            return
        for entry in files:
            if "psnr" in entry:
                self.console.print_result(format_pair(entry))
        width = self.console.result_width
        for line in format_table(summary, missing, failed - missing, width):
            self.console.print_result(line)


def describe_pair(result: FileResult) -> dict[str, Any]:
    """One pair of the JSON report; an identical pair's infinite PSNR is null."""
    entry: dict[str, Any] = {"file": result.file, "status": result.status.value}
    if result.psnr_db is not None:
        entry |= {"other": result.output, "psnr": psnr_as_json(result.psnr_db)}
    if result.reason:
        entry["reason"] = result.reason
    return entry


def format_pair(entry: dict[str, Any]) -> str:
    """One line of the verbose report: the PSNR, then the name."""
    value = "identical" if entry["psnr"] is None else f"{entry['psnr']:.2f} dB"
    return f"{value:>9}  {escape_unprintable(entry['file'])}"


def format_table(
    summary: PsnrSummary, missing: int, failed: int, width: int | None = None
) -> list[str]:
    """The table: a line of names, a line of figures, both fitting 80 columns where they can.

    On a terminal whose `width` does not hold them it stands on end: a line for each figure.
    """
    names = ["PSNR", *_COLUMNS, "images"]
    figures = (_format_db(getattr(summary, name)) for name in _COLUMNS)
    values = ["dB", *figures, str(summary.count)]
    for name, count in (
        ("identical", summary.identical),
        ("missing", missing),
        ("failed", failed),
    ):
        if count:
            names.append(name)
            values.append(str(count))
    widths = [max(len(name), len(value)) for name, value in zip(names, values, strict=True)]
    if width is not None and sum(widths) + len(widths) - 1 > width:
        return list(list_facts(list(zip(names, values, strict=True))))
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= _TABLE_WIDTH else " "
    return [
        gap.join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (names, values)
    ]


def _format_db(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

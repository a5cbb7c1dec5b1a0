"""The report of a benchmark: tables for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinac_cli.commands.inputs import IMAGES
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.tables import Table, align
from dinac_cli.errors import UsageError
from dinac_cli.models.registry import AUTO, ResolvedModel, choose_default, resolve_model
from dinac_cli.storage.inputs import InputScan

if TYPE_CHECKING:
    from dinac_cli.bench.benchmark import Benchmark, BenchRequest
    from dinac_cli.bench.network import Comparison, NetworkFigures
    from dinac_cli.bench.processes import CommandFigures, CommandLine
    from dinac_cli.bench.stages import StageFigures

EXIT_INACCURATE = 1


def choose_images(named: list[str]) -> tuple[Path, ...]:
    """The images that commands are timed on. Raises UsageError where one is not there."""
    if not named:
        return ()
    paths = []
    for entry in InputScan(IMAGES, tuple(named)):
        if entry.problem or entry.path is None:
            raise UsageError(f"{entry.label}: {entry.problem or 'cannot be timed'}")
        paths.append(Path(entry.path))
    if not paths:
        raise UsageError(f"no images found in {', '.join(named)}")
    return tuple(paths)


def choose_model(
    model: str, revision: str | None, random_weights: str | None, device: str, console: Console
) -> ResolvedModel | None:
    """The model to time, None for random weights. Raises ModelError, UsageError."""
    if random_weights is not None:
        if model != AUTO:
            raise UsageError("--random-weights stands instead of --model: leave one of them out")
        return None
    if model == AUTO:
        model = choose_default(device)
    return resolve_model(model, revision, announce=lambda text: console.say(f"dinac: {text}"))


def report_benchmark(
    request: BenchRequest, only: str | None, as_json: bool, console: Console
) -> int:
    """Measure, and print what comes of it; returns the exit code."""
    from dinac_cli.bench.benchmark import Benchmark

    if len(request.file_counts) < 2:
        raise UsageError("--files: name two numbers or more; a line takes two points")
    benchmark = Benchmark(request)
    report = _Report(benchmark, console, as_json)
    report.add_machine()
    if only != "commands":
        report.add_networks()
    if only != "network":
        report.add_commands()
    return report.finish()


class _Report:
    """Collects for JSON, or prints each table as soon as it is there."""

    def __init__(self, benchmark: Benchmark, console: Console, as_json: bool) -> None:
        self._benchmark = benchmark
        self._console = console
        self._as_json = as_json
        self._collected: dict[str, Any] = {}
        self._failures: list[str] = []

    def add_machine(self) -> None:
        self._collected["machine"] = machine = self._benchmark.describe()
        self._print(
            "{model}; {device}, {dtype}, {threads} threads, torch {torch}; "
            "matrix products {matmul_tflops:.2f} TFLOP/s".format(**machine)
        )

    def add_networks(self) -> None:
        """Time the networks, and what they are compared with; check the error of the fast one."""
        from dinac_cli.bench.network import compare_with

        figures = self._collect("network", self._benchmark.measure_networks(), "networks")
        self._print_table(tabulate_networks(figures))
        compared = self._benchmark.request.compare
        if compared is not None:
            comparisons = compare_with(compared, figures)
            self._collected["compare"] = [asdict(comparison) for comparison in comparisons]
            for comparison in comparisons:
                self._print(describe_comparison(comparison))
        checks = self._benchmark.check_accuracy()
        self._collected["accuracy"] = [{**asdict(c), "holds": c.holds} for c in checks]
        for check in checks:
            text = f"{check.task}, {check.network}: {check.error:.2g} (at most {check.bound:.2g})"
            self._print(f"error of {text}")
            if not check.holds:
                self._failures.append(f"the error of {text} is too large")

    def add_commands(self) -> None:
        """Time whole commands and their stages."""
        from dinac_cli.bench.processes import fit_line

        runs = self._collect("commands", self._benchmark.measure_commands(), "commands")
        lines = [fit_line(command, runs) for command in ("encode", "decode")]
        self._collected["lines"] = [asdict(line) for line in lines]
        self._print_table(tabulate_commands(runs))
        for line in lines:
            self._print(describe_line(line))
        stages = self._collect("stages", self._benchmark.measure_stages(), "stages")
        for entry, figures in zip(self._collected["stages"], stages, strict=True):
            entry["ratio"] = figures.ratio
            entry["overlapped_ratio"] = figures.overlapped_ratio
        self._print_table(tabulate_stages(stages))

    def finish(self) -> int:
        if self._as_json:
            self._console.print_json(self._collected)
        for failure in self._failures:
            self._console.fail(failure)
        return EXIT_INACCURATE if self._failures else 0

    def _collect(self, key: str, figures: Iterable[Any], what: str) -> list[Any]:
        self._console.say(f"dinac: timing the {what}")
        collected = list(figures)
        self._collected[key] = [asdict(entry) for entry in collected]
        return collected

    def _print(self, text: str) -> None:
        if not self._as_json:
            self._console.print_result(text)

    def _print_table(self, rows: Table) -> None:
        for line in align(rows):
            self._print(line)
        self._print("")


def tabulate_networks(figures: Sequence[NetworkFigures]) -> Table:
    """One row a contender, task, size and batch; under 80 columns."""
    table = [
        ["task", "NFE", "network", "size", "batch", "ms/batch", "ms/image", "images/s", "MiB",
         "matmul", "speed"]
    ]  # fmt: skip
    for one in figures:
        table.append(
            [
                one.task,
                str(one.steps or "-"),
                one.network,
                str(one.resolution),
                str(one.batch),
                f"{one.ms_per_batch:.1f}",
                _show(one.ms_per_image),
                _show(one.images_per_second),
                "-" if one.peak_memory_mib is None else f"{one.peak_memory_mib:.0f}",
                "-" if one.matmul_share is None else f"{one.matmul_share:.0%}",
                f"{one.speedup:.2f}x",
            ]
        )
    return table


def tabulate_commands(runs: Sequence[CommandFigures]) -> Table:
    """One row a command and number of files: its fastest run."""
    table = [["command", "files", "seconds", "first file", "MiB"]]
    fastest: dict[tuple[int, str], CommandFigures] = {}
    for run in runs:
        key = (run.files, run.command)
        if key not in fastest or run.seconds < fastest[key].seconds:
            fastest[key] = run
    for one in fastest.values():
        memory = "-" if one.peak_memory_mib is None else f"{one.peak_memory_mib:.0f}"
        table.append(
            [one.command, str(one.files), f"{one.seconds:.2f}",
             f"{one.first_file_seconds:.2f}", memory]
        )  # fmt: skip
    return table


def tabulate_stages(stages: Sequence[StageFigures]) -> Table:
    """One row a command: each stage alone, the whole, and the whole over the slowest.

    After them the model alone again, overlapped with itself as in a run, and the whole over that.
    """
    table = [
        ["command", "files", "read", "model", "write", "whole", "whole/slowest",
         "overlapped", "whole/overlapped"]
    ]  # fmt: skip
    for one in stages:
        seconds = (one.read_seconds, one.model_seconds, one.write_seconds, one.whole_seconds)
        table.append(
            [one.command, str(one.files), *(f"{value:.2f}" for value in seconds),
             f"{one.ratio:.2f}", f"{one.overlapped_seconds:.2f}", f"{one.overlapped_ratio:.2f}"]
        )  # fmt: skip
    return table


def describe_line(line: CommandLine) -> str:
    """`encode: 1.42 s + 6.31 ms a file`."""
    return f"{line.command}: {line.startup_seconds:.2f} s + {line.ms_per_file:.2f} ms a file"


def describe_comparison(one: Comparison) -> str:
    """`encode 256, batch 1: fast is 12.1x as fast as flux2, with 85% less memory`."""
    text = f"{one.task} {one.resolution}, batch {one.batch}: "
    text += f"{one.network} is {one.speedup:.1f}x as fast as {one.other}"
    if one.memory_reduction is None:
        return text
    amount = "less" if one.memory_reduction >= 0 else "more"
    return f"{text}, with {abs(one.memory_reduction):.0%} {amount} memory"


def _show(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value >= 100 else f"{value:.1f}"

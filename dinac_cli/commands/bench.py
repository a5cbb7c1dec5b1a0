"""`dinac bench`: times the model and the commands; prints tables or a JSON object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.bench.network_choice import RANDOM_WEIGHTS, choose_network
from dinac_cli.commands import options as opt
from dinac_cli.commands.values import choices, real, whole
from dinac_cli.errors import Exit, UsageError

if TYPE_CHECKING:
    from dinac_cli.bench.benchmark import Benchmark
    from dinac_cli.bench.cost import Cost
    from dinac_cli.bench.host import HostTaskFigures
    from dinac_cli.bench.network import Comparison, NetworkFigures
    from dinac_cli.bench.processes import CommandFigures, CommandLine
    from dinac_cli.bench.shard_costs import ImageCost, PipelineCost
    from dinac_cli.bench.stages import StageFigures
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.screen.tables import Table

_PARTS = ("network", "commands", "host", "shards", "cost")

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[IMG]",
        show_default="samples of 256x256",
        help="Time the commands with these images.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        show_default="network and commands",
        **choices("--only", _PARTS),
        help="network: time only the model; commands: only whole commands; host: only reading, "
        "packing and writing, with a model that takes no time; shards: only the CPU time of an "
        "image on its way into a shard; cost: predict the speed of the model on several GPUs, "
        "without a GPU.",
    ),
]
Resolution = Annotated[
    list[int] | None,
    typer.Option(
        parser=whole("--resolution", 16, wanted="16 pixels or more"),
        metavar="PIXELS",
        show_default="256 and 512",
        help="Time the model with images of this side; may be repeated.",
    ),
]
Batch = Annotated[
    list[int] | None,
    typer.Option(
        parser=whole("--batch", 1),
        metavar="N",
        show_default="the commands' batch size",
        help="Number of images that the model processes at once; may be repeated.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        parser=real("--seconds", lambda value: 0.1 <= value < math.inf, "0.1 seconds or more"),
        metavar="S",
        help="Each comparison of models takes about S seconds.",
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        **choices("--compare", ("flux2",)),
        help="Also time another autoencoder: flux2, with random weights.",
    ),
]
FileCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--files",
        parser=whole("--files", 2),
        metavar="N",
        show_default="20 and 200",
        help="Time the commands with N files; give this option at least twice.",
    ),
]
ModelRate = Annotated[
    float | None,
    typer.Option(
        parser=real("--model-rate", lambda value: 0 < value < math.inf, "more than 0"),
        metavar="N",
        show_default="measured here",
        help="With --only host: the speed of the model on your device, in images per second.",
    ),
]
RandomWeights = Annotated[
    str | None,
    opt.model_option(
        metavar="NAME",
        **choices("--random-weights", RANDOM_WEIGHTS),
        help="Use random weights with the shapes of a published model: d2 or dinac-ae.",
    ),
]
Compile = Annotated[bool, opt.model_option("--compile", help="Also time the compiled model.")]


def bench(
    images: Images = None,
    only: Only = None,
    resolution: Resolution = None,
    batch: Batch = None,
    seconds: Seconds = 5.0,
    compare: Compare = None,
    files: FileCounts = None,
    model_rate: ModelRate = None,
    model: opt.BenchModel = "auto",
    revision: opt.Revision = None,
    random_weights: RandomWeights = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: Compile = False,
    workers: opt.Workers = None,
    as_json: opt.JsonObject = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
) -> None:
    """Time the model and the commands on this machine.

    The plain model, the fast model and other models take turns, so the comparison is fair.
    """
    from dinac_cli.codec.compute import refuse_devices
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.codec.machine import configure_threads, count_processors
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.screen.progress import show_phases
    from dinac_cli.jobs.executor.phase import Phase

    console = Console(quiet=quiet, progress=not no_progress)
    refuse_devices(device, "bench")
    if model_rate is not None and only != "host":
        raise UsageError("--model-rate needs --only host")
    file_counts = tuple(sorted(set(files or (20, 200))))
    if len(file_counts) < 2:
        raise UsageError("--files: give at least two numbers; the fitted line needs two points")
    paths = _choose_images(images or [])
    resolved = choose_network(model, revision, random_weights, device, console.say)
    # The bar is redrawn only between measurements, because redrawing disturbs them.
    with show_phases(console, "bench", ticks=False) as watch:
        watch(Phase("loading torch"))
        configure_threads()
        # This import loads torch, which reads the settings that configure_threads made.
        from dinac_cli.bench.benchmark import Benchmark, BenchRequest

        request = BenchRequest(
            model=resolved,
            random_weights=random_weights,
            choice=DeviceChoice(device=device, dtype=dtype, compiled=compiled),
            compare=compare,
            resolutions=tuple(resolution or (256, 512)),
            batches=tuple(batch or ()),
            images=paths,
            file_counts=file_counts,
            workers=workers or min(16, count_processors()),
            seconds=seconds,
            model_rate=model_rate,
        )
        report = _Report(Benchmark(request, watch), console, as_json)
        if only == "cost":
            report.add_costs()
        else:
            report.add_machine()
        if only in (None, "network"):
            report.add_networks()
        if only in (None, "commands"):
            report.add_commands()
        if only == "host":
            report.add_host()
        if only == "shards":
            report.add_shards()
        code = report.finish()
    raise typer.Exit(code)


def _choose_images(named: list[str]) -> tuple[Path, ...]:
    """Returns the images to time the commands with. Raises UsageError if an image is missing."""
    from dinac_cli.jobs.request import IMAGES
    from dinac_cli.storage.inputs import InputScan

    if not named:
        return ()
    paths = []
    for entry in InputScan(IMAGES, tuple(named)):
        if entry.problem or entry.path is None:
            raise UsageError(
                f"{entry.label}: {entry.problem or 'cannot be timed; name files or folders'}"
            )
        paths.append(Path(entry.path))
    if not paths:
        raise UsageError(f"no images found in {', '.join(named)}; name image files or folders")
    return tuple(paths)


class _Report:
    """Collects all measured values for JSON, or prints each table as soon as it is complete."""

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
        """Times the contenders, compares them, and checks the error of the fast model."""
        from dinac_cli.bench.network import compare_with

        figures = self._collect("network", self._benchmark.measure_networks(), "models")
        self._print_table(tabulate_networks(figures))
        for line in self._benchmark.compare_with_predictions(figures):
            self._print(line)
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
        """Times whole commands and their stages."""
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

    def add_host(self) -> None:
        """Times what the host does beside the model."""
        tasks = self._collect("host", self._benchmark.measure_host(), "host")
        self._print_table(tabulate_host_stages(tasks))
        self._print_table(tabulate_host(tasks))

    def add_shards(self) -> None:
        """Times what images cost the processor on their way into shards."""
        costs = self._collect("images", self._benchmark.measure_image_costs(), "images")
        self._print_table(tabulate_image_costs(costs))
        pipeline = self._collect("shards", self._benchmark.measure_pipeline(), "shards")
        self._print_table(tabulate_pipeline(pipeline))

    def add_costs(self) -> None:
        """Predicts the speed of the model on GPUs."""
        from dinac_cli.bench.cost import GPUS

        costs = list(self._benchmark.predict_costs())
        self._collected["cost"] = [
            {
                "task": cost.task,
                "steps": cost.steps,
                "network": cost.network,
                "resolution": cost.resolution,
                "batch": cost.batch,
                "kernels": len(cost.kernels),
                "flops": cost.flops,
                "bytes": cost.size_bytes,
                "predicted_images_per_second": {gpu.name: cost.predict_rate(gpu) for gpu in GPUS},
            }
            for cost in costs
        ]
        self._print(f"{self._benchmark.label}; bf16; images/s are predicted, not measured")
        self._print_table(tabulate_costs(costs))

    def finish(self) -> int:
        """Prints the JSON and the failed checks; returns the exit code."""
        if self._as_json:
            self._console.print_json(self._collected)
        for failure in self._failures:
            self._console.fail(failure)
        return Exit.REFUSED if self._failures else Exit.DONE

    def _collect(self, key: str, figures: Iterable[Any], what: str) -> list[Any]:
        if self._console.shows_progress and not self._console.draws_bar:
            self._console.say(f"timing the {what}")
        collected = list(figures)
        self._collected[key] = [asdict(entry) for entry in collected]
        return collected

    def _print(self, text: str) -> None:
        if not self._as_json:
            self._console.print_result(text)

    def _print_table(self, rows: Table) -> None:
        from dinac_cli.commands.screen.tables import align

        for line in align(rows):
            self._print(line)
        self._print("")


def tabulate_networks(figures: Iterable[NetworkFigures]) -> Table:
    """Returns one row per task, size, batch and contender. A row has less than 80 characters."""
    table = [
        ["task", "NFE", "network", "size", "batch", "ms/batch", "ms/image", "images/s", "MiB",
         "matmul", "speed"]
    ]  # fmt: skip
    for row in figures:
        share = "-" if row.matmul_share is None else f"{row.matmul_share:.0%}"
        table.append(
            [row.task, str(row.steps or "-"), row.network, str(row.resolution), str(row.batch),
             f"{row.ms_per_batch:.1f}", _format_figure(row.ms_per_image),
             _format_figure(row.images_per_second), _format_mib(row.peak_memory_mib), share,
             f"{row.speedup:.2f}x"]
        )  # fmt: skip
    return table


def tabulate_costs(costs: Iterable[Cost]) -> Table:
    """Returns one row per task, size, batch and step of the ladder; the last columns are GPUs."""
    from dinac_cli.bench.cost import GPUS

    table = [
        ["task", "NFE", "network", "size", "batch", "kernels", "GFLOP", "GB"]
        + [gpu.short for gpu in GPUS]
    ]
    for row in costs:
        table.append(
            [row.task, str(row.steps or "-"), row.network, str(row.resolution), str(row.batch),
             str(len(row.kernels)), f"{row.flops / 1e9:.0f}", f"{row.size_bytes / 1e9:.1f}",
             *(_format_figure(row.predict_rate(gpu)) for gpu in GPUS)]
        )  # fmt: skip
    return table


def tabulate_commands(runs: Sequence[CommandFigures]) -> Table:
    """Returns one row for each pair of command and number of files: the fastest run."""
    from dinac_cli.bench.processes import choose_fastest

    table = [["command", "files", "seconds", "first file", "MiB"]]
    for row in choose_fastest(runs):
        seconds = [f"{row.seconds:.2f}", f"{row.first_file_seconds:.2f}"]
        table.append([row.command, str(row.files), *seconds, _format_mib(row.peak_memory_mib)])
    return table


def tabulate_stages(stages: Iterable[StageFigures]) -> Table:
    """Returns one row per command; `StageFigures` explains the columns."""
    table = [
        ["command", "files", "read", "model", "write", "whole", "whole/slowest",
         "overlapped", "whole/overlapped"]
    ]  # fmt: skip
    for row in stages:
        figures = (row.read_seconds, row.model_seconds, row.write_seconds, row.whole_seconds,
                   row.ratio, row.overlapped_seconds, row.overlapped_ratio)  # fmt: skip
        table.append([row.command, str(row.files), *(f"{figure:.2f}" for figure in figures)])
    return table


def tabulate_host_stages(tasks: Iterable[HostTaskFigures]) -> Table:
    """Returns one row per task: the images per second of each stage alone."""
    table = [["one thread, images/s", "read", "pack", "write", "model"]]
    for row in tasks:
        rates = (row.read, row.pack, row.write, row.model)
        table.append([row.task, *map(_format_figure, rates)])
    return table


def tabulate_host(tasks: Iterable[HostTaskFigures]) -> Table:
    """Returns one row per task and number of processes; `ProcessFigures` explains the columns."""
    table = [["task", "processes", "images/s", "parent us/image", "share of the model"]]
    for task in tasks:
        for row in task.whole:
            parent = "-" if row.parent_us is None else f"{row.parent_us:.0f}"
            speed = _format_figure(row.images_per_second)
            share = f"{row.images_per_second / task.model:.0%}"
            table.append([task.task, str(row.processes), speed, parent, share])
    return table


def tabulate_image_costs(costs: Iterable[ImageCost]) -> Table:
    """Returns one row per size of images; `ImageCost` explains the columns."""
    table = [["JPEG", "kB", "read ms"]]
    for row in costs:
        if len(table) == 1:
            for record in row.records:
                table[0] += [f"{record.precision} kB", "pack ms"]
        side = str(row.side) if row.resize is None else f"{row.side} to {row.resize}"
        figures = [row.kilobytes, row.read_ms]
        figures += [figure for each in row.records for figure in (each.kilobytes, each.pack_ms)]
        table.append([side, *(f"{figure:.2f}" for figure in figures)])
    return table


def tabulate_pipeline(rows: Iterable[PipelineCost]) -> Table:
    """Returns one row per number of processes; `PipelineCost` explains the columns."""
    table = [["shards, processes", "images/s", "cpu ms", "main ms", "parent us"]]
    for row in rows:
        costs = ("-" if cost is None else f"{cost:.2f}" for cost in (row.cpu_ms, row.main_ms))
        parent = "-" if row.parent_us is None else f"{row.parent_us:.0f}"
        table.append([str(row.processes), _format_figure(row.images_per_second), *costs, parent])
    return table


def describe_line(line: CommandLine) -> str:
    """Returns e.g. `encode: 1.42 s + 6.31 ms per file`."""
    return f"{line.command}: {line.startup_seconds:.2f} s + {line.ms_per_file:.2f} ms per file"


def describe_comparison(row: Comparison) -> str:
    """Returns e.g. `encode 256, batch 1: fast is 12.1x as fast as flux2, with 85% less memory`."""
    text = f"{row.task} {row.resolution}, batch {row.batch}: "
    text += f"{row.network} is {row.speedup:.1f}x as fast as {row.other}"
    if row.memory_reduction is None:
        return text
    amount = "less" if row.memory_reduction >= 0 else "more"
    return f"{text}, with {abs(row.memory_reduction):.0%} {amount} memory"


def _format_mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _format_figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value >= 100 else f"{value:.1f}"

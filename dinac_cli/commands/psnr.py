"""`dinac psnr`: a table for people, one JSON object for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.metric_table import (
    STATISTICS,
    MetricValues,
    format_metrics,
    format_rfid,
    format_values,
)
from dinac_cli.commands.screen.console import escape_unprintable
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import list_facts
from dinac_cli.commands.values import complete_list, parse_list
from dinac_cli.errors import Exit
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.metric_kinds import METRIC_NAMES, PSNR
from dinac_cli.jobs.results import FileResult, Status, Tally

if TYPE_CHECKING:
    from dinac_cli.commands.run import ScreenOptions
    from dinac_cli.images.metrics import PsnrSummary
    from dinac_cli.jobs.measures import Measures

_PLACES = "a folder, one image, a tar or parquet file of images, or a URL of these"

First = Annotated[str, typer.Argument(metavar="A", help=f"The originals: {_PLACES}.")]
Second = Annotated[str, typer.Argument(metavar="B", help=f"The reconstructions: {_PLACES}.")]

ImageColumn = Annotated[
    str,
    opt.input_option(
        "--image-column",
        metavar="NAME",
        help="The column of a parquet file that holds the images.",
    ),
]
Metrics = Annotated[
    str,
    typer.Option(
        "--metrics",
        metavar="LIST",
        autocompletion=complete_list(METRIC_NAMES),
        rich_help_panel="Metrics",
        help=f"What to measure, separated by commas: {', '.join(METRIC_NAMES)}. "
        "'dinac man metrics' defines them.",
    ),
]
LpipsWeights = Annotated[
    str | None,
    typer.Option(
        "--lpips-weights",
        metavar="FILE",
        rich_help_panel="Metrics",
        help="The weights of lpips (AlexNet, VGG16 or SqueezeNet), as safetensors.",
    ),
]
InceptionWeights = Annotated[
    str | None,
    typer.Option(
        "--inception-weights",
        metavar="FILE",
        rich_help_panel="Metrics",
        help="The weights of rfid, as safetensors.",
    ),
]

_TABLE_WIDTH = 80


def psnr(
    first: First,
    second: Second,
    metrics: Metrics = PSNR.name,
    lpips_weights: LpipsWeights = None,
    inception_weights: InceptionWeights = None,
    resize: opt.OriginalResize = None,
    no_upscale: opt.OriginalNoUpscale = False,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
    buckets: opt.OriginalBuckets = None,
    bucket_min: opt.BucketMin = None,
    bucket_max: opt.BucketMax = None,
    exclude: opt.Exclude = None,
    image_column: ImageColumn = "image",
    background: opt.Background = "white",
    hdr: opt.Hdr = "refuse",
    damaged: opt.Damaged = "fail",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    workers: opt.Readers = None,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.JsonObject = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure the PSNR of reconstructions against originals, in dB over 8-bit RGB.

    --metrics adds SSIM, MS-SSIM, LPIPS and rFID.

    Pairs are found by name: A/a.jpg goes with B/a.jpg or B/a.jpg.png.

    If one side is an archive, the other side must be a folder.
    """
    from dinac_cli.commands.run import ScreenOptions, run_request
    from dinac_cli.images.buckets import choose_buckets
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import choose_geometry
    from dinac_cli.jobs.measures import MetricChoice
    from dinac_cli.jobs.psnr import MeasureOptions, PsnrRequest

    options = MeasureOptions(
        background=parse_color(background),
        max_pixels=max_pixels,
        geometry=choose_geometry(
            resize,
            max_side,
            crop,
            upscale=not no_upscale,
            buckets=choose_buckets(buckets, bucket_min, bucket_max),
        ),
        hdr=hdr,
        damaged=parse_damage_choice(damaged),
    )
    request = PsnrRequest(
        first=first,
        second=second,
        exclude=tuple(exclude or ()),
        column=image_column,
        options=options,
        metrics=MetricChoice(
            names=parse_list("--metrics", metrics, METRIC_NAMES),
            lpips_weights=lpips_weights,
            inception_weights=inception_weights,
        ),
        workers=workers,
    )
    screen = ScreenOptions(
        json=as_json,
        no_progress=no_progress,
        quiet=quiet,
        verbose=verbose,
        failures=failures,
        known=known,
        log=log,
    )
    width = screen.open_console().result_width
    code = run_request(request, lambda run: PsnrTable(screen, width, run.measures), screen)
    raise typer.Exit(code)


class PsnrTable(Summary):
    """The summary of a psnr run: a table and, with `--verbose`, one line per pair."""

    lists_files = False
    stopped = "stopped before the end; these are the figures of the pairs measured so far"

    def __init__(
        self,
        screen: ScreenOptions,
        width: int | None = None,
        measures: Measures | None = None,
    ) -> None:
        super().__init__()
        self._screen = screen
        self._width = width
        self._metrics = (PSNR,) if measures is None else measures.metrics
        self._rfid = None if measures is None else measures.rfid
        self._pairs: list[FileResult] = []
        self._columns = [MetricValues(metric) for metric in self._metrics]

    def add(self, result: FileResult) -> None:
        for column in self._columns if result.status is Status.MEASURED else ():
            column.add(result.metrics[column.metric.name], result.width, result.height)
        if self._screen.json or self._screen.verbose:
            self._pairs.append(result)

    def describe(self, progress: RunProgress) -> str:
        measured = [pair for pair in self._pairs if pair.metrics]
        if self._is_plain:
            lines = [format_pair(pair) for pair in measured]
            lines += format_table(
                self._summarise_psnr(), *_count_lacking(progress.tally), self._width
            )
            return "\n".join(lines)
        lines = [format_values(pair.metrics, self._metrics, pair.file) for pair in measured]
        lines += format_metrics(self._columns, self._count(progress.tally), self._width)
        lines += [] if self._rfid is None else [format_rfid(self._rfid.count, self._rfid_value)]
        return "\n".join(lines)

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        missing, failed = _count_lacking(progress.tally)
        summary = asdict(self._summarise_psnr()) if PSNR in self._metrics else {}
        if not self._is_plain:
            summary["metrics"] = {column.metric.name: _describe(column) for column in self._columns}
        if self._rfid is not None:
            summary["metrics"]["rfid"] = {"value": self._rfid_value, "count": self._rfid.count}
        pairs = [describe_pair(pair) for pair in self._pairs]
        return summary | {"missing": missing, "failed": failed, "files": pairs}

    def choose_exit(self, tally: Tally) -> Exit:
        is_lacking = self._rfid is not None and self._rfid_value is None
        if tally.new_failures or is_lacking or not tally.counts[Status.MEASURED]:
            return Exit.FAILURES
        return Exit.DONE

    @property
    def _is_plain(self) -> bool:
        """True if the run measures the PSNR alone, whose output is older than the other metrics."""
        return self._metrics == (PSNR,) and self._rfid is None

    @cached_property
    def _rfid_value(self) -> float | None:
        assert self._rfid is not None, "the run measures rFID"
        return self._rfid.measure()

    def _summarise_psnr(self) -> PsnrSummary:
        from dinac_cli.images.metrics import summarise_psnr

        return summarise_psnr(self._columns[self._metrics.index(PSNR)].values)

    def _count(self, tally: Tally) -> dict[str, int]:
        missing, failed = _count_lacking(tally)
        identical = self._summarise_psnr().identical if PSNR in self._metrics else 0
        return {"identical": identical, "missing": missing, "failed": failed}


def _count_lacking(tally: Tally) -> tuple[int, int]:
    """Returns the number of missing pairs, and the number of failed pairs."""
    missing = tally.counts[Status.MISSING]
    return missing, tally.failures - missing


def _describe(column: MetricValues) -> dict[str, Any]:
    """Returns the statistics of a metric as a JSON object."""
    from dinac_cli.images.metrics import summarise_metric

    counts = {"too_small": column.too_small, "too_large": column.too_large}
    return asdict(summarise_metric(column.values)) | counts


def describe_pair(result: FileResult) -> dict[str, Any]:
    """Returns one pair as a JSON object.

    The PSNR of identical images is null, and so is a metric that does not take images of this size.
    """
    from dinac_cli.images.metrics import psnr_as_json

    entry: dict[str, Any] = {"file": result.file, "status": result.status.value}
    if result.name:
        entry["name"] = result.name
    if result.status is Status.MEASURED:
        entry["other"] = result.output
    for name, value in result.metrics.items():
        entry[name] = None if value is None else psnr_as_json(value)
    for key in ("reason", "error", "rejection"):
        if getattr(result, key):
            entry[key] = getattr(result, key)
    return entry


def format_pair(result: FileResult) -> str:
    """Returns the line of one pair for `--verbose`: the PSNR, then the name."""
    psnr_db = result.metrics[PSNR.name]
    assert psnr_db is not None, "images of all sizes have a PSNR"
    value = "identical" if math.isinf(psnr_db) else f"{psnr_db:.2f} dB"
    return f"{value:>9}  {escape_unprintable(result.file)}"


def format_table(
    summary: PsnrSummary, missing: int, failed: int, width: int | None = None
) -> list[str]:
    """Returns a line of names and a line of values, in 80 columns if possible.

    If the terminal's `width` is too small for the two lines, returns one line per value.
    """
    table = {"PSNR": "dB"}
    for name in STATISTICS:
        value = getattr(summary, name)
        table[name] = "-" if value is None else f"{value:.2f}"
    table["images"] = str(summary.count)
    counts = {"identical": summary.identical, "missing": missing, "failed": failed}
    table |= {name: str(count) for name, count in counts.items() if count}
    widths = [max(map(len, column)) for column in table.items()]
    if width is not None and sum(widths) + len(widths) - 1 > width:
        return list(list_facts(table.items()))
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= _TABLE_WIDTH else " "
    return [gap.join(map(str.rjust, row, widths)) for row in (table.keys(), table.values())]

"""`dinac psnr`: a table for people, one JSON object for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.console import escape_unprintable
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import list_facts
from dinac_cli.errors import Exit
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.jobs.results import FileResult, Status, Tally

if TYPE_CHECKING:
    from dinac_cli.commands.run import ScreenOptions
    from dinac_cli.images.metrics import PsnrSummary

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

_TABLE_WIDTH = 80


def psnr(
    first: First,
    second: Second,
    resize: opt.OriginalResize = None,
    no_upscale: opt.OriginalNoUpscale = False,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
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

    Pairs are found by name: A/a.jpg goes with B/a.jpg or B/a.jpg.png.

    If one side is an archive, the other side must be a folder.
    """
    from dinac_cli.commands.run import ScreenOptions, run_request
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import choose_geometry
    from dinac_cli.jobs.psnr import MeasureOptions, PsnrRequest

    options = MeasureOptions(
        background=parse_color(background),
        max_pixels=max_pixels,
        geometry=choose_geometry(resize, max_side, crop, upscale=not no_upscale),
        hdr=hdr,
        damaged=parse_damage_choice(damaged),
    )
    request = PsnrRequest(
        first=first,
        second=second,
        exclude=tuple(exclude or ()),
        column=image_column,
        options=options,
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
    summary = PsnrTable(screen, screen.open_console().result_width)
    raise typer.Exit(run_request(request, lambda run: summary, screen))


class PsnrTable(Summary):
    """The summary of a psnr run: a table and, with `--verbose`, one line per pair."""

    lists_files = False
    stopped = "stopped before the end; these are the figures of the pairs measured so far"

    def __init__(self, screen: ScreenOptions, width: int | None = None) -> None:
        super().__init__()
        self._screen = screen
        self._width = width
        self._pairs: list[dict[str, Any]] = []
        self._values: list[float] = []

    def add(self, result: FileResult) -> None:
        if result.psnr_db is not None:
            self._values.append(result.psnr_db)
        if self._screen.json or self._screen.verbose:
            self._pairs.append(describe_pair(result))

    def describe(self, progress: RunProgress) -> str:
        from dinac_cli.images.metrics import summarise_psnr

        missing, failed = _count_lacking(progress.tally)
        lines = [format_pair(entry) for entry in self._pairs if "psnr" in entry]
        lines += format_table(summarise_psnr(self._values), missing, failed, self._width)
        return "\n".join(lines)

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        from dinac_cli.images.metrics import summarise_psnr

        missing, failed = _count_lacking(progress.tally)
        summary = asdict(summarise_psnr(self._values))
        return summary | {"missing": missing, "failed": failed, "files": self._pairs}

    def choose_exit(self, tally: Tally) -> Exit:
        return Exit.FAILURES if tally.new_failures or not self._values else Exit.DONE


def _count_lacking(tally: Tally) -> tuple[int, int]:
    """Returns the number of missing pairs, and the number of failed pairs."""
    missing = tally.counts[Status.MISSING]
    return missing, tally.failures - missing


def describe_pair(result: FileResult) -> dict[str, Any]:
    """Returns one pair as a JSON object. If the images are identical, the PSNR is null."""
    from dinac_cli.images.metrics import psnr_as_json

    entry: dict[str, Any] = {"file": result.file, "status": result.status.value}
    if result.name:
        entry["name"] = result.name
    if result.psnr_db is not None:
        entry |= {"other": result.output, "psnr": psnr_as_json(result.psnr_db)}
    for key in ("reason", "error", "rejection"):
        if getattr(result, key):
            entry[key] = getattr(result, key)
    return entry


def format_pair(entry: dict[str, Any]) -> str:
    """Returns the line of one pair for `--verbose`: the PSNR, then the name."""
    value = "identical" if entry["psnr"] is None else f"{entry['psnr']:.2f} dB"
    return f"{value:>9}  {escape_unprintable(entry['file'])}"


def format_table(
    summary: PsnrSummary, missing: int, failed: int, width: int | None = None
) -> list[str]:
    """Returns a line of names and a line of values, in 80 columns if possible.

    If the terminal's `width` is too small for the two lines, returns one line per value.
    """
    table = {"PSNR": "dB"}
    for name in ("mean", "std", "median", "p5", "p95", "min", "max"):
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

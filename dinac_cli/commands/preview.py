"""`dinac preview`: a sheet of latents as pictures, without decoding; fits the map of colours."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary, describe_others
from dinac_cli.commands.screen.tables import format_size
from dinac_cli.errors import UsageError

if TYPE_CHECKING:
    from dinac_cli.commands.run import ScreenOptions
    from dinac_cli.jobs.color_fit import ColorFitRun
    from dinac_cli.jobs.contact_sheet import Thumbnail
    from dinac_cli.jobs.preview import PreviewRun
    from dinac_cli.jobs.request import InputRequest

DEFAULT_LIMIT = 1000
"""The number of records on a sheet, unless `--limit` is given."""

PreviewOut = Annotated[
    str | None,
    typer.Argument(
        metavar="[OUT.png]",
        show_default=False,
        help="The last argument: the PNG file to write. Without it, the terminal shows a screenful "
        "of records. With --fit: the file of the map, OUT.json.",
    ),
]
MapFile = Annotated[
    str | None,
    typer.Option("--map", metavar="FILE", help="Use this map of colours, which --fit wrote."),
]
Fit = Annotated[
    bool,
    typer.Option(
        "--fit",
        help="Fit the map of colours of a model over images, which are named instead of LATENTS. "
        "Without OUT.json, dinac's cache keeps the map.",
    ),
]


def preview(
    *,
    latents: opt.Latents = None,
    out: PreviewOut = None,
    out_option: opt.OutOption = None,
    map_file: MapFile = None,
    fit: Fit = False,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.FitModel = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    workers: opt.PreviewReaders = None,
    overwrite: opt.Overwrite = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Show latents as small pictures, without decoding: a sheet in a PNG file or in the terminal.

    A linear map turns latents into colours. The map of nano is embedded; --fit makes others.

    A sheet holds the first 1000 records, or --limit.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs

    paths, target = split_arguments(
        latents, out, out_option, files_from, ".json" if fit else ".png"
    )
    if limit is None and not fit:
        from dinac_cli.commands.screen.thumbnails import count_on_screen

        limit = DEFAULT_LIMIT if target is not None else count_on_screen()
    inputs = read_inputs(paths, files_from, null, root, exclude, limit, shard)
    screen = ScreenOptions(
        json=as_json,
        no_progress=no_progress,
        quiet=quiet,
        verbose=verbose,
        failures=failures,
        known=known,
        log=log,
        fail_fast=fail_fast,
    )
    if not fit:
        chosen = {"--model": model, "--device": device, "--dtype": dtype}
        _refuse_model({name: value for name, value in chosen.items() if value != "auto"}, revision)
        raise typer.Exit(_preview(inputs, target, map_file, overwrite, workers, screen))
    if map_file is not None:
        raise UsageError("--map and --fit exclude each other; leave out one")
    from dinac_cli.commands.run import run_request
    from dinac_cli.jobs.color_fit import ColorFitRequest
    from dinac_cli.jobs.model_choice import ModelChoice

    request = ColorFitRequest(
        inputs=inputs,
        out=target,
        model=ModelChoice(model=model, revision=revision, device=device, dtype=dtype),
        overwrite=overwrite,
        workers=workers,
    )
    raise typer.Exit(run_request(request, FitSummary, screen))


def split_arguments(
    paths: list[str] | None, last: str | None, out: str | None, files_from: str | None, suffix: str
) -> tuple[list[str], str | None]:
    """Returns the inputs, and OUT or None. OUT ends in `suffix`. Raises UsageError."""
    named = list(paths or ())
    if out is not None:
        if not out.lower().endswith(suffix):
            raise UsageError(f"{out}: OUT must end in {suffix}")
        return opt.split_out(named, last, out, files_from)
    if last is None:
        return named, None
    if last.lower().endswith(suffix):
        return named, last
    _refuse_other_suffix(last, suffix)
    return [*named, last], None


def _refuse_other_suffix(last: str, suffix: str) -> None:
    """Raises UsageError if the last argument is probably OUT, in a format that is not written."""
    others = (".jpg", ".jpeg", ".webp", ".gif", ".json", ".html", ".pdf", ".png")
    if last.lower().endswith(others) and not os.path.lexists(last):
        raise UsageError(f"{last}: no such file; OUT, the last argument, must end in {suffix}")


def _refuse_model(chosen: dict[str, str], revision: str | None) -> None:
    """Refuses options of --fit. Variables such as DINAC_MODEL are for all commands."""
    variables = {"--model": "DINAC_MODEL", "--device": "DINAC_DEVICE"}
    given = {name: value for name, value in chosen.items() if variables.get(name) not in os.environ}
    opt.refuse_without("--fit", {**given, "--revision": revision})


def _preview(
    inputs: InputRequest,
    out: str | None,
    map_file: str | None,
    overwrite: bool,
    workers: int | None,
    screen: ScreenOptions,
) -> int:
    from dinac_cli.commands.run import run_request
    from dinac_cli.jobs.preview import PreviewRequest

    if out is None:
        _require_terminal(as_json=screen.json)
    request = PreviewRequest(
        inputs=inputs, out=out, map_file=map_file, overwrite=overwrite, workers=workers
    )
    thumbnails: list[Thumbnail] = []

    def summarise(run: PreviewRun) -> PreviewSummary:
        nonlocal thumbnails
        thumbnails = run.sheet.thumbnails
        return PreviewSummary(run, out)

    code = run_request(request, summarise, screen)
    if out is None and thumbnails:
        from dinac_cli.commands.screen.console import fit_encoding
        from dinac_cli.commands.screen.thumbnails import draw_thumbnails

        for line in draw_thumbnails(thumbnails, os.environ):
            sys.stdout.write(fit_encoding(line, sys.stdout) + "\n")
        sys.stdout.flush()
    return code


def _require_terminal(*, as_json: bool) -> None:
    """Raises UsageError if standard output cannot show pictures."""
    from dinac_cli.commands.screen.terminal_pictures import HALF_BLOCK

    remedy = "name a file to write, OUT.png"
    if as_json:
        raise UsageError(f"--json leaves no room for pictures; {remedy}")
    if sys.stdout is None or not sys.stdout.isatty():
        raise UsageError(f"standard output is not a terminal; {remedy}")
    try:
        HALF_BLOCK.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError as exc:
        raise UsageError(
            f"the encoding of this terminal has no block characters; {remedy}"
        ) from exc
    if os.environ.get("TERM") in ("dumb", "unknown"):
        raise UsageError(f"this terminal shows no colours; {remedy}")


class PreviewSummary(Summary):
    """The summary of a preview: the number of records, and the file."""

    def __init__(self, run: PreviewRun, out: str | None) -> None:
        super().__init__()
        self._sheet = run.sheet
        self._out = out

    @property
    def stopped(self) -> str:
        is_missing = self._out is not None and not self._sheet.size_bytes
        return "stopped before the end" + (f"; {self._out} was not written" if is_missing else "")

    def describe(self, progress: RunProgress) -> str:
        count = len(self._sheet.thumbnails)
        text = "1 record" if count == 1 else f"{count} records"
        if self._sheet.size_bytes:
            text += f" in {self._out} ({format_size(self._sheet.size_bytes)})"
        if progress.done == self._sheet.limit:
            text += " (the limit; --limit N changes it)"
        failed = [f"{progress.tally.failures} failed"] if progress.tally.failures else []
        return ", ".join([text, *failed, *describe_others(progress.tally)])

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "summary": True,
            "records": len(self._sheet.thumbnails),
            "failed": progress.tally.failures,
            "not_inputs": progress.tally.not_inputs,
        }
        if self._sheet.size_bytes:
            summary |= {"output": self._out, "bytes": self._sheet.size_bytes}
        return summary


class FitSummary(Summary):
    """The summary of a fit: the error of the map, and its file."""

    stopped = "stopped before the end; no map was written"

    def __init__(self, run: ColorFitRun) -> None:
        super().__init__()
        self._fit = run.fit

    def describe(self, progress: RunProgress) -> str:
        failed = [f"{progress.tally.failures} failed"] if progress.tally.failures else []
        others = [*failed, *describe_others(progress.tally)]
        found = self._fit.color_map
        if found is None:
            return ", ".join(["no map", *others])
        text = (
            f"map of {found.model} over {found.images} images: error {found.rmse * 127.5:.1f} of "
        )
        text += f"255 levels, R² {found.r2:.4f}; in {self._fit.path}"
        return ", ".join([text, *others])

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "summary": True,
            "failed": progress.tally.failures,
            "not_inputs": progress.tally.not_inputs,
        }
        found = self._fit.color_map
        if found is not None:
            summary |= {
                "output": self._fit.path,
                "model": found.model,
                "latent_space": found.latent_space,
                "images": found.images,
                "positions": found.positions,
                "rmse": found.rmse,
                "r2": found.r2,
            }
        return summary

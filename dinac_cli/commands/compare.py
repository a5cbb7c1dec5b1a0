"""`dinac compare`: runs the comparison, and prints its main table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.console import escape_unprintable
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import fit_table
from dinac_cli.commands.values import complete, parse_list, whole
from dinac_cli.container.header import PRECISIONS
from dinac_cli.errors import Exit, UsageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.jobs.results import Tally

if TYPE_CHECKING:
    from dinac_cli.compare.comparison import CompareRun


_SHORT_HEADS = {
    "Mean PSNR (dB)": "PSNR",
    "Std (dB)": "std",
    "Median (dB)": "median",
    "P5 (dB)": "P5",
    "P95 (dB)": "P95",
    "SSIM": "SSIM",
    "MS-SSIM": "MS-SSIM",
    "Bits per pixel": "bits/pixel",
}
"""Headings that fit into 80 columns; the others are in lower case. PSNR is in dB."""


_parse_step = whole("--steps", 1)


def _parse_precisions(text: str) -> tuple[str, ...]:
    return parse_list("--precision", text, PRECISIONS)


def _parse_steps(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if "" in map(str.strip, words):
        raise UsageError(f"--steps {text}: expected one or more numbers, such as 1,4")
    steps = tuple(map(_parse_step, words))
    if len(set(steps)) < len(steps):
        raise UsageError(f"--steps {text}: a number is named twice; name each number once")
    return steps


Out = Annotated[
    str | None,
    typer.Argument(metavar="OUT", help="The last argument: the folder of the comparison."),
]
Models = Annotated[
    list[str] | None,
    opt.model_option(
        "--model",
        metavar="MODEL",
        show_default="nano on a CPU and d2 on a GPU",
        autocompletion=complete(opt.MODELS),
        help=f"{opt.MODEL_KINDS}. Repeat this option to compare several.",
    ),
]
# Typer has no type for a list between commas.
Precisions = Annotated[
    Any,
    typer.Option(
        "--precision",
        metavar="P,P",
        parser=_parse_precisions,
        autocompletion=complete(PRECISIONS),
        help="How latents are stored, as for encode: one or more values, such as bf16,q6.",
    ),
]
Steps = Annotated[
    Any,
    typer.Option(
        "--steps",
        metavar="N,N",
        parser=_parse_steps,
        help="Decoder steps: one or more numbers, such as 1,4. Models without diffusion steps are "
        "measured once.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=whole("--seed", -(2**63), 2**64 - 1),
        metavar="N",
        help="Seed of the noise, the same for all models.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="MODEL",
        show_default="the last --model",
        help="The model of the ratios of speed and memory: one of the --model.",
    ),
]
Shown = Annotated[
    int,
    typer.Option(
        "--shown",
        parser=whole("--shown", 0),
        metavar="N",
        help="Number of images, spread over the set, whose pictures are kept and shown.",
    ),
]
SpeedOption = Annotated[
    bool | None,
    typer.Option(
        "--speed/--no-speed",
        show_default="if OUT holds no figures of this machine",
        help="Time the models again, or never.",
    ),
]


def compare(
    context: typer.Context,
    *,
    images: opt.Images = None,
    out: Out = None,
    out_option: opt.OutOption = None,
    precision: Precisions = "bf16",
    steps: Steps = "1",
    seed: Seed = 0,
    baseline: Baseline = None,
    shown: Shown = 24,
    speed: SpeedOption = None,
    resize: opt.OriginalResize = None,
    no_upscale: opt.OriginalNoUpscale = False,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
    skip_small: opt.SkipSmall = False,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    background: opt.Background = "white",
    hdr: opt.Hdr = "refuse",
    damaged: opt.Damaged = "fail",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    model: Models = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.JsonObject = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare models on your images: PSNR, SSIM, bits per pixel, speed and memory.

    OUT gets index.html (tables, charts, pictures side by side), card.md (the tables in Markdown for
    a model card) and compare.json.

    To resume, rerun the command: what OUT holds is not measured again.
    """
    from dinac_cli.codec.compute import refuse_devices
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.compare.comparison import CompareRequest
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import choose_geometry
    from dinac_cli.jobs.encode import EncodeOptions

    images, out = opt.split_out(images, out, out_option, files_from)
    refuse_devices(device, "compare")
    options = EncodeOptions(
        background=parse_color(background),
        max_pixels=max_pixels,
        geometry=choose_geometry(resize, max_side, crop, upscale=not no_upscale),
        skip_small=skip_small,
        hdr=hdr,
        damaged=parse_damage_choice(damaged),
    )
    request = CompareRequest(
        inputs=read_inputs(images, files_from, null, root, exclude, limit, None),
        out=out,
        models=tuple(model or ("auto",)),
        precisions=precision,
        steps=steps,
        options=options,
        device=DeviceChoice(device=device, dtype=dtype),
        baseline=baseline,
        seed=seed,
        shown=shown,
        speed=speed,
        overwrite=overwrite,
        command_line=shlex.join(("dinac", *context.obj["arguments"])),
        workers=workers,
        in_flight=batch_size,
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
    raise typer.Exit(run_request(request, lambda run: CompareSummary(run, width), screen))


class CompareSummary(Summary):
    """The summary of a comparison: its main table."""

    lists_files = False

    def __init__(self, run: CompareRun, width: int | None) -> None:
        super().__init__()
        self._run = run
        self._width = width

    def describe(self, progress: RunProgress) -> str:
        from dinac_cli.compare.figure_tables import describe_images, tabulate_quality

        comparison = self._run.comparison
        if comparison is None:
            return ""
        heads, *rows = tabulate_quality(comparison)
        table = [[_SHORT_HEADS.get(head, head.lower()) for head in heads]]
        table += [[escape_unprintable(cell) for cell in row] for row in rows]
        images = describe_images(comparison)
        return "\n".join([*fit_table(table, self._width), f"{images}; {self._say_where()}"])

    def _say_where(self) -> str:
        from dinac_cli.compare.comparison import CARD, PAGE

        out = self._run.request.out
        if not self._run.has_written:
            return f"nothing to do: {out} is up to date"
        return f"{os.path.join(out, PAGE)} shows them, {CARD} has the tables for a model card"

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        comparison = self._run.comparison
        facts = {} if comparison is None else comparison.to_json()
        return facts | {"failed": progress.tally.failures, "changed": self._run.has_written}

    def remarks(self) -> Iterator[str]:
        if self._run.comparison is None:
            yield f"no image was measured in all variants; {self._run.request.out} has no tables"

    def choose_exit(self, tally: Tally) -> Exit:
        is_lacking = self._run.comparison is None
        return Exit.FAILURES if tally.new_failures or is_lacking else Exit.DONE

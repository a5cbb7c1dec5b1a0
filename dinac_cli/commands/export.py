"""`dinac export`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.values import choices

if TYPE_CHECKING:
    from dinac_cli.jobs.export import ExportRun

EXPORT_FORMATS = ("safetensors", "npz", "comfyui", "webdataset", "lightningdit", "edm2")
EXPORT_KEYS = ("number", "name")
EXPORT_LABELS = ("none", "folders")
EXPORT_DTYPES = ("f32", "f16")

_SHOWN = 3  # classes with another number, in one line

ExportOut = Annotated[
    str | None,
    typer.Argument(
        metavar="OUT",
        help="The last argument: the folder to write to; with --to edm2 also a zip, OUT.zip.",
    ),
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        **choices("--to", EXPORT_FORMATS),
        help="safetensors, npz or comfyui (.latent): one file per record; webdataset: tar files of "
        "many records; lightningdit: shards with mirrored images and labels; edm2: mean and "
        "deviation, numbered, with dataset.json, in a folder or OUT.zip.",
    ),
]
ExportKeys = Annotated[
    str,
    typer.Option(
        "--keys",
        metavar="KEYS",
        **choices("--keys", EXPORT_KEYS),
        help="Keys of webdataset samples: number counts them; name is the name of the latents, "
        "with %2E for each dot and %25 for each percent sign.",
    ),
]
ExportForce = Annotated[
    bool,
    typer.Option(
        "--force", help="comfyui: also export latents that do not name d2 as their model."
    ),
]
ExportLabels = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="LABELS",
        **choices("--labels", EXPORT_LABELS),
        help="lightningdit, edm2: folders numbers the first folders below the input, sorted by "
        "name.",
    ),
]
ExportDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        **choices("--dtype", EXPORT_DTYPES),
        help="webdataset: the type of the arrays; f16 has half the size.",
    ),
]
ExportIndex = Annotated[
    bool,
    typer.Option("--wids", help="webdataset: also write wids-meta.json, an index of all tars."),
]
ExportCaptions = Annotated[
    str | None,
    typer.Option(
        "--captions",
        metavar="DIR",
        help="webdataset: add the captions of the images in DIR as `prompt`: text files beside "
        "images, metadata.jsonl or captions.json.",
    ),
]
ExportMasks = Annotated[
    bool,
    typer.Option(
        "--masks",
        help="webdataset: add the masks of encode --mask or --masks as mask.npy, uint8 from 0 to "
        "255; 255 everywhere if everything counts. Records encoded without masks fail.",
    ),
]


def export(
    *,
    latents: opt.Latents = None,
    out: ExportOut = None,
    out_option: opt.OutOption = None,
    form: ExportFormat = "safetensors",
    keys: ExportKeys = "number",
    force: ExportForce = False,
    labels: ExportLabels = "none",
    dtype: ExportDtype = "f32",
    index: ExportIndex = False,
    captions: ExportCaptions = None,
    masks: ExportMasks = False,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    fsync: opt.Fsync = False,
    lock: opt.Lock = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write latents in formats that other tools read.

    Latents are written as float32, with the metadata of their records. Keeps
    what is up to date, and replaces only files that export wrote. Needs no
    model, but for the deviations of --to edm2.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.jobs.export import ExportRequest

    latents, out = opt.split_out(latents, out, out_option, files_from)
    request = ExportRequest(
        inputs=read_inputs(latents, files_from, null, root, exclude, limit, shard),
        out=out,
        format=form,
        keys=keys,
        force=force,
        labels=labels,
        dtype=dtype,
        index=index,
        captions=captions,
        masks=masks,
        overwrite=overwrite,
        fsync=fsync,
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
        fail_fast=fail_fast,
        lock=lock,
    )
    raise typer.Exit(run_request(request, ExportSummary, screen))


class ExportSummary(Summary):
    """The summary of an export.

    It also says what was left out or is 0, which classes have other numbers, and whether a zip is
    missing.
    """

    def __init__(self, run: ExportRun) -> None:
        super().__init__("exported")
        self._outcome = run.outcome
        self._out = "" if run.output is None else run.output.path

    @property
    def stopped(self) -> str:
        if not self._outcome.is_unwritten:
            return super().stopped
        return f"stopped before the end; run the same command again to write {self._out}"

    def describe(self, progress: RunProgress) -> str:
        if not self._outcome.is_unwritten:
            return super().describe(progress)
        failed = [f"{progress.tally.failures} failed"] if progress.tally.failures else []
        return ", ".join([f"{self._out} was not written", *failed])

    def remarks(self) -> Iterator[str]:
        count = self._outcome.twins_left_out
        if count:
            images = (
                "the mirrored image of 1 record"
                if count == 1
                else (f"the mirrored images of {count} records")
            )
            yield f"left out {images}: this format has no place for them"
        count = self._outcome.without_deviation
        if count:
            yield (
                "1 record holds no posterior, so its deviation is 0"
                if count == 1
                else f"{count} records hold no posterior, so their deviations are 0"
            ) + "; encode --posterior stores it"
        if self._outcome.renumbered:
            yield f"the classes have other numbers now: {self._list_renumbered()}"

    def _list_renumbered(self) -> str:
        """`1 was bee and is bat, 2 was cat and is bee`; of many, the first three."""
        changes = self._outcome.renumbered
        shown = [f"{number} was {old} and is {new}" for number, old, new in changes[:_SHOWN]]
        rest = len(changes) - _SHOWN
        return ", ".join(shown) + (f", and {rest} more" if rest > 0 else "")

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        counts = {
            "twins_left_out": self._outcome.twins_left_out,
            "without_deviation": self._outcome.without_deviation,
            "classes_renumbered": len(self._outcome.renumbered),
        }
        summary = super().to_json(progress)
        if self._outcome.is_unwritten:
            summary["written"] = 0
        return summary | {key: count for key, count in counts.items() if count}

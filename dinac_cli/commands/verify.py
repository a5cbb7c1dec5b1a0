"""`dinac verify`."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary, describe_others
from dinac_cli.commands.screen.tables import format_duration
from dinac_cli.commands.values import complete, parse_percent, real
from dinac_cli.jobs.results import Status

SourceFolder = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="DIR",
        help="Folder of the encoded images. Each image must still exist, with the same size and "
        "hash.",
    ),
]
MaskFolder = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        help="Folder of encode --masks. Each mask must be unchanged since it was encoded.",
    ),
]
Reencode = Annotated[
    float | None,
    typer.Option(
        "--reencode",
        metavar="P%",
        show_default="none",
        parser=parse_percent,
        help="Re-encode about this share of the records, and report the largest difference.",
    ),
]
MaxDelta = Annotated[
    float | None,
    typer.Option(
        "--max-delta",
        parser=real(
            "--max-delta", lambda value: 0 <= value < math.inf, "a finite number, 0 or more"
        ),
        metavar="D",
        show_default="0.25, plus one quantiser step at q8 to q3",
        help="Largest difference allowed for a re-encoded latent.",
    ),
]
VerifyModel = Annotated[
    str,
    opt.model_option(
        "--model",
        metavar="MODEL",
        autocompletion=complete(opt.MODELS),
        help="Model that every record must come from; auto: any model.",
    ),
]
VerifyDtype = Annotated[
    str,
    opt.dtype_option(help="bf16 or f32, for --reencode; auto: the dtype that encoded the record."),
]


def verify(
    *,
    latents: opt.Latents = None,
    source: SourceFolder = None,
    masks: MaskFolder = None,
    reencode: Reencode = None,
    max_delta: MaxDelta = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: VerifyModel = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: VerifyDtype = "auto",
    workers: opt.Readers = None,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Verify that latents are complete, undamaged, of the right model and of unchanged images.

    Always checks structure, checksum and values. Other checks run only if an option requests them.

    In a folder of shards, each tar is also compared with its marker and the index.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.jobs.model_choice import ModelChoice
    from dinac_cli.jobs.verify import VerifyRequest

    request = VerifyRequest(
        inputs=read_inputs(latents, files_from, null, root, exclude, limit, shard),
        source=source,
        masks=masks,
        reencode=reencode,
        max_delta=max_delta,
        model=ModelChoice(model=model, revision=revision, device=device, dtype=dtype),
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
    )
    summary = VerifySummary(reencodes=reencode is not None)
    raise typer.Exit(run_request(request, lambda run: summary, screen))


class VerifySummary(Summary):
    """The summary of a verify run."""

    stopped = "stopped before the end; these are the findings so far"

    def __init__(self, *, reencodes: bool) -> None:
        super().__init__()
        self._reencodes = reencodes

    def describe(self, progress: RunProgress) -> str:
        tally = progress.tally
        failed = [f"{tally.failures} failed"] if tally.failures else []
        verified = f"{tally.counts[Status.VERIFIED]} verified"
        texts = [", ".join([verified, *failed, *describe_others(tally)])]
        if tally.unknown_sources:
            texts.append(f"{tally.unknown_sources} without a hash of the source")
        if self._reencodes:
            largest = f", largest |Δ| {tally.max_delta:.3g}" if tally.reencoded else ""
            texts.append(f"{tally.reencoded} re-encoded{largest}")
        return f"{'; '.join(texts)} in {format_duration(progress.elapsed)}"

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        tally = progress.tally
        return {
            "summary": True,
            "verified": tally.counts[Status.VERIFIED],
            "failed": tally.failures,
            "unknown_sources": tally.unknown_sources,
            "encoded_anew": tally.reencoded,
            "max_delta": tally.max_delta if tally.reencoded else None,
            "not_inputs": tally.not_inputs,
        }

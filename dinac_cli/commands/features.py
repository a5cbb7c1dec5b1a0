"""`dinac features`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.parser import MissingArgumentError
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary, describe_others
from dinac_cli.commands.screen.tables import align, format_size
from dinac_cli.commands.values import whole
from dinac_cli.errors import UsageError

if TYPE_CHECKING:
    from dinac_cli.jobs.features import FeaturesRun

FeaturesOut = Annotated[
    str | None,
    typer.Argument(
        metavar="[OUT.safetensors]",
        show_default=False,
        help="The last argument: the file to write; optional with --similar.",
    ),
]
Spatial = Annotated[
    bool, typer.Option("--spatial", help="Also write the patch tokens, one tensor per image.")
]
Similar = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="List the images most similar to the image of this latent file."
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        parser=whole("--top", 1),
        metavar="K",
        show_default="10",
        help="Number of images that --similar lists.",
    ),
]

_SUFFIX = ".safetensors"


def features(
    *,
    latents: opt.Latents = None,
    out: FeaturesOut = None,
    out_option: opt.OutOption = None,
    spatial: Spatial = False,
    similar: Similar = None,
    top: Top = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.RecordModel = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_size: opt.BatchSize = None,
    workers: opt.Readers = None,
    overwrite: opt.Overwrite = False,
    fsync: opt.Fsync = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Predict DINO features from files of latents, without decoding; find similar images.

    OUT holds `class_tokens` (F32 [N, D]) and `names`. Needs a model with a class head.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.jobs.features import FeatureOptions, FeaturesRequest
    from dinac_cli.jobs.model_choice import ModelChoice

    if top is not None and similar is None:
        raise UsageError("--top needs --similar FILE")
    if out_option is not None:
        latents, out = opt.split_out(latents, out, require_suffix(out_option), files_from)
    paths, target = split_arguments(latents, out, similar, spatial=spatial)
    request = FeaturesRequest(
        inputs=read_inputs(paths, files_from, null, root, exclude, limit, shard),
        out=target,
        options=FeatureOptions(spatial=spatial, similar=similar),
        model=ModelChoice(model=model, revision=revision, device=device, dtype=dtype),
        overwrite=overwrite,
        fsync=fsync,
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
        fail_fast=fail_fast,
    )
    count = 0 if similar is None else top or 10
    raise typer.Exit(run_request(request, lambda run: FeaturesSummary(run, target, count), screen))


def split_arguments(
    latents: list[str] | None, last: str | None, similar: str | None, *, spatial: bool
) -> tuple[list[str], str | None]:
    """Returns the inputs, and OUT or None. OUT may be missing only with `--similar`.

    Raises UsageError.
    """
    named = list(latents or ())
    if last is None and (similar is None or spatial):
        raise MissingArgumentError(f"OUT{_SUFFIX}")
    if last is None or last.lower().endswith(_SUFFIX):
        return named, last
    if similar is None:
        require_suffix(last)
    if spatial:
        raise UsageError(f"--spatial needs OUT; name a {_SUFFIX} file as the last argument")
    return [*named, last], None


def require_suffix(out: str) -> str:
    """Returns OUT. Raises UsageError if OUT has another suffix than the file that is written."""
    if not out.lower().endswith(_SUFFIX):
        raise UsageError(f"{out}: OUT must end in {_SUFFIX}; name OUT after the inputs")
    return out


class FeaturesSummary(Summary):
    """The summary of a features run: the file written, and up to `top` most similar images."""

    def __init__(self, run: FeaturesRun, out: str | None, top: int) -> None:
        super().__init__()
        self._features = run.features
        self._out = out
        self._top = top

    @property
    def stopped(self) -> str:
        is_missing = self._out is not None and not self._features.size_bytes
        return "stopped before the end" + (f"; {self._out} was not written" if is_missing else "")

    def describe(self, progress: RunProgress) -> str:
        from dinac_cli.jobs.feature_set import rank_similar

        rows, tally = self._features.rows, progress.tally
        count = "1 class token" if len(rows) == 1 else f"{len(rows)} class tokens"
        if rows:
            count += f" of {len(next(iter(rows.values())).class_token)} values"
        if self._features.size_bytes:
            count += f" in {self._out} ({format_size(self._features.size_bytes)})"
        failed = [f"{tally.failures} failed"] if tally.failures else []
        lines = [", ".join([count, *failed, *describe_others(tally)])]
        neighbours = rank_similar(self._features, self._top)
        if neighbours:
            table = [["rank", "similarity", "name"]]
            table += [[str(n.rank), f"{n.similarity:.4f}", n.name] for n in neighbours]
            lines += ["", *align(table)]
        return "\n".join(lines)

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        from dinac_cli.jobs.feature_set import rank_similar

        summary: dict[str, Any] = {
            "summary": True,
            "records": len(self._features.rows),
            "failed": progress.tally.failures,
            "not_inputs": progress.tally.not_inputs,
        }
        if self._features.size_bytes:
            summary |= {"output": self._out, "bytes": self._features.size_bytes}
        if self._top:
            summary["similar"] = [
                {"rank": n.rank, "similarity": n.similarity, "name": n.name, "file": n.path}
                for n in rank_similar(self._features, self._top)
            ]
        return summary

"""`dinac info`: prints the fields of one record, or the totals of many records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.bucket_table import buckets_to_json, describe_buckets
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary, describe_others
from dinac_cli.commands.screen.tables import align, format_size, list_facts
from dinac_cli.jobs.results import Tally

if TYPE_CHECKING:
    from dinac_cli.jobs.info import (
        Beside,
        Catalogue,
        ChannelMoments,
        InfoRun,
        RecordFacts,
        ShardFacts,
    )

_CHANNELS_SHOWN = 5
_FAILURES_SHOWN = 5

# Over many photographs, mean and deviation of each whitened channel stay within these bounds.
# Channels of another scale exceed the bounds. A few images may exceed them too: for example,
# images of the sky have no detail.
_JUDGED_RECORDS = 16
_MEAN_AT_MOST = 1.0
_STD_WITHIN = (0.5, 2.0)


def info(
    *,
    latents: opt.Latents = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    workers: opt.Readers = None,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Show what latent files contain: every field of a single record, or totals of many records.

    Compares the mean and deviation of each channel with N(0, 1); training expects N(0, 1).

    Of a folder of shards, also shows the tars, the settings and the images that failed.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.jobs.info import InfoRequest

    request = InfoRequest(
        inputs=read_inputs(latents, files_from, null, root, exclude, limit, shard), workers=workers
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
    raise typer.Exit(run_request(request, InfoSummary, screen))


class InfoSummary(Summary):
    """The summary of an info run: the contents of the catalogue."""

    stopped = "stopped before the end; these are the figures of the records read so far"

    def __init__(self, run: InfoRun) -> None:
        super().__init__()
        self._run = run
        self._catalogue = run.catalogue

    def describe(self, progress: RunProgress) -> str:
        shards = [line for facts in self._run.shards for line in _describe_shards(facts)]
        return "\n".join([*shards, *_describe_catalogue(self._catalogue, progress)])

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        catalogue, pixels, shards = self._catalogue, self._catalogue.pixels, self._run.shards
        return {
            "summary": True,
            "records": catalogue.records,
            "failed": progress.tally.failures,
            "not_inputs": progress.tally.not_inputs,
            "bytes": catalogue.size_bytes,
            "pixels": pixels,
            "bits_per_pixel": 8 * catalogue.size_bytes / pixels if pixels else None,
            "models": [
                {"model": model, "latent_space": space, "weights": weights, "records": count}
                for (model, space, weights), count in catalogue.models.most_common()
            ],
            "precisions": dict(catalogue.precisions),
            **({"buckets": buckets_to_json(catalogue.buckets)} if catalogue.buckets else {}),
            "class_tokens": catalogue.class_tokens,
            "posteriors": catalogue.posteriors,
            "flipped": catalogue.twins,
            "flipped_class_tokens": catalogue.flipped_class_tokens,
            "flipped_posteriors": catalogue.flipped_posteriors,
            **_masks_to_json(catalogue),
            "channels": [
                {"latent_space": space, "mean": moments.mean.tolist(), "std": moments.std.tolist()}
                for (space, _), moments in catalogue.moments.items()
            ],
            **({"shards": [facts.to_json() for facts in shards]} if shards else {}),
        }


def _masks_to_json(catalogue: Catalogue) -> dict[str, Any]:
    """Returns the number of masks and their mean; no keys if no record was made with masks."""
    if not (catalogue.masks or catalogue.asked_masks):
        return {}
    mean = catalogue.mask_shares / catalogue.masks if catalogue.masks else None
    return {"masks": catalogue.masks, "mask_mean": mean}


def _describe_shards(facts: ShardFacts) -> Iterator[str]:
    """Yields the lines about a folder of shards, and an empty line."""
    yield from list_facts(_list_shard_facts(facts))
    for failure in facts.failures[:_FAILURES_SHOWN]:
        yield f"  {failure.name}: {failure.reason}"
    if len(facts.failures) > _FAILURES_SHOWN:
        yield f"  and {len(facts.failures) - _FAILURES_SHOWN} more; --json lists them"
    yield ""


def _list_shard_facts(facts: ShardFacts) -> Iterator[tuple[str, str]]:
    yield "folder", facts.place
    yield "shards", f"{facts.shards}, {format_size(facts.size_bytes)}"
    yield "encoded with", facts.options or "unknown: run.json is damaged"
    if facts.compute:
        yield "computed on", facts.compute
    if facts.failures:
        count = len(facts.failures)
        images = "1 image" if count == 1 else f"{count} images"
        yield "not encoded", f"{images} that failed; encode --retry-failed tries again"
    if facts.problem is not None:
        yield "not encoded", f"unknown: {facts.problem}"


def _describe_catalogue(catalogue: Catalogue, progress: RunProgress) -> Iterator[str]:
    """Yields the lines of the summary: none if no record was read, because the errors say why."""
    if not catalogue.records:
        return
    if catalogue.records == 1 and catalogue.last is not None and progress.done == 1:
        yield from list_facts(_describe_record(catalogue.last))
    else:
        yield from list_facts(_describe_records(catalogue, progress.tally))
        if catalogue.buckets:
            yield ""
            yield from describe_buckets(catalogue.buckets)
    for (latent_space, _), moments in catalogue.moments.items():
        yield ""
        title = f" of latent space {latent_space}" if len(catalogue.moments) > 1 else ""
        yield _describe_moments(moments, title)
        if catalogue.records >= _JUDGED_RECORDS:
            yield from _describe_strays(moments, _name_scaling(catalogue))
    if len(catalogue.moments) > 1:
        yield "These records are of several latent spaces; do not mix them in one training."


def _describe_record(facts: RecordFacts) -> Iterator[tuple[str, str]]:
    """Yields each field of one record as (name, value)."""
    header = facts.header
    channels, rows, columns = header.shape
    yield "name", header.name or "- (anonymous)"
    yield "image", f"{header.width}x{header.height}"
    yield "latents", f"{channels} channels, {rows}x{columns} positions, patch {header.patch}"
    yield "precision", header.precision
    if facts.upright.token_width:
        yield "class token", f"{facts.upright.token_width} values"
    if facts.upright.has_posterior:
        yield "posterior", "log-SNR of each latent"
    if facts.upright.mask_share is not None:
        yield "mask", f"{facts.upright.mask_share:.1%} counts"
    if facts.flipped is not None:
        yield "twin", _describe_twin(facts.flipped)
    yield "size", f"{format_size(facts.size_bytes)}, {facts.bits_per_pixel:.2f} bits per pixel"
    yield "model", " revision ".join(filter(None, (header.model, header.revision))) or "-"
    yield "latent space", header.latent_space
    yield "weights", header.weights
    if header.source_bytes is not None:
        yield "source bytes", str(header.source_bytes)
    if header.source_sha256 is not None:
        yield "source sha256", header.source_sha256
    for name, value in (
        ("reading", header.image),
        ("computed on", header.compute),
        ("steps", header.step),
        ("written by", header.created_by),
    ):
        if value:
            yield name, value


def _describe_records(catalogue: Catalogue, tally: Tally) -> Iterator[tuple[str, str]]:
    yield "records", ", ".join([str(catalogue.records), *describe_others(tally)])
    if tally.failures:
        yield "failed", str(tally.failures)
    yield "size", format_size(catalogue.size_bytes)
    if catalogue.pixels:
        rate = 8 * catalogue.size_bytes / catalogue.pixels
        yield "pixels", f"{catalogue.pixels / 1e6:.1f} million, {rate:.2f} bits per pixel"
    for (model, latent_space, weights), count in catalogue.models.most_common():
        name = f"{model or 'unknown'} (latent space {latent_space}, weights {weights})"
        yield "model", name if len(catalogue.models) == 1 else f"{count} by {name}"
    for precision, count in catalogue.precisions.most_common():
        yield "precision", precision if len(catalogue.precisions) == 1 else f"{count} {precision}"
    for name, count in (
        ("class token", catalogue.class_tokens),
        ("posterior", catalogue.posteriors),
        ("twin", catalogue.twins),
        ("its class token", catalogue.flipped_class_tokens),
        ("its posterior", catalogue.flipped_posteriors),
    ):
        if count:
            yield name, "in all" if count == catalogue.records else f"in {count}"
    if catalogue.masks:
        count, mean = catalogue.masks, catalogue.mask_shares / catalogue.masks
        held = "in all" if count == catalogue.records else f"in {count}"
        yield "mask", f"{held}, of which {mean:.1%} counts"
    elif catalogue.asked_masks:
        yield "mask", "in none: everything counts"


def _describe_twin(beside: Beside) -> str:
    """Names the parts of a record that belong to the mirrored image."""
    parts = ["latents"]
    parts += ["class token"] if beside.token_width else []
    parts += ["posterior"] if beside.has_posterior else []
    parts += ["mask"] if beside.mask_share is not None else []
    return f"{', '.join(parts)} of the mirrored image"


def _describe_moments(moments: ChannelMoments, title: str) -> str:
    """Returns the range of the channels' means, and the range of their deviations, as text."""
    mean, std = moments.mean, moments.std
    return (
        f"channels{title}: mean {mean.min():+.2f} to {mean.max():+.2f}, "
        f"standard deviation {std.min():.2f} to {std.max():.2f} (N(0, 1) has 0 and 1)"
    )


def _name_scaling(catalogue: Catalogue) -> str:
    """Names the scaling that may be why latents are far from N(0, 1); empty if there was none."""
    if catalogue.maybe_upscaled:
        return "scaled up or far down (encode --resize), or "
    return "scaled far down or " if catalogue.maybe_scaled else ""


def _describe_strays(moments: ChannelMoments, scaling: str) -> Iterator[str]:
    """If channels are far from N(0, 1), yields how many are far, then a table of the farthest.

    `scaling` says how the images may have been scaled; empty if they were not.
    """
    import numpy as np

    low, high = _STD_WITHIN
    mean, std = moments.mean, moments.std
    is_far = (np.abs(mean) > _MEAN_AT_MOST) | (std < low) | (std > high)
    distance = np.abs(mean) + np.abs(np.log(np.maximum(std, 1e-6)))
    strays = [i for i in np.argsort(-distance, kind="stable") if is_far[i]]
    if not strays:
        return
    yield (
        f"{len(strays)} of {len(mean)} channels are far from N(0, 1): the images are "
        f"{scaling}very plain, or the latents are not whitened"
        + ("; the farthest:" if len(strays) > _CHANNELS_SHOWN else "")
    )
    rows = [["channel", "mean", "std"]]
    rows += [[str(i), f"{mean[i]:+.2f}", f"{std[i]:.2f}"] for i in strays[:_CHANNELS_SHOWN]]
    yield from align(rows)

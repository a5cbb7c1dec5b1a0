"""What an info run prints: the facts of one record, or what many come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dinac_cli.commands.run import Ending, RunProgress, describe_others, format_size
from dinac_cli.commands.screen.tables import align, list_facts
from dinac_cli.jobs.info import Beside, Catalogue, ChannelMoments, RecordFacts
from dinac_cli.jobs.results import Tally

_CHANNELS_SHOWN = 5

# Channels of whitened latents stray from N(0, 1) by less than this over a folder of photographs;
# those of another scale by more. A few images say nothing: sky has no detail.
_JUDGED_RECORDS = 16
_MEAN_AT_MOST = 1.0
_STD_WITHIN = (0.5, 2.0)


def end_catalogue(catalogue: Catalogue) -> Ending:
    """The ending of an info run that fills `catalogue`."""
    return Ending(
        lambda progress: "\n".join(describe_catalogue(catalogue, progress)),
        lambda tally: catalogue_to_json(catalogue, tally),
        "dinac: stopped before the end; these are the figures of what was read",
    )


def describe_catalogue(catalogue: Catalogue, progress: RunProgress) -> Iterator[str]:
    """The lines that a person reads."""
    if catalogue.records == 1 and catalogue.last is not None and progress.done == 1:
        yield from list_facts(list(describe_record(catalogue.last)))
    else:
        yield from list_facts(list(_describe_records(catalogue, progress.tally)))
    for (latent_space, _), moments in catalogue.moments.items():
        yield ""
        title = f" of latent space {latent_space}" if len(catalogue.moments) > 1 else ""
        yield describe_moments(moments, title)
        if catalogue.records >= _JUDGED_RECORDS:
            yield from describe_strays(moments)
    if len(catalogue.moments) > 1:
        yield "These records are of several latent spaces: no training should mix them."


def describe_record(facts: RecordFacts) -> Iterator[tuple[str, str]]:
    """Names and values of all that one record says."""
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
    if facts.flipped is not None:
        yield "twin", _describe_twin(facts.flipped)
    yield "size", f"{format_size(facts.size_bytes)}, {facts.bits_per_pixel:.2f} bits a pixel"
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
        yield "pixels", f"{catalogue.pixels / 1e6:.1f} million, {rate:.2f} bits a pixel"
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


def _describe_twin(beside: Beside) -> str:
    """What there is of the mirrored image."""
    parts = ["latents"]
    parts += ["class token"] if beside.token_width else []
    parts += ["posterior"] if beside.has_posterior else []
    return f"{', '.join(parts)} of the mirrored image"


def describe_moments(moments: ChannelMoments, title: str = "") -> str:
    """The range of means and deviations over the channels."""
    mean, std = moments.mean, moments.std
    return (
        f"channels{title}: mean {mean.min():+.2f} to {mean.max():+.2f}, "
        f"standard deviation {std.min():.2f} to {std.max():.2f} (N(0, 1): 0 and 1)"
    )


def describe_strays(moments: ChannelMoments) -> Iterator[str]:
    """How many channels are far from N(0, 1), and the farthest of them; nothing where none is."""
    strays = find_strays(moments)
    if not strays:
        return
    mean, std = moments.mean, moments.std
    yield (
        f"{len(strays)} of {len(mean)} channels are far from N(0, 1): "
        "very plain images, or latents that are not whitened"
        + ("; the farthest:" if len(strays) > _CHANNELS_SHOWN else "")
    )
    rows = [["channel", "mean", "std"]]
    rows += [[str(i), f"{mean[i]:+.2f}", f"{std[i]:.2f}"] for i in strays[:_CHANNELS_SHOWN]]
    yield from align(rows)


def find_strays(moments: ChannelMoments) -> list[int]:
    """Channels that are far from N(0, 1), the farthest first."""
    low, high = _STD_WITHIN
    mean, std = moments.mean, moments.std
    far = (np.abs(mean) > _MEAN_AT_MOST) | (std < low) | (std > high)
    distance = np.abs(mean) + np.abs(np.log(np.maximum(std, 1e-6)))
    return [int(i) for i in np.argsort(-distance, kind="stable") if far[i]]


def catalogue_to_json(catalogue: Catalogue, tally: Tally) -> dict[str, Any]:
    """The summary object of an info run."""
    return {
        "summary": True,
        "records": catalogue.records,
        "failed": tally.failures,
        "not_inputs": tally.not_inputs,
        "bytes": catalogue.size_bytes,
        "pixels": catalogue.pixels,
        "bits_per_pixel": 8 * catalogue.size_bytes / catalogue.pixels if catalogue.pixels else None,
        "models": [
            {"model": model, "latent_space": space, "weights": weights, "records": count}
            for (model, space, weights), count in catalogue.models.most_common()
        ],
        "precisions": dict(catalogue.precisions),
        "class_tokens": catalogue.class_tokens,
        "posteriors": catalogue.posteriors,
        "flipped": catalogue.twins,
        "flipped_class_tokens": catalogue.flipped_class_tokens,
        "flipped_posteriors": catalogue.flipped_posteriors,
        "channels": [
            {
                "latent_space": space,
                "mean": [float(value) for value in moments.mean],
                "std": [float(value) for value in moments.std],
            }
            for (space, _), moments in catalogue.moments.items()
        ],
    }

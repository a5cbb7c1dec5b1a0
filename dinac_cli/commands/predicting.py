"""What a features run is asked for, where it writes, and what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dinac_cli.commands.run import Ending, RunProgress, describe_others, format_size
from dinac_cli.commands.screen.tables import align
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.jobs.feature_set import FEATURES_SUFFIX, FeatureSet, is_feature_file, rank_similar
from dinac_cli.jobs.results import Tally
from dinac_cli.storage.output import Output, OutputKind

TOP = 10


@dataclass(frozen=True)
class FeatureRequest:
    """Inputs, OUT (None: nothing is written) and how many similar images to list (0: none)."""

    latents: tuple[str, ...]
    out: str | None
    top: int

    @staticmethod
    def read(
        latents: Sequence[str] | None,
        last: str | None,
        similar: str | None,
        top: int | None,
        *,
        spatial: bool,
    ) -> FeatureRequest:
        """Tell whether the last argument is OUT or, with `--similar`, an input. UsageError."""
        if top is not None and similar is None:
            raise UsageError("--top goes with --similar FILE")
        named = tuple(latents or ())
        count = 0 if similar is None else top or TOP
        if last is None and similar is not None and not spatial:
            return FeatureRequest(named, None, count)
        if last is None:
            raise UsageError(f"name the file to write as the last argument: OUT{FEATURES_SUFFIX}")
        if last.lower().endswith(FEATURES_SUFFIX):
            return FeatureRequest(named, last, count)
        if similar is None:
            raise UsageError(
                f"{last}: OUT, the last argument, is the file to write: name it {FEATURES_SUFFIX}"
            )
        if spatial:
            raise UsageError(f"--spatial is for OUT: name it last, with {FEATURES_SUFFIX}")
        return FeatureRequest((*named, last), None, count)


def open_feature_file(out: str | None, *, overwrite: bool, fsync: bool) -> Output | None:
    """OUT, if one is wanted. Raises UsageError, OutputError where it cannot be written there."""
    if out is None:
        return None
    if os.path.isdir(out):
        raise UsageError(f"{out}: OUT, the last argument, is a folder: name a file")
    if os.path.lexists(out) and not overwrite and not is_feature_file(out):
        raise OutputError(
            f"{out}: exists and holds no features of dinac; add --overwrite to replace it"
        )
    return Output(out, OutputKind.FILE, is_feature_file, overwrite, fsync)


def end_features(features: FeatureSet, request: FeatureRequest) -> Ending:
    """The ending of a features run that fills `features`."""
    return Ending(
        lambda progress: "\n".join(describe_features(features, request, progress)),
        lambda tally: features_to_json(features, request, tally),
        "dinac: stopped before the end"
        + ("" if request.out is None else f"; {request.out} was not written"),
    )


def describe_features(
    features: FeatureSet, request: FeatureRequest, progress: RunProgress
) -> Iterator[str]:
    """The lines that a person reads."""
    rows = features.rows
    count = f"{len(rows)} class token" + ("" if len(rows) == 1 else "s")
    if rows:
        count += f" of {len(next(iter(rows.values())).class_token)} values"
    if features.size_bytes:
        count += f" in {request.out} ({format_size(features.size_bytes)})"
    failed = progress.tally.failures
    parts = [count, *([f"{failed} failed"] if failed else []), *describe_others(progress.tally)]
    yield ", ".join(parts)
    neighbours = rank_similar(features, request.top)
    if neighbours:
        yield ""
        rows_shown = [["rank", "similarity", "name"]]
        rows_shown += [[str(n.rank), f"{n.similarity:.4f}", n.name] for n in neighbours]
        yield from align(rows_shown)


def features_to_json(features: FeatureSet, request: FeatureRequest, tally: Tally) -> dict[str, Any]:
    """The summary object of a features run."""
    summary: dict[str, Any] = {
        "summary": True,
        "records": len(features.rows),
        "failed": tally.failures,
        "not_inputs": tally.not_inputs,
    }
    if features.size_bytes:
        summary |= {"output": request.out, "bytes": features.size_bytes}
    if request.top:
        summary["similar"] = [
            {"rank": n.rank, "similarity": n.similarity, "name": n.name, "file": n.path}
            for n in rank_similar(features, request.top)
        ]
    return summary

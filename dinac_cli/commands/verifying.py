"""What a verify run is asked for beside its inputs, and what it says in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.commands.run import Ending, RunProgress, describe_others, format_duration
from dinac_cli.commands.values import parse_percent
from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import UsageError
from dinac_cli.jobs.reencode import Reencoding
from dinac_cli.jobs.results import Status, Tally


def require_folder(source: str | None) -> None:
    """Refuse a `--source` that is no folder. Raises UsageError."""
    if source is not None and not os.path.isdir(source):
        raise UsageError(f"--source {source}: no such folder")


def choose_reencoding(
    share: str | None,
    max_delta: float | None,
    source: str | None,
    find_model: Callable[[RecordHeader], ModelHandle],
) -> Reencoding | None:
    """What `--reencode` asks for; None without. Raises UsageError where an option is missing."""
    if share is None:
        if max_delta is not None:
            raise UsageError("--max-delta goes with --reencode")
        return None
    if source is None:
        raise UsageError("--reencode reads the images again: say with --source DIR where they are")
    return Reencoding(parse_percent(share), find_model, max_delta)


def end_verifying(reencoding: Reencoding | None) -> Ending:
    """The ending of a verify run."""
    return Ending(
        partial(describe_findings, asks_anew=reencoding is not None),
        findings_to_json,
        "dinac: stopped before the end; this is what was found until then",
    )


def describe_findings(progress: RunProgress, *, asks_anew: bool) -> str:
    """The last line of a verify run; `asks_anew` where records were to be encoded anew."""
    tally = progress.tally
    parts = [f"{tally.counts[Status.VERIFIED]} verified"]
    if tally.failures:
        parts.append(f"{tally.failures} failed")
    parts += describe_others(tally)
    texts = [", ".join(parts)]
    if tally.unknown_sources:
        texts.append(f"{tally.unknown_sources} without a hash of the source")
    if asks_anew:
        largest = f", largest |Δ| {tally.max_delta:.3g}" if tally.encoded_anew else ""
        texts.append(f"{tally.encoded_anew} encoded anew{largest}")
    return f"{'; '.join(texts)} in {format_duration(time.monotonic() - progress.started)}"


def findings_to_json(tally: Tally) -> dict[str, Any]:
    """The tally as the summary object of a verify run; no `max_delta` where nothing was encoded."""
    return {
        "summary": True,
        "verified": tally.counts[Status.VERIFIED],
        "failed": tally.failures,
        "unknown_sources": tally.unknown_sources,
        "encoded_anew": tally.encoded_anew,
        "max_delta": tally.max_delta if tally.encoded_anew else None,
        "not_inputs": tally.not_inputs,
    }

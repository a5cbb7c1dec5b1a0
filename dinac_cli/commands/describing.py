"""What the `models` commands print: tables for people, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from dinac_cli.commands.run import format_size
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.tables import fit_table, list_facts
from dinac_cli.errors import ModelError
from dinac_cli.models.registry import HUB_ALIASES, NANO, ResolvedModel, find_cached, resolve_model
from dinac_cli.models.summary import ModelSummary, summarise_model

_PARTS = {"encoder": "encoder", "decoder": "decoder", "class_head": "class head"}


def report_models(as_json: bool, console: Console) -> None:
    """One row for each model with a short name; those that are not here say how to fetch them."""
    rows = [["name", "repository", "state", "revision", "size", "parameters"]]
    for name in (NANO, *HUB_ALIASES):
        entry = _describe_entry(name)
        if as_json:
            console.print_json(entry)
            continue
        size = format_size(entry["size_bytes"]) if "size_bytes" in entry else "-"
        count = f"{entry['parameters']:,}" if "parameters" in entry else "-"
        revision = str(entry.get("revision", "-"))[:12]
        rows.append([name, entry.get("repository", "-"), entry["state"], revision, size, count])
    if as_json:
        return
    for line in fit_table(rows, console.result_width):
        console.print_result(line)


def report_pulled(model: ResolvedModel, console: Console) -> None:
    """Where the model that was fetched lies, once it is known to be a whole one."""
    summary = summarise_model(model)
    console.print_result(
        f"{model.label}, revision {model.revision}: {format_size(summary.size_bytes)} "
        f"in {model.path}"
    )


def report_model(model: ResolvedModel, as_json: bool, console: Console) -> None:
    """All that is known of one model. Raises ModelError."""
    summary = summarise_model(model)
    if as_json:
        console.print_json({**asdict(summary), "path": str(summary.path)})
        return
    for line in list_facts(list(describe_summary(summary))):
        console.print_result(line)


def describe_summary(summary: ModelSummary) -> Iterator[tuple[str, str]]:
    """Names and values of the lines that describe a model."""
    yield "model", summary.label
    yield "revision", summary.revision or "-"
    yield "path", str(summary.path)
    yield "size", format_size(summary.size_bytes)
    parts = (
        f"{label} {summary.parameters[part]:,}"
        for part, label in _PARTS.items()
        if part in summary.parameters
    )
    yield "parameters", f"{summary.parameter_count:,} ({', '.join(parts)})"
    yield "latents", f"{summary.channels} channels at patch {summary.patch}"
    yield "stored in", summary.stored
    kept = f"{summary.float32_parameters:,} parameters stay float32, norms above all"
    yield "in bfloat16", kept
    yield "latent space", summary.latent_space
    yield "weights", summary.weights
    yield "licence", summary.licence or "not said"


def _describe_entry(name: str) -> dict[str, Any]:
    """One model of the list; of one that is not here, only its names are known."""
    entry: dict[str, Any] = {"name": name}
    if name != NANO:
        entry["repository"] = HUB_ALIASES[name]
    model = resolve_model(name) if name == NANO else find_cached(HUB_ALIASES[name])
    if model is None:
        return entry | {"state": "not cached"}
    entry |= {"state": "embedded" if name == NANO else "cached", "revision": model.revision}
    try:
        summary = summarise_model(model)
    except ModelError as exc:
        return entry | {"state": "damaged", "reason": str(exc)}
    return entry | {
        "size_bytes": summary.size_bytes,
        "parameters": summary.parameter_count,
        "latent_space": summary.latent_space,
        "weights": summary.weights,
        "licence": summary.licence,
        "path": str(summary.path),
    }

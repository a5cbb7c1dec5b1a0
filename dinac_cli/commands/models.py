"""`dinac models list|pull|show`: tables for people, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.parser import PlainCommand, PlainGroup
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.tables import fit_table, format_size, list_facts
from dinac_cli.commands.values import complete
from dinac_cli.errors import ModelError

if TYPE_CHECKING:
    from dinac_cli.models.facts import ModelSummary

_PARTS = {"encoder": "encoder", "decoder": "decoder", "class_head": "class head"}

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(opt.MODELS[1:]),
        help=f"{opt.MODEL_KINDS}.",
    ),
]
HubModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(opt.MODELS[2:]),
        help="d2, dinac-ae or a Hub repository.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per model on stdout.")]

models = typer.Typer(
    name="models",
    cls=PlainGroup,
    no_args_is_help=True,
    help="List, fetch or describe models (three commands).",
)


@models.command("list", cls=PlainCommand)
def list_models(as_json: Json = False) -> None:
    """List the models that have short names, and show which of them are on this machine."""
    from dinac_cli.models.registry import HUB_ALIASES, NANO

    console = Console()
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
    if not as_json:
        for line in fit_table(rows, console.result_width):
            console.print_result(line)


@models.command("pull", cls=PlainCommand)
def pull(model: HubModel, revision: opt.Revision = None) -> None:
    """Fetch a model from the Hub into the Hub's cache. To resume, run the same command again."""
    from dinac_cli.models.facts import summarise_model
    from dinac_cli.models.registry import pull_model

    pulled = pull_model(model, revision)
    size = format_size(summarise_model(pulled).size_bytes)
    Console().print_result(f"{pulled.label}, revision {pulled.revision}: {size} in {pulled.path}")


@models.command("show", cls=PlainCommand)
def show(model: Model, revision: opt.Revision = None, as_json: Json = False) -> None:
    """Describe a local model: sizes, identities, precision, licence. Downloads nothing."""
    from dinac_cli.models.facts import summarise_model
    from dinac_cli.models.registry import find_local

    console = Console()
    summary = summarise_model(find_local(model, revision))
    if as_json:
        console.print_json({**asdict(summary), "path": str(summary.path)})
        return
    for line in list_facts(list(_describe_model(summary))):
        console.print_result(line)


def _describe_entry(name: str) -> dict[str, Any]:
    """Returns one model of the list. If the model is not cached, only its names are known."""
    from dinac_cli.models.facts import summarise_model
    from dinac_cli.models.registry import HUB_ALIASES, NANO, find_cached, resolve_model

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


def _describe_model(summary: ModelSummary) -> Iterator[tuple[str, str]]:
    """Yields the lines that describe a model as (name, value)."""
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
    yield "in bfloat16", f"{summary.float32_parameters:,} parameters stay float32 (mostly norms)"
    yield "latent space", summary.latent_space
    yield "weights", summary.weights
    yield "licence", summary.licence or "unknown"

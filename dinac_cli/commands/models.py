"""`dinac models list|pull|show|rm`: tables for people, JSON lines for programs."""

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
from dinac_cli.errors import Exit, ModelError, UsageError
from dinac_cli.models.aliases import HUB_ALIASES, NANO

if TYPE_CHECKING:
    from dinac_cli.models.facts import ModelSummary
    from dinac_cli.models.hub_cache import Removal

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
        autocompletion=complete(HUB_ALIASES),
        help=f"{', '.join(HUB_ALIASES)} or a Hub repository.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per model on stdout.")]

RemovedRevision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REV",
        help="Remove only this branch, tag or commit (its first 7 characters are enough).",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]

models = typer.Typer(
    name="models",
    cls=PlainGroup,
    no_args_is_help=True,
    help="List, fetch, describe or remove models (four commands).",
)


@models.command("list", cls=PlainCommand)
def list_models(as_json: Json = False) -> None:
    """List the models that have short names, and show which of them are on this machine.

    For a model that is not cached, shows the size of its download, if known. Stays offline.
    """

    console, refusals = Console(), []
    rows = [["name", "repository", "state", "revision", "size", "parameters"]]
    for name in (NANO, *HUB_ALIASES):
        entry = _describe_entry(name)
        if as_json:
            console.print_json(entry)
            continue
        size_bytes = entry.get("size_bytes", entry.get("download_bytes"))
        size = "-" if size_bytes is None else format_size(size_bytes)
        count = f"{entry['parameters']:,}" if "parameters" in entry else "-"
        revision = str(entry.get("revision", "-"))[:12]
        rows.append([name, entry.get("repository", "-"), entry["state"], revision, size, count])
        refusals += [f"{name}: {entry['reason']}"] if "reason" in entry else []
    if not as_json:
        for line in fit_table(rows, console.result_width):
            console.print_result(line)
    for refusal in refusals:
        console.say(refusal)


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


@models.command("rm", cls=PlainCommand)
def remove(model: HubModel, revision: RemovedRevision = None, yes: Yes = False) -> None:
    """Remove a model from the Hub's cache: all its revisions, or the one of --revision.

    Names the repository and the bytes, and asks first. Without a terminal, needs --yes.
    """
    from dinac_cli.models.hub_cache import plan_removal

    console = Console()
    removal = plan_removal(model, revision)
    what = _describe_removal(removal)
    if not yes and not console.can_ask:
        raise UsageError(f"would remove {what}; to remove without a question, add --yes")
    if not yes and not console.ask(f"remove {what} from {removal.cache}?"):
        console.say("removed nothing")
        raise typer.Exit(Exit.REFUSED)
    removal.execute()
    console.print_result(f"removed {what}")


def _describe_removal(removal: Removal) -> str:
    """Returns e.g. `owner/name, revision 0123456789ab (617.0 MB)`."""
    count = len(removal.revisions)
    which = f"revision {removal.revisions[0][:12]}" if count == 1 else f"all {count} revisions"
    return f"{removal.repository}, {which} ({format_size(removal.size_bytes)})"


def _describe_entry(name: str) -> dict[str, Any]:
    """Returns one model of the list. If it is not cached, only names and download are known."""
    from dinac_cli.models.facts import summarise_model
    from dinac_cli.models.registry import (
        DOWNLOAD_BYTES,
        find_cached,
        resolve_model,
    )

    entry: dict[str, Any] = {"name": name}
    if name != NANO:
        entry["repository"] = HUB_ALIASES[name]
    model = resolve_model(name) if name == NANO else find_cached(HUB_ALIASES[name])
    if model is None:
        size = {"download_bytes": DOWNLOAD_BYTES[name]} if name in DOWNLOAD_BYTES else {}
        return entry | {"state": "not cached"} | size
    entry |= {"state": "embedded" if name == NANO else "cached", "revision": model.revision}
    try:
        summary = summarise_model(model)
    except ModelError as exc:
        return entry | {"state": "refused", "reason": str(exc)}
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
    yield "in bfloat16", f"{summary.float32_parameters:,} parameters stay float32"
    yield "latent space", summary.latent_space
    yield "weights", summary.weights
    yield "licence", summary.licence or "unknown"

"""Chooses the models of a run from `--model`, from OUT, or from the records."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.records import name_model
from dinac_cli.commands.screen.console import Console
from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.jobs.freshness import WantedLatents, find_first_record
from dinac_cli.models.registry import (
    AUTO,
    NANO,
    ResolvedModel,
    choose_default,
    find_local,
    find_model,
    resolve_model,
)
from dinac_cli.storage.output import Output, OutputKind


def choose_encoder(
    model: str,
    revision: str | None,
    choice: DeviceChoice,
    output: Output,
    console: Console,
    *,
    features: bool = False,
) -> ModelHandle:
    """The model that encodes: the named one, that of OUT's records, or the machine's default.

    With `features` its class head works beside its encoder: UsageError where it has none.
    """
    if model == AUTO:
        found = None if output.overwrite else _find_held(output)
        if found is not None:
            return open_encoder(_find_held_model(*found, revision), choice, features=features)
        model = choose_default(choice.device)
    resolved = resolve_model(model, revision, announce=_announce(console))
    return open_encoder(resolved, choice, features=features)


def open_encoder(resolved: ResolvedModel, choice: DeviceChoice, *, features: bool) -> ModelHandle:
    """The encoder of a model and, for `features`, its class head. Raises UsageError, ModelError."""
    if not features:
        return ModelHandle(resolved, "encoder", choice)
    handle = ModelHandle(resolved, "encoder", choice, ("class_head",))
    if handle.config.class_head is None:
        raise UsageError(
            f"--features: model {handle.label} has no class head (the part that predicts them): "
            "name one that has, such as --model d2, or leave out --features"
        )
    return handle


def choose_local_encoder(
    model: str, revision: str | None, output: Output, default: str = NANO
) -> ResolvedModel:
    """What `choose_encoder` takes, of what is on this machine: nothing is fetched, no GPU sought.

    Where OUT holds no record there is none to compare the machine's default with, and `default`
    stands in for it. Raises ModelError where the model is not at hand.
    """
    if model != AUTO:
        return find_local(model, revision)
    found = None if output.overwrite else _find_held(output)
    return find_local(default, revision) if found is None else _find_held_model(*found, revision)


def _find_held_model(path: str, header: RecordHeader, revision: str | None) -> ResolvedModel:
    """The model at hand that a record in OUT was encoded with. Raises ModelError, UsageError."""
    resolved = find_model(header.latent_space)
    if resolved is None:
        raise ModelError(
            f"{path} was encoded with model {name_model(header)}, which is not at hand: "
            "name it with --model, or choose another OUT"
        )
    _refuse_revision(revision)
    return resolved


def refuse_mixed_latents(output: Output, wanted: WantedLatents) -> None:
    """Stop before any work where OUT holds another model, precision or geometry: a UsageError."""
    refusal = describe_mixed_latents(output, wanted)
    if refusal is not None:
        raise UsageError(refusal)


def describe_mixed_latents(output: Output, wanted: WantedLatents) -> str | None:
    """What OUT holds that these latents do not go beside, and what to do; None where they do."""
    found = None if output.overwrite else _find_held(output)
    if found is None:
        return None
    path, header = found
    conflict = wanted.describe_conflict(header)
    if conflict is None:
        return None
    return (
        f"{output.path} already holds {conflict} ({path}): "
        "choose another OUT, or add --overwrite to encode all anew"
    )


def choose_decoders(
    model: str, revision: str | None, choice: DeviceChoice, console: Console
) -> Callable[[RecordHeader], ModelHandle]:
    """The model for each record: the named one for all, or that of its latent space.

    What a record says is only compared with the models at hand; nothing is fetched for it.
    """
    named = resolve_named(model, revision, console)
    if named is not None:
        handle = ModelHandle(named, "decoder", choice)
        handle.check()
        return lambda header: handle
    return _choose_by_latents("decoder", lambda header: choice)


def choose_class_heads(
    model: str, revision: str | None, choice: DeviceChoice, console: Console
) -> Callable[[RecordHeader], ModelHandle]:
    """The model that predicts the features of each record, chosen as `choose_decoders` does.

    One without a class head is a ModelError: at once where it is named.
    """
    named = resolve_named(model, revision, console)
    if named is not None:
        handle = require_class_head(ModelHandle(named, "class_head", choice))
        handle.check()
        return lambda header: handle
    find = _choose_by_latents("class_head", lambda header: choice)
    return lambda header: require_class_head(find(header))


def require_class_head(model: ModelHandle) -> ModelHandle:
    """The model itself, if it has a class head. Raises ModelError."""
    if model.config.class_head is None:
        raise ModelError(
            f"model {model.label} has no class head (the part that predicts features): encode the "
            "images with a model that has one, such as d2"
        )
    return model


def choose_encoders(
    named: ResolvedModel | None, choice: DeviceChoice
) -> Callable[[RecordHeader], ModelHandle]:
    """The model that encodes each record anew: the named one, or that of its latent space.

    A dtype of `auto` is the one that the record says it was encoded in.
    """

    def choose(header: RecordHeader) -> DeviceChoice:
        dtype = header.compute.partition("/")[2].partition("/")[0]
        is_open = choice.dtype == "auto" and dtype in ("bf16", "f32")
        return replace(choice, dtype=dtype) if is_open else choice

    return _choose_by_latents("encoder", choose, named)


def resolve_named(model: str, revision: str | None, console: Console) -> ResolvedModel | None:
    """The model that `--model` names; None where it is `auto`. Raises ModelError, UsageError."""
    if model == AUTO:
        _refuse_revision(revision)
        return None
    return resolve_model(model, revision, announce=_announce(console))


def _choose_by_latents(
    part: str, choose: Callable[[RecordHeader], DeviceChoice], named: ResolvedModel | None = None
) -> Callable[[RecordHeader], ModelHandle]:
    found: dict[str, ResolvedModel | None] = {}
    handles: dict[tuple[ResolvedModel, DeviceChoice], ModelHandle] = {}
    lock = threading.Lock()

    def find(header: RecordHeader) -> ModelHandle:
        with lock:
            if named is None and header.latent_space not in found:
                found[header.latent_space] = find_model(header.latent_space)
            resolved = named or found[header.latent_space]
            if resolved is None:
                raise ModelError(
                    f"encoded with model {name_model(header)}, which is neither embedded nor "
                    "cached: name it with --model"
                )
            key = (resolved, choose(header))
            if key not in handles:
                handles[key] = ModelHandle(resolved, part, key[1])
            return handles[key]

    return find


def _find_held(output: Output) -> tuple[str, RecordHeader] | None:
    if output.kind is OutputKind.STREAM:
        return None
    return find_first_record(output.path)


def _refuse_revision(revision: str | None) -> None:
    if revision is not None:
        raise UsageError(f"--revision {revision}: say with --model what it is a revision of")


def _announce(console: Console) -> Callable[[str], None]:
    return lambda text: console.say(f"dinac: {text}")

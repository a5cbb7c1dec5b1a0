"""Chooses the models of a run: the named model, or the model that encoded the records."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

from dinac_cli.codec.compute import Compute, check_device, check_dtype
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.records import name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.tensors import CLASS_TOKEN, LOGSNR
from dinac_cli.errors import ModelError, UsageError
from dinac_cli.jobs.freshness import WantedLatents
from dinac_cli.jobs.held import HeldRecord
from dinac_cli.jobs.request import Announce
from dinac_cli.models.aliases import AUTO, NANO
from dinac_cli.models.interface import CLASS_HEAD, DECODER, ENCODER, LatentModel
from dinac_cli.models.registry import (
    choose_default,
    find_local,
    find_model,
    has_short_name,
    resolve_model,
)
from dinac_cli.storage.output import Output


@dataclass(frozen=True, kw_only=True)
class ModelChoice(DeviceChoice):
    """The model that a request names (or `auto`), and its device and dtype."""

    model: str = AUTO
    revision: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError if the name of a device or of the dtype is unknown."""
        check_device(self.device)
        check_dtype(self.dtype)

    def resolve(self, announce: Announce) -> LatentModel | None:
        """Returns the named model, or None for `auto`. Raises ModelError, UsageError."""
        if self.model == AUTO:
            self.refuse_revision()
            return None
        return resolve_model(self.model, self.revision, announce=announce)

    def refuse_revision(self) -> None:
        """Raises UsageError if a revision is given, because a revision needs a named model."""
        if self.revision is not None:
            raise UsageError(f"--revision {self.revision}: name its model with --model")


def choose_encoder(
    choice: ModelChoice,
    held: HeldRecord | None,
    announce: Announce,
    *,
    companions: Collection[str] = (),
) -> ModelHandle:
    """Returns the encoder of the named model.

    For `auto`, returns the encoder of the model that encoded `held`, the record in OUT. If OUT
    holds no record to keep, returns the encoder of the machine's default model. `companions` are
    the tensors to store beside the latents. Raises ModelError, and UsageError as `open_encoder`.
    """
    if choice.model == AUTO and held is not None:
        resolved = _find_held_model(held, choice)
    else:
        model = choose_default(choice.device) if choice.model == AUTO else choice.model
        resolved = resolve_model(model, choice.revision, announce=announce)
    return open_encoder(resolved, choice, companions)


def explain_default(choice: ModelChoice, held: HeldRecord | None, model: ModelHandle) -> str | None:
    """Returns why `choose_encoder` chose the model: "default on a CPU" or "default on a GPU".

    Returns None if the user or the record in OUT decides the model.
    """
    if choice.model != AUTO or held is not None:
        return None
    return f"default on a {'CPU' if model.label == NANO else 'GPU'}"


def choose_local_encoder(
    choice: ModelChoice, held: HeldRecord | None, default: str = NANO
) -> LatentModel:
    """Returns the model that `choose_encoder` would choose, if the model is on this machine.

    Downloads nothing and looks for no GPU. If `held` is None, `default` replaces the machine's
    default model. Raises ModelError if the model is not on this machine.
    """
    if choice.model != AUTO:
        return find_local(choice.model, choice.revision)
    if held is None:
        return find_local(default, choice.revision)
    return _find_held_model(held, choice)


def open_encoder(
    resolved: LatentModel, device: DeviceChoice, companions: Collection[str]
) -> ModelHandle:
    """Returns a model's encoder and, if `companions` include the class token, its class head.

    Raises UsageError if the model cannot compute the companions, or cannot be compiled.
    """
    needs_head = CLASS_TOKEN in companions
    handle = ModelHandle(resolved, ENCODER, device, (CLASS_HEAD,) if needs_head else ())
    _refuse_missing_encoder(handle)
    _refuse_compilation(handle)
    if LOGSNR in companions and not handle.traits.has_posterior:
        raise UsageError(
            f"--posterior: the posterior of model {handle.label} has no log-SNR; "
            "use --no-posterior, or name another model"
        )
    if needs_head and CLASS_HEAD not in handle.traits.parts:
        raise UsageError(
            f"--features: model {handle.label} has no class head (the part that predicts them); "
            "name a model that has one, such as --model d2, or leave out --features"
        )
    return handle


def _find_held_model(held: HeldRecord, choice: ModelChoice) -> LatentModel:
    """Finds the model that encoded a record in OUT. Looks only on this machine.

    Raises ModelError, UsageError.
    """
    resolved = find_model(held.header.latent_space)
    if resolved is None:
        name = held.header.model
        remedy = "name it with --model" if has_short_name(name) else f"add --model {name}"
        raise ModelError(
            f"{held.path} was encoded with model {name_model(held.header)}, which is not available "
            f"here; {remedy}, or choose another OUT"
        )
    choice.refuse_revision()
    return resolved


def refuse_mixed_latents(output: Output, held: HeldRecord | None, wanted: WantedLatents) -> None:
    """Raises UsageError if `held`, the record in OUT, conflicts with `wanted`."""
    conflict = None if held is None else wanted.find_conflict(held.header)
    if held is not None and conflict is not None:
        raise UsageError(
            f"{output.path} holds {conflict.held}; you asked for {conflict.wanted} ({held.path}); "
            "choose another OUT, or add --overwrite to re-encode everything"
        )


class ModelFinder(Protocol):
    """Finds the model for each record of a run."""

    def find(self, header: RecordHeader) -> ModelHandle:
        """Returns the model for a record.

        The same model always has the same handle. Raises ModelError, UsageError.
        """

    def use_device(self, name: str) -> None:
        """Computes on the device `name`. Call this before `find`."""


@dataclass(frozen=True)
class FixedModel:
    """One model for all records."""

    handle: ModelHandle

    def find(self, header: RecordHeader) -> ModelHandle:
        """Returns the model."""
        return self.handle

    def use_device(self, name: str) -> None:
        """Computes on this device; see `ModelFinder`."""
        self.handle.use_device(name)


class ModelsOfRecords:
    """Finds the model that encoded each record. Looks only on this machine.

    If `named` is given, `named` is the model for all records. If `follows_dtype` is set and the
    dtype is `auto`, the model computes in the dtype in which the record was encoded.
    """

    def __init__(
        self,
        part: str,
        device: DeviceChoice,
        named: LatentModel | None = None,
        *,
        follows_dtype: bool = False,
    ) -> None:
        self._part = part
        self._device = device
        self._named = named
        self._follows_dtype = follows_dtype
        self._find_model = cache(find_model)
        self._handles: dict[tuple[LatentModel, DeviceChoice], ModelHandle] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled finder has no models: another process finds its own."""
        make = partial(ModelsOfRecords, follows_dtype=self._follows_dtype)
        return make, (self._part, self._device, self._named)

    def find(self, header: RecordHeader) -> ModelHandle:
        """Returns the model of a record.

        Raises ModelError if the model is not on this machine, UsageError if it has no such part.
        """
        with self._lock:
            resolved = self._named or self._find_by_space(header)
            key = (resolved, self._choose_device(header))
            if key not in self._handles:
                self._handles[key] = _open_part(resolved, self._part, key[1])
            return self._handles[key]

    @property
    def is_named(self) -> bool:
        """Whether the user named the model of all records."""
        return self._named is not None

    def use_device(self, name: str) -> None:
        """Computes on this device; see `ModelFinder`."""
        self._device = replace(self._device, device=name)

    def _find_by_space(self, header: RecordHeader) -> LatentModel:
        resolved = self._find_model(header.latent_space)
        if resolved is None:
            raise _refuse_unknown(header)
        return resolved

    def _choose_device(self, header: RecordHeader) -> DeviceChoice:
        compute = Compute.parse(header.compute)
        if self._follows_dtype and self._device.dtype == "auto" and compute is not None:
            return replace(self._device, dtype=compute.dtype)
        return self._device


def _refuse_unknown(header: RecordHeader) -> ModelError:
    """Returns the error for a record whose model was not found.

    A record never makes dinac look for a model, so the user must name a model of his own.
    """
    if has_short_name(header.model):
        return ModelError(
            f"encoded with model {name_model(header)}, which is neither embedded nor cached; "
            "name it with --model"
        )
    return ModelError(
        f"encoded with model {name_model(header)}, which dinac does not look for by itself; "
        f"add --model {header.model}"
    )


def demand_library(models: ModelFinder, model: ModelHandle) -> None:
    """Raises MissingLibraryError if the model of a record needs a library that is missing.

    Then this record fails, and those of other models do not. If the user named the model of all
    records, does nothing: the error ends the run when the model is loaded.
    """
    if isinstance(models, ModelsOfRecords) and not models.is_named:
        model.resolved.demand_library()


def choose_encoders(named: LatentModel | None, device: DeviceChoice) -> ModelFinder:
    """Returns an object that finds the encoder for each record.

    If no model is named, this is the encoder of the model that encoded the record. If the dtype is
    `auto`, the encoder computes in the dtype in which the record was encoded.
    """
    return ModelsOfRecords("encoder", device, named, follows_dtype=True)


def choose_models(part: str, choice: ModelChoice, announce: Announce) -> ModelFinder:
    """Returns an object that finds the `part` ("decoder" or "class_head") for each record.

    If no model is named, this is the part of the model that encoded the record. A named model is
    downloaded if needed. If no model is named, nothing is downloaded. Raises UsageError if the
    named model has no such part.
    """
    named = choice.resolve(announce)
    if named is None:
        return ModelsOfRecords(part, choice)
    handle = _open_part(named, part, choice)
    handle.check()
    return FixedModel(handle)


def _open_part(resolved: LatentModel, part: str, device: DeviceChoice) -> ModelHandle:
    """Returns a part of a model.

    Raises UsageError if the model has no such part, or cannot be compiled.
    """
    handle = ModelHandle(resolved, part, device)
    if part == ENCODER:
        _refuse_missing_encoder(handle)
    if part == DECODER and DECODER not in handle.traits.parts:
        raise UsageError(
            f"model {handle.label} has no decoder: it only encodes; decode with a model of the "
            "same latent space that has one"
        )
    _refuse_compilation(handle)
    if part == CLASS_HEAD and CLASS_HEAD not in handle.traits.parts:
        raise UsageError(
            f"model {handle.label} has no class head (the part that predicts features); encode the "
            "images with a model that has one, such as d2"
        )
    return handle


def _refuse_missing_encoder(handle: ModelHandle) -> None:
    """Raises UsageError if the model only decodes."""
    if ENCODER not in handle.traits.parts:
        raise UsageError(
            f"model {handle.label} has no encoder: it only decodes latents of another model; "
            "encode with a model that has one, such as d2"
        )


def _refuse_compilation(handle: ModelHandle) -> None:
    """Raises UsageError if the handle asks for compilation and its model cannot be compiled."""
    if handle.choice.compiled and not handle.traits.can_compile:
        raise UsageError(f"--compile: model {handle.label} cannot be compiled; leave out --compile")

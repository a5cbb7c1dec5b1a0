"""What a comparison compares: models, and the precisions and steps of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.errors import UsageError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.revisions import current_revision
from dinac_cli.jobs.decode import DecodeOptions, describe_settings
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.model_choice import ModelChoice, choose_encoder
from dinac_cli.jobs.request import Announce
from dinac_cli.models.aliases import AUTO
from dinac_cli.models.interface import DECODER, ENCODER, DinacAEInferenceConfig
from dinac_cli.models.registry import choose_default

_METRICS_REVISION = 1
"""Changes if a metric is computed in another way, so that images are measured again."""

_LONGEST_SLUG = 40


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison. `label` names it in all tables, `named` is the value of --model."""

    label: str
    named: str
    handle: ModelHandle

    def open_part(self, part: str) -> ModelHandle:
        """Returns a handle of one part, which loads its own weights."""
        return replace(self.handle, part=part, more_parts=())

    def release(self) -> None:
        """Frees the loaded weights."""
        self.handle.__dict__.pop("engine", None)


@dataclass(frozen=True)
class Variant:
    """A model, the precision of its records, and the settings of its decoder.

    `digest` (16 hex digits) identifies everything that the figures of an image depend on, except
    the image; `record_digest`, everything that its record depends on. `steps` is None if the model
    has no diffusion steps.
    """

    model: ComparedModel
    precision: str
    settings: DinacAEInferenceConfig
    steps: int | None
    record_digest: str
    digest: str

    @property
    def name(self) -> str:
        """The name in charts and lists, such as `nano q6, 4 steps`."""
        return f"{self.model.label} {self.precision}{self.describe_steps()}"

    def describe_steps(self) -> str:
        """Returns e.g. `, 4 steps`, or nothing if the model has no diffusion steps."""
        if self.steps is None:
            return ""
        return ", 1 step" if self.steps == 1 else f", {self.steps} steps"

    @cached_property
    def slug(self) -> str:
        """The name of its files in OUT. It is valid on every system."""
        return name_safely(f"{self.model.label}-{self.precision}-{self.steps or 0}", self.digest)

    @property
    def decoding(self) -> str:
        """The settings of the decoder, as the stamps of decoded images hold them."""
        return describe_decoding(self.settings, has_steps=self.steps is not None)


def describe_decoding(settings: DinacAEInferenceConfig, *, has_steps: bool) -> str:
    """Describes the settings as `decode` does."""
    options = DecodeOptions(settings=settings, format=OUTPUT_FORMATS["png"])
    return describe_settings(options, has_steps=has_steps)


def name_safely(text: str, digest: str) -> str:
    """Returns a file name that is valid on every system: the end of `text`, and the digest."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", text)[-_LONGEST_SLUG:].strip("-").lower()
    return "-".join(filter(None, (plain, digest[:8])))


def open_models(
    named: Sequence[str], device: DeviceChoice, announce: Announce
) -> tuple[ComparedModel, ...]:
    """Returns the models of a comparison, with distinct labels. Downloads those that are missing.

    Raises UsageError if a model is named twice or lacks a part. Raises ModelError if a model cannot
    be opened.
    """
    found = [_open_model(name, device, announce) for name in named]
    labels = [model.label for model in found]
    models = [
        replace(model, label=model.named) if labels.count(model.label) > 1 else model
        for model in found
    ]
    for number, model in enumerate(models):
        same = [one for one in models[:number] if one.handle.identity == model.handle.identity]
        if same:
            raise UsageError(
                f"--model {model.named}: the same weights as --model {same[0].named}; "
                "name each model once"
            )
    return tuple(models)


def _open_model(named: str, device: DeviceChoice, announce: Announce) -> ComparedModel:
    name = choose_default(device.device) if named == AUTO else named
    choice = ModelChoice(
        model=name, device=device.device, dtype=device.dtype, compiled=device.compiled
    )
    encoder = choose_encoder(choice, None, announce)
    handle = replace(encoder, part=ENCODER, more_parts=(DECODER,))
    lacking = sorted({ENCODER, DECODER} - handle.traits.parts)
    if lacking:
        raise UsageError(f"--model {name}: has no {lacking[0]}; compare needs encoder and decoder")
    return ComparedModel(handle.label, name, handle)


def list_variants(
    models: Sequence[ComparedModel],
    precisions: Sequence[str],
    steps: Sequence[int],
    encoding: EncodeOptions,
    seed: int,
) -> Iterator[Variant]:
    """Yields the variants, model by model.

    A model without diffusion steps has one variant per precision. Raises ModelError, UsageError.
    """
    for model in models:
        for precision in precisions:
            model.handle.check(precision)
            record_digest = _identify_records(model, replace(encoding, precision=precision))
            for count in steps if model.handle.traits.has_steps else (None,):
                settings = DinacAEInferenceConfig(num_steps=count or 1, seed=seed)
                decoding = describe_decoding(settings, has_steps=count is not None)
                digest = _hash(_METRICS_REVISION, record_digest, decoding)
                yield Variant(model, precision, settings, count, record_digest, digest)


def _identify_records(model: ComparedModel, encoding: EncodeOptions) -> str:
    identity = model.handle.identity
    return _hash(
        current_revision(),
        identity.latent_space,
        identity.weights,
        model.handle.compute,
        encoding.precision,
        encoding.background_name,
        encoding.geometry.text,
        encoding.hdr,
        encoding.damaged,
    )


def _hash(*fields: object) -> str:
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:16]

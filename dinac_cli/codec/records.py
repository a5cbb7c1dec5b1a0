"""What a record says of the image it holds, and what must agree before it is decoded. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_name, escape_text
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError


@dataclass(frozen=True)
class Source:
    """Where latents come from: the image's name, its bytes' number and hash, what reading did."""

    name: str
    size_bytes: int
    sha256: str
    description: str
    height: int
    width: int


def build_record(
    source: Source,
    encoded: Encoded,
    model: ModelHandle,
    compute: str,
    precision: str,
    *,
    anonymous: bool = False,
    flipped: Encoded | None = None,
) -> bytes:
    """The record of one image's latents and what is stored beside them. Raises FormatError.

    `flipped` is the same of the mirrored image.

    An `anonymous` one says nothing of where it comes from: no name, size or hash of the source,
    and of the model only a label that is public, for a folder or repository may be called after
    its owner.
    """
    channels, rows, columns = encoded.latents.shape
    steps = model.choose_steps(precision)
    is_named = not anonymous or model.resolved.is_public
    header = RecordHeader(
        name="" if anonymous else escape_name(source.name),
        model=escape_text(model.label) if is_named else "",
        revision=escape_text(model.resolved.revision) if is_named else "",
        latent_space=model.identity.latent_space,
        weights=model.identity.weights,
        compute=compute,
        created_by=name_creator(),
        image=source.description,
        precision=precision,
        patch=model.config.patch_size,
        height=source.height,
        width=source.width,
        shape=(channels, rows, columns),
        source_bytes=None if anonymous else source.size_bytes,
        source_sha256=None if anonymous else source.sha256,
    )
    return pack_encoded(header, encoded, steps, flipped)


def check_model(header: RecordHeader, model: ModelHandle, *, allow_other: bool) -> None:
    """Refuse latents that are not of this model's space. Raises ModelError, naming both.

    `allow_other` lets another space of the same shape pass.
    """
    config = model.config
    if (header.shape[0], header.patch) != (config.bottleneck_dim, config.patch_size):
        raise ModelError(
            f"latents of {header.shape[0]} channels at patch {header.patch} do not fit model "
            f"{model.label} ({config.bottleneck_dim} at {config.patch_size})"
        )
    if header.latent_space != model.identity.latent_space and not allow_other:
        raise ModelError(
            f"encoded with model {name_model(header)}, not with {model.label} (latent space "
            f"{model.identity.latent_space}): give the --model it was encoded with, or "
            "--allow-other-model"
        )


def name_model(header: RecordHeader) -> str:
    """The model of a record, for messages: `nano (latent space 0123456789abcdef)`."""
    return f"{header.model or 'unknown'} (latent space {header.latent_space})"


@functools.cache
def name_creator() -> str:
    """`dinac-cli` and its version."""
    return f"dinac-cli {importlib.metadata.version('dinac-cli')}"

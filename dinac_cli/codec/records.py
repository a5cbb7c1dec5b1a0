"""Builds records, and checks that a model can decode them. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

import dinac_cli
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_name, escape_text
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ModelError


@dataclass(frozen=True)
class Source:
    """The image that was encoded. `description` says how its pixels were read."""

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
    """Builds the record of an image; see `build_header`. Raises FormatError.

    If `flipped` is given, the record stores the mirrored image in addition to the image itself.
    """
    channels, rows, columns = encoded.latents.shape
    shape = channels, rows, columns
    header = build_header(source, shape, model, compute, precision, anonymous=anonymous)
    return pack_encoded(header, encoded, model.choose_steps(precision), flipped)


def build_header(
    source: Source,
    shape: tuple[int, int, int],
    model: ModelHandle,
    compute: str,
    precision: str,
    *,
    anonymous: bool = False,
) -> RecordHeader:
    """Builds the header of a record with latents of this shape (C, h, w). Raises FormatError.

    If `anonymous` is true, the record omits the name, size and hash of the source. In this case,
    the record names the model only if the model's label is public, because the name of a folder or
    repository may contain the owner's name.
    """
    is_named = not anonymous or model.resolved.is_public
    return RecordHeader(
        name="" if anonymous else escape_name(source.name),
        model=escape_text(model.label) if is_named else "",
        revision=escape_text(model.resolved.revision) if is_named else "",
        latent_space=model.identity.latent_space,
        weights=model.identity.weights,
        compute=compute,
        created_by=name_creator(),
        image=source.description,
        precision=precision,
        patch=model.traits.patch,
        height=source.height,
        width=source.width,
        shape=shape,
        source_bytes=None if anonymous else source.size_bytes,
        source_sha256=None if anonymous else source.sha256,
    )


def check_model(header: RecordHeader, model: ModelHandle, *, allow_other: bool) -> None:
    """Raises ModelError if the record and the model have different latent spaces.

    If `allow_other` is true, accepts another latent space of the same shape.
    """
    traits = model.traits
    if (header.shape[0], header.patch) != (traits.channels, traits.patch):
        raise ModelError(
            f"latents of {header.shape[0]} channels at patch {header.patch} do not fit model "
            f"{model.label} ({traits.channels} at {traits.patch}); "
            "give the --model they were encoded with"
        )
    if header.latent_space != model.identity.latent_space and not allow_other:
        raise ModelError(
            f"encoded with model {name_model(header)}, not with {model.label} (latent space "
            f"{model.identity.latent_space}): give the --model it was encoded with, or "
            "--allow-other-model"
        )


def name_model(header: RecordHeader) -> str:
    """Returns the name of a record's model, such as `nano (latent space 0123456789abcdef)`."""
    return f"{header.model or 'unknown'} (latent space {header.latent_space})"


def name_creator() -> str:
    """Returns `dinac-cli` and its version."""
    return f"dinac-cli {dinac_cli.__version__}"

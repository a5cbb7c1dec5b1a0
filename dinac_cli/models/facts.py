"""Facts about a checkpoint on disk: sizes, parameters, identities, licence. Free of torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.source import locate_checkpoint
from dinac_cli.models.dinac.tensor_file import TensorTable, keeps_float32, read_tensor_table
from dinac_cli.models.interface import CLASS_HEAD, DECODER, ENCODER
from dinac_cli.models.registry import ResolvedModel

_PARTS = {"encoder": ENCODER, "decoder": DECODER, "dino_token_alignment_head": CLASS_HEAD}
_STORED = {"F32": "float32", "BF16": "bfloat16"}

# A model card starts with YAML between two lines of dashes. Only its licence is read: one key with
# one line of text, so no YAML parser is needed.
_CARD_NAME = "README.md"
_CARD_BYTES = 1 << 16
_CARD_LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license:[ \t]*[\"']?([\w.+-]{1,64})")
_BUFFERS = re.compile(r".*\.(periods|freqs)|latent_norm_running_(mean|var)")


@dataclass(frozen=True)
class ModelSummary:
    """One checkpoint.

    `size_bytes` is the size of the weights file, `parameters` the count for each part, `stored`
    the storage types of the tensors, `float32_parameters` the number that stays float32 in a
    bfloat16 network, `licence` the licence in the model card, "" if there is none.
    """

    label: str
    revision: str
    path: Path
    size_bytes: int
    parameters: dict[str, int]
    stored: str
    float32_parameters: int
    patch: int
    channels: int
    latent_space: str
    weights: str
    licence: str

    @property
    def parameter_count(self) -> int:
        """Number of parameters of all parts."""
        return sum(self.parameters.values())


def summarise_model(model: ResolvedModel) -> ModelSummary:
    """Summarises a checkpoint without loading its weights. Raises ModelError."""
    files = locate_checkpoint(model.path)
    config, identity = model.read_config(), model.identify()
    table = read_tensor_table(files.weights)
    return ModelSummary(
        label=model.label,
        revision=model.revision,
        path=model.path,
        size_bytes=_measure(files.weights),
        parameters=count_parameters(table),
        stored=_name_storage(table),
        float32_parameters=_count_float32(table),
        patch=config.patch_size,
        channels=config.bottleneck_dim,
        latent_space=identity.latent_space,
        weights=identity.weights,
        licence=read_licence(model.path),
    )


def count_parameters(table: TensorTable) -> dict[str, int]:
    """Counts the parameters of encoder, decoder and class head; aliases once, buffers never."""
    counts: Counter[str] = Counter()
    for name, shape in table.canonical_shapes.items():
        if not _BUFFERS.fullmatch(name):
            counts[_PARTS.get(name.partition(".")[0], ENCODER)] += math.prod(shape)
    return dict(counts)


def read_licence(path: Path) -> str:
    """Returns the licence in the model card beside a checkpoint, "" if there is none."""
    folder = path if path.is_dir() else path.parent
    try:
        with (folder / _CARD_NAME).open("rb") as file:
            card = file.read(_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
    match = _CARD_LICENCE.match(card)
    return match[1] if match else ""


def _name_storage(table: TensorTable) -> str:
    kinds = sorted({entry.dtype for entry in table.entries.values()})
    return ", ".join(_STORED.get(kind, kind) for kind in kinds)


def _count_float32(table: TensorTable) -> int:
    return sum(
        math.prod(shape)
        for name, shape in table.canonical_shapes.items()
        if keeps_float32(name) and not _BUFFERS.fullmatch(name)
    )


def _measure(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc

"""What a checkpoint on disk is: sizes, parameters, identities, licence. Free of torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.source import locate_checkpoint
from dinac_cli.models.dinac.tensor_file import TensorTable, keeps_float32, read_tensor_table
from dinac_cli.models.registry import ResolvedModel

CLASS_HEAD = "class_head"
_PARTS = {"encoder": "encoder", "decoder": "decoder", "dino_token_alignment_head": CLASS_HEAD}
_STORED = {"F32": "float32", "BF16": "bfloat16"}

# The head of a model card: YAML between two lines of dashes. One key of it is wanted, and it is
# text on one line, so that no reader of YAML is needed.
_CARD_NAME = "README.md"
_CARD_BYTES = 1 << 16
_CARD_LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license:[ \t]*[\"']?([\w.+-]{1,64})")
_BUFFERS = re.compile(r".*\.(periods|freqs)|latent_norm_running_(mean|var)")


@dataclass(frozen=True)
class ModelSummary:
    """One checkpoint.

    `size_bytes` is that of its weights file, `parameters` their number for each part that it has,
    `stored` the storage types of its tensors, `float32_parameters` how many stay float32 in a
    bfloat16 network, `licence` what its model card names ("" where there is none).
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
        """Parameters of all parts."""
        return sum(self.parameters.values())


def summarise_model(model: ResolvedModel) -> ModelSummary:
    """Read all that is told of a checkpoint without loading it. Raises ModelError."""
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
    """Parameters of encoder, decoder and class head, aliases counted once and buffers not."""
    counts: Counter[str] = Counter()
    for name, shape in table.canonical_shapes.items():
        if not _BUFFERS.fullmatch(name):
            counts[_PARTS.get(name.partition(".")[0], "encoder")] += math.prod(shape)
    return dict(counts)


def read_licence(path: Path) -> str:
    """The licence that the model card beside a checkpoint names, "" where none does."""
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

"""Reads facts about a checkpoint: sizes, identities, licence. Does not import torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.models.interface import LatentModel
from dinac_cli.models.tensor_file import TensorTable

FindPart = Callable[[str], str | None]

_STORED = {"F32": "float32", "BF16": "bfloat16"}

# A model card starts with YAML between two lines of dashes. Only the licence is read from it. The
# licence is one line, "license: NAME", so no YAML parser is needed.
_CARD_NAMES = ("README.md", "CARD.md")  # on the Hub, and of the built-in model
_CARD_LICENCE = re.compile(r"\A---\n(?:(?!---).*\n)*?license:[ \t]*[\"']?([\w.+-]{1,64})")


@dataclass(frozen=True)
class ModelSummary:
    """Facts about one checkpoint.

    `size_bytes` is the size of the weights file. `parameters` is the number of parameters of each
    part. `float32_parameters` is the number of parameters that stay float32 in a bfloat16 network.
    `stored` lists the storage types of the tensors. `licence` is "" if the model card names no
    licence.
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
        """The total number of parameters."""
        return sum(self.parameters.values())


def summarise_model(model: LatentModel) -> ModelSummary:
    """Summarises a checkpoint without loading its weights. Raises ModelError if this fails."""
    traits, identity, table = model.read_traits(), model.identify(), model.read_table()
    kinds = sorted({entry.dtype for entry in table.entries.values()})
    return ModelSummary(
        label=model.label,
        revision=model.revision,
        path=model.path,
        size_bytes=table.size_bytes,
        parameters=count_parameters(table, model.find_part),
        stored=", ".join(_STORED.get(kind, kind) for kind in kinds),
        float32_parameters=sum(
            math.prod(shape)
            for name, shape in table.canonical_shapes.items()
            if model.find_part(name) is not None and model.keeps_float32(name)
        ),
        patch=traits.patch,
        channels=traits.channels,
        latent_space=identity.latent_space,
        weights=identity.weights,
        licence=read_licence(model.path),
    )


def count_parameters(table: TensorTable, find_part: FindPart) -> dict[str, int]:
    """Counts the parameters of each part of a model; see `LatentModel.find_part`."""
    counts: Counter[str] = Counter()
    for name, shape in table.canonical_shapes.items():
        if (part := find_part(name)) is not None:
            counts[part] += math.prod(shape)
    return dict(counts)


def read_licence(path: Path) -> str:
    """Returns the licence in the model card beside a checkpoint, or "" if no licence is found."""
    folder = path if path.is_dir() else path.parent
    for name in _CARD_NAMES:
        with suppress(OSError), (folder / name).open("rb") as file:
            card = file.read(1 << 16).decode("utf-8", "replace").replace("\r\n", "\n")
            match = _CARD_LICENCE.match(card)
            return match[1] if match else ""
    return ""

"""The families of models, and the family of a checkpoint. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.flux2.family import Flux2Model
from dinac_cli.models.interface import LatentModel

FAMILIES: tuple[type[LatentModel], ...] = (Flux2Model, DinacModel)
"""The first family that recognises a checkpoint opens it. The last one recognises all."""


def open_checkpoint(path: Path, label: str, revision: str = "") -> LatentModel:
    """Returns the model in a folder or a .safetensors file. Reads no weights.

    `label` and `revision` are those of the model; see `LatentModel`. A file that is missing or
    damaged is a model too; its methods raise the errors.
    """
    family = next(family for family in FAMILIES if family.recognises(path))
    return family(path, label, revision)

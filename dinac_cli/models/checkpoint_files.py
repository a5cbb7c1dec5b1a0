"""Finds the files of a checkpoint in a folder. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import ModelError
from dinac_cli.models.tensor_file import refuse_pickle

CONFIG_NAME = "config.json"

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class CheckpointFiles:
    """The weights file of a checkpoint, and its `config.json` if the checkpoint has one."""

    weights: Path
    config: Path | None


def find_weights(folder: Path, usual_name: str, remedy: str) -> Path:
    """Returns the file with the usual name, or else the only .safetensors file in a folder.

    Raises ModelError, which ends with `remedy` if the folder holds no such file.
    """
    if (folder / usual_name).is_file():
        return folder / usual_name
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:_NAMES_SHOWN])
        raise ModelError(f"{folder} holds {len(found)} weights files ({names}); name one of them")
    for path in sorted(folder.iterdir()):
        refuse_pickle(path)
    raise ModelError(f"{folder} holds no {usual_name}; {remedy}")

"""Where the files of a checkpoint are, and what configuration goes with them. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.config import DinacAEConfig, from_json, is_network_config
from dinac_cli.models.dinac.sizes import infer_config
from dinac_cli.models.dinac.tensor_file import read_tensor_table

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"

_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's weights, and its `config.json` where it has one."""

    weights: Path
    config: Path | None


def locate_checkpoint(path: Path) -> CheckpointFiles:
    """Find the files of the checkpoint that a folder holds or a .safetensors file is.

    A `config.json` beside a file that was named itself counts only if it speaks of such a network,
    for weights are often kept among others. ModelError where there is no checkpoint.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; name a checkpoint's weights or folder")
    if path.is_dir():
        config = path / CONFIG_NAME
        return CheckpointFiles(_find_weights(path), config if config.is_file() else None)
    _demand_safetensors(path)
    beside = path.with_name(CONFIG_NAME)
    if beside.is_file() and is_network_config(_read_json(beside)):
        return CheckpointFiles(path, beside)
    return CheckpointFiles(path, None)


def read_config(files: CheckpointFiles) -> DinacAEConfig:
    """Read a checkpoint's configuration, or infer it from the tensors where there is none.

    ModelError where it is damaged, or of a network that dinac does not know.
    """
    if files.config is None:
        shapes = read_tensor_table(files.weights).canonical_shapes
        with _naming(files.weights):
            return infer_config(shapes)
    values = _read_json(files.config)
    with _naming(files.config):
        return from_json(values)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc


def read_settings(files: CheckpointFiles) -> Mapping[str, object]:
    """Read all of a checkpoint's `config.json`, also what is not the network's; {} without one.

    ModelError where it is damaged.
    """
    if files.config is None:
        return {}
    values = _read_json(files.config)
    if not isinstance(values, dict):
        raise ModelError(f"{files.config} is not a JSON object; get the checkpoint again")
    return values


def _find_weights(folder: Path) -> Path:
    if (folder / WEIGHTS_NAME).is_file():
        return folder / WEIGHTS_NAME
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise ModelError(f"{folder} holds {len(found)} weights files ({names}); name one of them")
    for path in sorted(folder.iterdir()):
        _refuse_pickle(path)
    raise ModelError(f"{folder} holds no {WEIGHTS_NAME}; name a folder with a checkpoint")


def _demand_safetensors(path: Path) -> None:
    _refuse_pickle(path)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file; name a checkpoint's weights or folder")
    if not path.is_file():  # a pipe would be waited for, a device has no size
        raise ModelError(f"{path} is no regular file; name a checkpoint's weights or folder")


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ModelError(
            f"{path} is a pickle file, and pickle is never loaded; convert it to safetensors"
        )


def _read_json(path: Path) -> object:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
        if len(text) > _MAX_CONFIG_BYTES:
            raise ModelError(f"{path} is larger than a configuration can be")
        values: object = json.loads(text)
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{path} is no JSON ({exc}); get the checkpoint again") from exc
    return values

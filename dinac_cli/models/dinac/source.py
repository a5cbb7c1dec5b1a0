"""Locates the files of a checkpoint and reads its configuration; does not import torch."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dinac_cli.errors import ModelError
from dinac_cli.models.checkpoint_files import CONFIG_NAME, CheckpointFiles, find_weights
from dinac_cli.models.dinac.config import (
    TRANSFORMER,
    DinacAEConfig,
    complete_sizes,
    from_json,
    leaves_encoder_open,
    names_epsilon,
    read_sizes,
)
from dinac_cli.models.dinac.sizes import find_encoder_type, infer_config
from dinac_cli.models.dinac.tensor_names import RUNNING_VAR, read_table
from dinac_cli.models.json_file import read_json
from dinac_cli.models.tensor_file import TensorTable, read_floats, refuse_pickle

WEIGHTS_NAME = "model.safetensors"

# From this variance on, an epsilon of 1e-4 changes the latents by at most half a per cent.
_CERTAIN_VARIANCE = 0.01

_REMEDY = "name a checkpoint folder or a .safetensors file"


def locate_checkpoint(path: Path) -> CheckpointFiles:
    """Finds the files of a checkpoint; `path` is a folder or a .safetensors file.

    The `config.json` beside a .safetensors file may belong to another model in the same folder. The
    `config.json` is used only if it describes a DINAC-AE network. Raises ModelError if there is no
    checkpoint.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; {_REMEDY}")
    if path.is_dir():
        config = path / CONFIG_NAME
        weights = find_weights(path, WEIGHTS_NAME, "name a folder with a checkpoint")
        return CheckpointFiles(weights, config if config.is_file() else None)
    refuse_pickle(path)
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is not a .safetensors file; {_REMEDY}")
    if not path.is_file():  # a pipe would block the reader; a device has no size
        raise ModelError(f"{path} is not a regular file; {_REMEDY}")
    beside = path.with_name(CONFIG_NAME)
    values = read_json(beside) if beside.is_file() else None
    is_network = isinstance(values, dict) and {"model_dim", "bottleneck_dim"} <= values.keys()
    return CheckpointFiles(path, beside if is_network else None)


def read_config(files: CheckpointFiles) -> DinacAEConfig:
    """Reads `config.json`; if the file is missing, infers the configuration from the tensors.

    A `config.json` may not tell the type of the encoder. Then the tensors decide it and the sizes,
    and the `config.json` gives the constants. Raises ModelError if the configuration is damaged or
    the network is not supported.
    """
    values = {} if files.config is None else read_json(files.config)
    if files.config is not None and not leaves_encoder_open(values):
        with _naming(files.config):
            return from_json(values)
    table = read_table(files.weights)
    shapes = table.canonical_shapes
    if files.config is not None and find_encoder_type(shapes) == TRANSFORMER:
        with _naming(files.config):
            return read_sizes(values, TRANSFORMER)
    with _naming(files.weights):
        inferred = infer_config(shapes)
    with _naming(files.config or files.weights):
        config = complete_sizes(inferred, values)
    if config.encoder_type != TRANSFORMER and not names_epsilon(values):
        _demand_large_variances(table)
    return config


@contextmanager
def _naming(file: Path) -> Generator[None, None, None]:
    """Puts the file that is wrong before the message of a ModelError."""
    try:
        yield
    except ModelError as exc:
        raise ModelError(f"{file}: {exc}") from exc


def _demand_large_variances(table: TensorTable) -> None:
    """Raises ModelError if a variance is so small that the unknown epsilon changes the latents."""
    entry = table.by_canonical_name.get(RUNNING_VAR)
    if entry is None:
        return
    lowest = float(np.min(read_floats(table.path, entry), initial=np.inf))
    if not lowest >= _CERTAIN_VARIANCE:
        raise ModelError(
            f"{table.path}: a variance of the latents is {lowest:.2g}, so the constant "
            "latent_running_stats_eps must be known; put it into the config.json of a folder that "
            "holds these weights"
        )


def read_settings(files: CheckpointFiles) -> Mapping[str, object]:
    """Reads `config.json`, or returns {} if it is missing. Raises ModelError for a damaged file."""
    if files.config is None:
        return {}
    values = read_json(files.config)
    if not isinstance(values, dict):
        raise ModelError(f"{files.config} is not a JSON object; download the checkpoint again")
    return values

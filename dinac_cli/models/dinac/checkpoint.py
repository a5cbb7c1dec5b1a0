"""Reads and writes checkpoints: safetensors weights and a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dinac_cli.errors import OutputError
from dinac_cli.models.checkpoint_files import CONFIG_NAME
from dinac_cli.models.dinac.config import CONFIRMED, FCDM, DinacAEConfig, format_json
from dinac_cli.models.dinac.source import WEIGHTS_NAME
from dinac_cli.models.dinac.tensor_names import canonical_name, keeps_float32
from dinac_cli.models.loading import demand_dtype


def save_checkpoint(
    state: Mapping[str, Tensor],
    config: DinacAEConfig,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes a network's state into a folder, as `config.json` and `model.safetensors`.

    If `dtype` is torch.bfloat16, some tensors stay float32; see `keeps_float32`.
    `settings` are additional keys of `config.json`. Each file is replaced atomically. Raises
    OutputError if a file cannot be written.
    """
    files = pack_checkpoint(state, config, dtype, settings)
    parts = {name: folder / f".{name}.part" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            parts[name].write_bytes(content)
        for name, part in parts.items():
            part.replace(folder / name)
    except OSError as exc:
        raise OutputError(
            f"the checkpoint cannot be written to {folder}: {exc.strerror or exc}; "
            "choose another place"
        ) from exc
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def pack_checkpoint(
    state: Mapping[str, Tensor],
    config: DinacAEConfig,
    dtype: torch.dtype = torch.float32,
    settings: Mapping[str, object] | None = None,
) -> dict[str, bytes]:
    """Returns the name and content of each file that `save_checkpoint` writes, in writing order."""
    demand_dtype(dtype)
    named = {canonical_name(name): tensor.detach().cpu() for name, tensor in state.items()}
    tensors = {
        name: tensor.to(choose_type(name, dtype), copy=True).contiguous()
        for name, tensor in named.items()
    }
    if config.encoder_type == FCDM:  # a network that runs with a mode leaves no doubt
        settings = {**(settings or {}), CONFIRMED: True}
    weights = save(tensors, metadata={"format": "pt"})
    return {WEIGHTS_NAME: weights, CONFIG_NAME: format_json(config, settings)}


def choose_type(name: str, dtype: torch.dtype) -> torch.dtype:
    """Returns the type of the tensor with this canonical name in a `dtype` network."""
    return torch.float32 if keeps_float32(name) else dtype

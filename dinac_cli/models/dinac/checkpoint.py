"""Reads and writes checkpoints: safetensors weights and a config.json."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dinac_cli.errors import CheckpointError, ModelError, OutputError, UsageError, quote_error
from dinac_cli.models.dinac.config import DinacAEConfig, to_json
from dinac_cli.models.dinac.source import CONFIG_NAME, WEIGHTS_NAME
from dinac_cli.models.dinac.tensor_names import canonical_name, keeps_float32
from dinac_cli.models.tensor_file import ITEM_BYTES, TensorTable, show_name

_NAMES_SHOWN = 5
_WRONGLY_TYPED = "wrongly typed"


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
    tensors = {name: _cast(name, tensor, dtype).contiguous() for name, tensor in named.items()}
    text = json.dumps({**(settings or {}), **to_json(config)}, indent=2, sort_keys=True) + "\n"
    weights = save(tensors, metadata={"format": "pt"})
    return {WEIGHTS_NAME: weights, CONFIG_NAME: text.encode()}


def check_tensors(table: TensorTable, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError if tensors do not fit `shapes`. The error lists all these tensors."""
    present = table.by_canonical_name
    faults: dict[str, list[str]] = {
        "missing": [name for name in shapes if name not in present],
        "unexpected": [],
        "wrongly shaped": [],
        _WRONGLY_TYPED: [],
    }
    for stored, entry in table.entries.items():
        shape = shapes.get(table.canonical(stored))
        shown = show_name(stored)
        if shape is None:
            faults["unexpected"].append(shown)
        elif entry.shape != shape:
            faults["wrongly shaped"].append(f"{shown} {list(entry.shape)}, not {list(shape)}")
        elif entry.dtype not in ITEM_BYTES:
            faults[_WRONGLY_TYPED].append(f"{shown} {show_name(entry.dtype)}, not F32 or BF16")
    if any(faults.values()):
        raise _describe_faults(table.path, faults)


def _describe_faults(path: Path, faults: Mapping[str, list[str]]) -> CheckpointError:
    summaries = []
    is_only_typed = [fault for fault, names in faults.items() if names] == [_WRONGLY_TYPED]
    remedy = (
        "convert the weights to F32 or BF16"
        if is_only_typed
        else "use the config.json that belongs to these weights"
    )
    for fault, names in faults.items():
        if names:
            shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
            more = ", …" if len(names) > _NAMES_SHOWN else ""
            summaries.append(f"{len(names)} {fault} ({shown}{more})")
    message = f"{path} does not fit its configuration: {'; '.join(summaries)}; {remedy}"
    details = [f"{fault}: {name}" for fault, names in faults.items() for name in sorted(names)]
    return CheckpointError(message, details)


def read_tensors(
    table: TensorTable, names: Collection[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Reads the tensors with the canonical names `names`.

    Casts each tensor to the type that it has in a `dtype` network. Raises ModelError if the file
    cannot be read.
    """
    entries = table.by_canonical_name
    try:
        with safe_open(table.path, framework="pt") as file:
            # safe_open memory-maps the file. A mapped tensor may be unaligned, and changes if the
            # file changes. Therefore `_cast` copies each tensor.
            return {
                name: _cast(name, file.get_tensor(entries[name].name), dtype, device)
                for name in names
            }
    except (OSError, SafetensorError) as exc:
        message = f"{table.path} cannot be read; download the checkpoint again"
        raise ModelError(message, [quote_error(exc)]) from exc


def _cast(
    name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    wanted = torch.float32 if keeps_float32(name) else dtype
    return tensor.to(device or tensor.device, wanted, copy=True)


def demand_dtype(dtype: torch.dtype) -> None:
    """Raises UsageError if a network cannot compute in `dtype`."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise UsageError(f"dtype is {dtype}; it must be torch.float32 or torch.bfloat16")

"""Checks and reads the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinac_cli.errors import CheckpointError, ModelError, UsageError, quote_error
from dinac_cli.models.tensor_file import ITEM_BYTES, TensorTable, show_name

_NAMES_SHOWN = 5
_WRONGLY_TYPED = "wrongly typed"


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
    table: TensorTable, types: Mapping[str, torch.dtype], device: torch.device
) -> dict[str, Tensor]:
    """Reads the tensors with the canonical names that are the keys of `types`.

    Casts each tensor to its type in `types`. Raises ModelError if the file cannot be read.
    """
    entries = table.by_canonical_name
    try:
        with safe_open(table.path, framework="pt") as file:
            # safe_open memory-maps the file. A mapped tensor may be unaligned, and changes if the
            # file changes. Therefore each tensor is copied.
            return {
                name: file.get_tensor(entries[name].name).to(device, dtype, copy=True)
                for name, dtype in types.items()
            }
    except (OSError, SafetensorError) as exc:
        message = f"{table.path} cannot be read; download the checkpoint again"
        raise ModelError(message, [quote_error(exc)]) from exc


def demand_dtype(dtype: torch.dtype) -> None:
    """Raises UsageError if a network cannot compute in `dtype`."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise UsageError(f"dtype is {dtype}; it must be torch.float32 or torch.bfloat16")

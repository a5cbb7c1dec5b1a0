"""Loads the weights of a network that measures images from a safetensors file of the user."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinac_cli.errors import CheckpointError, ModelError, quote_error
from dinac_cli.models.tensor_file import (
    ITEM_BYTES,
    TensorEntry,
    TensorTable,
    check_aliases,
    show_name,
)

_NAMES_SHOWN = 3


def load_weights(
    table: TensorTable, shapes: Mapping[str, tuple[int, ...]], network: str
) -> dict[str, Tensor]:
    """Returns the tensors of `shapes` as float32, under their canonical names.

    Other tensors of the file are ignored. Checks all shapes before it reads the first tensor, so
    the memory is that of `shapes`. `network` is the network's name in messages. Raises
    CheckpointError if a tensor is missing, has another shape or another type than F32 and BF16, or
    holds a value that is not finite; ModelError if the file cannot be read.
    """
    _check_entries(table, shapes, network)
    check_aliases(table, shapes)
    entries = table.by_canonical_name
    try:
        with safe_open(table.path, framework="pt") as file:
            # A tensor of safe_open is memory-mapped and changes if the file changes.
            weights = {
                name: file.get_tensor(entries[name].name).to(torch.float32, copy=True)
                for name in shapes
            }
    except (OSError, SafetensorError) as exc:
        raise ModelError(f"{table.path} cannot be read", [quote_error(exc)]) from exc
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{table.path}: tensor {name} of {network} holds values that are not finite; "
                "convert the weights again"
            )
    return weights


def _check_entries(table: TensorTable, shapes: Mapping[str, tuple[int, ...]], network: str) -> None:
    present = table.by_canonical_name
    faults = [
        fault for name, shape in shapes.items() if (fault := _find_fault(name, shape, present))
    ]
    if faults:
        shown = ", ".join(faults[:_NAMES_SHOWN]) + (", …" if len(faults) > _NAMES_SHOWN else "")
        raise CheckpointError(
            f"{table.path} does not hold the weights of {network}: {shown}; "
            "'dinac man metrics' lists the tensors",
            faults,
        )


def _find_fault(
    name: str, shape: tuple[int, ...], present: Mapping[str, TensorEntry]
) -> str | None:
    entry = present.get(name)
    if entry is None:
        return f"{name} is missing"
    if entry.shape != shape:
        return f"{name} is {list(entry.shape)}, not {list(shape)}"
    if entry.dtype not in ITEM_BYTES:
        return f"{name} is {show_name(entry.dtype)}, not F32 or BF16"
    return None

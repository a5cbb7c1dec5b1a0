"""Items of records for PyTorch, and how a DataLoader makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.utils.data import default_collate

# PyTorch documents this table as the way to collate a type of one's own.
from torch.utils.data._utils.collate import default_collate_fn_map

from dinac_cli.errors import DinacError

Flip = Literal["both", "random", "never"]


class LatentItem(dict[str, Any]):
    """An item of a `LatentFolder`. A batch of these items is a plain dict; see `LatentFolder`."""


def _collate(items: Sequence[LatentItem], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Makes a batch as PyTorch does, but names the files that do not fit together."""
    first = items[0]
    for item in items[1:]:
        _require_same_keys(first, item)
        _require_same_sizes(first, item)
    return {key: default_collate([item[key] for item in items]) for key in first}


default_collate_fn_map[LatentItem] = _collate


def _require_same_keys(first: LatentItem, item: LatentItem) -> None:
    for one, other in ((first, item), (item, first)):
        if lacking := sorted(one.keys() - other.keys()):
            raise DinacError(
                f"{_name(other)} has no {' or '.join(lacking)}, but {_name(one)} has; encode the "
                "folder again with the same options, or use batch_size=1"
            )


def _require_same_sizes(first: LatentItem, item: LatentItem) -> None:
    for key, value in first.items():
        if isinstance(value, torch.Tensor) and value.shape != item[key].shape:
            raise DinacError(
                f"{_name(first)} and {_name(item)} cannot be in one batch: {key} {_show(value)} "
                f"and {_show(item[key])}; encode with --resize and --crop, or use batch_size=1"
            )


def _name(item: LatentItem) -> str:
    """Returns the name and the size of the image, such as `a.jpg (640x480)`."""
    size = f" ({item['width']}x{item['height']})" if {"width", "height"} <= item.keys() else ""
    return f"{item.get('name', 'an item')}{size}"


def _show(value: torch.Tensor) -> str:
    return str(list(value.shape))

"""Items of records for PyTorch, and how a DataLoader makes batches of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch.utils.data import default_collate

# PyTorch documents this table as the way to collate a type of one's own.
from torch.utils.data._utils.collate import default_collate_fn_map

from dinac_cli.container.record import Outline, Record, holds_mask, list_arrays, list_masks
from dinac_cli.container.tensors import ALL_COMPANIONS, COMPANIONS, Mask
from dinac_cli.errors import DinacError, UsageError
from dinac_cli.images.masks import require_masks
from dinac_cli.storage.shard_layout import TEXT_EXTENSIONS

Flip = Literal["both", "random", "never"]

_TWINS_SOUGHT = 100


class LatentItem(dict[str, Any]):
    """An item of a `LatentFolder` or of `LatentShards`; see there. A batch is a plain dict."""


class LatentBatch(dict[str, Any]):
    """A batch that `LatentShards` has made. A DataLoader must not make batches of it."""


def check_flip(flip: object) -> None:
    """Raises UsageError if `flip` is not one of `Flip`."""
    if flip not in get_args(Flip):
        raise UsageError(f"flip is {flip!r}; it must be one of {', '.join(get_args(Flip))}")


def require_twins(place: str, outlines: Iterable[Outline | None]) -> None:
    """Raises UsageError if none of the first records of a place holds the mirrored image.

    None stands for a record that cannot be read; only access to it is an error.
    """
    first = islice(outlines, _TWINS_SOUGHT)
    if not any(outline is None or outline.has_twin for outline in first):
        raise UsageError(
            f"{place}: flip is 'random', but the records hold no mirrored images; encode with "
            "--flip, or leave flip out"
        )


def load_item(
    load: Callable[[Collection[str], bool], Record],
    flip: Flip,
    *,
    prefers_twin: bool,
    name: str | None,
    masks: bool = False,
) -> LatentItem:
    """Makes the item of a record. `load(companions, with_twin)` reads the record.

    If `prefers_twin` is true, which only "random" allows, the item is the mirrored image if the
    record holds it. If `name` is None, the item has the name in the record, which may be empty.
    With `masks`, the item has masks, float32 [1, h, w] in 0 to 1; see `list_masks`. Raises
    DinacError, which does not name the file, if the record was then encoded without masks.
    """
    companions = ALL_COMPANIONS if masks else COMPANIONS
    record, is_flipped = load(companions, flip == "both" or prefers_twin), False
    if masks and not holds_mask(record):
        require_masks(record.header.image)
    if prefers_twin and record.flipped is not None:
        record, is_flipped = Record(record.header, *record.flipped), True
    item = LatentItem(
        {key: torch.from_numpy(array) for key, array in list_arrays(record).items()},
        name=record.header.name if name is None else name,
        height=record.header.height,
        width=record.header.width,
    )
    if masks:
        item.update((key, _scale_mask(mask)) for key, mask in list_masks(record).items())
    if flip == "random":
        item["is_flipped"] = is_flipped
    return item


def _scale_mask(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(mask).to(torch.float32)[None] / 255


def _collate(items: Sequence[LatentItem], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Makes a batch as PyTorch does, but names the files that do not fit together."""
    first = items[0]
    for item in items[1:]:
        _require_same_keys(first, item)
        _require_same_sizes(first, item)
    columns = {key: [item[key] for item in items] for key in first}
    return {
        # The JSON of two images may differ in its keys, so it stays as it is.
        key: values if key in TEXT_EXTENSIONS else default_collate(values)
        for key, values in columns.items()
    }


def _refuse_batches(batches: Sequence[LatentBatch], *, collate_fn_map: Any = None) -> None:
    raise DinacError(
        "LatentShards makes the batches with bucket_batches=True; give the DataLoader "
        "batch_size=None"
    )


default_collate_fn_map[LatentItem] = _collate
default_collate_fn_map[LatentBatch] = _refuse_batches


def _require_same_keys(first: LatentItem, item: LatentItem) -> None:
    for one, other in ((first, item), (item, first)):
        if lacking := sorted(one.keys() - other.keys()):
            advice = "encode the folder again with the same options"
            if set(lacking) <= set(TEXT_EXTENSIONS):
                advice = _advise_on_texts(lacking)
            raise DinacError(
                f"{_name(other)} has no {' or '.join(lacking)}, but {_name(one)} has; {advice}, or "
                "use batch_size=1"
            )


def _advise_on_texts(lacking: Sequence[str]) -> str:
    captions = "give captions=…, " if list(lacking) == ["txt"] else ""
    return (
        f"{captions}add what is missing and encode again with --keep and --overwrite, or in a "
        "transform"
    )


def _require_same_sizes(first: LatentItem, item: LatentItem) -> None:
    for key, value in first.items():
        if isinstance(value, torch.Tensor) and value.shape != item[key].shape:
            raise DinacError(
                f"{_name(first)} and {_name(item)} cannot be in one batch: {key} {_show(value)} "
                f"and {_show(item[key])}; encode with --resize and --crop, use "
                f"{_advise_on_buckets(item)}, or use batch_size=1"
            )


def _advise_on_buckets(item: LatentItem) -> str:
    is_of_shards = "key" in item
    return "bucket_batches=True" if is_of_shards else "a BucketSampler with a LatentFolder"


def _name(item: LatentItem) -> str:
    """Returns the name and the size of the image, such as `a.jpg (640x480)`."""
    size = f" ({item['width']}x{item['height']})" if {"width", "height"} <= item.keys() else ""
    return f"{item.get('name', 'an item')}{size}"


def _show(value: torch.Tensor) -> str:
    return str(list(value.shape))

"""A folder of records as a PyTorch dataset."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from dinac_cli.container.record import Outline, Record, open_record, read_record
from dinac_cli.errors import DinacError, UsageError, describe_read_error
from dinac_cli.latent_items import Flip, check_flip, load_item, require_twins
from dinac_cli.storage.caption_files import CaptionFiles, open_captions
from dinac_cli.storage.markers import holds_shards
from dinac_cli.storage.naming import LATENT_SUFFIX, name_latents
from dinac_cli.storage.shard_layout import INDEX_NAME
from dinac_cli.storage.tars import begins_with_record
from dinac_cli.storage.urls import hide_secrets, is_url

_EXPORT_SUFFIXES = (".safetensors", ".npz", ".latent", ".npy")


class LatentFolder(Dataset[Any]):
    """The latent files below a folder, sorted by name. Each file is read when its item is accessed.

    An item is a dict. `latents` are whitened, float32 [C, h, w]. `name` is the file's path in the
    folder, with `/` and without `.dinac`: the name that the image had in its own folder, such as
    `trip/a.jpg`. `height` and `width` are the size of the image in pixels. If the file holds
    them, the dict also has `logsnr` (float32 [C, h, w], see `DinacAE.sample_latents`) and
    `class_token` (float32 [D]).
    `flip` says what is read of a file that holds the mirrored image too. "both": the dict also has
    `flipped` (the latents of the mirrored image), `flipped_logsnr` and `flipped_class_token`.
    "random": each access picks one of the two images with equal chance, by PyTorch's global
    random number generator; `is_flipped` is true for the mirrored image. "never": the mirrored
    image is not read.
    `captions` is the folder of the images, or a table of captions; see `open_captions`. Each item
    then has `txt`, the caption of its image. `labels="folders"` gives each item `label`, the number
    of its class: `classes` holds the names of the first folders, sorted.
    `masks=True` gives each item `mask`, float32 [1, h, w] in 0 to 1: how much of each position of
    the latents counts, from `encode --mask` or `--masks`; ones if everything counts. It is the
    mask of the image that `latents` shows; with `flip="both"`, `flipped_mask` is the other one.
    `transform` is applied to each item. The dataset keeps only names and tables of captions in
    memory, and can be pickled for the workers of a DataLoader.
    Raises UsageError if the folder does not exist, has no latent file or holds shards, if `flip` or
    `labels` is unknown, if `flip` is "random" and no file holds the mirrored image, if images have
    no caption, or if some are in no folder although there are labels. Raises InputError if captions
    cannot be read.
    Access to an item raises DinacError if the file of that item cannot be read, or if `masks` is
    set and it was encoded without masks. A DataLoader raises DinacError if the items of a batch
    differ in the size of their latents or in their keys.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        flip: Flip = "both",
        captions: str | os.PathLike[str] | None = None,
        labels: Literal["folders"] | None = None,
        masks: bool = False,
    ) -> None:
        check_flip(flip)
        if labels not in (None, "folders"):
            raise UsageError(f"labels is {labels!r}; it must be 'folders' or None")
        self.folder = Path(folder)
        if is_url(str(folder)):
            place = hide_secrets(str(folder))
            raise UsageError(f"{place}: LatentFolder reads local folders; use LatentShards")
        if not self.folder.is_dir():
            raise UsageError(f"{folder}: no such folder; check the path")
        self.transform = transform
        self.flip = flip
        self.masks = masks
        found = (path for path in self.folder.rglob(f"*{LATENT_SUFFIX}") if path.is_file())
        files = sorted(path.relative_to(self.folder).as_posix() for path in found)
        seen = (name for name in files if "/." not in f"/{name}")  # skips hidden files
        self.names = [name.removesuffix(LATENT_SUFFIX) for name in seen]
        if not self.names:
            raise UsageError(_explain_lack(self.folder))
        if flip == "random":
            require_twins(str(self.folder), map(self._outline, self.names))
        self.captions = None if captions is None else self._open_captions(str(captions))
        self.classes = () if labels is None else self._list_classes()

    def _outline(self, name: str) -> Outline | None:
        """Returns what a record holds; None if it cannot be read."""
        try:
            with (self.folder / name_latents(name)).open("rb") as file:
                return open_record(file).outline((), with_twin=True)
        except (DinacError, OSError):
            return None

    def _open_captions(self, place: str) -> CaptionFiles:
        captions = open_captions(place)
        if missing := list(captions.list_missing(self.names)):
            count = "1 image has" if len(missing) == 1 else f"{len(missing)} images have"
            raise UsageError(
                f"{place}: {count} no caption, such as {missing[0]} of {self.folder} "
                f"({captions.describe_lack(missing[0])}); add the captions under these names, or "
                "remove the latents of images without one"
            )
        return captions

    def _list_classes(self) -> tuple[str, ...]:
        loose = [name for name in self.names if "/" not in name]
        if loose:
            raise UsageError(
                f"{self.folder}: labels are the names of folders, but {loose[0]} is in none; "
                "name the folder that holds the folders of the classes"
            )
        return tuple(sorted({name.partition("/")[0] for name in self.names}))

    def __repr__(self) -> str:
        return f"LatentFolder({str(self.folder)!r}): {len(self)} latent files"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        name = self.names[index]
        path = self.folder / name_latents(name)
        prefers_twin = self.flip == "random" and bool(torch.rand(()) < 0.5)
        try:
            item = load_item(
                partial(_read, path),
                self.flip,
                prefers_twin=prefers_twin,
                name=name,
                masks=self.masks,
            )
        except DinacError as exc:
            raise DinacError(f"{path}: {exc}") from exc
        if self.captions is not None:
            item["txt"] = self._read_caption(self.captions, name)
        if self.classes:
            item["label"] = bisect_left(self.classes, name.partition("/")[0])
        return item if self.transform is None else self.transform(item)

    def _read_caption(self, captions: CaptionFiles, name: str) -> str:
        caption = captions.find(name)
        if caption is None:
            raise DinacError(f"{name}: its caption is gone; restore it")
        return caption


def _explain_lack(folder: Path) -> str:
    """Returns what is wrong with a folder without latent files, and what to do."""
    if (folder / INDEX_NAME).is_file() or holds_shards(str(folder)):
        return f"{folder} holds shards; read them with LatentShards"
    if (tar := next(folder.rglob("*.tar"), None)) is not None:
        if begins_with_record(str(tar)):
            return (
                f"{folder} holds shards without {INDEX_NAME}; read the whole output of dinac "
                "encode with LatentShards"
            )
        return f"{folder} holds tars without records; read tars of dinac export with webdataset"
    for suffix in _EXPORT_SUFFIXES:
        if next(folder.rglob(f"*{suffix}"), None) is not None:
            return (
                f"{folder} holds {suffix} files, as dinac export writes them; open the folder of "
                "dinac encode instead"
            )
    return f"no latent files found in {folder}; run dinac encode first"


def _read(path: Path, companions: Collection[str], with_twin: bool) -> Record:
    try:
        return read_record(path, companions, with_twin=with_twin)
    except OSError as exc:
        raise DinacError(describe_read_error(exc)) from exc

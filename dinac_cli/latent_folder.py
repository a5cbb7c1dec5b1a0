"""A folder of records as a PyTorch dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils.data import Dataset

from dinac_cli.container.record import Record, list_arrays, read_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import DinacError, FormatError, UsageError, describe_read_error
from dinac_cli.latent_items import Flip, LatentItem
from dinac_cli.storage.naming import LATENT_SUFFIX, name_latents


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
    `transform` is applied to each item. The dataset keeps only names in memory, and can be pickled
    for the workers of a DataLoader.
    Raises UsageError if the folder does not exist or has no latent file, or if `flip` is unknown.
    Access to an item raises DinacError if the file of that item cannot be read. A DataLoader raises
    DinacError if the items of a batch differ in the size of their latents or in their keys.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        flip: Flip = "both",
    ) -> None:
        if flip not in get_args(Flip):
            raise UsageError(f"flip is {flip!r}; it must be one of {', '.join(get_args(Flip))}")
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UsageError(f"{folder}: no such folder; check the path")
        self.transform = transform
        self.flip = flip
        found = (path for path in self.folder.rglob(f"*{LATENT_SUFFIX}") if path.is_file())
        files = sorted(path.relative_to(self.folder).as_posix() for path in found)
        seen = (name for name in files if "/." not in f"/{name}")  # skips hidden files
        self.names = [name.removesuffix(LATENT_SUFFIX) for name in seen]
        if not self.names:
            raise UsageError(f"no latent files found in {folder}; run dinac encode first")

    def __repr__(self) -> str:
        return f"LatentFolder({str(self.folder)!r}): {len(self)} latent files"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        name = self.names[index]
        record, is_flipped = self._read(self.folder / name_latents(name))
        item = LatentItem(
            {key: torch.from_numpy(array) for key, array in list_arrays(record).items()},
            name=name,
            height=record.header.height,
            width=record.header.width,
        )
        if self.flip == "random":
            item["is_flipped"] = is_flipped
        return item if self.transform is None else self.transform(item)

    def _read(self, path: Path) -> tuple[Record, bool]:
        """Returns the record as `flip` wants it, and whether it is that of the mirrored image."""
        wants_twin = self.flip == "random" and bool(torch.rand(()) < 0.5)
        try:
            record = read_record(path, COMPANIONS, with_twin=self.flip == "both" or wants_twin)
        except FormatError as exc:
            raise DinacError(f"{path}: {exc}") from exc
        except OSError as exc:
            raise DinacError(f"{path}: {describe_read_error(exc)}") from exc
        if wants_twin and record.flipped is not None:
            return Record(record.header, *record.flipped), True
        return record, False

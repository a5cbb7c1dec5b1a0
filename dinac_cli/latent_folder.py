"""A folder of records as a PyTorch dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from dinac_cli.container.record import list_arrays, read_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import DinacError, FormatError, UsageError
from dinac_cli.storage.naming import LATENT_SUFFIX


class LatentFolder(Dataset[Any]):
    """The latent files below a folder, sorted by name. Each file is read when its item is accessed.

    An item is a dict. `latents` are whitened, float32 [C, h, w]. `name` is the relative name of the
    file, with `/`. `height` and `width` are the size of the image in pixels. If the file holds
    them, the dict also has `logsnr` (float32 [C, h, w], see `DinacAE.sample_latents`) and
    `class_token` (float32 [D]). For the mirrored image, the dict has `flipped` (the latents),
    `flipped_logsnr` and `flipped_class_token`.
    `transform` is applied to each item. The dataset keeps only names in memory, and can be pickled
    for the workers of a DataLoader.
    Raises UsageError if the folder does not exist or has no latent file. Access to an item raises
    DinacError if the file of that item cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
        self.transform = transform
        found = (path for path in self.folder.rglob(f"*{LATENT_SUFFIX}") if path.is_file())
        names = (path.relative_to(self.folder).as_posix() for path in found)
        self.names = sorted(name for name in names if "/." not in f"/{name}")  # skips hidden files
        if not self.names:
            raise UsageError(f"no latent files found in {folder}; run dinac encode first")

    def __repr__(self) -> str:
        return f"LatentFolder({str(self.folder)!r}): {len(self)} latent files"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        name = self.names[index]
        path = self.folder / name
        try:
            record = read_record(path, COMPANIONS, with_twin=True)
        except FormatError as exc:
            raise DinacError(f"{path}: {exc}") from exc
        except OSError as exc:
            raise DinacError(f"{path}: cannot read: {exc.strerror or exc}") from exc
        item = {
            **{key: torch.from_numpy(array) for key, array in list_arrays(record).items()},
            "name": name,
            "height": record.header.height,
            "width": record.header.width,
        }
        return item if self.transform is None else self.transform(item)

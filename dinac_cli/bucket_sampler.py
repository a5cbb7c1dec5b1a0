"""Batches of a LatentFolder whose latents have one size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from torch.utils.data import Sampler

from dinac_cli.container.record import read_header
from dinac_cli.errors import DinacError, FormatError, UsageError, describe_read_error
from dinac_cli.latent_folder import LatentFolder
from dinac_cli.ranks import check_number, choose_rank
from dinac_cli.shard_order import seed_generator
from dinac_cli.storage.naming import name_latents


class BucketSampler(Sampler[list[int]]):
    """Batches of indices into a `LatentFolder`; the latents of a batch have the same size.

    Pass it as `batch_sampler` to a DataLoader. Each epoch shuffles the images of each size, cuts
    them into batches, and shuffles the batches. The order depends only on `seed` and the epoch.
    Call `set_epoch` before each epoch. With `shuffle=False`, images have the order of their names,
    and the smallest latents come first.

    The last batch of each size can be short; `drop_last` leaves it out. All ranks get the same
    number of batches, and none shares a batch with another, except that without `drop_last` some
    first batches are repeated, and with it fewer batches than ranks are left out. `rank` and
    `world_size` come from torch.distributed if it is initialised, else from the variables RANK and
    WORLD_SIZE, else they are 0 and 1.

    `sizes` maps the size of latents, (h, w), to the indices of its images. The constructor reads
    the header of each file, so it takes a moment with many files.
    Raises UsageError if an argument is invalid or no batch is left, and DinacError if a file cannot
    be read.
    """

    def __init__(
        self,
        folder: LatentFolder,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not isinstance(folder, LatentFolder):
            raise UsageError(f"{folder!r} is no LatentFolder; open it with LatentFolder(…) first")
        check_number("batch_size", batch_size, 1)
        check_number("seed", seed, 0)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank, self.world_size = choose_rank(rank, world_size)
        self.epoch = 0
        self.sizes = _group_by_size(folder)
        if not len(self):
            raise UsageError(
                f"{_count(self._total, 'whole batch', 'es')} of {batch_size} images of one size "
                f"for {_count(self.world_size, 'rank', 's')}; use drop_last=False, smaller "
                "batches, or fewer ranks"
            )

    def __len__(self) -> int:
        """Returns the number of batches of this rank, which is that of every rank."""
        whole, rest = divmod(self._total, self.world_size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that the next iterator shuffles."""
        check_number("epoch", epoch, 0)
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._make_batches()
        for turn in range(len(self)):
            yield batches[(turn * self.world_size + self.rank) % len(batches)]

    def _make_batches(self) -> list[list[int]]:
        """Returns the batches of all ranks, in their order."""
        generator = seed_generator(self.seed, self.epoch)
        batches = []
        for indices in self.sizes.values():
            order = list(indices)
            if self.shuffle:
                generator.shuffle(order)
            for start in range(0, self._count_taken(len(order)), self.batch_size):
                batches.append(order[start : start + self.batch_size])
        if self.shuffle:
            generator.shuffle(batches)
        return batches

    def _count_taken(self, images: int) -> int:
        """Returns how many of the images of one size an epoch yields."""
        return images - images % self.batch_size if self.drop_last else images

    @cached_property
    def _total(self) -> int:
        """The number of batches of all ranks together."""
        taken = (self._count_taken(len(indices)) for indices in self.sizes.values())
        return sum(-(-images // self.batch_size) for images in taken)


def _count(number: int, noun: str, ending: str) -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"


def _group_by_size(folder: LatentFolder) -> dict[tuple[int, int], tuple[int, ...]]:
    """Returns the indices of each size of latents, (h, w); small sizes first."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, name in enumerate(folder.names):
        groups[_read_size(folder.folder / name_latents(name))].append(index)
    return {size: tuple(indices) for size, indices in sorted(groups.items())}


def _read_size(path: Path) -> tuple[int, int]:
    try:
        with path.open("rb") as file:
            _, rows, columns = read_header(file).shape
    except FormatError as exc:
        raise DinacError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise DinacError(f"{path}: {describe_read_error(exc)}") from exc
    return rows, columns

"""Shards of records as a PyTorch dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple, get_args

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from dinac_cli.container.record import Outline, Record, open_record, unpack_record
from dinac_cli.errors import DinacError, UsageError
from dinac_cli.latent_items import Flip, LatentBatch, check_flip, load_item, require_twins
from dinac_cli.ranks import check_number, choose_rank
from dinac_cli.shard_epoch import LocatedSample, ShardEpoch
from dinac_cli.shard_order import Ends, Span, order_shards, share_among_ranks, share_among_workers
from dinac_cli.shard_reading import parse_texts, read_index, read_span
from dinac_cli.storage.caption_files import CaptionFiles, open_captions
from dinac_cli.storage.shard_layout import RECORD_EXTENSION
from dinac_cli.storage.store import Store, open_store
from dinac_cli.storage.tars import Sample
from dinac_cli.storage.urls import hide_secrets, is_url


class _Progress(NamedTuple):
    """How much of an epoch an iterator has yielded, in items or, with `bucket_batches`, in batches.

    It is one of `workers` iterators, or of 0 if there is no DataLoader's worker.
    """

    epoch: int
    yielded: int
    workers: int


class LatentShards(IterableDataset[Any]):
    """The records in the shards of `dinac encode`, in a local folder or at a URL (`s3://b/out`).

    An item is the same dict as that of a `LatentFolder`, and `flip`, `captions`, `masks` and
    `transform` mean the same, but an image without a caption is found when it is read.
    `name` is the name in the record, or the key if the record is anonymous. In addition, the dict
    has `key` (the name in the shard, without suffix) and, if the shard holds them, `txt` (str;
    `captions` takes its place) and `json` (the parsed value). A batch has lists of these three.

    Order: with `shuffle=0`, the order of the index. Otherwise each epoch shuffles the shards, and
    then the items in a buffer of `shuffle` records, which holds them as they are in the shard. The
    order depends only on `seed`, the epoch, the ranks and the workers of the DataLoader, and the
    picks of `flip="random"` only on `seed`, the epoch and the key. Call `set_epoch` before each
    epoch, also with persistent workers. With `repeat`, an iterator reads epoch after epoch.

    Ranks and workers: each rank, and each worker in it, reads its own part of the sequence of all
    items. A shard at the border of two parts is read by both, and each skips the items of the
    other; this costs little if there are more shards than workers. All ranks yield the same number
    of items, `len(dataset)`. With `ends="pad"`, every image occurs, and some ranks also yield the
    first image of the next rank. With "drop", no image occurs twice, and fewer images than ranks
    are left out. If the number of images is a multiple of `world_size`, every image occurs once.
    `rank` and `world_size` come from torch.distributed if it is initialised, else from the
    variables RANK and WORLD_SIZE, else they are 0 and 1.
    `batch_size` is that of the DataLoader. If it is given, each worker gets whole batches, so that
    `len(loader)` is right and only the last batch of a rank is short. Without it, every worker may
    end with a short batch, and `drop_last` leaves out more. Either way, all ranks have the same
    number of batches.

    Sizes: with `bucket_batches`, the dataset yields whole batches instead of items: `batch_size`
    records whose latents have one size, collated as by a DataLoader, with the images mixed as
    `shuffle` says. Give the DataLoader `batch_size=None`. `transform` is applied to each item. Each
    worker keeps the records that wait for a batch of their size, fewer than `batch_size` of each
    size. All ranks yield the same number of batches, `len(dataset)`: their items divided by
    `batch_size`, rounded down. They need not know the sizes for that: at the end of an epoch, each
    worker leaves out the images that still wait, and fills the missing batches with the first
    images of its part again. With `drop_last=False`, which only one rank can have, every image
    occurs once, the last batch of each size and worker can be short, and `len` raises TypeError.

    Resuming: `state_dict` and `load_state_dict` continue within an epoch, exactly. Without workers,
    call them on the dataset. With workers, use torchdata's StatefulDataLoader, which calls them in
    each worker. A plain DataLoader with workers can only resume at the start of an epoch: call
    `set_epoch`. With `bucket_batches`, resuming reads the shards from the start of the epoch again,
    without unpacking records, because the batches depend on the sizes.

    The dataset keeps the index in memory, can be pickled, and opens the place in each worker. If
    the place does not answer, a shard is opened again a few times, at the same item.
    Raises UsageError if the place has no index or no records, if an argument is invalid, or if
    `flip` is "random" and the first records hold no mirrored image; InputError if the index is
    invalid, or captions cannot be read; StorageError if the place does not answer. Iteration
    raises DinacError if a shard cannot be read, is damaged, or does not hold as many records as the
    index says, if an image has no caption, or if `masks` is set and an image was encoded without
    masks.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        ends: Ends = "pad",
        batch_size: int = 1,
        bucket_batches: bool = False,
        drop_last: bool = True,
        repeat: bool = False,
        flip: Flip = "both",
        captions: str | os.PathLike[str] | None = None,
        masks: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        check_flip(flip)
        if ends not in get_args(Ends):
            raise UsageError(f"ends is {ends!r}; it must be one of {', '.join(get_args(Ends))}")
        check_number("seed", seed, 0)
        check_number("shuffle", shuffle, 0)
        check_number("batch_size", batch_size, 1)
        self.url = os.fspath(url)
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.world_size = choose_rank(rank, world_size)
        self.ends = ends
        self.batch_size = batch_size
        self.bucket_batches = bucket_batches
        self.drop_last = drop_last
        self._check_drop_last()
        self.repeat = repeat
        self.flip = flip
        self.captions = None if captions is None else open_captions(os.fspath(captions))
        self.masks = masks
        self.transform = transform
        self.index = read_index(open_store(self.url))
        if len(self._items) < self._least:
            raise UsageError(self._describe_lack())
        if flip == "random":
            require_twins(self._place, self._outline_first())
        # Persistent workers keep their copy of the dataset, so the epoch is in shared memory.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._share_epoch()
        self._progress = _Progress(0, 0, 0)
        self._resumes = False

    def __repr__(self) -> str:
        return (
            f"LatentShards({self._place!r}): {len(self.index.shards)} shards, "
            f"{self.index.total} records"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share_epoch()

    def __len__(self) -> int:
        """Returns the number of items of this rank; with `bucket_batches`, of whole batches.

        Raises TypeError with `repeat`, and for batches of unknown sizes without `drop_last`.
        """
        if self.repeat:
            raise TypeError("the length is infinite with repeat=True")
        if self.bucket_batches and not self.drop_last:
            raise TypeError("the number of batches is unknown with drop_last=False")
        return len(self._items) // (self.batch_size if self.bucket_batches else 1)

    @property
    def epoch(self) -> int:
        """The epoch that the next iterator reads."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that the next iterator reads, here and in persistent workers.

        Forgets a loaded state, unless it is a state of this epoch.
        """
        check_number("epoch", epoch, 0)
        self._epoch.fill_(epoch)
        if self._progress.epoch != epoch:
            self._progress = _Progress(epoch, 0, 0)
            self._resumes = False

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the last iterator of this process has come.

        The state is small and can be written as JSON. It is equal for all ranks if they have
        yielded equally many items.
        """
        return {**self._progress._asdict(), "order": self._identify_order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iterator continue where `state_dict` was called.

        Raises UsageError if the order has changed since: with other shards, another number of
        ranks, or other arguments. The next iterator does if the number of workers has changed.
        """
        try:
            progress = _Progress(*(state[field] for field in _Progress._fields))
            order = state["order"]
        except KeyError as exc:
            raise UsageError(f"not a state of LatentShards: it has no {exc}") from exc
        for field, value in progress._asdict().items():
            check_number(field, value, 0)
        if order != self._identify_order():
            raise UsageError(
                "the state belongs to other shards, ranks or arguments; use those it was saved "
                "with, or call set_epoch to start an epoch"
            )
        self._progress, self._resumes = progress, True
        if get_worker_info() is None:
            self._epoch.fill_(progress.epoch)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (0, 0) if info is None else (info.id, info.num_workers)
        start = self._start(workers)
        # A StatefulDataLoader asks for the state before it asks for the first item.
        self._progress = start
        items = share_among_workers(self._items, worker, max(workers, 1), self.batch_size)
        return self._iterate(start, items, worker)

    def _start(self, workers: int) -> _Progress:
        """Returns where an iterator starts, and forgets a loaded state."""
        if not self._resumes:
            return _Progress(self.epoch, 0, workers)
        self._resumes = False
        if self._progress.yielded and self._progress.workers != workers:
            raise UsageError(
                f"the state was saved with {self._progress.workers} workers, not {workers}; use "
                "as many in a StatefulDataLoader, or call set_epoch to start an epoch"
            )
        return self._progress._replace(workers=workers)

    def _iterate(self, at: _Progress, items: range, worker: int) -> Iterator[Any]:
        store = open_store(self.url)
        while len(items) >= self._least:  # with `repeat`, fewer would yield nothing forever
            for item in self._read_epoch(store, at, items, worker):
                at = at._replace(yielded=at.yielded + 1)
                self._progress = at
                yield item
            if not self.repeat:
                return
            at = at._replace(epoch=at.epoch + 1, yielded=0)

    def _read_epoch(self, store: Store, at: _Progress, items: range, worker: int) -> Iterator[Any]:
        """Yields the items or batches of an epoch in their order, without the first `yielded`."""
        shards = self.index.shards
        ordered = order_shards(shards, self.seed, at.epoch) if self.shuffle else shards
        seeds = self.seed, at.epoch, self.rank, worker
        epoch = ShardEpoch(store, ordered, items, self.shuffle, seeds)
        if not self.bucket_batches:
            for located in epoch.read_samples(at.yielded):
                yield self._make_item(at.epoch, *located)
            return
        batches = epoch.read_batches(self.batch_size, drop_last=self.drop_last)
        for batch in islice(batches, at.yielded, None):
            yield self._make_batch(at.epoch, batch)

    def _make_batch(self, epoch: int, batch: list[LocatedSample]) -> Any:
        made = default_collate([self._make_item(epoch, *located) for located in batch])
        return LatentBatch(made) if type(made) is dict else made

    def _make_item(self, epoch: int, path: str, sample: Sample) -> Any:
        data, key = sample.files[RECORD_EXTENSION], sample.key
        prefers_twin = self.flip == "random" and _toss(self.seed, epoch, key)
        try:
            item = load_item(
                partial(_unpack, data),
                self.flip,
                prefers_twin=prefers_twin,
                name=None,
                masks=self.masks,
            )
        except DinacError as exc:
            raise DinacError(f"{path}: {key}: {exc}") from exc
        item["name"] = item["name"] or key
        item["key"] = key
        item.update(parse_texts(path, sample))
        if self.captions is not None:
            item["txt"] = _find_caption(self.captions, item["name"], path)
        return item if self.transform is None else self.transform(item)

    def _outline_first(self) -> Iterator[Outline | None]:
        """Yields what the records of the first shard hold; None if they cannot be read."""
        entry = next(entry for entry in self.index.shards if entry.nsamples)
        try:
            for sample in read_span(open_store(self.url), Span(entry, 0, entry.nsamples)):
                yield open_record(sample.files[RECORD_EXTENSION]).outline((), with_twin=True)
        except DinacError:
            yield None

    @property
    def _place(self) -> str:
        return hide_secrets(self.url) if is_url(self.url) else self.url

    @property
    def _items(self) -> range:
        return share_among_ranks(self.index.total, self.rank, self.world_size, self.ends)

    def _describe_lack(self) -> str:
        if not self.index.total:
            return f"no latents found in {self._place}; run dinac encode first"
        if self._items:
            return (
                f"{self._place}: {len(self._items)} latents of each rank make no whole batch of "
                f"{self.batch_size}; use smaller batches or fewer ranks, or one rank and "
                "drop_last=False"
            )
        return (
            f"{self._place}: {self.index.total} latents for {self.world_size} ranks; use "
            'ends="pad", or fewer ranks'
        )

    @property
    def _least(self) -> int:
        """The number of items of which an epoch yields something."""
        return self.batch_size if self.bucket_batches and self.drop_last else 1

    def _check_drop_last(self) -> None:
        if self.drop_last:
            return
        if not self.bucket_batches:
            raise UsageError("drop_last=False needs bucket_batches=True")
        if self.world_size > 1:
            raise UsageError(
                f"drop_last=False with {self.world_size} ranks would give them different numbers "
                "of batches; leave it out"
            )

    def _share_epoch(self) -> None:
        with suppress(RuntimeError):  # no shared memory: persistent workers stay in their epoch
            self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def _identify_order(self) -> str:
        """Returns a hash of what the order of the items depends on, except the epoch."""
        order = self.seed, self.shuffle, self.world_size, self.ends, self.batch_size
        batches = ("bucket_batches", self.drop_last) if self.bucket_batches else ()
        return sha256(f"{self._shards_hash} {(*order, *batches)}".encode()).hexdigest()[:16]

    @cached_property
    def _shards_hash(self) -> str:
        shards = [(entry.url, entry.nsamples) for entry in self.index.shards]
        return sha256(json.dumps(shards).encode()).hexdigest()


def _unpack(data: bytes, companions: Collection[str], with_twin: bool) -> Record:
    return unpack_record(data, companions, with_twin=with_twin)


def _find_caption(captions: CaptionFiles, name: str, path: str) -> str:
    caption = captions.find(name)
    if caption is None:
        raise DinacError(
            f"{path}: {name} has no caption; add one where captions=… says "
            f"({captions.describe_lack(name)}), or leave that out to get the texts in the shards"
        )
    return caption


def _toss(seed: int, epoch: int, key: str) -> bool:
    """Returns True or False with equal chance; the same for the same arguments."""
    return bool(sha256(f"{seed}/{epoch}/{key}".encode()).digest()[0] & 1)

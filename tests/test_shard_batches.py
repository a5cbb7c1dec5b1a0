"""Batches of one size from shards: equally many on every rank, though nobody knows the sizes."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dinac_cli import LatentShards
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DinacError, UsageError
from dinac_cli.shard_epoch import Buckets
from dinac_cli.storage.shard_layout import ShardIndex
from dinac_cli.storage.tars import Sample

from .container.hand_made import make_header, make_latents
from .shard_files import make_entry, make_tar, write_files, write_shard

SHAPES = ((3, 2, 5), (3, 5, 2), (3, 3, 3))
RECORDS = [
    pack_encoded(
        make_header(shape, name=""),
        Encoded(make_latents(shape)),
        flipped=Encoded(make_latents(shape, 1)),
    )
    for shape in SHAPES
]
ORDER = "aabacabaaacbbabacaaabcbaabaabcaaabab"  # 20 of one size, 11 of another, 5 of a third
TOTAL = len(ORDER)

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four shards with 36 records of three sizes."""
    files, entries = {}, []
    for start in range(0, TOTAL, 9):
        records = {
            f"{number:02}.dinac": RECORDS["abc".index(ORDER[number])]
            for number in range(start, start + 9)
        }
        name = f"{start:05}.tar"
        files[name] = make_tar(records)
        entries.append(make_entry(name, 9, files[name]))
    files["index.json"] = ShardIndex(tuple(entries)).to_bytes()
    return write_files(tmp_path_factory.mktemp("sizes"), files)


def open_batches(out: str, batch_size: int, **options: Any) -> LatentShards:
    return LatentShards(out, batch_size=batch_size, bucket_batches=True, **options)


def list_keys(batches: Iterable[Batch]) -> list[list[str]]:
    return [batch["key"] for batch in batches]


def require_one_size(batches: Iterable[Batch], batch_size: int) -> None:
    """Asserts that batches are whole, and that each holds the records of one size."""
    for batch in batches:
        sizes = {ORDER[int(key)] for key in batch["key"]}
        shape = SHAPES["abc".index(sizes.pop())]
        assert not sizes
        assert batch["latents"].shape == (batch_size, *shape)


@pytest.mark.parametrize("shuffle", [0, 7, 100])
def test_batches_are_whole_and_of_one_size(out: str, shuffle: int) -> None:
    dataset = open_batches(out, 4, shuffle=shuffle)
    batches = list(dataset)
    require_one_size(batches, 4)
    assert len(batches) == len(dataset) == TOTAL // 4
    images = Counter(chain(*list_keys(batches)))
    assert len(images) == TOTAL - 1  # the fifth image of its size is left out,
    assert sorted(images.values())[-2:] == [1, 2]  # and one is repeated to fill the ninth batch
    assert batches[0]["height"].shape == (4,)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_ranks_have_equally_many_batches(out: str, world_size: int, batch_size: int) -> None:
    ranks = [
        open_batches(out, batch_size, shuffle=9, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    found = [list(dataset) for dataset in ranks]
    per_rank = -(-TOTAL // world_size) // batch_size
    assert {len(dataset) for dataset in ranks} == {per_rank}
    assert {len(batches) for batches in found} == {per_rank}
    require_one_size(chain(*found), batch_size)


def test_ranks_do_not_share_images(out: str) -> None:
    """36 images are a multiple of three ranks, so no image is padding."""
    ranks = [open_batches(out, 2, shuffle=5, rank=rank, world_size=3) for rank in range(3)]
    images = [set(chain(*list_keys(dataset))) for dataset in ranks]
    assert len(set().union(*images)) == sum(map(len, images))
    assert min(map(len, images)) >= 12 - 3  # one image of each size may wait at the end


def test_every_image_occurs_once_without_drop_last(out: str) -> None:
    dataset = open_batches(out, 4, shuffle=7, drop_last=False)
    batches = list(dataset)
    assert sorted(chain(*list_keys(batches))) == [f"{number:02}" for number in range(TOTAL)]
    sizes = Counter(tuple(batch["latents"].shape) for batch in batches)
    assert sizes == {
        (4, *SHAPES[0]): 5, (4, *SHAPES[1]): 2, (3, *SHAPES[1]): 1, (4, *SHAPES[2]): 1,
        (1, *SHAPES[2]): 1,
    }  # fmt: skip
    with pytest.raises(TypeError, match="the number of batches is unknown with drop_last=False"):
        len(dataset)


def test_few_images_of_a_size_wait_for_those_of_the_next_pass(tmp_path: Path) -> None:
    """No size has enough images for a batch, and still each rank yields its batches."""
    files = {f"{number}.dinac": RECORDS[number % 3] for number in range(6)}
    batches = list(open_batches(write_shard(tmp_path, files), 3))
    assert list_keys(batches) == [["0", "3", "0"], ["1", "4", "1"]]


def test_batches_are_yielded_as_soon_as_they_are_whole() -> None:
    """So the records that wait in memory are fewer than `batch_size` of each size."""
    samples = [("a.tar", Sample(str(number))) for number in range(TOTAL)]
    for number, (_, sample) in enumerate(samples):
        sample.files["dinac"] = RECORDS["abc".index(ORDER[number])]
    taken: list[str] = []

    def watch() -> Iterable[tuple[str, Sample]]:
        for path, sample in samples:
            taken.append(sample.key)
            yield path, sample

    buckets, batched = Buckets(4), 0
    for batch in buckets.fill(watch()):
        batched += len(batch)
        assert batch[-1][1].key == taken[-1]
        assert len(taken) - batched <= 3 * 3
    assert [len(batch) for batch in buckets.take_rest()] == [1, 3]


def test_epochs_and_seeds_have_orders_of_their_own(out: str) -> None:
    dataset = open_batches(out, 4, shuffle=9)
    first = list_keys(dataset)
    assert list_keys(dataset) == first
    assert list_keys(open_batches(out, 4, shuffle=9, seed=1)) != first
    dataset.set_epoch(1)
    second = list_keys(dataset)
    assert second != first
    endless = open_batches(out, 4, shuffle=9, repeat=True)
    assert list_keys(islice(endless, 18)) == first + second


cannot_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
many_threads = pytest.mark.filterwarnings("ignore:This process .*multi-threaded")


@cannot_fork
@many_threads
def test_workers_make_as_many_batches_as_one_process(out: str) -> None:
    """A loader of wrong length would warn, which fails the test."""
    for rank in (0, 1):
        dataset = open_batches(out, 4, shuffle=5, rank=rank, world_size=2)
        loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
        batches = list(loader)
        assert len(batches) == len(loader) == 18 // 4
        require_one_size(batches, 4)


def test_worker_without_a_whole_batch_ends(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with `repeat`: it would read its part forever and yield nothing."""
    dataset = open_batches(out, 17, repeat=True)  # 17 and 17 images, and 2 for the third worker
    for number, count in enumerate((2, 2, 0)):
        info = torch.utils.data._utils.worker.WorkerInfo(
            id=number, num_workers=3, seed=0, dataset=dataset
        )
        monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_info", info)
        assert len(list(islice(dataset, 2))) == count


def test_a_loader_gets_tensors_and_lists(out: str) -> None:
    batch = next(iter(DataLoader(open_batches(out, 2), batch_size=None)))
    assert isinstance(batch["latents"], torch.Tensor)
    assert batch["name"] == batch["key"] == ["00", "01"]


def test_a_loader_that_makes_batches_itself_is_refused(out: str) -> None:
    with pytest.raises(DinacError, match=r"bucket_batches=True; give the DataLoader batch_size=No"):
        next(iter(DataLoader(open_batches(out, 2))))
    with pytest.raises(DinacError, match=r"use bucket_batches=True, or use batch_size=1$"):
        list(DataLoader(LatentShards(out), batch_size=4))


def _take_latents(item: Batch) -> torch.Tensor:
    latents: torch.Tensor = item["latents"]
    return latents


def test_transform_sees_items(out: str) -> None:
    batch = next(iter(open_batches(out, 2, transform=_take_latents)))
    assert batch.shape == (2, *SHAPES[0])


@pytest.mark.parametrize("shuffle", [0, 9])
@pytest.mark.parametrize("drop_last", [True, False])
def test_state_continues_within_an_epoch(out: str, shuffle: int, drop_last: bool) -> None:
    def make() -> LatentShards:
        dataset = open_batches(out, 4, shuffle=shuffle, drop_last=drop_last, flip="random")
        return pickle.loads(pickle.dumps(dataset))  # type: ignore[no-any-return]

    whole = list_keys(make())
    for count in (0, 1, 5, len(whole)):
        first = make()
        before = list_keys(islice(first, count))
        state = json.loads(json.dumps(first.state_dict()))
        second = make()
        second.load_state_dict(state)
        assert before + list_keys(second) == whole
    other = open_batches(out, 4, shuffle=shuffle, drop_last=not drop_last)
    for dataset in (other, LatentShards(out, shuffle=shuffle, batch_size=4)):
        with pytest.raises(UsageError, match=r"^the state belongs to other shards, ranks or arg"):
            dataset.load_state_dict(make().state_dict())


def test_what_makes_no_whole_batch_is_refused(out: str) -> None:
    message = (
        f"{out}: 18 latents of each rank make no whole batch of 19; use smaller batches or fewer "
        "ranks, or one rank and drop_last=False"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        open_batches(out, 19, rank=0, world_size=2)
    with pytest.raises(UsageError, match=r"^drop_last=False needs bucket_batches=True$"):
        LatentShards(out, drop_last=False)
    with pytest.raises(UsageError, match=r"^drop_last=False with 2 ranks would give them differen"):
        open_batches(out, 4, drop_last=False, rank=0, world_size=2)
    assert len(list(open_batches(out, TOTAL + 1, drop_last=False))) == 3


def test_damage_is_named_with_shard_and_key(tmp_path: Path) -> None:
    out = write_shard(tmp_path, {"t/b.dinac": b"not a record"})
    with pytest.raises(DinacError, match=r"a\.tar: t/b: not a latent record"):
        list(open_batches(out, 1))

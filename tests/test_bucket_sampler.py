"""Batches of one size: each image once an epoch, and equally many batches on every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from dinac_cli import BucketSampler, LatentFolder
from dinac_cli.container.record import pack_record
from dinac_cli.errors import DinacError, UsageError

from .container.hand_made import make_header, make_latents

SIZES = {(3, 2, 5): 7, (3, 5, 2): 4, (3, 3, 3): 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LatentFolder:
    """Thirteen records of three sizes, mixed by name."""
    place = tmp_path_factory.mktemp("sizes")
    for number, shape in enumerate(Counter(SIZES).elements()):
        path = place / f"{number * 5 % 13:02}.png.dinac"
        path.write_bytes(pack_record(make_header(shape), make_latents(shape, number)))
    return LatentFolder(place)


def flatten(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def test_a_loader_gets_batches_of_one_size(folder: LatentFolder) -> None:
    sampler = BucketSampler(folder, 3)
    assert {size: len(indices) for size, indices in sampler.sizes.items()} == {
        (2, 5): 7, (3, 3): 2, (5, 2): 4,
    }  # fmt: skip
    batches = list(DataLoader(folder, batch_sampler=sampler))
    assert len(sampler) == len(batches) == 3 + 1 + 2
    assert sorted(name for batch in batches for name in batch["name"]) == folder.names
    shapes = Counter(tuple(batch["latents"].shape) for batch in batches)
    assert shapes == {
        (3, 3, 2, 5): 2, (1, 3, 2, 5): 1, (2, 3, 3, 3): 1, (3, 3, 5, 2): 1, (1, 3, 5, 2): 1,
    }  # fmt: skip


def test_epochs_and_seeds_have_other_orders_and_the_same_lengths(folder: LatentFolder) -> None:
    sampler, other = BucketSampler(folder, 2), BucketSampler(folder, 2, seed=1)
    first = list(sampler)
    assert list(sampler) == first == list(BucketSampler(folder, 2))
    assert list(other) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sorted(flatten(sampler)) == sorted(flatten(first)) == list(range(13))
    assert len(list(sampler)) == len(first) == len(sampler)


def test_without_shuffle_the_order_is_that_of_the_names(folder: LatentFolder) -> None:
    sampler = BucketSampler(folder, 4, shuffle=False)
    assert flatten(sampler) == list(chain.from_iterable(sampler.sizes.values()))
    assert list(sampler.sizes) == [(2, 5), (3, 3), (5, 2)]
    assert all(list(indices) == sorted(indices) for indices in sampler.sizes.values())


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9])
def test_ranks_share_the_batches(folder: LatentFolder, world_size: int) -> None:
    ranks = [
        list(BucketSampler(folder, 3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    everything = {tuple(batch) for batch in BucketSampler(folder, 3)}
    assert {len(batches) for batches in ranks} == {-(-6 // world_size)}
    assert {tuple(batch) for batches in ranks for batch in batches} == everything


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_drop_last_leaves_out_short_batches(folder: LatentFolder, world_size: int) -> None:
    ranks = [
        BucketSampler(folder, 3, drop_last=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [batch for sampler in ranks for batch in sampler]
    assert {len(sampler) for sampler in ranks} == {3 // world_size}
    assert {len(batch) for batch in batches} == {3}
    indices = flatten(batches)
    assert len(set(indices)) == len(indices) == 3 * (3 // world_size) * world_size


def test_ranks_come_from_the_environment(
    folder: LatentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = BucketSampler(folder, 3, rank=1, world_size=2)
    assert list(BucketSampler(folder, 3)) == list(given)


def test_wrong_arguments_are_explained(folder: LatentFolder) -> None:
    with pytest.raises(UsageError, match=r"^'x/' is no LatentFolder; open it with LatentFolder"):
        BucketSampler("x/", 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^batch_size is 0; it must be a whole number from 1$"):
        BucketSampler(folder, 0)
    with pytest.raises(
        UsageError, match=r"^3 whole batches of 3 images of one size for 4 ranks; use drop_last=F"
    ):
        BucketSampler(folder, 3, drop_last=True, rank=0, world_size=4)
    with pytest.raises(UsageError, match=r"^0 whole batches of 99 images of one size for 1 rank"):
        BucketSampler(folder, 99, drop_last=True, rank=0, world_size=1)
    with pytest.raises(UsageError, match=r"^epoch is -1; "):
        BucketSampler(folder, 3).set_epoch(-1)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png.dinac").write_bytes(b"not a record")
    with pytest.raises(DinacError, match=r"a\.png\.dinac: "):
        BucketSampler(LatentFolder(tmp_path), 2)

"""Shards of latents as a PyTorch dataset."""

from __future__ import annotations

import gc
import io
import json
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dinac_cli import LatentFolder, LatentShards
from dinac_cli.container.record import pack_encoded, pack_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ArchiveError, DinacError, InputError, StorageError, UsageError
from dinac_cli.shard_order import share_among_ranks, share_among_workers, shuffle_in_buffer
from dinac_cli.storage import store
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.shard_layout import ShardIndex

from .container.hand_made import make_header, make_latents
from .shard_files import make_entry, make_tar, write_files, write_shard

SHAPE = (3, 2, 5)
SIZES = (7, 1, 0, 12, 4)  # records in each shard: 24 in all
TOTAL = sum(SIZES)
RECORD = pack_record(make_header(SHAPE, name=""), make_latents(SHAPE))
TWINS = pack_encoded(
    make_header(SHAPE, name=""),
    Encoded(make_latents(SHAPE)),
    flipped=Encoded(make_latents(SHAPE, 1)),
)
"""A record that also holds the mirrored image."""


def make_out(sizes: tuple[int, ...] = SIZES, record: bytes = RECORD) -> dict[str, bytes]:
    """Returns the files of an OUT: shards of these sizes, full of one record, and their index."""
    files, entries = {}, []
    keys = iter(make_keys(sum(sizes)))
    for number, size in enumerate(sizes):
        name = f"{number // 2:03}/{number:05}.tar"
        files[name] = make_tar({f"{key}.dinac": record for key in islice(keys, size)})
        entries.append(make_entry(name, size, files[name]))
    return {**files, "index.json": ShardIndex(tuple(entries)).to_bytes()}


def make_keys(count: int = TOTAL) -> list[str]:
    return [f"trip/{number:03}" for number in range(count)]


@pytest.fixture
def out(tmp_path: Path) -> str:
    return write_files(tmp_path / "out", make_out())


def list_keys(dataset: LatentShards) -> list[str]:
    return [item["key"] for item in dataset]


# What an item is


def test_items_hold_what_the_record_and_its_texts_hold(tmp_path: Path) -> None:
    latents, token = make_latents(SHAPE, 3), np.arange(4, dtype=np.float32)
    record = pack_encoded(make_header(SHAPE, "f32"), Encoded(latents, latents + 1, token))
    files = {
        "trip/a.dinac": record,
        "trip/a.txt": " Ein Öl\r\n".encode("utf-8-sig"),
        "trip/a.json": b'{"n": [1]}',
    }
    [item] = LatentShards(write_shard(tmp_path, files))
    assert torch.equal(item["latents"], torch.from_numpy(latents))
    assert torch.equal(item["logsnr"], torch.from_numpy(latents + 1))
    assert torch.equal(item["class_token"], torch.from_numpy(token))
    assert (item["name"], item["key"]) == ("trip/a.jpg", "trip/a")
    assert (item["height"], item["width"]) == (31, 79)
    assert (item["txt"], item["json"]) == ("Ein Öl", {"n": [1]})
    assert len(item) == 9


def test_anonymous_record_has_its_key_as_name(out: str) -> None:
    item = next(iter(LatentShards(out)))
    assert item.keys() == {"latents", "name", "key", "height", "width"}
    assert item["name"] == item["key"] == "trip/000"


def test_files_without_a_record_are_skipped(tmp_path: Path) -> None:
    files = {"a.txt": b"no record", "b.dinac": RECORD, "b.seg.png": b"x", "c.json": b"{"}
    assert list_keys(LatentShards(write_shard(tmp_path, files))) == ["b"]


@pytest.fixture
def mirrored(tmp_path: Path) -> str:
    """An OUT with 64 records that also hold the mirrored image."""
    images = [Encoded(make_latents(SHAPE, seed)) for seed in (5, 6)]
    record = pack_encoded(make_header(SHAPE, "f32"), images[0], flipped=images[1])
    return write_shard(tmp_path, {f"{number}.dinac": record for number in range(64)})


def test_item_has_both_images_by_default(mirrored: str) -> None:
    item = next(iter(LatentShards(mirrored)))
    assert torch.equal(item["flipped"], torch.from_numpy(make_latents(SHAPE, 6)))
    assert "flipped" not in next(iter(LatentShards(mirrored, flip="never")))


def test_random_flip_depends_on_seed_epoch_and_key_alone(mirrored: str) -> None:
    dataset = LatentShards(mirrored, flip="random")
    flips = {item["key"]: item["is_flipped"] for item in dataset}
    for item in dataset:
        seed = 6 if item["is_flipped"] else 5
        assert torch.equal(item["latents"], torch.from_numpy(make_latents(SHAPE, seed)))
    assert 16 < sum(flips.values()) < 48
    shuffled = LatentShards(mirrored, flip="random", shuffle=9, rank=1, world_size=2)
    assert all(item["is_flipped"] == flips[item["key"]] for item in shuffled)
    dataset.set_epoch(1)
    assert flips != {item["key"]: item["is_flipped"] for item in dataset}


def test_random_flip_needs_mirrored_images(out: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out: flip is 'random', but the records hold no mirr"):
        LatentShards(out, flip="random")
    files = {f"{key}.dinac": record for key, record in (("a", RECORD), ("b", TWINS))}
    assert len(LatentShards(write_shard(tmp_path / "mixed", files), flip="random")) == 2
    broken = LatentShards(
        write_shard(tmp_path / "broken", {"a.dinac": b"no record"}), flip="random"
    )
    with pytest.raises(DinacError, match=r"a\.tar: a: not a latent record"):
        next(iter(broken))


def test_masks_are_read_on_request(tmp_path: Path) -> None:
    mask = np.array([[0, 51, 102, 255, 255]] * 2, np.uint8)
    images = [Encoded(make_latents(SHAPE), mask=each) for each in (mask, mask[:, ::-1])]
    masked = pack_encoded(make_header(SHAPE, "f32"), images[0], flipped=images[1])
    opaque = pack_record(make_header(SHAPE, name="", image="mask=alpha"), make_latents(SHAPE))
    files = {f"{number}.dinac": masked for number in range(16)} | {"z.dinac": opaque}
    out = write_shard(tmp_path, files)
    assert "mask" not in next(iter(LatentShards(out)))
    *items, whole = LatentShards(out, flip="random", masks=True)
    assert torch.equal(whole["mask"], torch.ones(1, 2, 5))
    assert len({item["is_flipped"] for item in items}) == 2
    for item in items:
        row = [1, 1, 0.4, 0.2, 0] if item["is_flipped"] else [0, 0.2, 0.4, 1, 1]
        assert torch.equal(item["mask"], torch.tensor([[row, row]]))


def test_masks_of_images_encoded_without_masks_are_unknown(tmp_path: Path) -> None:
    out = write_shard(tmp_path, {"t/z.dinac": RECORD})
    message = (
        r"a\.tar: t/z: was encoded without masks; encode it again with --mask or --masks, or "
        r"remove it with --prune=all if its image is gone$"
    )
    for bucket_batches in (False, True):
        with pytest.raises(DinacError, match=message):
            list(LatentShards(out, masks=True, bucket_batches=bucket_batches))
    assert len(list(LatentShards(out))) == 1


def test_captions_of_the_images(tmp_path: Path) -> None:
    named = pack_record(make_header(SHAPE, name="trip/a.jpg"), make_latents(SHAPE))
    out = write_shard(tmp_path / "out", {"a.dinac": named, "a.txt": b"kept"})
    table = tmp_path / "captions.json"
    table.write_text('{"trip/a.jpg": "corrected"}')
    [item] = pickle.loads(pickle.dumps(LatentShards(out, captions=table)))
    assert item["txt"] == "corrected"
    table.write_text('{"b.jpg": "another"}')
    with pytest.raises(DinacError, match=r"a\.tar: trip/a\.jpg has no caption; add one where"):
        list(LatentShards(out, captions=table))
    with pytest.raises(InputError, match=r"gone: no such file or folder; name the folder of"):
        LatentShards(out, captions=tmp_path / "gone")


def test_batches_have_tensors_and_lists(tmp_path: Path) -> None:
    files = {"a.dinac": RECORD, "a.txt": b"\xef\xbb\xbfA \n", "a.json": b'{"x": null}'}
    files |= {"b.dinac": RECORD, "b.txt": b"B", "b.json": b"[1]"}
    [batch] = DataLoader(LatentShards(write_shard(tmp_path, files)), batch_size=2)
    assert type(batch) is dict
    assert batch["latents"].shape == (2, *SHAPE)
    assert batch["height"].tolist() == [31, 31]
    assert (batch["key"], batch["txt"], batch["json"]) == (
        ["a", "b"],
        ["A", "B"],
        [{"x": None}, [1]],
    )


def test_batch_with_a_missing_text_names_the_record(tmp_path: Path) -> None:
    files = {"a.dinac": RECORD, "a.txt": b"A", "b.dinac": RECORD}
    dataset = LatentShards(write_shard(tmp_path, files))
    with pytest.raises(DinacError) as caught:
        list(DataLoader(dataset, batch_size=2))
    assert str(caught.value) == (
        "b (79x31) has no txt, but a (79x31) has; give captions=…, add what is missing and encode "
        "again with --keep and --overwrite, or in a transform, or use batch_size=1"
    )


def test_transform_is_applied(out: str) -> None:
    assert list(LatentShards(out, transform=_take_key)) == make_keys()


def _take_key(item: dict[str, Any]) -> str:
    return str(item["key"])


def test_repr_has_the_place_and_what_it_holds(out: str) -> None:
    assert repr(LatentShards(out)) == f"LatentShards({out!r}): 5 shards, 24 records"


# Ranks, workers and order


cannot_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
many_threads = pytest.mark.filterwarnings("ignore:This process .*multi-threaded")
many_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")


def load_keys(dataset: LatentShards, workers: int, **options: Any) -> list[str]:
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, **options)
    return [item["key"] for item in loader]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [0, 5])
def test_every_image_once_over_all_ranks(out: str, world_size: int, shuffle: int) -> None:
    """24 images are a multiple of each number of ranks."""
    ranks = [
        LatentShards(out, shuffle=shuffle, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    parts = [list_keys(dataset) for dataset in ranks]
    assert [len(part) for part in parts] == [len(dataset) for dataset in ranks]
    assert {len(part) for part in parts} == {TOTAL // world_size}
    assert sorted(chain(*parts)) == make_keys()
    assert (list(chain(*parts)) == make_keys()) == (shuffle == 0)


@pytest.mark.parametrize("world_size", [5, 7, 30])
def test_padding_repeats_at_most_one_image_a_rank(out: str, world_size: int) -> None:
    parts = [
        list_keys(LatentShards(out, shuffle=4, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {-(-TOTAL // world_size)}
    assert all(len(set(part)) == len(part) for part in parts)
    counts = Counter(chain(*parts))
    assert set(counts) == set(make_keys())
    assert sum(counts.values()) - TOTAL < world_size


@pytest.mark.parametrize("world_size", [5, 7])
def test_dropping_repeats_no_image(out: str, world_size: int) -> None:
    parts = [
        list_keys(LatentShards(out, shuffle=4, rank=rank, world_size=world_size, ends="drop"))
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {TOTAL // world_size}
    assert len(set(chain(*parts))) == TOTAL // world_size * world_size


def test_shares_cover_all_items_for_any_numbers() -> None:
    generator = random.Random(0)
    for _ in range(300):
        total, world_size = generator.randrange(1, 200), generator.randrange(1, 20)
        padded = [share_among_ranks(total, rank, world_size, "pad") for rank in range(world_size)]
        dropped = [share_among_ranks(total, rank, world_size, "drop") for rank in range(world_size)]
        assert {len(part) for part in padded} == {-(-total // world_size)}
        assert {len(part) for part in dropped} == {total // world_size}
        assert set().union(*padded) == set(range(total))
        assert all(one.stop <= other.start for one, other in pairwise(dropped))
        workers, batch = generator.randrange(1, 6), generator.randrange(1, 9)
        for items in padded:
            parts = [share_among_workers(items, w, workers, batch) for w in range(workers)]
            assert [item for part in parts for item in part] == list(items)
            assert sum(-(-len(part) // batch) for part in parts) == -(-len(items) // batch)
            assert sum(len(part) // batch for part in parts) == len(items) // batch


@pytest.mark.parametrize("size", [0, 1, 2, 10, 100])
def test_buffer_yields_each_number_once_and_holds_few(size: int) -> None:
    order = list(shuffle_in_buffer(50, size, random.Random(1)))
    assert sorted(order) == list(range(50))
    assert (order == list(range(50))) == (size < 2)
    assert all(number < place + max(size, 1) for place, number in enumerate(order))


@pytest.mark.parametrize(("workers", "world_size"), [(1, 1), (2, 2), (3, 1)])
@cannot_fork
@many_threads
@many_workers
def test_workers_share_the_items_of_a_rank(out: str, workers: int, world_size: int) -> None:
    keys = []
    for rank in range(world_size):
        dataset = LatentShards(out, shuffle=5, rank=rank, world_size=world_size)
        keys += load_keys(dataset, workers, multiprocessing_context="fork")
    assert sorted(keys) == make_keys()


@cannot_fork
@many_threads
@many_workers
def test_more_workers_than_images_are_no_problem(tmp_path: Path) -> None:
    out = write_shard(tmp_path, {"a.dinac": RECORD, "b.dinac": RECORD})
    dataset = LatentShards(out, shuffle=3)
    assert sorted(load_keys(dataset, 3, multiprocessing_context="fork")) == ["a", "b"]


@cannot_fork
@many_threads
def test_batches_of_workers_are_whole_if_the_batch_size_is_known(out: str) -> None:
    """23 images of a rank make 3 + 3 + 2 batches; without the batch size, PyTorch would warn."""
    dataset = LatentShards(out, rank=0, world_size=2, batch_size=5)
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context="fork")
    batches = [batch["key"] for batch in loader]
    assert len(loader) == 3
    assert sorted(map(len, batches)) == [2, 5, 5]


def test_spawned_workers_read_a_pickled_dataset(out: str) -> None:
    """The one test that starts fresh processes; they take a second each."""
    dataset = LatentShards(out, shuffle=5)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    first = [item["key"] for item in loader]
    dataset.set_epoch(1)
    second = [item["key"] for item in loader]
    assert first == list_keys(LatentShards(out, shuffle=5))
    assert second == list_keys(_set_epoch(LatentShards(out, shuffle=5), 1))


def _set_epoch(dataset: LatentShards, epoch: int) -> LatentShards:
    dataset.set_epoch(epoch)
    return dataset


def test_epochs_and_seeds_have_orders_of_their_own(out: str) -> None:
    dataset = LatentShards(out, shuffle=8, seed=1)
    epochs = [list_keys(_set_epoch(dataset, epoch)) for epoch in (0, 1, 2, 1)]
    assert epochs[1] == epochs[3]
    assert len({tuple(keys) for keys in epochs}) == 3
    assert dataset.epoch == 1
    assert list_keys(LatentShards(out, shuffle=8, seed=1)) == epochs[0]
    assert list_keys(LatentShards(out, shuffle=8, seed=2)) != epochs[0]


def test_order_of_an_epoch_is_the_same_on_every_machine(out: str) -> None:
    """A training that moves to another machine must find the order that it left."""
    numbers = [int(key[-3:]) for key in list_keys(LatentShards(out, shuffle=8, seed=1))]
    assert numbers[:12] == [4, 6, 7, 21, 1, 3, 9, 0, 10, 20, 23, 2]
    assert numbers[12:] == [11, 8, 14, 22, 12, 16, 13, 17, 5, 19, 18, 15]


@cannot_fork
@many_threads
def test_persistent_workers_see_the_epoch(out: str) -> None:
    dataset = pickle.loads(pickle.dumps(LatentShards(out, shuffle=8)))
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        keys = [item["key"] for item in loader]
        assert keys == list_keys(_set_epoch(LatentShards(out, shuffle=8), epoch))


def test_repeated_epochs_follow_each_other(out: str) -> None:
    dataset = LatentShards(out, shuffle=8, repeat=True)
    keys = [item["key"] for item in islice(dataset, 2 * TOTAL + 1)]
    for epoch in (0, 1):
        alone = list_keys(_set_epoch(LatentShards(out, shuffle=8), epoch))
        assert keys[epoch * TOTAL : (epoch + 1) * TOTAL] == alone
    assert dataset.state_dict()["epoch"] == 2
    with pytest.raises(TypeError, match="infinite"):
        len(dataset)


def test_ranks_come_from_the_environment(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert len(LatentShards(out)) == TOTAL
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert list_keys(LatentShards(out)) == make_keys()[8:16]
    assert list_keys(LatentShards(out, rank=0, world_size=2)) == make_keys()[:12]
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match=r"^RANK='one' and WORLD_SIZE='3' are not numbers"):
        LatentShards(out)


def test_ranks_come_from_torch_distributed_first(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert list_keys(LatentShards(out)) == make_keys()[12:18]


# Resuming


@pytest.mark.parametrize("shuffle", [0, 6, 100])
@pytest.mark.parametrize("repeat", [False, True])
def test_state_continues_within_an_epoch(tmp_path: Path, shuffle: int, repeat: bool) -> None:
    out = write_files(tmp_path / "out", make_out(record=TWINS))

    def make() -> LatentShards:
        return LatentShards(out, shuffle=shuffle, repeat=repeat, flip="random")

    dataset = _set_epoch(make(), 2)
    whole = [item["key"] for item in islice(dataset, TOTAL + 10 * repeat)]
    for count in (0, 1, 9, TOTAL - 1, TOTAL, TOTAL + 3)[: 6 if repeat else 5]:
        first = _set_epoch(make(), 2)
        before = [item["key"] for item in islice(first, count)]
        state = json.loads(json.dumps(first.state_dict()))
        second = make()
        second.load_state_dict(state)
        after = [item["key"] for item in islice(second, len(whole) - count)]
        assert before + after == whole


def test_only_the_next_iterator_continues(out: str) -> None:
    dataset = LatentShards(out)
    assert dataset.state_dict()["yielded"] == 0
    next(iter(dataset))
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    assert dataset.state_dict() == state
    assert list_keys(dataset) == make_keys()[1:]
    assert list_keys(dataset) == make_keys()


def test_setting_the_epoch_of_the_state_keeps_it(out: str) -> None:
    dataset = _set_epoch(LatentShards(out), 2)
    next(iter(dataset))
    state = dataset.state_dict()
    resumed = LatentShards(out)
    resumed.load_state_dict(state)
    assert resumed.epoch == 2
    assert list_keys(_set_epoch(resumed, 2)) == make_keys()[1:]
    resumed.load_state_dict(state)
    assert list_keys(_set_epoch(resumed, 3)) == make_keys()


def test_data_loader_without_workers_continues_after_a_batch(out: str) -> None:
    def load(dataset: LatentShards) -> Iterator[list[str]]:
        return (batch["key"] for batch in DataLoader(dataset, batch_size=4))

    dataset = LatentShards(out, shuffle=6)
    whole = list(load(dataset))
    list(islice(load(dataset), 2))
    resumed = LatentShards(out, shuffle=6)
    resumed.load_state_dict(dataset.state_dict())
    assert list(load(resumed)) == whole[2:]


class _StatefulWorker:
    """Does what a worker of torchdata's StatefulDataLoader does with its copy of the dataset."""

    def __init__(self, dataset: LatentShards, state: dict[str, Any] | None) -> None:
        self.dataset = pickle.loads(pickle.dumps(dataset))
        if state is not None:
            self.dataset.load_state_dict(state)
        self.items = iter(self.dataset)
        self.state = self.dataset.state_dict()

    def fetch(self, count: int) -> list[str]:
        keys = [item["key"] for item in islice(self.items, count)]
        self.state = self.dataset.state_dict()
        return keys


def test_workers_of_a_stateful_data_loader_continue(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(number: int, state: dict[str, Any] | None) -> _StatefulWorker:
        dataset = LatentShards(out, shuffle=4)
        info = torch.utils.data._utils.worker.WorkerInfo(
            id=number, num_workers=2, seed=0, dataset=dataset
        )
        monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_info", info)
        return _StatefulWorker(dataset, state)

    for number in (0, 1):
        worker = start(number, None)
        whole = worker.fetch(TOTAL)
        assert len(whole) == TOTAL // 2
        worker = start(number, None)
        assert worker.state["yielded"] == 0
        assert worker.fetch(5) == whole[:5]
        resumed = start(number, worker.state)
        assert resumed.state == worker.state
        assert resumed.fetch(TOTAL) == whole[5:]
        assert start(number, resumed.state).fetch(TOTAL) == []


def test_state_of_another_order_is_refused(out: str, tmp_path: Path) -> None:
    dataset = LatentShards(out, shuffle=3)
    next(iter(dataset))
    state = dataset.state_dict()
    fewer = write_files(tmp_path / "fewer", make_out(SIZES[:4]))
    others = [
        LatentShards(out, shuffle=4),
        LatentShards(out, shuffle=3, seed=1),
        LatentShards(out, shuffle=3, batch_size=2),
        LatentShards(out, shuffle=3, rank=0, world_size=2),
        LatentShards(fewer, shuffle=3),
    ]
    for other in others:
        with pytest.raises(
            UsageError, match=r"^the state belongs to other shards, ranks or arguments"
        ):
            other.load_state_dict(state)
    for broken in ({}, {**state, "yielded": -1}, {**state, "epoch": "1"}):
        with pytest.raises(UsageError):
            dataset.load_state_dict(broken)


@cannot_fork
@many_threads
def test_state_without_workers_does_not_suit_a_plain_data_loader(out: str) -> None:
    dataset = LatentShards(out)
    next(iter(dataset))
    dataset.load_state_dict(dataset.state_dict())
    with pytest.raises(UsageError, match="the state was saved with 0 workers, not 1"):
        load_keys(dataset, 1, multiprocessing_context="fork")
    dataset.set_epoch(1)
    assert len(load_keys(dataset, 1, multiprocessing_context="fork")) == TOTAL


# Places


@pytest.fixture
def url() -> Iterator[str]:
    """A place in fsspec's file system in memory."""
    import fsspec

    system = fsspec.filesystem("memory")
    for name, data in make_out().items():
        system.pipe_file(f"/latent-shards/{name}", data)
    yield "memory://latent-shards/"
    system.rm("/latent-shards", recursive=True)


def test_url_is_read_like_a_folder(url: str) -> None:
    dataset = LatentShards(url, shuffle=6)
    assert sorted(list_keys(dataset)) == make_keys()
    with pytest.raises(UsageError, match=r"^memory://elsewhere/index\.json: no such index"):
        LatentShards("memory://elsewhere/")


def test_credentials_in_a_url_are_not_shown(url: str) -> None:
    with pytest.raises(
        UsageError, match=r"^memory://elsewhere/index\.json: no such index"
    ) as caught:
        LatentShards("memory://me:secret@elsewhere/")
    assert "secret" not in str(caught.value)
    dataset = LatentShards(url)
    dataset.url = "memory://me:secret@latent-shards/"
    assert repr(dataset) == "LatentShards('memory://latent-shards/'): 5 shards, 24 records"


def test_local_shards_import_no_fsspec(out: str) -> None:
    program = (
        "import sys; from dinac_cli import LatentShards\n"
        f"assert len(list(LatentShards({out!r}))) == {TOTAL}\n"
        "assert 'fsspec' not in sys.modules and 's3fs' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_same_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    files = {"trip/a.dinac": RECORD, "trip/a.txt": b"A", "b.dinac": RECORD}
    out = write_shard(tmp_path, files)
    index = json.loads((tmp_path / "index.json").read_bytes())
    urls = [f"{out}/{shard['url']}" for shard in index["shardlist"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list_keys(LatentShards(out))
    assert [sample["dinac"] for sample in samples] == [RECORD, RECORD]
    assert samples[0]["txt"] == b"A"
    gc.collect()  # webdataset leaves the tars open


# What is refused


def test_place_without_an_index_is_refused(tmp_path: Path) -> None:
    message = (
        f"{tmp_path / 'index.json'}: no such index of shards; run dinac encode to its end, or use "
        "LatentFolder for loose records"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        LatentShards(tmp_path)
    (tmp_path / "index.json").write_bytes(ShardIndex(()).to_bytes())
    with pytest.raises(UsageError, match=r"^no latents found in .*; run dinac encode first$"):
        LatentShards(tmp_path)


def test_tars_of_an_export_are_named(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").touch()
    with pytest.raises(UsageError, match=r"holds tars of dinac export; read them with webdataset$"):
        LatentShards(tmp_path)


def test_latent_folder_names_the_dataset_for_shards(out: str) -> None:
    with pytest.raises(UsageError, match=r"^.* holds shards; read them with LatentShards$"):
        LatentFolder(out)


def test_invalid_index_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"index\.json: not an index of shards: .*; run dinac"):
        LatentShards(tmp_path)


def test_index_that_leaves_the_place_is_refused(tmp_path: Path) -> None:
    data = make_out()["index.json"].replace(b"000/00000.tar", b"../secret.tar")
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(InputError, match=r"index\.json: shard 1 of the index: url is absolute"):
        LatentShards(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": -1}, "shuffle is -1; it must be a whole number from 0"),
        ({"shuffle": 1.5}, "shuffle is 1.5; it must be"),
        ({"seed": "x"}, "seed is 'x'; it must be"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number from 1"),
        ({"ends": "cut"}, "ends is 'cut'; it must be one of pad, drop"),
        ({"flip": "no"}, "flip is 'no'; it must be one of both, random, never"),
        ({"rank": 1}, "rank and world_size belong together; give both or neither"),
        ({"rank": 2, "world_size": 2}, "rank is 2; with a world_size of 2"),
        ({"rank": -1, "world_size": 2}, "rank is -1; it must be"),
        ({"rank": 0, "world_size": 0}, "world_size is 0; it must be"),
        ({"rank": 0, "world_size": 25, "ends": "drop"}, ".*: 24 latents for 25 ranks; use ends="),
    ],
)
def test_invalid_argument_is_refused(out: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        LatentShards(out, **options)


@pytest.mark.parametrize("epoch", [-1, 0.5, 2**63])
def test_invalid_epoch_is_refused(out: str, epoch: Any) -> None:
    with pytest.raises(UsageError, match=r"^epoch is"):
        LatentShards(out).set_epoch(epoch)


@pytest.mark.parametrize(
    ("count", "message"),
    [(1, "holds more than 1 records, but the index says 1"), (3, "holds 2 records, but .* says 3")],
)
def test_wrong_count_in_the_index_is_found(tmp_path: Path, count: int, message: str) -> None:
    out = write_shard(tmp_path, {"a.dinac": RECORD, "b.dinac": RECORD}, count)
    with pytest.raises(ArchiveError, match=rf"a\.tar: {message}; run dinac encode again$"):
        list(LatentShards(out))


def test_part_of_a_shard_is_read_no_further_than_needed(out: str) -> None:
    """The first shard is cut, but the first of 12 ranks needs only what is left."""
    path = Path(out, "000/00000.tar")
    path.write_bytes(path.read_bytes()[:4_000])
    assert list_keys(LatentShards(out, rank=0, world_size=12)) == make_keys()[:2]
    with pytest.raises(ArchiveError, match=r"00000\.tar: .*copy the file again"):
        list(LatentShards(out))


def test_missing_shard_is_named(out: str) -> None:
    Path(out, "001/00003.tar").unlink()
    with pytest.raises(InputError, match=r"00003\.tar: cannot read"):
        list(LatentShards(out))


def _damage(record: bytes) -> bytes:
    return record[:-8] + bytes(8)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"t/b.dinac": _damage(RECORD)}, r"a\.tar: t/b: "),
        ({"t/b.dinac": b""}, r"a\.tar: t/b: the record is cut short"),
        ({"../b.dinac": RECORD}, r"a\.tar: .*b\.dinac: its name "),
        ({"b.dinac": RECORD, "b.txt": b"\xff"}, r"a\.tar: b\.txt: not valid UTF-8 text"),
        ({"b.dinac": RECORD, "b.json": b"{"}, r"a\.tar: b\.json: not valid JSON"),
        ({"b.dinac": RECORD, "b.json": b"[" * 100_000}, r"a\.tar: b\.json: not valid JSON"),
        ({"b.dinac": RECORD, "b.txt": bytes(2**20 + 1)}, r"a\.tar: b\.txt: larger than 1048576"),
        (
            {"b.dinac": RECORD, "c.dinac": RECORD, "b.txt": b""},
            r"a\.tar: .*an earlier sample has the key b",
        ),
    ],
)
def test_damage_is_named_with_shard_and_key(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    out = write_shard(tmp_path, {"first.dinac": RECORD, **files})
    items = iter(LatentShards(out))
    assert next(items)["key"] == "first"
    with pytest.raises(DinacError, match=message) as caught:
        list(items)
    assert "\n" not in str(caught.value)


# Places that do not answer


class _Flaky(io.BytesIO):
    """A file whose reads fail with StorageError, after `good` reads."""

    def __init__(self, data: bytes, good: int) -> None:
        super().__init__(data)
        self.good = good

    def read(self, size: int | None = -1) -> bytes:
        self.good -= 1
        if self.good < 0:
            raise StorageError("the place does not answer")
        return super().read(size)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], list[float]]:
    """Makes opened shards fail after so many reads, one number per opening; lists the pauses."""

    def start(good: list[int]) -> list[float]:
        pauses: list[float] = []
        plain = LocalStore.open

        def open_flaky(self: LocalStore, name: str) -> Any:
            with plain(self, name) as file:
                data = file.read()
            return _Flaky(data, good.pop(0) if good and name != "index.json" else len(data))

        monkeypatch.setattr(LocalStore, "open", open_flaky)
        monkeypatch.setattr(store, "sleep", pauses.append)
        return pauses

    return start


def test_interrupted_shard_continues_at_the_same_item(
    out: str, interrupt: Callable[[list[int]], list[float]]
) -> None:
    pauses = interrupt([9, 0, 0, 12, 3])
    assert list_keys(LatentShards(out)) == make_keys()
    assert pauses == [1.0, 4.0, 16.0, 1.0, 4.0]


def test_place_that_never_answers_ends_the_iteration(
    out: str, interrupt: Callable[[list[int]], list[float]]
) -> None:
    pauses = interrupt([0] * 9)
    with pytest.raises(StorageError, match="does not answer"):
        list(LatentShards(out))
    assert pauses == [1.0, 4.0, 16.0]

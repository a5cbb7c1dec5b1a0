"""The images of a shard, and the files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import BinaryIO

from dinac_cli.container.names import escape_name, find_name_fault
from dinac_cli.images.formats import is_image_name
from dinac_cli.jobs.shards.captions import list_captioned
from dinac_cli.jobs.shards.shard import LooseFile, Shard, ShardKind
from dinac_cli.storage import parquet, tars
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.store import open_store, split_place
from dinac_cli.storage.urls import hide_secrets, is_url

DEFAULT_COLUMN = "image"
"""The column of a parquet file that holds the images, as the datasets library names it."""

_FOLDERS_KNOWN = 64  # a list may name images of several folders in turn


@dataclass(frozen=True, kw_only=True)
class SampleChoice:
    """Which parts of a sample are read.

    `keep` are the extensions of the files beside an image that are copied into OUT. `column` is the
    column of a parquet file that holds the images. If `anonymous` is set, keys are numbers.
    """

    keep: tuple[str, ...] = ()
    column: str = DEFAULT_COLUMN
    anonymous: bool = False


@dataclass(frozen=True)
class Sample(Input):
    """One image of a shard.

    `key` is the name of its record in OUT, without `.dinac`. `data` is the content of an image that
    came out of an archive, named `place`. `beside` maps the extensions of the files that are copied
    to their content; for a loose image, it is filled when the image is read. If `skips_decoded` is
    set, the image is skipped if dinac decoded it.
    """

    key: str = ""
    data: bytes | None = field(default=None, repr=False, compare=False)
    beside: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    place: str = ""
    skips_decoded: bool = False

    @property
    def label(self) -> str:
        return f"{hide_secrets(self.place)}: {self.name}" if self.path is None else super().label

    @property
    def held_bytes(self) -> int:
        return len(self.data or b"") + sum(map(len, self.beside.values()))


@dataclass
class Leftovers:
    """What a run did not copy: the number of images beside which something lay."""

    images: int = 0


def list_samples(shard: Shard, choice: SampleChoice, left: Leftovers) -> Iterator[Sample]:
    """Yields the images of a shard in their order.

    Raises ArchiveError, InputError or StorageError if the shard as a whole cannot be read. Nothing
    that was yielded before may then be used.
    """
    readers = {
        ShardKind.TAR: _list_tar,
        ShardKind.PARQUET: _list_parquet,
        ShardKind.LOOSE: _list_loose,
    }
    # Records have the longest extension, but for some that are kept.
    longest = max(("dinac", *choice.keep), key=len)
    for sample in readers[shard.kind](shard, choice, left):
        if sample.problem is None and (fault := find_name_fault(f"{sample.key}.{longest}")):
            yield replace(sample, problem=f"the name of its record {fault}; rename it")
        else:
            yield sample


def _list_loose(shard: Shard, choice: SampleChoice, left: Leftovers) -> Iterator[Sample]:
    list_known = lru_cache(_FOLDERS_KNOWN)(list_captioned)
    for number, file in enumerate(shard.files):
        if not choice.keep:
            left.images += _has_caption(file, list_known)
        key = _number_key(shard, number) if choice.anonymous else tars.make_key(file.name)
        skips = file.skips_decoded
        yield Sample(file.path, file.name, file.problem, key=key, skips_decoded=skips)


def _has_caption(file: LooseFile, list_folder: Callable[[str], frozenset[str]]) -> bool:
    if is_url(file.path):  # its folder is not listed again
        return file.has_caption
    folder, name = os.path.split(file.path)
    return os.path.splitext(name)[0] in list_folder(folder)


def _list_tar(shard: Shard, choice: SampleChoice, left: Leftovers) -> Iterator[Sample]:
    with open_archive(shard) as file:
        yield from list_tar(file, shard, choice, left)


def list_tar(
    file: BinaryIO, shard: Shard, choice: SampleChoice, left: Leftovers
) -> Iterator[Sample]:
    """Yields the images of an open tar; see `list_samples`. Calls nothing but `file.read`."""
    wanted = _WantedMembers(choice.keep, left)
    members = tars.read_members(file, wanted)
    for number, sample in enumerate(tars.group_samples(members)):
        key = _number_key(shard, number) if choice.anonymous else sample.key
        yield _choose_image(sample, key, shard.place, choice)


@dataclass
class _WantedMembers:
    """Accepts the names of images and of files to keep; counts the samples that lose others."""

    keep: tuple[str, ...]
    left: Leftovers
    counted: str | None = None

    def __call__(self, name: str) -> bool:
        parts = tars.split_key(name)
        if parts is None:
            return False
        if is_image_name(f"_.{parts[1]}") or parts[1] in self.keep:
            return True
        self.left.images += parts[0] != self.counted
        self.counted = parts[0]
        return False


def _choose_image(sample: tars.Sample, key: str, place: str, choice: SampleChoice) -> Sample:
    """Returns the image of a sample. If there are several, takes the one without a second dot."""
    images = [extension for extension in sample.names if is_image_name(f"_.{extension}")]
    plain = [extension for extension in images if "." not in extension] or images
    problem = sample.problem
    if not images:
        name, problem = key, problem or "no image in this sample"
    else:
        name = sample.names[plain[0]]
        if len(plain) > 1:
            found = ", ".join(plain)
            problem = problem or f"{len(plain)} images in one sample ({found}); keep one of them"
    beside = {each: sample.files[each] for each in choice.keep if each in sample.files}
    data = sample.files.get(plain[0]) if plain else None
    if data is None:
        problem = problem or "no image in this sample"
    problem = problem and problem.removeprefix(f"{name}: ")  # the label has the name, too
    return Sample(None, escape_name(name), problem, key=key, data=data, beside=beside, place=place)


def _list_parquet(shard: Shard, choice: SampleChoice, left: Leftovers) -> Iterator[Sample]:
    keeps = "json" in choice.keep
    stem = tars.make_key(os.path.basename(shard.name))
    with open_archive(shard) as file:
        rows = parquet.read_rows(file, choice.column, with_others=keeps)
        for row in rows:
            left.images += row.loses_others
            key = _number_key(shard, row.number) if choice.anonymous else f"{stem}_{row.number:08}"
            others = json.dumps(row.others, sort_keys=True).encode()
            beside = {"json": others} if row.others else {}
            yield Sample(
                None,
                key,
                row.problem,
                key=key,
                data=row.data,
                beside=beside,
                place=shard.place,
            )


def open_archive(shard: Shard) -> BinaryIO:
    """Opens a tar or a parquet file. Raises InputError, StorageError."""
    folder, name = split_place(shard.place)
    return open_store(folder).open(name)


def _number_key(shard: Shard, number: int) -> str:
    """Returns the key of an image that has no name."""
    return f"{tars.make_key(os.path.basename(shard.name))}_{number:08}"


def read_beside(
    path: str, keep: tuple[str, ...], read: Callable[[str], bytes | None]
) -> dict[str, bytes]:
    """Returns the files beside a loose image that are copied: `a.jpg` → `a.txt`."""
    stem = os.path.splitext(path)[0]
    found = {extension: read(f"{stem}.{extension}") for extension in keep}
    return {extension: data for extension, data in found.items() if data is not None}

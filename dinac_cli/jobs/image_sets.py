"""Sets of images that are not a folder of this machine: archives, remote folders, and their pairs.

An archive is read once, from its start to its end; any other set knows the names of its images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from dinac_cli.errors import InputError, StorageError, UsageError
from dinac_cli.images.formats import is_image_name
from dinac_cli.jobs.entries import drop_label
from dinac_cli.jobs.request import IMAGES
from dinac_cli.jobs.shards.expansion import expand_place, is_pattern
from dinac_cli.jobs.shards.partition import Archive
from dinac_cli.jobs.shards.sample import DEFAULT_COLUMN, Leftovers, SampleChoice, list_samples
from dinac_cli.jobs.shards.shard import ShardKind, find_kind
from dinac_cli.storage.content import read_content
from dinac_cli.storage.exclusion import NO_EXCLUSION, Exclusion
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.naming import NameSet
from dinac_cli.storage.store import is_hidden, open_folder, open_store, read_place, split_place
from dinac_cli.storage.urls import hide_secrets, is_url, join_url


@dataclass(frozen=True)
class Picture:
    """One image of a set: a file (`path`, which may be a URL), or the content of a file (`data`).

    `name` is relative to the set; `label` is the image's name in messages. If the image cannot be
    read, `problem` says why.
    """

    name: str
    label: str
    path: str = ""
    data: bytes | None = field(default=None, repr=False, compare=False)
    problem: str | None = None

    def read(self) -> bytes:
        """Returns the content. Raises InputError, StorageError."""
        if self.data is not None:
            return self.data
        return read_place(self.path) if is_url(self.path) else read_content(self.path).data


def is_archive(path: str) -> bool:
    """True for tars and parquet files, here or remote, and for patterns of them."""
    return find_kind(path) is not ShardKind.LOOSE and not os.path.isdir(path)


def needs_image_set(path: str) -> bool:
    """True for what is not a folder or an image of this machine."""
    return is_url(path) or is_archive(path)


def is_image_url(path: str) -> bool:
    """True for the URL of one image."""
    return is_url(path) and is_image_name(split_place(path)[1])


@dataclass
class ArchiveSet:
    """The images in tars and parquet files. After `list`, `failed` is true if one was damaged."""

    path: str
    exclusion: Exclusion = NO_EXCLUSION
    column: str = DEFAULT_COLUMN
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raises UsageError if there is no such file."""
        self._places = list(expand_place(self.path, {}))
        for place in self._places if len(self._places) == 1 else ():
            folder, name = split_place(place)
            if open_folder(folder).stat(name) is None:
                raise UsageError(f"{hide_secrets(place)}: no such file; check its name")

    @property
    def label(self) -> str:
        """The name of the set in messages."""
        return hide_secrets(self.path)

    def list(self) -> Iterator[Picture]:
        """Yields the images. An archive that fails is a picture with a problem.

        Raises UsageError if a file cannot be read in this way.
        """
        for place in self._places:
            shard = Archive(place).make_shard("")
            choice = SampleChoice(column=self.column)
            try:
                for sample in list_samples(shard, choice, Leftovers()):
                    if not self.exclusion.excludes_any(sample.name, is_folder=False):
                        name, problem = sample.name, sample.problem
                        label = f"{shard.label}: {name}"
                        yield Picture(name, label, data=sample.data, problem=problem)
            except UsageError as exc:  # such as a column that does not exist
                raise UsageError(f"{shard.label}: {drop_label(exc, shard.label)}") from exc
            except (InputError, StorageError) as exc:
                self.failed = True
                yield Picture("", shard.label, problem=str(drop_label(exc, shard.label)))


@dataclass
class NamedSet:
    """The images of a folder, here or remote. `skipped` is a folder in it that is not searched."""

    path: str
    exclusion: Exclusion = NO_EXCLUSION
    skipped: str | None = None

    @property
    def label(self) -> str:
        """The name of the set in messages."""
        return hide_secrets(self.path)

    def list(self) -> Iterator[Picture]:
        """Yields the images, sorted by name. Raises InputError, StorageError."""
        if is_url(self.path):
            yield from self._list_remote()
            return
        scan = InputScan(
            IMAGES, (self.path,), skipped_folder=self.skipped, exclusion=self.exclusion
        )
        for entry in scan:
            yield Picture(entry.name, entry.label, entry.path or "", problem=entry.problem)

    def list_names(self) -> NameSet:
        """Returns the names of the images."""
        names = NameSet()
        for picture in self.list():
            if picture.problem is None:
                names.add(picture.name)
        return names

    def locate(self, name: str) -> Picture:
        """Returns an image by its name."""
        if is_url(self.path):
            path = join_url(self.path, name)
        else:
            path = os.path.join(self.path, *name.split("/"))
        return Picture(name, hide_secrets(path), path)

    def _list_remote(self) -> Iterator[Picture]:
        for stat in open_store(self.path).list():
            is_left_out = self.exclusion.excludes_any(stat.name, is_folder=False)
            if is_image_name(stat.name) and not (is_left_out or is_hidden(stat.name)):
                yield self.locate(stat.name)


def open_image_set(
    path: str, other: str, exclusion: Exclusion, column: str
) -> ArchiveSet | NamedSet:
    """Opens a set of images. `other` is the other set of the pairs. Raises UsageError."""
    if is_archive(path):
        return ArchiveSet(path, exclusion, column)
    if is_url(path) and is_pattern(path):
        raise UsageError(f"{hide_secrets(path)}: name a folder here, not a pattern")
    if not is_url(path) and not os.path.exists(path):
        raise UsageError(f"{path}: no such file or folder; check the path")
    if not is_url(path) and not os.path.isdir(path):
        raise UsageError(f"{path}: name a folder of images, or an archive of them")
    return NamedSet(path, exclusion, None if is_url(path) or is_url(other) else other)

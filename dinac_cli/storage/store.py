"""One interface to the places that dinac reads and writes: local folders and fsspec URLs.

A store knows files by their names: relative paths with `/`. A file is complete or absent: no
method leaves a part of a file under its final name.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import islice
from time import sleep
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from dinac_cli.errors import StorageError
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.urls import is_url, require_writable, split_url

PAUSE_SECONDS = (1.0, 4.0, 16.0)
"""The pauses before a file is opened again, if its place does not answer."""

T = TypeVar("T")


class Stat(NamedTuple):
    """What a listing knows of a file.

    `name` is relative to the store. `version` is a text that changes when the content changes: an
    ETag or another hash if the place keeps one, else the time of the last change; empty if the
    place tells neither.
    """

    name: str
    size_bytes: int
    version: str


class Spool(Protocol):
    """The content of a file that is being written. Without `commit`, nothing remains of it."""

    def write(self, data: bytes) -> object:
        """Appends to the content. Raises OutputError."""

    def commit(self) -> None:
        """Gives the content its name, and replaces a file of that name.

        Raises StorageError if the place does not answer, OutputError for any other failure.
        """


class Store(ABC):
    """A folder of this machine, or a prefix of a remote place. `place` is its path or URL.

    Reading raises InputError, writing OutputError; either raises StorageError if the place does
    not answer, although its client has tried again. Several threads may use a store.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """True if the place is reached over a network."""

    @abstractmethod
    def locate(self, name: str) -> str:
        """Returns the path or URL of a file for messages and markers, without secrets.

        Another process opens the file with `place` and its name.
        """

    @abstractmethod
    def list(
        self,
        folder: str = "",
        *,
        recursive: bool = True,
        skip: Callable[[str], object] | None = None,
    ) -> Iterator[Stat]:
        """Yields every file below a folder, sorted by name. Hidden files are files.

        If `recursive` is false, yields only the files directly in the folder. Yields nothing if the
        folder does not exist. The memory depends on the largest folder only. Calls `skip` with the
        name of each object whose name cannot be a path, such as `a//b`.
        """

    @abstractmethod
    def stat(self, name: str) -> Stat | None:
        """Returns what is known of a file; None if it does not exist."""

    @abstractmethod
    def read(self, name: str, most_bytes: int = MAX_INPUT_BYTES) -> bytes:
        """Returns the content of a file of at most `most_bytes`."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Opens a file, best to be read from its start to its end. Close it.

        Reading raises InputError if the file changes meanwhile, as far as the place shows it.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes one whole file; replaces a file of that name."""

    @abstractmethod
    def spool(self, name: str) -> AbstractContextManager[Spool]:
        """Starts the content of a file; see `Spool`."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""

    def sweep(self, folder: str) -> None:
        """Removes what killed runs left in a folder, if their writes leave anything there."""
        return

    @abstractmethod
    def lock(self, refusal: str) -> AbstractContextManager[bool]:
        """Keeps other runs out of the place; see `lock.hold_folder`. Yields False if it cannot."""


def open_store(place: str, *, for_writing: bool = False) -> Store:
    """Opens a place. Raises UsageError if it cannot be opened, or cannot be written."""
    if not is_url(place):
        from dinac_cli.storage.local import LocalStore

        return LocalStore(place)
    if for_writing:
        require_writable(place)
    from dinac_cli.storage.remote import RemoteStore

    return RemoteStore(place)


def split_place(path: str) -> tuple[str, str]:
    """Returns the store of a file and its name there: `s3://b/a/x.tar` → (`s3://b/a`, `x.tar`)."""
    if not is_url(path):
        return os.path.split(path)
    return split_url(path)


def read_place(path: str) -> bytes:
    """Returns the content of a file by its path or URL. Raises InputError, StorageError."""
    folder, name = split_place(path)
    return open_folder(folder).read(name)


@lru_cache(maxsize=256)
def open_folder(folder: str) -> Store:
    """Returns what `open_store` returns, and keeps it for the files that follow."""
    return open_store(folder)


def read_again(read: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Yields what `read` yields. If the place does not answer, reads again, after the last item.

    Raises StorageError if it has not answered after all `PAUSE_SECONDS`.
    """
    done, pauses = 0, iter(PAUSE_SECONDS)
    while True:
        try:
            for item in islice(read(), done, None):
                yield item
                done, pauses = done + 1, iter(PAUSE_SECONDS)
            return
        except StorageError:
            pause = next(pauses, None)
            if pause is None:
                raise
            sleep(pause)


def is_hidden(name: str) -> bool:
    """True if a part of a name begins with a dot. `..` is no hidden file, but a bad name."""
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


def is_usable_name(name: str) -> bool:
    """True if the name of an object can be a relative path: no part is empty, `.` or `..`."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))

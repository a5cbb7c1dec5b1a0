"""A folder of this machine as a store."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO

from dinac_cli.errors import InputError, describe_read_error
from dinac_cli.storage.atomic import (
    TEMPORARY_PREFIX,
    Rewrite,
    describe_write_error,
    remove_dead_temporaries,
    start_file,
)
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.lock import hold_folder
from dinac_cli.storage.output import require_inside
from dinac_cli.storage.store import Stat, Store

READ_BUFFER_BYTES = 2**18
"""How many bytes of an open file are read at a time."""


class LocalStore(Store):
    """A folder. It need not exist before the first file is written.

    Nothing is written outside the folder, not even through a symbolic link in it. With `fsync`, a
    file is on the disk when it has its name.
    """

    def __init__(self, place: str, *, fsync: bool = False) -> None:
        super().__init__(place)
        self._fsync = fsync
        self._ready: set[str] = set()

    @property
    def is_remote(self) -> bool:
        return False

    def locate(self, name: str) -> str:
        # The name is appended as text: on Windows, `join` would read a drive in `1:30.png`.
        return os.path.join(self.place, "") + (name if os.sep == "/" else name.replace("/", os.sep))

    def list(
        self,
        folder: str = "",
        *,
        recursive: bool = True,
        skip: Callable[[str], object] | None = None,
    ) -> Iterator[Stat]:
        return self._list_folder(folder, frozenset() if recursive else None)

    def _list_folder(self, folder: str, above: frozenset[tuple[int, int]] | None) -> Iterator[Stat]:
        """Yields the files below a folder. `above` are the folders that contain it.

        If `above` is None, skips the folders in the folder.
        """
        path = (self.locate(folder) if folder else self.place) or "."
        try:
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            if above and identity in above:  # a link to a folder that contains it
                return
            with os.scandir(path) as listing:
                # As in a list of whole names, in which a slash follows the name of a folder.
                entries = sorted((entry.name + "/" * _is_folder(entry), entry) for entry in listing)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise InputError(f"{path}: {describe_read_error(exc)}") from exc
        prefix = f"{folder}/" if folder else ""
        for name, entry in entries:
            if name.endswith("/"):
                if above is not None:
                    yield from self._list_folder(prefix + name[:-1], above | {identity})
            elif not name.startswith(TEMPORARY_PREFIX):  # of a run that is writing, or was killed
                with suppress(OSError):  # the file is gone, or the link is broken
                    yield _describe(prefix + name, entry.stat())

    def stat(self, name: str) -> Stat | None:
        try:
            return _describe(name, os.stat(self.locate(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise InputError(f"{self.locate(name)}: {describe_read_error(exc)}") from exc

    def read(self, name: str, most_bytes: int = MAX_INPUT_BYTES) -> bytes:
        with self.open(name) as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise InputError(f"{self.locate(name)}: larger than {most_bytes} bytes")
        return data

    def open(self, name: str) -> BinaryIO:
        path = self.locate(name)
        try:
            return io.BufferedReader(_LocalFile(path), READ_BUFFER_BYTES)
        except OSError as exc:
            raise InputError(f"{path}: {describe_read_error(exc)}") from exc

    def write(self, name: str, data: bytes) -> None:
        with self.spool(name) as spool:
            spool.write(data)
            spool.commit()

    @contextmanager
    def spool(self, name: str) -> Iterator[_LocalSpool]:
        target = self.locate(name)
        self._prepare(os.path.dirname(target) or ".")
        with start_file(target, target) as rewrite:
            yield _LocalSpool(rewrite, fsync=self._fsync)

    def _prepare(self, folder: str) -> None:
        """Makes a folder, and removes temporary files that killed runs left there."""
        if folder in self._ready:
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise describe_write_error(exc, folder) from exc
        require_inside(folder, self.place)
        remove_dead_temporaries(folder)
        if len(self._ready) > 4096:  # limits the memory; a folder may be prepared twice
            self._ready.clear()
        self._ready.add(folder)

    def remove(self, name: str) -> None:
        target = self.locate(name)
        require_inside(os.path.dirname(target) or ".", self.place)
        try:
            os.unlink(target)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise describe_write_error(exc, target) from exc

    def sweep(self, folder: str) -> None:
        remove_dead_temporaries((self.locate(folder) if folder else self.place) or ".")

    def lock(self, refusal: str) -> AbstractContextManager[bool]:
        return hold_folder(self.place, refusal)


class _LocalFile(io.FileIO):
    """An open file whose errors are InputErrors."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer) or 0
        except OSError as exc:
            raise InputError(f"{self.name}: {describe_read_error(exc)}") from exc

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as exc:
            raise InputError(f"{self.name}: {describe_read_error(exc)}") from exc


class _LocalSpool:
    def __init__(self, rewrite: Rewrite, *, fsync: bool) -> None:
        self._rewrite = rewrite
        self._fsync = fsync

    def write(self, data: bytes) -> None:
        self._rewrite.write(data)

    def commit(self) -> None:
        self._rewrite.publish(fsync=self._fsync)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _describe(name: str, status: os.stat_result) -> Stat:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Stat(name, size, f"mtime-{status.st_mtime_ns}")

"""A remote place, such as a prefix of a bucket, as a store. fsspec does the work."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar, cast

from dinac_cli.errors import (
    DinacError,
    InputError,
    OutputError,
    StorageError,
    quote_error,
)
from dinac_cli.storage.atomic import describe_write_error
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.store import Stat, Store
from dinac_cli.storage.urls import hide_secrets, open_url

READ_BLOCK_BYTES = 8 * 2**20
"""How much of a file is fetched at a time, while it is read from its start to its end."""

_VERSIONS = ("ETag", "etag", "md5Hash", "md5", "sha256", "blob_id", "generation", "checksum")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")

_DENIED = "access is denied; check the credentials in the environment"

T = TypeVar("T")


class RemoteStore(Store):
    """A prefix of an fsspec file system, which is opened at the first use in each process."""

    def __init__(self, place: str) -> None:
        super().__init__(place.rstrip("/"))
        self._opened: tuple[int, Any, str] | None = None
        _ = self._system

    def __getstate__(self) -> dict[str, object]:
        """A pickled store is not open: another process opens its own."""
        return {"place": self.place, "_opened": None}

    @property
    def _system(self) -> Any:
        return self._open()[0]

    @property
    def _root(self) -> str:
        return self._open()[1]

    def _open(self) -> tuple[Any, str]:
        # The clients are not safe to use after a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *open_url(self.place))
        return self._opened[1:]

    @property
    def is_remote(self) -> bool:
        return True

    def locate(self, name: str) -> str:
        return f"{hide_secrets(self.place)}/{name}" if name else hide_secrets(self.place)

    def _path(self, name: str) -> str:
        root = self._root.rstrip("/")
        return f"{root}/{name}" if name else root

    def list(self, folder: str = "") -> Iterator[Stat]:
        path = self._path(folder)
        try:
            found = self._look(folder, lambda: self._system.ls(path, detail=True))
        except _MissingError:
            return
        prefix = f"{folder}/" if folder else ""
        for name, facts in sorted(_name_entries(path, found), key=lambda entry: entry[0]):
            if facts["type"] == "directory":
                yield from self.list(prefix + name)
            else:
                yield _describe(prefix + name, facts)

    def stat(self, name: str) -> Stat | None:
        try:
            facts = self._look(name, lambda: self._system.info(self._path(name)))
        except _MissingError:
            return None
        return None if facts["type"] == "directory" else _describe(name, facts)

    def read(self, name: str, most_bytes: int = MAX_INPUT_BYTES) -> bytes:
        path = self._path(name)
        data: bytes = self.require(name, lambda: self._system.cat_file(path, end=most_bytes + 1))
        if len(data) > most_bytes:
            raise InputError(f"{self.locate(name)}: larger than {most_bytes} bytes")
        return data

    def open(self, name: str) -> BinaryIO:
        file: BinaryIO = self.require(
            name,
            lambda: self._system.open(
                self._path(name), "rb", block_size=READ_BLOCK_BYTES, cache_type="readahead"
            ),
        )
        return cast(BinaryIO, _RemoteFile(self, name, file))

    def write(self, name: str, data: bytes) -> None:
        self._change(name, lambda: self._system.pipe_file(self._path(name), data))

    @contextmanager
    def spool(self, name: str) -> Iterator[_RemoteSpool]:
        # Not streamed: if an error ends a streamed upload, most clients commit what they have.
        try:
            descriptor, path = tempfile.mkstemp(prefix="dinac-", suffix=".part")
        except OSError as exc:
            raise describe_write_error(exc, tempfile.gettempdir()) from exc
        try:
            with open(descriptor, "wb") as file:
                yield _RemoteSpool(self, name, file, path)
        finally:
            with suppress(OSError):
                os.unlink(path)

    def put(self, path: str, name: str) -> None:
        """Uploads a file of this machine. The object appears when all of it has arrived."""
        self._change(name, lambda: self._system.put_file(path, self._path(name)))

    def remove(self, name: str) -> None:
        with suppress(_MissingError):
            self._ask(name, lambda: self._system.rm_file(self._path(name)))

    @contextmanager
    def lock(self, refusal: str) -> Iterator[bool]:
        yield False

    def _change(self, name: str, work: Callable[[], object]) -> None:
        """Runs `work`, which writes. Raises OutputError, StorageError."""
        try:
            self._ask(name, work)
        except _MissingError as exc:
            problem = "the place does not exist; create it, or name another OUT"
            raise OutputError(f"{self.locate(name)}: {problem}") from exc
        except _DeniedError as exc:
            raise OutputError(f"{self.locate(name)}: {_DENIED}", exc.details) from exc

    def require(self, name: str, work: Callable[[], T]) -> T:
        """Runs `work`, which reads. Raises InputError, StorageError."""
        try:
            return self._look(name, work)
        except _MissingError as exc:
            raise InputError(f"{self.locate(name)}: no such file; check the URL") from exc

    def _look(self, name: str, work: Callable[[], T]) -> T:
        """Runs `work`, which reads. Raises _MissingError, InputError, StorageError."""
        try:
            return self._ask(name, work)
        except _DeniedError as exc:
            raise InputError(f"{self.locate(name)}: {_DENIED}", exc.details) from exc

    def _ask(self, name: str, work: Callable[[], T]) -> T:
        """Runs `work`, and turns the client's errors into dinac's."""
        try:
            return work()
        except DinacError:
            raise
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise _MissingError from exc
        except PermissionError as exc:
            raise _DeniedError("", [quote_error(exc)]) from exc
        except Exception as exc:
            problem = "the place does not answer; run the same command again later"
            raise StorageError(f"{self.locate(name)}: {problem}", [quote_error(exc)]) from exc


class _MissingError(DinacError):
    """A file, a bucket or a folder does not exist."""


class _DeniedError(DinacError):
    """The credentials do not allow this."""


class _RemoteSpool:
    def __init__(self, store: RemoteStore, name: str, file: BinaryIO, path: str) -> None:
        self._store = store
        self._name = name
        self._file = file
        self._path = path

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as exc:
            raise describe_write_error(exc, tempfile.gettempdir()) from exc

    def commit(self) -> None:
        try:
            self._file.close()
        except OSError as exc:
            raise describe_write_error(exc, tempfile.gettempdir()) from exc
        self._store.put(self._path, self._name)


class _RemoteFile(io.RawIOBase):
    """An open remote file, whose errors are dinac's."""

    def __init__(self, store: RemoteStore, name: str, file: BinaryIO) -> None:
        self._store = store
        self._name = name
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._store.require(self._name, lambda: self._file.read(size))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _name_entries(path: str, found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the entries of a folder by their names in it, without the folder's own marker."""
    start = path.strip("/") + "/"
    for facts in found:
        name = facts["name"].strip("/")
        if name.startswith(start) and (base := name[len(start) :]):
            yield base, facts


def _describe(name: str, facts: Mapping[str, Any]) -> Stat:
    """Returns the size and the version of an object: the first fact that tells its state."""
    for key in (*_VERSIONS, *_TIMES):
        if facts.get(key):
            return Stat(
                name, facts.get("size") or 0, f"{key.lower()}-{facts[key]}".replace('"', "")
            )
    return Stat(name, facts.get("size") or 0, "")

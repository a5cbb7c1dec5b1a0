"""A remote place, such as a prefix of a bucket, as a store. fsspec does the work."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, TypeVar, cast

from dinac_cli.errors import (
    DinacError,
    InputError,
    OutputError,
    UnwritableDiskError,
    quote_error,
)
from dinac_cli.storage.atomic import Rewrite, remove_dead_temporaries, start_file
from dinac_cli.storage.client_errors import Trouble, describe_trouble, find_trouble, is_past_the_end
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.remote_file import (
    ChangedError,
    RangeSource,
    RemoteFile,
    Source,
    WebSource,
)
from dinac_cli.storage.store import Stat, Store, is_usable_name
from dinac_cli.storage.urls import (
    WEB,
    find_scheme,
    hide_secrets,
    join_url,
    open_url,
    require_writable,
)

TRIES = 3
"""How many times a request is made if the place does not answer its client's own retries either."""

PATIENCE_SECONDS = 30.0
"""A request that took longer is not repeated."""

PAUSE_SECONDS = 0.5
"""The pause after the first try; it grows with each."""

UPLOAD_SECONDS = 60
LEAST_UPLOAD_RATE = 20_000
"""An upload may take so many seconds, and one more for each so many bytes."""

UPLOAD_PART_BYTES = 32 * 2**20
"""The parts of an upload to S3; a file of less than two parts is one request."""

PARTS_AT_ONCE = 4
"""How many parts of one upload are in memory."""

_MOST_PARTS = 10_000
_S3 = frozenset({"s3", "s3a"})

# The hash of the content first, if a place has several: other facts change without the content.
_VERSIONS = (
    *("md5hash", "md5", "sha256", "blob_id", "xet_hash", "checksum"),
    *("generation", "etag", "contentmd5", "digest"),
)
_TIMES = ("lastmodified", "last_modified", "mtime", "modified", "updated", "created")

T = TypeVar("T")


class RemoteStore(Store):
    """A prefix of an fsspec file system, which is opened at the first use in each process."""

    def __init__(self, place: str) -> None:
        scheme = find_scheme(place)
        super().__init__(place if scheme in WEB else _strip_slashes(place))
        self._scheme = scheme
        self._opened: tuple[int, Any, str] | None = None
        self._open()

    def __getstate__(self) -> dict[str, object]:
        """A pickled store is not open: another process opens its own."""
        return {"place": self.place, "_scheme": self._scheme, "_opened": None}

    @property
    def _system(self) -> Any:
        return self._open()[0]

    def _open(self) -> tuple[Any, str]:
        # The clients are not safe to use after a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *open_url(self.place))
        return self._opened[1:]

    @property
    def is_remote(self) -> bool:
        return True

    def locate(self, name: str) -> str:
        return hide_secrets(join_url(self.place, name))

    def _path(self, name: str) -> str:
        if self._scheme in WEB:
            return join_url(self.place, name)
        root = self._open()[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def list(
        self,
        folder: str = "",
        *,
        recursive: bool = True,
        skip: Callable[[str], object] | None = None,
    ) -> Iterator[Stat]:
        if self._scheme in WEB:
            problem = "a web server does not list its files; name them, such as {000..099}.tar"
            raise InputError(f"{self.locate(folder)}: {problem}")
        skip = skip or _ignore
        if self._scheme in _S3:
            return self._list_bucket(folder, recursive, skip)
        return self._list_folder(folder, recursive, skip)

    def _list_folder(
        self, folder: str, recursive: bool, skip: Callable[[str], object]
    ) -> Iterator[Stat]:
        path = self._path(folder)

        def look() -> list[dict[str, Any]]:
            self._system.invalidate_cache()
            return cast(list[dict[str, Any]], self._system.ls(path, detail=True))

        try:
            found = self._ask(folder, look)
        except _MissingError:
            return
        prefix = f"{folder}/" if folder else ""
        for base, facts in sorted(_name_entries(path, found), key=lambda entry: entry[0]):
            name, slash, _ = base.partition("/")
            if not is_usable_name(name):
                skip(prefix + base)
            elif slash and recursive:
                yield from self._list_folder(prefix + name, recursive, skip)
            elif slash:
                continue
            else:
                yield _describe(prefix + name, facts)

    def _list_bucket(
        self, folder: str, recursive: bool, skip: Callable[[str], object]
    ) -> Iterator[Stat]:
        """Lists S3 by pages of 1,000 objects: for many small folders, this takes fewer requests."""
        bucket, _, root = self._path(folder).partition("/")
        start = f"{root}/" if root else ""
        delimiter = {} if recursive else {"Delimiter": "/"}
        for facts in self._list_pages(folder, {"Bucket": bucket, "Prefix": start, **delimiter}):
            name = facts["Key"][len(start) :]
            if facts["Key"].endswith("/") and not facts["Size"]:
                continue  # a marker for a folder, as consoles make them
            full = f"{folder}/{name}" if folder else name
            if is_usable_name(name):
                yield _describe(full, {**facts, "size": facts["Size"]})
            else:
                skip(full)

    def _list_pages(self, folder: str, arguments: dict[str, str]) -> Iterator[dict[str, Any]]:
        while True:
            page = self._ask(folder, lambda: self._system.call_s3("list_objects_v2", **arguments))
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, name: str) -> Stat | None:
        def look() -> dict[str, Any]:
            self._system.invalidate_cache()
            return cast(dict[str, Any], self._system.info(self._path(name)))

        try:
            facts = self._ask(name, look)
        except _MissingError:
            return None
        return None if facts["type"] == "directory" else _describe(name, facts)

    def read(self, name: str, most_bytes: int = MAX_INPUT_BYTES) -> bytes:
        if self._scheme in WEB:  # a server may send all of a file, whatever the range
            with self.open(name) as file:
                data = file.read(most_bytes + 1)
        else:
            data = self._require(name, lambda: self._read_range(name, most_bytes + 1))
        if len(data) > most_bytes:
            raise InputError(f"{self.locate(name)}: larger than {most_bytes} bytes")
        return data

    def _read_range(self, name: str, size: int) -> bytes:
        try:
            return cast(bytes, self._system.cat_file(self._path(name), start=0, end=size))
        except Exception as exc:
            if is_past_the_end(exc):  # the file is empty
                return b""
            raise

    def open(self, name: str) -> BinaryIO:
        source = self._require(name, lambda: self._open_source(name))
        file = RemoteFile(source, lambda work: self._require(name, work))
        return cast(BinaryIO, io.BufferedReader(file, 2**16))

    def _open_source(self, name: str) -> Source:
        path = self._path(name)
        if self._scheme in WEB:
            return WebSource(self._system, path)
        return RangeSource(self._system, path, _find_version)

    def write(self, name: str, data: bytes) -> None:
        self._require_writable(name)
        # Only the client of S3 takes a limit here.
        limit = {"timeout": _limit_upload(len(data))} if self._scheme in _S3 else {}
        path = self._path(name)
        self._ask(name, lambda: self._system.pipe_file(path, data, **limit), writing=True)

    @contextmanager
    def spool(self, name: str) -> Iterator[_RemoteSpool]:
        # Not streamed: if an error ends a streamed upload, most clients commit what they have.
        self._require_writable(name)
        folder = _find_temporary_folder()
        remove_dead_temporaries(folder)
        what = f"the temporary folder {folder} (TMPDIR)"
        with start_file(os.path.join(folder, "upload"), what, mode=0o600) as content:
            yield _RemoteSpool(self, name, content)

    def put(self, path: str, name: str) -> None:
        """Uploads a file of this machine. The object appears when all of it has arrived."""
        self._require_writable(name)
        self._ask(name, lambda: self._upload(path, self._path(name)), writing=True)

    def _upload(self, path: str, target: str) -> None:
        if self._scheme == "memory":  # there, `put_file` shows a file before it is complete
            with open(path, "rb") as file:
                self._system.pipe_file(target, file.read())
        elif self._scheme in _S3:  # otherwise, ten parts of 50 MiB are in memory
            part = max(UPLOAD_PART_BYTES, -(-os.path.getsize(path) // _MOST_PARTS))
            limit = _limit_upload(os.path.getsize(path))
            self._system.put_file(
                path, target, chunksize=part, max_concurrency=PARTS_AT_ONCE, timeout=limit
            )
        else:
            self._system.put_file(path, target)

    def remove(self, name: str) -> None:
        self._require_writable(name)
        try:
            self._ask(name, lambda: self._system.rm_file(self._path(name)), writing=True)
        except _MissingError:
            return

    def _require_writable(self, name: str) -> None:
        """Raises UsageError if the place is only read, OutputError if `name` cannot be a path."""
        require_writable(self.place)
        if not is_usable_name(name):
            raise OutputError(f"{self.locate(name)}: has an empty part, '.' or '..'; rename it")

    @contextmanager
    def lock(self, refusal: str) -> Iterator[bool]:
        yield False

    def _require(self, name: str, work: Callable[[], T]) -> T:
        """Runs `work`, which needs the file. Raises InputError, StorageError."""
        try:
            return self._ask(name, work)
        except _MissingError as exc:
            raise InputError(str(exc), exc.details) from exc.__cause__

    def _ask(self, name: str, work: Callable[[], T], *, writing: bool = False) -> T:
        """Runs `work`, again if the place does not answer, and turns the client's errors into ours.

        Raises _MissingError if the file does not exist; StorageError if the place does not answer;
        InputError, or OutputError for `writing`, for any other failure.
        """
        start = time.monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                return work()
            except DinacError:
                raise
            except Exception as exc:
                trouble = Trouble.CHANGED if isinstance(exc, ChangedError) else find_trouble(exc)
                is_late = time.monotonic() - start > PATIENCE_SECONDS
                if trouble is Trouble.BUSY and attempt < TRIES and not is_late:
                    time.sleep(PAUSE_SECONDS * attempt)
                    continue
                error = describe_trouble(trouble, self.locate(name), exc, writing=writing)
                if trouble is Trouble.MISSING:
                    error = _MissingError(str(error), error.details)
                raise error from exc
        raise AssertionError("the last attempt returns or raises")


def _limit_upload(size_bytes: int) -> int:
    """Returns how long an upload may take, in seconds.

    The client of S3 limits each wait for the server, but sometimes starts no clock for a small
    body: then it would wait for a silent server for ever.
    """
    return UPLOAD_SECONDS + size_bytes // LEAST_UPLOAD_RATE


class _MissingError(OutputError):
    """A file or a folder does not exist. Only while a file is written, a caller sees this error."""


class _RemoteSpool:
    def __init__(self, store: RemoteStore, name: str, content: Rewrite) -> None:
        self._store, self._name, self._content = store, name, content

    def write(self, data: bytes) -> None:
        self._content.write(data)

    def commit(self) -> None:
        self._store.put(self._content.complete(), self._name)


def _find_temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError as exc:
        problem = "no folder for temporary files is writable; set TMPDIR to one"
        raise UnwritableDiskError(problem, [quote_error(exc)]) from exc


def _ignore(name: str) -> None:
    """Skips an object silently."""


def _strip_slashes(place: str) -> str:
    start, mark, rest = place.partition("://")
    return start + mark + rest.rstrip("/")


def _name_entries(path: str, found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the entries of a folder by their names in it; a folder's name ends with a slash."""
    start = path.strip("/") + "/"
    for facts in found:
        name = facts["name"].lstrip("/")
        if facts["type"] == "directory":
            name = name.rstrip("/") + "/"
        if name.startswith(start) and name != start:
            yield name[len(start) :], facts
        elif start == "/":
            yield name, facts


def _describe(name: str, facts: Mapping[str, Any]) -> Stat:
    return Stat(name, facts.get("size") or 0, _find_version(facts))


def _find_version(facts: Mapping[str, Any]) -> str:
    """Returns the first fact that shows whether an object changed; empty if there is none."""
    known = {key.lower().replace("-", ""): value for key, value in facts.items()}
    for key in (*_VERSIONS, *_TIMES):
        value = known.get(key)
        if isinstance(value, datetime):
            value = value.timestamp()
        if value:
            return f"{key}-{value}".replace('"', "")
    return ""

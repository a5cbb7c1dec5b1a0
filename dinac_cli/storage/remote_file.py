"""A remote file that is read mostly from its start to its end, with the next block on its way."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

READ_BLOCK_BYTES = 8 * 2**20
"""How much of a file is fetched at a time. An open file holds two blocks."""


class ChangedError(Exception):
    """Two parts of a file come from two versions of it."""


class Source(Protocol):
    """The bytes of a remote file. One thread at a time uses a source; errors are the client's."""

    size: int | None

    def fetch(self, position: int, size: int) -> bytes:
        """Returns `size` bytes, fewer at the end of the file. May be repeated after an error."""

    def verify(self) -> None:
        """Raises ChangedError if the file changed since it was opened."""

    def close(self) -> None:
        """Drops the connection."""


class RemoteFile(io.RawIOBase):
    """Reads from `source`. `ask` runs each request: it repeats the request, and names errors."""

    def __init__(self, source: Source, ask: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._source = source
        self._ask = ask
        self._position = 0
        self._block, self._start = b"", 0
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._source.size is None:
            raise io.UnsupportedOperation("the server does not tell the size of this file")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size or 0}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        offset = self._position - self._start
        if not 0 <= offset < len(self._block):
            self._load()
            offset = 0
        data = memoryview(self._block)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _load(self) -> None:
        """Makes the block at the position the current one, and requests the block after it."""
        is_next = self._position == self._start + len(self._block)
        self._block, self._start = self._take_ahead(), self._position
        if not self._block:
            self._ask(self._verify)
        elif is_next and len(self._block) == READ_BLOCK_BYTES:
            after = self._start + len(self._block)
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="dinac-read")
            # The thread does not refer to this file: one that is dropped unclosed is closed there.
            self._ahead = after, self._thread.submit(_fetch, self._source, self._ask, after)

    def _take_ahead(self) -> bytes:
        """Returns the block at the position. One that was fetched for another place is dropped."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == self._position:
            return ahead[1].result()
        if ahead is not None and not ahead[1].cancel():
            ahead[1].exception()  # the source serves one thread at a time
        return _fetch(self._source, self._ask, self._position)

    def _verify(self) -> bytes:
        self._source.verify()
        return b""

    def close(self) -> None:
        if not self.closed:
            if self._thread is not None:
                self._thread.shutdown(wait=True, cancel_futures=True)
            self._source.close()
        super().close()


def _fetch(source: Source, ask: Callable[[Callable[[], bytes]], bytes], position: int) -> bytes:
    return ask(lambda: source.fetch(position, READ_BLOCK_BYTES))


class RangeSource:
    """A file of a file system that reads any part of a file, such as S3.

    `find_version` returns the version of a file from the facts that the file system knows of it.
    """

    def __init__(
        self, system: Any, path: str, find_version: Callable[[Mapping[str, Any]], str]
    ) -> None:
        self._system, self._path, self._find_version = system, path, find_version
        file = system.open(path, "rb", block_size=READ_BLOCK_BYTES, cache_type="none")
        facts = getattr(file, "details", None) or system.info(path)
        if isinstance(file, io.BytesIO):  # in memory, all readers of a file get one object
            file = io.BytesIO(file.getvalue())
        self._file = file
        self._version = find_version(facts)
        self.size: int | None = facts.get("size")

    def fetch(self, position: int, size: int) -> bytes:
        if self.size is not None:
            size = min(size, self.size - position)
        if size <= 0:
            return b""
        self._file.seek(position)
        data: bytes = self._file.read(size)
        if self.size is not None and len(data) != size:
            raise ConnectionError(f"got {len(data)} of {size} bytes")
        return data

    def verify(self) -> None:
        if getattr(self._file, "read_kw", {}).get("IfMatch"):  # each request to S3 said so
            return
        self._system.invalidate_cache()
        if self._find_version(self._system.info(self._path)) != self._version:
            raise ChangedError

    def close(self) -> None:
        self._file.close()


class WebSource:
    """A file of a web server, which may know no ranges: one answer is read as it arrives."""

    def __init__(self, system: Any, url: str) -> None:
        self._system, self._url = system, url
        self._answer: Any = None
        self._position = 0
        self._version: str | None = None
        self.size: int | None = None
        self._connect(0)

    def fetch(self, position: int, size: int) -> bytes:
        if self.size is not None and position >= self.size:
            return b""
        try:
            if self._answer is None or self._position != position:
                self._connect(position)
            data = self._read(size)
        except BaseException:
            self.close()
            raise
        self._position += len(data)
        return data

    def _connect(self, position: int) -> None:
        """Asks for the file from a position on. A server may answer with all of it."""
        self.close()
        headers = {"Accept-Encoding": "identity"}
        if position:
            headers["Range"] = f"bytes={position}-"
        # With any size there is no HEAD: a signed URL is often valid for GET alone.
        self._answer = self._system.open(self._url, "rb", block_size=0, size=1, headers=headers)
        status, facts = self._answer.r.status, self._answer.r.headers
        version = facts.get("ETag") or facts.get("Last-Modified") or ""
        if self._version is None:
            self._version = version
            length = facts.get("Content-Length", "")
            self.size = int(length) if length.isdecimal() else None
        elif version != self._version:
            raise ChangedError
        self._position = position
        if position and status != 206:
            self._skip(position)

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._read(min(size, READ_BLOCK_BYTES))) or size

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (data := self._answer.read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def verify(self) -> None:
        """One answer is one version; `_connect` compares the next one with it."""

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

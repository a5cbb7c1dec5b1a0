"""Writes a large file again only from the first byte that differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from dinac_cli.errors import OutputError, describe_read_error
from dinac_cli.storage.atomic import Rewrite, start_file

_CHUNK_BYTES = 2**20


class Renewal:
    """The content of a file, in order. While it equals the existing file, nothing is written.

    From the first byte that differs on, the content goes to a temporary file, which begins with a
    copy of the equal part. The file itself does not change before `publish`.
    """

    def __init__(
        self,
        target: str,
        stack: ExitStack,
        old: BinaryIO | None,
        require_ours: Callable[[], None],
        *,
        overwrite: bool,
    ) -> None:
        self._target = target
        self._stack = stack
        self._old = old
        self._require_ours = require_ours
        self._overwrite = overwrite
        self._status = None if old is None else os.fstat(old.fileno())
        self._equal_bytes = 0
        self._next: Rewrite | None = None

    def write(self, data: bytes) -> None:
        """Appends to the content. Raises OutputError, also if the old file must not be replaced."""
        if self._next is None:
            if self._old is not None and self._read_old(len(data)) == data:
                self._equal_bytes += len(data)
                return
            self._next = self._start()
        self._next.write(data)

    @property
    def is_equal(self) -> bool:
        """True if the existing file begins with what was written so far."""
        return self._next is None

    def publish(self, *, fsync: bool = False) -> bool:
        """Replaces the file. Returns False if the file already has exactly this content.

        Raises OutputError, also if another program has put a file there meanwhile.
        """
        if self._next is None:
            if self._old is not None and not self._read_old(1):
                return False
            self._next = self._start()
        self._next.publish(fsync=fsync, is_ours=None if self._overwrite else self._is_old)
        return True

    def _start(self) -> Rewrite:
        if self._old is None:
            return self._stack.enter_context(start_file(self._target, self._target))
        self._require_ours()
        started = self._stack.enter_context(start_file(self._target, self._target))
        self._old.seek(0)
        for start in range(0, self._equal_bytes, _CHUNK_BYTES):
            started.write(self._read_old(min(_CHUNK_BYTES, self._equal_bytes - start)))
        self._old.close()  # Windows replaces no open file
        return started

    def _read_old(self, size: int) -> bytes:
        assert self._old is not None, "the caller has checked that there is an old file"
        try:
            return self._old.read(size)
        except OSError as exc:
            raise OutputError(f"{self._target}: {describe_read_error(exc)}") from exc

    def _is_old(self, path: str) -> bool:
        """True if the file is the one that was compared: same file, size and time."""
        try:
            now = os.stat(path)
        except OSError:
            return False
        was = self._status
        return was is not None and (now.st_ino, now.st_size, now.st_mtime_ns) == (
            was.st_ino,
            was.st_size,
            was.st_mtime_ns,
        )


@contextmanager
def renew_file(
    target: str, *, require_ours: Callable[[], None], overwrite: bool = False
) -> Iterator[Renewal]:
    """Starts the content of `target`. Without `publish`, nothing changes.

    `require_ours` raises OutputError if an existing file must not be replaced; it is called before
    the first byte that differs is written. If `overwrite` is set, writes the file in any case.
    """
    with ExitStack() as stack:
        old = None
        if not overwrite and os.path.isfile(target):  # opening a named pipe would wait
            try:
                old = stack.enter_context(open(target, "rb"))
            except OSError as exc:
                raise OutputError(f"{target}: {describe_read_error(exc)}") from exc
        yield Renewal(target, stack, old, require_ours, overwrite=overwrite)

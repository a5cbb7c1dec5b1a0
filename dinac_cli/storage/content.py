"""Reads whole inputs and hashes them, so that a later run can detect a changed input."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

from dinac_cli.errors import InputError, describe_read_error

MAX_INPUT_BYTES = 2**31
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Content:
    """The bytes of one input. `status` is the state of the file before it was read, if any."""

    data: bytes
    status: os.stat_result | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, as 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


def read_content(path: str) -> Content:
    """Reads a file or a named pipe (such as `<(command)` in a shell) to its end.

    Raises InputError if the file cannot be read, is too large or changes while it is read.
    """
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            data = _read_bounded(file, expected=before.st_size)
            after = os.fstat(file.fileno())
    except OSError as exc:
        raise InputError(describe_read_error(exc)) from exc
    # A pipe is not checked, because it has no size and each write changes its modification time.
    is_file = stat.S_ISREG(before.st_mode)
    if is_file and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError("changed while it was read; run the same command again")
    return Content(data, before)


def read_stream_content(stream: BinaryIO) -> Content:
    """Reads standard input to its end. Raises InputError if it is empty or too large."""
    data = _read_bounded(stream)
    if not data:
        raise InputError("is empty; pipe an image into it")
    return Content(data)


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file as 64 hex digits. Uses constant memory. Raises InputError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as exc:
        raise InputError(describe_read_error(exc)) from exc
    return digest.hexdigest()


def _read_bounded(file: BinaryIO, expected: int = 0) -> bytes:
    """Reads a file in pieces: one read of MAX_INPUT_BYTES would allocate that much memory."""
    pieces = []
    total = 0
    while expected <= MAX_INPUT_BYTES and total <= MAX_INPUT_BYTES:
        # One byte more than expected: a shorter piece is the end of a file.
        size = expected - total + 1 if expected > total else _CHUNK_BYTES
        piece = file.read(size)
        pieces.append(piece)
        total += len(piece)
        if len(piece) < size:
            break
    else:
        limit = MAX_INPUT_BYTES // 2**30
        raise InputError(f"larger than {limit} GiB, the limit for one file; make it smaller")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def begins_with(path: str, start: bytes) -> bool:
    """True for a regular file that can be read and begins with `start`."""
    if not os.path.isfile(path):  # opening a named pipe would wait for a writer
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False

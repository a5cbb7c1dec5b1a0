"""Reads consecutive records from a pipe, each as it arrives, and resumes after damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from dinac_cli.container.frame import PREAMBLE, RECORD_START, walk_frame, walk_record
from dinac_cli.container.zstd import decompress_content
from dinac_cli.errors import FormatError, Rejection

_READ_BYTES = 1 << 16
_MAX_READ_BYTES = 1 << 20

# A failed walk may have skipped good records, so the search resumes one byte after the start of the
# walk. That is quadratic for bytes that look like many nested records, so after this many failures
# within the bytes already walked, the search resumes after those bytes.
_MAX_WALKS = 8

# After these rejections the frame is sound, and its end is the start of the next record.
_FRAME_IS_SOUND = {Rejection.VERSION, Rejection.FLAGS, Rejection.RESERVED}


@dataclass(frozen=True)
class StreamItem:
    """One record's bytes, or the error that refuses it, and its offset in the stream."""

    offset: int
    record: bytes | FormatError


def read_records(stream: BinaryIO) -> Iterator[StreamItem]:
    """Yields the records of a stream, each as soon as its last byte has arrived.

    Checks each record's frame; `unpack_record` checks its content. After damage, reading resumes at
    the next record found. Memory holds one record at a time, and only bytes that were received.
    Raises the stream's OSError.
    """
    source = StreamSource(stream)
    while source.fill(1):
        offset = source.offset
        try:
            size = walk_record(source)
            # If another record starts inside this one, one of its sizes is probably damaged.
            if source.has_start(size):
                decompress_content(source.peek(size)[len(PREAMBLE) :])
        except FormatError as error:
            yield StreamItem(offset, error)
            source.resume(error)
        else:
            yield StreamItem(offset, source.cut(size))


class StreamSource:
    """A Source over a stream that cannot seek. It keeps the bytes that were taken until `cut`."""

    def __init__(self, stream: BinaryIO) -> None:
        # read1 returns what has arrived; read would wait for all the bytes.
        self._read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        self._buffer = bytearray()
        self._position = 0
        self._has_ended = False
        self._walked_to = 0
        self._failed_walks = 0
        self.offset = 0

    def take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        self.fill(self._position)
        return bytes(self._buffer[start : self._position])

    def skip(self, count: int) -> bool:
        self._position += count
        return self.fill(self._position)

    def fill(self, size: int) -> bool:
        """Waits until `size` bytes are buffered; False if the stream ends first."""
        while len(self._buffer) < size and not self._has_ended:
            missing = size - len(self._buffer)
            chunk = self._read(min(max(missing, _READ_BYTES), _MAX_READ_BYTES))
            self._buffer += chunk
            self._has_ended = not chunk
        return len(self._buffer) >= size

    def has_start(self, size: int) -> bool:
        """True if a second record may start within the first `size` buffered bytes.

        A partial start at the end counts too: a truncated record takes its missing bytes from the
        next record, and its whole start may not have arrived yet.
        """
        if self._buffer.find(RECORD_START, len(RECORD_START), size) >= 0:
            return True
        tail = self._buffer[max(0, size - len(RECORD_START)) : size]
        return any(tail.endswith(RECORD_START[:count]) for count in range(1, len(RECORD_START)))

    def peek(self, size: int) -> bytes:
        """Returns the first `size` buffered bytes."""
        return bytes(self._buffer[:size])

    def cut(self, size: int) -> bytes:
        """Returns the first `size` bytes and restarts after them."""
        data = self.peek(size)
        self._drop(size)
        return data

    def resume(self, error: FormatError) -> None:
        """Drops a record that was refused with `error`, and the bytes up to the next record."""
        if error.rejection in _FRAME_IS_SOUND:
            with suppress(FormatError):
                walk_frame(self)
                self._drop(self._position)
                return
        if self.offset >= self._walked_to:
            self._failed_walks = 0
        self._failed_walks += 1
        self._walked_to = max(self._walked_to, self.offset + self._position)
        is_hopeless = self._failed_walks >= _MAX_WALKS
        self._drop(self._walked_to - self.offset if is_hopeless else 1)
        self._find_start()

    def _find_start(self) -> None:
        while (found := self._buffer.find(RECORD_START)) < 0:
            # Keep the last bytes: they may begin a record start.
            self._drop(len(self._buffer) - (len(RECORD_START) - 1))
            if not self.fill(len(RECORD_START)):
                found = len(self._buffer)
                break
        self._drop(found)

    def _drop(self, size: int) -> None:
        size = max(0, min(size, len(self._buffer)))
        del self._buffer[:size]
        self.offset += size
        self._position = 0

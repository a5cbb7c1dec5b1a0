"""Reads consecutive records from a pipe as they arrive. Resumes after damage."""

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

# A failed walk may have skipped valid records. Therefore the search for the next record resumes one
# byte after the start of the failed walk. If the bytes look like many nested records, this takes
# quadratic time. Therefore, once failed walks have read the same bytes `_MAX_WALKS` times on
# average, the search resumes after these bytes. Many short walks alone do not cause this.
_MAX_WALKS = 8

# If a record has one of these rejections, its frame is usually valid. Then the next record starts
# at the end of the frame.
_FRAME_IS_SOUND = {Rejection.VERSION, Rejection.FLAGS, Rejection.RESERVED}


@dataclass(frozen=True)
class StreamItem:
    """The offset of one record of a stream, and its bytes or, if it is refused, the error."""

    offset: int
    record: bytes | FormatError


def read_records(stream: BinaryIO) -> Iterator[StreamItem]:
    """Yields each record of a stream as soon as the last byte of that record has arrived.

    Checks only the frame of each record. The content is checked by `unpack_record`. After damage,
    reading resumes at the next record that is found. Keeps only one record in memory, and allocates
    memory only for bytes that have arrived. Raises OSError if the stream cannot be read.
    """
    source = StreamSource(stream)
    while source.fill(1):
        offset = source.offset
        try:
            size = walk_record(source)
            source.require_one_record(size)
        except FormatError as error:
            yield StreamItem(offset, error)
            source.resume(error)
        else:
            yield StreamItem(offset, source.cut(size))


class StreamSource:
    """A Source for a stream that is not seekable. Its buffer keeps the bytes until `cut`."""

    def __init__(self, stream: BinaryIO) -> None:
        # read1 returns the bytes that have arrived. read would wait for all requested bytes.
        self._read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        self._buffer = bytearray()
        self._position = 0
        self._has_ended = False
        self._walked_from = self._walked_to = 0
        self._walked_bytes = 0
        self.offset = 0

    def take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        self.fill(self._position)
        return bytes(self._buffer[start : self._position])

    def skip(self, count: int) -> bool:
        self._position += count
        return self.fill(self._position)

    def fill(self, size: int) -> bool:
        """Waits until `size` bytes are buffered. Returns False if the stream ends first."""
        while len(self._buffer) < size and not self._has_ended:
            missing = size - len(self._buffer)
            chunk = self._read(min(max(missing, _READ_BYTES), _MAX_READ_BYTES))
            self._buffer += chunk
            self._has_ended = not chunk
        return len(self._buffer) >= size

    def require_one_record(self, size: int) -> None:
        """Raises FormatError if a second record may start within a damaged one of `size` bytes.

        Then a size in the damaged record is probably wrong.
        """
        if self._has_start(size):
            decompress_content(self.peek(size)[len(PREAMBLE) :])

    def _has_start(self, size: int) -> bool:
        """True if a second record may start within the first `size` buffered bytes.

        The result is also true if these bytes end with only a part of a record's start. This
        happens, for example, if a record lacks its last bytes: the first bytes of the next record
        are then in their place.
        """
        if self._buffer.find(RECORD_START, len(RECORD_START), size) >= 0:
            return True
        tail = self._buffer[max(0, size - len(RECORD_START)) : size]
        return any(tail.endswith(RECORD_START[:count]) for count in range(1, len(RECORD_START)))

    def peek(self, size: int) -> bytes:
        """Returns the first `size` buffered bytes."""
        return bytes(self._buffer[:size])

    def cut(self, size: int) -> bytes:
        """Removes the first `size` bytes from the buffer and returns them."""
        data = self.peek(size)
        self._drop(size)
        return data

    def resume(self, error: FormatError) -> None:
        """Drops a record that was refused with `error`, and all bytes up to the next record."""
        if error.rejection in _FRAME_IS_SOUND:
            with suppress(FormatError):
                walk_frame(self)
                self.require_one_record(self._position)
                self._drop(self._position)
                return
        if self.offset >= self._walked_to:
            self._walked_from, self._walked_bytes = self.offset, 0
        self._walked_bytes += self._position
        self._walked_to = max(self._walked_to, self.offset + self._position)
        is_hopeless = self._walked_bytes > _MAX_WALKS * (self._walked_to - self._walked_from)
        self._drop(self._walked_to - self.offset if is_hopeless else 1)
        self._find_start()

    def _find_start(self) -> None:
        while (found := self._buffer.find(RECORD_START)) < 0:
            # The last bytes are kept, because the start of a record may begin with them.
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

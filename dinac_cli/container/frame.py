"""The frame of a record: a preamble that says what it is, then one zstd frame.

Everything here looks at sizes alone and decompresses nothing, so that each limit holds before
any memory is taken. Source: RFC 8878 (zstd frames, blocks and skippable frames).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

from dinac_cli.errors import FormatError, Rejection

FORMAT_VERSION = 1
"""Frozen: what a record of this version means never changes, and every later dinac reads it."""

# A skippable frame of 16 bytes: zstd tools pass over it, `file` and a resynchronising reader
# know a record by its first 14 bytes.
RECORD_START = (0x184D2A5D).to_bytes(4, "little") + (16).to_bytes(4, "little") + b"DINAC\0"
PREAMBLE = RECORD_START + bytes([FORMAT_VERSION]) + bytes(9)
ZSTD_MAGIC = (0xFD2FB528).to_bytes(4, "little")

MAX_CONTENT_BYTES = 1 << 30
MAX_BLOCK_BYTES = 1 << 17  # of content, by RFC 8878
CHECKSUM_BYTES = 4

# Walking is a step a block, so their number is bounded too: no zstd encoder makes blocks that
# average below 1 KiB, except around the handful of tensor boundaries.
SPARE_BLOCKS = 64
MIN_MEAN_BLOCK_BYTES = 1024

_RAW, _RLE, _COMPRESSED, _RESERVED = range(4)


class Source(Protocol):
    """Bytes that are read in order; near the end both methods give less than was asked for."""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer where the source ends."""

    def skip(self, count: int) -> bool:
        """Pass over `count` bytes; False where the source ends first."""


class BytesSource:
    """A Source over bytes in memory, which are not copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)
        self.position = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer where the data end."""
        start, self.position = self.position, self.position + count
        return bytes(self._view[start : self.position])

    def skip(self, count: int) -> bool:
        """Pass over `count` bytes; False where the data end first."""
        self.position += count
        return self.position <= len(self._view)


class FileSource:
    """A Source over a buffered file from its current position on; `skip` needs it seekable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer where the file ends."""
        return self._file.read(count)

    def skip(self, count: int) -> bool:
        """Pass over `count` bytes without reading them; False where the file ends first."""
        # A seek past the end is no error: step to the last byte and see whether it is there. A
        # preamble always lies before it, so that this steps back where there is nothing to skip.
        self._file.seek(count - 1, os.SEEK_CUR)
        return len(self._file.read(1)) == 1


@dataclass(frozen=True)
class FrameHeader:
    """What a zstd frame declares: its own length, that of its content, the largest block."""

    size: int
    content_size: int
    block_max: int


class Block(NamedTuple):
    """One zstd block: its 3 header bytes, the bytes that follow, and what they may become."""

    header: bytes
    is_last: bool
    size: int
    stored: int
    content_max: int


def walk_record(source: Source) -> int:
    """Walk one record to its end without decompressing it; return its size in bytes.

    Errors: FormatError for each rule of preamble, frame header and block headers.
    """
    take_preamble(source)
    return len(PREAMBLE) + walk_frame(source)


def take_preamble(source: Source) -> None:
    """Take the 24 bytes that begin a record, and refuse what this version cannot read."""
    start = source.take(len(RECORD_START))
    if start != RECORD_START:
        if start and not RECORD_START.startswith(start):
            raise FormatError(Rejection.NOT_A_RECORD, "not a latent record: no dinac preamble")
        raise _truncated()
    version, flags, *reserved = _take_exactly(source, len(PREAMBLE) - len(RECORD_START))
    if version != FORMAT_VERSION:
        raise newer_format(str(version))
    if flags != 0:
        raise FormatError(Rejection.FLAGS, f"unknown flags 0x{flags:02x}: made by a newer dinac?")
    if any(reserved):
        raise FormatError(Rejection.RESERVED, "reserved preamble bytes are not zero: damaged?")


def newer_format(version: str) -> FormatError:
    """Return the error for a format version that this dinac does not read."""
    return FormatError(
        Rejection.VERSION,
        f"format version {version[:20]!a}, this dinac reads {FORMAT_VERSION}: "
        "update dinac-cli, or re-encode the image",
    )


def walk_frame(source: Source) -> int:
    """Walk one zstd frame by its block headers; return its size in bytes, checksum included.

    What the blocks can hold is compared with the declared content size: a short frame that
    declares a large content is refused here, before anything is allocated for it.
    """
    frame = take_frame_header(source)
    size, stored, content_max = frame.size + CHECKSUM_BYTES, 0, 0
    for _ in range(SPARE_BLOCKS + frame.content_size // MIN_MEAN_BLOCK_BYTES):
        block = take_block(source, frame)
        size += len(block.header) + block.stored
        stored += block.size
        content_max += block.content_max
        if stored > frame.content_size:
            raise FormatError(Rejection.CONTENT_SIZE, "blocks are larger than the content: damaged")
        if not source.skip(block.stored):
            raise _truncated()
        if block.is_last:
            break
    else:
        raise FormatError(Rejection.BLOCK, "too many blocks for this content size: damaged")
    if content_max < frame.content_size:
        raise FormatError(
            Rejection.CONTENT_SIZE,
            f"{frame.content_size} content bytes declared, the blocks hold {content_max} at most",
        )
    _take_exactly(source, CHECKSUM_BYTES)
    return size


def take_frame_header(source: Source) -> FrameHeader:
    """Take the header of a zstd frame, and refuse what a record's frame may not declare."""
    fixed = _take_exactly(source, len(ZSTD_MAGIC) + 1)
    descriptor = fixed[-1]
    if fixed[:-1] != ZSTD_MAGIC or descriptor & 0b0001_1000:
        raise FormatError(Rejection.FRAME_HEADER, "no zstd frame after the preamble: damaged")
    if descriptor & 0b0000_0011:
        raise FormatError(Rejection.DICTIONARY, "the zstd frame needs a dictionary, which is none")
    if not descriptor & 0b0000_0100:
        raise FormatError(Rejection.NO_CHECKSUM, "the zstd frame has no checksum: re-encode")
    is_single_segment = bool(descriptor & 0b0010_0000)
    window = None if is_single_segment else _window_bytes(_take_exactly(source, 1)[0])
    content_size, field_size = _take_content_size(source, descriptor >> 6, is_single_segment)
    if window is not None and window > content_size:
        raise FormatError(
            Rejection.WINDOW, f"window of {window} bytes for a content of {content_size}: re-encode"
        )
    block_max = min(MAX_BLOCK_BYTES, content_size if window is None else window)
    size = len(fixed) + (window is not None) + field_size
    return FrameHeader(size, content_size, block_max)


def take_block(source: Source, frame: FrameHeader) -> Block:
    """Take the 3 header bytes of a block, whose `stored` bytes then follow in the source."""
    header = _take_exactly(source, 3)
    field = int.from_bytes(header, "little")
    kind, size = field >> 1 & 3, field >> 3
    if kind == _RESERVED:
        raise FormatError(Rejection.BLOCK, "a zstd block of reserved type: damaged")
    if size > frame.block_max:
        raise FormatError(Rejection.BLOCK, f"a zstd block of {size} bytes is too large: damaged")
    stored = 1 if kind == _RLE else size
    content_max = frame.block_max if kind == _COMPRESSED else size
    return Block(header, bool(field & 1), size, stored, content_max)


def take_block_body(source: Source, block: Block) -> bytes:
    """Take the bytes that follow a block's header."""
    return _take_exactly(source, block.stored)


def _take_content_size(source: Source, flag: int, is_single_segment: bool) -> tuple[int, int]:
    """Take the content size; return it and the width of its field, both in bytes."""
    width = (1 if is_single_segment else 0, 2, 4, 8)[flag]
    if width == 0:
        raise FormatError(Rejection.CONTENT_SIZE, "the zstd frame has no content size: re-encode")
    content_size = int.from_bytes(_take_exactly(source, width), "little")
    if width == 2:
        content_size += 256
    if content_size > MAX_CONTENT_BYTES:
        raise FormatError(
            Rejection.CONTENT_SIZE,
            f"{content_size} content bytes declared, the limit is {MAX_CONTENT_BYTES}",
        )
    return content_size, width


def _window_bytes(descriptor: int) -> int:
    exponent, mantissa = descriptor >> 3, descriptor & 7
    base = 1 << (10 + exponent)
    return base + base // 8 * mantissa


def _take_exactly(source: Source, count: int) -> bytes:
    data = source.take(count)
    if len(data) != count:
        raise _truncated()
    return data


def _truncated() -> FormatError:
    return FormatError(Rejection.TRUNCATED, "the record is cut short: copy it again or re-encode")

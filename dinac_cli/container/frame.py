"""The frame of a record: a preamble that identifies the format, then one zstd frame.

This module reads sizes but decompresses nothing. Therefore every limit is checked before memory is
allocated. RFC 8878 defines zstd frames, blocks and skippable frames.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

from dinac_cli.errors import FormatError, Rejection

FORMAT_VERSION = 1
"""Version 1 never changes, and every later dinac can read the records of version 1."""

# A record starts with a skippable zstd frame of 16 content bytes. Zstd tools skip this frame. The
# `file` command recognises a record by its first 14 bytes. A reader that resumes after damage uses
# the same 14 bytes.
RECORD_START = (0x184D2A5D).to_bytes(4, "little") + (16).to_bytes(4, "little") + b"DINAC\0"
PREAMBLE = RECORD_START + bytes([FORMAT_VERSION]) + bytes(9)
ZSTD_MAGIC = (0xFD2FB528).to_bytes(4, "little")

MAX_CONTENT_BYTES = 1 << 30
MAX_BLOCK_BYTES = 1 << 17  # RFC 8878 limits the content of a block to this size
CHECKSUM_BYTES = 4

# To walk a frame takes one step per block, so the number of blocks must have a limit. Zstd encoders
# write blocks of at least 1 KiB on average. Smaller blocks occur only near tensor boundaries, and a
# record has few of these.
SPARE_BLOCKS = 64
MIN_MEAN_BLOCK_BYTES = 1024

_RAW, _RLE, _COMPRESSED, _RESERVED = range(4)


class Source(Protocol):
    """A sequence of bytes that is read in order."""

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes, or fewer if the source ends first."""

    def skip(self, count: int) -> bool:
        """Skips `count` bytes. Returns False if the source ends first."""


class FileSource:
    """A Source that reads a buffered file from its current place. `skip` needs a seekable file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def take(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> bool:
        """Skips `count` bytes without reading them. Returns False if the file ends first."""
        # A seek past the end of the file does not fail. Therefore this method seeks to the last
        # byte that it skips, and reads it. If `count` is 0, the method reads the byte before the
        # position. This byte exists, because a preamble precedes every skip.
        self._file.seek(count - 1, os.SEEK_CUR)
        return len(self._file.read(1)) == 1


@dataclass(frozen=True)
class FrameHeader:
    """The header of a zstd frame. Its fields are in bytes.

    `size` is the size of the header itself. `block_max` is the largest content that one block may
    have.
    """

    size: int
    content_size: int
    block_max: int


class Block(NamedTuple):
    """A zstd block: 3 bytes of `header`, then `stored_size` bytes that encode its content.

    `declared_size` is the size in `header`. Only an RLE block stores fewer bytes than
    `declared_size`. `content_max` is the largest possible size of the decoded block, in bytes.
    """

    header: bytes
    is_last: bool
    declared_size: int
    stored_size: int
    content_max: int


def walk_record(source: Source) -> int:
    """Walks one record to its end without decompressing it. Returns the record's size in bytes.

    Raises FormatError if the preamble, the frame header or a block header is invalid.
    """
    take_preamble(source)
    return len(PREAMBLE) + walk_frame(source)


def take_preamble(source: Source) -> None:
    """Takes the preamble: the first 24 bytes of a record.

    Raises FormatError if the bytes are not a preamble, or if this dinac cannot read the record.
    """
    start = source.take(len(RECORD_START))
    if start != RECORD_START:
        if start and not RECORD_START.startswith(start):
            raise FormatError(Rejection.NOT_A_RECORD, "not a latent record: no dinac preamble")
        raise _truncated()
    version, flags, *reserved = take_exactly(source, len(PREAMBLE) - len(RECORD_START))
    if version != FORMAT_VERSION:
        raise newer_format(str(version))
    if flags != 0:
        raise FormatError(Rejection.FLAGS, f"unknown flags 0x{flags:02x}; update dinac-cli")
    if any(reserved):
        raise _damaged(Rejection.RESERVED, "reserved preamble bytes are not zero")


def newer_format(version: str) -> FormatError:
    """Returns the error for a format version that this dinac does not read."""
    return FormatError(
        Rejection.VERSION,
        f"format version {version[:20]!a}, but this dinac reads {FORMAT_VERSION}; "
        "update dinac-cli or re-encode the image",
    )


def walk_frame(source: Source) -> int:
    """Walks the blocks of one zstd frame. Returns the frame's size in bytes, with the checksum.

    Compares the declared content size with the largest content that the blocks can hold. Therefore
    a short frame that declares a large content is refused before memory is allocated.
    """
    frame = take_frame_header(source)
    size, declared, content_max = frame.size + CHECKSUM_BYTES, 0, 0
    for _ in range(SPARE_BLOCKS + frame.content_size // MIN_MEAN_BLOCK_BYTES):
        block = take_block(source, frame)
        size += len(block.header) + block.stored_size
        declared += block.declared_size
        content_max += block.content_max
        if declared > frame.content_size:
            raise _damaged(Rejection.CONTENT_SIZE, "zstd blocks exceed the declared content size")
        if not source.skip(block.stored_size):
            raise _truncated()
        if block.is_last:
            break
    else:
        raise _damaged(Rejection.BLOCK, "too many zstd blocks for the content size")
    if content_max < frame.content_size:
        raise FormatError(
            Rejection.CONTENT_SIZE,
            f"{frame.content_size} content bytes declared, but the blocks hold at most "
            f"{content_max}; re-encode",
        )
    take_exactly(source, CHECKSUM_BYTES)
    return size


def take_frame_header(source: Source) -> FrameHeader:
    """Takes the header of a zstd frame.

    Raises FormatError if the format does not allow this header in a record.
    """
    fixed = take_exactly(source, len(ZSTD_MAGIC) + 1)
    descriptor = fixed[-1]
    if fixed[:-1] != ZSTD_MAGIC or descriptor & 0b0001_1000:
        raise _damaged(Rejection.FRAME_HEADER, "no zstd frame after the preamble")
    if descriptor & 0b0000_0011:
        raise FormatError(Rejection.DICTIONARY, "the zstd frame needs a dictionary; re-encode")
    if not descriptor & 0b0000_0100:
        raise FormatError(Rejection.NO_CHECKSUM, "the zstd frame has no checksum; re-encode")
    is_single_segment = bool(descriptor & 0b0010_0000)
    window = None if is_single_segment else _window_bytes(take_exactly(source, 1)[0])
    content_size, field_size = _take_content_size(source, descriptor >> 6, is_single_segment)
    if window is not None and window > content_size:
        raise FormatError(
            Rejection.WINDOW,
            f"zstd window of {window} bytes exceeds the content of {content_size}; re-encode",
        )
    block_max = min(MAX_BLOCK_BYTES, content_size if window is None else window)
    size = len(fixed) + (window is not None) + field_size
    return FrameHeader(size, content_size, block_max)


def take_block(source: Source, frame: FrameHeader) -> Block:
    """Takes the 3 header bytes of a block, but does not take the stored bytes of the block."""
    header = take_exactly(source, 3)
    field = int.from_bytes(header, "little")
    kind, size = field >> 1 & 3, field >> 3
    if kind == _RESERVED:
        raise _damaged(Rejection.BLOCK, "a zstd block has the reserved type")
    if size > frame.block_max:
        raise _damaged(Rejection.BLOCK, f"a zstd block of {size} bytes is too large")
    stored = 1 if kind == _RLE else size
    content_max = frame.block_max if kind == _COMPRESSED else size
    return Block(header, bool(field & 1), size, stored, content_max)


def take_exactly(source: Source, count: int) -> bytes:
    """Takes `count` bytes.

    Raises FormatError with rejection TRUNCATED if the source ends before that.
    """
    data = source.take(count)
    if len(data) != count:
        raise _truncated()
    return data


def _take_content_size(source: Source, flag: int, is_single_segment: bool) -> tuple[int, int]:
    """Takes the content size field. Returns the content size and the field size, in bytes."""
    width = (1 if is_single_segment else 0, 2, 4, 8)[flag]
    if width == 0:
        raise FormatError(Rejection.CONTENT_SIZE, "the zstd frame has no content size; re-encode")
    content_size = int.from_bytes(take_exactly(source, width), "little")
    if width == 2:
        content_size += 256
    if content_size > MAX_CONTENT_BYTES:
        raise FormatError(
            Rejection.CONTENT_SIZE,
            f"{content_size} content bytes declared, but the limit is {MAX_CONTENT_BYTES}; "
            "re-encode",
        )
    return content_size, width


def _window_bytes(descriptor: int) -> int:
    exponent, mantissa = descriptor >> 3, descriptor & 7
    base = 1 << (10 + exponent)
    return base + base // 8 * mantissa


def _truncated() -> FormatError:
    return FormatError(Rejection.TRUNCATED, "the record is cut short; copy it again or re-encode")


def _damaged(rejection: Rejection, fault: str) -> FormatError:
    return FormatError(rejection, f"{fault}: the record is damaged; copy it again or re-encode")

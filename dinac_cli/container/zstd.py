"""Compresses a record's content with zstd settings for noise. The header can be read alone.

This module works around problems of python-zstandard 0.25. The decompressor of that library ignores
`max_output_size` if the frame declares its size. The decompressor silently drops trailing bytes,
and returns empty bytes for a truncated frame. The compressor silently omits the content size if the
caller does not pass `size=`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import zstandard

from dinac_cli.container.frame import (
    MIN_MEAN_BLOCK_BYTES,
    SPARE_BLOCKS,
    ZSTD_MAGIC,
    Source,
    take_block,
    take_exactly,
    take_frame_header,
)
from dinac_cli.errors import FormatError, Rejection

MAX_HEADER_BYTES = 1 << 16  # the limit for the safetensors JSON, without its 8-byte length

# A frame header with a window of 128 KiB and no content size. If only the first blocks are decoded,
# this header replaces the frame header of the record, because the record's own window may need up
# to 1 GiB of memory.
_SMALL_WINDOW = ZSTD_MAGIC + bytes([0, 7 << 3])


class _Coders(threading.local):
    """The coders of one thread. To create a coder takes longer than to compress a small record."""

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        """Compresses the content of records."""
        # In noise, the LZ stage finds only accidental matches. With the largest `min_match` and the
        # smallest table, nearly all bytes go to the Huffman coder, and the speed is the same.
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, min_match=7, hash_log=6, write_content_size=True, write_checksum=True
        )
        return zstandard.ZstdCompressor(compression_params=parameters)

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        """Decompresses the content of records."""
        return zstandard.ZstdDecompressor()


_coders = _Coders()


def compress_content(parts: Sequence[bytes | memoryview]) -> bytes:
    """Compresses a record's content into one zstd frame with content size and checksum.

    Ends a block after every part. Therefore each part has its own Huffman table, and the first
    part, the header, can be read alone.
    """
    compressor = _coders.compressor.compressobj(size=sum(map(len, parts)))
    pieces = []
    for part in parts[:-1]:
        pieces += [compressor.compress(part), compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    pieces += [compressor.compress(parts[-1]), compressor.flush()]
    return b"".join(pieces)


def decompress_content(frame: bytes | memoryview) -> bytes:
    """Decompresses one whole zstd frame that `walk_frame` has checked.

    Raises FormatError with rejection CHECKSUM if the content has changed, and with rejection BLOCK
    if a block cannot be decoded.
    """
    try:
        return _coders.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise _damaged(exc) from exc


def take_head(source: Source) -> tuple[bytes, int]:
    """Takes blocks of a zstd frame until the safetensors header is complete.

    Returns that header with its 8-byte length, and the content size of the frame in bytes.
    """
    frame = take_frame_header(source)
    decoder = zstandard.ZstdDecompressor().decompressobj()
    decoder.decompress(_SMALL_WINDOW)
    head = b""
    for _ in range(SPARE_BLOCKS + MAX_HEADER_BYTES // MIN_MEAN_BLOCK_BYTES):
        block = take_block(source, frame)
        try:
            stored = take_exactly(source, block.stored_size)
            head += decoder.decompress(block.header + stored)
        except zstandard.ZstdError as exc:
            raise _damaged(exc) from exc
        size = 8 + _header_bytes(head)
        if len(head) >= size:
            return head[:size], frame.content_size
        if block.is_last:
            break
    raise FormatError(
        Rejection.HEADER_SIZE, "the header is incomplete; copy the record again or re-encode"
    )


def _header_bytes(head: bytes) -> int:
    size = int.from_bytes(head[:8], "little") if len(head) >= 8 else 0
    if size > MAX_HEADER_BYTES:
        raise FormatError(
            Rejection.HEADER_SIZE,
            f"header of {size} bytes, but the limit is {MAX_HEADER_BYTES}; re-encode",
        )
    return size


def _damaged(exc: zstandard.ZstdError) -> FormatError:
    if "checksum" in str(exc):
        message = "the content does not match its checksum; copy the record again or re-encode"
        return FormatError(Rejection.CHECKSUM, message)
    message = "a zstd block cannot be decoded; copy the record again or re-encode"
    return FormatError(Rejection.BLOCK, message)

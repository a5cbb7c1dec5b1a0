"""zstd compression of a record's content, tuned for noise; the header can be read alone.

This module works around traps of python-zstandard 0.25: `max_output_size` is ignored if the frame
declares its size; trailing bytes are dropped silently; a truncated frame gives empty bytes without
an error; and without `size=` the content size is left out silently.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import zstandard

from dinac_cli.container.frame import (
    MIN_MEAN_BLOCK_BYTES,
    SPARE_BLOCKS,
    ZSTD_MAGIC,
    Source,
    take_block,
    take_block_body,
    take_frame_header,
)
from dinac_cli.errors import FormatError, Rejection

MAX_HEADER_BYTES = 1 << 16  # of safetensors JSON, without its 8-byte length

# A frame header with a window of 128 KiB and no content size. It replaces a record's own frame
# header, whose window may be the whole content (1 GiB), when only the first blocks are decoded.
_SMALL_WINDOW = ZSTD_MAGIC + bytes([0, 7 << 3])

_threads = threading.local()


def compress_content(parts: Sequence[bytes | memoryview]) -> bytes:
    """Compresses a record's content into one zstd frame with content size and checksum.

    Ends a block after every part, so that each part has its own Huffman table and the first part,
    the header, can be read alone.
    """
    compressor = _compressor().compressobj(size=sum(len(part) for part in parts))
    pieces = []
    for part in parts[:-1]:
        pieces += [compressor.compress(part), compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    pieces += [compressor.compress(parts[-1]), compressor.flush()]
    return b"".join(pieces)


def decompress_content(frame: bytes | memoryview) -> bytes:
    """Decompresses one whole zstd frame; `walk_frame` must have checked it.

    Raises FormatError CHECKSUM if the content has changed, BLOCK if a block cannot be decoded.
    """
    try:
        return _decompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise _damaged(exc) from exc


def take_head(source: Source) -> tuple[bytes, int]:
    """Takes only those first blocks of a zstd frame that hold the safetensors header.

    Returns the header, its 8-byte length included, and the frame's content size in bytes.
    """
    frame = take_frame_header(source)
    decoder = zstandard.ZstdDecompressor().decompressobj()
    decoder.decompress(_SMALL_WINDOW)
    head = b""
    for _ in range(SPARE_BLOCKS + MAX_HEADER_BYTES // MIN_MEAN_BLOCK_BYTES):
        block = take_block(source, frame)
        try:
            head += decoder.decompress(block.header + take_block_body(source, block))
        except zstandard.ZstdError as exc:
            raise _damaged(exc) from exc
        size = 8 + _header_bytes(head)
        if len(head) >= size:
            return head[:size], frame.content_size
        if block.is_last:
            break
    raise FormatError(Rejection.HEADER_SIZE, "the header is incomplete; the record is damaged")


def _header_bytes(head: bytes) -> int:
    size = int.from_bytes(head[:8], "little") if len(head) >= 8 else 0
    if size > MAX_HEADER_BYTES:
        raise FormatError(
            Rejection.HEADER_SIZE, f"header of {size} bytes; the limit is {MAX_HEADER_BYTES}"
        )
    return size


def _damaged(exc: zstandard.ZstdError) -> FormatError:
    if "checksum" in str(exc):
        message = "the content does not match its checksum; copy the record again or re-encode"
        return FormatError(Rejection.CHECKSUM, message)
    message = "a zstd block cannot be decoded; copy the record again or re-encode"
    return FormatError(Rejection.BLOCK, message)


def _compressor() -> zstandard.ZstdCompressor:
    """Returns this thread's compressor; making one costs more than compressing a small record."""
    if not hasattr(_threads, "compressor"):
        # In noise LZ finds only false matches. The longest minimum match and the smallest table
        # leave nearly everything to the Huffman coder, at no loss of speed.
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1, min_match=7, hash_log=6, write_content_size=True, write_checksum=True
        )
        _threads.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    compressor: zstandard.ZstdCompressor = _threads.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _threads.decompressor
    return decompressor

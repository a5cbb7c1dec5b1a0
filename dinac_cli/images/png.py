"""Opens PNG files: bounds metadata, and finds every transparent colour exactly."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from PIL.ImageFile import _safe_read

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

MAX_PROFILE_BYTES = 16 << 20
"""The size of the largest ICC profile that is used. Pillow's own limit is 1 MiB."""

_WIDE_RGB, _LOW_BYTES = "RGB;16B", "RGB;16L"
_GRAY_SCALES = {"L;2": 85, "L;4": 17, "L": 1}  # from stored values to Pillow's 8-bit pixels


class _Stream(PngImagePlugin.PngStream):
    """Reads chunks. Skips compressed text above Pillow's limits instead of refusing the file."""

    def check_text_memory(self, chunklen: int) -> None:
        self.text_memory += chunklen

    def chunk_tEXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        return self._read_text("chunk_tEXt", pos, length)

    def chunk_zTXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        return self._read_text("chunk_zTXt", pos, length)

    def chunk_iTXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        return self._read_text("chunk_iTXt", pos, length)

    def _read_text(self, name: str, pos: int, length: int) -> bytes:
        """Reads one chunk of text, or skips it. Returns its bytes, for the checksum."""
        try:
            if self.text_memory <= PngImagePlugin.MAX_TEXT_MEMORY:
                read = getattr(super(), name)
                content: bytes = read(pos, length)
                return content
        except ValueError as exc:
            if "MAX_TEXT_CHUNK" not in str(exc):
                raise
        return self._read_again(pos, length)

    def _read_again(self, pos: int, length: int) -> bytes:
        assert self.fp is not None
        self.fp.seek(pos)
        return _safe_read(self.fp, length)

    def chunk_iCCP(self, pos: int, length: int) -> bytes:  # noqa: N802
        try:
            return super().chunk_iCCP(pos, length)
        except ValueError:  # above Pillow's limit
            content = self._read_again(pos, length)
        self.im_info["icc_profile"] = _unpack_profile(content)
        return content

    def chunk_tRNS(self, pos: int, length: int) -> bytes:  # noqa: N802
        content = super().chunk_tRNS(pos, length)
        value = self.im_info.get("transparency")
        if self.im_mode == "1":
            self.im_info["transparency"] = 255 * (content[1] & 1)
        elif self.im_mode == "L" and isinstance(value, int):
            # As in libpng, only the low bits of the value count.
            scale = _GRAY_SCALES[self.im_rawmode]
            self.im_info["transparency"] = value % (255 // scale + 1) * scale
        elif self.im_mode == "RGB" and self.im_rawmode != _WIDE_RGB and value is not None:
            self.im_info["transparency"] = tuple(channel & 255 for channel in value)
        return content


def _unpack_profile(content: bytes) -> bytes | None:
    """Returns the profile of an iCCP chunk, or None if it is damaged or too large."""
    start = content.index(b"\x00") + 2
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(content[start:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpacker.eof else None


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG file."""

    _stream: _Stream | None = None

    @property
    def png(self) -> _Stream | None:
        """The chunks. Pillow creates its own kind of stream, which `_Stream` replaces here."""
        return self._stream

    @png.setter
    def png(self, stream: PngImagePlugin.PngStream | None) -> None:
        self._stream = None if stream is None or stream.fp is None else _Stream(stream.fp)

    def load(self) -> PixelAccess | None:
        transparent = self.info.get("transparency")
        if not self.tile or self.tile[0].args != _WIDE_RGB or transparent is None:
            return super().load()
        low_bytes = self._read_low_bytes()
        super().load()
        is_clear = np.ones(low_bytes.shape[:2], bool)
        for channel, value in enumerate(transparent):
            is_clear &= np.asarray(self)[..., channel] == value >> 8
            is_clear &= low_bytes[..., channel] == value & 255
        del self.info["transparency"]
        self.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
        return Image.Image.load(self)

    def _read_low_bytes(self) -> NDArray[np.uint8]:
        """Returns the low bytes of 16-bit RGB as uint8 [H, W, 3]. Pillow reads the high bytes."""
        assert self.fp is not None
        place = self.fp.tell()
        self.fp.seek(0)
        other = PngFile(self.fp)
        other.tile = [tile._replace(args=_LOW_BYTES) for tile in other.tile]
        other.info.pop("transparency")
        low_bytes = np.array(other)
        self.fp.seek(place)
        return low_bytes

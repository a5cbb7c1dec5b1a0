"""Opens TIFF files, including sample layouts that Pillow refuses or reads wrongly."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

from PIL import ExifTags, Image, TiffImagePlugin
from PIL.ImageFile import _Tile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from dinac_cli.errors import ImageError
from dinac_cli.images.libtiff import has_codec, silence_libtiff
from dinac_cli.images.tiff_samples import SampleLayout, find_layout, read_samples, reduce_samples

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

_BIG_ENDIAN_BIGTIFF = b"MM\x00\x2b"
_YCBCR, _RAW = 6, 1
_SIGNED = 2  # a value of SampleFormat

_COLORS: Mapping[object, str] = {
    0: "gray",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "raw sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
_KINDS: Mapping[object, str] = {
    1: "",
    2: "signed ",
    3: "float ",
    4: "",
    5: "complex ",
    6: "complex ",
}


def open_tiff(file: IO[bytes]) -> TiffFile:
    """Opens a TIFF or BigTIFF. Raises ImageError if dinac cannot read its kind of samples."""
    silence_libtiff()
    head = file.read(4)
    file.seek(0)
    if head == _BIG_ENDIAN_BIGTIFF:  # Pillow recognises only little-endian BigTIFF
        file = io.BytesIO(_shrink_bigtiff(file.read()))
    return TiffFile(file)


class TiffFile(TiffImagePlugin.TiffImageFile):
    """The first page of a TIFF file. Other pages are only counted."""

    _layout: SampleLayout | None = None  # set while samples wait for `load`

    def _setup(self) -> None:
        if self.tell() > 0:
            return
        self._layout = None
        if self.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) == 1:
            self.tag_v2[TiffImagePlugin.PLANAR_CONFIGURATION] = 1  # one plane is both
        _check_codec(self.tag_v2)
        layout = find_layout(self.tag_v2)
        if layout is not None and (layout.is_planar or layout.dtype.kind == "f"):
            self._expect_samples(layout)
            return
        if layout is None and (_is_wide_raw_plane(self.tag_v2) or _is_short_signed(self.tag_v2)):
            raise ImageError(_describe_refusal(self.tag_v2))
        try:
            super()._setup()
        except SyntaxError as exc:
            if layout is None:
                raise ImageError(_describe_refusal(self.tag_v2)) from exc
            self._expect_samples(layout)
        if _is_raw_ycbcr(self.tag_v2):
            self._leave_ycbcr_to_libtiff()

    def _expect_samples(self, layout: SampleLayout) -> None:
        self._layout = layout
        self._mode = layout.mode
        self._tile_size = self._size = (layout.width, layout.height)
        turned: tuple[object, ...] = (5, 6, 7, 8)  # as Pillow, gives the size of the upright image
        if self.tag_v2.get(ExifTags.Base.Orientation) in turned:
            self._size = (layout.height, layout.width)
        self.tile = []
        self.use_load_libtiff = False
        if TiffImagePlugin.ICCPROFILE in self.tag_v2:
            self.info["icc_profile"] = self.tag_v2[TiffImagePlugin.ICCPROFILE]

    def _leave_ycbcr_to_libtiff(self) -> None:
        """Lets libtiff convert raw YCbCr to RGB, as Pillow does for compressed YCbCr."""
        self._mode = "RGB"
        self.use_load_libtiff = True
        args = ("RGBX", False, self.tag_v2.offset)
        self.tile = [_Tile("libtiff", (0, 0, *self._tile_size), 0, args)]

    def load(self) -> PixelAccess | None:
        if self._layout is None:
            return self._load_with_pillow()
        layout, self._layout = self._layout, None
        assert self.fp is not None
        self.fp.seek(0)
        samples = read_samples(self.fp.read(), layout)
        pixels = reduce_samples(samples, layout)
        size = pixels.shape[1::-1]
        self.im = Image.frombuffer(layout.mode, size, pixels.tobytes(), "raw", layout.mode, 0, 1).im
        self.load_end()
        return Image.Image.load(self)

    def _load_with_pillow(self) -> PixelAccess | None:
        try:
            return super().load()
        except OSError as exc:
            # Pillow reports each failure of libtiff as the same number.
            if str(exc).startswith("decoder error") and self._is_truncated():
                raise EOFError("the pixels end after the file") from exc
            raise

    def _is_truncated(self) -> bool:
        assert self._fp is not None
        size_bytes = self._fp.seek(0, io.SEEK_END)
        tags = self.tag_v2
        for starts, counts in (
            (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS),
            (TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.TILEBYTECOUNTS),
        ):
            pairs = zip(tags.get(starts, ()), tags.get(counts, ()), strict=False)
            if any(start + count > size_bytes for start, count in pairs):
                return True
        return False


def _check_codec(tags: ImageFileDirectory_v2) -> None:
    compression = tags.get(TiffImagePlugin.COMPRESSION, _RAW)
    name = TiffImagePlugin.COMPRESSION_INFO.get(compression)
    if name is None or has_codec(compression) is False:
        # A damaged tag may hold a text of several lines instead of a number.
        shown = f"{compression!a:.40}" if name is None else f"{compression} ({name})"
        raise ImageError(f"TIFF compression {shown} is not supported; convert the image to PNG")


def _is_wide_raw_plane(tags: ImageFileDirectory_v2) -> bool:
    """True for uncompressed planes of more than 8 bits. Pillow reads them as garbage."""
    is_raw = tags.get(TiffImagePlugin.COMPRESSION, _RAW) == _RAW
    is_planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    is_wide = any(bits > 8 for bits in tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return is_raw and is_planar and is_wide


def _is_short_signed(tags: ImageFileDirectory_v2) -> bool:
    """True for signed samples of up to 16 bits. Pillow shows them as unsigned, or half as bright.

    In 32-bit signed samples, Pillow itself stores gray of 16 bits.
    """
    is_signed = _SIGNED in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    return is_signed and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) <= 16


def _describe_refusal(tags: ImageFileDirectory_v2) -> str:
    """Says which samples a TIFF has."""
    bits = "/".join(map(str, sorted(set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))))
    kinds = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    kind = _KINDS.get(kinds.pop(), "") if len(kinds) == 1 else "mixed "
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    colors = _COLORS.get(photometric, f"colour space {photometric}")
    count = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return (
        f"TIFF with {count} {bits}-bit {kind}samples per pixel ({colors}) is not supported; "
        "convert the image to PNG or to an 8-bit TIFF"
    )


def _is_raw_ycbcr(tags: ImageFileDirectory_v2) -> bool:
    """True for uncompressed YCbCr that is subsampled or planar. Pillow reads both as garbage."""
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) != _YCBCR:
        return False
    if (
        tags.get(TiffImagePlugin.COMPRESSION, _RAW) != _RAW
        or tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) != 3
    ):
        return False
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2:
        return True
    subsampling = tags.get(TiffImagePlugin.YCBCRSUBSAMPLING)
    if subsampling is None:  # 2x2 by the standard, but some writers mean no subsampling
        pixels = tags[TiffImagePlugin.IMAGEWIDTH] * tags[TiffImagePlugin.IMAGELENGTH]
        stored = int(sum(tags.get(TiffImagePlugin.STRIPBYTECOUNTS, ())))
        return 0 < stored < 3 * int(pixels)
    return tuple(subsampling) != (1, 1)


# BigTIFF types of 8-byte integers, and the types that replace them in a TIFF: LONG, SLONG, IFD.
_SHRUNK_TYPES = {16: (4, "I"), 17: (9, "i"), 18: (13, "I")}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHRUNK_GROWTH = 4  # a sound file grows to less than twice its size
_POINTERS = (330, 34665, 34853, 40965)  # tags whose directories would have to be rewritten too


def _shrink_bigtiff(data: bytes) -> bytes:
    """Rewrites the directories of a big-endian BigTIFF as those of a TIFF. Copies the pixels.

    Leaves out EXIF and sub-images, which dinac does not read. Raises struct.error if the file is
    truncated, and ImageError if it is too large for a TIFF.
    """
    if len(data) >= 1 << 31:
        raise ImageError("BigTIFF of more than 2 GiB is not supported; save it as TIFF")
    out = bytearray(data)
    link, seen = 4, set[int]()
    (start,) = struct.unpack_from(">Q", data, 8)
    out[:8] = struct.pack(">2sHI", b"MM", 42, 0)
    while start and start not in seen:
        seen.add(start)
        if len(out) > _SHRUNK_GROWTH * len(data):
            raise ValueError("directories overlap")
        out.extend(bytes(len(out) % 2))
        (count,) = struct.unpack_from(">Q", data, start)
        _check_range(data, start + 8, 20 * count)
        rows = (start + 8 + 20 * i for i in range(count))
        entries = [entry for row in rows if (entry := _shrink_entry(data, row, out))]
        struct.pack_into(">I", out, link, len(out))
        out += struct.pack(">H", len(entries)) + b"".join(entries)
        link = len(out)
        out += bytes(4)
        (start,) = struct.unpack_from(">Q", data, start + 8 + 20 * count)
    return bytes(out)


def _shrink_entry(data: bytes, row: int, out: bytearray) -> bytes | None:
    """Returns the 12-byte entry for the 20-byte entry at `row`. Appends long values to `out`."""
    tag, kind, count, pointer = struct.unpack_from(">HHQQ", data, row)
    if tag in _POINTERS or kind not in (*_TYPE_BYTES, *_SHRUNK_TYPES):
        return None
    size_bytes = count * _TYPE_BYTES.get(kind, 8)
    place = row + 12 if size_bytes <= 8 else pointer
    _check_range(data, place, size_bytes)
    value = data[place : place + size_bytes]
    if kind in _SHRUNK_TYPES:
        wide = struct.unpack(f">{count}{'q' if kind == 17 else 'Q'}", value)
        kind, code = _SHRUNK_TYPES[kind]
        value = struct.pack(f">{count}{code}", *wide)
    if len(value) > 4:
        out.extend(bytes(len(out) % 2))
        place = len(out)
        out += value
        if len(out) > _SHRUNK_GROWTH * len(data):
            raise ValueError("values overlap")
        value = struct.pack(">I", place)
    return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\x00")


def _check_range(data: bytes, start: int, size_bytes: int) -> None:
    if start + size_bytes > len(data):
        raise EOFError("a directory or value lies after the end of the file")

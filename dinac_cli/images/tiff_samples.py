"""Reads the samples of a TIFF page of any byte-aligned layout, and reduces them to 8 bits.

libtiff decompresses the samples: for each plane, a directory is added to the file that declares the
bytes of the plane as an 8-bit gray image. Thus every compression of bytes works, with strips and
tiles. Source: TIFF 6.0, and Adobe's Photoshop TIFF Technical Note 3 for float predictors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from dinac_cli.errors import ImageError

_RAW = 1
_PREDICTING = (5, 8, 32946, 34925, 50000)  # LZW, deflate (two numbers), LZMA, zstd
_BYTE_COMPRESSIONS = (_RAW, 32773, *_PREDICTING)  # 32773 is PackBits
_COLOR_COUNTS = {0: 1, 1: 1, 2: 3, 5: 4}  # of MinIsWhite, MinIsBlack, RGB and CMYK
_MODES = {(1, 0): "L", (1, 1): "LA", (3, 0): "RGB", (3, 1): "RGBA", (4, 0): "CMYK"}
_TYPES = {  # by SampleFormat and BitsPerSample
    (1, 8): "u1",
    (1, 16): "u2",
    (1, 32): "u4",
    (3, 16): "f2",
    (3, 32): "f4",
    (3, 64): "f8",
}
_ASSOCIATED = 1  # alpha with which the colours are multiplied
_ALPHAS = (_ASSOCIATED, 2, 999)  # 999 is written by Corel Draw
_ALIGNMENT = 16  # of tile sizes
_PADDED_PIXELS = 1 << 24  # of a small image in large tiles
_BLOCK_SAMPLES = 1 << 22  # converted at once


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """How a TIFF page stores its samples.

    `dtype` is the type of a sample, in the byte order of the file. `colors` and `samples` count per
    pixel; the samples after the colours are alpha, if `alpha` is not 0, and samples without
    meaning. `chunk_width` and `chunk_height` are the size in pixels of a tile or of a strip.
    `starts` and `sizes` are the places of all tiles or strips in the file, in bytes.
    """

    width: int
    height: int
    dtype: np.dtype[Any]
    colors: int
    samples: int
    alpha: int
    is_inverted: bool
    is_planar: bool
    is_tiled: bool
    compression: int
    predictor: int
    fill_order: int
    chunk_width: int
    chunk_height: int
    starts: Sequence[int]
    sizes: Sequence[int]

    @property
    def mode(self) -> str:
        """Pillow's mode of the 8-bit image."""
        return _MODES[self.colors, int(self.alpha != 0)]

    @property
    def planes(self) -> int:
        """The number of planes, which are stored one after another."""
        return self.samples if self.is_planar else 1

    @property
    def plane_samples(self) -> int:
        """The number of samples per pixel in one plane."""
        return 1 if self.is_planar else self.samples

    @property
    def padded_width(self) -> int:
        """The width in pixels of whole tiles or strips."""
        return -(-self.width // self.chunk_width) * self.chunk_width


def find_layout(tags: ImageFileDirectory_v2) -> SampleLayout | None:
    """Returns the layout that the tags of a page declare, or None if `read_samples` cannot read it.

    Raises KeyError or ValueError if a tag is missing or wrong.
    """
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    colors = _COLOR_COUNTS.get(photometric)
    samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    dtype = _find_type(tags)
    compression = tags.get(TiffImagePlugin.COMPRESSION, _RAW)
    if colors is None or dtype is None or compression not in _BYTE_COMPRESSIONS:
        return None
    if colors == 1 and dtype.itemsize == 4 and dtype.kind == "u":
        return None  # such values are measurements rather than brightness
    predictor = tags.get(TiffImagePlugin.PREDICTOR, 1) if compression in _PREDICTING else 1
    if predictor not in (1, 2, 3) or (predictor == 3 and dtype.kind != "f"):
        return None
    alpha = _find_alpha(tags, samples - colors)
    if alpha is None or (colors, int(alpha != 0)) not in _MODES:
        return None
    return SampleLayout(
        width=tags[TiffImagePlugin.IMAGEWIDTH],
        height=tags[TiffImagePlugin.IMAGELENGTH],
        dtype=dtype,
        colors=colors,
        samples=samples,
        alpha=alpha,
        is_inverted=photometric == 0,
        is_planar=tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2,
        compression=compression,
        predictor=predictor,
        fill_order=tags.get(TiffImagePlugin.FILLORDER, 1),
        **_find_chunks(tags),
    )


def _find_chunks(tags: ImageFileDirectory_v2) -> dict[str, Any]:
    """Returns the fields of SampleLayout that describe its tiles or strips."""
    if TiffImagePlugin.TILEOFFSETS in tags:
        width, height = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
        if width % _ALIGNMENT or height % _ALIGNMENT:
            raise ValueError("a tile size is not a multiple of 16")
        places = (TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.TILEBYTECOUNTS)
    else:
        width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
        height = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
        places = (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS)
    if width < 1 or height < 1:
        raise ValueError("an empty image, tile or strip")
    _check_padding(tags, width, height)
    return {
        "is_tiled": TiffImagePlugin.TILEOFFSETS in tags,
        "chunk_width": width,
        "chunk_height": height,
        "starts": tags.get(places[0], ()),
        "sizes": tags.get(places[1], ()),
    }


def _check_padding(tags: ImageFileDirectory_v2, width: int, height: int) -> None:
    """Raises ValueError if tiles of this size need much more memory than the image itself."""
    sides = (tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH])
    padded = -(-sides[0] // width) * width * (-(-sides[1] // height) * height)
    if padded > max(_PADDED_PIXELS, 4 * sides[0] * sides[1]):
        raise ValueError("the tiles are much larger than the image")


def _find_type(tags: ImageFileDirectory_v2) -> np.dtype[Any] | None:
    """Returns the type of all samples in the byte order of the file."""
    bits = set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    kinds = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    if len(bits) != 1 or len(kinds) != 1:
        return None
    name = _TYPES.get((kinds.pop(), bits.pop()))
    order = ">" if tags.prefix == TiffImagePlugin.MM else "<"
    return None if name is None else np.dtype(order + name)


def _find_alpha(tags: ImageFileDirectory_v2, extra_count: int) -> int | None:
    """Returns the kind of alpha, 0 if there is no alpha, or None if it is not known."""
    extras = tuple(tags.get(TiffImagePlugin.EXTRASAMPLES, ()))
    is_rgb = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 2
    if not extras and is_rgb and extra_count == 1:
        return 2  # as Pillow assumes
    if len(extras) != extra_count or any(extras[1:]):
        return None
    if not extras or extras[0] == 0:
        return 0
    return extras[0] if extras[0] in _ALPHAS else None


def read_samples(data: bytes, layout: SampleLayout) -> NDArray[Any]:
    """Returns all samples as [H, W, samples] in the byte order of the machine.

    `data` is the whole file. Raises EOFError if it is truncated, and ValueError if it is damaged.
    """
    posed, directories = _pose_as_gray(data, layout)
    samples = np.empty(
        (layout.height, layout.width, layout.samples), layout.dtype.newbyteorder("=")
    )
    pixel_bytes = layout.plane_samples * layout.dtype.itemsize
    size = (layout.padded_width * pixel_bytes, layout.height)
    for plane, directory in enumerate(directories):
        image = Image.frombytes("L", size, posed, "libtiff", ("L", False, directory))
        values = _undo_predictor(np.asarray(image), layout)[:, : layout.width]
        if layout.is_planar:
            samples[..., plane] = values[..., 0]
        else:
            samples[...] = values
    return samples


def _pose_as_gray(data: bytes, layout: SampleLayout) -> tuple[bytes, list[int]]:
    """Returns a little-endian TIFF, and for each plane the place of a directory in it.

    Each directory declares the bytes of a plane as the pixels of an 8-bit gray image.
    """
    pixel_bytes = layout.plane_samples * layout.dtype.itemsize
    row_bytes = layout.chunk_width * pixel_bytes
    across = layout.padded_width // layout.chunk_width
    count = across * -(-layout.height // layout.chunk_height)
    if len(layout.starts) < count * layout.planes:
        raise ValueError("strips or tiles are missing")
    posed = bytearray(data)
    directories = []
    for plane in range(layout.planes):
        starts = layout.starts[plane * count : (plane + 1) * count]
        sizes = _measure_chunks(layout, plane * count, count, row_bytes)
        if any(start + size > len(data) for start, size in zip(starts, sizes, strict=True)):
            raise EOFError("the pixels end after the file")
        entries = _describe_plane(layout, starts, sizes, pixel_bytes)
        directories.append(_append_directory(posed, entries))
    posed[:8] = struct.pack("<2sHI", b"II", 42, directories[0])
    return bytes(posed), directories


def _describe_plane(
    layout: SampleLayout, starts: Sequence[int], sizes: Sequence[int], pixel_bytes: int
) -> dict[int, Sequence[int]]:
    """Returns tags and values that declare the bytes of a plane as an 8-bit gray image."""
    entries: dict[int, Sequence[int]] = {
        TiffImagePlugin.IMAGEWIDTH: [layout.padded_width * pixel_bytes],
        TiffImagePlugin.IMAGELENGTH: [layout.height],
        TiffImagePlugin.BITSPERSAMPLE: [8],
        TiffImagePlugin.COMPRESSION: [layout.compression],
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: [1],
        TiffImagePlugin.FILLORDER: [layout.fill_order],
        TiffImagePlugin.SAMPLESPERPIXEL: [1],
    }
    if layout.is_tiled:
        return entries | {
            TiffImagePlugin.TILEWIDTH: [layout.chunk_width * pixel_bytes],
            TiffImagePlugin.TILELENGTH: [layout.chunk_height],
            TiffImagePlugin.TILEOFFSETS: starts,
            TiffImagePlugin.TILEBYTECOUNTS: sizes,
        }
    return entries | {
        TiffImagePlugin.STRIPOFFSETS: starts,
        TiffImagePlugin.ROWSPERSTRIP: [layout.chunk_height],
        TiffImagePlugin.STRIPBYTECOUNTS: sizes,
    }


def _measure_chunks(layout: SampleLayout, first: int, count: int, row_bytes: int) -> Sequence[int]:
    """Returns the sizes in bytes of the tiles or strips of a plane.

    Raw sizes follow from the layout; some writers leave them out or write them wrongly.
    """
    if layout.compression != _RAW:
        sizes = layout.sizes[first : first + count]
        if len(sizes) < count:
            raise ValueError("the sizes of strips or tiles are missing")
        return sizes
    if layout.is_tiled:
        return [row_bytes * layout.chunk_height] * count
    heights = [layout.chunk_height] * (count - 1)
    heights.append(layout.height - layout.chunk_height * (count - 1))
    return [row_bytes * height for height in heights]


def _append_directory(out: bytearray, entries: Mapping[int, Sequence[int]]) -> int:
    """Appends a directory of 32-bit integers to a little-endian TIFF. Returns its place."""
    out.extend(bytes(len(out) % 2))
    rows = []
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            place = len(out)
            out.extend(packed)
            packed = struct.pack("<I", place)
        rows.append(struct.pack("<HHI", tag, 4, len(values)) + packed)
    start = len(out)
    out += struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    return start


def _undo_predictor(rows: NDArray[np.uint8], layout: SampleLayout) -> NDArray[Any]:
    """Turns rows of bytes [H, padded bytes] into samples [H, padded W, plane samples]."""
    height, depth = len(rows), layout.plane_samples
    dtype, native = layout.dtype, layout.dtype.newbyteorder("=")
    chunk = (height, -1, layout.chunk_width)  # rows of tiles
    if layout.predictor == 3:
        steps = rows.reshape(*chunk[:2], layout.chunk_width * dtype.itemsize, depth)
        planes = np.cumsum(steps, axis=2, dtype=np.uint8)
        planes = planes.reshape(height, -1, dtype.itemsize, layout.chunk_width * depth)
        ordered = np.ascontiguousarray(planes.swapaxes(2, 3))
        samples = ordered.view(dtype.newbyteorder(">")).astype(native)
    elif layout.predictor == 2:
        integer = np.dtype(f"{dtype.byteorder}u{dtype.itemsize}")
        steps = rows.view(integer).astype(integer.newbyteorder("=")).reshape(*chunk, depth)
        samples = np.cumsum(steps, axis=2, dtype=steps.dtype).view(native)
    else:
        samples = rows.view(dtype).astype(native, copy=False)
    return samples.reshape(height, -1, depth)


def reduce_samples(samples: NDArray[Any], layout: SampleLayout) -> NDArray[np.uint8]:
    """Reduces samples [H, W, samples] to uint8 [H, W, colours and alpha].

    Undoes the multiplication of the colours with alpha. Floats must be between 0 and 1.
    Raises ImageError for other floats.
    """
    depth = layout.colors + (layout.alpha != 0)
    reduced = np.empty((*samples.shape[:2], depth), np.uint8)
    step = max(1, _BLOCK_SAMPLES // (samples.shape[1] * samples.shape[2]))
    for top in range(0, len(samples), step):
        block = samples[top : top + step, :, :depth]
        with np.errstate(all="ignore"):  # reduce_values refuses what is not a number
            if layout.alpha == _ASSOCIATED:
                block = _divide_by_alpha(block)
            reduced[top : top + step] = reduce_values(block, is_gray=layout.colors == 1)
    if layout.is_inverted:
        np.subtract(255, reduced[..., 0], out=reduced[..., 0])
    return reduced


def _divide_by_alpha(block: NDArray[Any]) -> NDArray[Any]:
    """Undoes the multiplication of the colours with alpha. Returns float64, between 0 and 1."""
    peak = np.iinfo(block.dtype).max if block.dtype.kind == "u" else 1
    values = block.astype(np.float64) / peak
    alpha = values[..., -1:]
    colors = np.where(alpha > 0, values[..., :-1] / alpha, 0)
    return np.concatenate([np.minimum(colors, 1), alpha], axis=-1)


def reduce_values(block: NDArray[Any], *, is_gray: bool) -> NDArray[np.uint8]:
    """Keeps 8 bits of each value, with the rounding of other 16-bit images.

    Takes unsigned integers, or floats between 0 and 1. Raises ImageError for other floats.
    """
    if block.dtype.kind == "f":
        if not (block.min() >= 0 and block.max() <= 1):  # `not` also catches NaN
            kind = "gray" if is_gray else "float"
            raise ImageError(
                f"{kind} values outside 0..1 have no defined brightness; convert to 8 or 16 bits"
            )
        if block.dtype.itemsize < 4:
            block = block.astype(np.float32)
        rounded: NDArray[np.uint8] = np.rint(block * 255).astype(np.uint8)
        return rounded
    if is_gray and block.dtype.itemsize == 2:
        return ((block.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    shift = 8 * (block.dtype.itemsize - 1)
    high: NDArray[np.uint8] = np.right_shift(block, shift).astype(np.uint8)
    return high

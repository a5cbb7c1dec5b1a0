"""Reads the header of a JPEG XL file (ISO/IEC 18181): size, channels and declared colours.

All offsets and counts come from an untrusted file: the reader visits a bounded number of boxes and
extra channels, and reads a bounded number of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO

from dinac_cli.images.color_space import ColorSpace, find_coded_space, make_space

_MAX_BOXES = 256
_MAX_HEADER_BYTES = 1 << 16
_CONTAINER = b"\x00\x00\x00\x0cJXL "
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

_ALPHA, _SPOT, _BLACK, _COLOR_FILTER = 0, 2, 4, 5  # types of extra channels

_RGB, _GRAY = 0, 1  # kinds of colours
_CUSTOM = 2  # white point or primaries that are given as numbers
_COORDINATE_UNITS, _GAMMA_UNITS = 1_000_000, 10_000_000

_WHITES = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}
_PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_SRGB_CURVE = 13
_CODED_PRIMARIES = {(1, 1): 1, (1, 9): 9, (1, 11): 12, (11, 11): 11}
"""(white point, primaries) of JPEG XL → primaries of ITU-T H.273."""

# In JPEG XL, unlike in videos, BT.709 is the curve of the pixels, and not that of a camera.
_CURVES = {
    1: "bt709",
    8: "linear",
    13: "srgb",
    16: "pq",
    17: "gamma2.6",
    18: "hlg",
}

_SRGB = find_coded_space(1, _SRGB_CURVE)

# The choices of a U32 field: (bits, offset) for each of its four selectors.
_Choices = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
_SIDE: _Choices = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_SIDE: _Choices = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_BLOCKS: _Choices = ((0, 16), (0, 32), (5, 1), (9, 33))
_ENUM: _Choices = ((0, 0), (0, 1), (4, 2), (6, 18))
_COORDINATE: _Choices = ((19, 0), (19, 1 << 19), (20, 1 << 20), (21, 1 << 21))


@dataclass(frozen=True)
class JxlHeader:
    """What the header of a JPEG XL image declares. The defaults are those of the format.

    `width` and `height` are those of the upright image. `has_profile` is true if the file holds an
    ICC profile. Otherwise, `space` are the colours, or None if the header does not describe them.
    `is_xyb` is true if the pixels are stored in the absolute colours of lossy files, and not in
    those that the file declares.
    """

    width: int
    height: int
    is_gray: bool = False
    has_alpha: bool = False
    has_black: bool = False
    is_premultiplied: bool = False
    is_animated: bool = False
    has_profile: bool = False
    is_xyb: bool = True
    space: ColorSpace | None = _SRGB


def read_header(file: IO[bytes]) -> JxlHeader:
    """Reads the header from the start of a file. Raises EOFError or ValueError if it is damaged."""
    bits = _Bits(_read_codestream(file))
    width, height = _read_size(bits)
    if bits.read(1):  # everything has its default
        return JxlHeader(width, height)
    orientation, is_animated = _read_extra_fields(bits) if bits.read(1) else (1, False)
    _skip_bit_depth(bits)
    bits.read(1)  # whether 16-bit buffers suffice
    channels = [_read_channel(bits) for _ in range(bits.choose((0, 0), (0, 1), (4, 2), (12, 1)))]
    is_xyb = bool(bits.read(1))
    is_gray, has_profile, space = _read_colors(bits)
    if orientation > 4:
        width, height = height, width
    kinds = [kind for kind, _ in channels]
    return JxlHeader(
        width,
        height,
        is_gray,
        _ALPHA in kinds,
        _BLACK in kinds,
        (_ALPHA, True) in channels,
        is_animated,
        has_profile,
        is_xyb,
        space,
    )


class _Bits:
    """Reads numbers, least significant bit first. Raises EOFError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise EOFError("truncated header")
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._left -= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Reads a U32 field: two bits select how many bits follow, and what is added to them."""
        count, offset = choices[self.read(2)]
        return self.read(count) + offset


def _read_codestream(file: IO[bytes]) -> bytes:
    """Returns the start of the codestream after its signature."""
    head = file.read(12)
    file.seek(0)
    if not head.startswith(_CONTAINER):
        return file.read(_MAX_HEADER_BYTES)[2:]
    for _ in range(_MAX_BOXES):
        start = file.tell()
        head = file.read(16)
        if len(head) < 8:
            raise EOFError("no codestream")
        size, used = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, used = int.from_bytes(head[8:], "big"), 16
        if head[4:8] in (b"jxlc", b"jxlp"):
            file.seek(start + used + (4 if head[4:8] == b"jxlp" else 0))
            content = file.read(_MAX_HEADER_BYTES)
            if content[:2] != b"\xff\x0a":
                raise ValueError("no codestream")
            return content[2:]
        if size < used:
            raise ValueError("invalid box")
        file.seek(start + size)
    raise ValueError("too many boxes")


def _read_size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.read(1)
    height = 8 * (bits.read(5) + 1) if is_small else bits.choose(*_SIDE)
    ratio = bits.read(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio - 1]
        return height * numerator // denominator, height
    return 8 * (bits.read(5) + 1) if is_small else bits.choose(*_SIDE), height


def _read_extra_fields(bits: _Bits) -> tuple[int, bool]:
    """Returns the orientation as in EXIF, and whether the image is animated."""
    orientation = bits.read(3) + 1
    if bits.read(1):  # the intended size on a screen
        _read_size(bits)
    if bits.read(1):  # the size of a preview
        side = _PREVIEW_BLOCKS if bits.read(1) else _PREVIEW_SIDE
        bits.choose(*side)
        if not bits.read(3):
            bits.choose(*side)
    is_animated = bool(bits.read(1))
    if is_animated:
        bits.choose((0, 100), (0, 1000), (10, 1), (30, 1))
        bits.choose((0, 1), (0, 1001), (8, 1), (10, 1))
        bits.choose((0, 0), (3, 0), (16, 0), (32, 0))
        bits.read(1)
    return orientation, is_animated


def _skip_bit_depth(bits: _Bits) -> None:
    if bits.read(1):  # floating point
        bits.choose((0, 32), (0, 16), (0, 24), (6, 1))
        bits.read(4)
    else:
        bits.choose((0, 8), (0, 10), (0, 12), (6, 1))


def _read_channel(bits: _Bits) -> tuple[int, bool]:
    """Returns the type of an extra channel, and whether the colours are premultiplied by it."""
    if bits.read(1):
        return _ALPHA, False
    kind = bits.choose(*_ENUM)
    _skip_bit_depth(bits)
    bits.choose((0, 0), (0, 3), (0, 4), (3, 1))
    bits.read(8 * bits.choose((0, 0), (4, 0), (5, 16), (10, 48)))  # the name
    is_premultiplied = kind == _ALPHA and bool(bits.read(1))
    if kind == _SPOT:
        bits.read(4 * 16)
    elif kind == _COLOR_FILTER:
        bits.choose((0, 1), (2, 0), (4, 3), (8, 19))
    return kind, is_premultiplied


def _read_colors(bits: _Bits) -> tuple[bool, bool, ColorSpace | None]:
    """Returns whether the image is gray, whether it has an ICC profile, and the declared space."""
    if bits.read(1):
        return False, False, _SRGB
    has_profile, kind = bool(bits.read(1)), bits.choose(*_ENUM)
    is_gray = kind == _GRAY
    if has_profile or kind not in (_RGB, _GRAY):
        return is_gray, has_profile, None
    try:
        return is_gray, False, _read_space(bits, is_gray=is_gray)
    except (KeyError, ValueError):  # unknown numbers, or primaries that are no triangle
        return is_gray, False, None


def _read_space(bits: _Bits, *, is_gray: bool) -> ColorSpace:
    """Raises KeyError or ValueError if the colours are unknown."""
    space = _read_primaries(bits, is_gray=is_gray)
    if bits.read(1):  # the curve is a power
        return make_space(space.primaries, bits.read(24) / _GAMMA_UNITS)
    return replace(space, transfer=_CURVES[bits.choose(*_ENUM)])


def _read_primaries(bits: _Bits, *, is_gray: bool) -> ColorSpace:
    """Returns a space of the primaries that follow, with the curve of sRGB."""
    white = bits.choose(*_ENUM)
    white_point = _read_points(bits, 1) if white == _CUSTOM else _WHITES[white]
    if is_gray:
        return _SRGB
    primaries = bits.choose(*_ENUM)
    points = _read_points(bits, 3) if primaries == _CUSTOM else _PRIMARIES[primaries]
    code = _CODED_PRIMARIES.get((white, primaries))
    if code is None:
        return make_space((*white_point, *points), None)
    return find_coded_space(code, _SRGB_CURVE)


def _read_points(bits: _Bits, count: int) -> tuple[float, ...]:
    """Reads x and y of colours. An even number stands for a positive value."""
    numbers = [bits.choose(*_COORDINATE) for _ in range(2 * count)]
    return tuple((-(n + 1) // 2 if n % 2 else n // 2) / _COORDINATE_UNITS for n in numbers)

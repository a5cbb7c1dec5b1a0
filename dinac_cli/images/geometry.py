"""How the sides of an image are changed before it is encoded: scaled, cropped, told as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from dinac_cli.images.pixels import Pixels

MAX_SIDE = 1 << 20
"""No side that can be asked for is longer, in pixels."""

# What reading says of itself in a description, beside the geometry.
_READING_KEYS = {"orientation", "color", "alpha", "frame"}
_GEOMETRY_KEYS = {"resize", "max_side", "crop", "flip"}
_TWIN = "twin"
_SIDE = "[1-9][0-9]{0,6}"
_NUMBER = re.compile(_SIDE)
_SIZE = re.compile(f"({_SIDE})x({_SIDE})")


@dataclass(frozen=True)
class Geometry:
    """What is done to an upright image of sRGB pixels: scaled, then cropped, and mirrored.

    `resize` is what the short side becomes, up or down; `max_side` what the long side becomes
    where it is longer (not both); `crop` (width, height) the centre that is kept of that; all in
    pixels. `flip` asks for a twin beside the image, mirrored left to right; `apply` does not make
    it. Raises ValueError for what no image can have.
    """

    resize: int | None = None
    max_side: int | None = None
    crop: tuple[int, int] | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.resize is not None and self.max_side is not None:
            raise ValueError("resize and max_side exclude each other")
        for side in (self.resize, self.max_side, *(self.crop or ())):
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise ValueError(f"sides are 1 to {MAX_SIDE} pixels long")

    @property
    def text(self) -> str:
        """`resize=256;crop=256x256;flip=twin`: what is asked for; empty where nothing is."""
        pairs = []
        if self.resize is not None:
            pairs.append(f"resize={self.resize}")
        if self.max_side is not None:
            pairs.append(f"max_side={self.max_side}")
        if self.crop is not None:
            pairs.append(f"crop={_name_size(self.crop)}")
        if self.flip:
            pairs.append(f"flip={_TWIN}")
        return ";".join(pairs)

    @property
    def changes_pixels(self) -> bool:
        """False where `apply` gives back what it gets."""
        return self.resize is not None or self.max_side is not None or self.crop is not None

    def scale(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after scaling; the other side is rounded half up, at least 1 pixel.

        Raises ImageError where that would be too large an image.
        """
        size = self._scale_sides(width, height)
        pixels = size[0] * size[1]
        if pixels > max(MAX_PIXELS, width * height):
            raise ImageError(
                f"{width}x{height} would be scaled to {_name_size(size)}, {pixels} pixels, more "
                f"than the limit of {MAX_PIXELS}: choose a smaller --resize"
            )
        return size

    def measure(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in the end. Raises ImageError as `scale`, and for less than the crop."""
        size = self.scale(width, height)
        if self.crop is None:
            return size
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            raise ImageError(self._describe_small((width, height), size))
        return self.crop

    def apply(self, pixels: Pixels) -> Pixels:
        """Scale and crop uint8 [H, W, 3]; `pixels` itself where nothing is asked for.

        Of an odd remainder of the crop the smaller half is left and above. Raises ImageError as
        `measure`.
        """
        if not self.changes_pixels:
            return pixels
        # Only here: what parses options needs neither numpy nor Pillow.
        from dinac_cli.images.pixels import crop_centre, scale_pixels

        height, width, _ = pixels.shape
        final = self.measure(width, height)
        return crop_centre(scale_pixels(pixels, *self.scale(width, height)), *final)

    def describe(self, description: str) -> str:
        """What was done to an image: `description`, what reading did, and this."""
        return ";".join(filter(None, (description, self.text)))

    def _scale_sides(self, width: int, height: int) -> tuple[int, int]:
        short, long = sorted((width, height))
        if self.resize is not None:
            return _scale(width, height, self.resize, short)
        if self.max_side is not None and long > self.max_side:
            return _scale(width, height, self.max_side, long)
        return width, height

    def _describe_small(self, source: tuple[int, int], scaled: tuple[int, int]) -> str:
        assert self.crop is not None
        crop = f"is smaller than the crop of {_name_size(self.crop)}"
        if scaled == source:
            return f"{_name_size(source)} {crop}: crop less, or scale with --resize first"
        option = "--max-side" if self.resize is None else "--resize"
        return f"{_name_size(source)}, scaled to {_name_size(scaled)}, {crop}: " + (
            f"crop less, or choose a larger {option}"
        )


NO_GEOMETRY = Geometry()
"""Images stay as they are, and have no twins."""


def parse_size(text: str) -> tuple[int, int]:
    """`256x128`, or `256` for a square, as (width, height). Raises ValueError."""
    match = _SIZE.fullmatch(text if "x" in text else f"{text}x{text}")
    if match is None:
        raise ValueError(f"{text} is no size")
    return int(match[1]), int(match[2])


def read_geometry(description: str) -> Geometry:
    """The geometry that a record's `image` field tells of: `key=value`, separated by semicolons.

    Raises ImageError where the field holds anything that is not understood.
    """
    try:
        pairs = _split_pairs(description)
        unknown = pairs.keys() - _READING_KEYS - _GEOMETRY_KEYS
        if unknown:
            raise ValueError(f"unknown key {min(unknown)[:40]!a}")
        return _build_geometry(pairs)
    except ValueError as exc:
        raise ImageError(f"{exc} in what it says of its image: update dinac-cli") from exc


def find_geometry(description: str) -> str:
    """The part of a record's `image` field that is of its geometry, as `Geometry.text` has it."""
    pairs = (pair for pair in description.split(";") if pair.partition("=")[0] in _GEOMETRY_KEYS)
    return ";".join(pairs)


def _split_pairs(description: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in filter(None, description.split(";")):
        key, sign, value = pair.partition("=")
        if not sign or key in pairs:
            raise ValueError(f"{pair[:40]!a} is no pair, or its key is repeated")
        pairs[key] = value
    return pairs


def _build_geometry(pairs: Mapping[str, str]) -> Geometry:
    if pairs.get("flip", _TWIN) != _TWIN:
        raise ValueError(f"unknown flip {pairs['flip'][:40]!a}")
    crop = pairs.get("crop")
    if crop is not None and "x" not in crop:
        raise ValueError(f"{crop[:40]!a} is no size")
    return Geometry(
        _read_side(pairs.get("resize")),
        _read_side(pairs.get("max_side")),
        None if crop is None else parse_size(crop),
        "flip" in pairs,
    )


def _read_side(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no number of pixels")
    return int(text)


def _scale(width: int, height: int, wanted: int, side: int) -> tuple[int, int]:
    """Both sides times wanted / side, rounded half up in integers."""
    return (
        max(1, (2 * width * wanted + side) // (2 * side)),
        max(1, (2 * height * wanted + side) // (2 * side)),
    )


def _name_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

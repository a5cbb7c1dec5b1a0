"""Geometry: the scaling, cropping and mirroring of an image before it is encoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from dinac_cli.errors import ImageError, SmallImageError, UsageError
from dinac_cli.images.description import format_description, parse_description
from dinac_cli.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from dinac_cli.images.pixels import Pixels

MAX_SIDE = 1 << 20
"""The largest side that the user can request, in pixels."""

# `read_image` writes these keys into a description.
_READING_KEYS = {"orientation", "color", "alpha", "frame", "reader"}
_GEOMETRY_KEYS = {"resize", "max_side", "crop", "flip"}
_TWIN = "twin"
_NONE = "none"
# Versions without --no-upscale ignore unknown keys when they compare records, but refuse unknown
# values. So this is a part of the value of `resize`, not a key: no version mixes the two kinds.
_DOWN_ONLY = "-down"
_SIDE = "[1-9][0-9]{0,6}"
_NUMBER = re.compile(_SIDE)
_SIZE = re.compile(f"({_SIDE})x({_SIDE})")


@dataclass(frozen=True)
class Geometry:
    """The changes to the upright sRGB pixels of an image: first scaling, then cropping.

    `resize` sets the short side: it can enlarge or reduce the image. If `upscale` is false, it only
    reduces images. `max_side` limits the long side. `crop` (width, height) keeps the centre. All
    sides are in pixels. If `flip` is true, the image mirrored left to right is also requested, but
    `apply` does not make it. Raises ValueError if a side is not between 1 and `MAX_SIDE`, if both
    `resize` and `max_side` are set, or if `upscale` is false without `resize`.
    """

    resize: int | None = None
    max_side: int | None = None
    crop: tuple[int, int] | None = None
    flip: bool = False
    upscale: bool = True

    def __post_init__(self) -> None:
        if self.resize is not None and self.max_side is not None:
            raise ValueError("resize and max_side cannot be used together; leave one out")
        if self.resize is None and not self.upscale:
            raise ValueError("upscale=False needs resize")
        for side in (self.resize, self.max_side, *(self.crop or ())):
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise ValueError(f"sides must be 1 to {MAX_SIDE} pixels long")

    @property
    def text(self) -> str:
        """The changes as a description, such as `resize=256;crop=256x256;flip=twin`, or ""."""
        return format_description(self._list_pairs())

    @property
    def changes_pixels(self) -> bool:
        """True if `apply` can change the size of an image."""
        return self.resize is not None or self.max_side is not None or self.crop is not None

    def scale(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) after scaling. Each side is rounded half up, and is at least 1.

        Raises ImageError if the scaled image has more than MAX_PIXELS pixels and also has more
        pixels than the source.
        """
        side = max(width, height) if self.resize is None else min(width, height)
        wanted = self.resize or self.max_side or side
        if not (self.resize and self.upscale):
            wanted = min(wanted, side)
        size = (
            max(1, (2 * width * wanted + side) // (2 * side)),
            max(1, (2 * height * wanted + side) // (2 * side)),
        )
        pixels = size[0] * size[1]
        if pixels > max(MAX_PIXELS, width * height):
            raise ImageError(
                f"{width}x{height} would be scaled to {_name_size(size)}, {pixels} pixels, more "
                f"than the limit of {MAX_PIXELS}; choose a smaller --resize"
            )
        return size

    def upscales(self, width: int, height: int) -> bool:
        """True if `scale` enlarges an image of this size."""
        return self.upscale and self.resize is not None and min(width, height) < self.resize

    def measure(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) after scaling and cropping.

        Raises ImageError if `scale` raises it, and SmallImageError if the scaled image is smaller
        than the crop.
        """
        size = self.scale(width, height)
        if self.crop is None:
            return size
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            raise self._refuse_small(width, height)
        return self.crop

    def _refuse_small(self, width: int, height: int) -> SmallImageError:
        assert self.crop is not None
        size = self.scale(width, height)
        found, advice = f"{width}x{height}", "scale with --resize first"
        if size != (width, height):
            found += f", scaled to {_name_size(size)},"
            advice = f"choose a larger {'--max-side' if self.resize is None else '--resize'}"
        elif not self.upscale:
            advice = "leave out --no-upscale, or add --skip-small"
        crop = _name_size(self.crop)
        return SmallImageError(
            f"{found} is smaller than the crop of {crop}; crop less, or {advice}"
        )

    def apply(self, pixels: Pixels) -> Pixels:
        """Scales and crops uint8 [H, W, 3]. Returns `pixels` itself if it needs no change.

        If an odd number of rows is cut, the bottom loses one row more than the top. For columns,
        the right side loses one more. Raises ImageError if `measure` raises it.
        """
        if not self.changes_pixels:
            return pixels
        # The import is here because the parsing of options must not load numpy and Pillow.
        from dinac_cli.images.pixels import crop_centre, scale_pixels

        height, width, _ = pixels.shape
        final = self.measure(width, height)
        return crop_centre(scale_pixels(pixels, *self.scale(width, height)), *final)

    def describe(self, description: str) -> str:
        """Appends this geometry to the `description` of an image, and returns the result."""
        return format_description(parse_description(description) | self._list_pairs())

    def list_options(self, unlike: Geometry) -> list[str]:
        """Returns the options that differ from `unlike`, such as `["--resize 256", "--flip"]`.

        An option that only `unlike` sets is listed with its default: `--crop none`, `--no-flip`.
        """
        pairs = zip(self._spell_options(unlike), unlike._spell_options(self), strict=True)
        return [own for own, other in pairs if own != other]

    def _spell_options(self, other: Geometry) -> tuple[str, str, str]:
        """Returns scaling, crop and flip as options."""
        crop = _NONE if self.crop is None else _name_size(self.crop)
        return (
            self._spell_scaling(other),
            f"--crop {crop}",
            "--flip" if self.flip else "--no-flip",
        )

    def _spell_scaling(self, other: Geometry) -> str:
        """Returns the scaling as options.

        If `other` resizes to the same side, returns only whether images are scaled up. If this
        geometry does not scale, names the scaling option of `other` with the value none.
        """
        upscale = "--upscale" if self.upscale else "--no-upscale"
        if self.resize is not None and self.resize == other.resize:
            return upscale
        scales_itself = self.resize is not None or self.max_side is not None
        scaling = self if scales_itself else other
        option = "--resize" if scaling.max_side is None else "--max-side"
        side = f"{option} {self.resize or self.max_side or _NONE}"
        return side if self.upscale else f"{side} {upscale}"

    def _list_pairs(self) -> dict[str, str]:
        pairs = {
            "resize": self.resize if self.upscale else f"{self.resize}{_DOWN_ONLY}",
            "max_side": self.max_side,
            "crop": None if self.crop is None else _name_size(self.crop),
            "flip": _TWIN if self.flip else None,
        }
        return {key: str(value) for key, value in pairs.items() if value is not None}


NO_GEOMETRY = Geometry()
"""The geometry that changes no image and requests no mirrored image."""


def choose_geometry(
    resize: int | None,
    max_side: int | None,
    crop: tuple[int, int] | None,
    *,
    flip: bool = False,
    upscale: bool = True,
) -> Geometry:
    """Builds the geometry from the options. Raises UsageError if an option is invalid."""
    if resize is not None and max_side is not None:
        raise UsageError("--resize and --max-side cannot be used together; leave one out")
    if resize is None and not upscale:
        raise UsageError("--no-upscale needs --resize; --max-side and --crop never scale up")
    for option, sides in (("resize", [resize]), ("max-side", [max_side]), ("crop", crop or [])):
        for side in sides:
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise UsageError(f"--{option} {side}: expected 1 to {MAX_SIDE} pixels")
    return Geometry(resize, max_side, crop, flip, upscale)


@dataclass(frozen=True, kw_only=True)
class GeometryChoice:
    """The geometry options of a request: a value, "none" for no scaling or no crop, or None.

    None means that the option is not given. See `Geometry` for the values. Raises UsageError if an
    option is invalid, or if both `resize` and `max_side` are numbers.
    """

    resize: int | Literal["none"] | None = None
    max_side: int | Literal["none"] | None = None
    crop: tuple[int, int] | Literal["none"] | None = None
    flip: bool | None = None
    upscale: bool | None = None

    def __post_init__(self) -> None:
        for option, value in (("resize", self.resize), ("max-side", self.max_side)):
            if isinstance(value, str) and value != _NONE:
                raise UsageError(f"--{option} {value}: expected 1 to {MAX_SIDE} pixels, or none")
        if isinstance(self.crop, str) and self.crop != _NONE:
            raise UsageError(f"--crop {self.crop}: expected (width, height) or none")
        choose_geometry(
            _choose(self.resize, None), _choose(self.max_side, None), _choose(self.crop, None)
        )

    def fill(self) -> Geometry:
        """Returns the geometry. Options that are not given have their defaults.

        Without `resize`, ignores `upscale`: it may belong to a `resize` that the run follows.
        """
        scales = isinstance(self.resize, int)
        return (self if scales else replace(self, upscale=None)).follow(NO_GEOMETRY)

    def follow(self, held: Geometry) -> Geometry:
        """Returns the geometry of a run. Options that are not given have the values of `held`.

        If `resize` or `max_side` is a number, the other option is not taken from `held`, because
        the two options exclude each other. Raises UsageError if upscaling is forbidden without
        `resize`.
        """
        scales_itself = isinstance(self.resize, int) or isinstance(self.max_side, int)
        scaling = NO_GEOMETRY if scales_itself else held
        resize = _choose(self.resize, scaling.resize)
        followed = held.upscale or resize is None
        return choose_geometry(
            resize,
            _choose(self.max_side, scaling.max_side),
            _choose(self.crop, held.crop),
            flip=held.flip if self.flip is None else self.flip,
            upscale=followed if self.upscale is None else self.upscale,
        )


_Value = TypeVar("_Value", int, tuple[int, int])


def _choose(given: _Value | Literal["none"] | None, held: _Value | None) -> _Value | None:
    if given is None:
        return held
    return None if isinstance(given, str) else given


def parse_size(text: str) -> tuple[int, int]:
    """Parses `256x128`, or `256` for a square, into (width, height). Raises ValueError."""
    match = _SIZE.fullmatch(text if "x" in text else f"{text}x{text}")
    if match is None:
        raise ValueError(f"{text} is not a size")
    return int(match[1]), int(match[2])


def read_geometry(description: str) -> Geometry:
    """Parses a record's `image` field. Raises ImageError for an unknown key or an invalid value."""
    try:
        pairs = parse_description(description, strict=True)
        if unknown := pairs.keys() - _READING_KEYS - _GEOMETRY_KEYS:
            raise ValueError(f"unknown key {min(unknown)[:40]!a}")
        if pairs.get("flip", _TWIN) != _TWIN:
            raise ValueError(f"unknown flip {pairs['flip'][:40]!a}")
        crop = pairs.get("crop")
        if crop is not None and "x" not in crop:
            raise ValueError(f"{crop[:40]!a} is not a size")
        resize = pairs.get("resize")
        return Geometry(
            None if resize is None else _read_side(resize.removesuffix(_DOWN_ONLY)),
            _read_side(pairs.get("max_side")),
            None if crop is None else parse_size(crop),
            "flip" in pairs,
            resize is None or not resize.endswith(_DOWN_ONLY),
        )
    except ValueError as exc:
        raise ImageError(f"{exc} in the record's image field; update dinac-cli") from exc


def find_geometry(description: str) -> str:
    """Returns the geometry in a record's `image` field, in the form of `Geometry.text`."""
    pairs = parse_description(description).items()
    return format_description({key: value for key, value in pairs if key in _GEOMETRY_KEYS})


def allows_upscaling(description: str) -> bool:
    """True if the geometry in a record's `image` field enlarges small images."""
    resize = parse_description(description).get("resize", "")
    return _NUMBER.fullmatch(resize) is not None


def _read_side(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is not a number of pixels")
    return int(text)


def _name_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

"""Geometry: the scaling, cropping and mirroring of an image before it is encoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from dinac_cli.errors import ImageError, SmallImageError, UsageError
from dinac_cli.images.buckets import Buckets, is_bucket_text, parse_buckets
from dinac_cli.images.description import format_description, parse_description
from dinac_cli.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from dinac_cli.images.masks import Mask
    from dinac_cli.images.pixels import Pixels

MAX_SIDE = 1 << 20
"""The largest side that the user can request, in pixels."""

MASK_KEY = "mask"
"""The key of the mask in the `image` field of a record."""

# `read_image` writes these keys into a description.
_READING_KEYS = {"orientation", "color", "alpha", "frame", "damaged", "reader", MASK_KEY}
_GEOMETRY_KEYS = {"resize", "max_side", "crop", "flip"}
_TWIN = "twin"
_NONE = "none"
# Versions without --no-upscale or --buckets ignore unknown keys when they compare records, but
# refuse unknown values. So these are parts of the value of `resize`, not keys: no version mixes
# the kinds.
_DOWN_ONLY = "-down"
_ALSO_UP = "-up"
_SIDE = "[1-9][0-9]{0,6}"
_NUMBER = re.compile(_SIDE)
_SIZE = re.compile(f"({_SIDE})x({_SIDE})")


@dataclass(frozen=True)
class Geometry:
    """The changes to the upright sRGB pixels of an image: first scaling, then cropping.

    `resize` sets the short side: it can enlarge or reduce the image. If `upscale` is false, it only
    reduces images. `max_side` limits the long side. `crop` (width, height) keeps the centre. All
    sides are in pixels. `buckets` scales an image to cover one of several sizes, and keeps the
    centre; if `upscale` is false, it refuses images that are smaller than their bucket. If `flip`
    is true, the image mirrored left to right is also requested, but `apply` does not make it.
    Raises ValueError if a side is not between 1 and `MAX_SIDE`, if both `resize` and `max_side` are
    set, if `buckets` is set with one of the others, or if `upscale` is false without `resize` or
    `buckets`.
    """

    resize: int | None = None
    max_side: int | None = None
    crop: tuple[int, int] | None = None
    flip: bool = False
    upscale: bool = True
    buckets: Buckets | None = None

    def __post_init__(self) -> None:
        others = (self.resize, self.max_side, self.crop)
        if self.resize is not None and self.max_side is not None:
            raise ValueError("resize and max_side cannot be used together; leave one out")
        if self.buckets is not None and any(other is not None for other in others):
            raise ValueError("buckets excludes resize, max_side and crop; leave them out")
        if self.resize is None and self.buckets is None and not self.upscale:
            raise ValueError("upscale=False needs resize or buckets")
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
        sizes = (self.resize, self.max_side, self.crop, self.buckets)
        return any(size is not None for size in sizes)

    @property
    def may_refuse(self) -> bool:
        """True if `measure` can raise SmallImageError."""
        return self.crop is not None or (self.buckets is not None and not self.upscale)

    @property
    def depends_on_orientation(self) -> bool:
        """True if the final number of pixels depends on which side of an image is its width."""
        is_square = self.crop is None or self.crop[0] == self.crop[1]
        return self.buckets is not None or not is_square

    def require_refusal(self) -> None:
        """Raises UsageError if no image is too small, so that --skip-small has no effect."""
        if not self.may_refuse:
            raise UsageError(
                "--skip-small skips images smaller than the crop; add --crop WxH"
                if self.buckets is None
                else "--skip-small skips images that would be scaled up; add --no-upscale"
            )

    def require_patch(self, patch: int) -> None:
        """Raises UsageError if the model's patch does not divide the sides of all buckets."""
        if self.buckets is not None and (step := self.buckets.step) % patch:
            raise UsageError(
                f"--buckets with a step of {step}: this model needs a multiple of its patch of "
                f"{patch} pixels; choose AREA:{patch}"
            )

    def scale(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) after scaling. Each side is rounded half up, and is at least 1.

        Raises ImageError if the scaled image has more than MAX_PIXELS pixels and also has more
        pixels than the source.
        """
        size = self._scale_freely(width, height)
        pixels = size[0] * size[1]
        if pixels > max(MAX_PIXELS, width * height):
            option = "--resize" if self.buckets is None else "area for --buckets"
            raise ImageError(
                f"{width}x{height} would be scaled to {_name_size(size)}, {pixels} pixels, more "
                f"than the limit of {MAX_PIXELS}; choose a smaller {option}"
            )
        return size

    def _scale_freely(self, width: int, height: int) -> tuple[int, int]:
        if self.buckets is not None:
            return self.buckets.cover(width, height)
        side = max(width, height) if self.resize is None else min(width, height)
        wanted = self.resize or self.max_side or side
        if not (self.resize and self.upscale):
            wanted = min(wanted, side)
        return (
            max(1, (2 * width * wanted + side) // (2 * side)),
            max(1, (2 * height * wanted + side) // (2 * side)),
        )

    def upscales(self, width: int, height: int) -> bool:
        """True if `scale` enlarges an image of this size."""
        if self.buckets is not None:
            return self.upscale and self._is_below_bucket(width, height)
        return self.upscale and self.resize is not None and min(width, height) < self.resize

    def _is_below_bucket(self, width: int, height: int) -> bool:
        assert self.buckets is not None
        bucket = self.buckets.choose(width, height)
        return width < bucket[0] or height < bucket[1]

    def measure(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) after scaling and cropping.

        Raises ImageError if `scale` raises it, and SmallImageError if the scaled image is smaller
        than the crop, or the image is smaller than its bucket.
        """
        if self.buckets is not None:
            return self._find_bucket(self.buckets, width, height)
        size = self.scale(width, height)
        if self.crop is None:
            return size
        if size[0] < self.crop[0] or size[1] < self.crop[1]:
            raise self._refuse_small(width, height)
        return self.crop

    def _find_bucket(self, buckets: Buckets, width: int, height: int) -> tuple[int, int]:
        bucket = buckets.choose(width, height)
        if not self.upscale and self._is_below_bucket(width, height):
            raise SmallImageError(
                f"{width}x{height} is smaller than its bucket of {_name_size(bucket)}; add "
                "--upscale, add --skip-small, or choose a smaller area for --buckets"
            )
        self.scale(width, height)  # checks the number of pixels
        return bucket

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

    def apply_to_mask(self, mask: Mask) -> Mask:
        """Scales and crops a mask uint8 [H, W] as `apply` does with its image. See `scale_mask`."""
        if not self.changes_pixels:
            return mask
        from dinac_cli.images.masks import scale_mask
        from dinac_cli.images.pixels import crop_centre

        height, width = mask.shape
        final = self.measure(width, height)
        return crop_centre(scale_mask(mask, *self.scale(width, height)), *final)

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
        if self.buckets is not None:
            return self._spell_buckets(self.buckets, other)
        scales_itself = self.resize is not None or self.max_side is not None
        if not scales_itself and other.buckets is not None:
            return f"--buckets {_NONE}"
        scaling = self if scales_itself else other
        option = "--resize" if scaling.max_side is None else "--max-side"
        side = f"{option} {self.resize or self.max_side or _NONE}"
        return side if self.upscale else f"{side} {upscale}"

    def _spell_buckets(self, buckets: Buckets, other: Geometry) -> str:
        if buckets == other.buckets:
            return "--upscale" if self.upscale else "--no-upscale"
        return f"{buckets.options} --upscale" if self.upscale else buckets.options

    def _describe_scaling(self) -> str | None:
        if self.buckets is not None:
            return self.buckets.text + (_ALSO_UP if self.upscale else "")
        if self.resize is None:
            return None
        return str(self.resize) if self.upscale else f"{self.resize}{_DOWN_ONLY}"

    def _list_pairs(self) -> dict[str, str]:
        pairs = {
            "resize": self._describe_scaling(),
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
    buckets: Buckets | Literal["none"] | None = None,
) -> Geometry:
    """Builds the geometry from the options. Raises UsageError if an option is invalid."""
    buckets = _choose(buckets, None)
    others = {"--resize": resize, "--max-side": max_side, "--crop": crop}
    if buckets is not None and (given := [k for k, v in others.items() if v is not None]):
        raise UsageError(
            f"--buckets scales and crops by itself and cannot be used with {given[0]}; "
            "leave one out"
        )
    if resize is not None and max_side is not None:
        raise UsageError("--resize and --max-side cannot be used together; leave one out")
    if resize is None and buckets is None and not upscale:
        raise UsageError("--no-upscale needs --resize; --max-side and --crop never scale up")
    for option, sides in (("resize", [resize]), ("max-side", [max_side]), ("crop", crop or [])):
        for side in sides:
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise UsageError(f"--{option} {side}: expected 1 to {MAX_SIDE} pixels")
    return Geometry(resize, max_side, crop, flip, upscale, buckets)


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
    buckets: Buckets | Literal["none"] | None = None

    def __post_init__(self) -> None:
        for option, value in (("resize", self.resize), ("max-side", self.max_side)):
            if isinstance(value, str) and value != _NONE:
                raise UsageError(f"--{option} {value}: expected 1 to {MAX_SIDE} pixels, or none")
        if isinstance(self.crop, str) and self.crop != _NONE:
            raise UsageError(f"--crop {self.crop}: expected (width, height) or none")
        choose_geometry(
            _choose(self.resize, None),
            _choose(self.max_side, None),
            _choose(self.crop, None),
            buckets=_choose(self.buckets, None),
        )

    def fill(self) -> Geometry:
        """Returns the geometry. Options that are not given have their defaults.

        Without `resize` and `buckets`, ignores `upscale`: it may belong to an option that the run
        follows.
        """
        scales = isinstance(self.resize, int) or isinstance(self.buckets, Buckets)
        return (self if scales else replace(self, upscale=None)).follow(NO_GEOMETRY)

    def follow(self, held: Geometry) -> Geometry:
        """Returns the geometry of a run. Options that are not given have the values of `held`.

        If `resize`, `max_side` or `buckets` is set, the options that it excludes are not taken from
        `held`. Raises UsageError if upscaling is forbidden without `resize` and `buckets`.
        """
        scaling = NO_GEOMETRY if self._scales_unlike(held) else held
        resize = _choose(self.resize, scaling.resize)
        buckets = _choose(self.buckets, scaling.buckets)
        is_crop_held = not isinstance(self.buckets, Buckets)
        followed = _follow_upscale(held, resize, buckets)
        return choose_geometry(
            resize,
            _choose(self.max_side, scaling.max_side),
            _choose(self.crop, held.crop if is_crop_held else None),
            flip=held.flip if self.flip is None else self.flip,
            upscale=followed if self.upscale is None else self.upscale,
            buckets=buckets,
        )

    def _scales_unlike(self, held: Geometry) -> bool:
        """True if an option excludes the scaling of `held`."""
        if isinstance(self.crop, tuple) and held.buckets is not None:
            return True
        given = (self.resize, self.max_side, self.buckets)
        return any(value is not None and not isinstance(value, str) for value in given)


def _follow_upscale(held: Geometry, resize: int | None, buckets: Buckets | None) -> bool:
    """Returns whether a run scales up if its options do not say so."""
    if buckets is not None:
        return held.buckets is not None and held.upscale
    return resize is None or held.resize is None or held.upscale


_Value = TypeVar("_Value", int, tuple[int, int], Buckets)


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
        resize, buckets, upscale = _read_scaling(pairs.get("resize"))
        return Geometry(
            resize,
            _read_side(pairs.get("max_side")),
            None if crop is None else parse_size(crop),
            "flip" in pairs,
            upscale,
            buckets,
        )
    except ValueError as exc:
        raise ImageError(f"{exc} in the record's image field; update dinac-cli") from exc


def find_geometry(description: str) -> str:
    """Returns the geometry in a record's `image` field, in the form of `Geometry.text`."""
    pairs = parse_description(description).items()
    return format_description({key: value for key, value in pairs if key in _GEOMETRY_KEYS})


def has_buckets(description: str) -> bool:
    """True if the geometry in a record's `image` field is one of `--buckets`."""
    return is_bucket_text(parse_description(description).get("resize", ""))


def allows_scaling(description: str) -> bool:
    """True if the geometry in a record's `image` field scales images."""
    return "resize" in parse_description(description)


def allows_upscaling(description: str) -> bool:
    """True if the geometry in a record's `image` field enlarges small images."""
    resize = parse_description(description).get("resize", "")
    if is_bucket_text(resize):
        return resize.endswith(_ALSO_UP)
    return _NUMBER.fullmatch(resize) is not None


def _read_scaling(text: str | None) -> tuple[int | None, Buckets | None, bool]:
    """Parses the value of `resize` into the short side or the buckets, and whether it enlarges."""
    if text is None:
        return None, None, True
    if is_bucket_text(text):
        return None, parse_buckets(text.removesuffix(_ALSO_UP)), text.endswith(_ALSO_UP)
    return _read_side(text.removesuffix(_DOWN_ONLY)), None, not text.endswith(_DOWN_ONLY)


def _read_side(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is not a number of pixels")
    return int(text)


def _name_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

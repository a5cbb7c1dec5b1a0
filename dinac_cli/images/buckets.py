"""Aspect-ratio buckets: the few sizes, of nearly one area, to which images are scaled and cropped.

The sizes and the choice follow the rule of kohya-ss/sd-scripts (`make_bucket_resolutions`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import MAX_PIXELS

DEFAULT_STEP = 64
"""The sides of buckets are multiples of this number of pixels by default."""

_MAX_STEPS = 1024  # on the longest side: more would make the choice slow
_NAME = "buckets"
_NUMBER = "[1-9][0-9]{0,6}"
_AREA = re.compile(f"({_NUMBER})(?:x({_NUMBER}))?(?::({_NUMBER}))?")
_TEXT = re.compile(f"{_NAME}-({_NUMBER})x({_NUMBER})-({_NUMBER})-({_NUMBER})-({_NUMBER})")


@dataclass(frozen=True)
class Buckets:
    """Sizes whose sides are multiples of `step`, from `shortest` to `longest`, all in pixels.

    No bucket has a larger area than `area` (width, height). Raises ValueError if a number is not
    possible; its message says which.
    """

    area: tuple[int, int]
    step: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        width, height = self.area
        if min(width, height, self.step, self.shortest, self.longest) < 1:
            raise ValueError("sides must be positive")
        if width * height > MAX_PIXELS:
            raise ValueError(f"an area of {width}x{height} has more than {MAX_PIXELS} pixels")
        for limit in (self.shortest, self.longest):
            if limit % self.step:
                raise ValueError(f"a limit of {limit} is not a multiple of the step {self.step}")
        if not self.shortest <= math.isqrt(width * height) // self.step * self.step:
            raise ValueError(f"no bucket of {width}x{height} has sides of {self.shortest} or more")
        if self.longest < self.shortest:
            raise ValueError(f"the maximum {self.longest} is less than the minimum {self.shortest}")
        if self.longest > _MAX_STEPS * self.step:
            raise ValueError(f"the maximum {self.longest} is more than {_MAX_STEPS} steps")

    @property
    def text(self) -> str:
        """The buckets as a part of a record's description: `buckets-1024x1024-64-512-2048`."""
        width, height = self.area
        return f"{_NAME}-{width}x{height}-{self.step}-{self.shortest}-{self.longest}"

    @property
    def options(self) -> str:
        """The buckets as options, without the limits that are the defaults."""
        width, height = self.area
        options = f"--buckets {width}x{height}:{self.step}"
        shortest, longest = _find_limits(self.area, self.step)
        if self.shortest != shortest:
            options += f" --bucket-min {self.shortest}"
        return options if self.longest == longest else f"{options} --bucket-max {self.longest}"

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The buckets as (width, height), the widest ones last."""
        area = self.area[0] * self.area[1]
        square = min(self.longest, math.isqrt(area) // self.step * self.step)
        sizes = {(square, square)}
        for side in range(self.shortest, self.longest + 1, self.step):
            other = min(self.longest, area // side // self.step * self.step)
            if other >= self.shortest:
                sizes |= {(side, other), (other, side)}
        return tuple(sorted(sizes))

    @cached_property
    def _known(self) -> frozenset[tuple[int, int]]:
        return frozenset(self.sizes)

    def choose(self, width: int, height: int) -> tuple[int, int]:
        """Returns the bucket of an image: its own size, or the nearest ratio of width to height.

        Of equally near buckets, returns the one with more pixels; of equally large ones, the wider.
        """
        if (width, height) in self._known:
            return width, height

        def rank(size: tuple[int, int]) -> tuple[float, int, int]:
            # Python rounds the quotient of whole numbers correctly, so that an image gets the same
            # bucket on every machine.
            distance = abs(size[0] * height - width * size[1]) / (size[1] * height)
            return distance, -size[0] * size[1], -size[0]

        return min(self.sizes, key=rank)

    def cover(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size of the scaled image that covers its bucket. Rounds a side half up."""
        across, down = self.choose(width, height)
        if across * height >= down * width:
            return across, (2 * height * across + width) // (2 * width)
        return (2 * width * down + height) // (2 * height), down


def parse_buckets(text: str) -> Buckets:
    """Parses `Buckets.text`. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!a} are not buckets")
    width, height, step, shortest, longest = map(int, match.groups())
    return Buckets((width, height), step, shortest, longest)


def is_bucket_text(text: str) -> bool:
    """True if `text` starts like `Buckets.text`."""
    return text.startswith(f"{_NAME}-")


def choose_buckets(
    text: str | None, shortest: int | None = None, longest: int | None = None
) -> Buckets | Literal["none"] | None:
    """Parses `1024x1024:64`, `1024:64` or `1024` of --buckets, or `none`; None if it is not given.

    `shortest` and `longest` are the values of --bucket-min and --bucket-max; by default, half and
    twice the root of the area, rounded to the step. Raises UsageError.
    """
    if text is None or text == "none":
        if shortest is None and longest is None:
            return "none" if text else None
        option = "--bucket-max" if shortest is None else "--bucket-min"
        raise UsageError(f"{option} needs --buckets AREA; add it, or leave {option} out")
    match = _AREA.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--buckets {text}: expected AREA or AREA:STEP, such as 1024x1024:64, or none"
        )
    width = int(match[1])
    area, step = (width, int(match[2] or width)), int(match[3] or DEFAULT_STEP)
    if step > math.isqrt(area[0] * area[1]):
        raise UsageError(f"--buckets {text}: the step {step} is longer than the sides; choose less")
    default = _find_limits(area, step)
    try:
        return Buckets(area, step, shortest or default[0], longest or default[1])
    except ValueError as exc:
        raise UsageError(f"--buckets {text}: {exc}") from exc


def _find_limits(area: tuple[int, int], step: int) -> tuple[int, int]:
    """Returns half and twice the root of the area, rounded half up to multiples of `step`."""
    pixels = area[0] * area[1]
    half = (math.isqrt(pixels) + step) // (2 * step)
    twice = (math.isqrt(16 * pixels) + step) // (2 * step)
    return max(1, half) * step, twice * step

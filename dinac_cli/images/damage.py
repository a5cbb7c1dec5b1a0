"""Says which images are damaged, and finds damage in JPEGs that decoders only warn about.

Pillow does not pass on the warnings of its JPEG library. simplejpeg (the extra `fast`) turns the
first warning into an error, so a JPEG is sound if simplejpeg decodes it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from dinac_cli.errors import DamagedImageError, UsageError
from dinac_cli.images.jpeg_scans import (
    END_OF_IMAGE,
    holds_all_scans,
    holds_zeroed_data,
    is_arithmetic,
    strip_metadata,
)

DamageChoice = Literal["fail", "warn"]

DAMAGE_CHOICES: tuple[DamageChoice, ...] = ("fail", "warn")
"""The values of `--damaged`. The first one is the default."""

_REMEDY = "copy or download it again"

# The library's words for damage to the coded picture. Other errors mean that simplejpeg cannot
# decode this kind of JPEG.
_DAMAGE = re.compile(
    r"corrupt|premature|truncated|bogus|invalid|inconsistent|bad |found marker|two S"
    r"|unsupported marker",
    re.IGNORECASE,
)
_NO_END = "Premature end of JPEG file"
# Odd metadata and odd parameters, which do not change the pixels. They can hide a second warning.
_HARMLESS = re.compile(r"revision number|Adobe color transform|ICC marker|SOS parameters")


class Damage(str, Enum):
    """A kind of damage, as `damaged=` in a record names it."""

    TRUNCATED = "truncated"  # the end of the file, or a pass over the picture, is missing
    CORRUPT = "corrupt"  # some coded bytes are wrong or missing


@dataclass(frozen=True)
class Soundness:
    """What is known about the coded bytes of an image.

    `damage` is None if no damage was found; then `reason` is empty. If `lacks_end` is set, the file
    has no end marker. If `is_checked` is false, simplejpeg is not installed, so damage is not
    found. `title` is the format.
    """

    damage: Damage | None = None
    reason: str = ""
    lacks_end: bool = False
    is_checked: bool = True
    title: str = "JPEG"

    def require(self, choice: DamageChoice) -> None:
        """Raises DamagedImageError if the image is damaged, unless `choice` is "warn"."""
        if self.damage is None or choice == "warn":
            return
        if self.lacks_end:
            raise DamagedImageError(f"truncated {self.title} file; {_REMEDY}", [self.reason])
        raise DamagedImageError(
            f"damaged {self.title} file ({self.reason}); {_REMEDY}, "
            "or read the rest with --damaged warn"
        )

    def warn(self) -> Iterator[str]:
        """Yields the warning for the user, if there is one."""
        if self.damage is not None:
            yield f"damaged {self.title} file: {self.reason}; a part of the picture may be wrong"
        elif self.lacks_end:
            yield "the JPEG lacks its end marker; the picture is complete"


SOUND = Soundness()
"""No damage was found."""


def parse_damage_choice(text: str) -> DamageChoice:
    """Parses the value of `--damaged`. Raises UsageError."""
    for choice in DAMAGE_CHOICES:
        if text == choice:
            return choice
    raise UsageError(f"--damaged {text}: choose one of {', '.join(DAMAGE_CHOICES)}")


def check_jpeg(data: bytes, *, is_decoded: bool) -> Soundness:
    """Checks the coded bytes of a JPEG. Takes about as long as Pillow takes to decode it.

    If `is_decoded` is set, simplejpeg has already decoded the file without a warning, and only its
    headers are checked.
    """
    if is_decoded:
        return _check_structure(data)
    if (check := _find_check()) is None:
        return Soundness(is_checked=False)
    complaint = _complain(check, data)
    if complaint == _NO_END:
        return _check_endless(check, data)
    if complaint is None:
        return _check_structure(data)
    return Soundness(Damage.CORRUPT, _shorten(complaint))


def _check_endless(check: Callable[[bytes], None], data: bytes) -> Soundness:
    """Checks a JPEG without end marker: the rest may be complete."""
    if data.endswith(b"\xff"):  # half a marker, or half a stuffed byte: the cut is not clean
        return Soundness(Damage.TRUNCATED, "the file ends inside a marker", lacks_end=True)
    if is_arithmetic(data):  # the library decodes missing bytes as zeros, without a warning
        return Soundness(Damage.TRUNCATED, "the end marker is missing", lacks_end=True)
    ended = data + END_OF_IMAGE
    complaint = _complain(check, ended)
    if complaint is not None:
        return Soundness(Damage.TRUNCATED, _shorten(complaint), lacks_end=True)
    scans = _check_structure(ended)
    return Soundness(scans.damage, scans.reason, lacks_end=True)


def _complain(check: Callable[[bytes], None], data: bytes) -> str | None:
    """Returns the first warning or error about the coded picture, or None."""
    complaint = _read_complaint(check, data)
    if complaint is not None and _HARMLESS.search(complaint):
        complaint = _read_complaint(check, strip_metadata(data))
    if complaint is None or _HARMLESS.search(complaint):
        return None
    return complaint if _DAMAGE.search(complaint) else None


def _read_complaint(check: Callable[[bytes], None], data: bytes) -> str | None:
    try:
        check(data)
    except Exception as exc:  # simplejpeg's errors are ValueErrors, but memory may also be short
        return str(exc)
    return None


def _shorten(complaint: str) -> str:
    """Returns the library's words without their preface."""
    return complaint.removeprefix("Corrupt JPEG data: ").strip()


@functools.cache
def _find_check() -> Callable[[bytes], None] | None:
    """Returns a function that raises ValueError for the first warning about a JPEG.

    It decodes all coded bytes, but only to an image of an eighth of the size. Returns None if
    simplejpeg is not installed.
    """
    try:
        import simplejpeg
    except ImportError:
        return None

    def check(data: bytes) -> None:
        try:
            _, _, space, _ = simplejpeg.decode_jpeg_header(data)
        except KeyError:  # simplejpeg has no name for the subsampling 4:4:1, but decodes it
            space = "YCbCr"
        colors = "CMYK" if space in ("CMYK", "YCCK") else "RGB" if space == "RGB" else "GRAY"
        simplejpeg.decode_jpeg(data, colorspace=colors, min_factor=8)

    return check


def _check_structure(data: bytes) -> Soundness:
    """Checks what the library does not warn of: missing scans, and coded data of zeros only."""
    try:
        if not holds_all_scans(data):  # the library shows a gray or blurred picture
            return Soundness(Damage.TRUNCATED, "some scans are missing")
        if holds_zeroed_data(data):
            return Soundness(Damage.CORRUPT, "zeros overwrite coded data")
    except (IndexError, KeyError, ValueError):  # the library knows how to read these headers
        return SOUND
    return SOUND

"""Finds damage in JPEGs that decoders only warn about.

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

DamageChoice = Literal["fail", "warn"]

DAMAGE_CHOICES: tuple[DamageChoice, ...] = ("fail", "warn")
"""The values of `--damaged`. The first one is the default."""

END_OF_IMAGE = b"\xff\xd9"
"""The marker that ends a JPEG."""

_REMEDY = "copy or download it again, or read what is left with --damaged warn"

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

# Stuffed zeros and restart markers belong to the coded data.
_NEXT_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_SOS, _EOI = 0xDA, 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_METADATA = {*range(0xE0, 0xF0), 0xFE}


class Damage(str, Enum):
    """A kind of damage, as `damaged=` in a record names it."""

    TRUNCATED = "truncated"  # the end of the file, or a pass over the picture, is missing
    CORRUPT = "corrupt"  # some coded bytes are wrong or missing


@dataclass(frozen=True)
class Soundness:
    """What is known about the coded bytes of an image.

    `damage` is None if no damage was found; then `reason` is empty. If `lacks_end` is set, the file
    has no end marker. If `is_checked` is false, simplejpeg is not installed, so damage is not
    found.
    """

    damage: Damage | None = None
    reason: str = ""
    lacks_end: bool = False
    is_checked: bool = True

    def require(self, choice: DamageChoice) -> None:
        """Raises DamagedImageError if the image is damaged, unless `choice` is "warn"."""
        if self.damage is None or choice == "warn":
            return
        if self.damage is Damage.TRUNCATED:
            raise DamagedImageError(f"truncated JPEG file; {_REMEDY}", [self.reason])
        raise DamagedImageError(f"damaged JPEG file ({self.reason}); {_REMEDY}")

    def warn(self) -> Iterator[str]:
        """Yields the warning for the user, if there is one."""
        if self.damage is not None:
            yield f"damaged JPEG file: {self.reason}; a part of the picture may be wrong"
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

    If `is_decoded` is set, simplejpeg has already decoded the file without a warning, and only the
    list of scans is checked.
    """
    if is_decoded:
        return _check_scans(data)
    if (check := _find_check()) is None:
        return Soundness(is_checked=False)
    complaint = _complain(check, data)
    if complaint == _NO_END:
        return _check_endless(check, data)
    if complaint is None:
        return _check_scans(data)
    return Soundness(Damage.CORRUPT, _shorten(complaint))


def _check_endless(check: Callable[[bytes], None], data: bytes) -> Soundness:
    """Checks a JPEG without end marker: everything else may be there."""
    ended = data + END_OF_IMAGE
    complaint = _complain(check, ended)
    if complaint is not None:
        return Soundness(Damage.TRUNCATED, _shorten(complaint), lacks_end=True)
    scans = _check_scans(ended)
    return Soundness(scans.damage, scans.reason, lacks_end=True)


def _complain(check: Callable[[bytes], None], data: bytes) -> str | None:
    """Returns the first warning or error about the coded picture, or None."""
    complaint = _read_complaint(check, data)
    if complaint is not None and _HARMLESS.search(complaint):
        complaint = _read_complaint(check, _strip_metadata(data))
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
        _, _, space, _ = simplejpeg.decode_jpeg_header(data)
        colors = "CMYK" if space in ("CMYK", "YCCK") else "RGB" if space == "RGB" else "GRAY"
        simplejpeg.decode_jpeg(data, colorspace=colors, min_factor=8)

    return check


def _check_scans(data: bytes) -> Soundness:
    """Checks that the scans hold all components and, if progressive, all bits.

    A library shows a picture of fewer scans without a warning: it is gray or blurred.
    """
    try:
        is_complete = _holds_all_scans(data)
    except (IndexError, KeyError):  # the library accepted the headers, so they are only unusual
        return SOUND
    return SOUND if is_complete else Soundness(Damage.TRUNCATED, "some scans are missing")


def _holds_all_scans(data: bytes) -> bool:
    lacking: dict[int, set[int]] = {}  # for each component, the coefficients that lack bits
    progressive = False
    for marker, start, _ in _list_segments(data):
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            count = data[start + 9]
            lacking = {data[start + 10 + 3 * k]: set(range(64)) for k in range(count)}
        elif marker == _SOS:
            count = data[start + 4]
            first, last, bits = data[start + 5 + 2 * count : start + 8 + 2 * count]
            low = bits & 15 if progressive else 0
            sent = set(range(first, last + 1)) if progressive else set(range(64))
            for k in range(count):
                lack = lacking[data[start + 5 + 2 * k]]
                lack.difference_update(sent) if low == 0 else lack.update(sent)
            if not any(lacking.values()):
                return True
    return False


def _list_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of each segment, up to the end marker or the end of the data.

    The coded data after a start of scan belongs to its segment.
    """
    at = 2  # after the start marker
    while (found := _NEXT_MARKER.search(data, at)) is not None:
        start, marker = found.end() - 2, data[found.end() - 1]
        if marker == _EOI:
            return
        if marker in _STANDALONE:
            at = found.end()
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _SOS:
            after = _NEXT_MARKER.search(data, end)
            end = len(data) if after is None else after.start()
        yield marker, start, end
        at = max(end, start + 4)


def _strip_metadata(data: bytes) -> bytes:
    """Returns a JPEG of the same coded picture without metadata, and with usual parameters.

    Of a sequential JPEG, the last three bytes of each start of scan say nothing.
    """
    parts = [data[:2]]
    progressive = False
    for marker, start, end in _list_segments(data):
        if marker in _METADATA:
            continue
        progressive = progressive or marker in _PROGRESSIVE
        segment = data[start:end]
        if marker == _SOS and not progressive and len(segment) > 4:
            at = 5 + 2 * segment[4]
            segment = segment[:at] + b"\x00\x3f\x00" + segment[at + 3 :]
        parts.append(segment)
    end = data.rfind(END_OF_IMAGE)
    return b"".join(parts) + (END_OF_IMAGE if end >= 0 else b"")

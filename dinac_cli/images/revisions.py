"""Which image files earlier versions of dinac read with other pixels.

If a version of dinac reads some files better than the versions before, it adds one `ReaderRule`.
The records of such files hold `reader=N` in their `image` field. A record without it, or with a
smaller N, is stale if its source falls under the rule. Other records are not affected.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageFile, TiffImagePlugin

from dinac_cli.errors import DinacError
from dinac_cli.images.declared import read_declared
from dinac_cli.images.description import parse_description
from dinac_cli.images.opening import open_image

_PLANAR_CONFIGURATION, _BITS_PER_SAMPLE = 284, 258
_PLANES = 2  # the value of PlanarConfiguration for separate planes
_PNG_COLOR_TYPE = 25  # the offset of this byte of IHDR
_PNG_GRAY, _PNG_RGB = 0, 2

READER_KEY = "reader"
"""The key of the reader revision in the `image` field of a record."""


@dataclass(frozen=True)
class ReaderRule:
    """A kind of image files that dinac reads with other pixels since `revision` (1, 2, ...).

    `subject` names the kind in messages, such as "planar 16-bit TIFF files". `formats` are Pillow's
    names. `applies(opened, data)` is called for these formats only; `opened` is the image before
    its pixels are decoded, and `data` the whole file. If it raises an error, the rule does not
    apply. It may be called from several threads at once.
    """

    revision: int
    subject: str
    formats: frozenset[str]
    applies: Callable[[ImageFile.ImageFile, bytes], bool]

    @property
    def reason(self) -> str:
        """Why a record is stale, in one line."""
        return f"earlier versions read {self.subject} with wrong pixels"

    def matches(self, opened: ImageFile.ImageFile, data: bytes) -> bool:
        """True if the image falls under this rule."""
        if opened.format not in self.formats:
            return False
        try:
            return self.applies(opened, data)
        except Exception:  # Pillow raises any error for malformed metadata
            return False


def _declares_colors(opened: ImageFile.ImageFile, data: bytes) -> bool:
    declared = read_declared(io.BytesIO(data), opened)
    converts = declared.space is not None and not declared.space.is_srgb
    return converts or declared.crop is not None


def _has_deep_planes(opened: ImageFile.ImageFile, data: bytes) -> bool:
    assert isinstance(opened, TiffImagePlugin.TiffImageFile)
    tags = opened.tag_v2
    is_planar = tags.get(_PLANAR_CONFIGURATION) == _PLANES
    return is_planar and any(bits > 8 for bits in tags[_BITS_PER_SAMPLE])


def _has_transparent_color(opened: ImageFile.ImageFile, data: bytes) -> bool:
    return "transparency" in opened.info and data[_PNG_COLOR_TYPE] in (_PNG_GRAY, _PNG_RGB)


RULES = (
    ReaderRule(
        1,
        "images that declare colours without an ICC profile, or a clean aperture",
        frozenset({"PNG", "AVIF"}),
        _declares_colors,
    ),
    ReaderRule(1, "planar TIFF files of more than 8 bits", frozenset({"TIFF"}), _has_deep_planes),
    ReaderRule(
        1, "PNG files with one transparent colour", frozenset({"PNG"}), _has_transparent_color
    ),
)
"""All rules, in any order. Rules that are released together have the same revision."""


def current_revision() -> int:
    """Returns the reader revision of this version of dinac: the largest of all rules, or 0."""
    return max((rule.revision for rule in RULES), default=0)


def find_rule(opened: ImageFile.ImageFile, data: bytes, *, since: int = 0) -> ReaderRule | None:
    """Returns the newest rule after revision `since` for an image, or None."""
    matching = (rule for rule in RULES if rule.revision > since and rule.matches(opened, data))
    return max(matching, key=lambda rule: rule.revision, default=None)


def find_file_rule(path: str, *, since: int = 0) -> ReaderRule | None:
    """Returns the newest rule after revision `since` for an image file, or None.

    Returns None if the file cannot be opened as an image: then reading it says why.
    """
    if since >= current_revision():
        return None
    try:
        with open(path, "rb") as file, open_image(file) as opened:
            if not any(opened.format in rule.formats for rule in RULES):
                return None
            with open(path, "rb") as whole:
                return find_rule(opened, whole.read(), since=since)
    except (DinacError, OSError):
        return None


def describe_revision(opened: ImageFile.ImageFile, data: bytes) -> dict[str, str]:
    """Returns `{"reader": "N"}` if a rule applies to an image before it is decoded, else {}."""
    rule = find_rule(opened, data)
    return {} if rule is None else {READER_KEY: str(rule.revision)}


def read_revision(description: str) -> int:
    """Returns the reader revision in a record's `image` field; 0 if there is none."""
    text = parse_description(description).get(READER_KEY, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0

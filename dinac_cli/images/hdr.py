"""The choices for HDR images, and what records say of them. Does not import numpy."""

from __future__ import annotations

import re

from dinac_cli.errors import UsageError
from dinac_cli.images.description import parse_description

REFUSE, CLIP, TONEMAP = "refuse", "clip", "tonemap"
HDR_CHOICES = (REFUSE, CLIP, TONEMAP)
"""REFUSE makes HDR images fail. CLIP clips what is brighter than white. TONEMAP compresses it."""

HDR_CURVES = ("pq", "hlg")
"""The curves of ITU-R BT.2100."""

_CONVERTED = re.compile(rf"converted-.*-(?:{'|'.join(HDR_CURVES)})-({CLIP}|{TONEMAP})")


def check_hdr(choice: str) -> None:
    """Raises UsageError if `choice` is not one of `HDR_CHOICES`."""
    if choice not in HDR_CHOICES:
        raise UsageError(f"--hdr {choice}: choose one of {', '.join(HDR_CHOICES)}")


def read_hdr(description: str) -> str | None:
    """Returns CLIP or TONEMAP from a record's `image` field; None if the image was not HDR."""
    match = _CONVERTED.fullmatch(parse_description(description).get("color", ""))
    return None if match is None else match[1]

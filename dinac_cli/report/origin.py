"""The origin of a page: the folders that it compares, and a digest of everything it is made from.

A page holds its origin, and the full images beside a page hold the digest. Therefore a run replaces
only what a run with the same folders and settings has written.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import UsageError
from dinac_cli.images.stamp import read_stamp
from dinac_cli.storage.content import begins_with
from dinac_cli.storage.urls import is_url

PAGE_START = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="dinac report">'
)
_ORIGIN = re.compile(r'\n<meta name="dinac-origin" content="([^"]*)">')
_ASSET = re.compile(r"\d{6,}-\d+\.png")
_HEAD_BYTES = 1 << 16
_STAMP_KEY = "report"


@dataclass(frozen=True)
class PageOrigin:
    """The folders that a page compares: the originals first. A page shows only their `names`.

    `digest` (16 hex digits) identifies the folders, the records and the settings.
    """

    names: tuple[str, ...]
    digest: str

    @property
    def stamp(self) -> dict[str, str]:
        """The stamp of the full images beside the page."""
        return {_STAMP_KEY: self.digest}

    def to_html(self) -> str:
        """Returns the origin as an HTML element for the head of the page."""
        content = json.dumps({"names": self.names, "digest": self.digest})
        return f'<meta name="dinac-origin" content="{html.escape(content)}">'


def trace_origin(
    names: Sequence[str], groups: Sequence[Sequence[str]], settings: Sequence[str]
) -> PageOrigin:
    """Returns the origin of a page. `groups` are the folders; their order matters."""
    folders = [[_identify(folder) for folder in group] for group in groups]
    text = json.dumps([folders, list(settings)])
    return PageOrigin(tuple(names), hashlib.sha256(text.encode()).hexdigest()[:16])


def _identify(folder: str) -> str:
    return folder if is_url(folder) else os.path.realpath(folder)


def is_report(path: str) -> bool:
    """True if `path` is a page that dinac wrote."""
    return begins_with(path, PAGE_START)


def read_origin(path: str) -> PageOrigin | None:
    """Returns the origin of a page, or None if the file cannot be read or holds no origin."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
        match = _ORIGIN.match(head.removeprefix(PAGE_START.decode()))
        held = json.loads(html.unescape(match[1])) if match else {}
        return PageOrigin(tuple(map(str, held["names"])), str(held["digest"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_page_of(origin: PageOrigin) -> Callable[[str], bool]:
    """Returns a function that is true for a page of this origin."""
    return lambda path: is_report(path) and read_origin(path) == origin


def refuse_other_page(path: str, wanted: PageOrigin) -> None:
    """Raises UsageError if the page at `path` has another origin."""
    held = read_origin(path)
    if held == wanted:
        return
    if held is None or not held.names or held.names == wanted.names:
        found = "is a page of other folders or options"
    else:
        original, *others = held.names
        listed = " and ".join(filter(None, [", ".join(others[:-1]), *others[-1:]]))
        found = f"compares {original} with {listed}"
    raise UsageError(f"{path} {found}; choose another name, or add --overwrite to replace it")


def name_asset(image: int, number: int) -> str:
    """Returns the file name of a full image: 0 is the original, 1 the first reconstruction."""
    return f"{image:06}-{number}.png"


def is_asset_of(origin: PageOrigin) -> Callable[[str], bool]:
    """Returns a function that is true for a full image of a page of this origin."""
    return lambda path: _read_digest(path) == origin.digest


def refuse_other_assets(folder: str, wanted: PageOrigin) -> None:
    """Raises UsageError if `folder` holds the full images of a page of another origin."""
    if not os.path.isdir(folder):
        return
    for name in filter(_ASSET.fullmatch, sorted(os.listdir(folder))):
        digest = _read_digest(os.path.join(folder, name))
        if digest is not None and digest != wanted.digest:
            raise UsageError(
                f"{folder} holds the images of another page; "
                "choose another folder, or add --overwrite to replace them"
            )
        if digest is not None:
            return


def _read_digest(path: str) -> str | None:
    stamp = read_stamp(Path(path)) if os.path.isfile(path) else None
    return None if stamp is None else stamp.get(_STAMP_KEY)

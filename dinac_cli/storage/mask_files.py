"""Finds the mask files of images in a folder of files of the same names."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from dinac_cli.container.names import escape_name
from dinac_cli.errors import InputError, UsageError, describe_read_error
from dinac_cli.images.formats import is_image_name
from dinac_cli.storage.urls import hide_secrets, is_url

MOST_COMPARED = 100_000
"""In folders of more masks, those that belong to no image are not looked for."""

_FOLDERS_KNOWN = 64  # inputs come folder by folder, but a list may name several in turn


class _Listed(NamedTuple):
    """The image files of a folder, and their suffixes."""

    names: frozenset[str]
    suffixes: tuple[str, ...]


class UnusedMasks(NamedTuple):
    """Mask files that belong to no image: their number, and the path of the first."""

    number: int
    example: str


class MaskFiles:
    """The masks in `folder`: image files with the names of images, but for the extension.

    Lists each subfolder when its first mask is looked up. Several threads may use it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._list = lru_cache(_FOLDERS_KNOWN)(self._list_folder)

    def find(self, name: str) -> str | None:
        """Returns the path of the mask of an image, such as `trip/a.jpg`; None if it has none.

        The name may be that of a file, or escaped by `escape_name`, as in shards. Raises InputError
        if several files have its name, or if the folder cannot be listed.
        """
        found = self._find_exact(name)
        if found is None and (raw := _unescape_name(name)) is not None:
            return self._find_exact(raw)
        return found

    def _find_exact(self, name: str) -> str | None:
        subfolder, base = os.path.split(name)
        stem, listed = os.path.splitext(base)[0], self._list(subfolder)
        found = [stem + suffix for suffix in listed.suffixes if stem + suffix in listed.names]
        if len(found) > 1:
            place, names = self._locate(subfolder), ", ".join(found)
            raise InputError(f"{place} holds several masks of this image: {names}; keep one")
        return os.path.join(self._locate(subfolder), found[0]) if found else None

    def describe_all(self) -> str:
        """Returns a text that changes if any mask in the folder changes, appears or vanishes.

        Raises InputError if the folder cannot be listed.
        """
        digest = hashlib.sha256()
        for name, status in self._walk(self._folder, "", ()):
            state = (name,) if status is None else (name, status.st_size, status.st_mtime_ns)
            digest.update(ascii(state).encode())
        return digest.hexdigest()

    def find_unused(self, folders: Sequence[str]) -> UnusedMasks | None:
        """Returns the masks to whose names no image in `folders` belongs; None if there are none.

        Skips hidden files. Also returns None if there are more than `MOST_COMPARED` masks. Raises
        InputError if the folder cannot be listed.
        """
        walk = self._walk(self._folder, "", ())
        names = [name for name, _ in islice(walk, MOST_COMPARED + 1)]
        if len(names) > MOST_COMPARED:
            return None
        masks: dict[str, set[str]] = {}  # the stems in each subfolder
        for subfolder, stem in map(_split_stem, names):
            masks.setdefault(subfolder, set()).add(stem)
        for subfolder, stems in masks.items():
            for folder in folders:
                stems -= _find_images(os.path.join(folder, *subfolder.split("/")), stems)
        unused = []
        for name in names:
            subfolder, stem = _split_stem(name)
            if stem in masks[subfolder] and "/." not in f"/{name}":
                unused.append(name)
        if not unused:
            return None
        return UnusedMasks(len(unused), os.path.join(self._folder, *unused[0].split("/")))

    def _walk(
        self, folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, os.stat_result | None]]:
        """Yields the names of the masks, sorted, and their states; None for a broken link.

        Follows links to folders, but not in loops.
        """
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in ancestors:
                return
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as exc:
            self._refuse(exc)
        for entry in entries:
            state = _stat(entry)
            if state is not None and stat.S_ISDIR(state.st_mode):
                inner = f"{prefix}{entry.name}/"
                yield from self._walk(entry.path, inner, (*ancestors, identity))
            elif is_image_name(entry.name):
                yield prefix + entry.name, state

    def _refuse(self, exc: OSError) -> NoReturn:
        raise InputError(f"--masks: {exc.filename}: {describe_read_error(exc)}") from exc

    def _locate(self, subfolder: str) -> str:
        return os.path.join(self._folder, *filter(None, subfolder.split("/")))

    def _list_folder(self, subfolder: str) -> _Listed:
        try:
            names = frozenset(filter(is_image_name, os.listdir(self._locate(subfolder))))
        except (FileNotFoundError, NotADirectoryError) as exc:
            if os.path.isdir(self._folder):
                return _Listed(frozenset(), ())
            raise InputError(f"--masks {self._folder}: the folder is gone") from exc
        except OSError as exc:
            self._refuse(exc)
        return _Listed(names, tuple(sorted({os.path.splitext(name)[1] for name in names})))


def _split_stem(name: str) -> tuple[str, str]:
    """Returns the subfolder of a mask and its name without the extension."""
    subfolder, base = os.path.split(name)
    return subfolder, os.path.splitext(base)[0]


def _find_images(folder: str, stems: Set[str]) -> set[str]:
    """Returns those of `stems` that are names in a folder of what may be images.

    Keeps no other name in memory, because a folder may hold millions of images.
    """
    try:
        with os.scandir(folder) as listing:
            parts = (os.path.splitext(entry.name) for entry in listing)
            found = ((stem, suffix) for stem, suffix in parts if stem in stems)
            return {stem for stem, suffix in found if not suffix or is_image_name(stem + suffix)}
    except OSError:
        return set()


def _unescape_name(name: str) -> str | None:
    """Returns the name of a file that `escape_name` has escaped; None if it has not.

    Cut names are not found.
    """
    if "%" not in name:
        return None
    raw = unquote_to_bytes(name).decode(errors="surrogateescape")
    is_escaped = raw != name and escape_name(raw) == name
    return raw if is_escaped and all(map(_is_component, raw.split("/"))) else None


def _is_component(part: str) -> bool:
    """False for what leads out of a folder; on Windows, also for backslashes and drives."""
    is_plain = part not in ("", ".", "..") and os.path.basename(part) == part
    return is_plain and not os.path.splitdrive(part)[0]


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # its image fails when it is read
        return None


def require_mask_folder(folder: str) -> None:
    """Raises UsageError if there is no such folder on this machine."""
    if is_url(folder):
        raise UsageError(f"--masks {hide_secrets(folder)}: the masks must be in a local folder")
    if not os.path.isdir(folder):
        raise UsageError(f"--masks {folder}: no such folder; name the folder of the mask files")

"""Finds the mask files of images in a folder of files of the same names."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import NamedTuple, NoReturn

from dinac_cli.errors import InputError, UsageError, describe_read_error
from dinac_cli.images.formats import is_image_name
from dinac_cli.storage.urls import hide_secrets, is_url

_FOLDERS_KNOWN = 64  # inputs come folder by folder, but a list may name several in turn


class _Listed(NamedTuple):
    """The image files of a folder, and their suffixes."""

    names: frozenset[str]
    suffixes: tuple[str, ...]


class MaskFiles:
    """The masks in `folder`: image files with the names of images, but for the extension.

    Lists each subfolder when its first mask is looked up. Several threads may use it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._list = lru_cache(_FOLDERS_KNOWN)(self._list_folder)

    def find(self, name: str) -> str | None:
        """Returns the path of the mask of an image, such as `trip/a.jpg`; None if it has none.

        Raises InputError if several files have its name, or if the folder cannot be listed.
        """
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
        seen: set[str] = set()  # links to folders may form a loop
        for place, folders, names in os.walk(self._folder, onerror=self._refuse, followlinks=True):
            folders.sort()
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
            seen.add(real)
            for name in sorted(filter(is_image_name, names)):
                path = os.path.join(place, name)
                try:
                    status = os.stat(path)
                except OSError as exc:
                    self._refuse(exc)
                state = os.path.relpath(path, self._folder), status.st_size, status.st_mtime_ns
                digest.update(repr(state).encode(errors="surrogateescape"))
        return digest.hexdigest()

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


def require_mask_folder(folder: str) -> None:
    """Raises UsageError if there is no such folder on this machine."""
    if is_url(folder):
        raise UsageError(f"--masks {hide_secrets(folder)}: the masks must be in a local folder")
    if not os.path.isdir(folder):
        raise UsageError(f"--masks {folder}: no such folder; name the folder of the mask files")

"""Names of outputs. The name of an output depends only on its input, not on other inputs."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable

LATENT_SUFFIX = ".dinac"

_FIRST_SLOTS = 1024
_MOST = 2**64 - 1


def name_latents(name: str) -> str:
    """Returns the record's name: `a.jpg` → `a.jpg.dinac`. gzip names its files in the same way."""
    return name + LATENT_SUFFIX


def strip_suffix(name: str) -> str:
    """Returns the name of a record without `.dinac`: `a.jpg.dinac` → `a.jpg`."""
    has_suffix = name.lower().endswith(LATENT_SUFFIX) and len(name) > len(LATENT_SUFFIX)
    return name[: -len(LATENT_SUFFIX)] if has_suffix else name


def name_image(name: str, suffixes: tuple[str, ...]) -> str:
    """Returns the decoded image's name: `a.png.dinac` → `a.png`, `a.jpg.dinac` → `a.jpg.png`.

    `suffixes` are the suffixes of the output format. If the name has none of them, the first suffix
    is appended.
    """
    name = strip_suffix(name)
    stem, suffix = os.path.splitext(name)
    return name if stem and suffix.lower() in suffixes else name + suffixes[0]


def undo_image_name(name: str, suffixes: Iterable[str]) -> list[str]:
    """Returns the names that image `name` may have after encoding and decoding.

    The most likely name comes first.
    """
    return [name, *(name + suffix for suffix in suffixes)]


class NameSet:
    """A set of names that holds 8 bytes for each name: its hash, in a table of open addresses.

    With `fold_case`, names that differ only in case are equal. Two of a million different names
    have the same hash with a probability of 3e-8.
    """

    def __init__(self, *, fold_case: bool = False) -> None:
        self._fold_case = fold_case
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._count = 0

    def __contains__(self, name: str) -> bool:
        return self._slots[self._find(self._hash(name))] != 0

    def add(self, name: str) -> bool:
        """Adds a name. Returns False if the set holds it already."""
        key = self._hash(name)
        slot = self._find(key)
        if self._slots[slot]:
            return False
        self._slots[slot] = key
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def equal(self, one: str, other: str) -> bool:
        """True if the set takes two names for the same."""
        return self._hash(one) == self._hash(other)

    def _hash(self, name: str) -> int:
        """Returns a hash that is not 0, the mark of an empty slot."""
        return hash(name.casefold() if self._fold_case else name) & _MOST or 1

    def _find(self, key: int) -> int:
        slots, mask = self._slots, len(self._slots) - 1
        slot = key & mask
        while slots[slot] and slots[slot] != key:
            slot = slot + 1 & mask
        return slot

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(8 * 2 * len(self._slots)))
        for key in filter(None, old):
            self._slots[self._find(key)] = key


def ignores_case(folder: str) -> bool:
    """True if the file system of `folder` (or of its nearest existing parent) ignores case.

    Tests whether the folder also exists under its name with swapped case. Returns False if the name
    has no letters.
    """
    folder = os.path.realpath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    parent, name = os.path.split(folder)
    swapped = os.path.join(parent, name.swapcase())
    return swapped != folder and os.path.exists(swapped) and os.path.samefile(swapped, folder)

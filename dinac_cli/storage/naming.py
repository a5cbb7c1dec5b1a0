"""Names of outputs. A name depends only on its own input, never on the rest of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from dinac_cli.errors import UsageError

LATENT_SUFFIX = ".dinac"


def name_latents(name: str) -> str:
    """Returns the record's name: `a.jpg` → `a.jpg.dinac`, as gzip does."""
    return name + LATENT_SUFFIX


def name_image(name: str, suffixes: tuple[str, ...]) -> str:
    """Returns the decoded image's name: `a.png.dinac` → `a.png`, `a.jpg.dinac` → `a.jpg.png`.

    `suffixes` are those of the output format; the first is appended if the name has none of them.
    """
    if name.lower().endswith(LATENT_SUFFIX) and len(name) > len(LATENT_SUFFIX):
        name = name[: -len(LATENT_SUFFIX)]
    stem, suffix = os.path.splitext(name)
    return name if stem and suffix.lower() in suffixes else name + suffixes[0]


def undo_image_name(name: str, suffixes: Iterable[str]) -> list[str]:
    """Returns possible names of image `name` after encoding and decoding, likeliest first."""
    return [name, *(name + suffix for suffix in suffixes)]


class CollisionCheck:
    """Detects repeated output names; keeps a hash of each name, not the name.

    With `fold_case`, names that differ only in case are equal.
    """

    def __init__(self, *, fold_case: bool = False) -> None:
        self._fold_case = fold_case
        self._seen: set[int] = set()

    def add(self, name: str) -> bool:
        """Adds `name`; returns False if it was added before."""
        key = hash(name.casefold() if self._fold_case else name)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def refuse_collisions(
    pairs: Callable[[], Iterable[tuple[str, str | None]]], *, fold_case: bool = False
) -> int:
    """Checks (input, output name) pairs before any work; returns their number.

    The name None stands for an input that will fail; it is counted but never collides. Raises
    UsageError for a collision; `pairs` is then called again to find the first input of the two.
    """
    check = CollisionCheck(fold_case=fold_case)
    count = 0
    for source, name in pairs():
        count += 1
        if name is not None and not check.add(name):
            first = next(
                other
                for other, its_name in pairs()
                if its_name is not None and _same(its_name, name, fold_case)
            )
            raise UsageError(
                f"{first} and {source} would both be written to {name}; "
                "give them different OUTs or rename one"
            )
    return count


def _same(one: str, other: str, fold_case: bool) -> bool:
    return one.casefold() == other.casefold() if fold_case else one == other


def ignores_case(folder: str) -> bool:
    """True if the file system of `folder` (or its nearest existing parent) ignores case.

    Tests whether the folder also exists under its name in swapped case; a name without letters
    counts as case-sensitive.
    """
    folder = os.path.realpath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    parent, name = os.path.split(folder)
    swapped = os.path.join(parent, name.swapcase())
    if swapped == folder or not os.path.exists(swapped):
        return False
    return os.path.samefile(swapped, folder)

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

    If the name has none of `suffixes`, those of the output format, the first is appended.
    """
    if name.lower().endswith(LATENT_SUFFIX) and len(name) > len(LATENT_SUFFIX):
        name = name[: -len(LATENT_SUFFIX)]
    stem, suffix = os.path.splitext(name)
    return name if stem and suffix.lower() in suffixes else name + suffixes[0]


def undo_image_name(name: str, suffixes: Iterable[str]) -> list[str]:
    """Returns the possible names of image `name` after encoding and decoding, likeliest first."""
    return [name, *(name + suffix for suffix in suffixes)]


def refuse_collisions(
    pairs: Callable[[], Iterable[tuple[str, str | None]]], *, fold_case: bool = False
) -> int:
    """Checks (input, output name) pairs before any work; returns their number.

    Raises UsageError if two inputs have the same output name or, with `fold_case`, names that
    differ only in case; `pairs` is then called again to find the other input. The name None, for
    an input that will fail, is counted but never collides.
    """
    seen: set[int] = set()  # hashes, which need less memory than names
    count = 0
    for source, name in pairs():
        count += 1
        if name is None:
            continue
        key = _hash(name, fold_case)
        if key in seen:
            first = next(one for one, out in pairs() if out and _hash(out, fold_case) == key)
            raise UsageError(
                f"{first} and {source} would both be written to {name}; "
                "give them different OUTs or rename one"
            )
        seen.add(key)
    return count


def _hash(name: str, fold_case: bool) -> int:
    return hash(name.casefold() if fold_case else name)


def ignores_case(folder: str) -> bool:
    """True if the file system of `folder` (or its nearest existing parent) ignores case.

    Looks the folder up under its name in swapped case. Returns False if the name has no letters.
    """
    folder = os.path.realpath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    parent, name = os.path.split(folder)
    swapped = os.path.join(parent, name.swapcase())
    return swapped != folder and os.path.exists(swapped) and os.path.samefile(swapped, folder)

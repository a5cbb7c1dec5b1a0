"""Names of outputs. The name of an output depends only on its input, not on other inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from dinac_cli.errors import UsageError

LATENT_SUFFIX = ".dinac"


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


def refuse_collisions(
    pairs: Callable[[], Iterable[tuple[str, str | None]]], *, fold_case: bool = False
) -> int:
    """Checks that no two inputs have the same output name. Returns the number of inputs.

    `pairs` returns pairs of an input and its output name. The output name is None if the input
    will fail. Raises UsageError if two names are equal, or, with `fold_case`, if they differ only
    in case. Before it raises, calls `pairs` again to find the other input for the message.
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

"""Finds captions: the text and JSON files beside loose images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator

from dinac_cli.storage.store import Stat

_SUFFIXES = (".txt", ".json")


def list_captioned(folder: str) -> frozenset[str]:
    """Returns the names in a local folder that have a caption, without their suffixes."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return frozenset()
    return frozenset(os.path.splitext(name)[0] for name in names if _is_caption(name))


def match_captions(files: Iterable[Stat]) -> Iterator[tuple[Stat, bool]]:
    """Yields files in their order, and whether a caption lies beside each. Captions are files too.

    The files must be sorted by name. Then all names that start like `a.` are next to each other, so
    only those are held that the next caption may belong to.
    """
    waiting: deque[tuple[str, Stat]] = deque()
    captioned: set[str] = set()
    for file in files:
        while waiting and not file.name.startswith(f"{waiting[0][0]}."):
            stem, passed = waiting.popleft()
            yield passed, stem in captioned
        if not waiting:
            captioned.clear()
        stem = os.path.splitext(file.name)[0]
        waiting.append((stem, file))
        if _is_caption(file.name):
            captioned.add(stem)
    yield from ((passed, stem in captioned) for stem, passed in waiting)


def _is_caption(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)

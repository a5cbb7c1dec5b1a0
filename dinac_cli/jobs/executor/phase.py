"""The phases of a command, such as scanning a folder or loading a model.

The work reports its phases; only commands show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """The current work of a command: `done` of `total` items are finished.

    `name` says what is being done, such as "reading images". `detail` says which item is being
    worked on. If the number of items is unknown, `total` is None.
    """

    name: str
    done: int = 0
    total: int | None = None
    detail: str = ""


Watch = Callable[[Phase], None]
"""A function that receives each phase when it starts, and again after each item."""


def ignore_phase(phase: Phase) -> None:
    """A `Watch` that does nothing."""


def watch_items(
    items: Iterable[T], watch: Watch, name: str, total: int | None = None
) -> Iterator[T]:
    """Yields `items`. Reports the phase `name` before the first item, and after each item."""
    watch(Phase(name, 0, total))
    for done, item in enumerate(items, start=1):
        yield item
        if total is not None and done > total:
            total = None
        watch(Phase(name, done, total))

"""OUT, the place where a run writes its outputs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from dinac_cli.errors import OutputError
from dinac_cli.storage.atomic import (
    describe_write_error,
    move_atomically,
    remove_dead_temporaries,
    write_atomically,
)
from dinac_cli.storage.naming import ignores_case

STDOUT = "-"

REMOVED_FOLDER = ".dinac-removed"
"""The folder in OUT for outputs without a source. No command reads it unless the user names it."""


class OutputKind(str, Enum):
    """The kind of OUT: a folder, one file, or standard output."""

    FOLDER = "folder"
    FILE = "file"
    STREAM = "stream"


@dataclass
class Output:
    """OUT of one run. All writes to OUT go through this class.

    An existing file is replaced only if `overwrite` is true, or if `is_ours(path)` is true (dinac
    wrote the file). If OUT is a folder, nothing is written outside that folder, not even through a
    symbolic link in the folder.
    """

    path: str
    kind: OutputKind
    is_ours: Callable[[str], bool]
    overwrite: bool = False
    fsync: bool = False
    _ready: set[str] = field(default_factory=set, init=False)
    _made: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._prefix = os.path.join(self.path, "")

    @property
    def is_stream(self) -> bool:
        """True if outputs go to standard output, one after another."""
        return self.kind is OutputKind.STREAM

    @property
    def keeps_existing(self) -> bool:
        """True if a run must check existing outputs before it writes."""
        return not self.is_stream and not self.overwrite

    @property
    def folds_case(self) -> bool:
        """True if two names that differ only in case name the same file in OUT."""
        return self.kind is OutputKind.FOLDER and ignores_case(self.path)

    def locate(self, name: str) -> str:
        """Returns the path of the output called `name` (relative, `/`-separated)."""
        if self.kind is OutputKind.FILE:
            return self.path
        # The name is appended as text: on Windows, `join` would read a drive in `1:30.png`.
        return self._prefix + (name if os.sep == "/" else name.replace("/", os.sep))

    def look(self, name: str) -> str | None:
        """Makes the folder of the output called `name`, and returns the path of that output.

        The output may exist already. If `keeps_existing` is false, makes no folder and returns
        None. Raises OutputError if `prepare` raises it.
        """
        if not self.keeps_existing:
            return None
        target = self.locate(name)
        self.prepare(target)
        return target

    def deliver(self, name: str, data: bytes) -> str | None:
        """Writes one output and returns its path. Raises OutputError.

        If OUT is a stream, writes nothing and returns None. The caller must then write `data`,
        in order.
        """
        if self.is_stream:
            return None
        target = self.locate(name)
        self.write(target, data)
        return target

    def open(self) -> None:
        """Makes OUT's folder. An OutputError in this method stops the run before the first file."""
        if self.is_stream:
            return
        place = self.locate("")
        made = list(_list_missing(os.path.dirname(place)))
        self.prepare(place)
        self._made = made

    def remove_unused(self) -> None:
        """Removes the folders that `open` made, if no file is in them. Raises no error."""
        empty: list[str] = []
        for folder, _, names in os.walk(self._made[0]) if self._made else ():
            if names:
                return
            empty.append(folder)
        with contextlib.suppress(OSError):  # another run has put a file into a folder
            for folder in (*reversed(empty), *self._made[1:]):
                os.rmdir(folder)

    def prepare(self, target: str) -> None:
        """Makes the folder of `target`, and removes temporary files that killed runs left there.

        Raises OutputError if the folder cannot be made or lies outside OUT.
        """
        folder = os.path.dirname(target) or "."
        if folder in self._ready:
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise describe_write_error(exc, folder) from exc
        self.require_inside(folder)
        remove_dead_temporaries(folder)
        if len(self._ready) > 4096:  # limits the memory; a folder may be prepared twice
            self._ready.clear()
        self._ready.add(folder)

    def require_writable(self) -> None:
        """Raises OutputError if OUT's path or permissions forbid writing. Creates no folder."""
        if self.is_stream:
            return
        place = os.path.dirname(self.path) if self.kind is OutputKind.FILE else self.path
        while place and not os.path.lexists(place) and os.path.dirname(place) != place:
            place = os.path.dirname(place)
        place = place or "."
        if not os.path.isdir(place):
            raise OutputError(f"{place}: not a folder; choose another OUT")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"{place}: cannot write there; choose another OUT")

    def write(self, target: str, data: bytes) -> None:
        """Writes one whole output file. Raises OutputError."""
        self.prepare(target)
        write_atomically(
            target, data, replace=self.overwrite, is_ours=self.is_ours, fsync=self.fsync
        )

    def set_aside(self, target: str) -> str:
        """Moves the file `target` in OUT to `REMOVED_FOLDER`, and returns its new path.

        The file keeps its path relative to OUT. If a file has this path already, a number is added
        to the name: both files stay. Raises FileNotFoundError if `target` is gone, OutputError if
        the file cannot be moved.
        """
        name = os.path.relpath(target, self.path)
        stem, suffix = os.path.splitext(os.path.join(self.path, REMOVED_FOLDER, name))
        self.prepare(stem)
        place, number = stem + suffix, 1
        while not move_atomically(target, place):
            number += 1
            place = f"{stem}.{number}{suffix}"
        return place

    def require_inside(self, folder: str) -> None:
        """Raises OutputError if OUT is a folder and `folder` lies outside it."""
        if self.kind is OutputKind.FOLDER:
            require_inside(folder, self.path)


def _list_missing(folder: str) -> Iterator[str]:
    """Yields a folder and the folders above it, as far as they do not exist."""
    while folder and not os.path.lexists(folder):
        yield folder
        folder = os.path.dirname(folder)


def require_inside(folder: str, out: str) -> None:
    """Raises OutputError if `folder` lies outside the folder `out`."""
    root, real = os.path.realpath(out), os.path.realpath(folder)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        raise OutputError(
            f"{folder}: leads outside {out} through a symbolic link; "
            "remove the link or name its target as OUT"
        )

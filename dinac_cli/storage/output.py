"""Where outputs go: a folder, one file, or standard output."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from dinac_cli.errors import OutputError
from dinac_cli.storage.atomic import (
    describe_write_error,
    remove_dead_temporaries,
    write_atomically,
)

STDOUT = "-"


class OutputKind(str, Enum):
    """What OUT is."""

    FOLDER = "folder"
    FILE = "file"
    STREAM = "stream"


@dataclass
class Output:
    """OUT of one run, and the only thing that writes there.

    `is_ours` tells whether dinac wrote an existing file; such a file may be replaced, any other
    only with `overwrite`. Nothing is ever written outside of a folder OUT, also not through a
    symbolic link below it.
    """

    path: str
    kind: OutputKind
    is_ours: Callable[[str], bool]
    overwrite: bool = False
    fsync: bool = False
    _ready: set[str] = field(default_factory=set, init=False)

    def locate(self, name: str) -> str:
        """The path of the output called `name` (relative, `/`-separated)."""
        if self.kind is OutputKind.FILE:
            return self.path
        # Joined as text: `join` would take `1:30.png` for another drive on Windows, and leave OUT.
        return os.path.join(self.path, "") + os.sep.join(name.split("/"))

    def prepare(self, target: str) -> None:
        """Make the folder of `target` and rid it of what killed runs left there.

        Raises OutputError where the folder cannot be made or lies outside of OUT.
        """
        folder = os.path.dirname(target) or "."
        if folder in self._ready:
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise describe_write_error(exc, folder) from exc
        if self.kind is OutputKind.FOLDER:
            self.require_inside(folder)
        remove_dead_temporaries(folder)
        if len(self._ready) > 4096:  # a bound on memory; a folder checked twice does no harm
            self._ready.clear()
        self._ready.add(folder)

    def require_writable(self) -> None:
        """Raises OutputError where nothing could be written, as far as looking tells."""
        if self.kind is OutputKind.STREAM:
            return
        place = os.path.dirname(self.path) if self.kind is OutputKind.FILE else self.path
        while place and not os.path.lexists(place) and os.path.dirname(place) != place:
            place = os.path.dirname(place)
        place = place or "."
        if not os.path.isdir(place):
            raise OutputError(f"{place}: is no folder: choose another OUT")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"{place}: cannot write there: choose another OUT")

    def write(self, target: str, data: bytes) -> None:
        """Write one whole output file. Raises OutputError."""
        self.prepare(target)
        write_atomically(
            target, data, replace=self.overwrite, is_ours=self.is_ours, fsync=self.fsync
        )

    def require_inside(self, folder: str) -> None:
        """Raises OutputError where a folder that is to hold outputs lies outside of OUT."""
        root, real = os.path.realpath(self.path), os.path.realpath(folder)
        if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
            raise OutputError(
                f"{folder}: leads outside of {self.path} through a symbolic link; "
                "remove the link or name its target as OUT"
            )

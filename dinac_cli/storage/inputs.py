"""From what a user names (files, folders, globs, lists, `-`) to a stream of inputs.

Nothing here is kept in memory per file: a folder is walked as often as it is iterated, in sorted
order, so two walks of an unchanged folder agree.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dinac_cli.errors import UsageError

STDIN = "-"
STDIN_NAME = "stdin"
HEAD_BYTES = 64


@dataclass(frozen=True)
class FileKind:
    """What makes a file in a folder an input: its name or, failing that, its first bytes.

    `is_output` tells, by its path, what an earlier run left among the inputs: that is none.
    """

    label: str
    plural: str
    accepts_name: Callable[[str], bool]
    accepts_head: Callable[[bytes], bool]
    is_output: Callable[[str], bool] | None = None

    def accepts(self, path: str) -> bool:
        """True for a file that is such an input; one that cannot be read counts by its name."""
        if not (self.accepts_name(os.path.basename(path)) or self._accepts_content(path)):
            return False
        return self.is_output is None or not self.is_output(path)

    def _accepts_content(self, path: str) -> bool:
        try:
            with open(path, "rb") as file:
                return self.accepts_head(file.read(HEAD_BYTES))
        except OSError:
            return False


@dataclass(frozen=True)
class Input:
    """One input: `path` to open (None is standard input), `name` below OUT (relative, `/`).

    `problem` is set where the name itself is the failure (no such file, outside of --root).
    """

    path: str | None
    name: str
    problem: str | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return STDIN_NAME if self.path is None else self.path


@dataclass
class InputScan:
    """The inputs of one run; iterate it as often as needed.

    `paths` are files, folders, globs or `-`; `listed` the content of a `--files-from` list (None:
    no list), `null` whether it is NUL-separated, `root` what its absolute entries are relative to.
    `exclude` is a folder that is never entered (OUT, where it lies inside an input folder).
    `others` counts, after an iteration, the files that are not of `kind`.
    """

    kind: FileKind
    paths: tuple[str, ...]
    listed: bytes | None = None
    null: bool = False
    root: str | None = None
    exclude: str | None = None
    others: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Input]:
        self.others = 0
        for path in self.paths:
            yield from self._expand(path)
        if self.listed is not None:
            for entry in split_list(self.listed, null=self.null):
                yield from self._resolve_entry(entry)

    @property
    def single_file(self) -> bool:
        """True where exactly one file (or `-`) is named, and no folder, glob or list."""
        if self.listed is not None or len(self.paths) != 1:
            return False
        path = self.paths[0]
        return path == STDIN or not (os.path.isdir(path) or _is_glob(path))

    def _expand(self, path: str) -> Iterator[Input]:
        if path == STDIN:
            yield Input(None, STDIN_NAME)
        elif os.path.isdir(path):
            yield from self._walk(path, prefix="", ancestors=())
        elif _is_glob(path):
            yield from self._expand_glob(path)
        else:
            yield _name_file(path, os.path.basename(path))

    def _expand_glob(self, pattern: str) -> Iterator[Input]:
        """Matches of a pattern; what lies in a folder that matches is named relative to it.

        `**` also matches what is inside of such a folder, and follows a link that leads back to
        where it came from, so each file is taken once, in the place that comes first.
        """
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            yield Input(pattern, os.path.basename(pattern), "no file matches this pattern")
        folders: set[str] = set()
        seen: set[str] = set()
        for match in matches:
            place = _resolve_parent(match)
            if place in seen or not folders.isdisjoint(_list_parents(place)):
                continue
            seen.add(place)
            if os.path.isdir(match):
                folders.add(place)
                yield from self._walk(match, prefix="", ancestors=())
            else:
                yield _name_file(match, os.path.basename(match))

    def _resolve_entry(self, entry: str) -> Iterator[Input]:
        """One entry of a list, under its relative path (as rsync --files-from does)."""
        name = entry
        if self.root is not None:
            path = os.path.join(self.root, entry)
            name = os.path.relpath(path, self.root)
        elif os.path.isabs(entry):
            problem = "absolute path in the list: say what it is relative to with --root DIR"
            yield Input(entry, os.path.basename(entry), problem)
            return
        else:
            path = entry
        name = os.path.normpath(name).replace(os.sep, "/")
        if name == ".." or name.startswith("../"):
            where = f"--root {self.root}" if self.root is not None else "the current folder"
            problem = f"lies outside of {where}, so its output would lie outside of OUT"
            yield Input(entry, os.path.basename(entry), problem)
        elif os.path.isdir(path):
            prefix = "" if name == "." else name + "/"
            yield from self._walk(path, prefix=prefix, ancestors=())
        else:
            yield _name_file(path, name)

    def _walk(
        self, folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[Input]:
        """Inputs below `folder`, sorted; links to folders are followed, loops are not."""
        try:
            identity = _identify(folder)
            if identity in ancestors or (ancestors and self._is_excluded(identity)):
                return
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as exc:
            problem = f"cannot list this folder: {exc.strerror}"
            yield Input(folder, prefix.rstrip("/") or os.path.basename(folder), problem)
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", (*ancestors, identity))
            elif self._accepts(entry):
                yield Input(entry.path, prefix + entry.name)
            else:
                self.others += 1

    def _is_excluded(self, identity: tuple[int, int]) -> bool:
        # Asked for each folder: OUT may be made only when the first output is.
        try:
            return self.exclude is not None and identity == _identify(self.exclude)
        except OSError:
            return False

    def _accepts(self, entry: os.DirEntry[str]) -> bool:
        try:
            if not stat.S_ISREG(entry.stat().st_mode):
                return False
        except OSError:
            # A link that leads nowhere is reported only if its name says it is an input.
            return self.kind.accepts_name(entry.name)
        return self.kind.accepts(entry.path)


def split_list(content: bytes, *, null: bool) -> Iterator[str]:
    """Entries of a file list, newline- or NUL-separated; empty ones are skipped.

    Raises UsageError where a list that should be newline-separated holds a NUL, as no name can.
    """
    if not null and b"\0" in content:
        raise UsageError("the list of --files-from holds NUL characters: add --null")
    separator = b"\0" if null else b"\n"
    start = 0
    while start < len(content):
        end = content.find(separator, start)
        end = len(content) if end < 0 else end
        entry = content[start:end]
        if not null:
            entry = entry.removesuffix(b"\r")
        if entry:
            yield os.fsdecode(entry)
        start = end + 1


def require_inputs(paths: tuple[str, ...], listed: bytes | None, out: str | None) -> None:
    """Refuse a request that names no input, or standard input twice; `out` is what it takes as OUT.

    Raises UsageError.
    """
    if not paths and listed is None:
        if out is not None and os.path.exists(out):
            raise UsageError(
                f"no input: {out} was taken as OUT, the last argument; name OUT after the inputs"
            )
        place = "" if out is None else " before OUT"
        raise UsageError(f"no input: name files, folders, '-' or --files-from LIST{place}")
    if paths.count(STDIN) > 1:
        raise UsageError("standard input '-' is named twice as an input")


def _name_file(path: str, name: str) -> Input:
    problem = None
    if not os.path.lexists(path):
        problem = "no such file or folder"
    return Input(path, name, problem)


def _is_glob(path: str) -> bool:
    return glob.has_magic(path) and not os.path.lexists(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identify(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _resolve_parent(path: str) -> str:
    """`path` through the folders that it really leads through; its last part may be a link."""
    parent, name = os.path.split(path.rstrip(os.sep) or path)
    return os.path.join(os.path.realpath(parent), name)


def _list_parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent

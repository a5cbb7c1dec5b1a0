"""Expands the user's arguments (files, folders, globs, lists, `-`) to a stream of inputs.

The inputs are not kept in memory: each iteration walks the folders again, in sorted order. Two
iterations over an unchanged folder yield the same inputs.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from dinac_cli.errors import UsageError
from dinac_cli.storage.caption_files import OtherFiles
from dinac_cli.storage.exclusion import NO_EXCLUSION, Exclusion
from dinac_cli.storage.markers import FOLDER
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.urls import hide_secrets, is_url

STDIN = "-"
STDIN_NAME = "stdin"
HEAD_BYTES = 64

TAR_SUFFIX = ".tar"
_ARCHIVE_SUFFIXES = (TAR_SUFFIX, ".parquet")

SHARDS_MARK = FOLDER
"""The folder that marks a folder of shards, if it holds run.json."""

# The longest first: the mark of UTF-32 begins with the mark of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class FileKind:
    """Decides which files in a folder are inputs.

    A file is an input if `accepts_name` accepts its name, or if `accepts_head` accepts its first
    bytes. `is_output(path)` is true for a file that an earlier run wrote; see `Search`. Files whose
    names end in one of `companions`, such as `.txt`, belong to inputs: they are not counted. If
    `has_captions` is set, captions of the inputs are not counted either; see `OtherFiles`.
    """

    label: str
    plural: str
    accepts_name: Callable[[str], bool]
    accepts_head: Callable[[bytes], bool]
    is_output: Callable[[str], bool] | None = None
    companions: tuple[str, ...] = ()
    has_captions: bool = False

    def accepts(self, path: str) -> bool:
        """True if the file is an input. If the file cannot be read, only its name decides."""
        return self.accepts_name(os.path.basename(path)) or self._accepts_content(path)

    def _accepts_content(self, path: str) -> bool:
        try:
            with open(path, "rb") as file:
                return self.accepts_head(file.read(HEAD_BYTES))
        except OSError:
            return False


class Search:
    """The search of one folder or glob that the user named.

    Outputs of earlier runs among other files are not inputs: the next run would encode them again.
    But if the user names a folder of outputs alone, they are what the user wants. Several threads
    may ask.
    """

    def __init__(self, scan: InputScan, *, is_out: bool) -> None:
        self._scan = scan
        self._skips = True if is_out else None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """A lock cannot be pickled; another process makes its own."""
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @property
    def skips_outputs(self) -> bool:
        """True if outputs found here are not inputs.

        True if the search also finds files that are no outputs, or if it searches OUT. The first
        call may open files, but no more of them than necessary.
        """
        with self._lock:
            if self._skips is None:
                self._skips = not all(map(self._is_output, self._list_samples_first()))
            return self._skips

    def skips(self, entry: Input) -> bool:
        """True if the entry, which this search found, is an output and therefore not an input."""
        return self._is_output(entry) and self.skips_outputs

    def _is_output(self, entry: Input) -> bool:
        is_output = self._scan.kind.is_output
        return is_output is not None and entry.path is not None and is_output(entry.path)

    def _list_samples_first(self) -> Iterator[Input]:
        """Yields one input of each folder, then all inputs: most folders hold either kind only."""
        folder = None
        for entry in self._list():
            if os.path.dirname(entry.name) != folder:
                folder = os.path.dirname(entry.name)
                yield entry
        yield from self._list()

    def _list(self) -> Iterator[Input]:
        return (entry for entry in self._scan if not entry.problem)


class InputSource(Protocol):
    """Reads inputs that are not files of this machine: tars of records, and remote records.

    All inputs of a tar or of a remote folder share their source. `is_archive` is true if an input
    holds any number of records, so that no output is named after the input.
    """

    @property
    def is_archive(self) -> bool: ...


class SourceFinder(Protocol):
    """Finds the inputs that an `InputSource` reads.

    `folders` are the folders of shards that were found. `first_tar` is a tar in another folder.
    """

    @property
    def folders(self) -> Sized: ...

    @property
    def first_tar(self) -> str | None: ...

    def find(self, path: str, name: str = "") -> Iterator[Input] | None:
        """Returns the inputs that a path or URL names; None if it is a path of loose files.

        `name` is the relative path of a folder or a file that a list names, or that was found in a
        folder. The names of the inputs begin with it, as those of loose files do.
        """

    def take_others(self) -> int:
        """Returns how many files were found since the last call that are not inputs."""


@dataclass(frozen=True)
class Input:
    """One input.

    `path` is the file to open, or None for standard input. `name` is a relative path with `/`. The
    name of the output in OUT is made from `name`. If the input cannot be used, `problem` says why:
    for example, the file does not exist, or it is outside --root. `search` has found the input; it
    is None if the user named the file, or a list did. If the input is not a loose file of this
    machine, `source` reads it, and `path` may be a URL. `records` is the number of records in it,
    or None if that is unknown.
    """

    path: str | None
    name: str
    problem: str | None = None
    search: Search | None = field(default=None, compare=False, repr=False)
    source: InputSource | None = field(default=None, compare=False, repr=False)
    records: int | None = field(default=1, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The input's name in messages."""
        return STDIN_NAME if self.path is None else hide_secrets(self.path)

    @property
    def is_archive(self) -> bool:
        """True if the input is a tar of records."""
        return self.source is not None and self.source.is_archive

    @property
    def held_bytes(self) -> int:
        """The memory that the content occupies: none, the content is read later."""
        return 0


@dataclass
class InputScan:
    """The inputs of one run. They can be iterated repeatedly.

    `paths` are files, folders, globs or `-`. `listed` is the content of a `--files-from` list, or
    None. If `null` is true, NULs separate the names in this list. The names are relative to `root`.
    `skipped_folder` is OUT. If OUT lies in an input folder, OUT is not searched for inputs. Files
    and folders that match `exclusion` are no inputs either. After an iteration, `others` is the
    number of files that were not of `kind`, `excluded` of files and folders that `exclusion`
    matched, and `set_aside` of those in `left_out` that were named. `gap` then says why inputs may
    be missing: a folder could not be listed, or one of `paths` gave no input. If there is a
    `finder`, tars and URLs are inputs too, and folders of shards are read as what they are; see
    `SHARDS_MARK`. The files in the folders `left_out` are no
    inputs, also if these folders lie in an input folder.
    """

    kind: FileKind
    paths: tuple[str, ...]
    listed: bytes | None = None
    null: bool = False
    root: str | None = None
    skipped_folder: str | None = None
    exclusion: Exclusion = NO_EXCLUSION
    finder: SourceFinder | None = None
    left_out: tuple[str, ...] = ()
    others: int = field(default=0, init=False)
    excluded: int = field(default=0, init=False)
    set_aside: int = field(default=0, init=False)
    gap: str | None = field(default=None, init=False)
    _searches: dict[str, Search] = field(default_factory=dict, init=False, repr=False)
    _archive: str | None = field(default=None, init=False, repr=False)

    def __iter__(self) -> Iterator[Input]:
        self.others = self.excluded = self.set_aside = 0
        self.gap = None
        for path in self.paths:
            is_empty = True
            for found in self._expand(path):
                is_empty = False
                yield found
            if is_empty:
                self.gap = self.gap or f"{path} holds no {self.kind.plural}"
        if self.listed is not None:
            for entry in split_list(self.listed, null=self.null):
                yield from self._resolve_entry(entry)

    @property
    def keeps_whole_paths(self) -> bool:
        """True if the names of some inputs are absolute paths of the list, without the root."""
        if self.listed is None or self.root is not None:
            return False
        return any(map(os.path.isabs, split_list(self.listed, null=self.null)))

    @property
    def has_empty_list(self) -> bool:
        """True if there is a list that names nothing."""
        return self.listed is not None and not any(split_list(self.listed, null=self.null))

    @property
    def finds_shards(self) -> bool:
        """True if an input is a folder of shards. Known after an iteration."""
        return self.finder is not None and bool(self.finder.folders)

    @property
    def first_archive(self) -> str | None:
        """A tar or parquet file in a folder: no input there. Known after an iteration."""
        return self._archive or (None if self.finder is None else self.finder.first_tar)

    @property
    def single_file(self) -> bool:
        """True if the input is exactly one file or `-`, and not a folder, a glob or a list."""
        if self.listed is not None or len(self.paths) != 1:
            return False
        path = self.paths[0]
        if is_url(path):
            return path.lower().endswith(LATENT_SUFFIX) and not set("*?[{") & set(path)
        if path.lower().endswith(TAR_SUFFIX):
            return False
        return path == STDIN or not (os.path.isdir(path) or _is_glob(path))

    def _expand(self, path: str) -> Iterator[Input]:
        if path == STDIN:
            yield Input(None, STDIN_NAME)
        elif (found := self._find(path)) is not None:
            yield from found
        elif os.path.isdir(path):
            yield from self._walk(path, "", (), self._find_search(path))
        elif _is_glob(path):
            yield from self._expand_glob(path)
        else:
            yield from self._name_file(path, os.path.basename(path))

    def _find(self, path: str, name: str = "") -> Iterator[Input] | None:
        """Returns the inputs in tars, shards or a remote place; None if `path` has loose files."""
        found = None if self.finder is None else self.finder.find(path, name)
        return None if found is None else self._count_others(found)

    def _find_named(self, path: str, name: str, *, is_folder: bool) -> Iterator[Input] | None:
        """Returns what `_find` returns. Asks the system nothing about a file that is no tar."""
        may_hold_many = is_folder or path.lower().endswith(TAR_SUFFIX)
        return self._find(path, name) if may_hold_many else None

    def _count_others(self, found: Iterator[Input]) -> Iterator[Input]:
        yield from found
        if self.finder is not None:
            self.others += self.finder.take_others()

    def _find_search(self, path: str) -> Search:
        if path not in self._searches:
            scan = replace(self, paths=(path,), listed=None)
            is_out = os.path.isdir(path) and self._is_skipped(_identify(path))
            self._searches[path] = Search(scan, is_out=is_out)
        return self._searches[path]

    def _expand_glob(self, pattern: str) -> Iterator[Input]:
        """Yields the files that match a pattern, and the files in matching folders.

        The names of files in a folder are relative to that folder. `**` also matches the content of
        a matching folder, and can follow links in a loop. Therefore each file is yielded only at
        its first match.
        """
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            yield Input(pattern, os.path.basename(pattern), "no file matches this pattern")
        folders: set[Path] = set()
        seen: set[Path] = set()
        for match in matches:
            place = _resolve_parent(match)
            if place in seen or not folders.isdisjoint(place.parents):
                continue
            seen.add(place)
            is_folder = os.path.isdir(match)
            if (found := self._find_named(match, "", is_folder=is_folder)) is not None:
                folders.add(place)
                yield from found
            elif is_folder:
                folders.add(place)
                base = os.path.basename(match.rstrip(os.sep))
                if not (self._excludes(base, is_folder=True) or self._leaves_out(match)):
                    yield from self._walk(match, "", (), self._find_search(pattern))
            else:
                name = os.path.basename(match)
                yield from self._name_file(match, name, self._find_search(pattern))

    def _resolve_entry(self, entry: str) -> Iterator[Input]:
        """Yields the inputs for one entry of a list.

        Keeps the relative path of the entry, as rsync --files-from does.
        """
        if is_url(entry):
            yield from self._find(entry) or self._name_file(entry, entry)
            return
        path = entry if self.root is None else os.path.join(self.root, entry)
        name, problem = self._name_entry(entry, path)
        if problem is not None:
            yield Input(entry, os.path.basename(entry), problem)
            return
        is_folder = os.path.isdir(path)
        if (found := self._find_named(path, name, is_folder=is_folder)) is not None:
            yield from found
        elif not is_folder:
            yield from self._name_file(path, name)
        elif name == "." or not self._excludes(name, is_folder=True):
            yield from self._walk(path, "" if name == "." else name + "/", ())

    def _name_entry(self, entry: str, path: str) -> tuple[str, str | None]:
        """Returns the name of an entry of a list, and why the entry cannot be used."""
        if self.root is None and os.path.isabs(entry):
            return _name_absolute(entry)
        name = entry if self.root is None else os.path.relpath(path, self.root)
        name = os.path.normpath(name).replace(os.sep, "/")
        if name != ".." and not name.startswith("../"):
            return name, None
        where = "the current folder" if self.root is None else f"--root {self.root}"
        return name, f"is outside {where}, so its output would be outside OUT"

    def _walk(
        self,
        folder: str,
        prefix: str,
        ancestors: tuple[tuple[int, int], ...],
        search: Search | None = None,
    ) -> Iterator[Input]:
        """Yields the inputs below `folder`, sorted. Follows links to folders, but not in loops."""
        try:
            identity = _identify(folder)
            if identity in ancestors or (ancestors and self._is_skipped(identity)):
                return
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as exc:
            problem = f"cannot list this folder: {exc.strerror}; check its permissions"
            self.gap = self.gap or f"{folder} cannot be listed"
            yield Input(folder, prefix.rstrip("/") or os.path.basename(folder), problem)
            return
        if ancestors and self.finder is not None and any(e.name == SHARDS_MARK for e in entries):
            found = self._find(folder, prefix.rstrip("/"))
            if found is not None:
                yield from found
                return
        beside = OtherFiles()
        while entries:
            entry = entries.pop()  # an entry that is used holds a status, which takes much memory
            if entry.name.startswith("."):
                continue
            is_folder = _is_folder(entry)
            if self.exclusion.excludes(prefix + entry.name, is_folder=is_folder):
                self.excluded += 1
            elif is_folder:
                inner = f"{prefix}{entry.name}/"
                yield from self._walk(entry.path, inner, (*ancestors, identity), search)
            elif self._accepts(entry):
                if self.kind.has_captions:
                    self.others += beside.pass_image(entry.name)
                yield Input(entry.path, prefix + entry.name, search=search)
            else:
                if not entry.name.lower().endswith(self.kind.companions):
                    self.others += beside.pass_other(entry.name) if self.kind.has_captions else 1
                if self._archive is None and entry.name.lower().endswith(_ARCHIVE_SUFFIXES):
                    self._archive = entry.path

    def _name_file(self, path: str, name: str, search: Search | None = None) -> Iterator[Input]:
        if self._excludes(name, is_folder=False) or self._leaves_out(path):
            return
        missing = None if os.path.lexists(path) else "no such file or folder; check the path"
        yield Input(path, name, missing, search)

    def _excludes(self, name: str, *, is_folder: bool) -> bool:
        is_excluded = self.exclusion.excludes_any(name, is_folder=is_folder)
        self.excluded += is_excluded
        return is_excluded

    def _is_skipped(self, identity: tuple[int, int]) -> bool:
        # This is checked for each folder, because OUT may not exist before the first output.
        for folder in (self.skipped_folder, *self.left_out):
            with suppress(OSError):
                if folder is not None and identity == _identify(folder):
                    return True
        return False

    def _leaves_out(self, path: str) -> bool:
        """True if a file or folder that was named, listed or matched lies in `left_out`."""
        if not self.left_out:
            return False
        place = _resolve(path)
        is_set_aside = any(map(place.is_relative_to, self._places_left_out))
        self.set_aside += is_set_aside
        return is_set_aside

    def lies_left_out(self, folder: str, top: str) -> bool:
        """True if a walk of the input folder `top` skips `folder` in it because of `left_out`."""
        while len(folder) > len(top):
            with suppress(OSError):  # the folder does not exist
                identity = _identify(folder)
                if any(identity == _identify(place) for place in self.left_out):
                    return True
            folder = os.path.dirname(folder)
        return False

    @cached_property
    def _places_left_out(self) -> tuple[Path, ...]:
        return tuple(map(_resolve, self.left_out))

    def _accepts(self, entry: os.DirEntry[str]) -> bool:
        try:
            if not stat.S_ISREG(entry.stat().st_mode):
                return False
        except OSError:
            # A broken link is reported as an error only if it has the name of an input.
            return self.kind.accepts_name(entry.name)
        return self.kind.accepts(entry.path)


def split_list(content: bytes, *, null: bool) -> Iterator[str]:
    """Yields the entries of a list. Skips empty entries.

    The entries are separated by newlines, or by NULs if `null` is true. A list of lines may begin
    with the byte order mark of UTF-8, UTF-16 or UTF-32, as programs on Windows write it. Raises
    UsageError if `null` is false and the list contains a NUL, because no file name can contain one.
    """
    if not null:
        content = _remove_byte_order_mark(content)
        if b"\0" in content:
            raise UsageError(
                "the list of --files-from holds NUL characters; add --null, or save it as UTF-8"
            )
    for match in re.finditer(rb"[^\0]+" if null else rb"[^\n]+", content):
        entry = match[0] if null else match[0].removesuffix(b"\r")
        if entry:
            yield os.fsdecode(entry)


def _remove_byte_order_mark(content: bytes) -> bytes:
    """Returns a list as bytes of file names, without a byte order mark."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            try:
                return content.decode(encoding).encode("utf-8")
            except UnicodeDecodeError as exc:
                raise UsageError(
                    f"the list of --files-from is damaged {encoding.upper()}; save it as UTF-8"
                ) from exc
    return content.removeprefix(codecs.BOM_UTF8)


def _name_absolute(path: str) -> tuple[str, str | None]:
    """Returns an absolute path as a relative name, as tar does, and why it cannot be used.

    The name lacks the leading slash. A drive becomes a folder.
    """
    drive, inner = os.path.splitdrive(path)
    parts = [part for part in inner.replace(os.sep, "/").split("/") if part not in ("", ".")]
    place = drive.replace(":", "").replace(os.sep, "/").strip("/")
    problem = "holds '..'; write the path without it, or name a base folder with --root"
    return "/".join(filter(None, (place, *parts))) or ".", problem if ".." in parts else None


def require_inputs(paths: tuple[str, ...], listed: bytes | None, out: str | None) -> None:
    """Raises UsageError if no input is named, or if standard input is named twice.

    `out` is OUT, or None if the user did not name it.
    """
    if not paths and listed is None:
        if out is not None and os.path.exists(out):
            raise UsageError(
                f"no input: {out} was taken as OUT, the last argument; name OUT after the inputs"
            )
        place = "" if out is None else " before OUT"
        raise UsageError(f"no input: name files, folders, '-' or --files-from LIST{place}")
    if paths.count(STDIN) > 1:
        raise UsageError("standard input '-' is named twice as an input; name it once")


def is_missing(path: str) -> bool:
    """True if the user named a file or folder that does not exist. Globs and `-` are neither."""
    return not (path == STDIN or os.path.lexists(path) or glob.has_magic(path))


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


def _resolve(path: str) -> Path:
    return Path(os.path.realpath(path))


def _resolve_parent(path: str) -> Path:
    """Returns `path` with the links in its parent resolved. The last part may still be a link."""
    parent, name = os.path.split(path.rstrip(os.sep) or path)
    return Path(os.path.realpath(parent), name)

"""Divides a long list of loose images into shards, and keeps the division when the list grows.

The plan in OUT holds the name, the size and the version of each image, in one file per shard. An
image keeps its place in the plan. New images become new shards. A changed image changes the
fingerprint of its shard. An image that has vanished stays in the plan.
"""

from __future__ import annotations

import json
import pickle
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import zstandard

from dinac_cli.errors import InputError
from dinac_cli.jobs.shards.shard import (
    LooseFile,
    Shard,
    ShardKind,
    fingerprint,
    number_shard,
    parse_number,
)
from dinac_cli.storage.markers import PLAN_FOLDER
from dinac_cli.storage.store import Store

MAX_PART_BYTES = 2**28
"""The longest part of a plan that dinac reads, in bytes before compression."""

GONE = "no longer there; it was in the list of an earlier run"

_SUFFIX = ".jsonl.zst"
_LEVEL = 3
_CHUNK = 4096
_MOST = 2**64

Line = tuple[str, int, str]
"""The name, the size in bytes and the version of an image."""


@dataclass
class _OpenPart:
    """A part of an earlier plan, while its images are being listed."""

    lines: list[Line]
    files: list[LooseFile | None]
    missing: int


@dataclass
class LoosePlan:
    """The shards of loose images. `settings` identifies the settings of the run.

    Shards have at most `size` images. `is_done` tells whether the shard of a name and a fingerprint
    is complete. Call `add` with all images, then `list_all`. If `anonymous` is set, OUT keeps no
    plan: the shards follow from the order of the list alone. If `read_only` is set, writes nothing.
    `known_parts` of the plan were in OUT; `new_parts` differ from OUT and were written, or would
    have been.

    Holds about 25 bytes for each image in the plan, and the packed names of the shards to do.
    """

    store: Store
    settings: str
    size: int
    anonymous: bool
    is_done: Callable[[str, str], bool]
    read_only: bool = False
    new_parts: int = field(default=0, init=False)
    images: int = field(default=0, init=False)
    vanished: int = field(default=0, init=False)
    changed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._marks: dict[int, str] = {}
        self._todo: dict[int, bytes] = {}
        self._parts: list[int] = []
        self._starts: list[int] = []
        self._names = array("Q")
        self._versions = array("Q")
        self._open: dict[int, _OpenPart] = {}
        self._closed: set[int] = set()
        self._new: list[LooseFile] = []
        self._next = 0

    def add(self, files: Iterable[LooseFile]) -> None:
        """Divides the images. Raises InputError if the plan in OUT is damaged, OutputError."""
        if not self.anonymous:
            self._load()
        order = np.argsort(np.frombuffer(self._names, dtype=np.uint64), kind="stable")
        names = np.frombuffer(self._names, dtype=np.uint64)[order]
        seen = np.zeros(len(names), dtype=bool)
        stream = iter(files)
        while chunk := list(islice(stream, _CHUNK)):
            self.images += len(chunk)
            for file, place in zip(chunk, _look_up(names, order, chunk), strict=True):
                if place is None or seen[place]:
                    self._add_new(file)
                else:
                    seen[place] = True
                    self._add_known(file, place)
        self._finish(seen)

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self._marks)

    @property
    def known_parts(self) -> int:
        """The number of parts that were in OUT."""
        return len(self._parts)

    def list_all(self) -> Iterator[tuple[str, str, Shard | None]]:
        """Yields the name, the fingerprint and, if it is to do, the shard itself, by number."""
        for number in sorted(self._marks):
            name, mark = number_shard(number), self._marks[number]
            packed = self._todo.get(number)
            yield name, mark, None if packed is None else _unpack(name, mark, packed)

    def _load(self) -> None:
        for stat in self.store.list(PLAN_FOLDER):
            name = stat.name.removeprefix(f"{PLAN_FOLDER}/").removesuffix(_SUFFIX)
            number = parse_number(name)
            if number is None or not stat.name.endswith(_SUFFIX):
                continue
            lines = self._read_part(stat.name)
            self._parts.append(number)
            self._starts.append(len(self._names))
            self._names.extend(_hash(line[0]) for line in lines)
            self._versions.extend(_hash(line[1:]) for line in lines)
            self._next = max(self._next, number + 1)

    def _read_part(self, name: str) -> list[Line]:
        try:
            return _parse_part(self.store.read(name, MAX_PART_BYTES))
        except ValueError as exc:
            raise InputError(
                f"{self.store.locate(name)}: a damaged plan; restore it, or choose another OUT"
            ) from exc

    def _add_known(self, file: LooseFile, place: int) -> None:
        index = int(np.searchsorted(self._starts, place, side="right")) - 1
        part = self._open.get(index) or self._reopen(index)
        position = place - self._starts[index]
        part.files[position] = file
        part.missing -= 1
        self.changed += self._versions[place] != _hash((file.size_bytes, file.version))
        if not part.missing:
            self._close(index)

    def _close(self, index: int) -> None:
        """Compares a part with what was listed. What is gone keeps the facts in the plan."""
        part = self._open.pop(index)
        self._closed.add(index)
        files = [
            LooseFile(name, name, size, version, GONE) if file is None else file
            for file, (name, size, version) in zip(part.files, part.lines, strict=True)
        ]
        self._plan(self._parts[index], files, is_new=list(map(_describe, files)) != part.lines)

    def _add_new(self, file: LooseFile) -> None:
        self._new.append(file)
        if len(self._new) == self.size:
            self._flush()

    def _flush(self) -> None:
        self._plan(self._next, self._new, is_new=not self.anonymous)
        self._next += 1
        self._new = []

    def _finish(self, seen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        if self._new:
            self._flush()
        self.vanished = len(seen) - int(np.count_nonzero(seen))
        for index in range(len(self._parts)):
            if index not in self._open and index not in self._closed:
                self._reopen(index)
            if index in self._open:
                self._close(index)

    def _reopen(self, index: int) -> _OpenPart:
        lines = self._read_part(_name_part(self._parts[index]))
        part = self._open[index] = _OpenPart(lines, [None] * len(lines), len(lines))
        return part

    def _plan(self, number: int, files: Sequence[LooseFile], *, is_new: bool) -> None:
        lines = list(map(_describe, files))
        mark = fingerprint(self.settings, "loose", lines)
        name = number_shard(number)
        self.new_parts += is_new
        if is_new and not self.read_only:
            self.store.write(_name_part(number), _pack_part(lines))
        self._marks[number] = mark
        if not self.is_done(name, mark):
            self._todo[number] = zlib.compress(pickle.dumps([tuple(file) for file in files]), 1)


def _unpack(name: str, mark: str, packed: bytes) -> Shard:
    files = tuple(LooseFile(*fields) for fields in pickle.loads(zlib.decompress(packed)))
    return Shard(name=name, kind=ShardKind.LOOSE, fingerprint=mark, files=files)


def _look_up(
    names: np.ndarray[tuple[int], np.dtype[np.uint64]],
    order: np.ndarray[tuple[int], np.dtype[np.intp]],
    files: Sequence[LooseFile],
) -> list[int | None]:
    """Returns the places of images in the plan; None for an image that is not in it."""
    if not len(names):
        return [None] * len(files)
    wanted = np.array([_hash(file.name) for file in files], dtype=np.uint64)
    places = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
    found = names[places] == wanted
    return [
        int(order[place]) if is_found else None
        for place, is_found in zip(places, found, strict=True)
    ]


def _describe(file: LooseFile) -> Line:
    return file.name, file.size_bytes, file.version


def _hash(value: object) -> int:
    return hash(value) % _MOST


def _name_part(number: int) -> str:
    return f"{PLAN_FOLDER}/{number_shard(number)}{_SUFFIX}"


def _pack_part(lines: Iterable[Line]) -> bytes:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(text.encode())


def _parse_part(data: bytes) -> list[Line]:
    """Parses a part of a plan. Raises ValueError."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_PART_BYTES:
            raise ValueError("too long")
        text = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_PART_BYTES)
        lines = [json.loads(line) for line in text.splitlines()]
    except (zstandard.ZstdError, RecursionError) as exc:
        raise ValueError("damaged") from exc
    return [_check_line(line) for line in lines]


def _check_line(line: object) -> Line:
    if isinstance(line, list) and len(line) == 3:
        name, size, version = line
        if isinstance(name, str) and type(size) is int and isinstance(version, str):
            return name, size, version
    raise ValueError("not a line of a plan")

"""Divides a long list of loose images into shards, and keeps the division when the list grows.

The plan in OUT holds the name, the size and the version of each image, in one file per shard. An
image keeps its place in the plan. New images become new shards. A changed image changes the
fingerprint of its shard. An image that has vanished stays in the plan.
"""

from __future__ import annotations

import json
import pickle
import time
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import zstandard

from dinac_cli.container.names import find_name_fault
from dinac_cli.errors import InputError
from dinac_cli.jobs.shards.shard import (
    MAX_SHARD_SIZE,
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
_MOST_BYTES = 2**63
_REQUESTS = 16
_LOOKS = 5
_PAUSE_SECONDS = 0.2

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
    is complete. Call `add` with all images, then `write` and `list_all`. If `anonymous` is set, OUT
    keeps no plan: the shards follow from the order of the list alone. If `starts_anew` is set, the
    plan that is in OUT is replaced.

    Holds about 25 bytes for each image in the plan, and the packed names of the shards to do.
    """

    store: Store
    settings: str
    size: int
    anonymous: bool
    is_done: Callable[[str, str], bool]
    starts_anew: bool = False
    images: int = field(default=0, init=False)
    vanished: int = field(default=0, init=False)
    changed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._marks: dict[int, str] = {}
        self._packed: dict[int, bytes] = {}
        self._todo: set[int] = set()
        self._unwritten: set[int] = set()
        self._parts: list[int] = []
        self._starts: list[int] = []
        self._names = array("Q")
        self._versions = array("Q")
        self._open: dict[int, _OpenPart] = {}
        self._closed: set[int] = set()
        self._new: list[LooseFile] = []
        self._next = 0

    def add(self, files: Iterable[LooseFile]) -> None:
        """Divides the images. Raises InputError if the plan in OUT is damaged, StorageError."""
        if not self.anonymous and not self.starts_anew:
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
        """The number of parts of the plan that were in OUT."""
        return len(self._parts)

    @property
    def new_parts(self) -> int:
        """The number of parts that `write` writes."""
        return len(self._unwritten)

    @property
    def names(self) -> set[str]:
        """The names of all shards."""
        return set(map(number_shard, self._marks))

    def write(self) -> None:
        """Writes the parts that changed. Raises OutputError, StorageError."""
        # In order, if other runs may read the plan meanwhile: see `_list_parts`.
        with ThreadPoolExecutor(_REQUESTS if self.starts_anew else 1, "plan") as pool:
            list(pool.map(self._write_part, sorted(self._unwritten)))
        if self.starts_anew:
            kept = set() if self.anonymous else {name_part(name) for name in self.names}
            for stat in list(self.store.list(PLAN_FOLDER)):
                if _find_number(stat.name) is not None and stat.name not in kept:
                    self.store.remove(stat.name)

    def _write_part(self, number: int) -> None:
        lines = map(_describe, _unpack_files(self._packed[number]))
        self.store.write(name_part(number_shard(number)), _pack_part(lines))

    def list_all(self) -> Iterator[tuple[str, str, Shard | None]]:
        """Yields the name, the fingerprint and, if it is to do, the shard itself, by number."""
        for number in sorted(self._marks):
            name, mark = number_shard(number), self._marks[number]
            is_todo = number in self._todo
            yield name, mark, _unpack(name, mark, self._packed[number]) if is_todo else None

    def _load(self) -> None:
        for number, lines in self._read_parts(self._list_parts()):
            self._parts.append(number)
            self._starts.append(len(self._names))
            self._names.extend(_hash(line[0]) for line in lines)
            self._versions.extend(_hash(line[1:]) for line in lines)
            self._next = number + 1

    def _read_parts(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[Line]]]:
        """Yields the numbers and the images of parts in order. Reads a few of them at once."""
        with ThreadPoolExecutor(_REQUESTS, "plan") as pool:
            for start in range(0, len(numbers), _REQUESTS):
                some = numbers[start : start + _REQUESTS]
                names = [name_part(number_shard(number)) for number in some]
                yield from zip(some, pool.map(self._read_part, names), strict=True)

    def _list_parts(self) -> list[int]:
        """Returns the numbers of the parts in OUT, in order.

        A listing may miss a part, and have a later one, while another run writes the plan. If this
        run gave the images of that part to another shard, they would be encoded twice.
        """
        for look in range(_LOOKS):
            found = map(_find_number, [stat.name for stat in self.store.list(PLAN_FOLDER)])
            numbers = sorted(number for number in found if number is not None)
            if look == _LOOKS - 1 or numbers == list(range(len(numbers))):
                break
            time.sleep(_PAUSE_SECONDS)
        return numbers

    def _read_part(self, name: str) -> list[Line]:
        try:
            return _parse_part(self.store.read(name, MAX_PART_BYTES))
        except ValueError as exc:
            raise InputError(
                f"{self.store.locate(name)}: a damaged plan; restore it, or choose another OUT"
            ) from exc

    def _add_known(self, file: LooseFile, place: int) -> None:
        index = bisect_right(self._starts, place) - 1
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
        name = name_part(number_shard(self._parts[index]))
        lines = self._read_part(name)
        end = self._starts[index + 1] if index + 1 < len(self._starts) else len(self._names)
        if len(lines) != end - self._starts[index]:
            where = self.store.locate(name)
            raise InputError(f"{where}: another run replaces the plan; let it end, and run again")
        part = self._open[index] = _OpenPart(lines, [None] * len(lines), len(lines))
        return part

    def _plan(self, number: int, files: Sequence[LooseFile], *, is_new: bool) -> None:
        mark = fingerprint(self.settings, "loose", list(map(_describe, files)))
        self._marks[number] = mark
        is_todo = not self.is_done(number_shard(number), mark)
        if is_todo:
            self._todo.add(number)
        if is_new:
            self._unwritten.add(number)
        if is_todo or is_new:
            self._packed[number] = zlib.compress(pickle.dumps([tuple(file) for file in files]), 1)


def _unpack(name: str, mark: str, packed: bytes) -> Shard:
    files = tuple(_unpack_files(packed))
    return Shard(name=name, kind=ShardKind.LOOSE, fingerprint=mark, files=files)


def _unpack_files(packed: bytes) -> Iterator[LooseFile]:
    return (LooseFile(*fields) for fields in pickle.loads(zlib.decompress(packed)))


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


def name_part(shard: str) -> str:
    """Returns the name in OUT of the part of the plan that a shard has."""
    return f"{PLAN_FOLDER}/{shard}{_SUFFIX}"


def _find_number(name: str) -> int | None:
    """Returns the number of the shard whose part has this name; None for another file."""
    number = parse_number(name.removeprefix(f"{PLAN_FOLDER}/").removesuffix(_SUFFIX))
    return number if name.endswith(_SUFFIX) else None


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
        if text.count(b"\n") > MAX_SHARD_SIZE or not text.endswith(b"\n"):
            raise ValueError("too many images, or cut")
        lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
    except (zstandard.ZstdError, RecursionError) as exc:
        raise ValueError("damaged") from exc
    return [_check_line(line) for line in lines]


def _check_line(line: object) -> Line:
    if isinstance(line, list) and len(line) == 3:
        name, size, version = line
        is_name = isinstance(name, str) and find_name_fault(name) is None
        is_size = type(size) is int and 0 <= size < _MOST_BYTES
        if is_name and is_size and isinstance(version, str):
            return name, size, version
    raise ValueError("not a line of a plan")

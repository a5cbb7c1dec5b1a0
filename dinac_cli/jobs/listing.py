"""Lists the inputs of a run once: the first ones before the run starts, the others beside it."""

from __future__ import annotations

import itertools
import pickle
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from dinac_cli.errors import SameOutputError
from dinac_cli.jobs.executor.phase import Watch, ignore_phase, watch_items
from dinac_cli.storage.inputs import Input, InputSource, Search
from dinac_cli.storage.naming import NameSet

SCANNING = "scanning the inputs"
"""The phase in which a run lists its first inputs."""

LISTED_FIRST = 10_000
"""The number of inputs that are listed before a run starts."""

_CHUNK = 500


class Listing:
    """The inputs of one run. They can be iterated once, while a thread lists the rest of them.

    `rename` turns the name of an input into the name of its output; it is None if no output is
    named after an input. With `fold_case`, names that differ only in case are equal. The listed
    inputs are kept in packed form, because there may be millions.
    """

    def __init__(
        self,
        inputs: Iterable[Input],
        rename: Callable[[str], str] | None = None,
        *,
        fold_case: bool = False,
    ) -> None:
        self._inputs = iter(inputs)
        self._rename = rename
        self._names = NameSet(fold_case=fold_case)
        self._chunks: deque[bytes] = deque()
        self._finders: list[tuple[Search | None, InputSource | None]] = []
        self._count = 0
        self._records: int | None = 0
        self._has_ended = self._is_closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def total(self) -> int | None:
        """The number of records in the inputs; None while they are listed, or if it is unknown."""
        return self._records if self._has_ended else None

    def list_first(self, watch: Watch = ignore_phase) -> None:
        """Lists the first `LISTED_FIRST` inputs.

        Reports the phase `SCANNING` to `watch`. Raises SameOutputError if two of these inputs have
        the same output.
        """
        first = watch_items(itertools.islice(self._inputs, LISTED_FIRST), watch, SCANNING)
        while chunk := list(itertools.islice(first, _CHUNK)):
            for entry in chunk:
                name = self._claim(entry)
                if name is not None:
                    raise self._refuse(entry, name, chunk)
            self._add(chunk)
        self._has_ended = self._count < LISTED_FIRST

    def list_waiting(self) -> Iterator[Input]:
        """Yields the inputs that are listed, and that no iteration has taken. Takes none."""
        return itertools.chain.from_iterable(map(self._unpack, tuple(self._chunks)))

    def __iter__(self) -> Iterator[Input]:
        if not self._has_ended:
            threading.Thread(target=self._list_rest, name="list", daemon=True).start()
        try:
            while (chunk := self._take()) is not None:
                yield from self._unpack(chunk)
        finally:
            self._is_closed = True
        if self._error is not None:
            raise self._error

    def _take(self) -> bytes | None:
        """Waits for the next chunk. Returns None if there is none left."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._has_ended)
            return self._chunks.popleft() if self._chunks else None

    def _list_rest(self) -> None:
        try:
            while not self._is_closed and (chunk := list(itertools.islice(self._inputs, _CHUNK))):
                self._add([self._fail_if_taken(entry) for entry in chunk])
        except BaseException as exc:
            self._error = exc
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _add(self, chunk: list[Input]) -> None:
        packed = zlib.compress(pickle.dumps([self._flatten(entry) for entry in chunk]), 1)
        with self._changed:
            self._chunks.append(packed)
            self._count += len(chunk)
            for entry in chunk:
                self._records = _add_known(self._records, entry.records)
            self._changed.notify_all()

    def _flatten(self, entry: Input) -> tuple[str | None, str, str | None, int | None, int]:
        """Returns an input as plain values. What all inputs of a search share is a number."""
        found = self._finders[-1] if self._finders else ()
        if not found or found[0] is not entry.search or found[1] is not entry.source:
            self._finders.append((entry.search, entry.source))
        return entry.path, entry.name, entry.problem, entry.records, len(self._finders) - 1

    def _unpack(self, chunk: bytes) -> Iterator[Input]:
        for path, name, problem, records, finder in pickle.loads(zlib.decompress(chunk)):
            search, source = self._finders[finder]
            yield Input(path, name, problem, search, source, records)

    def _claim(self, entry: Input) -> str | None:
        """Takes the name of the entry's output. Returns the name if it was taken before."""
        if self._rename is None or entry.problem or entry.is_archive:
            return None
        name = self._rename(entry.name)
        return None if self._names.add(name) else name

    def _fail_if_taken(self, entry: Input) -> Input:
        name = self._claim(entry)
        if name is None:
            return entry
        problem = (
            f"another input of this run is also written to {name}; "
            "give them different OUTs or rename one"
        )
        return replace(entry, problem=problem)

    def _refuse(self, second: Input, name: str, unlisted: list[Input]) -> SameOutputError:
        """Returns the error for two inputs with the same output."""
        first = next(
            entry.label
            for entry in itertools.chain(self.list_waiting(), unlisted)
            if not entry.problem
            and self._rename
            and self._names.equal(self._rename(entry.name), name)
        )
        return SameOutputError(
            f"{first} and {second.label} would both be written to {name}; "
            "give them different OUTs or rename one"
        )


def _add_known(total: int | None, count: int | None) -> int | None:
    return None if total is None or count is None else total + count

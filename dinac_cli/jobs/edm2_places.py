"""Where the arrays of an export for EDM2 go: a folder, or one zip."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dinac_cli.errors import OutputError
from dinac_cli.jobs.export_forms import (
    UNREADABLE,
    Facts,
    is_sealed_json,
    read_facts,
    refuse_changed,
)
from dinac_cli.storage.atomic import describe_write_error
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.storage.renewal import Renewal, renew_file
from dinac_cli.storage.zips import END, ZipWriter, count_members, read_last_member

LABELS_NAME = "dataset.json"

ZIP_SUFFIX = ".zip"

_ARRAY_NAME = re.compile(r"img-mean-std-([0-9]{8,})\.npy")

_MARK = b"written by dinac export; SHA-256 of the bytes before the end record: "
_DIGEST_CHARACTERS = 64
_CHUNK_BYTES = 2**20


def name_array(number: int) -> str:
    """`7` → `00000/img-mean-std-00000007.npy`: the names that EDM2 and REPA expect."""
    return f"{number:08}"[:5] + f"/img-mean-std-{number:08}.npy"


def _read_number(path: str) -> int:
    """Returns the number in the name of an array; -1 for other names."""
    match = _ARRAY_NAME.fullmatch(os.path.basename(path))
    return -1 if match is None else int(match[1])


class ArrayPlace(ABC):
    """Receives the arrays of an export in the order of their numbers, then the labels."""

    @abstractmethod
    def locate(self, name: str) -> str:
        """Returns the path of the output that holds an array."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> bool:
        """Writes an array. Returns False if OUT holds it already.

        Raises OutputError if OUT holds another array, or if it cannot be written. In the first
        case, the arrays of an earlier run still fit its labels.
        """

    @abstractmethod
    def leave_gap(self, name: str) -> None:
        """Makes sure that OUT does not hold an array, because its record cannot be exported.

        Raises OutputError if OUT holds it and must keep it. The arrays of an earlier run then still
        fit its labels.
        """

    @abstractmethod
    def finish(self, labels: bytes) -> None:
        """Writes the labels. Raises OutputError."""


def read_labels(output: Output) -> Facts:
    """Returns the facts of `dataset.json` in OUT; none if there is none that dinac can read."""
    try:
        if output.kind is OutputKind.FOLDER:
            path = output.locate(LABELS_NAME)
            return _read_json(path) if os.path.isfile(path) else {}
        if _read_mark(output.path) is None:
            return {}
        with open(output.path, "rb") as file:
            end = os.path.getsize(output.path) - _END_BYTES
            return read_facts(read_last_member(file, end, LABELS_NAME))
    except UNREADABLE:
        return {}


def _read_json(path: str) -> Facts:
    with open(path, "rb") as file:
        return read_facts(file.read())


@contextmanager
def open_place(output: Output, count: int) -> Iterator[ArrayPlace]:
    """Opens OUT for the arrays of `count` records.

    Raises OutputError if OUT holds something that must not be replaced, or an array that EDM2 would
    read as part of the set.
    """
    if output.kind is OutputKind.FOLDER:
        folder = _ArrayFolder(output)
        folder.refuse_changed_labels()  # before the first array, which would have no label
        folder.inspect_arrays(count)
        yield folder
        return
    target = output.path
    if output.keeps_existing and os.path.lexists(target):
        _refuse_other_zip(target, count)
    output.prepare(target)
    require_ours = _require_own_zip(target)
    with renew_file(target, require_ours=require_ours, overwrite=output.overwrite) as renewal:
        yield _ArrayZip(target, renewal, fsync=output.fsync)


class _ArrayFolder(ArrayPlace):
    """One file per array. An existing array is kept if it is equal; see `Edm2Exporter`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._end = 0  # all arrays of earlier runs have smaller numbers
        self._filled: list[str] = []  # arrays in gaps of earlier runs, which have no labels yet

    def locate(self, name: str) -> str:
        return self._output.locate(name)

    def put(self, name: str, data: bytes) -> bool:
        target = self._output.locate(name)
        if self._output.keeps_existing and os.path.lexists(target):
            if _is_equal(target, data):
                return False
            self._empty_gaps()
            raise OutputError(
                f"{target}: holds something else, so no array and no label was changed; "
                "choose another OUT, or add --overwrite"
            )
        self._output.write(target, data)
        if self._output.keeps_existing and _read_number(target) < self._end:
            self._filled.append(target)
        return True

    def _empty_gaps(self) -> None:
        """Removes the arrays that this run has added: EDM2 reads no array without a label."""
        for target in self._filled:
            with suppress(OSError):  # the error that follows asks for --overwrite anyway
                os.unlink(target)

    def leave_gap(self, name: str) -> None:
        target = self._output.locate(name)
        if not os.path.lexists(target):
            return
        if self._output.keeps_existing:
            self._empty_gaps()
            raise OutputError(
                f"{target}: belongs to a record that cannot be exported, but EDM2 would read it; "
                "encode that image again, or remove the array, and run the same command again"
            )
        try:
            os.unlink(target)
        except OSError as exc:
            raise describe_write_error(exc, target) from exc

    def finish(self, labels: bytes) -> None:
        target = self._output.locate(LABELS_NAME)
        if self._output.keeps_existing and os.path.lexists(target) and _is_equal(target, labels):
            return
        self.refuse_changed_labels()
        self._output.write(target, labels)

    def refuse_changed_labels(self) -> None:
        """Raises OutputError if OUT holds labels that this version of dinac did not write."""
        target = self._output.locate(LABELS_NAME)
        if self._output.keeps_existing and os.path.lexists(target) and not is_sealed_json(target):
            raise refuse_changed(target)

    def inspect_arrays(self, count: int) -> None:
        """Notes where the arrays of earlier runs end.

        Raises OutputError if OUT holds an array that is none of `count` records.
        """
        for folder, folders, names in os.walk(self._output.path):
            folders.sort()
            for name in sorted(names):
                number = _read_number(name)
                path = os.path.join(folder, name)
                is_ours = path == self._output.locate(name_array(number))
                if not name.endswith(".npy") or (is_ours and number < count):
                    self._end = max(self._end, number + 1)
                    continue
                if not is_ours:
                    raise OutputError(
                        f"{path}: is not an array of this export, but EDM2 would read it; "
                        "remove it, or choose another OUT"
                    )
                records = "1 record" if count == 1 else f"{count} records"
                raise OutputError(
                    f"{path}: is not an array of this export of {records}, but EDM2 would read it; "
                    "export all records, choose another OUT, or remove the arrays after number "
                    f"{count - 1}"
                )


class _ArrayZip(ArrayPlace):
    """One zip of all arrays, without compression.

    While the existing zip begins with the same bytes, nothing is written. The comment at its end
    marks a zip of dinac, and shows whether somebody has changed it.
    """

    def __init__(self, target: str, renewal: Renewal, *, fsync: bool) -> None:
        self._target = target
        self._renewal = renewal
        self._fsync = fsync
        self._digest = hashlib.sha256()
        self._zip = ZipWriter(self._write)

    def locate(self, name: str) -> str:
        return self._target

    def put(self, name: str, data: bytes) -> bool:
        self._zip.add(name, data)
        return not self._renewal.is_equal

    def leave_gap(self, name: str) -> None:
        """Does nothing: the zip holds what was put."""

    def finish(self, labels: bytes) -> None:
        self._zip.add(LABELS_NAME, labels)
        self._zip.finish(lambda: _MARK + self._digest.hexdigest().encode())
        self._renewal.publish(fsync=self._fsync)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._renewal.write(data)


def is_own_zip(path: str) -> bool:
    """True if `export` wrote the zip and nobody has changed it since. Reads all of it."""
    mark = _read_mark(path)
    if mark is None:
        return False
    digest, rest = hashlib.sha256(), os.path.getsize(path) - _END_BYTES
    try:
        with open(path, "rb") as file:
            while rest > 0 and (chunk := file.read(min(rest, _CHUNK_BYTES))):
                digest.update(chunk)
                rest -= len(chunk)
    except OSError:
        return False
    return digest.hexdigest().encode() == mark


_END_BYTES = END.size + len(_MARK) + _DIGEST_CHARACTERS


def _read_mark(path: str) -> bytes | None:
    """Returns the digest in the comment of a zip; None if it is no zip of dinac."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) < _END_BYTES:
            return None
        with open(path, "rb") as file:
            file.seek(-_END_BYTES, os.SEEK_END)
            comment = file.read()[END.size :]
    except OSError:
        return None
    return comment[len(_MARK) :] if comment.startswith(_MARK) else None


def _refuse_other_zip(target: str, count: int) -> None:
    """Raises OutputError for a zip of others, and for one with more than `count` arrays."""
    if _read_mark(target) is None:
        raise refuse_changed(target)
    try:
        with open(target, "rb") as file:
            arrays = count_members(file, os.path.getsize(target) - _END_BYTES) - 1
    except (OSError, ValueError, struct.error) as exc:
        raise refuse_changed(target) from exc
    if arrays > count:
        records = "1 record" if count == 1 else f"{count} records"
        raise OutputError(
            f"{target}: holds {arrays} arrays, but this export has {records}; export all records, "
            "choose another OUT, or add --overwrite"
        )


def _require_own_zip(target: str) -> Callable[[], None]:
    def require() -> None:
        if not is_own_zip(target):
            raise refuse_changed(target)

    return require


def _is_equal(path: str, data: bytes) -> bool:
    """True if the file holds exactly `data`. False for what is not a regular file."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) != len(data):
            return False
        with open(path, "rb") as file:
            return file.read() == data
    except OSError:
        return False

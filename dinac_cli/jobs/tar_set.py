"""The tars of an export: WebDataset samples that later runs recognise, complete and replace."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import (
    InputError,
    OutputError,
    UnwritableDiskError,
    UsageError,
    describe_read_error,
)
from dinac_cli.jobs.export_forms import (
    CONTENT_KEY,
    RECORD_CHANGED,
    RECORD_KEY,
    UNREADABLE,
    Exported,
    Facts,
    is_sealed_json,
    read_array,
    read_facts,
    refuse_changed,
    write_array,
)
from dinac_cli.storage.lock import hold_content
from dinac_cli.storage.output import Output
from dinac_cli.storage.parts import Shard
from dinac_cli.storage.tars import TarWriter, make_key

KEY_KINDS = ("number", "name")

TAR_BYTES = 64 * 2**20
"""A tar is closed when it has at least this size."""

INDEX_NAME = "wids-meta.json"
"""The index of the tars, which wids and Sana read."""

ARRAY_TYPES = ("f32", "f16")
"""The types of the arrays in a tar."""

_KEYS_KEY, _FILE_KEY, _COPY_KEY = "keys", "file", "copy"
_DTYPE_KEY, _PROMPT_KEY, _MASKS_KEY = "dtype", "prompt", "masks"
_MAX_FACTS_BYTES = 8 * 2**20  # a caption of 1 MiB, escaped, and the rest
_TAR_NAME = re.compile(r"((?:[0-9]+of[0-9]+-)?)([0-9]{6,})\.tar")
_NUMBER = re.compile(r"((?:[0-9]+of[0-9]+-)?)([0-9]{8,})")
_BROKEN = (*UNREADABLE, tarfile.TarError)


class Sample(NamedTuple):
    """A sample in a tar: its key, its facts, and the content of its files by name."""

    key: str
    facts: Facts
    members: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """Identifies the record in OUT; see `TarSet`."""
        return identify(self.facts)

    def is_intact(self) -> bool:
        """True if nobody has changed the sample since dinac wrote it. Raises ValueError."""
        arrays = {
            name[len(self.key) + 1 : -len(".npy")] or "latents": read_array(data)
            for name, data in self.members.items()
            if name.endswith(".npy")
        }
        return Exported(self.facts, arrays).is_intact()


class SampleName(NamedTuple):
    """The name of a sample, as `name_sample` returns it.

    If several records of a run have this name, `copy` counts them from 1.
    """

    name: str
    copy: int = 1

    @property
    def identity(self) -> str:
        """Identifies the sample in OUT. No name contains a newline."""
        return self.name if self.copy == 1 else f"{self.name}\n{self.copy}"


def identify(facts: Facts) -> str:
    """Returns the identity of a sample: its name, or its record's hash if it is anonymous."""
    if _FILE_KEY not in facts:
        return str(facts[RECORD_KEY])
    return SampleName(facts[_FILE_KEY], facts.get(_COPY_KEY, 1)).identity


class SampleWriter:
    """Writes a tar of WebDataset samples in memory.

    `KEY.npy` holds the latents, and `KEY.json` holds the facts. Each other array has a file with
    the name of the array, such as `KEY.logsnr.npy` or `KEY.flipped.npy`.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = TarWriter(self._file.write)

    @property
    def size_bytes(self) -> int:
        """The number of bytes written so far."""
        return self._tar.size_bytes

    def add(self, key: str, exported: Exported) -> None:
        """Adds a sample. `key` has no dot, because WebDataset ends a key at the first dot."""
        assert "." not in key
        for name, values in exported.arrays.items():
            title = key if name == "latents" else f"{key}.{name}"
            self._tar.add(f"{title}.npy", write_array(values))
        self._tar.add(f"{key}.json", json.dumps(exported.seal()).encode())

    def copy(self, sample: Sample) -> None:
        """Adds a sample of another tar unchanged."""
        for name, data in sample.members.items():
            self._tar.add(name, data)

    def finish(self) -> bytes:
        """Closes the tar and returns its content."""
        self._tar.finish()
        return self._file.getvalue()


@dataclass(frozen=True)
class Place:
    """The tar that holds a sample, the identity of the sample, and why it is stale, if it is."""

    path: str
    identity: str
    stale: str | None

    @property
    def is_current(self) -> bool:
        """True if the sample is up to date."""
        return self.stale is None


@dataclass
class TarSet:
    """The tars of OUT that dinac wrote, and the names and keys of those that follow.

    The name of a record identifies its sample. The sample of an anonymous record holds no name,
    unless the key is one; the hash of the record identifies this sample. `keys` is one of
    `KEY_KINDS`. With a shard, the names of tars and the numbers begin with the shard, so that all
    shards can share OUT. `dtype` is one of `ARRAY_TYPES`. `masks` says whether samples should hold
    masks, which stay uint8. Needs about 200 bytes of memory per sample in OUT.
    """

    output: Output
    keys: str
    shard: Shard | None = None
    dtype: str = "f32"
    masks: bool = False
    _tars: list[str] = field(default_factory=list, init=False)
    _found: dict[int, tuple[int, int, bool, int]] = field(default_factory=dict, init=False)
    _next_tar: int = field(default=0, init=False)
    _next_number: int = field(default=0, init=False)

    def scan(self) -> None:
        """Reads the facts of all samples in OUT.

        Raises OutputError if a tar is not dinac's or was changed, and UsageError if the samples
        have another kind of keys or another dtype. With `--overwrite`, skips tars that are not
        dinac's.
        """
        for name in sorted(os.listdir(self.output.path)):
            if _TAR_NAME.fullmatch(name):
                self._scan_tar(name)

    def find(self, name: SampleName, record_hash: str, prompt: str | None = None) -> Place | None:
        """Finds the sample of a record. `prompt` is the caption that the sample should have."""
        for identity in (name.identity, record_hash):
            if (found := self._found.get(hash(identity))) is not None:
                record, old_prompt, has_masks, tar = found
                stale = None if old_prompt == hash(prompt) else "the caption has changed"
                if has_masks != self.masks:
                    stale = f"it was exported {'with' if has_masks else 'without'} --masks"
                if record != hash(record_hash):
                    stale = RECORD_CHANGED
                return Place(self.output.locate(self._tars[tar]), identity, stale)
        return None

    def describe(self, exported: Exported, name: SampleName, prompt: str | None = None) -> Exported:
        """Adds the kind of keys to the facts of a record and, unless it is anonymous, its name.

        Adds the caption as `prompt`. The arrays get the type of this set. Raises InputError if a
        value is too large for it.
        """
        described = {**exported.facts, _KEYS_KEY: self.keys}
        if self.keys == "name" or "name" in exported.facts:
            described[_FILE_KEY] = name.name
            if name.copy > 1:
                described[_COPY_KEY] = name.copy
        if prompt is not None:
            described[_PROMPT_KEY] = prompt
        if self.masks:
            described[_MASKS_KEY] = True
        if self.dtype == "f32":
            return Exported(described, exported.arrays)
        described[_DTYPE_KEY] = self.dtype
        return Exported(described, {key: _halve(a) for key, a in exported.arrays.items()})

    def draw_key(self, name: SampleName) -> str:
        """Returns the key of a new sample."""
        if self.keys == "name":
            return make_key(name.name)
        self._next_number += 1
        return f"{self._prefix}{self._next_number - 1:08}"

    def add(self, data: bytes) -> str:
        """Writes a new tar and returns its path.

        Raises OutputError, also if another run has added another tar of this name since `scan`: its
        samples can have the same keys.
        """
        target = self.output.locate(f"{self._prefix}{self._next_tar:06}.tar")
        try:
            self.output.write(target, data)
        except UnwritableDiskError:
            raise
        except OutputError as exc:
            if self.output.overwrite or not os.path.lexists(target):
                raise
            raise _refuse_concurrent(target) from exc
        self._next_tar += 1
        return target

    def replace(self, path: str, samples: Mapping[str, Exported]) -> None:
        """Replaces samples in the tar at `path`.

        `samples` maps the identity of each old sample to the new one. Several runs may replace
        samples in one tar. Raises OutputError, also if somebody has changed the tar since dinac
        wrote it.
        """
        with _refuse_broken(path), hold_content(path) as content:
            data = self._rebuild(path, content, samples)
            replace(self.output, overwrite=True).write(path, data)

    def write_index(self) -> None:
        """Writes `INDEX_NAME`: the names of all tars in OUT, with their samples and sizes.

        Raises OutputError, also if OUT holds an index that dinac did not write.
        """
        target = self.output.locate(INDEX_NAME)
        names = sorted(filter(_TAR_NAME.fullmatch, os.listdir(self.output.path)))
        shards = [self._describe_tar(name) for name in names]
        facts = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        if self.output.keeps_existing and os.path.lexists(target) and not is_sealed_json(target):
            raise refuse_changed(target)
        data = json.dumps(Exported(facts, {}).seal()).encode()
        replace(self.output, overwrite=True).write(target, data)

    def _describe_tar(self, name: str) -> Facts:
        path = self.output.locate(name)
        with _refuse_broken(path):
            samples = sum(1 for _ in _list_facts(path))
            return {"url": name, "nsamples": samples, "filesize": os.path.getsize(path)}

    def _rebuild(self, path: str, content: bytes, samples: Mapping[str, Exported]) -> bytes:
        tar, missing = SampleWriter(), set(samples)
        for sample in read_samples(content):
            if not self.output.overwrite and not sample.is_intact():
                raise refuse_changed(path)
            missing.discard(sample.identity)
            new = samples.get(sample.identity)
            if new is None:
                tar.copy(sample)
            else:
                tar.add(sample.key, new)
        if missing:
            raise _refuse_concurrent(path)
        return tar.finish()

    @property
    def _prefix(self) -> str:
        return "" if self.shard is None else f"{self.shard.index}of{self.shard.count}-"

    def _scan_tar(self, name: str) -> None:
        path = self.output.locate(name)
        try:
            with _refuse_broken(path):
                facts = dict(_list_facts(path))
        except OutputError:
            if self.output.overwrite:
                return
            raise
        self._tars.append(name)
        match = _TAR_NAME.fullmatch(name)
        if match is not None and match[1] == self._prefix:
            self._next_tar = max(self._next_tar, int(match[2]) + 1)
        for key, each in facts.items():
            if each[_KEYS_KEY] != self.keys:
                raise UsageError(
                    f"{path} has {each[_KEYS_KEY]}s as keys, but this export has --keys "
                    f"{self.keys}; choose another OUT, or add --keys {each[_KEYS_KEY]}"
                )
            if (dtype := each.get(_DTYPE_KEY, "f32")) != self.dtype:
                raise UsageError(
                    f"{path} holds arrays of {dtype}, but this export has --dtype {self.dtype}; "
                    f"choose another OUT, or add --dtype {dtype}"
                )
            prompt = hash(each.get(_PROMPT_KEY))
            has_masks = each.get(_MASKS_KEY) is True
            found = hash(each[RECORD_KEY]), prompt, has_masks, len(self._tars) - 1
            self._found[hash(identify(each))] = found
            match = _NUMBER.fullmatch(key)
            if match is not None and match[1] == self._prefix:
                self._next_number = max(self._next_number, int(match[2]) + 1)


def _halve(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype == np.uint8:
        return array
    with np.errstate(over="ignore"):
        halved = array.astype(np.float16)
    if not np.isfinite(halved).all():
        raise InputError("holds values that are too large for --dtype f16; export f32")
    return halved


def _refuse_concurrent(path: str) -> OutputError:
    return OutputError(f"{path}: another run wrote this file meanwhile; run the same command again")


def read_samples(data: bytes) -> Iterator[Sample]:
    """Yields the samples of a tar. Raises one of `_BROKEN` if dinac did not write the tar."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = ((member.name, _extract(tar, member)) for member in tar)
        for key, group in itertools.groupby(members, key=lambda member: _split_key(member[0])):
            files = dict(group)
            yield Sample(key, _read_facts(files[f"{key}.json"]), files)


def _list_facts(path: str) -> Iterator[tuple[str, Facts]]:
    """Yields the key and the facts of each sample in a tar. Does not read the arrays.

    Raises one of `_BROKEN` if dinac did not write the tar.
    """
    if not os.path.isfile(path):  # opening a named pipe would wait for a writer
        raise ValueError("dinac writes only regular files")
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.endswith(".json") and member.size <= _MAX_FACTS_BYTES:
                yield _split_key(member.name), _read_facts(_extract(tar, member))
            elif not member.name.endswith(".npy"):
                raise ValueError(f"dinac writes no {member.name} into a tar")


def _split_key(name: str) -> str:
    return name.partition(".")[0]


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError("dinac writes only regular files")
    return file.read()


def _read_facts(data: bytes) -> Facts:
    facts = read_facts(data)
    if not all(isinstance(facts[key], str) for key in (RECORD_KEY, CONTENT_KEY, _KEYS_KEY)):
        raise ValueError("dinac writes these facts as text")
    texts = (facts.get(_FILE_KEY, ""), facts.get(_PROMPT_KEY, ""))
    if not all(isinstance(text, str) for text in texts) or type(facts.get(_COPY_KEY, 1)) is not int:
        raise ValueError("dinac writes no such name")
    return facts


@contextmanager
def _refuse_broken(path: str) -> Iterator[None]:
    """Turns the errors of reading a tar into an OutputError."""
    try:
        yield
    except PermissionError as exc:
        raise OutputError(f"{path}: {describe_read_error(exc)}") from exc
    except _BROKEN as exc:
        raise refuse_changed(path) from exc

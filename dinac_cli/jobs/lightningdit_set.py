"""The shards of an export for LightningDiT. Imports torch only to write the statistics."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import DinacError, OutputError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import (
    FORMS,
    RECORD_KEY,
    UNREADABLE,
    Exported,
    Facts,
    refuse_changed,
)
from dinac_cli.jobs.export_items import Exporter, ExportItem, ExportOutcome
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.training_set import TrainingSet, list_renumbered
from dinac_cli.storage.output import Output

SHARD_IMAGES = 10_000
"""The most images of a shard, as in the shards that LightningDiT writes."""

SHARD_BYTES = 256 * 2**20
"""The most bytes of a shard; twice this much is in memory. Any number of shards is read."""

STATISTICS_NAME = "latents_stats.pt"

_SHARDS_PER_RANK = 1000  # the names have three digits
_FORM = FORMS["safetensors"]


def name_shard(number: int) -> str:
    """`1002` → `latents_rank01_shard002.safetensors`. The reader sorts the names."""
    rank, shard = divmod(number, _SHARDS_PER_RANK)
    return f"latents_rank{rank:02}_shard{shard:03}.safetensors"


def _is_shard(name: str) -> bool:
    return name.endswith(".safetensors")


class LightningDitExporter(Exporter):
    """Collects records in shards of `latents` and `latents_flip` [N, C, h, w] and `labels` [N].

    A shard that holds the same records in the same order as before is kept.
    """

    def __init__(self, output: Output, training_set: TrainingSet, outcome: ExportOutcome) -> None:
        self._output = output
        self._set = training_set
        self._outcome = outcome
        image_bytes = 2 * 4 * math.prod(training_set.header.shape)
        self._per_shard = max(1, min(SHARD_IMAGES, SHARD_BYTES // image_bytes))

    def write(
        self, items: Iterable[ExportItem | FileResult], control: RunControl
    ) -> Iterator[FileResult]:
        """Writes the shards. Yields the results of a shard's items when the shard is written.

        Raises OutputError if OUT holds a file that LightningDiT would read as another shard, or
        other statistics.
        """
        self._refuse_others(-(-self._set.count // self._per_shard))
        self._refuse_statistics()
        self._outcome.renumbered = self._list_renumbered()
        shards, shard = 0, _Shard(self._set, self._per_shard)
        for item in items:
            result = item if isinstance(item, FileResult) else shard.add(item)
            if result is not None:
                yield result
            if len(shard.items) == self._per_shard:
                yield from self._close(shard, shards)
                shards, shard = shards + 1, _Shard(self._set, self._per_shard)
        if control.stop:
            return  # the same run, repeated, makes the same shards
        if shard.items:
            yield from self._close(shard, shards)
            shards += 1
        self._refuse_others(shards)
        self._write_statistics()

    def _close(self, shard: _Shard, number: int) -> Iterator[FileResult]:
        target, output = self._output.locate(name_shard(number)), self._output
        facts = shard.describe()
        if output.keeps_existing and os.path.lexists(target):
            if _FORM.is_current(target, facts[RECORD_KEY]):
                yield from (item.keep(target) for item in shard.items)
                return
            if not _FORM.is_ours(target):
                raise refuse_changed(target)
        data = _FORM.write(Exported(facts, shard.list_arrays()))
        output.write(target, data)
        size_bytes = len(data) // len(shard.items)
        yield from (item.finish(target, size_bytes) for item in shard.items)

    def _refuse_others(self, shards: int) -> None:
        expected = {name_shard(number) for number in range(shards)}
        for name in sorted(os.listdir(self._output.path)):
            if _is_shard(name) and name not in expected:
                raise OutputError(
                    f"{self._output.locate(name)}: is no shard of this export, but LightningDiT "
                    "would read it; remove it, or choose another OUT"
                )

    def _list_renumbered(self) -> list[tuple[int, str, str]]:
        """Compares the classes with those in the last shard.

        It knows the most classes, because one that sorts last leaves the other shards as they are;
        and a run that was stopped has not replaced it.
        """
        names = filter(_is_shard, os.listdir(self._output.path))
        facts = _FORM.find_facts(self._output.locate(max(names, default=name_shard(0))))
        try:
            earlier = json.loads(facts.get("classes", "null"))
        except UNREADABLE:
            return []  # of another program; only --overwrite replaces it
        return list_renumbered(earlier, self._set.classes or ())

    def _refuse_statistics(self) -> None:
        """Raises OutputError if LightningDiT would change the latents by statistics in OUT."""
        target = self._output.locate(STATISTICS_NAME)
        if not self._output.keeps_existing or not os.path.lexists(target):
            return
        if not _holds_statistics(target, write_statistics(self._set.header.shape[0])):
            raise OutputError(
                f"{target}: was not written by dinac for these latents, and LightningDiT would "
                "normalize them with it; remove it, choose another OUT, or add --overwrite"
            )

    def _write_statistics(self) -> None:
        target = self._output.locate(STATISTICS_NAME)
        if self._output.overwrite or not os.path.lexists(target):
            self._output.write(target, write_statistics(self._set.header.shape[0]))


class _Shard:
    """A shard that is being filled. Its arrays are made once, so that nothing is held twice."""

    def __init__(self, training_set: TrainingSet, size: int) -> None:
        self._set = training_set
        shape = (min(size, training_set.count), *training_set.header.shape)
        self._latents = np.empty(shape, np.float32)
        self._flipped = np.empty(shape, np.float32)
        self._labels: list[int] = []
        self.items: list[ExportItem] = []

    def add(self, item: ExportItem) -> FileResult | None:
        """Copies a record into the shard. Returns the result of a record that does not fit."""
        try:
            self._set.require_same(item.entry.label, item.exported)
            label = self._set.label(item.entry.name)
        except DinacError as exc:
            return item.fail(exc)
        place = len(self.items)
        self._latents[place] = item.exported.arrays["latents"]
        self._flipped[place] = item.exported.arrays["flipped"]
        self._labels.append(label or 0)
        self.items.append(replace(item, exported=Exported({}, {})))
        return None

    def list_arrays(self) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
        """Returns the arrays with the names that LightningDiT reads."""
        count = len(self.items)
        return {
            "latents": self._latents[:count],
            "latents_flip": self._flipped[:count],
            "labels": np.array(self._labels, np.int64),
        }

    def describe(self) -> Facts:
        """Returns the metadata of the shard: LightningDiT's own, then dinac's."""
        lines = (
            f"{item.record_hash} {label}\n"
            for item, label in zip(self.items, self._labels, strict=True)
        )
        return {
            "total_size": str(len(self.items)),
            "dtype": "torch.float32",
            "device": "cpu",
            "model": self._set.header.model,
            "latent_space": self._set.header.latent_space,
            "classes": list(self._set.classes or ()),
            RECORD_KEY: hashlib.sha256("".join(lines).encode()).hexdigest(),
        }


def write_statistics(channels: int) -> bytes:
    """Returns `latents_stats.pt`: mean 0 and deviation 1 of each channel, [1, C, 1, 1].

    The latents of records are whitened, so LightningDiT has nothing to normalise.
    """
    import torch

    file = io.BytesIO()
    shape = (1, channels, 1, 1)
    torch.save({"mean": torch.zeros(shape), "std": torch.ones(shape)}, file)
    return file.getvalue()


def _holds_statistics(path: str, expected: bytes) -> bool:
    """True if a file of torch holds what `expected` holds. Never unpickles it.

    Other versions of torch may add members to the file, or order them in another way.
    """
    try:
        if not os.path.isfile(path):  # opening a named pipe would wait for a writer
            return False
        with zipfile.ZipFile(path) as found, zipfile.ZipFile(io.BytesIO(expected)) as wanted:
            members, own = _list_members(found), _list_members(wanted)
            sizes = {name: info.file_size for name, info in members.items()}
            if sizes != {name: info.file_size for name, info in own.items()}:
                return False
            return all(found.read(members[name]) == wanted.read(own[name]) for name in own)
    except UNREADABLE:
        return False


def _list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the pickled structure and the values of the tensors, by name in their folder."""
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    return {
        name: info
        for name, info in members.items()
        if name == "data.pkl" or name.startswith("data/")
    }

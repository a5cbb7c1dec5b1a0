"""The files of an export for EDM2, and for REPA. Imports torch only for the deviations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import DinacError, OutputError, UnwritableDiskError, UsageError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import (
    Exported,
    is_sealed_json,
    refuse_changed,
    write_array,
)
from dinac_cli.jobs.export_items import Exporter, ExportItem
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.training_set import TrainingSet
from dinac_cli.storage.output import Output

LABELS_NAME = "dataset.json"

_ARRAY_NAME = re.compile(r"img-mean-std-([0-9]{8,})\.npy")

Deviation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Turns the log-SNR [C, h, w] of a posterior into the deviation of the whitened latents."""


def name_array(number: int) -> str:
    """`7` → `00000/img-mean-std-00000007.npy`: the names that EDM2 and REPA expect."""
    return f"{number:08}"[:5] + f"/img-mean-std-{number:08}.npy"


class Edm2Exporter(Exporter):
    """Writes the mean and the deviation of each record into one array [2C, h, w], float32.

    The arrays are numbered in the order of the records; a record that fails leaves a gap. An array
    has no place for a mark of dinac. Therefore an existing array is kept if it is equal, and
    otherwise replaced only with `--overwrite`.
    """

    def __init__(self, output: Output, training_set: TrainingSet) -> None:
        self._output = output
        self._set = training_set
        self._deviation = (
            find_deviation(training_set.header) if training_set.has_posterior else None
        )

    def write(
        self, items: Iterable[ExportItem | FileResult], control: RunControl
    ) -> Iterator[FileResult]:
        """Writes the arrays, then the labels of the written arrays.

        Raises OutputError if OUT holds an array that EDM2 would read as part of the set, also if an
        earlier run wrote it for a record that cannot be read now: it would have no label.
        """
        self._refuse_others()
        unread: list[str] = []
        labels: list[tuple[str, int | None]] = []
        for number, item in enumerate(items):
            name = name_array(number)
            if isinstance(item, FileResult):
                unread.append(name)
                yield item
                continue
            try:
                self._set.require_same(item.entry.label, item.exported)
                label = self._set.label(item.entry.name)
                result = self._write(item, self._output.locate(name))
            except UnwritableDiskError:
                raise
            except DinacError as exc:
                yield item.fail(exc)
                continue
            labels.append((name, label))
            yield result
        if not control.stop:
            self._write_labels(labels)
            self._refuse_leftovers(unread)

    def _write(self, item: ExportItem, target: str) -> FileResult:
        data = write_array(self._join(item.exported))
        if self._output.keeps_existing and os.path.lexists(target):
            if _is_equal(target, data):
                return item.keep(target)
            raise OutputError(
                f"{target}: holds something else; choose another OUT, or add --overwrite"
            )
        self._output.write(target, data)
        return item.finish(target, len(data))

    def _join(self, exported: Exported) -> npt.NDArray[np.float32]:
        mean = exported.arrays["latents"]
        logsnr = exported.arrays.get("logsnr")
        deviation = np.zeros_like(mean)
        if logsnr is not None and self._deviation is not None:
            deviation = self._deviation(logsnr)
        return np.concatenate([mean, deviation])

    def _write_labels(self, labels: list[tuple[str, int | None]]) -> None:
        target = self._output.locate(LABELS_NAME)
        is_labelled = self._set.classes is not None
        facts = {
            "labels": [list(pair) for pair in labels] if is_labelled else None,
            "classes": self._set.classes and list(self._set.classes),
            "model": self._set.header.model,
            "latent_space": self._set.header.latent_space,
        }
        data = json.dumps(Exported(facts, {}).seal()).encode()
        if self._output.keeps_existing and os.path.lexists(target):
            if _is_equal(target, data):
                return
            if not is_sealed_json(target):
                raise refuse_changed(target)
        self._output.write(target, data)

    def _refuse_others(self) -> None:
        for folder, _, names in os.walk(self._output.path):
            for name in names:
                match = _ARRAY_NAME.fullmatch(name)
                number = -1 if match is None else int(match[1])
                path = os.path.join(folder, name)
                is_ours = path == self._output.locate(name_array(number))
                if name.endswith(".npy") and not (is_ours and number < self._set.count):
                    raise OutputError(
                        f"{path}: is no array of this export, but EDM2 would read it; "
                        "remove it, or choose another OUT"
                    )

    def _refuse_leftovers(self, unread: list[str]) -> None:
        for target in map(self._output.locate, unread):
            if os.path.lexists(target):
                raise OutputError(
                    f"{target}: is left of a record that cannot be read, but EDM2 would read it; "
                    "remove it, or encode that image again, and run the same command again"
                )


def _is_equal(path: str, data: bytes) -> bool:
    """True if the file holds exactly `data`. False for what is not a regular file."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) != len(data):
            return False
        with open(path, "rb") as file:
            return file.read() == data
    except OSError:
        return False


def find_deviation(header: RecordHeader) -> Deviation:
    """Returns the function for the model of a record, which must be embedded or in the cache.

    Raises UsageError if the model is not there, or has no log-SNR.
    """
    import torch

    from dinac_cli.models.registry import find_model

    model = find_model(header.latent_space)
    if model is None or not model.read_traits().has_posterior:
        raise UsageError(
            f"the records hold posteriors, and their deviations need the model "
            f"{header.model or header.latent_space}, which is not in the cache of the Hub; "
            f"run dinac models pull {header.model or 'MODEL'}, or encode with --no-posterior"
        )

    network = model.open((), torch.device("cpu"), torch.float32)

    def measure(logsnr: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found = network.measure_deviation(torch.from_numpy(np.array(logsnr))[None])
        array: npt.NDArray[np.float32] = found[0].numpy()
        return array

    return measure

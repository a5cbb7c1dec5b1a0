"""The files of an export for EDM2, and for REPA. Imports torch only for the deviations."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import DinacError, OutputError, UsageError
from dinac_cli.jobs.edm2_places import ArrayPlace, name_array, open_place
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import Exported, write_array
from dinac_cli.jobs.export_items import Exporter, ExportItem
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.training_set import TrainingSet
from dinac_cli.models.aliases import HUB_ALIASES
from dinac_cli.storage.output import Output

Deviation = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Turns the log-SNR [C, h, w] of a posterior into the deviation of the whitened latents."""


class Edm2Exporter(Exporter):
    """Writes the mean and the deviation of each record into one array [2C, h, w], float32.

    The arrays are numbered in the order of the records; a record that fails leaves a gap. OUT is a
    folder or a zip with the same members. An array in a folder has no place for a mark of dinac.
    Therefore an existing array is kept if it is equal, and otherwise replaced only with
    `--overwrite`. A zip is marked, and replaced as a whole.
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

        A zip is complete when all results have been yielded; if the run is stopped, there is none.
        Raises OutputError if the zip or an array cannot be written, because EDM2 reads no set in
        which an array has no label. For the same reason, raises OutputError if a folder holds
        another array than this run would write; or one that EDM2 would read as part of the set,
        also if an earlier run wrote it for a record that cannot be read now.
        """
        labels = _Labels()
        with open_place(self._output, self._set.count) as place:
            for number, item in enumerate(items):
                if isinstance(item, FileResult):
                    yield item
                    place.leave_gap(name_array(number))
                    continue
                try:
                    label = self._find_label(item)
                    result = self._put(item, place, name_array(number))
                except OutputError:
                    raise
                except DinacError as exc:
                    yield item.fail(exc)
                    place.leave_gap(name_array(number))
                    continue
                labels.add(number, label)
                yield result
            if not control.stop:
                place.finish(self._describe(labels))

    def _find_label(self, item: ExportItem) -> int | None:
        self._set.require_same(item.entry.label, item.exported)
        return self._set.label(item.entry.name)

    def _put(self, item: ExportItem, place: ArrayPlace, name: str) -> FileResult:
        data, target = write_array(self._join(item.exported)), place.locate(name)
        return item.finish(target, len(data)) if place.put(name, data) else item.keep(target)

    def _join(self, exported: Exported) -> npt.NDArray[np.float32]:
        mean = exported.arrays["latents"]
        logsnr = exported.arrays.get("logsnr")
        deviation = np.zeros_like(mean)
        if logsnr is not None and self._deviation is not None:
            deviation = self._deviation(logsnr)
        return np.concatenate([mean, deviation])

    def _describe(self, labels: _Labels) -> bytes:
        """Returns the content of `LABELS_NAME`."""
        is_labelled = self._set.classes is not None
        facts = {
            "labels": labels.list_pairs() if is_labelled else None,
            "classes": self._set.classes and list(self._set.classes),
            "model": self._set.header.model,
            "latent_space": self._set.header.latent_space,
        }
        return json.dumps(Exported(facts, {}).seal()).encode()


class _Labels:
    """The numbers of arrays and their classes. Needs 16 bytes per array until the end."""

    def __init__(self) -> None:
        self._numbers, self._labels = array("q"), array("q")

    def add(self, number: int, label: int | None) -> None:
        self._numbers.append(number)
        self._labels.append(label or 0)

    def list_pairs(self) -> list[list[str | int]]:
        """Returns the names and classes as `dataset.json` lists them."""
        pairs = zip(self._numbers, self._labels, strict=True)
        return [[name_array(number), label] for number, label in pairs]


def find_deviation(header: RecordHeader) -> Deviation:
    """Returns the function for the model of a record, which must be embedded or in the cache.

    Raises UsageError if the model is not there, or has no log-SNR.
    """
    import torch

    from dinac_cli.models.registry import find_model

    model = find_model(header.latent_space)
    if model is None or not model.read_traits().has_posterior:
        is_named = header.model in HUB_ALIASES.values()
        raise UsageError(
            f"the records hold posteriors, and their deviations need the model "
            f"{header.model or header.latent_space}, "
            + (
                f"which is not in the cache of the Hub; run dinac models pull {header.model}, "
                "or encode with --no-posterior"
                if is_named
                else "but export knows only models with short names; encode with --no-posterior"
            )
        )

    network = model.open((), torch.device("cpu"), torch.float32)

    def measure(logsnr: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found = network.measure_deviation(torch.from_numpy(np.array(logsnr))[None])
        array: npt.NDArray[np.float32] = found[0].numpy()
        return array

    return measure

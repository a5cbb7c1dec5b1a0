"""What the readers of an exported training set need of all records. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from dinac_cli.codec.records import name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Outline, open_record
from dinac_cli.container.tensors import LOGSNR
from dinac_cli.errors import DinacError, InputError, UsageError
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import Exported

LABEL_KINDS = ("none", "folders")


@dataclass(frozen=True)
class TrainingSet:
    """The records of an export: their number, what they share, and their classes.

    `header` is the header of the first readable record; all have its shape and its latent space.
    `classes` are the names of the classes, sorted; None without labels. `has_posterior` is true if
    any record holds the log-SNR of its posterior.
    """

    count: int
    header: RecordHeader
    classes: tuple[str, ...] | None
    has_twins: bool
    has_posterior: bool

    def label(self, name: str) -> int | None:
        """Returns the number of a record's class; None without labels. Raises InputError."""
        if self.classes is None:
            return None
        try:
            return self.classes.index(find_class(name))
        except ValueError as exc:
            raise _refuse_changed(name) from exc

    def require_same(self, name: str, exported: Exported) -> None:
        """Raises InputError if a record is not what it was when the set was surveyed."""
        own = exported.arrays["latents"].shape, exported.facts["latent_space"]
        if own != (self.header.shape, self.header.latent_space):
            raise _refuse_changed(name)
        if self.has_twins and "flipped" not in exported.arrays:
            raise _refuse_changed(name)


def list_renumbered(earlier: object, classes: Iterable[str]) -> list[tuple[int, str, str]]:
    """Lists the numbers that meant another class: the number, its earlier class, its class now.

    `earlier` are the classes that OUT names. There are none if they are not a list of text.
    """
    if not isinstance(earlier, list) or not all(isinstance(name, str) for name in earlier):
        return []
    pairs = enumerate(zip(earlier, classes, strict=False))  # one more at the end moves no other
    return [(number, old, new) for number, (old, new) in pairs if old != new]


def _refuse_changed(name: str) -> InputError:
    return InputError(f"{name} has changed since the export began; run the same command again")


def find_class(name: str) -> str:
    """Returns the first folder of a record's name, such as `cat` of `cat/1/a.jpg.dinac`.

    Raises UsageError if the name has no folder.
    """
    folder, slash, _ = name.partition("/")
    if not slash:
        raise UsageError(
            f"{name}: is in no folder, so it has no class; --labels folders needs one folder per "
            "class below the input"
        )
    return folder


def survey_records(
    entries: Iterable[RecordEntry], control: RunControl, *, reader: str, twins: bool, labels: str
) -> TrainingSet:
    """Reads the headers of all records, before anything is written.

    `reader` names the tool that is to read the export. `twins` says whether the tool needs mirrored
    images. `labels` is one of `LABEL_KINDS`. Skips damaged records. Raises UsageError if a record
    lacks what the tool needs, and InputError if no record is readable.
    """
    survey = _Survey(reader, twins=twins, labels=labels != LABEL_KINDS[0])
    with closing(map_bounded(entries, _outline, control)) as outlines:
        for entry, outline in outlines:
            survey.add(entry, outline)
    return survey.finish()


def _outline(
    entry: RecordEntry, hold: Callable[[int], None]
) -> tuple[RecordEntry, Outline | DinacError]:
    outline = partial(_read_outline, entry, hold)
    try:
        return entry, outline()
    except DinacError as exc:
        return entry, exc


def _read_outline(entry: RecordEntry, hold: Callable[[int], None]) -> Outline:
    if entry.path is None or entry.error is not None:
        data = entry.read()
        hold(len(data))
        return open_record(data).outline((LOGSNR,), with_twin=True)
    try:
        with open(entry.path, "rb") as file:
            return open_record(file).outline((LOGSNR,), with_twin=True)
    except OSError:
        return open_record(entry.read()).outline((LOGSNR,), with_twin=True)  # names the reason


class _Survey:
    """Collects what all records share. Raises UsageError at the first record that differs."""

    def __init__(self, reader: str, *, twins: bool, labels: bool) -> None:
        self._reader = reader
        self._twins = twins
        self._count = 0
        self._classes: set[str] | None = set() if labels else None
        self._first: tuple[str, RecordHeader] | None = None
        self._error: InputError | None = None
        self._has_posterior = False

    def add(self, entry: RecordEntry, outline: Outline | DinacError) -> None:
        self._count += 1
        if isinstance(outline, DinacError):
            self._error = self._error or InputError(f"{entry.label}: {outline}", outline.details)
            return
        if self._first is None:
            self._first = entry.label, outline.header
        self._compare(entry.label, outline.header, *self._first)
        if self._twins and not outline.has_twin:
            raise UsageError(
                f"{entry.label}: holds no mirrored image, which {self._reader} needs; "
                "encode with --flip"
            )
        self._has_posterior |= bool(outline.held)
        if self._classes is not None:
            self._classes.add(find_class(entry.name))

    def _compare(
        self, label: str, header: RecordHeader, first_label: str, first: RecordHeader
    ) -> None:
        if header.latent_space != first.latent_space:
            raise UsageError(
                f"{label}: encoded with model {name_model(header)}, but {first_label} with "
                f"{name_model(first)}; {self._reader} needs one model: export them apart"
            )
        if header.shape != first.shape:
            raise UsageError(
                f"{label}: latents of {_write_shape(header)}, but {first_label} has "
                f"{_write_shape(first)}; {self._reader} needs one size: encode "
                "with --resize and --crop"
            )

    def finish(self) -> TrainingSet:
        if self._first is None:
            raise self._error or UsageError("no records to export")
        classes = None if self._classes is None else tuple(sorted(self._classes))
        return TrainingSet(self._count, self._first[1], classes, self._twins, self._has_posterior)


def _write_shape(header: RecordHeader) -> str:
    channels, height, width = header.shape
    return f"{channels} x {height} x {width} (an image of {header.width}x{header.height} pixels)"

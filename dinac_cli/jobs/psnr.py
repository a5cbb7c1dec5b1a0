"""Pairs reconstructions with originals by name, and measures the PSNR and other metrics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, NoReturn

from dinac_cli.errors import DinacError, ImageError, InputError, UsageError
from dinac_cli.images.damage import SOUND, DamageChoice, Soundness
from dinac_cli.images.description import parse_description
from dinac_cli.images.formats import MAX_PIXELS, OUTPUT_SUFFIXES
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.hdr import REFUSE, check_hdr
from dinac_cli.images.metrics import check_same_size, measure_psnr
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.images.reading import WHITE, hold_beside, read_shaped
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.phase import Watch, ignore_phase, watch_items
from dinac_cli.jobs.image_sets import (
    ArchiveSet,
    NamedSet,
    Picture,
    is_archive,
    is_image_url,
    needs_image_set,
    open_image_set,
)
from dinac_cli.jobs.listing import SCANNING
from dinac_cli.jobs.measures import PSNR_ALONE, Measures, MetricChoice
from dinac_cli.jobs.request import IMAGES, Announce, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards.sample import DEFAULT_COLUMN
from dinac_cli.storage.content import read_content
from dinac_cli.storage.exclusion import NO_EXCLUSION, Exclusion
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.markers import holds_shards
from dinac_cli.storage.naming import LATENT_SUFFIX, NameSet, undo_image_name
from dinac_cli.storage.store import split_place
from dinac_cli.storage.urls import hide_secrets


@dataclass(frozen=True)
class Pair:
    """An image and its reconstruction. `other` is None if there is no reconstruction.

    `first` is the path of the image in the first folder, or in the second folder if only the second
    folder has the image. `name` is the part of this path after the folder. `side` is the folder
    that should hold the other image. `problem` is set if a folder cannot be listed, or
    if it holds second reconstructions. In the latter case, `first` is the folder. `pictures` are
    the two images if one of them is not a file of this machine; `first` and `other` are then their
    names in messages.
    """

    first: str
    other: str | None
    name: str
    side: str = ""
    problem: str | None = None
    pictures: tuple[Picture, Picture] | None = None

    def read_first(self) -> bytes:
        """Returns the content of the first image. Raises InputError, StorageError."""
        return read_content(self.first).data if self.pictures is None else self.pictures[0].read()

    def read_other(self) -> bytes:
        """Returns the content of the other image. Raises InputError, StorageError."""
        if self.pictures is not None:
            return self.pictures[1].read()
        assert self.other is not None, "only complete pairs are read"
        return read_content(self.other).data


@dataclass
class Rivals:
    """Counts the images in `folder` whose original already has a reconstruction.

    `example` holds the paths of two reconstructions of one original; the second is not measured.
    """

    folder: str
    count: int = 0
    example: tuple[str, str] = ("", "")

    def add(self, first: str, second: str) -> None:
        """Counts `second`, whose original has the reconstruction `first`."""
        self.example = self.example if self.count else (first, second)
        self.count += 1

    def describe(self) -> str:
        """Returns the message for the whole folder."""
        first, second = (os.path.relpath(path, self.folder) for path in self.example)
        found = "a second reconstruction" if self.count == 1 else f"{self.count} reconstructions"
        such = ":" if self.count == 1 else " too many, such as"
        return f"holds {found}{such} {second} beside {first}; keep only one of each image"


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How both images of a pair are read; see `EncodeOptions`.

    `geometry` applies to originals only. `damaged` says whether damaged images fail. Raises
    UsageError if `hdr` is not one of `HDR_CHOICES`.
    """

    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    geometry: Geometry = NO_GEOMETRY
    hdr: str = REFUSE
    damaged: DamageChoice = "fail"

    def __post_init__(self) -> None:
        check_hdr(self.hdr)


@dataclass(frozen=True, kw_only=True)
class PsnrRequest(Request["PsnrRun"]):
    """A request to compare the images of `second` with those of `first`.

    `first` and `second` are two folders or two files; each may be a URL. One of them may be a tar
    or a parquet file of images, or a pattern of such files. `exclude` are patterns of images to
    leave out on both sides; see `Exclusion`. `column` is the column of a parquet file that
    holds the images. `metrics` says what to measure.
    """

    first: str
    second: str
    exclude: tuple[str, ...] = ()
    column: str = DEFAULT_COLUMN
    options: MeasureOptions = field(default_factory=MeasureOptions)
    metrics: MetricChoice = field(default_factory=MetricChoice)

    command: ClassVar[str] = "psnr"
    most_workers: ClassVar[int] = 2**16
    uses_model: ClassVar[bool] = False

    def open(self, announce: Announce = keep_quiet) -> PsnrRun:
        exclusion = Exclusion(self.exclude)
        # raises UsageError if the two paths are wrong
        list_pairs(self.first, self.second, exclusion, self.column)
        measures = self.metrics.open()
        work = partial(
            measure_pairs,
            self.first,
            self.second,
            self.options,
            exclusion=exclusion,
            column=self.column,
            measures=measures,
        )
        return PsnrRun(
            work=work,
            first=self.first,
            second=self.second,
            exclusion=exclusion,
            measures=measures,
        )


@dataclass(kw_only=True)
class PsnrRun(Run):
    """A psnr run that is ready to start."""

    first: str
    second: str
    exclusion: Exclusion = NO_EXCLUSION
    measures: Measures = PSNR_ALONE

    def count(self, watch: Watch = ignore_phase) -> int | None:
        """Counts the pairs. Returns None for an archive, which is read only once.

        Raises UsageError if `list_pairs` does, if no image has a counterpart, or if there are too
        few pairs for rFID.
        """
        if is_archive(self.first) or is_archive(self.second):
            return None
        total, is_any = 0, False
        pairs = list_pairs(self.first, self.second, self.exclusion)
        for pair in watch_items(pairs, watch, SCANNING):
            total += 1
            is_any = is_any or pair.other is not None or pair.problem is not None
        if not is_any:
            refuse_strangers(self.first, self.second)
        rfid = self.measures.rfid
        if rfid is not None and total < rfid.smallest_count:
            raise UsageError(
                f"rFID needs at least {rfid.smallest_count} pairs of images, and there "
                f"{'is' if total == 1 else 'are'} {total}; leave out rfid, or add images"
            )
        return total


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """One image of a pair: its pixels, uint8 [H, W, 3], and its stamp.

    `stamp` is None if dinac did not decode the image. `soundness` says whether it is damaged.
    """

    pixels: Pixels
    stamp: Mapping[str, str] | None
    soundness: Soundness = SOUND

    @property
    def is_flipped(self) -> bool:
        """True if decode --flipped made the image."""
        settings = (self.stamp or {}).get("settings", "")
        return parse_description(settings).get("image") == "flipped"


def measure_pairs(
    first: str,
    second: str,
    options: MeasureOptions,
    control: RunControl,
    *,
    exclusion: Exclusion = NO_EXCLUSION,
    column: str = DEFAULT_COLUMN,
    measures: Measures = PSNR_ALONE,
) -> Generator[FileResult, None, None]:
    """Compares every image of `first` with its counterpart in `second`, and yields the values.

    `first` and `second` are two folders or two files. A counterpart has the same relative name, or
    this name with the suffix that decoding appended. If an image has no counterpart, its result has
    the status MISSING. Raises UsageError if one path is a file and the other a folder.
    """
    pairs = list_pairs(first, second, exclusion, column)
    return map_bounded(pairs, partial(_measure, options=options, measures=measures), control)


def list_pairs(
    first: str, second: str, exclusion: Exclusion = NO_EXCLUSION, column: str = DEFAULT_COLUMN
) -> Iterator[Pair]:
    """Returns the pairs of two folders, or of two files.

    Images in the two folders that match `exclusion` are left out. If one folder lies inside the
    other, its images do not count as images of the other. Raises UsageError if one path is a file
    and the other a folder, or if a path does not exist.
    """
    if needs_image_set(first) or needs_image_set(second):
        return _pair_places(first, second, exclusion, column)
    for path in (first, second):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder; check the path")
    if os.path.isdir(first) != os.path.isdir(second):
        raise UsageError(f"{first} and {second}: name two folders or two files")
    if os.path.isdir(first):
        return _pair_folders(first, second, exclusion)
    return iter([Pair(first, second, os.path.basename(first))])


def refuse_strangers(first: str, second: str) -> NoReturn:
    """Raises UsageError because no image of `first` has a counterpart in `second`."""
    _refuse_latents(second)
    raise UsageError(
        f"no image in {hide_secrets(first)} has a counterpart in {hide_secrets(second)}; "
        "a reconstruction of a.jpg is named a.jpg or a.jpg.png"
    )


def _refuse_latents(folder: str) -> None:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    is_encoded = any(name.lower().endswith(LATENT_SUFFIX) for name in names)
    if is_encoded or holds_shards(folder):
        raise UsageError(f"{folder} holds latent files; name the folder that decode wrote")


def _refuse_empty(folder: str) -> NoReturn:
    _refuse_latents(folder)
    raise UsageError(f"no images found in {hide_secrets(folder)}; name a folder of images")


def _pair_folders(first: str, second: str, exclusion: Exclusion) -> Iterator[Pair]:
    found = False
    for entry in InputScan(IMAGES, (first,), skipped_folder=second, exclusion=exclusion):
        found = True
        counterpart = None if entry.problem else find_counterpart(entry.name, second)
        yield Pair(entry.label, counterpart, entry.name, second, entry.problem)
    rivals = Rivals(second)
    for entry in InputScan(IMAGES, (second,), skipped_folder=first, exclusion=exclusion):
        found = True
        others = list(_list_others(entry.name, first, second))
        if entry.problem or not others:
            yield Pair(entry.label, None, entry.name, first, entry.problem)
        elif entry.label not in others:
            rivals.add(others[0], entry.label)
    if rivals.count:
        yield Pair(second, None, "", first, rivals.describe())
    if not found:
        raise UsageError(f"no images found in {first} and {second}; name folders of images")


def _pair_places(first: str, second: str, exclusion: Exclusion, column: str) -> Iterator[Pair]:
    """Pairs two sides of which one at least is an archive or remote. Raises UsageError."""
    if is_archive(first) and is_archive(second):
        raise UsageError(
            f"{hide_secrets(first)} and {hide_secrets(second)}: one of the two must be a folder; "
            "unpack it"
        )
    if _names_image(first) and _names_image(second):
        a, b = (Picture(split_place(path)[1], hide_secrets(path), path) for path in (first, second))
        return iter([Pair(a.label, b.label, a.name, pictures=(a, b))])
    originals = open_image_set(first, second, exclusion, column)
    others = open_image_set(second, first, exclusion, column)
    for images in (originals, others):
        if isinstance(images, NamedSet) and next(images.list(), None) is None:
            _refuse_empty(images.path)
    if isinstance(others, NamedSet):
        return _pair_originals(originals, others)
    assert isinstance(originals, NamedSet), "two archives were refused"
    return _pair_reconstructions(originals, others)


def _names_image(path: str) -> bool:
    return is_image_url(path) or (os.path.isfile(path) and not is_archive(path))


def _pair_originals(originals: ArchiveSet | NamedSet, others: NamedSet) -> Iterator[Pair]:
    """Yields each original with its counterpart, then the reconstructions without an original."""
    names, seen, used = others.list_names(), NameSet(), NameSet()
    for image in originals.list():
        found = next((n for n in undo_image_name(image.name, OUTPUT_SUFFIXES) if n in names), None)
        if image.problem is not None:
            yield Pair(image.label, None, image.name, others.label, image.problem)
        elif not seen.add(image.name):
            yield Pair(image.label, None, image.name, others.label, _TWICE)
        elif found is None:
            yield Pair(image.label, None, image.name, others.label)
        else:
            used.add(found)
            yield _join(image, others.locate(found), image.name)
    rivals = Rivals(".")
    for other in () if _has_failed(originals) else others.list():
        origins = [name for name in _list_origins(other.name) if name in seen]
        if other.name in used:
            continue
        if other.problem is None and origins:
            first = next(n for n in undo_image_name(origins[0], OUTPUT_SUFFIXES) if n in names)
            rivals.add(first, other.name)
        else:
            yield Pair(other.label, None, other.name, originals.label, other.problem)
    if rivals.count:
        yield Pair(others.label, None, "", originals.label, rivals.describe())


def _pair_reconstructions(originals: NamedSet, others: ArchiveSet) -> Iterator[Pair]:
    """Yields each reconstruction with its original, then the originals without a counterpart."""
    names, used, firsts = originals.list_names(), NameSet(), Rivals(".")
    for other in others.list():
        found = next((name for name in _list_origins(other.name) if name in names), None)
        if other.problem is not None or found is None:
            yield Pair(other.label, None, other.name, originals.label, other.problem)
        elif not used.add(found):
            firsts.add(found, other.name)
        else:
            yield _join(originals.locate(found), other, found)
    for image in () if others.failed else originals.list():
        if image.problem is not None or image.name not in used:
            yield Pair(image.label, None, image.name, others.label, image.problem)
    if firsts.count:
        yield Pair(others.label, None, "", originals.label, firsts.describe())


_TWICE = "an image of this name came before; measure the archives one by one"


def _has_failed(images: ArchiveSet | NamedSet) -> bool:
    """True if an archive was not read to its end, so the names of its images are not all known."""
    return isinstance(images, ArchiveSet) and images.failed


def _join(image: Picture, other: Picture, name: str) -> Pair:
    return Pair(image.label, other.label, name, pictures=(image, other))


def _list_origins(name: str) -> list[str]:
    """Returns the names that the original of image `name` may have, the most likely one first."""
    stem, suffix = os.path.splitext(name)
    return [name, stem] if suffix.lower() in OUTPUT_SUFFIXES else [name]


def find_counterpart(name: str, folder: str) -> str | None:
    """Searches `folder` for the reconstruction of image `name`. Returns its path, or None."""
    return next(_list_counterparts(name, folder), None)


def list_rivals(name: str, first: str, second: str) -> Iterator[str]:
    """Yields the paths of further reconstructions of image `name` in `second`.

    They are not measured. A file that is the counterpart of another image in `first` is not one of
    them.
    """
    for path in itertools.islice(_list_counterparts(name, second), 1, None):
        namesake = os.path.join(first, os.path.relpath(path, second))
        if not (os.path.isfile(namesake) and IMAGES.accepts(namesake)):
            yield path


def _list_counterparts(name: str, folder: str) -> Iterator[str]:
    for candidate in undo_image_name(name, OUTPUT_SUFFIXES):
        path = os.path.join(folder, *candidate.split("/"))
        if os.path.isfile(path):
            yield path


def _list_others(name: str, first: str, second: str) -> Iterator[str]:
    """Yields the counterpart of each file in `first` that can be the original of `name`."""
    for origin in _list_origins(name):
        path = os.path.join(first, *origin.split("/"))
        if os.path.isfile(path) and IMAGES.accepts(path):
            other = find_counterpart(origin, second)
            if other is not None:
                yield other


def _measure(
    pair: Pair,
    hold: Callable[[int], None],
    *,
    options: MeasureOptions,
    measures: Measures,
) -> FileResult:
    if pair.problem is not None:
        return FileResult.fail(pair.first, InputError(pair.problem), name=pair.name)
    if pair.other is None:
        reason = f"has no counterpart in {pair.side}"
        return FileResult(pair.first, Status.MISSING, reason=reason, name=pair.name)
    try:
        original = _read_image(pair.read_first(), options, hold, options.geometry)
        beside = hold_beside(hold, original.pixels.nbytes)
        other = _read_other(pair.other, pair.read_other, original, options, beside)
        _check_sizes(original.pixels, other.pixels)
        values = measures.measure(original.pixels, other.pixels)
    except DinacError as exc:
        return FileResult.fail(pair.first, exc, name=pair.name, output=pair.other)
    height, width, _ = original.pixels.shape
    return FileResult(
        pair.first,
        Status.MEASURED,
        output=pair.other,
        warnings=(*original.soundness.warn(), *warn_of_damage(other, pair.other)),
        width=width,
        height=height,
        metrics=values,
        name=pair.name,
        unchecked=not (original.soundness.is_checked and other.soundness.is_checked),
    )


def warn_of_damage(reconstruction: MeasuredImage, path: str) -> list[str]:
    """Returns the warnings about damage to a reconstruction; they name its `path`."""
    return [f"{path}: {warning}" for warning in reconstruction.soundness.warn()]


def measure_reconstruction(original: Pixels, other: Pixels) -> float:
    """Returns the PSNR in dB of uint8 images [H, W, 3]. Raises ImageError if their sizes differ."""
    _check_sizes(original, other)
    return measure_psnr(original, other)


def _check_sizes(original: Pixels, other: Pixels) -> None:
    try:
        check_same_size(original, other)
    except ImageError as exc:
        raise ImageError(
            f"{exc}; use the same --resize, --no-upscale, --max-side, --crop and --buckets "
            "as encode did"
        ) from exc


def read_original(path: str, options: MeasureOptions, hold: Callable[[int], None]) -> MeasuredImage:
    """Reads an original, and scales and crops it as encode did.

    See `read_shaped` for `hold`. Raises DinacError; its message does not name the file.
    """
    return _read_image(read_content(path).data, options, hold, options.geometry)


def read_reconstruction(
    path: str, original: MeasuredImage, options: MeasureOptions, hold: Callable[[int], None]
) -> MeasuredImage:
    """Reads the reconstruction of a pair.

    If decode --flipped made the reconstruction but not the original, the pixels
    are mirrored back. See `read_shaped` for `hold`. Raises ImageError; its message names the file.
    """
    return _read_other(path, lambda: read_content(path).data, original, options, hold)


def _read_other(
    path: str,
    read: Callable[[], bytes],
    original: MeasuredImage,
    options: MeasureOptions,
    hold: Callable[[int], None],
) -> MeasuredImage:
    try:
        image = _read_image(read(), options, hold, NO_GEOMETRY)
    except DinacError as exc:
        raise ImageError(f"{path}: {exc}", exc.details) from exc
    if image.is_flipped and not original.is_flipped:
        return replace(image, pixels=mirror_pixels(image.pixels))
    return image


def _read_image(
    data: bytes, options: MeasureOptions, hold: Callable[[int], None], geometry: Geometry
) -> MeasuredImage:
    shaped = read_shaped(
        data,
        hold,
        background=options.background,
        max_pixels=options.max_pixels,
        geometry=geometry,
        hdr=options.hdr,
        damaged=options.damaged,
    )
    return MeasuredImage(shaped.pixels, read_stamp(data), shaped.soundness)

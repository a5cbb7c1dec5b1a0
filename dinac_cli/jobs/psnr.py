"""Pairs reconstructions with originals by name, and measures the PSNR of each pair."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NoReturn

from dinac_cli.errors import DinacError, ImageError, InputError, UsageError
from dinac_cli.images.description import parse_description
from dinac_cli.images.formats import MAX_PIXELS, OUTPUT_SUFFIXES
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.images.reading import WHITE, hold_beside, read_shaped
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.request import IMAGES, Announce, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.naming import LATENT_SUFFIX, undo_image_name


@dataclass(frozen=True)
class Pair:
    """An image and its reconstruction. `other` is None if there is no reconstruction.

    `first` is the path of the image in the first folder, or in the second folder if only the second
    folder has the image. `name` is the part of this path after the folder. `side` is the folder
    that should hold the other image. `problem` is set if a folder cannot be listed, or if the image
    is a second reconstruction of one original.
    """

    first: str
    other: str | None
    name: str
    side: str = ""
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How both images of a pair are read; see `EncodeOptions`.

    `geometry` applies to originals only.
    """

    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    geometry: Geometry = NO_GEOMETRY


@dataclass(frozen=True, kw_only=True)
class PsnrRequest(Request["PsnrRun"]):
    """A request to compare the images of `second` with those of `first`.

    `first` and `second` are two folders or two files.
    """

    first: str
    second: str
    options: MeasureOptions = field(default_factory=MeasureOptions)

    command: ClassVar[str] = "psnr"
    most_workers: ClassVar[int] = 2**16
    uses_model: ClassVar[bool] = False

    def open(self, announce: Announce = keep_quiet) -> PsnrRun:
        list_pairs(self.first, self.second)  # raises UsageError if the two paths are wrong
        work = partial(measure_pairs, self.first, self.second, self.options)
        return PsnrRun(work=work, first=self.first, second=self.second)


@dataclass(kw_only=True)
class PsnrRun(Run):
    """A psnr run that is ready to start."""

    first: str
    second: str

    def count(self) -> int | None:
        """Counts the pairs.

        Raises UsageError if `list_pairs` does, or if no image has a counterpart.
        """
        total, is_any = 0, False
        for pair in list_pairs(self.first, self.second):
            total += 1
            is_any = is_any or pair.other is not None or pair.problem is not None
        if not is_any:
            refuse_strangers(self.first, self.second)
        return total


@dataclass(frozen=True, eq=False)
class Original:
    """The first image of a pair, uint8 [H, W, 3].

    `is_flipped` is true if decode --flipped made the image.
    """

    pixels: Pixels
    is_flipped: bool


def measure_pairs(
    first: str, second: str, options: MeasureOptions, control: RunControl
) -> Generator[FileResult, None, None]:
    """Compares every image of `first` with its counterpart in `second`, and yields the PSNR.

    `first` and `second` are two folders or two files. A counterpart has the same relative name, or
    this name with the suffix that decoding appended. If an image has no counterpart, its result has
    the status MISSING. Raises UsageError if one path is a file and the other a folder.
    """
    return map_bounded(list_pairs(first, second), partial(_measure, options=options), control)


def list_pairs(first: str, second: str) -> Iterator[Pair]:
    """Returns the pairs of two folders, or of two files.

    If one folder lies inside the other, its images do not count as images of the other. Raises
    UsageError if one path is a file and the other a folder, or if a path does not exist.
    """
    for path in (first, second):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder")
    if os.path.isdir(first) != os.path.isdir(second):
        raise UsageError(f"{first} and {second}: name two folders or two files")
    if os.path.isdir(first):
        return _pair_folders(first, second)
    return iter([Pair(first, second, os.path.basename(first))])


def refuse_strangers(first: str, second: str) -> NoReturn:
    """Raises UsageError because no image of `first` has a counterpart in `second`."""
    names = os.listdir(second) if os.path.isdir(second) else []
    if any(name.lower().endswith(LATENT_SUFFIX) for name in names):
        raise UsageError(f"{second} holds latent files; name the folder that decode wrote")
    raise UsageError(
        f"no image in {first} has a counterpart in {second}; a reconstruction of a.jpg is named "
        "a.jpg or a.jpg.png"
    )


def _pair_folders(first: str, second: str) -> Iterator[Pair]:
    found = False
    for entry in InputScan(IMAGES, (first,), exclude=second):
        found = True
        counterpart = None if entry.problem else find_counterpart(entry.name, second)
        yield Pair(entry.label, counterpart, entry.name, second, entry.problem)
    for entry in InputScan(IMAGES, (second,), exclude=first):
        found = True
        origins = dict(_list_origins(entry.name, first, second))
        if entry.problem or entry.label not in origins.values():
            problem = entry.problem or _describe_rival(origins)
            yield Pair(entry.label, None, entry.name, first, problem)
    if not found:
        raise UsageError(f"no images found in {first} and {second}; name folders of images")


def find_counterpart(name: str, folder: str) -> str | None:
    """Searches `folder` for the reconstruction of image `name`. Returns its path, or None."""
    for candidate in undo_image_name(name, OUTPUT_SUFFIXES):
        path = os.path.join(folder, *candidate.split("/"))
        if os.path.isfile(path):
            return path
    return None


def _list_origins(name: str, first: str, second: str) -> Iterator[tuple[str, str | None]]:
    """Yields each file in `first` that can be the original of `name`, with its counterpart."""
    stem, suffix = os.path.splitext(name)
    for origin in [name, stem] if suffix.lower() in OUTPUT_SUFFIXES else [name]:
        path = os.path.join(first, *origin.split("/"))
        if os.path.isfile(path) and IMAGES.accepts(path):
            yield path, find_counterpart(origin, second)


def _describe_rival(origins: Mapping[str, str | None]) -> str | None:
    """Returns a message if the original of an image already has another reconstruction."""
    for path, other in origins.items():
        return f"{path} is measured against {other}: keep only one reconstruction of each image"
    return None


def _measure(pair: Pair, hold: Callable[[int], None], *, options: MeasureOptions) -> FileResult:
    if pair.problem is not None:
        return FileResult.fail(pair.first, InputError(pair.problem), name=pair.name)
    if pair.other is None:
        reason = f"has no counterpart in {pair.side}"
        return FileResult(pair.first, Status.MISSING, reason=reason, name=pair.name)
    try:
        original = read_original(pair.first, options, hold)
        beside = hold_beside(hold, original.pixels.nbytes)
        other = read_reconstruction(pair.other, original, options, beside)
        psnr_db = measure_reconstruction(original.pixels, other)
    except DinacError as exc:
        return FileResult.fail(pair.first, exc, name=pair.name, output=pair.other)
    height, width, _ = original.pixels.shape
    return FileResult(
        pair.first,
        Status.MEASURED,
        output=pair.other,
        width=width,
        height=height,
        psnr_db=psnr_db,
        name=pair.name,
    )


def measure_reconstruction(original: Pixels, other: Pixels) -> float:
    """Returns the PSNR in dB of uint8 images [H, W, 3]. Raises ImageError if their sizes differ."""
    try:
        return measure_psnr(original, other)
    except ImageError as exc:
        raise ImageError(
            f"{exc}; if encode was given --resize, --max-side or --crop, give the same option here"
        ) from exc


def read_original(path: str, options: MeasureOptions, hold: Callable[[int], None]) -> Original:
    """Reads an original, and scales and crops it as encode did.

    See `read_shaped` for `hold`. Raises DinacError; its message does not name the file.
    """
    data = read_content(path).data
    return Original(_read_pixels(data, options, hold, options.geometry), _is_flipped(data))


def read_reconstruction(
    path: str, original: Original, options: MeasureOptions, hold: Callable[[int], None]
) -> Pixels:
    """Reads the reconstruction of a pair as uint8 [H, W, 3].

    If decode --flipped made the reconstruction but not the original, the reconstruction
    is mirrored back. See `read_shaped` for `hold`. Raises ImageError; its message names the file.
    """
    try:
        data = read_content(path).data
        pixels = _read_pixels(data, options, hold, NO_GEOMETRY)
    except DinacError as exc:
        raise ImageError(f"{path}: {exc}") from exc
    return mirror_pixels(pixels) if _is_flipped(data) and not original.is_flipped else pixels


def _read_pixels(
    data: bytes, options: MeasureOptions, hold: Callable[[int], None], geometry: Geometry
) -> Pixels:
    return read_shaped(
        data, hold, background=options.background, max_pixels=options.max_pixels, geometry=geometry
    ).pixels


def _is_flipped(data: bytes) -> bool:
    stamp = read_stamp(data) or {}
    return parse_description(stamp.get("settings", "")).get("image") == "flipped"

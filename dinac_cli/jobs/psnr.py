"""Reconstructions against originals: pairs by name, PSNR of each, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from dinac_cli.errors import DinacError, ImageError, UsageError
from dinac_cli.images.formats import MAX_PIXELS, OUTPUT_SUFFIXES
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.images.reading import WHITE, hold_beside, read_shaped
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.executor.budget import read_within
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.local import READ_BYTES
from dinac_cli.jobs.freshness import read_description
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import FileKind, InputScan
from dinac_cli.storage.naming import LATENT_SUFFIX, undo_image_name


@dataclass(frozen=True)
class Pair:
    """An image and its reconstruction; `other` is None where there is none.

    `first` is the path in A (or, for an image that only B has, in B), `side` the folder that
    lacks a counterpart. `problem` is set where a folder could not be looked into, or holds a second
    reconstruction of an image.
    """

    first: str
    other: str | None
    side: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class MeasureOptions:
    """How both images of a pair are read; see `EncodeOptions`. `geometry` is of originals alone."""

    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    geometry: Geometry = NO_GEOMETRY


@dataclass(frozen=True, eq=False)
class Original:
    """The first side of a pair: uint8 [H, W, 3], and whether decode --flipped made it."""

    pixels: Pixels
    is_flipped: bool


def measure_pairs(
    first: str, second: str, kind: FileKind, options: MeasureOptions, control: RunControl
) -> Generator[FileResult, None, None]:
    """PSNR of every image of `first` against its counterpart in `second` (two folders or files).

    Counterparts have the same relative name, or that name with the suffix that decoding appended.
    Images without one, on either side, are yielded as missing. Raises UsageError where a file is
    to be compared with a folder.
    """
    pairs = list_pairs(first, second, kind)

    def measure(pair: Pair, hold: Callable[[int], None]) -> FileResult:
        return _measure(pair, options, hold)

    with ThreadPoolExecutor(control.workers, "measure") as pool:
        stopped = until_stopped(pairs, control.stop)
        yield from read_within(pool, measure, stopped, 2 * control.workers, READ_BYTES)


def list_pairs(first: str, second: str, kind: FileKind) -> Iterator[Pair]:
    """Pairs of two folders, or of two files. Raises UsageError for one of each or neither.

    A folder that lies inside of the other one is no part of that.
    """
    for path in (first, second):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder")
    if os.path.isdir(first) != os.path.isdir(second):
        raise UsageError(f"{first} and {second}: name two folders or two files")
    if os.path.isdir(first):
        return _pair_folders(first, second, kind)
    return iter([Pair(first, second)])


def count_pairs(first: str, second: str, kind: FileKind) -> int:
    """How many pairs there are. Raises UsageError as `list_pairs`, and where each lacks a side."""
    total, is_any = 0, False
    for pair in list_pairs(first, second, kind):
        total += 1
        is_any = is_any or pair.other is not None or pair.problem is not None
    if not is_any:
        refuse_strangers(first, second)
    return total


def refuse_strangers(first: str, second: str) -> NoReturn:
    """Say once, as a UsageError, that of no image of `first` there is one in `second`."""
    names = os.listdir(second) if os.path.isdir(second) else []
    if any(name.lower().endswith(LATENT_SUFFIX) for name in names):
        raise UsageError(f"{second} holds latent files: name the folder that decode made of them")
    raise UsageError(
        f"no image in {first} has a counterpart in {second}: one is named like its original, "
        "a.jpg or a.jpg.png for a.jpg"
    )


def _pair_folders(first: str, second: str, kind: FileKind) -> Iterator[Pair]:
    found = False
    for entry in InputScan(kind, (first,), exclude=second):
        found = True
        counterpart = None if entry.problem else find_counterpart(entry.name, second)
        yield Pair(entry.label, counterpart, second, entry.problem)
    for entry in InputScan(kind, (second,), exclude=first):
        found = True
        origins = dict(_list_origins(entry.name, first, second, kind))
        if entry.problem or entry.label not in origins.values():
            problem = entry.problem or _describe_rival(origins)
            yield Pair(entry.label, None, first, problem)
    if not found:
        raise UsageError(f"no {kind.plural} found in {first} and {second}")


def find_counterpart(name: str, folder: str) -> str | None:
    """The reconstruction below `folder` of the image called `name`; None where there is none."""
    for candidate in undo_image_name(name, OUTPUT_SUFFIXES):
        path = os.path.join(folder, *candidate.split("/"))
        if os.path.isfile(path):
            return path
    return None


def _list_origins(
    name: str, first: str, second: str, kind: FileKind
) -> Iterator[tuple[str, str | None]]:
    """The images of `first` that the image `name` of `second` may be of, and what each is paired
    with."""
    stem, suffix = os.path.splitext(name)
    for origin in [name, stem] if suffix.lower() in OUTPUT_SUFFIXES else [name]:
        path = os.path.join(first, *origin.split("/"))
        if _is_input(path, kind):
            yield path, find_counterpart(origin, second)


def _describe_rival(origins: Mapping[str, str | None]) -> str | None:
    """Why an image is left over whose original is there: another one was taken."""
    for path, other in origins.items():
        return f"{path} is measured against {other}: keep one reconstruction of it in the folder"
    return None


def _is_input(path: str, kind: FileKind) -> bool:
    return os.path.isfile(path) and kind.accepts(path)


def _measure(pair: Pair, options: MeasureOptions, hold: Callable[[int], None]) -> FileResult:
    if pair.problem is not None:
        return FileResult(pair.first, Status.FAILED, reason=pair.problem)
    if pair.other is None:
        return FileResult(pair.first, Status.MISSING, reason=f"has no counterpart in {pair.side}")
    try:
        original = read_original(pair.first, options, hold)
        beside = hold_beside(hold, original.pixels.nbytes)
        other = read_reconstruction(pair.other, original, options, beside)
        psnr_db = measure_reconstruction(original.pixels, other)
    except DinacError as exc:
        return FileResult(pair.first, Status.FAILED, output=pair.other, reason=str(exc))
    height, width, _ = original.pixels.shape
    return FileResult(
        pair.first,
        Status.MEASURED,
        output=pair.other,
        width=width,
        height=height,
        psnr_db=psnr_db,
    )


def measure_reconstruction(original: Pixels, other: Pixels) -> float:
    """PSNR in dB of uint8 images [H, W, 3]. Raises ImageError where their sizes differ."""
    try:
        return measure_psnr(original, other)
    except ImageError as exc:
        raise ImageError(
            f"{exc}; where encode was given --resize, --max-side or --crop, give the same here"
        ) from exc


def read_original(path: str, options: MeasureOptions, hold: Callable[[int], None]) -> Original:
    """An original, scaled and cropped as it was for encoding.

    See `read_shaped` for `hold`. Raises DinacError without the file's name, which is that of the
    result.
    """
    data = read_content(path).data
    return Original(_read_pixels(data, options, hold, options.geometry), _is_flipped(data))


def read_reconstruction(
    path: str, original: Original, options: MeasureOptions, hold: Callable[[int], None]
) -> Pixels:
    """The pixels uint8 [H, W, 3] of the other side of a pair.

    What decode --flipped made is mirrored back, unless the original is of that kind itself. See
    `read_shaped` for `hold`. Raises ImageError, which names the file.
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
        data,
        hold,
        background=options.background,
        max_pixels=options.max_pixels,
        geometry=geometry,
    ).pixels


def _is_flipped(data: bytes) -> bool:
    stamp = read_stamp(data) or {}
    return read_description(stamp.get("settings", "")).get("image") == "flipped"

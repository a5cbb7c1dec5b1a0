"""From folders to a page: pairs by name, their PSNR, pictures of both and of the latents."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import quote

from dinac_cli.errors import DinacError, InputError, UnwritableDiskError, UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import hold_beside
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.executor.budget import read_within
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.local import READ_BYTES
from dinac_cli.jobs.psnr import (
    MeasureOptions,
    find_counterpart,
    measure_reconstruction,
    read_original,
    read_reconstruction,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.report.latents import (
    LatentColors,
    ShownRecord,
    choose_colors,
    locate_record,
    show_record,
)
from dinac_cli.report.page import Page, PageImage, Reconstruction, make_data_url
from dinac_cli.report.pictures import draw_difference, make_thumbnail
from dinac_cli.storage.atomic import write_atomically
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import FileKind, Input, InputScan

_STAMP = {"report": "1"}
_WORK_FACTOR = 3  # what drawing and packing an image takes of memory, in its own size


@dataclass(frozen=True)
class ReportRequest:
    """What is put side by side: a folder of originals, folders of reconstructions.

    `latents` are folders of records, the k-th for the k-th reconstruction (for its bits a pixel);
    the first also gives the pictures of latents. `assets` is a folder for the full images, which
    otherwise stand in the page itself; `page_folder` is where the page will be.
    """

    originals: str
    reconstructions: tuple[str, ...]
    latents: tuple[str, ...]
    assets: str | None
    page_folder: str
    reading: MeasureOptions
    overwrite: bool = False


@dataclass(frozen=True)
class _Gathered:
    result: FileResult
    image: PageImage | None = None


def list_originals(request: ReportRequest, kind: FileKind) -> Iterator[Input]:
    """The images that the page shows. Raises UsageError where a folder is not there."""
    for folder in (request.originals, *request.reconstructions, *request.latents):
        if not os.path.isdir(folder):
            raise UsageError(f"{folder}: no such folder")
    return iter(InputScan(kind, (request.originals,)))


def gather_images(
    request: ReportRequest, kind: FileKind, page: Page, control: RunControl
) -> Generator[FileResult, None, None]:
    """Add every original to `page`; yields one result an image.

    An image that lacks a reconstruction is shown, and its result is a missing one. Memory holds
    the images at work, bounded in bytes, and of each image its data in the page.
    """
    colors = _choose_colors(request, kind)
    numbered = enumerate(list_originals(request, kind))

    def gather(item: tuple[int, Input], hold: Callable[[int], None]) -> _Gathered:
        return _gather(*item, request, colors, hold)

    with ThreadPoolExecutor(control.workers, "report") as pool:
        stopped = until_stopped(numbered, control.stop)
        with closing(read_within(pool, gather, stopped, 2 * control.workers, READ_BYTES)) as images:
            for gathered in images:
                if gathered.image is None:
                    page.failed += 1
                else:
                    page.add(gathered.image)
                yield gathered.result


def _gather(
    number: int,
    entry: Input,
    request: ReportRequest,
    colors: LatentColors | None,
    hold: Callable[[int], None],
) -> _Gathered:
    try:
        if entry.path is None or entry.problem:
            raise InputError(entry.problem or "cannot be shown")
        return _show(number, entry, entry.path, request, colors, hold)
    except UnwritableDiskError:
        raise
    except DinacError as exc:
        return _Gathered(FileResult(entry.label, Status.FAILED, reason=str(exc)))


def _show(
    number: int,
    entry: Input,
    path: str,
    request: ReportRequest,
    colors: LatentColors | None,
    hold: Callable[[int], None],
) -> _Gathered:
    records, warnings = _show_records(entry.name, request, colors, hold)
    original = read_original(path, request.reading, hold)
    height, width, _ = original.pixels.shape
    hold(_WORK_FACTOR * original.pixels.nbytes)
    image = PageImage(
        entry.name,
        width,
        height,
        make_thumbnail(original.pixels),
        _publish(original.pixels, f"{number:06}-0.png", request),
        records[0].picture if records and records[0] is not None else None,
    )
    missing: list[str] = []
    for k, folder in enumerate(request.reconstructions):
        counterpart = find_counterpart(entry.name, folder)
        if counterpart is None:
            missing.append(folder)
            image.reconstructions.append(None)
            continue
        beside = hold_beside(hold, original.pixels.nbytes + image.size_bytes)
        other = read_reconstruction(counterpart, original, request.reading, beside)
        beside(_WORK_FACTOR * other.nbytes)
        record = records[k] if k < len(records) else None
        image.reconstructions.append(
            Reconstruction(
                measure_reconstruction(original.pixels, other),
                None if record is None else 8 * record.size_bytes / (height * width),
                draw_difference(original.pixels, other),
                _publish(other, f"{number:06}-{k + 1}.png", request),
            )
        )
    return _Gathered(_tell(entry, image, missing, warnings), image)


def _tell(entry: Input, image: PageImage, missing: list[str], warnings: list[str]) -> FileResult:
    first = next(filter(None, image.reconstructions), None)
    return FileResult(
        entry.label,
        Status.MISSING if missing else Status.MEASURED,
        reason=f"has no counterpart in {', '.join(missing)}" if missing else None,
        warnings=tuple(warnings),
        width=image.width,
        height=image.height,
        psnr_db=None if first is None else first.psnr_db,
    )


def _show_records(
    name: str, request: ReportRequest, colors: LatentColors | None, hold: Callable[[int], None]
) -> tuple[list[ShownRecord | None], list[str]]:
    """The record of each folder of latents, None where there is none; and what is wrong with any.

    The first one is painted.
    """
    records: list[ShownRecord | None] = []
    warnings: dict[str, None] = {}  # a folder may be named for several reconstructions
    for k, folder in enumerate(request.latents):
        path = locate_record(folder, name)
        try:
            records.append(show_record(path, None if k else colors, hold))
        except DinacError as exc:
            records.append(None)
            warnings[f"its latents are not shown: {path}: {exc}"] = None
    return records, list(warnings)


def _publish(pixels: Pixels, name: str, request: ReportRequest) -> str:
    """The URL of a full image: the image itself, or a file beside the page."""
    if request.assets is None:
        return make_data_url(write_image(pixels, "png"), "png")
    target = os.path.join(request.assets, name)
    data = write_image(pixels, "png", stamp=_STAMP)
    write_atomically(target, data, replace=request.overwrite, is_ours=_is_asset)
    relative = os.path.relpath(target, request.page_folder or ".")
    return quote(relative.replace(os.sep, "/"))


def _is_asset(path: str) -> bool:
    stamp = read_stamp(read_content(path).data)
    return stamp is not None and stamp.get("report") == _STAMP["report"]


def _choose_colors(request: ReportRequest, kind: FileKind) -> LatentColors | None:
    if not request.latents:
        return None
    names = (entry.name for entry in list_originals(request, kind))
    return choose_colors(locate_record(request.latents[0], name) for name in names)

"""Compares folders of reconstructions with originals, on one page: pairs, PSNR, pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, ClassVar
from urllib.parse import quote

from dinac_cli.errors import DinacError, InputError, OutputError, UnwritableDiskError, UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import hold_beside
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.psnr import (
    MeasureOptions,
    find_counterpart,
    measure_reconstruction,
    read_original,
    read_reconstruction,
    refuse_strangers,
)
from dinac_cli.jobs.request import IMAGES, Announce, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.report.latents import (
    LatentColors,
    ShownRecord,
    choose_colors,
    locate_record,
    show_record,
)
from dinac_cli.report.page import PAGE_START, Page, PageImage, Reconstruction, make_data_url
from dinac_cli.report.pictures import draw_difference, make_thumbnail
from dinac_cli.storage.atomic import write_atomically
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input, InputScan

IMAGES_IN_A_PAGE = 300
"""A page of more images needs a folder beside it, or it would not open at once."""

MAX_PAGE_BYTES = 2**28
"""So does a page of more data (measured: a page of 218 MB opens in 2 s)."""

_STAMP = {"report": "1"}
_WORK_FACTOR = 3  # memory to draw and pack an image, in multiples of its own size


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request["ReportRun"]):
    """A run that compares a folder of originals with folders of reconstructions, on the page OUT.

    `latents` are folders of records, the k-th for the k-th reconstruction (for its bits a pixel);
    the first also gives the pictures of latents. `assets` is a folder for the full images; without
    it they are embedded in the page.
    """

    originals: str
    reconstructions: tuple[str, ...]
    out: str
    latents: tuple[str, ...] = ()
    assets: str | None = None
    title: str | None = None
    options: MeasureOptions = field(default_factory=MeasureOptions)
    overwrite: bool = False

    most_workers: ClassVar[int] = 2**16
    uses_model: ClassVar[bool] = False

    @property
    def page_folder(self) -> str:
        """The folder of the page, "" for the working folder."""
        return os.path.dirname(self.out)

    def open(self, announce: Announce = keep_quiet) -> ReportRun:
        if not self.reconstructions:
            raise UsageError(
                "name a folder of originals, one or more of reconstructions, and OUT.html"
            )
        if not self.out.lower().endswith((".html", ".htm")):
            raise UsageError(
                f"{self.out}: OUT, the last argument, is the page to write; name it .html"
            )
        if len(self.latents) > len(self.reconstructions):
            raise UsageError(
                "--latents: one folder for each folder of reconstructions, in that order"
            )
        if os.path.lexists(self.out) and not self.overwrite and not is_report(self.out):
            raise OutputError(
                f"{self.out}: exists and is no report of dinac; add --overwrite to replace it"
            )
        for folder in (self.originals, *self.reconstructions, *self.latents):
            if not os.path.isdir(folder):
                raise UsageError(f"{folder}: no such folder")
        name = os.path.basename(os.path.normpath(self.originals))
        title = self.title or f"{name}: reconstructions"
        return ReportRun(self, Page(title, _name_folders(self.reconstructions)))


@dataclass
class ReportRun(Run):
    """A report run that is ready to start; `page` fills up while it runs.

    `size_bytes` is the size of the page written, 0 before that.
    """

    request: ReportRequest
    page: Page
    size_bytes: int = 0

    def count(self) -> int | None:
        """Counts the images. Raises UsageError if a folder has none of them, or if too many."""
        request = self.request
        total, strangers, bare = 0, list(request.reconstructions), list(request.latents)
        for entry in list_originals(request):
            total += 1
            strangers = [
                folder for folder in strangers if find_counterpart(entry.name, folder) is None
            ]
            bare = [
                folder for folder in bare if not os.path.exists(locate_record(folder, entry.name))
            ]
        if not total:
            raise UsageError(f"no images found in {request.originals}")
        if strangers:
            refuse_strangers(request.originals, strangers[0])
        if bare:
            raise UsageError(
                f"--latents {bare[0]}: holds no record of an image in {request.originals}"
            )
        if total > IMAGES_IN_A_PAGE and request.assets is None:
            raise UsageError(
                f"{total} images in one page would not open; name a folder for them with "
                "--assets DIR"
            )
        return total

    def start(
        self,
        control: RunControl,
        *,
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
    ) -> Generator[FileResult, None, None]:
        for folder in filter(None, (self.request.assets, self.request.page_folder)):
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as exc:
                raise OutputError(f"{folder}: cannot be made: {exc.strerror}") from exc
        return self._write_page(control)

    def _write_page(self, control: RunControl) -> Generator[FileResult, None, None]:
        """Yields one result an image; then writes the page, unless stopped or without images."""
        request, page = self.request, self.page
        for result in gather_images(request, page, control):
            yield result
            if request.assets is None and page.size_bytes > MAX_PAGE_BYTES:
                raise UsageError(
                    "images of these sizes in one page would not open; "
                    "name a folder for them with --assets DIR"
                )
        if page.images and not control.stop:
            data = page.write()
            write_atomically(request.out, data, replace=request.overwrite, is_ours=is_report)
            self.size_bytes = len(data)


def is_report(path: str) -> bool:
    """True for a page that this command wrote."""
    try:
        with open(path, "rb") as file:
            return file.read(len(PAGE_START)) == PAGE_START
    except OSError:
        return False


def _name_folders(folders: Sequence[str]) -> list[str]:
    """Returns short names that differ: the last part of each path, or else the whole paths."""
    short = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def list_originals(request: ReportRequest) -> Iterator[Input]:
    """Returns the images that the page shows."""
    return iter(InputScan(IMAGES, (request.originals,)))


@dataclass(frozen=True)
class _Gathered:
    result: FileResult
    image: PageImage | None = None


def gather_images(
    request: ReportRequest, page: Page, control: RunControl
) -> Generator[FileResult, None, None]:
    """Adds every original to `page` and yields one result an image.

    An image that lacks a reconstruction is shown, and its result is MISSING. Memory holds the
    images that threads work on, bounded in bytes, and each image's data in the page.
    """
    work = partial(_gather, request=request, colors=_choose_colors(request))
    with closing(map_bounded(enumerate(list_originals(request)), work, control)) as images:
        for gathered in images:
            if gathered.image is None:
                page.failed += 1
            else:
                page.add(gathered.image)
            yield gathered.result


def _gather(
    numbered: tuple[int, Input],
    hold: Callable[[int], None],
    *,
    request: ReportRequest,
    colors: LatentColors | None,
) -> _Gathered:
    number, entry = numbered
    try:
        if entry.path is None or entry.problem:
            raise InputError(entry.problem or "cannot be shown")
        return _show(number, entry, entry.path, request, colors, hold)
    except UnwritableDiskError:
        raise
    except DinacError as exc:
        return _Gathered(FileResult.fail(entry.label, exc, name=entry.name))


def _show(
    number: int,
    entry: Input,
    path: str,
    request: ReportRequest,
    colors: LatentColors | None,
    hold: Callable[[int], None],
) -> _Gathered:
    records, warnings = _show_records(entry.name, request, colors, hold)
    original = read_original(path, request.options, hold)
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
        other = read_reconstruction(counterpart, original, request.options, beside)
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
        name=entry.name,
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


def _choose_colors(request: ReportRequest) -> LatentColors | None:
    if not request.latents:
        return None
    names = (entry.name for entry in list_originals(request))
    return choose_colors(locate_record(request.latents[0], name) for name in names)

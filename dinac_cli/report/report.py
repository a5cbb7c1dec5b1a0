"""Writes a page that compares folders of reconstructions with a folder of originals."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import ClassVar
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
from dinac_cli.storage.atomic import describe_write_error, write_atomically
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input, InputScan

IMAGES_IN_A_PAGE = 300
"""A page with more images needs the folder `assets`. Otherwise, the page would open slowly."""

MAX_PAGE_BYTES = 2**28
"""A page with more bytes also needs `assets`. For comparison, a page of 218 MB opens in 2 s."""

_STAMP = {"report": "1"}
_WORK_FACTOR = 3  # the memory to draw and compress an image, divided by the memory of the image


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request["ReportRun"]):
    """A request to write the page `out` with originals and reconstructions side by side.

    `latents` are folders of records. The first folder of records belongs to the first folder of
    reconstructions, and so on. The page shows the bits per pixel of the records. It also shows
    pictures of the latents in the first folder. Full images are written to the folder `assets`.
    If `assets` is None, the page embeds them.
    """

    originals: str
    reconstructions: tuple[str, ...]
    out: str
    latents: tuple[str, ...] = ()
    assets: str | None = None
    title: str | None = None
    options: MeasureOptions = field(default_factory=MeasureOptions)
    overwrite: bool = False

    command: ClassVar[str] = "report"
    most_workers: ClassVar[int] = 2**16
    uses_model: ClassVar[bool] = False

    @property
    def page_folder(self) -> str:
        """The folder of the page, or "" for the working folder."""
        return os.path.dirname(self.out)

    def scan(self) -> InputScan:
        """Returns the originals."""
        return InputScan(IMAGES, (self.originals,))

    def open(self, announce: Announce = keep_quiet) -> ReportRun:
        if not self.reconstructions:
            raise UsageError(
                "name a folder of originals, one or more folders of reconstructions, and OUT.html"
            )
        if not self.out.lower().endswith((".html", ".htm")):
            raise UsageError(
                f"{self.out}: OUT, the last argument, is the page to write; name it .html"
            )
        if len(self.latents) > len(self.reconstructions):
            raise UsageError(
                "--latents: give one folder for each folder of reconstructions, in the same order"
            )
        if os.path.lexists(self.out) and not self.overwrite and not is_report(self.out):
            raise OutputError(
                f"{self.out}: exists and is not a dinac report; add --overwrite to replace it"
            )
        for folder in (self.originals, *self.reconstructions, *self.latents):
            if not os.path.isdir(folder):
                raise UsageError(f"{folder}: no such folder")
        name = os.path.basename(os.path.normpath(self.originals))
        title = self.title or f"{name}: reconstructions"
        page = Page(title, _name_folders(self.reconstructions))
        return ReportRun(request=self, page=page)


@dataclass(kw_only=True)
class ReportRun(Run):
    """A report run that is ready to start.

    `size_bytes` is the size of the written page, or 0 before the page is written.
    """

    work: Callable[..., Generator[FileResult, None, None]] = field(init=False)
    request: ReportRequest
    page: Page
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.work = self._write_page

    def count(self) -> int | None:
        """Counts the originals.

        Raises UsageError if there are no originals or too many. Also raises UsageError if a folder
        contains nothing that belongs to an original.
        """
        request = self.request
        total, unpaired, recordless = 0, list(request.reconstructions), list(request.latents)
        for entry in request.scan():
            name, total = entry.name, total + 1
            unpaired = [folder for folder in unpaired if find_counterpart(name, folder) is None]
            recordless = [
                folder for folder in recordless if not os.path.exists(locate_record(folder, name))
            ]
        if not total:
            raise UsageError(
                f"no images found in {request.originals}; name the folder of originals first"
            )
        if unpaired:
            refuse_strangers(request.originals, unpaired[0])
        if recordless:
            raise UsageError(
                f"--latents {recordless[0]}: holds no record of an image in {request.originals}; "
                "name the folder that encode wrote"
            )
        if total > IMAGES_IN_A_PAGE and request.assets is None:
            raise UsageError(
                f"{total} images are too many for one page; name a folder for them with "
                "--assets DIR"
            )
        return total

    def _write_page(self, control: RunControl) -> Generator[FileResult, None, None]:
        """Yields one result per image. Then writes the page.

        Writes nothing if the page has no images, or if the run was stopped.
        """
        request, page = self.request, self.page
        for folder in filter(None, (request.assets, request.page_folder)):
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as exc:
                raise describe_write_error(exc, folder) from exc
        with closing(gather_images(request, page, control)) as results:
            for result in results:
                yield result
                if request.assets is None and page.size_bytes > MAX_PAGE_BYTES:
                    raise UsageError(
                        "the images are too large for one page; "
                        "name a folder for them with --assets DIR"
                    )
        if page.images and not control.stop:
            data = page.write()
            write_atomically(request.out, data, replace=request.overwrite, is_ours=is_report)
            self.size_bytes = len(data)


def is_report(path: str) -> bool:
    """True if `path` is a page that dinac wrote."""
    try:
        with open(path, "rb") as file:
            return file.read(len(PAGE_START)) == PAGE_START
    except OSError:
        return False


def _name_folders(folders: Sequence[str]) -> list[str]:
    """Returns the last part of each path. If two last parts are equal, returns the whole paths."""
    short = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def gather_images(
    request: ReportRequest, page: Page, control: RunControl
) -> Generator[FileResult, None, None]:
    """Adds every original to `page` and yields one result per image.

    The page also shows images without a reconstruction. Their result has the status MISSING. Only
    the page, and the images that are being processed, are in memory. `map_bounded` limits the
    memory of these images.
    """
    colors = None
    if request.latents:
        names = (entry.name for entry in request.scan())
        colors = choose_colors(locate_record(request.latents[0], name) for name in names)
    gather = _Gatherer(request, colors).gather
    with closing(map_bounded(enumerate(request.scan()), gather, control)) as images:
        for result, image in images:
            if image is None:
                page.failed += 1
            else:
                page.add(image)
            yield result


@dataclass(frozen=True)
class _Gatherer:
    """Reads the images for the page. For `hold`, see `map_bounded`."""

    request: ReportRequest
    colors: LatentColors | None

    def gather(
        self, numbered: tuple[int, Input], hold: Callable[[int], None]
    ) -> tuple[FileResult, PageImage | None]:
        """Returns the result and the page image of an original. A failed original has no image."""
        number, entry = numbered
        try:
            if entry.path is None or entry.problem:
                raise InputError(entry.problem or "cannot be shown")
            return self._show(number, entry, entry.path, hold)
        except UnwritableDiskError:
            raise
        except DinacError as exc:
            return FileResult.fail(entry.label, exc, name=entry.name), None

    def _show(
        self, number: int, entry: Input, path: str, hold: Callable[[int], None]
    ) -> tuple[FileResult, PageImage]:
        options = self.request.options
        records, warnings = self._show_records(entry.name, hold)
        original = read_original(path, options, hold)
        height, width, _ = original.pixels.shape
        hold(_WORK_FACTOR * original.pixels.nbytes)
        image = PageImage(
            entry.name,
            width,
            height,
            make_thumbnail(original.pixels),
            self._publish(original.pixels, f"{number:06}-0.png"),
            records[0].picture if records and records[0] is not None else None,
        )
        missing: list[str] = []
        for k, folder in enumerate(self.request.reconstructions):
            counterpart = find_counterpart(entry.name, folder)
            if counterpart is None:
                missing.append(folder)
                image.reconstructions.append(None)
                continue
            beside = hold_beside(hold, original.pixels.nbytes + image.size_bytes)
            other = read_reconstruction(counterpart, original, options, beside)
            beside(_WORK_FACTOR * other.nbytes)
            record = records[k] if k < len(records) else None
            image.reconstructions.append(
                Reconstruction(
                    measure_reconstruction(original.pixels, other),
                    None if record is None else 8 * record.size_bytes / (height * width),
                    draw_difference(original.pixels, other),
                    self._publish(other, f"{number:06}-{k + 1}.png"),
                )
            )
        first = next(filter(None, image.reconstructions), None)
        result = FileResult(
            entry.label,
            Status.MISSING if missing else Status.MEASURED,
            reason=f"has no counterpart in {', '.join(missing)}" if missing else None,
            warnings=tuple(warnings),
            width=width,
            height=height,
            psnr_db=None if first is None else first.psnr_db,
            name=entry.name,
        )
        return result, image

    def _show_records(
        self, name: str, hold: Callable[[int], None]
    ) -> tuple[list[ShownRecord | None], list[str]]:
        """Returns the image's record in each folder of latents, and warnings about them.

        Paints only the latents of the record in the first folder. If a record is missing or
        damaged, returns None for it.
        """
        records: list[ShownRecord | None] = []
        warnings: dict[str, None] = {}  # without repetitions, because a folder may be named twice
        for k, folder in enumerate(self.request.latents):
            path = locate_record(folder, name)
            record, problem, wanted = None, "", None if k else self.colors
            try:
                record = show_record(path, wanted, hold)
            except DinacError as exc:
                problem = str(exc)
            if record is not None and wanted is not None and record.picture is None:
                problem = "the number of channels differs from the first record"
            if problem:
                warnings[f"its latents are not shown: {path}: {problem}"] = None
            records.append(record)
        return records, list(warnings)

    def _publish(self, pixels: Pixels, name: str) -> str:
        """Returns the URL of a full image: a `data:` URL, or a file that is written to `assets`."""
        request = self.request
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

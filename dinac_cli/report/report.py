"""Writes a page that compares folders of reconstructions with a folder of originals."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import ClassVar

from dinac_cli.errors import DinacError, InputError, OutputError, UsageError
from dinac_cli.images.hdr import REFUSE
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.phase import Watch, ignore_phase, watch_items
from dinac_cli.jobs.listing import SCANNING
from dinac_cli.jobs.psnr import (
    MeasureOptions,
    Rivals,
    find_counterpart,
    list_rivals,
    refuse_strangers,
)
from dinac_cli.jobs.request import IMAGES, Announce, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult
from dinac_cli.report.gather import gather_images
from dinac_cli.report.latents import locate_record
from dinac_cli.report.local_copies import LocalCopies, needs_copy
from dinac_cli.report.origin import (
    PageOrigin,
    is_page_of,
    is_report,
    refuse_other_assets,
    refuse_other_page,
    trace_origin,
)
from dinac_cli.report.page import Page
from dinac_cli.storage.atomic import describe_write_error, write_atomically
from dinac_cli.storage.exclusion import Exclusion
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.urls import hide_secrets, is_url

IMAGES_IN_A_PAGE = 300
"""A page with more images needs the folder `assets`. Otherwise, the page would open slowly."""

MAX_PAGE_BYTES = 2**28
"""A page with more bytes also needs `assets`. For comparison, a page of 218 MB opens in 2 s."""

_PREDICTING_IMAGES = 16
"""After this many images, their mean size predicts the size of the page."""

_SURE_FACTOR = 1.25
"""A predicted size above this share of the limit is refused: the mean of the rest may differ."""


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request["ReportRun"]):
    """A request to write the page `out` with originals and reconstructions side by side.

    Each place is a local folder, an archive or a URL. What is not a local folder of single files is
    copied to a temporary folder for the run. `latents` hold records. The stamp of a reconstruction
    identifies its record. For a reconstruction without a stamp, the first place of records belongs
    to the first reconstructions, and so on. The page shows the model, the precision and the bits
    per pixel of the records. It also shows pictures of the latents in the first place. Full images
    are written to the folder `assets`. If `assets` is None, the page embeds them.
    """

    originals: str
    reconstructions: tuple[str, ...]
    out: str
    latents: tuple[str, ...] = ()
    assets: str | None = None
    title: str | None = None
    exclude: tuple[str, ...] = ()
    options: MeasureOptions = field(default_factory=MeasureOptions)
    overwrite: bool = False

    command: ClassVar[str] = "report"
    most_workers: ClassVar[int] = 2**16
    uses_model: ClassVar[bool] = False

    @property
    def page_folder(self) -> str:
        """The folder of the page, or "" for the working folder."""
        return os.path.dirname(self.out)

    @property
    def origin(self) -> PageOrigin:
        """What the page compares. Presentation (`title`, `assets`) does not belong to it."""
        names = _name_folders((self.originals, *self.reconstructions))
        groups = ((self.originals,), self.reconstructions, self.latents)
        options = self.options
        settings: tuple[str, ...] = (options.geometry.text, str(options.background))
        if options.hdr != REFUSE:  # pages of earlier versions do not name it
            settings += (options.hdr,)
        return trace_origin(names, groups, settings)

    def scan(self) -> InputScan:
        """Returns the originals."""
        return InputScan(IMAGES, (self.originals,), exclusion=Exclusion(self.exclude))

    def open(self, announce: Announce = keep_quiet) -> ReportRun:
        if not self.reconstructions:
            raise UsageError(
                "name a folder of originals, one or more folders of reconstructions, and OUT.html"
            )
        for place in filter(is_url, (self.out, self.assets or "")):
            raise UsageError(
                f"{hide_secrets(place)}: the page must be on this machine; name a local path"
            )
        if not self.out.lower().endswith((".html", ".htm")):
            raise UsageError(
                f"{self.out}: OUT, the last argument, is the page to write; name it .html"
            )
        if len(self.latents) > len(self.reconstructions):
            raise UsageError(
                "--latents: give one folder for each folder of reconstructions, in the same order"
            )
        for folder in (self.originals, *self.reconstructions, *self.latents):
            if not needs_copy(folder) and not os.path.isdir(folder):
                raise UsageError(f"{folder}: no such folder; check the path")
        if not self.overwrite:
            self._refuse_to_replace()
        name = os.path.basename(os.path.normpath(self.originals))
        title = self.title or f"{name}: reconstructions"
        page = Page(title, _name_folders(self.reconstructions), self.origin)
        return ReportRun(request=self, page=page, announce=announce)

    def _refuse_to_replace(self) -> None:
        """Raises DinacError if `out` or `assets` holds what another run must not replace."""
        if os.path.lexists(self.out):
            if not is_report(self.out):
                raise OutputError(
                    f"{self.out}: exists and is not a dinac report; add --overwrite to replace it"
                )
            refuse_other_page(self.out, self.origin)
        if self.assets is not None:
            refuse_other_assets(self.assets, self.origin)


@dataclass(kw_only=True)
class ReportRun(Run):
    """A report run that is ready to start.

    `size_bytes` is the size of the written page, or 0 before the page is written. `rivals` has an
    entry for each folder that holds several reconstructions of an original.
    """

    work: Callable[..., Generator[FileResult, None, None]] = field(init=False)
    request: ReportRequest
    page: Page
    announce: Announce = keep_quiet
    rivals: list[Rivals] = field(default_factory=list)
    copies: LocalCopies = field(default_factory=LocalCopies)
    total: int = 0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.work = self._write_page

    def count(self, watch: Watch = ignore_phase) -> int | None:
        """Counts the originals, and the folders that hold several reconstructions of an original.

        Raises UsageError if there are no originals or too many. Also raises UsageError if a folder
        contains nothing that belongs to an original.
        """
        try:
            self._copy_places(watch)
            return self._count(watch)
        except DinacError as exc:
            self.copies.discard()
            raise type(exc)(self.copies.name_places(str(exc)), exc.details) from exc

    def _count(self, watch: Watch) -> int:
        request = self.request
        total, unpaired, recordless = 0, list(request.reconstructions), list(request.latents)
        rivals = [Rivals(folder) for folder in dict.fromkeys(request.reconstructions)]
        for entry in watch_items(request.scan(), watch, SCANNING):
            name, total = entry.name, total + 1
            unpaired = [folder for folder in unpaired if find_counterpart(name, folder) is None]
            recordless = [
                folder for folder in recordless if not os.path.exists(locate_record(folder, name))
            ]
            for found in rivals:
                for path in list_rivals(name, request.originals, found.folder):
                    found.add(find_counterpart(name, found.folder) or "", path)
        if not total and self.copies.failures:
            first = self.copies.failures[0]
            raise InputError(f"{first.file}: {first.reason}")
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
        if request.assets is None and total > IMAGES_IN_A_PAGE:
            raise UsageError(
                f"{total} images are too many for one page; keep them in a folder: --assets DIR"
            )
        self.rivals = [found for found in rivals if found.count]
        self.total = total
        return total + len(self.rivals)

    def _copy_places(self, watch: Watch) -> None:
        """Replaces the places of the request that are no local folders by copies."""
        copies, request = self.copies, self.request
        self.request = replace(
            request,
            originals=copies.copy_images(request.originals, watch),
            reconstructions=tuple(
                copies.copy_images(place, watch) for place in request.reconstructions
            ),
            latents=tuple(copies.copy_records(place, watch) for place in request.latents),
        )

    def start(self, control: RunControl) -> Generator[FileResult, None, None]:
        return self._name_originals(super().start(control))

    def _name_originals(
        self, results: Generator[FileResult, None, None]
    ) -> Generator[FileResult, None, None]:
        """Yields the results under the names that the user knows. Then removes the copies."""
        try:
            with closing(results):
                yield from self.copies.failures
                for result in results:
                    yield self._name_places(result)
        finally:
            self.copies.discard()

    def _name_places(self, result: FileResult) -> FileResult:
        name = self.copies.name_places
        reason = None if result.reason is None else name(result.reason)
        warnings = tuple(map(name, result.warnings))
        return replace(result, file=name(result.file), reason=reason, warnings=warnings)

    def _write_page(self, control: RunControl) -> Generator[FileResult, None, None]:
        """Yields one result per image, and one failure per folder in `rivals`. Writes the page.

        Writes nothing if the page has no images, or if the run was stopped.
        """
        request, page = self.request, self.page
        for folder in filter(None, (request.assets, request.page_folder)):
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as exc:
                raise describe_write_error(exc, folder) from exc
        for found in self.rivals:
            yield FileResult.fail(found.folder, InputError(found.describe()))
        with closing(gather_images(request, page, control)) as results:
            for number, result in enumerate(results, 1):
                yield result
                if request.assets is None:
                    refuse_large_page(page.size_bytes, number, self.total)
        if page.images and not control.stop:
            for line in self._describe_other_records():
                self.announce(f"warning: {self.copies.name_places(line)}")
            data, is_ours = page.write(), is_page_of(page.origin)
            write_atomically(request.out, data, replace=request.overwrite, is_ours=is_ours)
            self.size_bytes = len(data)

    def _describe_other_records(self) -> Iterator[str]:
        """Yields one line per folder of images that come from other records than those given."""
        request = self.request
        for k, latents in enumerate(request.latents):
            count, folder = self.page.columns[k].other_records, request.reconstructions[k]
            if count:
                images = "1 image was" if count == 1 else f"{count} images were"
                yield (
                    f"{folder}: {images} not decoded from the records in {latents}; "
                    "decode again, or name their folder with --latents"
                )


def refuse_large_page(size_bytes: int, done: int, total: int) -> None:
    """Raises UsageError if a page of `total` images is too large, or surely will be.

    `size_bytes` is the size after `done` images. Once some images are in the page, their mean size
    predicts the whole page, so that the user need not wait for the limit.
    """
    predicted = size_bytes * max(total, done) // done
    is_sure = done >= _PREDICTING_IMAGES and predicted > _SURE_FACTOR * MAX_PAGE_BYTES
    if is_sure or size_bytes > MAX_PAGE_BYTES:
        raise UsageError(
            f"the page would have about {predicted >> 20} MiB, more than {MAX_PAGE_BYTES >> 20}; "
            "keep its images in a folder: --assets DIR"
        )


def _name_folders(folders: Sequence[str]) -> list[str]:
    """Returns the last part of each path. If two last parts are equal, returns the whole paths."""
    short = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)

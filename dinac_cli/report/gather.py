"""Reads, measures and draws the images of a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from dinac_cli.errors import DinacError, InputError, UnwritableDiskError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import hold_beside
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.psnr import (
    MeasuredImage,
    find_counterpart,
    measure_reconstruction,
    read_original,
    read_reconstruction,
    warn_of_damage,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.report.columns import Reconstruction, describe_making
from dinac_cli.report.latents import (
    LatentColors,
    ShownRecord,
    choose_colors,
    locate_record,
    show_record,
)
from dinac_cli.report.origin import PageOrigin, is_asset_of, name_asset
from dinac_cli.report.page import Page, PageImage, make_data_url
from dinac_cli.report.pictures import draw_difference, make_thumbnail
from dinac_cli.storage.atomic import write_atomically
from dinac_cli.storage.inputs import Input

if TYPE_CHECKING:
    from dinac_cli.report.report import ReportRequest

_WORK_FACTOR = 3  # the memory to draw and compress an image, divided by the memory of the image


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
    gather = _Gatherer(request, page.origin, colors).gather
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
    origin: PageOrigin
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
        records, warnings = self._show_records(entry.name, hold)
        original = read_original(path, self.request.options, hold)
        warnings += original.soundness.warn()
        is_checked = original.soundness.is_checked
        height, width, _ = original.pixels.shape
        hold(_WORK_FACTOR * original.pixels.nbytes)
        image = PageImage(
            entry.name,
            width,
            height,
            make_thumbnail(original.pixels),
            self._publish(original.pixels, name_asset(number, 0)),
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
            other = read_reconstruction(counterpart, original, self.request.options, beside)
            beside(_WORK_FACTOR * other.pixels.nbytes)
            url = self._publish(other.pixels, name_asset(number, k + 1))
            image.reconstructions.append(_compare(original, other, url, records, k))
            warnings += warn_of_damage(other, counterpart)
            is_checked = is_checked and other.soundness.is_checked
        first = next(filter(None, image.reconstructions), None)
        result = FileResult(
            entry.label,
            Status.MISSING if missing else Status.MEASURED,
            reason=f"has no counterpart in {', '.join(missing)}" if missing else None,
            warnings=tuple(warnings),
            width=width,
            height=height,
            metrics={} if first is None else {"psnr": first.psnr_db},
            name=entry.name,
            unchecked=not is_checked,
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
        data = write_image(pixels, "png", stamp=self.origin.stamp)
        is_ours = is_asset_of(self.origin)
        write_atomically(target, data, replace=request.overwrite, is_ours=is_ours)
        relative = os.path.relpath(target, request.page_folder or ".")
        # As bytes, because names that are not UTF-8 have no other encoding.
        return quote(os.fsencode(relative.replace(os.sep, "/")))


def _compare(
    original: MeasuredImage,
    other: MeasuredImage,
    url: str,
    records: Sequence[ShownRecord | None],
    k: int,
) -> Reconstruction:
    """Measures reconstruction `k` of an image, whose full image has this URL."""
    record = _find_record(records, k, other.stamp)
    given = records[k] if k < len(records) else None
    return Reconstruction(
        measure_reconstruction(original.pixels, other.pixels),
        record.size_bytes if record is not None else None,
        draw_difference(original.pixels, other.pixels),
        url,
        describe_making(other.stamp, record.header if record is not None else None),
        has_other_record=record is None and given is not None,
    )


def _find_record(
    records: Sequence[ShownRecord | None], k: int, stamp: Mapping[str, str] | None
) -> ShownRecord | None:
    """Returns the record from which reconstruction `k` of an image was decoded, or None.

    The stamp of the reconstruction identifies the record. A reconstruction without a stamp belongs
    to the record at its own position.
    """
    if stamp is None or "record" not in stamp:
        return records[k] if k < len(records) else None
    wanted = stamp["record"]
    return next((each for each in records if each and each.record_hash == wanted), None)

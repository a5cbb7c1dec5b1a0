"""Makes a report: checks what is asked for, shows progress, writes the page."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dinac_cli.commands.inputs import IMAGES
from dinac_cli.commands.run import (
    EXIT_FAILURES,
    ReportOptions,
    RunProgress,
    format_size,
    open_failures,
    report_problems,
)
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import stop_on_signals
from dinac_cli.errors import OutputError, UsageError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.psnr import MeasureOptions, find_counterpart, refuse_strangers
from dinac_cli.report.latents import locate_record
from dinac_cli.report.page import PAGE_START, Page
from dinac_cli.report.report import ReportRequest, gather_images, list_originals
from dinac_cli.storage.atomic import write_atomically

IMAGES_IN_A_PAGE = 300
"""More images than these need a folder beside the page, or it would not open at once."""

MAX_PAGE_BYTES = 2**28
"""So does more data than this (measured: a page of 218 MB opens in 2 s)."""

_LARGE_PAGE_BYTES = 2**26

STOPPED = "dinac: stopped before the end; the page was not written"


def make_report(
    folders: Sequence[str],
    out: str,
    latents: Sequence[str],
    assets: str | None,
    title: str | None,
    reading: MeasureOptions,
    workers: int,
    overwrite: bool,
    options: ReportOptions,
    console: Console,
) -> int:
    """Write the page; returns the exit code. Raises UsageError, OutputError."""
    request = ReportRequest(
        folders[0],
        tuple(folders[1:]),
        tuple(latents),
        assets,
        os.path.dirname(out),
        reading,
        overwrite,
    )
    total = _check_request(request, out)
    names = _name_folders(request.reconstructions)
    page = Page(
        title or f"{os.path.basename(os.path.normpath(folders[0]))}: reconstructions", names
    )
    with (
        stop_on_signals(console) as stop,
        open_failures(options.failures) as failures,
    ):
        control = RunControl(workers, stop=stop)
        progress = RunProgress(control.clock, total, stop)
        with console.track("report", progress) as update:
            for result in gather_images(request, IMAGES, page, control):
                progress.add(result)
                report_problems(result, console, failures)
                update()
                if assets is None and page.size_bytes > MAX_PAGE_BYTES:
                    raise UsageError(
                        "images of these sizes in one page would not open: "
                        "name a folder for them with --assets DIR"
                    )
        if stop.exit_code is not None:
            console.say(STOPPED)
            return stop.exit_code
        if not page.images:
            console.say(f"dinac: no image could be shown; {out} was not written")
            return EXIT_FAILURES
        data = page.write()
        write_atomically(out, data, replace=overwrite, is_ours=is_report)
    count = "1 image" if len(page.images) == 1 else f"{len(page.images)} images"
    failed = f", {page.failed} failed" if page.failed else ""
    console.print_result(f"{count} in {out} ({format_size(len(data))}){failed}")
    if assets is None and len(data) > _LARGE_PAGE_BYTES:
        console.say("dinac: a large page; --assets DIR keeps the full images beside it")
    return EXIT_FAILURES if progress.tally.failures else 0


def is_report(path: str) -> bool:
    """True for a page that this command wrote."""
    try:
        with open(path, "rb") as file:
            return file.read(len(PAGE_START)) == PAGE_START
    except OSError:
        return False


def _check_request(request: ReportRequest, out: str) -> int:
    """Refuse before any work what cannot be; returns how many images there are."""
    if not request.reconstructions:
        raise UsageError("name a folder of originals, one or more of reconstructions, and OUT.html")
    if not out.lower().endswith((".html", ".htm")):
        raise UsageError(f"{out}: OUT, the last argument, is the page to write: name it .html")
    if len(request.latents) > len(request.reconstructions):
        raise UsageError("--latents: one folder for each folder of reconstructions, in that order")
    if os.path.lexists(out) and not request.overwrite and not is_report(out):
        raise OutputError(f"{out}: exists and is no report of dinac; add --overwrite to replace it")
    total, strangers, bare = 0, list(request.reconstructions), list(request.latents)
    for entry in list_originals(request, IMAGES):
        total += 1
        strangers = [folder for folder in strangers if find_counterpart(entry.name, folder) is None]
        bare = [folder for folder in bare if not os.path.exists(locate_record(folder, entry.name))]
    if not total:
        raise UsageError(f"no images found in {request.originals}")
    if strangers:
        refuse_strangers(request.originals, strangers[0])
    if bare:
        raise UsageError(f"--latents {bare[0]}: holds no record of an image in {request.originals}")
    if total > IMAGES_IN_A_PAGE and request.assets is None:
        raise UsageError(
            f"{total} images in one page would not open: name a folder for them with --assets DIR"
        )
    for folder in filter(None, (request.assets, request.page_folder)):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"{folder}: cannot be made: {exc.strerror}") from exc
    return total


def _name_folders(folders: Sequence[str]) -> list[str]:
    """Short names that differ: the last part of each path, or all of it."""
    short = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)

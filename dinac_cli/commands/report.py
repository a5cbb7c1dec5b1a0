"""`dinac report`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.parser import MissingArgumentError
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import count_images, format_size
from dinac_cli.errors import Exit
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.jobs.results import Tally

if TYPE_CHECKING:
    from dinac_cli.report.report import ReportRun

Folders = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="A B...",
        show_default=False,
        help="The folder of originals, then one or more folders of reconstructions.",
    ),
]
ReportOut = Annotated[
    str | None, typer.Argument(metavar="OUT.html", help="The last argument: the page to write.")
]
LatentFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--latents",
        metavar="DIR",
        help="Folder of latents; repeat this option if the reconstructions come from several. The "
        "page shows model, precision and bits per pixel, and the latents of the first folder as "
        "colours.",
    ),
]
Assets = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Put the full images into DIR, not into the page; use this for many images.",
    ),
]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.")]

_LARGE_PAGE_BYTES = 25_000_000  # the largest attachment that common mail services accept


def report(
    *,
    folders: Folders = None,
    out: ReportOut = None,
    out_option: opt.OutOption = None,
    latents: LatentFolders = None,
    assets: Assets = None,
    title: Title = None,
    resize: opt.OriginalResize = None,
    no_upscale: opt.OriginalNoUpscale = False,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
    buckets: opt.OriginalBuckets = None,
    bucket_min: opt.BucketMin = None,
    bucket_max: opt.BucketMax = None,
    exclude: opt.Exclude = None,
    background: opt.Background = "white",
    hdr: opt.Hdr = "refuse",
    damaged: opt.Damaged = "fail",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    workers: opt.Readers = None,
    overwrite: opt.Overwrite = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a page that shows originals and reconstructions side by side.

    Any browser opens the page from disk. The page shows at a glance where a model fails.

    Archives, shards and URLs are copied to a temporary folder first, because each image is read
    several times.
    """
    from dinac_cli.commands.run import ScreenOptions, run_request
    from dinac_cli.images.buckets import choose_buckets
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import choose_geometry
    from dinac_cli.jobs.psnr import MeasureOptions
    from dinac_cli.report.report import ReportRequest

    folders, out = opt.split_out(folders, out, out_option)
    if len(folders) < 2:
        raise MissingArgumentError("B...")
    request = ReportRequest(
        originals=folders[0],
        reconstructions=tuple(folders[1:]),
        out=out,
        latents=tuple(latents or ()),
        assets=assets,
        title=title,
        exclude=tuple(exclude or ()),
        options=MeasureOptions(
            background=parse_color(background),
            max_pixels=max_pixels,
            geometry=choose_geometry(
                resize,
                max_side,
                crop,
                upscale=not no_upscale,
                buckets=choose_buckets(buckets, bucket_min, bucket_max),
            ),
            hdr=hdr,
            damaged=parse_damage_choice(damaged),
        ),
        overwrite=overwrite,
        workers=workers,
    )
    screen = ScreenOptions(
        no_progress=no_progress,
        quiet=quiet,
        verbose=verbose,
        failures=failures,
        known=known,
        log=log,
    )
    raise typer.Exit(run_request(request, PageSummary, screen))


class PageSummary(Summary):
    """The summary of a report run."""

    lists_files = False

    def __init__(self, run: ReportRun) -> None:
        super().__init__()
        self._run = run
        self._out = run.request.out

    @property
    def stopped(self) -> str:
        is_lacking = not self._run.size_bytes
        return "stopped before the end" + ("; the page was not written" if is_lacking else "")

    def describe(self, progress: RunProgress) -> str:
        if not self._run.size_bytes:
            return ""
        page = self._run.page
        failed = f", {page.failed} failed" if page.failed else ""
        size = format_size(self._run.size_bytes)
        return f"{count_images(len(page.images))} in {self._out} ({size}){failed}"

    def remarks(self) -> Iterator[str]:
        if not self._run.page.images:
            yield f"no image could be shown; {self._out} was not written"
        if self._run.request.assets is None and self._run.size_bytes > _LARGE_PAGE_BYTES:
            size = format_size(self._run.size_bytes)
            yield f"{self._out} is {size}; --assets DIR keeps the full images beside the page"

    def choose_exit(self, tally: Tally) -> Exit:
        return Exit.FAILURES if tally.new_failures or not self._run.page.images else Exit.DONE

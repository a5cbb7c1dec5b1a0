"""The page of a comparison: tables, charts, and the pictures of a few images side by side."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import numpy as np
from PIL import Image

from dinac_cli.compare.figure_tables import (
    Table,
    describe_images,
    describe_machine,
    list_notes,
    tabulate_quality,
    tabulate_speed,
)
from dinac_cli.compare.figures import Comparison, VariantFigures
from dinac_cli.compare.gallery import Gallery
from dinac_cli.images.pixels import Pixels
from dinac_cli.report.charts import Line, draw_histogram, draw_lines
from dinac_cli.report.columns import Making, Reconstruction
from dinac_cli.report.latents import LatentColors, choose_colors, show_record
from dinac_cli.report.origin import PageOrigin
from dinac_cli.report.page import Page, PageImage
from dinac_cli.report.pictures import draw_difference, make_thumbnail

_TEXT_COLUMNS = ("Model", "Precision", "Resolution")
_MOST_HISTOGRAM = 6  # with more series, the bars are too thin to see


class ComparisonPage(Page):
    """A page with the tables and charts of a comparison above the images."""

    def __init__(self, comparison: Comparison, origin: PageOrigin) -> None:
        models = " and ".join(filter(None, [", ".join(origin.names[:-1]), origin.names[-1]]))
        names = [figures.variant.name for figures in comparison.variants]
        super().__init__(f"Comparison of {models}", names, origin)
        self._comparison = comparison

    def introduce(self) -> str:
        comparison = self._comparison
        count, shown = len(comparison.images), len(self.images)
        if shown == 0:
            return html.escape(f"Measured on {describe_images(comparison)}. None are shown.")
        which = "All are shown" if shown == count else f"{shown} of them are shown"
        spread = ", spread over the set" if 1 < shown < count else ""
        return html.escape(
            f"Measured on {describe_images(comparison)}. {which} below{spread}. Of these alone, "
            "originals, reconstructions and latents were kept, in the folder shown. Select an "
            "image to compare any two of its pictures."
        )

    def list_figures(self) -> Iterator[str]:
        comparison = self._comparison
        yield "<h2>Reconstruction</h2>"
        yield _write_table(tabulate_quality(comparison))
        for note in list_notes(comparison):
            yield f'<p class="note">{html.escape(note)}</p>'
        yield f'<div class="charts">{"".join(self._draw_charts())}</div>'
        for task, title in (("encode", "Encode throughput"), ("decode", "Decode throughput")):
            table = tabulate_speed(comparison, task)
            if len(table) > 1:
                yield f"<h2>{title}</h2>"
                yield _write_table(table)
        yield f'<p class="note">{html.escape(describe_machine(comparison))}</p>'
        yield f'<pre class="scroll" tabindex="0">{html.escape(comparison.command)}</pre>'
        yield "<h2>Images</h2>"

    def _draw_charts(self) -> Iterator[str]:
        variants = self._comparison.variants
        yield draw_lines(
            list_rate_lines(variants),
            title="Mean PSNR against bits per pixel",
            across="bits per pixel",
            up="PSNR, dB",
        )
        by_steps = list_step_lines(variants)
        if any(len(line.points) > 1 for line in by_steps):
            title = "Mean PSNR against decoder steps"
            yield draw_lines(by_steps, title=title, across="steps", up="PSNR, dB", is_whole=True)
        if len(variants) <= _MOST_HISTOGRAM:
            finite = [
                (figures.variant.name, list(filter(math.isfinite, figures.psnr_db)))
                for figures in variants
            ]
            yield draw_histogram(finite)


def list_rate_lines(variants: Sequence[VariantFigures]) -> list[Line]:
    """Returns one line (bits per pixel, mean PSNR in dB) per model and number of steps."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for figures in variants:
        name = figures.variant.model.label + figures.variant.describe_steps()
        points = lines.setdefault(name, [])
        if figures.psnr.mean is not None:
            points.append((figures.bits_per_pixel, figures.psnr.mean))
    return [Line(name, sorted(points)) for name, points in lines.items()]


def list_step_lines(variants: Sequence[VariantFigures]) -> list[Line]:
    """Returns one line (steps, mean PSNR in dB) per model and precision."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for figures in variants:
        steps = figures.variant.steps
        if steps is not None and figures.psnr.mean is not None:
            name = f"{figures.variant.model.label} {figures.variant.precision}"
            lines.setdefault(name, []).append((steps, figures.psnr.mean))
    return [Line(name, sorted(points)) for name, points in lines.items()]


def _write_table(table: Table) -> str:
    heads, *rows = table
    kinds = [' class="text"' if head in _TEXT_COLUMNS else "" for head in heads]
    lines = [
        "".join(
            f'<th scope="col"{kind}>{html.escape(head)}</th>'
            for kind, head in zip(kinds, heads, strict=True)
        )
    ]
    for row in rows:
        cells = [
            f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)
        ]
        lines.append("".join(cells))
    first, *others = (f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="wrap"><thead>{first}</thead>'
        f"<tbody>{''.join(others)}</tbody></table></div>"
    )


def make_page(comparison: Comparison, gallery: Gallery, out: str, origin: PageOrigin) -> bytes:
    """Returns the page. Reads the pictures of the shown images. Raises OSError, DinacError."""
    page = ComparisonPage(comparison, origin)
    first = comparison.variants[0].variant
    colors = choose_colors(gallery.locate_record(first, name) for name in comparison.shown)
    for name in comparison.shown:
        page.add(_show_image(comparison, gallery, out, name, colors))
    return page.write()


def _show_image(
    comparison: Comparison, gallery: Gallery, out: str, name: str, colors: LatentColors | None
) -> PageImage:
    original_path = gallery.locate_original(name)
    original = _read_pixels(original_path)
    height, width, _ = original.shape
    first = comparison.variants[0].variant
    record = show_record(gallery.locate_record(first, name), colors, lambda size_bytes: None)
    image = PageImage(
        name,
        width,
        height,
        make_thumbnail(original),
        _link(original_path, out),
        None if record is None else record.picture,
    )
    for figures in comparison.variants:
        variant = figures.variant
        measure = comparison.results[variant].find(name)
        assert measure is not None, "a shown image was measured"
        path = gallery.locate_picture(variant, name)
        steps = "" if variant.steps is None else str(variant.steps)
        image.reconstructions.append(
            Reconstruction(
                measure.psnr_db,
                measure.record_bytes,
                draw_difference(original, _read_pixels(path)),
                _link(path, out),
                Making(variant.model.label, variant.precision, steps),
            )
        )
    return image


def _read_pixels(path: str) -> Pixels:
    """Reads a PNG that dinac wrote."""
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def _link(path: str, out: str) -> str:
    # As bytes, because names that are not UTF-8 have no other encoding.
    return quote(os.fsencode(os.path.relpath(path, out).replace(os.sep, "/")))

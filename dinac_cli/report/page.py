"""Makes the HTML page from a template, with figures, charts and the data of each image."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from dinac_cli.images.metrics import psnr_as_json, summarise_psnr
from dinac_cli.report.charts import Series, draw_histogram, draw_scatter
from dinac_cli.report.columns import Column, Making, Reconstruction
from dinac_cli.report.origin import PageOrigin

_MISSING = "missing"
_TEXTS = ("reconstructions", *Making._fields)
_STATISTICS = ("mean", "std", "median", "p5", "p95", "min", "max")


@dataclass
class PageImage:
    """The data of one image on the page. Each picture is given as its URL.

    `reconstructions` has one entry per column of the page. An entry is None if the file is
    missing.
    """

    name: str
    width: int
    height: int
    thumbnail: str
    original: str
    latents: str | None = None
    reconstructions: list[Reconstruction | None] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        """The number of pixels of the image."""
        return self.width * self.height

    @property
    def size_bytes(self) -> int:
        """The size of all URLs of pictures, in bytes."""
        found = filter(None, self.reconstructions)
        shown = sum(len(each.difference) + len(each.full) for each in found)
        return len(self.thumbnail) + len(self.original) + len(self.latents or "") + shown


class Page:
    """The figures and images of a page.

    `columns` hold the figures of each folder of reconstructions. `images` are the HTML elements of
    the images. `failed` is the number of images that could not be read and are not shown. `origin`
    says what the page compares.
    """

    def __init__(self, title: str, names: Sequence[str], origin: PageOrigin) -> None:
        self.title = title
        self.origin = origin
        self.columns = [Column(name) for name in names]
        self.images: list[str] = []
        self.size_bytes = 0
        self.failed = 0

    def add(self, image: PageImage) -> None:
        """Adds the figures and the HTML of one image."""
        for column, found in zip(self.columns, image.reconstructions, strict=True):
            if found is None:
                column.missing += 1
            else:
                column.add(found, image.pixels)
        self.images.append(_write_image(image))
        self.size_bytes += len(self.images[-1])

    def write(self) -> bytes:
        """Returns the whole page."""
        parts = {
            "origin": self.origin.to_html(),
            "title": html.escape(self.title),
            "style": _read("page.css"),
            "script": _read("page.js"),
            "lead": self.introduce(),
            "figures": "\n".join(self.list_figures()),
            "data": _embed({"reconstructions": [column.name for column in self.columns]}),
            "images": "\n".join(self.images),
        }
        first, *pieces = _read("page.html").split("{{")
        filled = [first]
        for piece in pieces:  # `str.replace` would also change braces inside the parts
            key, _, rest = piece.partition("}}")
            filled += [parts[key], rest]
        return "".join(filled).encode("utf-8", "replace")

    def introduce(self) -> str:
        """Returns the HTML of the text below the title."""
        images = "1 image" if len(self.images) == 1 else f"{len(self.images)} images"
        count = len(self.columns)
        each = "1 reconstruction" if count == 1 else f"{count} reconstructions"
        failed = f" {self.failed} more could not be shown." if self.failed else ""
        which = "" if count == 1 else f" of {html.escape(self.columns[0].name)}"
        return (
            f"{images}, {each} each.{failed} Below each image is the difference{which}, amplified "
            "tenfold. Select an image to compare any two of its pictures."
        )

    def list_figures(self) -> Iterator[str]:
        """Yields the HTML of the tables and charts above the images."""
        rows = [_count_images(column) for column in self.columns]
        counts = [name for name in rows[0] if name == "images" or any(row[name] for row in rows)]
        yield f'<div class="scroll" tabindex="0"><table>{_write_heads(counts)}<tbody>'
        for column, row in zip(self.columns, rows, strict=True):
            yield _write_row(column, [row[name] for name in counts])
        yield "</tbody></table></div>"
        finite = [
            (column.name, list(filter(math.isfinite, column.psnr_db))) for column in self.columns
        ]
        rates = [Series(column.name, column.rates, column.centre) for column in self.columns]
        yield f'<div class="charts">{draw_histogram(finite)}{draw_scatter(rates)}</div>'


def _count_images(column: Column) -> dict[str, int]:
    identical = summarise_psnr(column.psnr_db).identical
    return {"images": len(column.psnr_db), "identical": identical, "missing": column.missing}


def _write_heads(counts: Sequence[str]) -> str:
    """Returns the two rows of headings: the statistics of PSNR share a heading."""
    upper = [
        *(f'<th rowspan="2" scope="col" class="text">{name}</th>' for name in _TEXTS),
        '<th rowspan="2" scope="col">bits per pixel</th>',
        f'<th colspan="{len(_STATISTICS)}" scope="colgroup" class="group">PSNR, dB</th>',
        *(f'<th rowspan="2" scope="col">{name}</th>' for name in counts),
    ]
    lower = [f'<th scope="col">{name}</th>' for name in _STATISTICS]
    return f"<thead><tr>{''.join(upper)}</tr><tr>{''.join(lower)}</tr></thead>"


def _write_row(column: Column, counts: Sequence[int]) -> str:
    summary = summarise_psnr(column.psnr_db)
    values = [getattr(summary, name) for name in _STATISTICS]
    figures = [column.describe_rate() or "-"]
    figures += ["-" if value is None else f"{value:.2f}" for value in values]
    figures += map(str, counts)
    cells = [
        f'<th scope="row" class="text">{html.escape(column.name)}</th>',
        *(f'<td class="text">{html.escape(text) or "-"}</td>' for text in column.describe_making()),
        *(f"<td>{figure}</td>" for figure in figures),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def make_data_url(data: bytes, kind: str) -> str:
    """Returns the `data:` URL of an image file. `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _write_image(image: PageImage) -> str:
    found = image.reconstructions
    facts = {
        "name": image.name,
        "width": image.width,
        "height": image.height,
        # an infinite PSNR is written as null
        "psnr": [_MISSING if each is None else psnr_as_json(each.psnr_db) for each in found],
        "bits_per_pixel": [_measure_rate(each, image.pixels) for each in found],
    }
    pictures: dict[str, Any] = {
        "thumbnail": image.thumbnail,
        "original": image.original,
        "differences": [None if each is None else each.difference for each in found],
        "reconstructions": [None if each is None else each.full for each in found],
    }
    if image.latents is not None:
        pictures["latents"] = image.latents
    attribute = html.escape(json.dumps(facts), quote=True)
    return (
        f'<script type="application/json" class="image" data-facts="{attribute}">'
        f"{_embed(pictures)}</script>"
    )


def _measure_rate(found: Reconstruction | None, pixels: int) -> float | None:
    if found is None or found.record_bytes is None:
        return None
    return 8 * found.record_bytes / pixels


def _embed(value: object) -> str:
    """Returns JSON without `<`, so that the JSON cannot close the HTML element around it."""
    return json.dumps(value).replace("<", "\\u003c")


@cache
def _read(name: str) -> str:
    return files("dinac_cli.report").joinpath(name).read_text(encoding="utf-8")

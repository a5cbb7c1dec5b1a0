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
from dinac_cli.report.charts import draw_histogram, draw_scatter

PAGE_START = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="dinac report">'
)
_MISSING = "missing"
_COLUMNS = ("mean", "std", "median", "p5", "p95", "min", "max")


@dataclass(frozen=True)
class Reconstruction:
    """One reconstruction of an image. `bits_per_pixel` is None if it is unknown.

    `difference` is the URL of a small picture that shows the difference from the original. `full`
    is the URL of the full image.
    """

    psnr_db: float
    bits_per_pixel: float | None
    difference: str
    full: str


@dataclass
class PageImage:
    """The data of one image on the page. Each picture is given as its URL.

    `reconstructions` has one entry per name in `Page.names`. An entry is None if the file is
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
    def size_bytes(self) -> int:
        """The size of all URLs of pictures, in bytes."""
        found = filter(None, self.reconstructions)
        shown = sum(len(each.difference) + len(each.full) for each in found)
        return len(self.thumbnail) + len(self.original) + len(self.latents or "") + shown


class Page:
    """The figures and images of a page.

    `names` are the names of the reconstructions. `images` are the HTML elements of the images.
    `failed` is the number of images that could not be read and are not shown.
    """

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self.title = title
        self.names = names
        self.psnr_db: list[list[float]] = [[] for _ in names]
        self.rates: list[list[tuple[float, float]]] = [[] for _ in names]
        self.missing = [0] * len(names)
        self.images: list[str] = []
        self.size_bytes = 0
        self.failed = 0

    def add(self, image: PageImage) -> None:
        """Adds the figures and the HTML of one image."""
        for number, found in enumerate(image.reconstructions):
            if found is None:
                self.missing[number] += 1
                continue
            self.psnr_db[number].append(found.psnr_db)
            if found.bits_per_pixel is not None and math.isfinite(found.psnr_db):
                self.rates[number].append((found.bits_per_pixel, found.psnr_db))
        self.images.append(_write_image(image))
        self.size_bytes += len(self.images[-1])

    def write(self) -> bytes:
        """Returns the whole page."""
        parts = {
            "title": html.escape(self.title),
            "style": _read("page.css"),
            "script": _read("page.js"),
            "lead": self._introduce(),
            "figures": "\n".join(self._list_figures()),
            "data": _embed({"reconstructions": list(self.names)}),
            "images": "\n".join(self.images),
        }
        first, *pieces = _read("page.html").split("{{")
        filled = [first]
        for piece in pieces:  # `str.replace` would also change braces inside the parts
            key, _, rest = piece.partition("}}")
            filled += [parts[key], rest]
        return "".join(filled).encode("utf-8", "replace")

    def _introduce(self) -> str:
        images = "1 image" if len(self.images) == 1 else f"{len(self.images)} images"
        each = "1 reconstruction" if len(self.names) == 1 else f"{len(self.names)} reconstructions"
        failed = f" {self.failed} more could not be shown." if self.failed else ""
        return (
            f"{images}, {each} each.{failed} Below each image is the "
            "difference, amplified tenfold. Select an image to look at it closely."
        )

    def _list_figures(self) -> Iterator[str]:
        heads = "".join(
            f"<th>{name}</th>" for name in ("PSNR, dB", *_COLUMNS, "images", "identical", "missing")
        )
        yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
        for number, name in enumerate(self.names):
            summary = summarise_psnr(self.psnr_db[number])
            values = [getattr(summary, column) for column in _COLUMNS]
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            cells += [str(summary.count), str(summary.identical), str(self.missing[number])]
            row = "".join(f"<td>{cell}</td>" for cell in (html.escape(name), *cells))
            yield f"<tr>{row}</tr>"
        yield "</tbody></table></div>"
        finite = [[value for value in values if math.isfinite(value)] for values in self.psnr_db]
        charts = [
            draw_histogram(list(zip(self.names, finite, strict=True))),
            draw_scatter(list(zip(self.names, self.rates, strict=True))),
        ]
        yield f'<div class="charts">{"".join(charts)}</div>'


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
        "bits_per_pixel": [None if each is None else each.bits_per_pixel for each in found],
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


def _embed(value: object) -> str:
    """Returns JSON without `<`, so that the JSON cannot close the HTML element around it."""
    return json.dumps(value).replace("<", "\\u003c")


@cache
def _read(name: str) -> str:
    return files("dinac_cli.report").joinpath(name).read_text(encoding="utf-8")

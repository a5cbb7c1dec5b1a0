"""The page itself: a template, figures, and the data of each image."""

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
    """One reconstruction of an image; the pictures are URLs.

    `bits_per_pixel` is None where it is not known; `difference` is a small picture, `full` the
    reconstruction itself.
    """

    psnr_db: float
    bits_per_pixel: float | None
    difference: str
    full: str


@dataclass
class PageImage:
    """What the page shows of one image; the pictures are URLs.

    `reconstructions` has an entry for each of the page's, None where it is missing.
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
        """What its pictures take in the page."""
        found = filter(None, self.reconstructions)
        shown = [len(one.difference) + len(one.full) for one in found]
        return len(self.thumbnail) + len(self.original) + len(self.latents or "") + sum(shown)


@dataclass
class Page:
    """The figures and images of a page; `images` are HTML already, one element an image.

    `failed` counts those that could not be read, and are not on it.
    """

    title: str
    names: Sequence[str]
    psnr_db: list[list[float]] = field(init=False)
    rates: list[list[tuple[float, float]]] = field(init=False)
    missing: list[int] = field(init=False)
    images: list[str] = field(default_factory=list)
    size_bytes: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.psnr_db = [[] for _ in self.names]
        self.rates = [[] for _ in self.names]
        self.missing = [0] * len(self.names)

    def add(self, image: PageImage) -> None:
        """Count one image, and keep its data."""
        for number, one in enumerate(image.reconstructions):
            if one is None:
                self.missing[number] += 1
                continue
            self.psnr_db[number].append(one.psnr_db)
            if one.bits_per_pixel is not None and math.isfinite(one.psnr_db):
                self.rates[number].append((one.bits_per_pixel, one.psnr_db))
        self.images.append(_write_image(image))
        self.size_bytes += len(self.images[-1])

    def write(self) -> bytes:
        """The whole page."""
        parts = {
            "title": html.escape(self.title),
            "style": _read("page.css"),
            "script": _read("page.js"),
            "lead": self._introduce(),
            "figures": "\n".join(self._list_figures()),
            "data": _embed({"reconstructions": list(self.names)}),
            "images": "\n".join(self.images),
        }
        text = _read("page.html")
        pieces = text.split("{{")
        filled = [pieces[0]]
        for piece in pieces[1:]:  # by pieces: what is filled in may hold braces too
            key, _, rest = piece.partition("}}")
            filled += [parts[key], rest]
        return "".join(filled).encode("utf-8", "replace")

    def _introduce(self) -> str:
        images = "1 image" if len(self.images) == 1 else f"{len(self.images)} images"
        each = "1 reconstruction" if len(self.names) == 1 else f"{len(self.names)} reconstructions"
        failed = f" {self.failed} more could not be shown." if self.failed else ""
        return (
            f"{images}, {each} each.{failed} Below each its differences, tenfold. "
            "Select an image to look into it."
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
        finite = [[value for value in some if math.isfinite(value)] for some in self.psnr_db]
        charts = [
            draw_histogram(list(zip(self.names, finite, strict=True))),
            draw_scatter(list(zip(self.names, self.rates, strict=True))),
        ]
        yield f'<div class="charts">{"".join(charts)}</div>'


def make_data_url(data: bytes, kind: str) -> str:
    """`data:` URL of an image file; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _write_image(image: PageImage) -> str:
    some = image.reconstructions
    facts = {
        "name": image.name,
        "width": image.width,
        "height": image.height,
        # null is an infinite PSNR
        "psnr": [_MISSING if one is None else psnr_as_json(one.psnr_db) for one in some],
        "bits_per_pixel": [None if one is None else one.bits_per_pixel for one in some],
    }
    pictures: dict[str, Any] = {
        "thumbnail": image.thumbnail,
        "original": image.original,
        "differences": [None if one is None else one.difference for one in some],
        "reconstructions": [None if one is None else one.full for one in some],
    }
    if image.latents is not None:
        pictures["latents"] = image.latents
    attribute = html.escape(json.dumps(facts), quote=True)
    return (
        f'<script type="application/json" class="image" data-facts="{attribute}">'
        f"{_embed(pictures)}</script>"
    )


def _embed(value: object) -> str:
    """JSON that ends no element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


@cache
def _read(name: str) -> str:
    return files("dinac_cli.report").joinpath(name).read_text(encoding="utf-8")

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

from dinac_cli.metrics import psnr_as_json, summarise_psnr
from dinac_cli.report.charts import draw_histogram, draw_scatter

PAGE_START = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="dinac report">'
)
_COLUMNS = ("mean", "std", "median", "p5", "p95", "min", "max")


@dataclass
class PageImage:
    """What the page shows of one image.

    `psnr_db` and `bits_per_pixel` have an entry a reconstruction, None where it is missing or
    not known; the pictures are URLs, a reconstruction that is missing None.
    """

    name: str
    width: int
    height: int
    psnr_db: list[float | None]
    bits_per_pixel: list[float | None]
    thumbnail: str
    original: str
    reconstructions: list[str | None]
    latents: str | None = None


@dataclass
class Page:
    """The figures and images of a page; `images` are HTML already, one element an image."""

    title: str
    names: Sequence[str]
    psnr_db: list[list[float]] = field(init=False)
    rates: list[list[tuple[float, float]]] = field(init=False)
    missing: list[int] = field(init=False)
    images: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.psnr_db = [[] for _ in self.names]
        self.rates = [[] for _ in self.names]
        self.missing = [0] * len(self.names)

    def add(self, image: PageImage) -> None:
        """Count one image, and keep its data."""
        for number, psnr_db in enumerate(image.psnr_db):
            if psnr_db is None:
                self.missing[number] += 1
                continue
            self.psnr_db[number].append(psnr_db)
            rate = image.bits_per_pixel[number]
            if rate is not None and math.isfinite(psnr_db):
                self.rates[number].append((rate, psnr_db))
        self.images.append(_write_image(image))

    def write(self) -> bytes:
        """The whole page."""
        parts = {
            "title": html.escape(self.title),
            "style": _read("page.css"),
            "script": _read("page.js"),
            "lead": f"{len(self.images)} images, {len(self.names)} "
            + ("reconstruction each" if len(self.names) == 1 else "reconstructions each")
            + ". Select an image to look into it.",
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

    def _list_figures(self) -> Iterator[str]:
        heads = "".join(
            f"<th>{name}</th>" for name in ("", *_COLUMNS, "images", "identical", "missing")
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
    facts = {
        "name": image.name,
        "width": image.width,
        "height": image.height,
        # null is an infinite PSNR; what is missing is left out
        "psnr": [_Missing if v is None else psnr_as_json(v) for v in image.psnr_db],
        "bits_per_pixel": image.bits_per_pixel,
    }
    pictures: dict[str, Any] = {
        "thumbnail": image.thumbnail,
        "original": image.original,
        "reconstructions": image.reconstructions,
    }
    if image.latents is not None:
        pictures["latents"] = image.latents
    attribute = html.escape(json.dumps(facts), quote=True)
    return (
        f'<script type="application/json" class="image" data-facts="{attribute}">'
        f"{_embed(pictures)}</script>"
    )


_Missing = "missing"


def _embed(value: object) -> str:
    """JSON that ends no element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


@cache
def _read(name: str) -> str:
    return files("dinac_cli.report").joinpath(name).read_text(encoding="utf-8")

"""The page: figures, charts, and data that cannot break out of its HTML element."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from dinac_cli.report.charts import Axis, draw_histogram, draw_scatter, lay_counts
from dinac_cli.report.page import PAGE_START, Page, PageImage, Reconstruction


def make_image(name: str, *psnr_db: float | None, rate: float | None = 2.0) -> PageImage:
    image = PageImage(name, 4, 3, "data:,", "data:,")
    for value in psnr_db:
        found = None if value is None else Reconstruction(value, rate, "data:,", "data:,")
        image.reconstructions.append(found)
    return image


def read_facts(page: str) -> list[dict[str, object]]:
    import html

    found = re.findall(r'<script type="application/json" class="image" data-facts="(.*?)">', page)
    return [json.loads(html.unescape(text)) for text in found]


def test_figures_and_data() -> None:
    page = Page("Title", ["r1", "r2"])
    page.add(make_image("a.png", 30.0, 40.0))
    page.add(make_image("b.png", 32.0, None))
    page.add(make_image("c.png", math.inf, 42.0))
    text = page.write().decode()
    assert text.encode().startswith(PAGE_START)
    assert "<td>r1</td><td>31.00</td><td>1.00</td>" in text
    assert "<td>3</td><td>1</td><td>0</td></tr>" in text  # images, identical, missing of r1
    assert "<td>2</td><td>0</td><td>1</td></tr>" in text
    assert [facts["psnr"] for facts in read_facts(text)] == [
        [30.0, 40.0],
        [32.0, "missing"],
        [None, 42.0],
    ]
    assert "{{" not in text


def test_names_are_never_markup_and_nothing_is_fetched() -> None:
    evil = '</script><img src=x onerror="alert(1)">\'&<!--'
    page = Page(evil, [evil])
    page.add(make_image(evil, 30.0))
    text = page.write().decode()
    assert "<img src=x" not in text
    [facts] = read_facts(text)
    assert facts["name"] == evil
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert text.count("</script>") == 3  # the data, the image, the script


@pytest.mark.parametrize("values", [[30.0], [30.0, 30.0], [20.0, 25.0, 44.0], [0.0, 0.0]])
def test_charts_are_well_formed(values: list[float]) -> None:
    points = [(2.0 + value / 50, value) for value in values]
    for chart in (
        draw_histogram([("a&b", values), ("c", [])]),
        draw_scatter([("a&b", points), ("c", [])]),
    ):
        svg = ET.fromstring(chart[chart.index("<svg") : chart.index("</svg>") + 6])
        assert "nan" not in chart
        assert svg.get("role") == "img"
        assert "a&amp;b" in chart


def test_labels_of_a_chart_do_not_overlap() -> None:
    chart = draw_histogram([("r", [30.0, 30.0, 30.0, 30.0, 40.0])])
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"', chart)
    beside = sorted(float(y) for x, y in labels if float(x) < 44)
    assert len(beside) == 6  # five ticks and the title
    assert min(b - a for a, b in pairwise(beside)) >= 15  # the height of a line of text


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [(1, [0, 1]), (3, [0, 1, 2, 3]), (5, [0, 2, 4, 6]), (11, [0, 3, 6, 9, 12])],
)
def test_counts_of_images_have_whole_ticks(highest: int, ticks: list[float]) -> None:
    assert lay_counts(highest, 206, 32).list_ticks() == ticks


def test_large_numbers_have_no_exponent() -> None:
    chart = draw_scatter([("r", [(2.0, 30.0), (5250.0, 40.0)])])  # the second point is a tiny image
    assert ">5,250<" in chart
    assert "e+" not in chart


def test_rates_far_apart_get_a_logarithmic_axis() -> None:
    chart = draw_scatter([("r", [(2.0, 30.0), (4.0, 30.0), (5250.0, 40.0)])])
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="2.5"', chart)]
    assert places == sorted(places)
    assert places[1] - places[0] > 20
    assert "bits per pixel (logarithmic)" in chart
    ticks = Axis(2.0, 162.0, 0, 100, is_log=True).list_ticks()
    assert ticks == pytest.approx([2, 6, 18, 54, 162])


def test_legend_names_drawn_series_only() -> None:
    chart = draw_scatter([("known", [(2.0, 30.0)]), ("unknown", [])])
    assert "</span> known" in chart
    assert "unknown" not in chart


def test_no_chart_without_values() -> None:
    assert draw_histogram([("a", [])]) == draw_scatter([("a", [])]) == ""

"""The page: figures, charts, and data that cannot break out of its HTML element."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from contextlib import nullcontext
from itertools import pairwise

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.report.charts import (
    Series,
    draw_histogram,
    draw_scatter,
    lay_axis,
    lay_log_axis,
)
from dinac_cli.report.columns import Making, Reconstruction
from dinac_cli.report.origin import PAGE_START, PageOrigin
from dinac_cli.report.page import Page, PageImage
from dinac_cli.report.report import MAX_PAGE_BYTES, refuse_large_page

ORIGIN = PageOrigin(("photos", "decoded"), "0" * 16)
MAKING = Making("nano", "bf16", "1", "ddim")


def make_image(
    name: str,
    *psnr_db: float | None,
    size: tuple[int, int] = (4, 3),
    record_bytes: int | None = 3,
    making: Making = MAKING,
) -> PageImage:
    image = PageImage(name, *size, "data:,", "data:,")
    for value in psnr_db:
        found = Reconstruction(value or 0.0, record_bytes, "data:,", "data:,", making)
        image.reconstructions.append(None if value is None else found)
    return image


def read_table(page: Page) -> list[list[str]]:
    """Returns the cells of each row of the table, without the headings."""
    body = re.findall("<tbody>(.*?)</tbody>", page.write().decode(), re.DOTALL)[0]
    rows = re.findall("<tr>(.*?)</tr>", body, re.DOTALL)
    return [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]


def read_facts(page: str) -> list[dict[str, object]]:
    import html

    found = re.findall(r'<script type="application/json" class="image" data-facts="(.*?)">', page)
    return [json.loads(html.unescape(text)) for text in found]


def test_figures_and_data() -> None:
    page = Page("Title", ["r1", "r2"], ORIGIN)
    page.add(make_image("a.png", 30.0, 40.0))
    page.add(make_image("b.png", 32.0, None))
    page.add(make_image("c.png", math.inf, 42.0))
    text = page.write().decode()
    assert text.encode().startswith(PAGE_START)
    one, two = read_table(page)
    assert one[:8] == ["r1", "nano", "bf16", "1", "ddim", "2.00", "31.00", "1.00"]
    assert one[-3:] == ["3", "1", "0"]  # images, identical, missing
    assert two[-3:] == ["2", "0", "1"]
    assert '<th rowspan="2" scope="col">missing</th>' in text
    assert [facts["psnr"] for facts in read_facts(text)] == [
        [30.0, 40.0],
        [32.0, "missing"],
        [None, 42.0],
    ]
    assert "{{" not in text


def test_bits_per_pixel_are_all_bits_over_all_pixels() -> None:
    page = Page("Title", ["r"], ORIGIN)
    page.add(make_image("large.png", 30.0, size=(100, 50), record_bytes=1250))
    page.add(make_image("tiny.png", 40.0, size=(1, 1), record_bytes=600))
    [row] = read_table(page)
    assert len(row) == 14  # without the empty columns "identical" and "missing"
    assert row[5] == "2.96"  # 8 * 1850 / 5001
    assert ">r: 2.96 bits per pixel, mean of 35.00 dB<" in page.write().decode()
    page.add(make_image("unknown.png", 30.0, record_bytes=None))
    assert read_table(page)[0][5] == "2.96 (2 of 3)"


def test_settings_that_differ_within_a_folder_are_mixed() -> None:
    page = Page("Title", ["r"], ORIGIN)
    page.add(make_image("a.png", 30.0))
    page.add(make_image("b.png", 30.0, making=MAKING._replace(steps="4", precision="")))
    assert read_table(page)[0][1:5] == ["nano", "mixed", "mixed", "ddim"]
    unknown = Page("Title", ["r"], ORIGIN)
    unknown.add(make_image("a.png", 30.0, record_bytes=None, making=Making()))
    assert read_table(unknown)[0][1:6] == ["-"] * 5


def test_names_are_never_markup_and_nothing_is_fetched() -> None:
    evil = '</script><img src=x onerror="alert(1)">\'&<!--'
    page = Page(evil, [evil], PageOrigin((evil, evil), "0"))
    page.add(make_image(evil, 30.0))
    text = page.write().decode()
    assert "<img src=x" not in text
    [facts] = read_facts(text)
    assert facts["name"] == evil
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert text.count("</script>") == 3  # the data, the image, the script


def draw_points(points: list[tuple[float, float]]) -> str:
    return draw_scatter([Series("r", points, points[0])])


def place_points(chart: str) -> list[tuple[float, float]]:
    """Returns the places of the points, without the centres, which are scaled."""
    found = re.findall(r'translate\(([\d.]+) ([\d.]+)\)"', chart)
    return [(float(x), float(y)) for x, y in found]


@pytest.mark.parametrize("values", [[30.0], [30.0, 30.0], [20.0, 25.0, 44.0], [0.0, 0.0]])
def test_charts_are_well_formed(values: list[float]) -> None:
    points = [(2.0 + value / 50, value) for value in values]
    for chart in (
        draw_histogram([("a&b", values), ("c", [])]),
        draw_scatter([Series("a&b", points, points[0]), Series("c", [], None)]),
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


@pytest.mark.parametrize("count", [1, 2, 6])
def test_bars_of_equal_series_lie_side_by_side(count: int) -> None:
    values = [20.2, 31.0, 31.1, 48.7]
    chart = draw_histogram([(f"r{number}", values) for number in range(count)])
    bars = re.findall(r'<rect class="mark" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart)
    spans = sorted((float(x), float(x) + float(width)) for x, width in bars)
    assert len(spans) == 3 * count
    assert all(right <= left + 0.2 for (_, right), (left, _) in pairwise(spans))


def test_every_value_is_in_a_bar() -> None:
    values = [0.1 * number for number in range(400)]
    chart = draw_histogram([("r", values)])
    assert sum(map(int, re.findall(r"<title>r: (\d+) from", chart))) == len(values)
    assert "<title>r: 20 from 2 to 4 dB</title>" in chart


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [(1, [0, 1]), (3, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4, 5]), (11, [0, 5, 10, 15])],
)
def test_counts_of_images_have_whole_ticks(highest: int, ticks: list[float]) -> None:
    assert lay_axis(0, highest, 206, 32, 1).ticks == ticks


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (22.31, 41.8, ["20", "25", "30", "35", "40", "45"]),
        (0.899, 3.28, ["0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5"]),
        (30.0001, 30.0002, ["30.000", "30.001"]),
        (30.0, 30.0, ["30", "31"]),
        (0.1, 0.3, ["0.10", "0.15", "0.20", "0.25", "0.30"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    axis = lay_axis(low, high, 0, 100)
    assert axis.labels == labels
    assert 0 <= axis.place(low) <= axis.place(high) <= 100


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2.0, 162.0, ["2", "5", "10", "20", "50", "100", "200"]),
        (0.09, 1.9, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (
            0.3,
            5250.0,
            ["", "", "1", "", "", "10", "", "", "100", "", "", "1,000", "", "", "10,000"],
        ),
    ],
)
def test_logarithmic_ticks_are_round_numbers(low: float, high: float, labels: list[str]) -> None:
    axis = lay_log_axis(low, high, 0, 100)
    assert axis.labels == labels
    assert 0 <= axis.place(low) <= axis.place(high) <= 100


def test_large_numbers_have_no_exponent() -> None:
    chart = draw_points([(2.0, 30.0), (5250.0, 40.0)])  # the second point is a tiny image
    assert ">10,000<" in chart
    assert "e+" not in chart


def test_rates_far_apart_get_a_logarithmic_axis() -> None:
    chart = draw_points([(2.0, 30.0), (4.0, 30.0), (5250.0, 40.0)])
    places = [x for x, _ in place_points(chart)]
    assert places == sorted(places)
    assert places[1] - places[0] > 20
    assert "bits per pixel (logarithmic)" in chart


def test_centre_outside_the_points_lies_in_the_chart() -> None:
    chart = draw_scatter([Series("r", [(2.0, 30.0), (3.0, 31.0)], (9.0, 30.5))])
    [(x, _)] = re.findall(r"translate\(([\d.]+) ([\d.]+)\) scale", chart)
    assert float(x) <= 440
    assert "<title>r: 9.00 bits per pixel, mean of 30.50 dB</title>" in chart


def test_legend_names_drawn_series_only() -> None:
    chart = draw_scatter([Series("known", [(2.0, 30.0)], (2.0, 30.0)), Series("unknown", [], None)])
    assert "</span> known" in chart
    assert "unknown" not in chart


def test_no_chart_without_values() -> None:
    assert draw_histogram([("a", [])]) == draw_scatter([Series("a", [], None)]) == ""


@pytest.mark.parametrize(
    ("size_bytes", "done", "total", "refused"),
    [
        (MAX_PAGE_BYTES, 1, 1, False),
        (MAX_PAGE_BYTES + 1, 1, 1, True),
        (MAX_PAGE_BYTES // 4, 15, 300, False),  # too few images to be sure
        (MAX_PAGE_BYTES // 4, 16, 300, True),
        (MAX_PAGE_BYTES // 20, 16, 300, False),
        (MAX_PAGE_BYTES // 16, 16, 300, False),  # 1.17 of the limit: it may still fit
    ],
)
def test_a_page_that_will_be_too_large_is_refused_early(
    size_bytes: int, done: int, total: int, refused: bool
) -> None:
    with pytest.raises(UsageError) if refused else nullcontext():
        refuse_large_page(size_bytes, done, total)

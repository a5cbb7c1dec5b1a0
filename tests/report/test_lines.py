"""The chart of lines: its values are also text, and its lines differ in more than colour."""

from __future__ import annotations

import re

from dinac_cli.report.charts import Line, draw_lines


def draw(*lines: Line, is_whole: bool = False) -> str:
    return draw_lines(lines, title="A title", across="steps", up="dB", is_whole=is_whole)


def test_values_are_text() -> None:
    chart = draw(Line("a<b", [(1, 30.0), (4, 31.256)]), Line("c", [(2, 29.0)]), Line("none", []))
    assert (
        "<desc>a&lt;b: 30.00 dB at 1 steps, 31.26 dB at 4 steps; c: 29.00 dB at 2 steps</desc>"
        in chart
    )
    assert "<title>a&lt;b: 4 steps, 31.26 dB</title>" in chart
    assert 'aria-label="A title"' in chart
    assert "a<b" not in chart


def test_lines_differ_without_colour() -> None:
    chart = draw(*(Line(str(number), [(1, number), (2, number)]) for number in range(6)))
    dashes = re.findall(r'stroke-dasharray="([^"]+)"', chart)
    marks = re.findall(r'<path class="mark" transform="[^"]+" d="([^"]+)"', chart)
    assert len(set(dashes)) == 6
    assert len(set(marks)) == 6
    assert len(marks) == 12


def test_points_lie_on_the_axes() -> None:
    chart = draw(Line("a", [(1, 30.0), (4, 31.0)]))
    [(left, bottom, right, top)] = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', chart)
    assert float(left) < float(right)
    assert float(bottom) > float(top)  # SVG counts down


def test_ticks_of_whole_numbers_are_whole() -> None:
    line = Line("a", [(1, 30.0), (2, 31.0)])
    labels = re.compile(r'<text x="[\d.]+" y="221" text-anchor="middle">([\d.]+)</text>')
    assert labels.findall(draw(line, is_whole=True)) == ["1", "2"]
    assert labels.findall(draw(line)) == ["1.0", "1.2", "1.4", "1.6", "1.8", "2.0"]


def test_a_wide_range_is_logarithmic() -> None:
    assert "steps (logarithmic)" in draw(Line("a", [(1, 30.0), (32, 31.0)]))


def test_without_points_there_is_no_chart() -> None:
    assert draw() == ""
    assert draw(Line("a", [])) == ""

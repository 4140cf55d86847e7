"""Charts: the numbers on them, and where a point lands, worked out by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from metarl.report.svg import Chart, heat_map, number, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.0, "0"), (3, "3"), (-308.46, "−308"), (0.4249, "0.425"), (12.34, "12.3"),
     (1234567, "1,234,567"), (0.00123, "0.00123"), (1e-7, "1e−07"), (2.0, "2"), (100, "100")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_signed_numbers():
    assert [number(v, signed=True) for v in (5, -5, 0)] == ["+5", "−5", "0"]


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-308, -85) == [-300, -250, -200, -150, -100]
    assert ticks(0.1, 0.9) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert ticks(3, 3) == [3]


def elements(html: str) -> ET.Element:
    return ET.fromstring(html)


def test_points_land_where_they_should():
    """x from 0 to 10 and y from 0 to 1, padded by 3 % and 5 %, in a box of 308 by 218 units."""
    chart = Chart("t", "x", "y")
    chart.points([0, 10], [0, 1], "after", titles=["low", "high"])
    circles = [e for e in elements(chart.html()).iter("circle") if e.get("cx") != "11"]
    assert [c.find("title").text for c in circles] == ["low", "high"]
    left, wide, bottom, tall = 62, 380 - 62 - 10, 270 - 42, 270 - 42 - 10
    assert float(circles[0].get("cx")) == pytest.approx(left + wide * 0.3 / 10.6, abs=0.06)
    assert float(circles[1].get("cx")) == pytest.approx(left + wide * 10.3 / 10.6, abs=0.06)
    assert float(circles[0].get("cy")) == pytest.approx(bottom - tall * 0.05 / 1.1, abs=0.06)
    assert float(circles[1].get("cy")) == pytest.approx(bottom - tall * 1.05 / 1.1, abs=0.06)


def test_a_logarithmic_axis_parts_few_episodes_from_many():
    """On log(1 + x), 0 → 1 takes as much room as 1 → 3."""
    chart = Chart("t", "x", "y", log=True)
    chart.line([0, 1, 3], [0, 0, 0], "after", "a")
    points = re.search(r'polyline[^>]*points="([^"]*)"', chart.html())[1].split()
    xs = [float(point.split(",")[0]) for point in points]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_text_is_escaped_and_the_drawing_is_xml():
    chart = Chart("<b>&", "x<", 'y"')
    chart.line([0, 1], [0, 1], "after", "<script>")
    chart.band([0, 1], [0, 0], [1, 2], "after")
    chart.rule(0.5, "still", "still & calm")
    chart.span(0, 1, "box")
    chart.stems([0], [0], [1], "after")
    root = elements(chart.html())
    assert root.find("figcaption").text == "<b>&"
    legend = ["".join(item.itertext()) for item in root.iter("li")]
    assert legend == ["<script>", "still & calm", "box"]


def test_one_value_and_nothing_at_all_can_be_drawn():
    chart = Chart("t", "x", "y")
    elements(chart.html())
    chart.points([2], [-7], "after")
    assert "nan" not in chart.html()
    elements(chart.html())


def test_a_heat_map_has_the_colour_of_the_nearest_task():
    """Two tasks, left and right: each half of the map is of one colour, the ends of the scale."""
    html = heat_map(
        "m", np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([-1.0, 1.0]), ("x", "y", "v"),
        diverging=True, limits=(-1.0, 1.0), cells=4,
    )  # fmt: skip
    cells = [
        (float(e.get("x")), float(e.get("width")), e.get("fill"))
        for e in elements(html).iter("rect")
    ][:8]
    wide = (380 - 46 - 62 - 10) / 2
    for left, right in zip(cells[::2], cells[1::2], strict=True):
        assert (left[2], right[2]) == ("#b2182b", "#2166ac")
        assert left[0] == 62
        assert right[0] == pytest.approx(62 + wide, abs=0.06)
        assert left[1] == pytest.approx(wide + 0.4, abs=0.06)

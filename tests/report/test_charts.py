from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from soloist.report.charts import bar_chart_svg, histogram_svg, line_chart_svg

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter(f"{SVG}text")]


def points(svg: str, tag: str) -> list[list[tuple[float, float]]]:
    lines = []
    for element in parse(svg).iter(f"{SVG}{tag}"):
        pairs = [pair.split(",") for pair in element.attrib["points"].split()]
        lines.append([(float(x), float(y)) for x, y in pairs])
    return lines


def test_a_line_rises_with_its_values() -> None:
    svg = line_chart_svg({"a": [(0, 0.0), (1, 1.0), (2, 3.0)]}, "Title", "step", "loss")
    ((first, second, third),) = points(svg, "polyline")
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.11)
    assert third[1] < second[1] < first[1]
    assert first[1] - third[1] == pytest.approx(3 * (first[1] - second[1]), abs=0.3)
    assert {"Title", "step", "loss"} <= set(texts(svg))


def test_several_lines_have_a_legend_and_their_own_colour() -> None:
    svg = line_chart_svg({"one": [(0, 0), (1, 1)], "two": [(0, 1), (1, 0)]}, "T", "x", "y")
    assert {"one", "two"} <= set(texts(svg))
    strokes = re.findall(r'stroke="(var\(--series-\d)', svg)
    assert strokes == ["var(--series-1", "var(--series-2"]
    shifted = line_chart_svg({"one": [(0, 0), (1, 1)]}, "T", "x", "y", first_color=1)
    assert 'stroke="var(--series-2' in shifted
    assert "one" not in texts(line_chart_svg({"one": [(0, 0), (1, 1)]}, "T", "x", "y"))


def test_the_axis_may_begin_at_zero() -> None:
    near = {"a": [(0.0, 950.0), (1.0, 951.0)]}
    ((first, last),) = points(line_chart_svg(near, "T", "step", "MB"), "polyline")
    assert first[1] - last[1] > 100
    svg = line_chart_svg(near, "T", "step", "MB", from_zero=True)
    ((first, last),) = points(svg, "polyline")
    # A thousandth of the height.
    assert first[1] - last[1] < 1
    assert "1000" in texts(svg)


def test_points_that_are_not_finite_are_left_out() -> None:
    line = [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]
    assert len(points(line_chart_svg({"a": line}, "T", "x", "y"), "polyline")[0]) == 2


def test_a_single_point_is_a_dot() -> None:
    svg = line_chart_svg({"a": [(5.0, 2.0)]}, "T", "x", "y")
    assert len(list(parse(svg).iter(f"{SVG}circle"))) == 1


def test_a_long_line_is_averaged() -> None:
    line = [(float(x), float(x % 2)) for x in range(600)]
    (drawn,) = points(line_chart_svg({"a": line}, "T", "x", "y"), "polyline")
    assert len(drawn) == 300
    assert len({y for _, y in drawn}) == 1


def test_bars_are_as_high_as_their_values() -> None:
    svg = bar_chart_svg({"AP": {"a": 5.0, "b": 10.0}, "AR": {"a": None, "b": 20.0}}, "T", "percent")
    bars = [bar for bar in parse(svg).iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [bar.findtext(f"{SVG}title") for bar in bars] == [
        "a, AP: 5.0",
        "b, AP: 10.0",
        "b, AR: 20.0",
    ]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[2] == pytest.approx(4 * heights[0], abs=0.3)
    assert {"5.0", "10.0", "20.0", "AP", "AR", "a", "b"} <= set(texts(svg))


def test_histogram_counts_and_keeps_outliers() -> None:
    svg = histogram_svg({"a": [-1.0, 0.1, 0.6, 0.7, 1.0, 2.0, math.nan]}, "T", "x", "n", bins=2)
    (outline,) = points(svg, "polygon")
    base = outline[0][1]
    assert (base - outline[3][1]) == pytest.approx(2 * (base - outline[1][1]), abs=0.2)
    assert outline[1][1] < base


@pytest.mark.parametrize(
    "svg",
    [
        pytest.param(line_chart_svg({}, "T", "x", "y"), id="line"),
        pytest.param(line_chart_svg({"a": [(0, math.nan)]}, "T", "x", "y"), id="line-not-finite"),
        pytest.param(bar_chart_svg({"g": {"a": None}}, "T", "y"), id="bars"),
        pytest.param(histogram_svg({"a": []}, "T", "x", "y"), id="histogram"),
    ],
)
def test_no_data_is_said(svg: str) -> None:
    assert texts(svg) == ["T", "no data"]


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-7, 1e9], ids=str)
def test_equal_values_make_a_chart(value: float) -> None:
    ((first, second),) = points(
        line_chart_svg({"a": [(0, value), (1, value)]}, "T", "x", "y"), "polyline"
    )
    assert first[1] == second[1]
    assert 0 < first[1] < 320


def test_all_text_is_escaped_and_the_chart_named() -> None:
    hostile = "<b>&\"'"
    for svg in (
        line_chart_svg({hostile: [(0, 1), (1, 2)], "b": [(0, 1)]}, hostile, hostile, hostile),
        bar_chart_svg({hostile: {hostile: 1.0}}, hostile, hostile),
        histogram_svg({hostile: [0.5], "b": [0.2]}, hostile, hostile, hostile),
    ):
        root = parse(svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == root.findtext(f"{SVG}title") == hostile
        assert texts(svg).count(hostile) >= 3
        assert list(root.iter(f"{SVG}b")) == []

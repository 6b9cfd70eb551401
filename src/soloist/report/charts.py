"""Charts as SVG text, for pages that may load nothing.

Text and axes take the surrounding text's colour (`currentColor`); a page sets the colours of the
series by the CSS variables `--series-1` to `--series-6`, for instance other ones in dark mode.
Names that come from outside are escaped where they enter; charts are `Markup` to the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#b5569b", "#b07d00", "#4a9fd0")
"""Okabe and Ito's colours, some darkened so that thin lines show on white."""

_MAX_POINTS = 300  # Of a line; longer ones are averaged, which also calms noisy curves.
_CHARACTER = 6.3  # Mean width of a character of 11 pixels, for what must fit beside it.


@dataclass(frozen=True)
class _Frame:
    """Where a chart's data lies on the page, and how numbers become pixels."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float
    top: float
    right: float
    bottom: float

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def line_chart_svg(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    first_color: int = 0,
    from_zero: bool = False,
    width: int = 640,
    height: int = 320,
) -> Markup:
    """Lines through (x, y) points, one per series.

    A series of many points is averaged over equal stretches of x. Points that are not finite
    are left out.

    Args:
        series: Points by the series' name, x ascending.
        title: Heading, also read aloud.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        first_color: Colour of the first series, so that what another chart shows too keeps its.
        from_zero: Begin the axis of y at 0 and not at the least value.
        width: In CSS pixels.
        height: In CSS pixels.

    Returns:
        One `<svg>` element.
    """
    lines = {name: _calmed(_finite(points)) for name, points in series.items()}
    points = [point for line in lines.values() for point in line]
    if not points:
        return _svg(title, width, height, [_heading(title), _no_data(width, height)])
    x_range = _spread(min(x for x, _ in points), max(x for x, _ in points))
    lowest = 0.0 if from_zero else min(y for _, y in points)
    y_ticks = _ticks(lowest, max(y for _, y in points), 5)
    frame = _frame(width, height, x_range, y_ticks, legend=len(lines) > 1)
    body = [_heading(title), *_axes(frame, x_label, y_label, y_ticks)]
    body += _x_ticks(frame, [t for t in _ticks(*x_range, 6) if x_range[0] <= t <= x_range[1]])
    for index, line in enumerate(lines.values(), start=first_color):
        if len(line) == 1:
            x, y = line[0]
            body.append(
                f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" '
                f'fill="{_color(index)}"/>'
            )
            continue
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{_color(index)}" '
            'stroke-width="2" stroke-linejoin="round"/>'
        )
    body += _legend(frame, lines, first_color) if len(lines) > 1 else []
    return _svg(title, width, height, body)


def bar_chart_svg(
    groups: Mapping[str, Mapping[str, float | None]],
    title: str,
    y_label: str,
    *,
    width: int = 640,
    height: int = 320,
) -> Markup:
    """Grouped bars with their value on top: with stages as series, a staircase per metric.

    Args:
        groups: Values, at least 0, by the group's and the series' name; a value that is None or
            not finite leaves its place empty. A series has its place in every group.
        title: Heading, also read aloud.
        y_label: What the values are, with their unit.
        width: In CSS pixels.
        height: In CSS pixels.

    Returns:
        One `<svg>` element.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    known = [
        value
        for values in groups.values()
        for value in values.values()
        if value is not None and math.isfinite(value)
    ]
    if not known:
        return _svg(title, width, height, [_heading(title), _no_data(width, height)])
    y_ticks = _ticks(0.0, max(known), 5)
    frame = _frame(width, height, (0.0, float(len(groups))), y_ticks, legend=True, x_named=False)
    body = [_heading(title), *_axes(frame, "", y_label, y_ticks)]
    slot = 0.76 / len(names)
    for place, (group, values) in enumerate(groups.items()):
        middle = frame.x(place + 0.5)
        body.append(_text(middle, frame.bottom + 18, group, anchor="middle", weight=600))
        for index, name in enumerate(names):
            value = values.get(name)
            if value is None or not math.isfinite(value):
                continue
            left, right = (frame.x(place + 0.12 + slot * (index + edge)) for edge in (0.06, 0.94))
            top = frame.y(value)
            body.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{frame.bottom - top:.1f}" rx="2" fill="{_color(index)}">'
                f"<title>{escape(f'{name}, {group}: {value:.1f}')}</title></rect>"
            )
            body.append(_text((left + right) / 2, top - 5, f"{value:.1f}", anchor="middle"))
    body += _legend(frame, names)
    return _svg(title, width, height, body)


def histogram_svg(
    values: Mapping[str, Sequence[float]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    bins: int = 20,
    value_range: tuple[float, float] = (0.0, 1.0),
    width: int = 640,
    height: int = 320,
) -> Markup:
    """Counts of values in equal bins, one stepped line per series.

    Args:
        values: Numbers by the series' name; those outside the range count in the outer bins.
        title: Heading, also read aloud.
        x_label: What the values are, with their unit.
        y_label: What is counted.
        bins: How many, at least 1.
        value_range: Where the first bin begins and the last one ends.
        width: In CSS pixels.
        height: In CSS pixels.

    Returns:
        One `<svg>` element.
    """
    counts = {name: _binned(numbers, bins, value_range) for name, numbers in values.items()}
    highest = max((max(count) for count in counts.values()), default=0)
    if highest == 0:
        return _svg(title, width, height, [_heading(title), _no_data(width, height)])
    y_ticks = [tick for tick in _ticks(0.0, highest, 5) if tick == int(tick)]
    frame = _frame(width, height, value_range, y_ticks, legend=len(counts) > 1)
    body = [_heading(title), *_axes(frame, x_label, y_label, y_ticks)]
    body += _x_ticks(frame, _ticks(*value_range, 6))
    low, high = value_range
    edges = [low + (high - low) * index / bins for index in range(bins + 1)]
    for index, count in enumerate(counts.values()):
        corners = [(edges[0], 0)]
        for bin_index, number in enumerate(count):
            corners += [(edges[bin_index], number), (edges[bin_index + 1], number)]
        corners.append((edges[-1], 0))
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in corners)
        body.append(
            f'<polygon points="{path}" fill="{_color(index)}" fill-opacity="0.14" '
            f'stroke="{_color(index)}" stroke-width="1.8" stroke-linejoin="round"/>'
        )
    body += _legend(frame, counts) if len(counts) > 1 else []
    return _svg(title, width, height, body)


def _svg(title: str, width: int, height: int, body: Iterable[str]) -> Markup:
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-size="11" font-family="inherit" '
        'fill="currentColor" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _heading(title: str) -> str:
    return _text(0, 14, title, size=13, weight=600)


def _no_data(width: int, height: int) -> str:
    return _text(width / 2, height / 2, "no data", anchor="middle", opacity=0.6)


def _frame(
    width: int,
    height: int,
    x_range: tuple[float, float],
    y_ticks: Sequence[float],
    *,
    legend: bool,
    x_named: bool = True,
) -> _Frame:
    """Leaves room for the heading, the legend, the longest tick and the axes' names."""
    longest = max(len(_number(tick)) for tick in y_ticks)
    return _Frame(
        width=width,
        height=height,
        x_range=x_range,
        y_range=_spread(y_ticks[0], y_ticks[-1]),
        left=26 + _CHARACTER * longest,
        top=64.0 if legend else 40.0,
        right=width - 20.0,
        bottom=height - (44.0 if x_named else 26.0),
    )


def _axes(frame: _Frame, x_label: str, y_label: str, y_ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in y_ticks:
        y = frame.y(tick)
        opacity = 0.5 if tick == y_ticks[0] else 0.13
        parts.append(
            f'<line x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity="{opacity}"/>'
        )
        parts.append(_text(frame.left - 6, y + 4, _number(tick), anchor="end", opacity=0.75))
    middle = (frame.left + frame.right) / 2
    parts.append(_text(middle, frame.height - 6, x_label, anchor="middle", opacity=0.75))
    height = (frame.top + frame.bottom) / 2
    parts.append(
        f'<g transform="translate(12 {height:.1f}) rotate(-90)">'
        f"{_text(0, 0, y_label, anchor='middle', opacity=0.75)}</g>"
    )
    return parts


def _x_ticks(frame: _Frame, ticks: Iterable[float]) -> list[str]:
    return [
        _text(frame.x(tick), frame.bottom + 18, _number(tick), anchor="middle", opacity=0.75)
        for tick in ticks
    ]


def _legend(frame: _Frame, names: Iterable[str], first_color: int = 0) -> list[str]:
    parts = []
    x = frame.left
    for index, name in enumerate(names, start=first_color):
        parts.append(
            f'<rect x="{x:.1f}" y="31" width="12" height="12" rx="2" fill="{_color(index)}"/>'
        )
        parts.append(_text(x + 17, 41, name))
        x += 17 + _CHARACTER * len(name) + 18
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    opacity: float = 1.0,
) -> str:
    if not text:
        return ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill-opacity="{opacity}">{escape(text)}</text>'
    )


def _color(index: int) -> str:
    place = index % len(_SERIES_COLORS)
    return f"var(--series-{place + 1}, {_SERIES_COLORS[place]})"


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _calmed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 300 points: means of neighbours."""
    stride = -(-len(points) // _MAX_POINTS)
    if stride <= 1:
        return points
    chunks = [points[first : first + stride] for first in range(0, len(points), stride)]
    return [
        (sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk))
        for chunk in chunks
    ]


def _binned(numbers: Iterable[float], bins: int, value_range: tuple[float, float]) -> list[int]:
    low, high = value_range
    counts = [0] * bins
    for number in numbers:
        if math.isfinite(number):
            place = int((number - low) / (high - low) * bins)
            counts[min(max(place, 0), bins - 1)] += 1
    return counts


def _spread(low: float, high: float) -> tuple[float, float]:
    """A range that is never empty."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) around a range."""
    low, high = _spread(low, high)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _number(value: float) -> str:
    """As short as it can be written: `12k`, `0.25`, `3e-05`."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"

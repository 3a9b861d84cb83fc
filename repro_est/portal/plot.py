"""Plots as inline SVG: lines and bars, with ticks, and nothing that a browser must fetch or run.

Pure: a plot is a function of its numbers. Colours are those of the page (`page.css`), so that they fit light, dark
and paper. A line is drawn on a logarithmic scale when all of it is above 0 and spans more than three decades.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from repro_est.portal.markup import EMPTY, Markup, element, joined
from repro_est.portal.series import Point, Series, Trace, trace

WIDTH, HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 34
COLUMNS = WIDTH - _LEFT - _RIGHT
COLOURS = 8
"""How many lines have a colour of their own."""
_LOG_DECADES = 3.0
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Scale(NamedTuple):
    """One axis.

    Args:
        place: where a number is, from 0 to 1.
        ticks: numbers that are written at it.
    """

    place: Callable[[float], float]
    ticks: Sequence[float]


def line_plot(series: Sequence[Series], *, across: str, note: str = "") -> Markup:
    """Returns a plot of one or several series.

    Args:
        across: what the steps are, `step`.
        note: what a reader who sees no picture is told.
    """
    traces = [trace(item, COLUMNS) for item in series]
    points = [point for item in traces for point in item.points()]
    if not points:
        return EMPTY
    odd = [point for item in traces for point in item.odd]
    xs, ys = [x for x, _ in points] + [x for x, _ in odd], [y for _, y in points]
    x_scale, y_scale = linear(min(xs), max(xs)), scale_of(ys)

    def at(point: Point) -> Point:
        return _LEFT + x_scale.place(point[0]) * COLUMNS, _down(y_scale.place(point[1]))

    drawn = [_line(item, number, at) for number, item in enumerate(traces)]
    return _picture([*_axes(x_scale, y_scale, across), *drawn, _odd(odd, x_scale)], note)


def bar_plot(edges: Sequence[float], counts: Sequence[float], *, across: str, note: str = "") -> Markup:
    """Returns a histogram; there is one edge more than counts."""
    x_scale, y_scale = linear(edges[0], edges[-1]), linear(min(0.0, *counts), max(0.0, *counts))
    floor = _down(y_scale.place(0.0))
    bars = []
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        start, end = (_LEFT + x_scale.place(edge) * COLUMNS for edge in (left, right))
        top = _down(y_scale.place(count))
        y, height = min(top, floor), abs(top - floor)
        bars.append(
            element("rect.bar", x=_digits(start), y=_digits(y), width=_digits(end - start), height=_digits(height))
        )
    return _picture([*_axes(x_scale, y_scale, across), *bars], note)


def spark(series: Series) -> Markup:
    """Returns a line without axes, as small as a word."""
    width, height = 120, 28
    item = trace(series, width)
    points = item.points()
    if len(points) < 2:
        return EMPTY
    x_scale = linear(min(x for x, _ in points), max(x for x, _ in points))
    y_scale = scale_of([y for _, y in points])

    def at(point: Point) -> Point:
        return 2 + x_scale.place(point[0]) * (width - 4), 2 + (1 - y_scale.place(point[1])) * (height - 4)

    return element(
        "svg.spark",
        _line(item, 0, at),
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


_LARGEST = sys.float_info.max


def scale_of(values: Sequence[float]) -> Scale:
    """Returns the scale that shows the values best."""
    low, high = min(values), max(values)
    if low > 0 and math.log10(high) - math.log10(low) > _LOG_DECADES:
        return logarithmic(low, high)
    return linear(low, high)


def linear(low: float, high: float) -> Scale:
    """Returns an even scale from `low` to `high`; a single number gets room around it."""
    if not high / 2 - low / 2:
        room = abs(low) / 10 or 1.0
        low, high = max(low - room, -_LARGEST), min(high + room, _LARGEST)
    span = high / 2 - low / 2  # of half of everything, which cannot overflow

    def place(value: float) -> float:
        return (value / 2 - low / 2) / span

    return Scale(place, _even_ticks(low, high, span))


def logarithmic(low: float, high: float) -> Scale:
    """Returns a scale of powers of ten, for numbers above 0."""
    start, end = math.log10(low), math.log10(high)
    decades = range(math.ceil(start), math.floor(end) + 1)
    every = max(1, math.ceil(len(decades) / 6))
    return Scale(
        lambda value: (math.log10(value) - start) / (end - start),
        [float(f"1e{decade}") for decade in decades if decade % every == 0],
    )


def tick(value: float) -> str:
    """Returns a number as it is written at an axis: `0.25`, `12k`, `1e-05`."""
    for unit, name in _UNITS:
        if unit <= abs(value) < unit * 1000:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def legend(names: Sequence[str]) -> Markup:
    """Returns which colour is which line; nothing for one line."""
    if len(names) < 2:
        return EMPTY
    items = [element("li", element(f"i.c{number % COLOURS}"), name, class_="key") for number, name in enumerate(names)]
    return element("ul.legend", *items)


def _even_ticks(low: float, high: float, half: float) -> list[float]:
    rough = half / 2.5  # a fifth of the span
    power = 10.0 ** math.floor(math.log10(rough)) if rough else 0.0
    if not power:  # numbers so close that they are one
        return [low]
    unit = next((unit for unit in (1.0, 2.0, 2.5, 5.0) if unit * power >= rough * 0.999), 10.0)
    step = unit * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first > 20:  # the step is lost beside numbers so large
        return [low, high]
    return [count * step for count in range(first, last + 1)]


def _axes(x_scale: Scale, y_scale: Scale, across: str) -> list[Markup]:
    parts: list[Markup] = []
    for value in y_scale.ticks:
        y = _digits(_down(y_scale.place(value)))
        parts.append(element("path.grid", d=f"M{_LEFT} {y}H{WIDTH - _RIGHT}"))
        parts.append(element("text.y", tick(value), x=_LEFT - 6, y=y, dy="0.35em"))
    floor = HEIGHT - _BOTTOM
    for value in x_scale.ticks:
        x = _digits(_LEFT + x_scale.place(value) * COLUMNS)
        parts.append(element("path.axis", d=f"M{x} {floor}v4"))
        parts.append(element("text.x", tick(value), x=x, y=floor + 16))
    parts.append(element("path.axis", d=f"M{_LEFT} {floor}H{WIDTH - _RIGHT}"))
    parts.append(element("text.across", across, x=WIDTH - _RIGHT, y=HEIGHT - 3))
    return parts


def _line(item: Trace, number: int, at: Callable[[Point], Point]) -> Markup:
    path = "".join(_path([at(point) for point in piece]) for piece in item.pieces)
    return element(f"path.line.c{number % COLOURS}", d=path)


def _path(points: Sequence[Point]) -> str:
    """A polyline; a single point is a line of no length, which round ends make a dot."""
    words = " ".join(f"{_digits(x)} {_digits(y)}" for x, y in points)
    return f"M{words}h0" if len(points) == 1 else f"M{words}"


def _odd(points: Iterable[Point], x_scale: Scale) -> Markup:
    """Marks of what is no number: NaN and minus infinity at the floor, infinity at the top."""
    marks = []
    for step, value in points:
        x = _digits(_LEFT + x_scale.place(step) * COLUMNS)
        marks.append(f"M{x} {_TOP}v7" if value == math.inf else f"M{x} {HEIGHT - _BOTTOM}v-7")
    return element("path.odd", d="".join(marks)) if marks else EMPTY


def _down(place: float) -> float:
    return _TOP + (1 - place) * (HEIGHT - _TOP - _BOTTOM)


def _picture(parts: Sequence[Markup], note: str) -> Markup:
    return element("svg.plot", joined(parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=note or None)


def _digits(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

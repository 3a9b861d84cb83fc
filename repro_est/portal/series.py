"""Series of numbers: as they were logged, and thinned to what a plot of some width can show.

Thinning keeps, of every column of pixels, the first, the smallest, the largest and the last number, so that a line
drawn of what is left is the line of all of it: no spike is lost. NaN and the infinities are no points: they part the
line, and where they are is kept beside it. A million points take a fraction of a second.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers under one name.

    Args:
        steps: one for each value, never decreasing.
        values: NaN and infinities allowed.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]

    @classmethod
    def of(cls, name: str, steps: Sequence[float], values: Sequence[float]) -> Series:
        """Returns a series of numbers that may come in any order of steps; what shares a step keeps its order."""
        if not all(map(operator.le, steps, islice(steps, 1, None))):
            order = sorted(range(len(steps)), key=steps.__getitem__)
            steps, values = [steps[place] for place in order], [values[place] for place in order]
        return cls(name, steps, values)


@dataclass(frozen=True, slots=True)
class Trace:
    """What is drawn of a series.

    Args:
        pieces: runs of points that a line joins.
        odd: the steps of what is no number, with it.
    """

    name: str
    pieces: Sequence[Sequence[Point]]
    odd: Sequence[Point] = field(default_factory=tuple)

    def points(self) -> list[Point]:
        return [point for piece in self.pieces for point in piece]


def trace(series: Series, columns: int) -> Trace:
    """Returns what is to be drawn of a series on so many columns of pixels."""
    steps, values = series.steps, series.values
    if len(values) <= 2 * columns:
        return _parted(series.name, list(zip(steps, values, strict=True)))
    low, width = steps[0], (steps[-1] - steps[0]) / columns
    points: list[Point] = []
    odd: list[Point] = []
    start = 0
    for column in range(1, columns + 1):
        edge = len(steps) if column == columns else bisect_right(steps, low + width * column)
        if edge == start:
            continue
        chunk, at = values[start:edge], steps[start:edge]
        start = edge
        if not math.isfinite(sum(chunk)):  # may be a sum that is too large, which costs only time
            odd += [(step, value) for step, value in zip(at, chunk, strict=True) if not math.isfinite(value)][:1]
            kept = [(step, value) for step, value in zip(at, chunk, strict=True) if math.isfinite(value)]
            if not kept:
                points.append((at[0], math.nan))
                continue
            at, chunk = [step for step, _ in kept], [value for _, value in kept]
        places = {0, chunk.index(min(chunk)), chunk.index(max(chunk)), len(chunk) - 1}
        points += [(at[place], chunk[place]) for place in sorted(places)]
    parted = _parted(series.name, points)
    return Trace(series.name, parted.pieces, odd)


def _parted(name: str, points: Sequence[Point]) -> Trace:
    pieces: list[list[Point]] = [[]]
    odd: list[Point] = []
    for step, value in points:
        if math.isfinite(value):
            pieces[-1].append((step, value))
        else:
            odd.append((step, value))
            if pieces[-1]:
                pieces.append([])
    return Trace(name, [piece for piece in pieces if piece], odd)

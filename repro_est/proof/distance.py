"""How far two files are from each other: the first place that differs, and the largest error.

Bytes are compared for every file. What holds numbers is read as such too, by the ending of its name: `.npy` and `.npz`
(`proof.arrays`), `.json` and `.csv` (`proof.documents`). Nothing here decides anything but whether each number is
within its tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro_est.recipe.reproducible import EXACT, Tolerance

_CHUNK = 1 << 20
Place = tuple[str | int, ...]
"""Where a value stands: keys and indices, the outermost first."""
Allowed = Callable[[Place], Tolerance]
"""Gives the tolerance of the number at a place."""


class Unreadable(Exception):
    """A file is not what the ending of its name says, or is too odd to be read; its bytes are all there is to say."""


@dataclass(frozen=True, slots=True)
class Element:
    """A value that is not what it was, in words."""

    place: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Distance:
    """What two files with numbers in them have in common, and what not.

    Args:
        compared: numbers and other values that were held against each other.
        differing: those that are not equal.
        outside: those that are not within their tolerance; what is no number has none.
        first: the first that is not equal; `first_outside` the first beyond its tolerance.
        relative, absolute: the largest errors; infinite where a number should be 0, or is none.
    """

    compared: int
    differing: int
    outside: int
    first: Element | None
    first_outside: Element | None
    relative: float
    absolute: float


class Tally:
    """Counts what differs between two files.

    Args:
        allowed: the tolerance of each number.
    """

    def __init__(self, allowed: Allowed = lambda place: EXACT) -> None:
        self._allowed = allowed
        self._compared = self._differing = self._outside = 0
        self._first: Element | None = None
        self._first_outside: Element | None = None
        self._relative = self._absolute = 0.0

    def same(self, count: int) -> None:
        """So many values are the same, bit for bit."""
        self._compared += count

    def number(self, place: Place, expected: float, got: float) -> None:
        self._compared += 1
        if expected == got or (math.isnan(expected) and math.isnan(got)):
            return
        error = abs(got - expected)
        error = math.inf if math.isnan(error) else error
        self._absolute = max(self._absolute, error)
        self._relative = max(
            self._relative, error / abs(expected) if expected and math.isfinite(expected) else math.inf
        )
        self._differs(place, expected, got, outside=not self._allowed(place).allows(expected, got))

    def numbers(self, expected: Sequence[float], got: Sequence[float], place: Callable[[int], Place]) -> None:
        """As `number` for each pair, with one tolerance for all and a place only where it is told: arrays are long.

        Args:
            place: of a pair, by its number.
        """
        allowed = self._allowed(place(0))
        rtol, atol, infinite = allowed.rtol, allowed.atol, math.inf
        for at, (mine, theirs) in enumerate(zip(expected, got, strict=True)):
            if mine == theirs:
                continue
            error, size = abs(theirs - mine), abs(mine)
            limit = atol + rtol * size
            near = error <= limit
            told = self._first is not None and (near or self._first_outside is not None)
            if not told or not error < infinite or not limit < infinite:
                self._compared -= 1  # `number` counts it, and looks closer
                self.number(place(at), mine, theirs)
                continue
            self._differing += 1
            self._outside += not near
            if error > self._absolute:
                self._absolute = error
            if error > self._relative * size:
                self._relative = error / size if size else infinite
        self._compared += len(expected)

    def other(self, place: Place, expected: object, got: object) -> None:
        """Notes values of which one at least is no number, or that stand where the other file has nothing."""
        self._compared += 1
        if expected != got or type(expected) is not type(got):
            self._differs(place, expected, got, outside=True)

    def distance(self) -> Distance:
        return Distance(
            self._compared,
            self._differing,
            self._outside,
            self._first,
            self._first_outside,
            self._relative,
            self._absolute,
        )

    def _differs(self, place: Place, expected: object, got: object, *, outside: bool) -> None:
        self._differing += 1
        self._outside += outside
        if self._first is None or (outside and self._first_outside is None):
            element = Element(_shown_place(place), _shown(expected), _shown(got))
            self._first = self._first or element
            if outside and self._first_outside is None:
                self._first_outside = element


class Absent:
    """Stands for a value that one of the files does not have."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = Absent()


def first_offset(expected: Path, got: Path) -> int | None:
    """Returns the offset of the first byte that differs, None when no byte does; a file that ends is the difference."""
    offset = 0
    with open(expected, "rb") as one, open(got, "rb") as two:
        while True:
            mine, theirs = one.read(_CHUNK), two.read(_CHUNK)
            if mine == theirs:
                if not mine:
                    return None
                offset += len(mine)
                continue
            length = min(len(mine), len(theirs))
            return offset + next((at for at in range(length) if mine[at] != theirs[at]), length)


def distance(name: str, expected: Path, got: Path, allowed: Allowed) -> Distance | None:
    """Returns how far the numbers of two files are apart; None for a file of which only bytes can be compared.

    Args:
        name: its ending says what the files are.
    """
    from repro_est.proof.arrays import compare_archives, compare_arrays
    from repro_est.proof.documents import compare_json, compare_tables

    readers = {".npy": compare_arrays, ".npz": compare_archives, ".json": compare_json, ".csv": compare_tables}
    compare = readers.get(Path(name).suffix.lower())
    if compare is None:
        return None
    tally = Tally(allowed)
    try:
        compare(expected, got, tally)
    except (Unreadable, OSError):
        return None
    return tally.distance()


def _shown_place(place: Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

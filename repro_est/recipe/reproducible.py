"""`[reproducible]`: what a recipe promises of executing it again, and how near is near enough.

    [reproducible]
    class = "tolerance"                       bitwise (the default): every byte; tolerance; none: no promise
    metrics = {accuracy = 0.01}               a number is absolute, or a table {rtol = ..., atol = ...}
    files = {"outputs/w.npy" = {rtol = 1e-6}} paths or globs; every number in them
    ignore = ["outputs/*.log"]                outputs that are not looked at; `metrics/NAME` is a metric

A value is near enough when |got - expected| <= atol + rtol * |expected|, as NumPy has it. Under `tolerance`, what no
line speaks of has to be the same. All of it is recorded and never hashed: it changes no result.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Determinism(StrEnum):
    """What executing a plan again may be expected to give."""

    BITWISE = "bitwise"
    TOLERANCE = "tolerance"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number may be from what it was.

    Args:
        rtol: a share of the expected value.
        atol: on top of that, in the unit of the value.
    """

    rtol: float = 0.0
    atol: float = 0.0

    def allows(self, expected: float, got: float) -> bool:
        """Whether `got` is near enough; NaN is near NaN only, an infinity only near itself."""
        if expected == got or (math.isnan(expected) and math.isnan(got)):
            return True
        if not (math.isfinite(expected) and math.isfinite(got)):
            return False
        return abs(got - expected) <= self.atol + self.rtol * abs(expected)

    def to_json(self) -> dict[str, float]:
        return {"rtol": self.rtol, "atol": self.atol}

    def __str__(self) -> str:
        parts = [f"{name} {value:g}" for name, value in self.to_json().items() if value]
        return ", ".join(parts) or "equal"

    @classmethod
    def read(cls, value: object) -> Tolerance:
        """Reads what a recipe says: a number, which is absolute, or a table.

        Raises:
            ValueError: it is neither; says what was expected.
        """
        if _is_size(value):
            return cls(atol=float(value))  # type: ignore[arg-type]
        if not isinstance(value, Mapping) or not value or not value.keys() <= {"rtol", "atol"}:
            raise ValueError("expected a number, or a table with rtol and atol")
        if not all(map(_is_size, value.values())):
            raise ValueError("expected numbers of 0 or more")
        return cls(**{name: float(size) for name, size in value.items()})


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


EXACT = Tolerance()
"""No distance at all."""


@dataclass(frozen=True, slots=True)
class Reproducible:
    """A recipe's promise.

    Args:
        kind: its class.
        metrics: tolerance by name of the metric.
        files: tolerance by path or glob below the work directory.
        ignore: paths or globs of outputs that are not looked at.
    """

    kind: Determinism = Determinism.BITWISE
    metrics: tuple[tuple[str, Tolerance], ...] = ()
    files: tuple[tuple[str, Tolerance], ...] = ()
    ignore: tuple[str, ...] = ()

    def is_ignored(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.ignore)

    def of_file(self, path: str) -> Tolerance | None:
        """Returns the tolerance of a file, that of the first line that names it; None when none does."""
        return next((allowed for pattern, allowed in self.files if fnmatch.fnmatchcase(path, pattern)), None)

    def of_metric(self, name: str) -> Tolerance:
        return dict(self.metrics).get(name, EXACT)

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.kind.value,
            "metrics": {name: allowed.to_json() for name, allowed in self.metrics},
            "files": [[pattern, allowed.to_json()] for pattern, allowed in self.files],
            "ignore": list(self.ignore),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Reproducible:
        """Raises KeyError, TypeError or ValueError when it is no such promise."""
        return cls(
            Determinism(content["class"]),
            tuple((name, Tolerance.read(value)) for name, value in dict(content["metrics"]).items()),
            tuple((pattern, Tolerance.read(value)) for pattern, value in content["files"]),
            tuple(content["ignore"]),
        )


UNSAID = Reproducible()
"""What a recipe promises that says nothing: every byte."""

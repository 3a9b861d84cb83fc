"""JSON and CSV, compared value by value: numbers as numbers, all else as it is written.

In JSON the order of keys does not count, nor how a number is spelled. In CSV a cell that reads as a number in both
files is one. A file too large to be held in memory twice is compared by its bytes only.
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

from repro_est.proof.distance import ABSENT, Place, Tally, Unreadable

_LARGEST_JSON = 64 << 20


def compare_json(expected: Path, got: Path, tally: Tally) -> None:
    """Compares two JSON files.

    Raises:
        Unreadable: one is none, or is too large.
    """
    pending: list[tuple[Place, Any, Any]] = [((), _read(expected), _read(got))]
    while pending:
        place, mine, theirs = pending.pop()
        if isinstance(mine, dict) and isinstance(theirs, dict):
            keys = sorted(mine.keys() | theirs.keys(), reverse=True)
            pending += [((*place, key), mine.get(key, ABSENT), theirs.get(key, ABSENT)) for key in keys]
        elif isinstance(mine, list) and isinstance(theirs, list):
            pairs = list(enumerate(itertools.zip_longest(mine, theirs, fillvalue=ABSENT)))
            pending += [((*place, number), first, second) for number, (first, second) in reversed(pairs)]
        else:
            _values(place, mine, theirs, tally)


def compare_tables(expected: Path, got: Path, tally: Tally) -> None:
    """Compares two CSV files, row by row; places are counted from 0, the header too.

    Raises:
        Unreadable: one is no CSV in UTF-8.
    """
    try:
        with open(expected, encoding="utf-8", newline="") as one, open(got, encoding="utf-8", newline="") as two:
            rows = itertools.zip_longest(csv.reader(one), csv.reader(two), fillvalue=ABSENT)
            for number, (mine, theirs) in enumerate(rows):
                if isinstance(mine, list) and isinstance(theirs, list):
                    cells = itertools.zip_longest(mine, theirs, fillvalue=ABSENT)
                    for column, (first, second) in enumerate(cells):
                        _values((number, column), _number(first), _number(second), tally)
                else:
                    tally.other((number,), mine, theirs)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable(str(error)) from None


def _read(path: Path) -> Any:
    if path.stat().st_size > _LARGEST_JSON:
        raise Unreadable("too large")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def _values(place: Place, mine: Any, theirs: Any, tally: Tally) -> None:
    if _is_number(mine) and _is_number(theirs) and mine != theirs:
        try:
            tally.number(place, float(mine), float(theirs))
        except OverflowError:  # an integer that no double can hold
            tally.other(place, str(mine), str(theirs))
    elif _is_number(mine) and _is_number(theirs):
        tally.same(1)
    else:
        tally.other(place, mine, theirs)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(cell: object) -> object:
    try:
        return float(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell

"""What a run logged, sorted by how it is shown: numbers that are drawn, cells that are listed, objects, images.

Built from the record of one rank or of one child run (`inside.history`). A script may write anything as a value: what
cannot be shown is left out, and nothing here fails because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from types import NoneType
from typing import Any

from repro_est.inside.history import History, as_float, read
from repro_est.inside.record import file_name
from repro_est.portal.series import Series

Cell = float | int | bool | str | None
_CELL = (float, int, str, NoneType)
_NUMBER = (float, int)
_Events = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: what `log_table` and `log_row` were given under one name."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A confusion matrix, an accuracy table, residuals or predictions.

    Args:
        kind: which of them.
        data: the `data` of Azure ML's JSON.
    """

    name: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image.

    Args:
        path: below the run, `outputs/images/loss-1.png`.
    """

    name: str
    path: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One record.

    Args:
        rank: whose record it is.
        child: `""` for the run itself, `1.2` for the second child of its first child.
        name: of the child.
        last: the last scalar of each name.
        series: numbers by step: scalars, lists, and the numeric columns of rows as `name/column`.
        texts: scalars that are no numbers, all of them.
        end: how the script said it ended, `""` while it did not.
    """

    rank: int = 0
    child: str = ""
    name: str = ""
    last: Mapping[str, Cell] = field(default_factory=dict)
    series: tuple[Series, ...] = ()
    lists: tuple[Series, ...] = ()
    grids: tuple[Grid, ...] = ()
    texts: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    pictures: tuple[Picture, ...] = ()
    params: Mapping[str, Cell] = field(default_factory=dict)
    tags: Mapping[str, Cell] = field(default_factory=dict)
    properties: Mapping[str, Cell] = field(default_factory=dict)
    end: str = ""
    error: str = ""


def read_logged(logs: Path) -> tuple[Logged, ...]:
    """Returns every record below a `logs` directory: each rank's, then those of its children."""
    found: list[Logged] = []
    for rank, directory in _ranks(logs):
        found += _records(directory, rank)
    return tuple(found)


def numbers(found: _Events) -> Iterator[tuple[int, float, float]]:
    """Yields step, number and time of the scalars of one metric; where no step was given it is the count."""
    count = 0
    for kind, _, value, step, time, *_ in found:
        if kind == "m" and isinstance(value, float | int):
            yield step if isinstance(step, int) else count, as_float(value), time
            count += 1


def _ranks(logs: Path) -> list[tuple[int, Path]]:
    found = [(path.name.removeprefix("rank-"), path) for path in logs.glob("rank-*") if path.is_dir()]
    return sorted((int(rank), path) for rank, path in found if rank.isdecimal())


def _records(directory: Path, rank: int) -> Iterator[Logged]:
    """A rank's own record, and those of the children that are named in records above them."""
    waiting = [("", "")]
    while waiting:
        child, name = waiting.pop()
        path = directory / file_name(child)
        if not path.is_file():
            continue
        history = read(str(path))
        yield logged(history, rank=rank, child=child, name=name)
        below = list(dict(history.children).items())
        start = f"{child}." if child else ""
        waiting += [(item, str(called)) for item, called in reversed(below) if _is_child(item.removeprefix(start))]


def _is_child(number: str) -> bool:
    return number.isdecimal() and number.isascii()


def logged(history: History, *, rank: int = 0, child: str = "", name: str = "") -> Logged:
    """Sorts one record."""
    metrics = history.metrics.items()
    end, error = history.end or ("", None)
    return Logged(
        rank=rank,
        child=child,
        name=name,
        last={metric: cell[0] for metric, found in metrics if (cell := list(islice(_scalars(reversed(found)), 1)))},
        series=tuple(_series(metric, found) for metric, found in metrics if any(numbers(found))),
        lists=tuple(item for metric, found in metrics if (item := _list(metric, found))),
        grids=tuple(grid for metric, found in metrics if (grid := _grid(metric, found) or _texts(metric, found))),
        texts={metric: cells for metric, found in metrics if (cells := tuple(_scalars(found, only=(str, NoneType))))},
        shapes=tuple(item for metric, found in metrics for item in _shapes(metric, found)),
        pictures=tuple(item for metric, found in metrics for item in _pictures(metric, found)),
        params=_cells(history.params),
        tags=_cells(history.tags),
        properties=_cells(history.properties),
        end=str(end),
        error=str(error or ""),
    )


def _cells(values: Mapping[str, Any]) -> dict[str, Cell]:
    return {name: value for name, value in values.items() if isinstance(value, _CELL)}


def _scalars(found: Iterable[Sequence[Any]], *, only: tuple[type, ...] = _CELL) -> Iterator[Any]:
    return (event[2] for event in found if event[0] == "m" and isinstance(event[2], only))


def _series(metric: str, found: _Events) -> Series:
    values = [event[2] for event in found if event[0] == "m" and isinstance(event[2], _NUMBER)]
    steps = [event[3] for event in found if event[0] == "m" and isinstance(event[2], _NUMBER)]
    if not set(map(type, steps)) <= {int}:
        steps = [step if isinstance(step, int) else count for count, step in enumerate(steps)]
    return Series.of(metric, list(map(as_float, steps)), list(map(as_float, values)))


def _items(found: _Events) -> list[Any]:
    return [item for event in found if event[0] == "list" for item in event[2]]


def _list(metric: str, found: _Events) -> Series | None:
    values = [as_float(item) for item in _items(found) if isinstance(item, int | float)]
    return Series(metric, [float(place) for place in range(len(values))], values) if values else None


def _texts(metric: str, found: _Events) -> Grid | None:
    """Returns a list that is not one of numbers, as a table."""
    items = _items(found)
    if all(isinstance(item, int | float) for item in items):
        return None
    return Grid(metric, ("value",), [[item if isinstance(item, _CELL) else str(item)] for item in items])


def _shapes(metric: str, found: _Events) -> Iterator[Shape]:
    for event in found:
        if event[0] == "object" and (data := _data(event[3])):
            yield Shape(metric, str(event[2]), data)


def _pictures(metric: str, found: _Events) -> Iterator[Picture]:
    for event in found:
        if event[0] == "image":
            yield Picture(metric, event[2], event[3] if isinstance(event[3], int) else None)


def _data(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of an object, which stands in `{schema_type, schema_version, data}`."""
    inner = content.get("data", content)
    return inner if isinstance(inner, dict) else {}


def _grid(name: str, found: _Events) -> Grid | None:
    """Returns the rows and tables of a name as one table; a column that a row lacks is empty there."""
    rows: list[Mapping[str, Any]] = []
    for event in found:
        if event[0] == "row":
            rows.append(event[2])
        elif event[0] == "table":
            columns = {key: cells for key, cells in event[2].items() if isinstance(cells, list)}
            rows += [dict(zip(columns, cells, strict=True)) for cells in zip_longest(*columns.values())]
    names = tuple(dict.fromkeys(str(column) for row in rows for column in row))
    return Grid(name, names, [[row.get(column) for column in names] for row in rows]) if rows else None

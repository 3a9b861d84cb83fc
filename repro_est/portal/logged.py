"""What a run logged, sorted by how it is shown: numbers that are drawn, cells that are listed, objects, images.

Built from the record of one rank or of one child run (`inside.history`). A script may write anything into its record:
what is not of the shape it should have is left out, and nothing here fails because of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.inside.history import History, read
from repro_est.inside.record import file_name
from repro_est.portal.series import Series

Cell = float | int | bool | str | None


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
        found += _records(directory, rank, "", "")
    return tuple(found)


def numbers(events: Sequence[Any]) -> Iterator[tuple[int, float, float]]:
    """Yields step, number and time of the scalars among events; where no step was given it is the count."""
    count = 0
    for event in events:
        match event:
            case ["m", _, bool() | int() | float() as value, step, float() | int() as time]:
                yield step if isinstance(step, int) else count, as_float(value), time
                count += 1


def as_float(value: float) -> float:
    """Returns a number as a double; an integer that is too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _ranks(logs: Path) -> list[tuple[int, Path]]:
    found = [(path.name.removeprefix("rank-"), path) for path in logs.glob("rank-*") if path.is_dir()]
    return sorted((int(rank), path) for rank, path in found if rank.isdecimal())


def _records(directory: Path, rank: int, child: str, name: str) -> Iterator[Logged]:
    path = directory / file_name(child)
    if not path.is_file():
        return
    history = read(str(path))
    yield logged(history, rank=rank, child=child, name=name)
    for below, called in history.children:
        if isinstance(below, str) and below.startswith(f"{child}." if child else "") and len(below) > len(child):
            yield from _records(directory, rank, below, str(called))


def logged(history: History, *, rank: int = 0, child: str = "", name: str = "") -> Logged:
    """Sorts one record."""
    last: dict[str, Cell] = {}
    series: list[Series] = []
    lists: list[Series] = []
    grids: list[Grid] = []
    texts: dict[str, tuple[Cell, ...]] = {}
    shapes: list[Shape] = []
    pictures: list[Picture] = []
    for metric, events in history.metrics.items():
        found = list(numbers(events))
        if found:
            series.append(Series.of(str(metric), [float(step) for step, _, _ in found], [item[1] for item in found]))
        said = tuple(event[2] for event in events if event[0] == "m" and isinstance(event[2], str | None))
        if said:
            texts[metric] = said
        scalars = [event[2] for event in events if event[0] == "m" and _is_cell(event[2])]
        if scalars:
            last[metric] = scalars[-1]
        values = [as_float(item) for event in events for item in _items(event) if isinstance(item, int | float)]
        if values:
            lists.append(Series(metric, [float(place) for place in range(len(values))], values))
        if grid := _grid(metric, events):
            grids.append(grid)
        shapes += [
            Shape(metric, event[2], data)
            for event in events
            if event[0] == "object" and isinstance(event[2], str) and (data := _data(event[3]))
        ]
        pictures += [
            Picture(metric, event[2], event[3] if isinstance(event[3], int) else None)
            for event in events
            if event[0] == "image" and isinstance(event[2], str)
        ]
    end, error = history.end or ("", None)
    return Logged(
        rank=rank,
        child=child,
        name=name,
        last=last,
        series=tuple(series),
        lists=tuple(lists),
        grids=tuple(grids),
        texts=texts,
        shapes=tuple(shapes),
        pictures=tuple(pictures),
        params=dict(history.params),
        tags=dict(history.tags),
        properties=dict(history.properties),
        end=str(end),
        error=str(error or ""),
    )


def _is_cell(value: object) -> bool:
    return value is None or isinstance(value, float | int | bool | str)


def _data(content: object) -> Mapping[str, Any]:
    """The data of an object, which stands in `{schema_type, schema_version, data}`."""
    inner = content.get("data", content) if isinstance(content, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _items(event: Sequence[Any]) -> Sequence[Any]:
    return event[2] if event[0] == "list" and isinstance(event[2], list) else ()


def _grid(name: str, events: Sequence[Sequence[Any]]) -> Grid | None:
    """Returns the rows and tables of a name as one table; a column that a row lacks is empty there."""
    rows: list[Mapping[str, Any]] = []
    for event in events:
        if event[0] not in ("row", "table") or not isinstance(event[2], dict):
            continue
        if event[0] == "row":
            rows.append(event[2])
            continue
        columns = {key: cells for key, cells in event[2].items() if isinstance(cells, list)}
        rows += [dict(zip(columns, cells, strict=True)) for cells in itertools.zip_longest(*columns.values())]
    names = tuple(dict.fromkeys(str(column) for row in rows for column in row))
    return Grid(name, names, [[row.get(column) for column in names] for row in rows]) if rows else None

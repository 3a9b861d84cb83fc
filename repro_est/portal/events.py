"""What `run.log` wrote, as event files that TensorBoard reads.

Made with TensorBoard's own writer, without TensorFlow. A scalar keeps its step, else it gets its count: each metric
counts for itself. Texts become texts, a list is a series over its places, the columns of rows and tables are scalars
`NAME/COLUMN`. Of more than `MOST` new numbers of one metric at once the extremes are kept, not all; TensorBoard itself
shows a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.inside.history import History, as_float
from repro_est.portal.series import Series, trace

MOST = 20_000
_KEPT_COLUMNS = 2_500
_NUMBER = (float, int)


class Value(NamedTuple):
    """One value under a tag."""

    step: int
    value: float | str
    time: float


class EventFile:
    """One record as an event file, which grows with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._writer: Any = None

    def update(self, history: History) -> int:
        """Writes what was logged since the last time; returns how many values that was."""
        written = 0
        for name, events in history.metrics.items():
            fresh = events[self._seen.get(name, 0) :]
            self._seen[name] = len(events)
            tags: dict[str, list[Value]] = {}
            for event in fresh:
                for tag, value in _values(name, event):
                    tags.setdefault(tag, []).append(self._value(tag, value, event))
            for tag, values in tags.items():
                kept = _thinned(values)
                written += len(kept)
                for item in kept:
                    self._add(tag, item)
        if written:
            self._writer.flush()
        return written

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _value(self, tag: str, value: float | str, event: Sequence[Any]) -> Value:
        count = self._steps.get(tag, 0)
        self._steps[tag] = count + 1
        own = event[0] in ("m", "row") and isinstance(event[3], int)
        time = event[4] if isinstance(event[4], _NUMBER) else 0.0
        return Value(event[3] if own else count, value, float(time))

    def _add(self, tag: str, item: Value) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventFileWriter(str(self._directory))
        if isinstance(item.value, str):
            from tensorboard.plugins.text.summary_v2 import text_pb

            summary = text_pb(tag, item.value)
        else:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=item.value)])
        self._writer.add_event(Event(wall_time=item.time, step=item.step, summary=summary))


def _values(name: str, event: Sequence[Any]) -> Iterator[tuple[str, float | str]]:
    """Yields the tag and the value of each cell of an event that TensorBoard can show."""
    match event[0]:
        case "m":
            cells = [(name, event[2])]
        case "list":
            cells = [(name, item) for item in event[2]]
        case "row":
            cells = [(f"{name}/{column}", cell) for column, cell in event[2].items()]
        case "table":
            columns = {column: cell for column, cell in event[2].items() if isinstance(cell, list)}
            cells = [(f"{name}/{column}", item) for column, cell in columns.items() for item in cell]
        case _:
            cells = []
    for tag, cell in cells:
        if isinstance(cell, str):
            yield tag, cell
        elif isinstance(cell, _NUMBER):
            yield tag, as_float(cell)


def _thinned(values: Sequence[Value]) -> Sequence[Value]:
    numbers = [item.value for item in values if not isinstance(item.value, str)]
    if len(numbers) <= MOST or len(numbers) < len(values):
        return values
    found = trace(Series("", [float(place) for place in range(len(values))], numbers), _KEPT_COLUMNS)
    places = {int(place) for place, _ in (*found.points(), *found.odd)}
    return [values[place] for place in sorted(places)]

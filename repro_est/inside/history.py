"""Reading the records of a run (`inside.record` has the format): metrics, tags, properties, children, models."""

from __future__ import annotations

import contextlib
import gc
import json
import os

from repro_est.inside.record import file_name

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_PIECE = 1 << 20
_METRICS = ("m", "list", "row", "table", "image", "object")
_FIELDS = {
    "m": 5, "list": 5, "row": 5, "table": 5, "image": 5, "object": 6, "param": 4, "tag": 4, "property": 4, "child": 4,
}  # fmt: skip
_VALUES = {"list": (2, list), "row": (2, dict), "table": (2, dict), "image": (2, str), "object": (3, dict)}
"""How many fields a line has, and what stands where: a script may write anything into its logs."""


class History:
    """What records say, in the order of their lines.

    Args:
        metrics: events by name.
        children: id and name of each child run.
        end: status and text of the last `end`, None while there is none.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, list[list[Any]]] = {}
        self.params: dict[str, Any] = {}
        self.tags: dict[str, Any] = {}
        self.properties: dict[str, Any] = {}
        self.children: list[tuple[str, str]] = []
        self.models: list[dict[str, Any]] = []
        self.end: tuple[str, str | None] | None = None

    def add(self, events: Sequence[list[Any]]) -> None:
        """Takes in the lines of one record."""
        metrics = self.metrics
        for event in events:
            kind = event[0]
            if kind in _METRICS:
                known = metrics.get(event[1])
                if known is None:
                    metrics[event[1]] = [event]
                else:
                    known.append(event)
            else:
                self._tell(kind, event)

    def _tell(self, kind: str, event: list[Any]) -> None:
        if kind in ("param", "property"):
            (self.params if kind == "param" else self.properties)[event[1]] = event[2]
        elif kind == "tag":
            self.tags[event[1]] = event[2]
            if event[2] is None:
                del self.tags[event[1]]
        elif kind == "child":
            self.children.append((event[1], event[2]))
        elif kind == "model":
            self.models.append(event[1])
        elif kind == "end":
            self.end = (event[1], event[2])

    def view(self, name: str | None = None) -> dict[str, Any]:
        """Returns metrics as Azure ML's `get_metrics` does: a value that was logged once, else the list of all.

        Rows become a table of columns, an image its path, an object `{schema_type, data, ...}`.
        """
        names = self.metrics if name is None else [name] if name in self.metrics else []
        with _no_collection():
            return {key: _viewed(self.metrics[key]) for key in names}

    def scalars(self) -> dict[str, float]:
        """Returns the last number of each scalar."""
        found: dict[str, float] = {}
        for name, events in self.metrics.items():
            for event in reversed(events):
                if event[0] == "m" and isinstance(event[2], (int, float)):
                    found[name] = as_float(event[2])
                    break
        return found

    def series(self, name: str) -> list[tuple[int, float, float]]:
        """Returns the numbers of one scalar as (step, value, time).

        The step is the count where none was given, and where it is always 0: that is how MLflow says none.
        """
        events = [event for event in self.metrics.get(name, ()) if event[0] == "m"]
        numbers = [event for event in events if isinstance(event[2], (int, float))]
        none = not any(event[3] for event in numbers)
        return [
            (count if none or event[3] is None else event[3], as_float(event[2]), event[4])
            for count, event in enumerate(numbers)
        ]


class Growing:
    """A record that is being written: each look reads only what has come since the last."""

    def __init__(self, path: str) -> None:
        self._path, self._size, self._history = path, 0, History()

    def look(self) -> History:
        """Returns what the record says by now; the same object each time."""
        self._size = _take_in(self._history, self._path, self._size)
        return self._history


def read(path: str) -> History:
    """Reads one record; a file that is not there is an empty one."""
    history = History()
    _take_in(history, path)
    return history


def view(path: str, name: str | None = None) -> dict[str, Any]:
    """Returns the metrics of one record as `History.view` does: a million points in less than a second."""
    with _no_collection():
        return read(path).view(name)


def read_run(logs: str, child: str = "") -> History:
    """Reads the records of all ranks below a `logs` directory as one: rank 0 first."""
    history = History()
    for path in records(logs, child):
        _take_in(history, path)
    return history


def records(logs: str, child: str = "") -> Iterator[str]:
    """Yields the paths of the records of all ranks."""
    try:
        names = [name for name in os.listdir(logs) if name[:5] == "rank-" and name[5:].isdigit()]
    except OSError:
        return
    for name in sorted(names, key=lambda name: int(name[5:])):
        path = os.path.join(logs, name, file_name(child))
        if os.path.exists(path):
            yield path


def _take_in(history: History, path: str, start: int = 0) -> int:
    """Adds the complete lines from a place in a record on; returns where they end."""
    with _no_collection():
        for lines in _pieces(path, start):
            history.add(_parse(lines))
            start += len(lines)
    return start


def _pieces(path: str, start: int) -> Iterator[bytes]:
    """Yields complete lines, a megabyte at a time: they are sorted while the processor's cache has them."""
    rest = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(start)
        while data := file.read(_PIECE):
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]  # the last of it may be being written
            if end:
                yield data[:end]


def _parse(data: bytes) -> list[list[Any]]:
    """Returns lines, all at once, or one by one where some are torn."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(b"[" + data[:-1].replace(b"\n", b",") + b"]")
        return [
            event
            for event in found
            if (type(event) is list and len(event) == 5 and event[0] == "m" and type(event[1]) is str)
            or _is_event(event)
        ]
    return [event for line in data.split(b"\n") if (event := _parsed(line))]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from looking at a million new lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parsed(line: bytes) -> list[Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if _is_event(event) else None


def _is_event(event: Any) -> bool:
    if not isinstance(event, list) or len(event) <= 2 or not isinstance(event[0], str):
        return False
    if event[0] == "model":
        return isinstance(event[1], dict) and {"name", "path"} <= event[1].keys()
    if not isinstance(event[1], str) or len(event) < _FIELDS.get(event[0], 3):
        return False
    place, kind = _VALUES.get(event[0], (1, str))
    return isinstance(event[place], kind)


def _viewed(events: list[list[Any]]) -> Any:
    kind = events[0][0]
    if kind == "m" and len(events) == 1:
        return events[0][2]
    if kind in ("m", "list"):
        return [value for event in events for value in (event[2] if event[0] == "list" else (event[2],))]
    if kind in ("row", "table"):
        return _columns(events)
    found = [{"schema_type": event[2], **event[3]} if event[0] == "object" else event[2] for event in events]
    return found[0] if len(found) == 1 else found


def _columns(events: list[list[Any]]) -> dict[str, Any]:
    table: dict[str, list[Any]] = {}
    for event in events:
        for column, cell in (event[2] if isinstance(event[2], dict) else {}).items():
            table.setdefault(column, []).extend(cell if event[0] == "table" else (cell,))
    single = len(events) == 1 and events[0][0] == "row"
    return {column: cells[0] for column, cells in table.items()} if single else dict(table)


def as_float(value: float) -> float:
    """Returns a number as a double; an integer that is too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")

"""The record a script writes of itself: metrics, tags, children, models; appended line by line, never rewritten.

`logs/rank-N/run.jsonl`, and `run.1.jsonl`, `run.1.2.jsonl` for its child runs. JSON Lines (UTF-8, one array a line):

    ["m", name, value, step, time]             a scalar: number, bool, string or null
    ["list", name, [value, ...], step, time]
    ["row", name, {column: value}, step, time]
    ["table", name, {column: [value, ...]}, step, time]
    ["image", name, path, step, time]          path of a file of the run, "outputs/images/loss-1.png"
    ["object", name, type, content, step, time]   confusion_matrix, accuracy_table, residuals, predictions
    ["param", name, value, time]               a parameter, as MLflow has them
    ["tag", name, value, time]                 null takes it away
    ["property", name, value, time]            set once
    ["child", id, name, time]
    ["model", {name, path, tags, ...}, time]   to be registered when the run succeeds
    ["end", "completed" | "failed" | "canceled", text | null, time]

`step` is an integer or null, `time` seconds since the epoch. NaN and infinities are spelled as Python's json spells
them. Each line is one append: a process that is killed has lost nothing it logged, and several processes may write.
A reader (`inside.history`) skips a kind it does not know and a line that is torn.
"""

from __future__ import annotations

import errno
import os
import time
from math import isfinite

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILE = "run.jsonl"


def file_name(child: str = "") -> str:
    """Returns the name of a record: `run.jsonl`, `run.1.2.jsonl` for child `1.2`."""
    return f"run.{child}.jsonl" if child else FILE


class Record:
    """Appends to one record; the file is made at the first line.

    Raises:
        OSError: the disk is full, or the directory is gone; what was written before stays.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1
        self._torn = False
        self._children = 0
        self._names: dict[str, str] = {}
        self._dumps: Callable[..., str] | None = None

    def scalar(self, name: str, value: object, step: int | None, at: float | None = None) -> None:
        """Appends a scalar that is checked already: the one line that is written often.

        Args:
            at: seconds since the epoch, if not now.
        """
        quoted = self._names.get(name)
        if quoted is None:
            quoted = self._names[name] = self._encode(name)
        kind = type(value)
        text = repr(value) if kind is int or (kind is float and isfinite(value)) else self._encode(value)  # type: ignore[arg-type]
        at = time.time() if at is None else at
        self._append(f'["m",{quoted},{text},{"null" if step is None else step},{at:.6f}]\n'.encode())

    def add(self, *event: Any) -> None:
        """Appends any other line; the time is added at its end."""
        self._append(self._encode([*event, round(time.time(), 6)]).encode() + b"\n")

    def begin_child(self, above: str, name: str) -> str:
        """Begins the record of a new child run, a number that no other process has; returns its id.

        Args:
            above: the child this record belongs to, "" for the run itself.
        """
        directory = os.path.dirname(self.path)
        os.makedirs(directory, exist_ok=True)
        while True:
            self._children += 1
            child = f"{above}.{self._children}" if above else str(self._children)
            try:
                made = os.open(os.path.join(directory, file_name(child)), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            os.close(made)
            self.add("child", child, name)
            return child

    def _encode(self, value: object) -> str:
        if type(value) is str and value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
        if self._dumps is None:
            import json  # 8 ms: a script that logs numbers only goes without

            self._dumps = json.JSONEncoder(separators=(",", ":")).encode
        return self._dumps(value)

    def _append(self, line: bytes) -> None:
        if self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink:  # the script has emptied ./logs
            os.close(self._descriptor)
            self._descriptor = -1
        if self._descriptor < 0:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._torn:
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

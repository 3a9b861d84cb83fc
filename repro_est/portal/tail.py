"""The end of a log as it stands on a terminal that has stopped: plain lines, progress bars at their last."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LINES = 200
_MAX_BYTES = 256 << 10
_MAX_WIDTH = 2000
_CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
"""Sequences that colour text or move the cursor (ECMA-48), and those that set the title of a window."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines of what a rank printed.

    Args:
        size: of the whole log, in bytes.
        whole: the lines are all there are.
    """

    rank: int
    stream: str
    lines: tuple[str, ...]
    size: int
    whole: bool = False


def tail(path: Path, rank: int, stream: str) -> Tail:
    """Reads the end of a log; one that cannot be read is empty."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _MAX_BYTES)
            file.seek(start)
            data = file.read(_MAX_BYTES)
    except OSError:
        return Tail(rank, stream, (), 0)
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if start and len(lines) > 1:
        lines = lines[1:]  # a part of a line
    return Tail(rank, stream, tuple(map(_shown, lines[-LINES:])), size, whole=not start and len(lines) <= LINES)


def _shown(line: str) -> str:
    """A line as it stands at last: what `\\r` took it back over is gone, and so is colour."""
    plain = _CONTROL.sub("", line.removesuffix("\r").rpartition("\r")[2])
    return plain if len(plain) <= _MAX_WIDTH else f"{plain[:_MAX_WIDTH]}... ({len(plain):,} characters)"

"""The logs of many ranks on this machine: as they come, and in one driver log in the order of time.

    logs/rank-N/stdout.log, stderr.log     what rank N wrote, secrets masked on its host
    logs/launcher/...                      what mpirun and its daemons wrote, where there are any
    logs/driver.log                        `HH:MM:SS.mmm rank N | line`, all ranks, made when the run has ended

A person sees complete lines with the rank before them; a part of a line waits for its end, but no longer than
`_PATIENCE_SECONDS`, and no line is longer than `_LONGEST`.
"""

from __future__ import annotations

import errno
import heapq
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from repro_est.files import write_all
from repro_est.launch.process import OnOutput
from repro_est.store.layout import DRIVER_LOG

_LONGEST = 1 << 16
_PATIENCE_SECONDS = 0.2
_MARK = re.compile(r"(\d{1,10}\.\d{3}) (\d+|launcher) (stdout|stderr) (\d+)", re.ASCII)
_MOST_OPEN = 256
"""Files of logs open at a time: a process may have 1,024, and a run thousands of ranks."""


def directory_of(name: str) -> str:
    """Returns the directory below logs/ of a rank number, or of the launcher."""
    return f"rank-{name}" if name.isdecimal() else name


class Logs:
    """Writes what arrives from hosts to the files of the attempt, each byte once whatever is sent twice.

    Args:
        root: `logs/` of the attempt.
        shown: passes on what a person should see.
    """

    def __init__(self, root: Path, shown: Prefixed | None = None) -> None:
        self._root, self._shown = root, shown
        self._files: dict[tuple[str, str], int] = {}
        self._short: set[tuple[str, str]] = set()  # a full disk had no room for all of it
        self._sizes: dict[tuple[str, str], int] = {}

    def offsets(self) -> list[list[str | int]]:
        """Returns how much is here of each file: where a host should go on."""
        for path in self._root.glob("*/std*.log"):
            name = path.parent.name.removeprefix("rank-")
            self._sizes.setdefault((name, path.stem), path.stat().st_size)
        return [[name, stream, size] for (name, stream), size in self._sizes.items()]

    def add(self, name: str, stream: str, offset: int, data: bytes) -> None:
        """Takes bytes of a file; those that are here already are dropped."""
        key = (name, stream)
        have = self._have(key)
        if offset > have:
            return  # a piece is missing: it is fetched when the run has ended
        fresh = data[have - offset :]
        if not fresh:
            return
        if key not in self._short:
            self._keep(key, fresh)
        self._sizes[key] = have + len(fresh)
        self.show(name, stream, fresh)

    def _have(self, key: tuple[str, str]) -> int:
        if key not in self._sizes:
            path = self._path(key)
            self._sizes[key] = path.stat().st_size if path.exists() else 0
        return self._sizes[key]

    def _path(self, key: tuple[str, str]) -> Path:
        return self._root / directory_of(key[0]) / f"{key[1]}.log"

    def _keep(self, key: tuple[str, str], data: bytes) -> None:
        """Writes to a file; what a full disk has no room for is fetched when the run has ended."""
        try:
            if key not in self._files:
                path = self._path(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                if len(self._files) >= _MOST_OPEN:
                    os.close(self._files.pop(next(iter(self._files))))
                self._files[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            write_all(self._files[key], data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._short.add(key)

    def show(self, name: str, stream: str, data: bytes) -> None:
        """Shows what is in no file, because the disk of its host is full."""
        if self._shown is not None:
            self._shown.add(name, stream, data)

    def show_parts(self) -> None:
        """Shows parts of lines that wait for their end for too long: questions, bars of progress."""
        if self._shown is not None:
            self._shown.flush()

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if self._shown is not None:
            self._shown.flush(everything=True)


class Prefixed:
    """Shows output of many ranks in lines, each with its rank before it.

    Args:
        only: the ranks to show, None for all.
    """

    def __init__(self, on_output: OnOutput, *, only: Sequence[int] | None = None) -> None:
        self._on_output, self._only = on_output, None if only is None else {str(rank) for rank in only}
        self._held: dict[tuple[str, str], tuple[bytes, float]] = {}

    def add(self, name: str, stream: str, data: bytes) -> None:
        if self._only is not None and name not in self._only:
            return
        held, since = self._held.pop((name, stream), (b"", time.monotonic()))
        *lines, rest = (held + data).split(b"\n")
        if len(rest) > _LONGEST:
            lines.append(rest)
            rest = b""
        if lines:
            self._show(name, stream, lines)
            since = time.monotonic()
        if rest:
            self._held[name, stream] = (rest, since)

    def flush(self, *, everything: bool = False) -> None:
        """Shows parts of lines that waited long enough."""
        now = time.monotonic()
        for (name, stream), (held, since) in list(self._held.items()):
            if everything or now - since > _PATIENCE_SECONDS:
                del self._held[name, stream]
                self._show(name, stream, [held])

    def _show(self, name: str, stream: str, lines: Sequence[bytes]) -> None:
        prefix = f"[{name}] ".encode()
        self._on_output(stream, b"".join(prefix + _seen(line) + b"\n" for line in lines))


def _seen(line: bytes) -> bytes:
    """Returns what a terminal would leave of a line: what was written last over it."""
    line = line.rstrip(b"\r").rpartition(b"\r")[2]
    return line if len(line) <= _LONGEST else line[:_LONGEST] + b" ..."


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A log file had grown to `end` bytes at `at`, seconds since the epoch, by the clock of its host."""

    at: float
    name: str
    stream: str
    end: int


def parse_timeline(text: str) -> list[Mark]:
    """Reads the `timeline` of a host; lines that were cut short are left out."""
    found = (_MARK.fullmatch(line) for line in text.splitlines())
    return [Mark(float(match[1]), match[2], match[3], int(match[4])) for match in found if match]


def write_driver_log(root: Path, timelines: Sequence[Sequence[Mark]], skews: Sequence[float]) -> None:
    """Merges the logs of all ranks in the order of time, in bounded memory.

    Args:
        root: `logs/` of the attempt, where the files are complete.
        timelines: one for each host.
        skews: seconds the clock of each host is ahead of ours.
    """
    streams: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for timeline, skew in zip(timelines, skews, strict=True):
        for mark in timeline:
            streams.setdefault((mark.name, mark.stream), []).append((mark.at - skew, mark.end))
    readers = [_lines(root, *key, marks) for key, marks in sorted(streams.items())]
    with open(root / DRIVER_LOG, "wb") as out:
        for at, label, line in heapq.merge(*readers, key=lambda item: item[0]):
            stamp = datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
            out.write(f"{stamp} {label} | ".encode() + line + b"\n")


def _lines(
    root: Path, name: str, stream: str, marks: Sequence[tuple[float, int]]
) -> Iterator[tuple[float, str, bytes]]:
    label = f"rank {name}" if name.isdecimal() else name
    if stream == "stderr":
        label += " err"
    path = root / directory_of(name) / f"{stream}.log"
    latest, at, held = 0.0, 0, b""
    for when, end in [*marks, (marks[-1][0], sys.maxsize)]:
        latest = max(latest, when)  # a clock that was set back must not undo the order
        while chunk := _piece(path, at, min(_LONGEST, end - at)):
            at += len(chunk)
            *lines, held = (held + chunk).split(b"\n")
            for line in lines:
                yield latest, label, line
            if len(held) > _LONGEST:
                yield latest, label, held
                held = b""
    if held:
        yield latest, label, held


def _piece(path: Path, at: int, size: int) -> bytes:
    """Reads a part of a file, which is open only meanwhile: of a thousand ranks they would be too many."""
    if size <= 0:
        return b""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(at)
            return file.read(size)
    except FileNotFoundError:
        return b""

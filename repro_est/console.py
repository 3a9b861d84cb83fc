"""What people see: data on stdout, everything else on stderr, colour only where it helps.

Messages carry the same meaning without colour (NO_COLOR, https://no-color.org). Progress has a total on
a terminal and is a plain line elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Console:
    """Prints for one command.

    Args:
        quiet: only results and errors.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self.colour_out = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def style(self, text: str, style: str, *, out: bool = False) -> str:
        """Returns `text` in a style, or as it is when the stream shows no colour."""
        enabled = self.colour_out if out else self._colour
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if enabled else text

    def info(self, message: str) -> None:
        """One line of progress, to stderr; nothing when quiet."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def step(self, verb: str, message: str) -> None:
        """One line of progress with its verb in a column: `  Locking  recipes/digits.toml`."""
        self.info(f"{self.style(f'{verb:>12}', 'green')}  {message}")

    def warning(self, message: str) -> None:
        print(f"{self.style('warning', 'yellow')}: {message}", file=sys.stderr, flush=True)

    def error(self, message: str, *, hint: str | None = None) -> None:
        print(f"{self.style('error', 'red')}: {message}", file=sys.stderr, flush=True)
        if hint:
            print(f"\n{self.style('hint', 'cyan')}: {hint}", file=sys.stderr, flush=True)

    def out(self, text: str) -> None:
        """Data, to stdout."""
        print(text, flush=True)

    def json(self, value: Any) -> None:
        """One JSON document on stdout; NaN and infinities as strings, since JSON has no numbers for them."""
        print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False), flush=True)

    def table(self, rows: Sequence[Sequence[str]], *, header: Sequence[str]) -> None:
        """Left-aligned columns on stdout; the last one is not padded. Cells may hold any text."""
        rows = [[visible(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        for number, row in enumerate((header, *rows)):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            line = "  ".join(cells).rstrip()
            self.out(self.style(line, "dim", out=True) if number == 0 else line)


def visible(text: str) -> str:
    """Returns text of a run, such as a metric's name, with what moves the cursor or hides text as `\\x1b` or `\\n`."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def _finite(value: Any) -> Any:
    """Spells what is no number of JSON as `NaN`, `Infinity` or `-Infinity`."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


class Progress:
    """A counter with a total: redrawn in place on a terminal, silent elsewhere; `close` takes the line away."""

    def __init__(self, console: Console, label: str, total: int, *, unit: str = "") -> None:
        self._active = not console.quiet and sys.stderr.isatty() and total > 0
        self._label, self._total, self._unit = label, total, unit
        self._done, self._shown = 0, 0.0

    def close(self) -> None:
        if self._active and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        now = time.monotonic()
        if self._active and now - self._shown > 0.1:
            self._shown = now
            share = min(self._done / self._total, 1.0)
            sys.stderr.write(f"\r{self._label}  {self._done:,} of {self._total:,}{self._unit}  {share:4.0%}\x1b[K")
            sys.stderr.flush()


def counted(number: int, noun: str) -> str:
    """Returns how many there are of something: `1 package`, `1,234 packages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def human_size(size: float) -> str:
    """Returns bytes as people write them: `512 B`, `1.4 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """Returns a duration as people write it: `84 ms`, `2.3 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

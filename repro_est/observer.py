"""Who watches a run: the terminal, a JSON stream, a test."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Whoever wants to know what happens: the terminal, a JSON stream, a test."""

    def event(self, kind: str, **facts: Any) -> None:
        """Something happened; `kind` is one of the words documented in docs/events.md."""

    def output(self, stream: str, data: bytes) -> None:
        """The script wrote `data` to `stdout` or `stderr`."""

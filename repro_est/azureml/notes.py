"""What the shim tells people while an old script runs: each thing once, on stderr."""

from __future__ import annotations

from repro_est.console import Console

_said: set[str] = set()


def note(message: str) -> None:
    """Says something, unless it was said before."""
    if message not in _said:
        _said.add(message)
        Console().step("Note", message)

"""The event stream of `repro run --json`: one JSON object a line, on stdout; docs/events.md lists the kinds."""

from __future__ import annotations

import json
import sys
from typing import Any


def emit(kind: str, **facts: Any) -> None:
    """Prints one event; NaN and infinity as strings, since JSON has no word for them."""
    line = json.dumps({"event": kind, **{key: _plain(value) for key, value in facts.items()}}, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class JsonObserver:
    """Prints every event, the script's output included."""

    def event(self, kind: str, **facts: Any) -> None:
        if kind != "progress":  # one for each quarter of a megabyte: for a bar, not for a record
            emit(kind, **facts)

    def output(self, stream: str, data: bytes) -> None:
        emit("output", stream=stream, text=data.decode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value - value != 0:  # NaN or infinite
        return repr(value).replace("inf", "Infinity").replace("nan", "NaN")
    return value

"""How values are written for people: numbers, times, hashes."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_DIGITS = 6
_SHORT = 12


def shown(value: object) -> str:
    """Returns a cell as people write it: six significant digits, `true`, `NaN`."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:,}" if abs(value) < 10**15 else f"about 1e{len(str(abs(value))) - 1}"
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        case float() if value.is_integer() and abs(value) < 10**15:
            return f"{int(value):,}"
        case float():
            return f"{value:.{_DIGITS}g}"
    return str(value)


def when(text: str) -> str:
    """Returns a time of a record as `2026-11-25 19:57:20 UTC`; what is none stays as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short(digest: str) -> str:
    """Returns the start of a hash."""
    return digest[:_SHORT]

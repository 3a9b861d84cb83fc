"""An observer for those who ask a question in Python: warnings are Python's, everything else is silent."""

from __future__ import annotations

import warnings
from typing import Any


class Silence:
    """See above."""

    def event(self, kind: str, **facts: Any) -> None:
        if kind in ("warning", "quarantined"):
            warnings.warn(str(facts.get("message") or f"set aside: {facts.get('reason')}"), stacklevel=2)

    def output(self, stream: str, data: bytes) -> None:
        """What a script writes is in its logs."""

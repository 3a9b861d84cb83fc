"""Pins: runs that a person said to keep, with the reason; `pins/<run hash>.json`.

    {"who", "when": RFC 3339, UTC, "why"}

The file is the pin: a run is pinned while it is there.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from repro_est.digest import RunHash
from repro_est.errors import UsageError
from repro_est.files import printable, write_atomic
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

_RUN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin; `when` is RFC 3339, UTC."""

    run: RunHash
    who: str
    when: str
    why: str

    def to_json(self) -> dict[str, str]:
        return {"run_hash": self.run, "who": self.who, "when": self.when, "why": self.why}


class Pins:
    """The pins of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def add(self, run: RunHash, why: str = "") -> Pin:
        """Pins a run; one that is pinned gets the new reason.

        Raises:
            UsageError: the run is not there.
        """
        from repro_est.store.chain import moment
        from repro_est.store.leases import user_name

        pin = Pin(run, printable(user_name()), moment(), why)
        path = self._layout.pin(run)
        with writing(path):
            if not renew_if_ours(self._layout, self._layout.run(run)):
                raise UsageError(f"run {run}: is not in the store", hint="repro ls")
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps({"who": pin.who, "when": pin.when, "why": why}).encode() + b"\n")
        return pin

    def remove(self, run: RunHash) -> None:
        """Takes a pin away.

        Raises:
            UsageError: the run is not pinned.
        """
        path = self._layout.pin(run)
        with writing(path):
            try:
                path.unlink()
            except FileNotFoundError:
                raise UsageError(f"run {run}: is not pinned", hint="repro pins") from None

    def all(self) -> list[Pin]:
        """Returns every pin, oldest first; one whose file cannot be read is a pin too."""
        try:
            names = os.listdir(self._layout.directory("pins"))
        except FileNotFoundError:
            return []
        runs = [RunHash(name[:-5]) for name in names if name.endswith(".json") and _RUN.fullmatch(name[:-5])]
        return sorted(map(self._read, runs), key=lambda pin: (pin.when, pin.run))

    def _read(self, run: RunHash) -> Pin:
        try:
            content = json.loads(self._layout.pin(run).read_bytes())
            return Pin(run, str(content["who"]), str(content["when"]), str(content["why"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Pin(run, "somebody", "", "")

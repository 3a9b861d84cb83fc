"""Runs on disk: plans, attempts, and the commit record that makes an attempt a result.

The life of a run. Its plan is written first and never changes. Each execution claims the next number of
`attempts/` by mkdir and keeps its `attempt.json` true: RUNNING, then one of the terminal states. Only a complete
success is committed: `attempt.json`, the views, and `result.json` last, by rename. So a crash leaves no result or a
whole one, and `result.json` is the only thing that makes a hit.

A result that turns out not to be whole is never served: `quarantine` sets `result.json` aside with the reason, the
attempts stay, and the run is executed again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro_est.console import counted
from repro_est.digest import RunHash
from repro_est.errors import ReproError, UsageError, VerificationError
from repro_est.files import fsync_directory, write_atomic
from repro_est.store.checked import Checked
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.index import Index
from repro_est.store.layout import Layout
from repro_est.store.quarantine import set_aside
from repro_est.store.records import AttemptRecord, Records, Result, encode
from repro_est.store.store import Store

_SHORTEST_PREFIX = 4


class Runs(Records):
    """The runs of one store."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._store = Store(layout)
        self._index = Index(layout)

    # ---- writing

    def write_plan(self, run: RunHash, content: Mapping[str, Any]) -> None:
        """Stores the plan of a run; a plan that is there stays."""
        path = self._layout.plan(run)
        if renew_if_ours(self._layout, path.parent) and path.exists():
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, encode(content))

    def begin(self, run: RunHash) -> tuple[int, Path]:
        """Claims the next attempt; returns its number and its directory, which holds an empty `logs/`."""
        attempts = self._layout.attempts(run)
        with writing(attempts):
            attempts.mkdir(parents=True, exist_ok=True)
            number = max((int(name) for name in os.listdir(attempts) if name.isdecimal()), default=0) + 1
            while True:
                directory = self._layout.attempt(run, number)
                try:
                    directory.mkdir()
                    break
                except FileExistsError:
                    number += 1
            (directory / "logs").mkdir()
            fsync_directory(attempts)
        return number, directory

    def write_attempt(self, run: RunHash, record: AttemptRecord) -> None:
        """Replaces the record of an attempt, and tells the index."""
        path = self._layout.attempt(run, record.number) / "attempt.json"
        with writing(path):
            write_atomic(path, encode(record.to_json()))
        self._index.update(run)

    def commit(self, run: RunHash, result: Result) -> None:
        """Accepts an attempt: the views first, `result.json` last."""
        directory = self._layout.run(run)
        with writing(directory):
            for name in ("outputs", "logs"):
                _replace_link(directory / name, f"attempts/{result.attempt}/{name}")
            fsync_directory(directory)
            write_atomic(self._layout.result(run), encode(result.to_json()))
        self._index.update(run)

    def quarantine(self, run: RunHash, reason: str) -> None:
        """Sets a result aside; the run is then no hit, and its attempts stay."""
        set_aside(self._layout, self._layout.result(run), kind="run", name=run, reason=reason)
        self._index.update(run)

    # ---- reading

    def hit(self, run: RunHash, *, on_quarantine: Callable[[str], None] | None = None) -> Result | None:
        """Returns the result if it is whole: every output is there and what it is named for (see `checked`).

        Args:
            on_quarantine: told why a result that is there could not be used; it was set aside.
        """
        try:
            result = self.result(run) if renew_if_ours(self._layout, self._layout.run(run)) else None
            if result is None:
                return None
            reason = self._defect(run, result)
        except (VerificationError, ReproError) as error:
            reason = error.message
        if reason is None:
            return result
        # Set aside by somebody else just now, or a store that cannot be written: no hit either way.
        with contextlib.suppress(FileNotFoundError, ReproError):
            self.quarantine(run, reason)
        if on_quarantine is not None:
            on_quarantine(reason)
        return None

    def resolve(self, text: str) -> RunHash:
        """Returns the run a person means: a hash, a unique start of one, `@` the newest, `@2` the one before.

        Raises:
            UsageError: none or several; the candidates are named.
        """
        index = self._index
        if text.startswith("@"):
            number = text[1:] or "1"
            if not number.isdecimal() or int(number) < 1:
                raise UsageError(f"{text}: got `{number}` after @, expected a number from 1", hint="repro ls")
            rows = index.rows(limit=int(number))
            if len(rows) < int(number):
                raise UsageError(f"{text}: the store holds only {counted(len(rows), 'run')}", hint="repro run RECIPE")
            return rows[-1].run_hash
        if not re.fullmatch(r"[0-9a-f]{1,32}", text):
            raise UsageError(f"{text}: is no run, expected hex digits or `@`", hint="repro ls")
        if len(text) < _SHORTEST_PREFIX:
            raise UsageError(f"{text}: too short, expected at least {_SHORTEST_PREFIX} digits", hint="repro ls")
        found = index.starting_with(text, limit=6)
        if len(found) == 1:
            return found[0].run_hash
        if not found:
            raise UsageError(f"{text}: no run starts with it", hint="repro ls")
        listed = "\n".join(f"  {row.run_hash}  {row.name}  {row.started}" for row in found[:5])
        raise UsageError(f"{text}: several runs start with it\n{listed}", hint="give more digits")

    # ---- parts

    def _defect(self, run: RunHash, result: Result) -> str | None:
        """Returns what is wrong with a result, or None. One lstat for each file that did not change."""
        checked = Checked(self._layout, run)
        for tree in (result.outputs, result.logs):
            for entry in self._store.read_tree(tree).files():
                defect = checked.defect(entry, self._store)
                if defect is not None:
                    reason = f"blob {entry.xxh3} of {entry.path} {defect}"
                    # Else the next execution would take a bad blob for the output it has just written.
                    with contextlib.suppress(FileNotFoundError, ReproError):
                        self._store.set_aside(entry, reason)
                    return reason
        checked.remember()
        return None


def _replace_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)

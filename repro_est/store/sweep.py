"""Removing what dead processes left: half-written files, work directories, trash; and telling which attempts died.

Whether a process is dead is never guessed: its scratch directory is locked while it lives (`scratch`), and so is the
lease of the run it executes (`leases`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from repro_est.digest import RunHash
from repro_est.files import remove_tree, size_of
from repro_est.store.index import Index
from repro_est.store.layout import Layout
from repro_est.store.records import AttemptRecord, Status
from repro_est.store.runs import Runs
from repro_est.store.scratch import is_abandoned

_STALE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What was removed (`size` in bytes), and the runs with an attempt that was found lost."""

    removed: tuple[Path, ...]
    size: int
    lost: tuple[RunHash, ...]


def sweep(layout: Layout) -> SweepReport:
    """Cleans the store; safe while others run."""
    removed: list[Path] = []
    size = 0
    left = (
        *_abandoned(layout, "tmp"),
        *_abandoned(layout, "work"),
        *_children(layout.directory("trash")),
        *_parts(layout),
    )
    for path in left:
        size += size_of(path)
        remove_tree(path)
        removed.append(path)
    return SweepReport(tuple(removed), size, tuple(mark_lost(layout)))


def mark_lost(layout: Layout) -> list[RunHash]:
    """Rewrites attempts that are RUNNING though nobody executes them as LOST; returns their runs."""
    runs = Runs(layout)
    lost: list[RunHash] = []
    for row in Index(layout).unsettled():
        before = runs.numbers(row.run_hash)  # what is claimed later may have somebody
        if not runs.is_executed(row.run_hash) and settle(layout, row.run_hash, before):
            lost.append(row.run_hash)
    return lost


def settle(layout: Layout, run: RunHash, numbers: Sequence[int]) -> list[int]:
    """Rewrites those of the attempts of a run that are not settled as LOST; returns them.

    Args:
        numbers: attempts that nobody executes: claimed before the lease of the run was seen free, or was taken.
    """
    runs = Runs(layout)
    _remove_parts(layout.run(run))
    recorded = {record.number: record for record in runs.recorded(run)}
    records = [recorded.get(number) or _unrecorded(layout, run, number) for number in numbers]
    dead = [record for record in records if not record.status.is_terminal and not runs.is_at_hosts(run, record.number)]
    for record in dead:
        runs.write_attempt(run, record.lost())
    return [record.number for record in dead]


def _unrecorded(layout: Layout, run: RunHash, number: int) -> AttemptRecord:
    """An attempt that died between its claim and its first record, or whose record cannot be read."""
    made = datetime.fromtimestamp(layout.attempt(run, number).stat().st_mtime, UTC)
    return AttemptRecord(number, Status.RUNNING, made.strftime("%Y-%m-%dT%H:%M:%S.000Z"))


def _remove_parts(directory: Path) -> None:
    """Removes what a commit that was cut short wrote under a temporary name."""
    for path in (*directory.glob(".*.tmp"), *directory.glob("attempts/*/.*.tmp")):
        path.unlink(missing_ok=True)


def _abandoned(layout: Layout, name: str) -> list[Path]:
    return [path for path in _children(layout.directory(name)) if is_abandoned(path)]


def _parts(layout: Layout) -> list[Path]:
    """Half-fetched files, and half-written records of models, that nobody wrote to for an hour."""
    found = [part for kind in ("packages", "fetched") for part in layout.directory(kind).glob("*/.*.part")]
    found += layout.directory("models").glob("*/.*.tmp")
    return [part for part in found if time.time() - part.lstat().st_mtime > _STALE_SECONDS]


def _children(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory)]
    except FileNotFoundError:
        return []

"""A run that was asked for in Python: a process of its own executes it, and outlives whoever asked.

    runs/<hash>/submission.json   {"attempts": how many there were before, "target", "started"}
    runs/<hash>/submission.log    what the process says and the script writes, as a terminal would show it

The log is locked (flock) by the process through its standard output, so the kernel knows whether it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash
from repro_est.files import write_atomic
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.records import AttemptRecord, Status
from repro_est.store.runs import Runs

_STARTED: list[subprocess.Popen[bytes]] = []
"""Kept so that one that has ended is waited for, and no zombie stays."""

_STATES = {
    Status.COMPLETED: "Completed",
    Status.CANCELED: "Canceled",
    Status.DETACHED: "Running",
}
_PHASES = {"environment": "Preparing", "stage": "Preparing", "run": "Running", "collect": "Finalizing"}

STATUSES = ("NotStarted", "Preparing", "Running", "Finalizing", "Completed", "Failed", "Canceled")
"""Azure ML's words for where a run is."""

TERMINAL = ("Completed", "Failed", "Canceled")
"""Azure ML's words for a run that has ended."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is.

    Args:
        status: one of Azure ML's words.
        attempt: the execution that says so, None while there is none.
    """

    status: str
    attempt: AttemptRecord | None = None

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


def submit(run: RunHash, layout: Layout, *, project: Path, target: str, source: Path | None) -> None:
    """Starts a process that executes a run whose plan is in the store, unless one does.

    Args:
        project: directory the process starts in.
        source: where git facts are read.
    """
    for process in _STARTED:
        process.poll()
    if is_alive(layout, run) or Leases(layout).is_held(f"run-{run}"):
        return
    log = layout.submission(run).with_suffix(".log")
    content = {"attempts": len(Runs(layout).numbers(run)), "target": target, "started": time.time()}
    words = [sys.executable, "-m", "repro_est", "run", run, "--target", target]
    words += ["--facts-from", str(source)] if source is not None else []
    with writing(log):
        write_atomic(layout.submission(run), json.dumps(content).encode())
        descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        environment = {**os.environ, "REPRO_STORE": str(layout.root), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        _STARTED.append(
            subprocess.Popen(
                words,
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        )
    finally:
        os.close(descriptor)


def is_alive(layout: Layout, run: RunHash) -> bool:
    """Whether the process that was started for a run is there."""
    try:
        descriptor = os.open(layout.submission(run).with_suffix(".log"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_submission(layout: Layout, run: RunHash) -> Mapping[str, Any] | None:
    """Returns what was written down when the run was last asked for in Python, None if it never was."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(layout.submission(run).read_bytes())
        if isinstance(content, dict) and isinstance(content.get("attempts"), int):
            return content
    return None


def state_of(run: RunHash, layout: Layout) -> State:
    """Returns where a run is."""
    runs = Runs(layout)
    submission = read_submission(layout, run)
    alive = submission is not None and is_alive(layout, run)  # asked first: what it wrote before it ended is then there
    attempts = runs.attempts(run)
    last = attempts[-1] if attempts else None
    if last is not None and last.status is Status.RUNNING:
        return State(_PHASES.get(last.phase, "Running"), last)
    if last is not None and last.status is Status.DETACHED:
        return State("Running", last)
    is_older = submission is not None and len(attempts) <= submission["attempts"]
    if alive and is_older:
        return State("Preparing")
    if alive and last is not None and last.status is not Status.CANCELED:
        return State("Finalizing", last)
    result = runs.result(run)
    if result is not None:
        accepted = next((item for item in attempts if item.number == result.attempt), last)
        return State("Completed", accepted)
    if is_older:
        return State("Failed")
    return State("NotStarted") if last is None else State(_STATES.get(last.status, "Failed"), last)


def log_of(layout: Layout, run: RunHash) -> Path:
    """Where the process writes what happens."""
    return layout.submission(run).with_suffix(".log")


def follow(run: RunHash, layout: Layout) -> Iterator[bytes]:
    """Yields what the process of a run writes, until the run has ended; b"" when there is nothing new."""
    path = log_of(layout, run)
    position = 0
    while True:
        ended = (state := state_of(run, layout)).is_terminal or state.status == "NotStarted"
        if path.exists():
            with open(path, "rb") as file:
                file.seek(position)
                while data := file.read(1 << 16):
                    position += len(data)
                    yield data
        if ended:
            return
        yield b""

"""A directory that TensorBoard reads: runs of the store by name, kept true while they go on.

    <root>/NAME-HASH12/              what `run.log` wrote, as an event file (`portal.events`)
    <root>/NAME-HASH12/logs          a link to the run's logs, with whatever event files the script wrote there
    <root>/NAME-HASH12/child-1.2     what its child runs logged
    <root>/NAME-HASH12/rank-3        what other ranks logged

The attempt that goes on is shown, else the accepted one, else the last; of one that goes on here the logs are those in
its working directory, and when it ends the link turns to where they are kept. Those of one that goes on at hosts are
fetched, what is new of them. `refresh` is to be called every now and then; nothing of the store is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro_est.digest import RunHash
from repro_est.errors import ReproError
from repro_est.files import remove_tree
from repro_est.inside.history import Growing
from repro_est.inside.record import file_name
from repro_est.launch.handle import Handle, read_handle
from repro_est.outputs import LOGS
from repro_est.portal.events import EventFile
from repro_est.store.layout import LIVE
from repro_est.store.records import AttemptRecord
from repro_est.store.runs import Runs
from repro_est.store.store import Store

_FETCH_SECONDS = 10.0
_RECORD = re.compile(r"run(?:\.([0-9.]+))?\.jsonl")


class LogDirectory:
    """Several runs as TensorBoard reads them.

    Args:
        root: an empty directory.
        runs: they may be made later.
    """

    def __init__(self, root: Path, runs: Sequence[RunHash], store: Store) -> None:
        self._root, self._store = root, store
        self._shown = {run: _Shown(store) for run in runs}

    def refresh(self) -> list[str]:
        """Brings every run up to date; returns the names of those that are there."""
        return [name for run, shown in self._shown.items() if (name := shown.refresh(run, self._root))]

    def close(self) -> None:
        for shown in self._shown.values():
            shown.close()


class _Shown:
    """One run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name, self._number = "", 0
        self._logs: Path | None = None
        self._due = 0.0
        self._records: dict[str, tuple[Path, Growing]] = {}
        self._files: dict[str, EventFile] = {}

    def refresh(self, run: RunHash, root: Path) -> str:
        """Returns the name it has below `root`, `""` while there is nothing of it."""
        try:
            attempt = _attempt(run, self._store)
            name = self._name or f"{_plain(str(Runs(self._store.layout).plan(run)['recorded']['name']))}-{run[:12]}"
        except (ReproError, KeyError, TypeError):
            return ""
        if attempt is None:
            return ""
        if attempt.number != self._number:
            self._start(root / name, attempt.number)
        self._name = name
        directory = self._store.layout.attempt(run, attempt.number)
        works_here = (directory / LIVE).is_symlink()
        handle = None if attempt.status.is_terminal or works_here else read_handle(directory)
        if handle is not None:
            self._fetch(root / name / LOGS, handle)
            self._write(root / name, root / name / LOGS)
        else:
            self._show(root / name, (directory / LIVE).resolve() / LOGS if works_here else directory / LOGS)
        return name

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _start(self, place: Path, number: int) -> None:
        """Begins with an attempt; what was there of another one is taken away."""
        self.close()
        self._records, self._files, self._logs, self._number = {}, {}, None, number
        remove_tree(place)
        place.mkdir()

    def _fetch(self, logs: Path, handle: Handle) -> None:
        from repro_est.launch.peek import bring_logs

        if time.monotonic() < self._due:
            return
        if logs.is_symlink():  # to the store, which is not to be written to
            logs.unlink()
            self._logs = None
        logs.mkdir(exist_ok=True)
        with contextlib.suppress(ReproError):  # a host that cannot be reached now may be later
            bring_logs(handle, logs)
        self._due = time.monotonic() + _FETCH_SECONDS

    def _show(self, place: Path, logs: Path) -> None:
        if logs != self._logs and logs.is_dir():
            _link(place / LOGS, logs.absolute())
            self._logs = logs
        self._write(place, logs)

    def _write(self, place: Path, logs: Path) -> None:
        for name, path in _records(logs):
            known, growing = self._records.get(name, (None, None))
            if known != path or growing is None:  # moved with all it holds: what was written of it is counted
                growing = Growing(str(path))
                self._records[name] = (path, growing)
            self._files.setdefault(name, EventFile(place / name)).update(growing.look())


def _attempt(run: RunHash, store: Store) -> AttemptRecord | None:
    runs = Runs(store.layout)
    attempts, result = runs.attempts(run), runs.result(run)
    if not attempts or not attempts[-1].status.is_terminal or result is None:
        return attempts[-1] if attempts else None
    return next((item for item in attempts if item.number == result.attempt), attempts[-1])


def _records(logs: Path) -> Iterator[tuple[str, Path]]:
    """Yields the records there are, and the directory that shows each below that of the run: `""` the first rank's."""
    ranks = [path for path in logs.glob("rank-*") if path.name.removeprefix("rank-").isdecimal()]
    ranks = sorted(ranks, key=lambda path: int(path.name.removeprefix("rank-")))
    first = next((rank for rank in ranks if (rank / file_name()).exists()), None)
    for rank in ranks:
        for path in sorted(rank.glob("run*.jsonl")):
            match = _RECORD.fullmatch(path.name)
            if match is not None:
                child = f"child-{match[1]}" if match[1] else ""
                yield "/".join(filter(None, ["" if rank == first else rank.name, child])), path


def _link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    if link.is_dir() and not link.is_symlink():  # what was fetched, and is here now
        remove_tree(link)
    os.replace(temporary, link)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "run"

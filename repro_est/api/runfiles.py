"""The files of a run as somebody outside sees them: of the attempt that goes on, else of the one that counts.

What has ended comes out of the store, compared with its digests; what goes on is read where the script writes it, and
on hosts is fetched from there.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from repro_est.api.submission import state_of
from repro_est.digest import RunHash, TreeHash
from repro_est.errors import InfrastructureError, InputError
from repro_est.inside.history import History, read_run
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.store.layout import LIVE
from repro_est.store.records import AttemptRecord
from repro_est.store.store import Store
from repro_est.store.trees import Entry

_SHOWN = 20


class RunFiles:
    """The files of one run.

    Args:
        run: its hash.
    """

    def __init__(self, run: RunHash, store: Store) -> None:
        self._run, self._store = run, store

    def names(self) -> list[str]:
        """Returns every file, `outputs/...` and `logs/...`, sorted."""
        return [name for top in (OUTPUTS, LOGS) for name in self.paths(top)]

    def paths(self, top: str) -> dict[str, Path]:
        """Returns where each file of `outputs` or `logs` can be read, by name."""
        attempt = self._attempt()
        root = self._directory(attempt, top) if attempt is not None else None
        if root is None:
            return {}
        paths = (Path(directory, file) for directory, _, files in os.walk(root) for file in files)
        return dict(sorted((f"{top}/{path.relative_to(root).as_posix()}", path) for path in paths))

    def history(self, child: str = "") -> History:
        """Returns what the script has recorded by now.

        Args:
            child: of a child run, `1.2`.
        """
        attempt = self._attempt()
        return read_run(str(self._directory(attempt, LOGS)), child) if attempt is not None else History()

    def find(self, name: str) -> str:
        """Returns the whole name of a file; one without `outputs/` or `logs/` is looked for below outputs.

        Raises:
            InputError: there is none; what could be meant is named.
        """
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts:
            raise InputError(f"run {self._run[:12]}: got the name {name!r}, expected a path inside of the run")
        there = self.names()
        for candidate in (plain.as_posix(), f"{OUTPUTS}/{plain.as_posix()}"):
            if candidate in there:
                return candidate
        import difflib

        near = difflib.get_close_matches(name, there, n=1)
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise InputError(
            f"run {self._run[:12]}: {name}: no such file, it has: {', '.join(there[:_SHOWN]) or 'none'}{more}",
            hint=f"did you mean `{near[0]}`?" if near else None,
        )

    def copy(self, names: Sequence[str], targets: Sequence[Path]) -> None:
        """Copies files by their whole names.

        Raises:
            VerificationError: stored bytes are not what they are named for.
        """
        entries = self._entries()
        live: dict[str, Path] = {}
        for name, target in zip(names, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            if entries is not None:
                entry = entries[name]
                self._store.fetch_blob(entry, target, mode=0o755 if entry.kind == "x" else 0o644)
                continue
            live = live or {**self.paths(OUTPUTS), **self.paths(LOGS)}
            shutil.copyfile(live[name], target)

    def _attempt(self) -> AttemptRecord | None:
        return state_of(self._run, self._store.layout).attempt

    def _entries(self) -> dict[str, Entry] | None:
        """The stored files by name; None while the attempt goes on, or when it kept nothing."""
        attempt = self._attempt()
        if attempt is None or not (attempt.outputs and attempt.logs):
            return None
        trees = {OUTPUTS: attempt.outputs, LOGS: attempt.logs}
        return {
            f"{top}/{entry.path}": entry
            for top, tree in trees.items()
            for entry in self._store.read_tree(TreeHash(tree)).files()
        }

    def _directory(self, attempt: AttemptRecord, top: str) -> Path:
        directory = self._store.layout.attempt(self._run, attempt.number)
        if attempt.status.is_terminal:
            return directory / top
        live = directory / LIVE / top
        if top == LOGS and not (directory / LIVE).is_symlink():
            _bring_logs(directory, live)
        return live if live.is_dir() else directory / top


def _bring_logs(attempt: Path, live: Path) -> None:
    """Fetches what a run on hosts has logged so far."""
    from repro_est.launch.handle import read_handle
    from repro_est.launch.peek import bring_logs

    handle = read_handle(attempt)
    if handle is None:
        return
    try:
        bring_logs(handle, live)
    except InfrastructureError as error:  # then what was brought before is shown
        warnings.warn(error.message, stacklevel=2)

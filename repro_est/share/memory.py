"""What was seen of a remote before: the newest statement of each key about each run, and the packs' indexes.

    remotes/<id>/seen/<run hash>.json    {key id: {"revision", "sha256"}} of the newest payload that was believed
    remotes/<id>/packs/<name>.index      see `share.packs`; disposable

A remote cannot make anybody believe an old result that its builder replaced, once they have seen the new one.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash
from repro_est.errors import VerificationError
from repro_est.files import write_atomic
from repro_est.share.settings import RemoteSpec
from repro_est.share.statement import Statement
from repro_est.store.layout import Layout


class Memory:
    """What one store knows of one remote."""

    def __init__(self, layout: Layout, spec: RemoteSpec) -> None:
        self._root = layout.directory("remotes") / spec.id

    @property
    def packs(self) -> Path:
        return self._root / "packs"

    def check(self, statement: Statement) -> None:
        """Refuses a statement that is older than one that was seen.

        Raises:
            VerificationError: it was put back, or there are two of the same revision.
        """
        known = self._seen(statement.run_hash).get(statement.builder)
        if known is None:
            return
        if statement.revision < known["revision"]:
            raise VerificationError(
                f"was put back: it is revision {statement.revision}, revision {known['revision']} has been seen here"
            )
        if statement.revision == known["revision"] and statement.sha256 != known["sha256"]:
            raise VerificationError(f"is another revision {statement.revision} than the one that has been seen here")

    def next_revision(self, run: RunHash, builder: str) -> int:
        """Returns what the next statement of a key must have at least; its last one may be gone from the remote."""
        known = self._seen(run).get(builder)
        return int(known["revision"]) + 1 if known is not None else 0

    def keep(self, statement: Statement) -> None:
        """Remembers a statement as the newest."""
        seen = self._seen(statement.run_hash)
        told = {"revision": statement.revision, "sha256": statement.sha256}
        if seen.get(statement.builder) == told:
            return
        path = self._file(statement.run_hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**seen, statement.builder: told}).encode())

    def _seen(self, run: RunHash) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(self._file(run).read_bytes())
            if isinstance(content, dict):
                return content
        return {}

    def _file(self, run: RunHash) -> Path:
        return self._root / "seen" / f"{run}.json"

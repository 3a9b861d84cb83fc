"""What was known of a run's stored files when each was last held against its digest.

    stat/<run>.blobs    JSON, disposable: {path in the store of a file that holds contents: its stat signature}

A file with the signature it had then need not be read again. One whose signature moved is read: that may be a change,
or only another hard link to it. Git's racy rule holds as in `statcache`: what was written less than two seconds before
it was read is not remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from repro_est.digest import RunHash
from repro_est.store.fingerprint import RACY_NS, packed
from repro_est.store.layout import Layout
from repro_est.store.store import Store
from repro_est.store.trees import Entry


class Checked:
    """The stored files of one run: checks them, and remembers."""

    def __init__(self, layout: Layout, run: RunHash) -> None:
        self._file = layout.directory("stat") / f"{run}.blobs"
        self._started_ns = time.time_ns()
        self._before = self.signatures()
        self._now: dict[str, str] = {}

    def signatures(self) -> dict[str, str]:
        """Returns the signatures that are remembered; empty when nothing is to be believed."""
        try:
            content = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def defect(self, entry: Entry, store: Store) -> str | None:
        """Returns what is wrong with the content of a file, or None; reads it only when its signature is not known."""
        found = store.locate(entry)
        if found is None:
            return "is missing or has another size"
        name, status = found
        signature = packed(status).hex()
        if self._before.get(name) != signature and not store.is_good(entry):
            return "was changed"
        if max(status.st_mtime_ns, status.st_ctime_ns) < self._started_ns - RACY_NS:
            self._now[name] = signature
        return None

    def remember(self) -> None:
        """Keeps what was found out; not synced, a torn file is no JSON and is not believed."""
        if self._now == self._before:
            return
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            self._file.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(self._now))
            os.replace(temporary, self._file)

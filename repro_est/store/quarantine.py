"""Setting aside what is not what its name says: out of the way at once, kept for whoever wants to know why.

quarantine/<kind>-<name>-<id>/    what was bad, under the name it had, and reason.json
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from repro_est.files import fsync_directory, write_atomic
from repro_est.store.guard import writing
from repro_est.store.layout import Layout


def set_aside(layout: Layout, path: Path, *, kind: str, name: str, reason: str) -> None:
    """Moves a file or directory of the store into quarantine.

    Args:
        kind: blob, pack, tree, run, package, fetched, environment or model.

    Raises:
        FileNotFoundError: it is gone; somebody else may just have set it aside.
        StoreError: the store cannot be written.
    """
    place = layout.directory("quarantine") / f"{kind}-{name}-{os.urandom(4).hex()}"
    with writing(place):
        place.mkdir(parents=True)
        told = {"kind": kind, "name": name, "reason": reason}
        write_atomic(place / "reason.json", json.dumps(told, indent=1).encode() + b"\n")
        if path.is_dir():
            os.chmod(path, 0o755)  # a directory is renamed only by who may write to it
        os.rename(path, place / path.name)
        fsync_directory(place)

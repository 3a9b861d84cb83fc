"""How full a store is, cheap enough to be asked after every run: measured, and remembered for an hour.

stat/size.json      {"bytes"}; its time stamp says when. Disposable.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from repro_est.store.layout import Layout

_GOOD_SECONDS = 3600.0


def size_of_store(layout: Layout) -> int:
    """Returns the bytes of all that is in the store, as it was within the last hour."""
    path = layout.directory("stat") / "size.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if time.time() - path.stat().st_mtime < _GOOD_SECONDS:
            return int(json.loads(path.read_bytes())["bytes"])
    size = _measured(layout.root)
    remember_size(layout, size)
    return size


def forget_size(layout: Layout) -> None:
    """Has it measured again the next time."""
    with contextlib.suppress(OSError):
        (layout.directory("stat") / "size.json").unlink()


def remember_size(layout: Layout, size: int) -> None:
    path = layout.directory("stat") / "size.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # then it is measured again
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps({"bytes": size}))
        os.replace(temporary, path)


def _measured(root: Path) -> int:
    """Sums all files, each once however many names it has; a link from a view to a blob counts at the blob."""
    total = 0
    waiting = [str(root)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink == 1 or "/blobs/" in entry.path[len(str(root)) :]:
                        total += status.st_size
    return total

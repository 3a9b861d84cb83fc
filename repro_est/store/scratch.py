"""Directories that belong to one living process, and are known to be left over when it died.

The owner holds a kernel lock (flock) on the directory itself for as long as it uses it. The kernel drops the
lock with the process, kill -9 included, so whoever can take it knows that nobody is there: no pid files, no
clocks, no guessing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from repro_est.files import remove_tree
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

_GRACE_SECONDS = 60
"""A directory younger than this may not have been locked by its maker yet."""


@contextlib.contextmanager
def claimed_directory(layout: Layout, name: str) -> Iterator[Path]:
    """Makes an empty directory below `tmp` or `work`, ours until the block ends, and then removes it."""
    path = layout.directory(name) / f"{os.getpid()}-{os.urandom(6).hex()}"
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        remove_tree(path)
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether the process that made this directory is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return time.time() - os.lstat(path).st_mtime > _GRACE_SECONDS  # a plain file: no maker of ours leaves one
    try:
        if time.time() - os.fstat(descriptor).st_mtime < _GRACE_SECONDS:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

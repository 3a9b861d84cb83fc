"""What keeps cleaning away from what is in use: a time stamp that is renewed before something old is relied on.

Nothing is removed that was written or relied on within a day (`GRACE_SECONDS`). So whoever finds that a blob, a tree, a
run or an environment is there already, and goes on because of it, renews its modification time first (`renew`): from
then on he has a day to write down what refers to it. A time stamp of the last hour is left as it is, so a hit costs a
stat. What may take longer than a day, such as a run that has to come first, holds its trees (`holding`).

A renewal takes the lock `leases/sweep.lock` shared, and whoever removes something takes it exclusively while he looks
at the time stamp a last time and renames: so a renewal that succeeded is seen, and one that is too late finds nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from repro_est.digest import TreeHash
from repro_est.store.fingerprint import RENEW_SECONDS
from repro_est.store.layout import Layout
from repro_est.store.scratch import claimed_directory

GRACE_SECONDS = 24 * 3600.0
"""How long after its last use nothing is removed, whatever else may be said of it."""

_LOCK = "sweep"
_HOLDS = "holds"


def renew(layout: Layout, path: str | Path, status: os.stat_result | None = None) -> bool:
    """Whether something is there, and now safe for a day.

    Args:
        status: what lstat said of it just now, where it was asked.

    Raises:
        PermissionError: it is there, and belongs to somebody else.
    """
    try:
        status = status or os.lstat(path)
        if time.time() - status.st_mtime < RENEW_SECONDS:
            return True
        with _locked(layout, fcntl.LOCK_SH):
            os.utime(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno != errno.EROFS:  # where nothing can be written, nothing is removed
            raise
    return True


def renew_if_ours(layout: Layout, path: str | Path) -> bool:
    """As `renew`; what belongs to somebody else is taken as it is: it is there, and as safe as its owner keeps it."""
    try:
        return renew(layout, path)
    except PermissionError:
        return os.path.lexists(path)


@contextlib.contextmanager
def removing(layout: Layout) -> Iterator[None]:
    """Nothing is renewed during the block; it should be over in a moment."""
    with _locked(layout, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def holding(layout: Layout) -> Iterator[Callable[[TreeHash], None]]:
    """Gives a function that keeps a tree, with all its blobs, until the block ends or this process dies."""
    with claimed_directory(layout, "tmp") as scratch:
        holds = scratch / _HOLDS
        holds.mkdir()
        yield lambda tree: (holds / tree).touch()


def held_trees(layout: Layout) -> set[TreeHash]:
    """Returns the trees that processes hold."""
    found = (path.name for path in layout.directory("tmp").glob(f"*/{_HOLDS}/*"))
    return {TreeHash(name) for name in found if re.fullmatch("[0-9a-f]{32}", name)}


@contextlib.contextmanager
def _locked(layout: Layout, operation: int) -> Iterator[None]:
    path = layout.lease(_LOCK)
    path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if operation != fcntl.LOCK_SH:
            raise
        descriptor = os.open(path, os.O_RDONLY)  # somebody else's, which is as good to read
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)

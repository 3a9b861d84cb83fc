"""What a full, read-only or forbidden disk says, as an error with the way out."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from repro_est.errors import StoreError

FULL = "free some space (`repro gc`), or set REPRO_STORE to another disk"
_ELSEWHERE = "set REPRO_STORE to a directory you can write to"
_REMEDIES = {
    errno.ENOSPC: ("no space left on the store's disk", FULL),
    errno.EDQUOT: ("disk quota exceeded", FULL),
    errno.EROFS: ("the store's file system is read-only", _ELSEWHERE),
    errno.EACCES: ("no permission to write", _ELSEWHERE),
    errno.EPERM: ("no permission to write", _ELSEWHERE),
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns such an error inside the block into a `StoreError` that names `path`; others pass."""
    try:
        yield
    except OSError as error:
        told = store_error(path, error.errno or 0)
        if told is None:
            raise
        raise told from None


def full_disk_in(text: str) -> int | None:
    """Returns the errno of a full disk that another program's message names, as Rust does: `(os error 28)`."""
    return next((number for number in (errno.ENOSPC, errno.EDQUOT) if f"(os error {number})" in text), None)


def store_error(path: Path, number: int) -> StoreError | None:
    """Returns what an errno at `path` means for the store, None when it means nothing in particular."""
    if number not in _REMEDIES:
        return None
    message, hint = _REMEDIES[number]
    return StoreError(f"{path}: {message}", hint=hint)

"""Fingerprints of directories: the digest of the stat signatures of what is in one.

Imports next to nothing, because a hit is decided by it (`cli.recall`, `store.statcache`).
"""

from __future__ import annotations

import os
import stat
from struct import Struct

from xxhash import xxh3_128_hexdigest

RACY_NS = 2_000_000_000
"""Git's racy rule: what was written this shortly before it was looked at may be written again within one time stamp."""

RENEW_SECONDS = 3600.0
"""What was used this long ago says so again when it is used, before a cleaning takes it for unused (`freshness`)."""

_FORK_FROM = 20_000
"""Entries from which on a second process pays."""

_pack = Struct("<6q").pack


def fingerprint(directory: str, ignored: frozenset[str] = frozenset()) -> tuple[str, int, int]:
    """Returns the digest of the signatures in a directory (or of one file), how many there are, and the newest time.

    The directory's own times count for the newest: what was made, moved or removed in it shortly before shows there
    and nowhere else.

    Args:
        ignored: names that are left out, a directory's with a `/` behind: a file of that name is another matter.
    """
    status = os.stat(directory)
    if not stat.S_ISDIR(status.st_mode):
        return xxh3_128_hexdigest(packed(status)), 1, max(status.st_mtime_ns, status.st_ctime_ns)
    left_out = {os.fsencode(name) for name in ignored}
    parts: list[bytes] = []
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    with os.scandir(os.fsencode(directory)) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if name + b"/" not in left_out:
                    parts.append(name + b"\0/")  # its own fingerprint covers what is in it
                continue
            if name in left_out:
                continue
            status = entry.stat(follow_symlinks=False)
            changed, modified = status.st_ctime_ns, status.st_mtime_ns
            newest = max(newest, changed, modified)
            parts.append(
                name + b"\0" + _pack(status.st_dev, status.st_ino, status.st_size, modified, changed, status.st_mode)
            )
    parts.sort()
    return xxh3_128_hexdigest(b"".join(parts)), len(parts), newest


def packed(status: os.stat_result) -> bytes:
    """Returns device, inode, size, mtime, ctime and mode as bytes."""
    return _pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def unchanged(root: str, directories: dict[str, list[object]], total: int) -> bool:
    """Whether every directory below `root` still has its fingerprint.

    Args:
        directories: relative path to `[fingerprint, ignored names]`; an empty fingerprint is never believed.
        total: number of entries, which decides whether a second process helps.
    """
    items = list(directories.items())
    workers = min(os.cpu_count() or 1, 4) if total >= _FORK_FROM and hasattr(os, "fork") else 1
    children: list[tuple[int, int]] = []
    for number in range(1, workers):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # no thread was started yet, and the child touches nothing but the file system
            same = False
            try:
                same = _match(root, items[number::workers])
            finally:
                os.write(writer, b"1" if same else b"0")
                os._exit(0)
        os.close(writer)
        children.append((child, reader))
    same = _match(root, items[0::workers])
    for child, reader in children:
        same = os.read(reader, 1) == b"1" and same
        os.close(reader)
        os.waitpid(child, 0)
    return same


def join(root: str, directory: str) -> str:
    return f"{root}/{directory}" if directory else root


def _match(root: str, items: list[tuple[str, list[object]]]) -> bool:
    try:
        return all(
            known and fingerprint(join(root, path), frozenset(ignored))[0] == known  # type: ignore[call-overload]
            for path, (known, ignored) in items
        )
    except (OSError, TypeError, ValueError):
        return False

"""Directories that were finished once and must not change since: environments.

The whole of one, every file, symlink and empty directory, is written down as a tree when it is finished. `differences`
reads all of it again. `is_unchanged` reads nothing: after a check that found it good, a stat cache (`statcache`)
remembers the fingerprint of each directory, outside of it; while all are the same, so is what was checked. Nothing is
remembered of what is younger than two seconds, so the first use after that checks in full.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro_est.digest import TreeHash
from repro_est.files import printable
from repro_est.store.blobs import digest_file
from repro_est.store.layout import Layout
from repro_est.store.statcache import StatCache
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_SHOWN = 5

_Leaf = tuple[str, os.stat_result]
"""A path below the root and its status, links not followed."""


def seal(root: Path, *, except_for: str) -> Tree:
    """Returns all of a directory as a tree.

    Args:
        except_for: name of the one file in it that is not part of it, its record.
    """
    return Tree.of(_entries(root, _leaves(root, except_for)))


def differences(root: Path, sealed: TreeHash, store: Store, *, except_for: str) -> list[str]:
    """Returns every path that is not as it was sealed: changed, missing or added.

    Raises:
        StoreError, VerificationError: the tree cannot be read.
    """
    cache = _cache(store.layout, root)
    before = store.read_tree(sealed).by_path()
    leaves = _leaves(root, except_for)
    after = {entry.path: entry for entry in _entries(root, leaves)}
    different = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if not different:
        directories = (path for path, status in leaves if stat.S_ISDIR(status.st_mode))
        cache.remember(sealed, {}, {}, ["", *directories])
    return [printable(path) for path in different]


def is_unchanged(root: Path, sealed: TreeHash, layout: Layout) -> bool:
    """Whether nothing moved since all of it was read and found good; reads no content."""
    known = _cache(layout, root).remembered()
    return known is not None and known.tree == sealed


def in_words(different: list[str]) -> str:
    """Returns the first of what is different as part of a sentence."""
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"not as it was built: {', '.join(different[:_SHOWN])}{more}"


def _cache(layout: Layout, root: Path) -> StatCache:
    return StatCache(layout, root, "sealed")


def _leaves(root: Path, except_for: str) -> list[_Leaf]:
    """Everything below the root, directories too."""
    return [leaf for leaf in _below(str(root), "") if leaf[0] != except_for]


def _below(directory: str, prefix: str) -> Iterator[_Leaf]:
    try:
        with os.scandir(directory) as entries:
            listed = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:  # what cannot be listed is missed by whoever compares
        return
    for name, status in listed:
        yield prefix + name, status
        if stat.S_ISDIR(status.st_mode):
            yield from _below(f"{directory}/{name}", f"{prefix}{name}/")


def _entries(root: Path, leaves: list[_Leaf]) -> list[Entry]:
    """Digests every file, several at a time; a directory is an entry when it is empty."""
    parents = {path.rpartition("/")[0] for path, _ in leaves}
    wanted = [(path, status) for path, status in leaves if path not in parents]
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda start: [_entry(root, *leaf) for leaf in wanted[start::threads]], range(threads))
        return [entry for part in parts for entry in part]


def _entry(root: Path, path: str, status: os.stat_result) -> Entry:
    mode = status.st_mode
    try:
        if stat.S_ISDIR(mode):
            return Entry(path, Kind.DIRECTORY)
        if stat.S_ISLNK(mode):
            return Entry(path, Kind.SYMLINK, target=os.readlink(root / path))
        if stat.S_ISREG(mode):
            content = digest_file(root / path, with_sha256=False)
            return Entry(path, Kind.EXECUTABLE if mode & 0o111 else Kind.FILE, content.xxh3, content.size)
    except OSError:
        pass
    return Entry(path, Kind.FILE)  # unreadable, or a named pipe: with a digest that no content has

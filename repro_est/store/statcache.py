"""Stat caches: they save reading files that did not change, and never decide an identity.

One cache belongs to one directory and one set of rules. It has two files, both JSON and disposable:

    stat/<id>.tree      per directory, a fingerprint of the stat signatures of what is in it, and the tree hash
                        that all of them together had: when every fingerprint is the same, the answer is known
    stat/<id>.files     per file, its signature and digests: what the next walk need not read again

Git's racy rule (git's Documentation/technical/racy-git.txt): a file that was written less than two seconds before
the walk began may be written again within the same timestamp, so it is not remembered, nor is its directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.digest import BlobHash, Sha256, TreeHash, xxh3, xxh3_hex
from repro_est.files import write_all
from repro_est.store.blobs import Content
from repro_est.store.layout import Layout

_FORMAT = 1
_RACY_NS = 2_000_000_000
_FORK_FROM = 20_000
"""Entries from which on a second process pays."""

_pack = struct.Struct("<6q").pack

Signature = tuple[int, int, int, int, int, int]


class Remembered(NamedTuple):
    """The answer of a cache whose directories are all unchanged."""

    tree: TreeHash
    notes: tuple[str, ...]


class StatCache:
    """The cache of one directory.

    Args:
        layout: the store's.
        root: absolute directory, or one file.
        rules: text that changes when the selection of files does; another text is another cache.
    """

    def __init__(self, layout: Layout, root: Path, rules: str) -> None:
        self._root = str(root)
        identity = xxh3_hex(f"{_FORMAT}\0{rules}\0{root}".encode("utf-8", "surrogateescape"))
        self._tree_file = layout.directory("stat") / f"{identity}.tree"
        self._files_file = layout.directory("stat") / f"{identity}.files"
        self.started_ns = time.time_ns()

    def remembered(self) -> Remembered | None:
        """Returns the tree of the last walk if nothing below the root moved since, else None."""
        content = _load(self._tree_file)
        try:
            directories = content["directories"]
            total = content["entries"]
            answer = Remembered(TreeHash(content["tree"]), tuple(content["notes"]))
            items = [(path, str(item[0]), frozenset(item[1])) for path, item in directories.items()]
        except (KeyError, TypeError, IndexError, AttributeError):
            return None
        workers = min(os.cpu_count() or 1, 4) if total >= _FORK_FROM else 1
        return answer if _all_match(self._root, items, workers) else None

    def files(self) -> dict[str, tuple[Signature, Content]]:
        """Returns what is known of each file by its path; empty when nothing is."""
        content = _load(self._files_file)
        try:
            return {
                path: ((*item[:6],), Content(BlobHash(item[6]), Sha256(item[7]) if item[7] else None, item[2]))
                for path, item in content["files"].items()
            }
        except (KeyError, TypeError, IndexError, AttributeError):
            return {}

    def remember(
        self,
        tree: TreeHash,
        files: Mapping[str, tuple[Signature, Content]],
        ignored: Mapping[str, Iterable[str]],
        directories: Iterable[str],
        notes: Iterable[str] = (),
    ) -> None:
        """Keeps what a walk found out.

        Args:
            files: every file with the signature it had when it was read.
            ignored: names left out, by directory.
            directories: relative path of every directory, `""` for the root.
        """
        trusted = {path: item for path, item in files.items() if self._is_settled(item[0])}
        fingerprints: dict[str, tuple[str, list[str]]] = {}
        entries = 0
        for directory in directories:
            names = frozenset(ignored.get(directory, ()))
            fingerprint, count, newest = _fingerprint(_join(self._root, directory), names)
            entries += count
            settled = newest < self.started_ns - _RACY_NS
            fingerprints[directory] = (fingerprint if settled else "", sorted(names))
        self._store(
            self._files_file,
            {
                "files": {
                    path: [*signature, content.xxh3, content.sha256] for path, (signature, content) in trusted.items()
                }
            },
        )
        self._store(
            self._tree_file,
            {"tree": tree, "entries": entries, "notes": list(notes), "directories": fingerprints},
        )

    def _is_settled(self, signature: Signature) -> bool:
        return max(signature[3], signature[4]) < self.started_ns - _RACY_NS

    def _store(self, path: Path, content: dict[str, Any]) -> None:
        """Replaces a cache file. Not synced: a torn one is no JSON and is not believed."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(content, separators=(",", ":")), "utf-8", "surrogateescape")
            os.replace(temporary, path)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _all_match(root: str, items: list[tuple[str, str, frozenset[str]]], workers: int) -> bool:
    """Whether every directory still has its fingerprint, looked at by `workers` processes."""
    if workers == 1 or not hasattr(os, "fork"):
        return _match(root, items)
    children: list[tuple[int, int]] = []
    for number in range(1, workers):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # no thread was started yet, and the child touches nothing but the file system
            same = False
            try:
                same = _match(root, items[number::workers])
            finally:
                write_all(writer, b"1" if same else b"0")
                os._exit(0)
        os.close(writer)
        children.append((child, reader))
    same = _match(root, items[0::workers])
    for child, reader in children:
        same = os.read(reader, 1) == b"1" and same
        os.close(reader)
        os.waitpid(child, 0)
    return same


def _match(root: str, items: list[tuple[str, str, frozenset[str]]]) -> bool:
    try:
        return all(
            fingerprint and _fingerprint(_join(root, path), ignored)[0] == fingerprint
            for path, fingerprint, ignored in items
        )
    except OSError:
        return False


def _fingerprint(directory: str, ignored: frozenset[str]) -> tuple[str, int, int]:
    """Returns the digest of the signatures in a directory, how many there are, and the newest time among them."""
    if not os.path.isdir(directory):
        return _fingerprint_file(directory)
    parts: list[tuple[str, bytes]] = []
    newest = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if name in ignored:
                continue
            if entry.is_dir(follow_symlinks=False):
                parts.append((name, b"/"))  # its own fingerprint covers what is in it
                continue
            status = entry.stat(follow_symlinks=False)
            changed, modified = status.st_ctime_ns, status.st_mtime_ns
            newest = max(newest, changed, modified)
            packed = _pack(status.st_dev, status.st_ino, status.st_size, modified, changed, status.st_mode)
            parts.append((name, packed))
    parts.sort()
    hasher = xxh3()
    hasher.update(b"".join([name.encode("utf-8", "surrogateescape") + b"\0" + packed for name, packed in parts]))
    return hasher.hexdigest(), len(parts), newest


def _fingerprint_file(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    packed = _pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
    return xxh3_hex(packed), 1, max(status.st_mtime_ns, status.st_ctime_ns)


def _join(root: str, directory: str) -> str:
    return f"{root}/{directory}" if directory else root

"""Stat caches: they save reading files that did not change, and never decide an identity.

One cache belongs to one directory and one set of rules. It has two files, both JSON and disposable:

    stat/<id>.tree      per directory, a fingerprint of the stat signatures of what is in it, and the tree hash
                        that all of them together had: when every fingerprint is the same, the answer is known
    stat/<id>.files     per file, its signature and digests: what the next walk need not read again

Git's racy rule (git's Documentation/technical/racy-git.txt): a file that was written less than two seconds before
the walk began may be written again within the same timestamp, so it is not remembered, nor is its directory. The
same goes for a directory in which something was made, moved or removed that recently.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.digest import BlobHash, Sha256, TreeHash, xxh3_hex
from repro_est.store.blobs import Content
from repro_est.store.fingerprint import RACY_NS, fingerprint, join, unchanged
from repro_est.store.layout import Layout

_FORMAT = 2

Signature = tuple[int, int, int, int, int, int]


class Remembered(NamedTuple):
    """The answer of a cache whose directories are all unchanged."""

    tree: TreeHash
    files: int
    size: int
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
        content = self.content()
        try:
            answer = Remembered(TreeHash(content["tree"]), content["files"], content["size"], tuple(content["notes"]))
            same = unchanged(self._root, content["directories"], content["entries"])
        except (KeyError, TypeError, AttributeError, ValueError, OSError):
            return None
        return answer if same else None

    def content(self) -> dict[str, Any]:
        """Returns what was kept of the last walk, `{}` when there is nothing to be believed."""
        return _load(self._tree_file)

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
            ignored: names left out, by directory; as `fingerprint` takes them.
            directories: relative path of every directory, `""` for the root.
        """
        trusted = {path: item for path, item in files.items() if self._is_settled(item[0])}
        fingerprints: dict[str, tuple[str, list[str]]] = {}
        entries = 0
        for directory in directories:
            names = frozenset(ignored.get(directory, ()))
            try:
                digest, count, newest = fingerprint(join(self._root, directory), names)
            except OSError:  # removed since the walk: the next one will see
                digest, count, newest = "", 0, 0
            entries += count
            settled = newest < self.started_ns - RACY_NS
            fingerprints[directory] = (digest if settled else "", sorted(names))
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
            {
                "tree": tree,
                "files": len(files),
                "size": sum(content.size for _, content in files.values()),
                "entries": entries,
                "notes": list(notes),
                "directories": fingerprints,
            },
        )

    def _is_settled(self, signature: Signature) -> bool:
        return max(signature[3], signature[4]) < self.started_ns - RACY_NS

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

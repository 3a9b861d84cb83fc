"""Trees on their way to another machine: every file with its SHA-256, and what comes in checked before it is used.

The name of a tree is XXH3-128, which finds change and not malice; so a statement also binds the SHA-256 of the
manifest's bytes, and the manifest that of each file. A manifest from outside may hold any path: one that would leave
its directory, or go through a symlink, is refused.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from repro_est.digest import Sha256, TreeHash, sha256_hex
from repro_est.errors import VerificationError
from repro_est.files import nested
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree, parse_manifest

LIMIT = 1 << 30
"""Bytes of a manifest that are read at most; 5 million files."""

_XXH3, _SHA256 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")


class Bound(NamedTuple):
    """A tree by both its digests.

    Args:
        tree: its name in a store.
        sha256: of its manifest with the SHA-256 of every file; its name in a remote.
    """

    tree: TreeHash
    sha256: Sha256

    def to_json(self) -> dict[str, str]:
        return {"tree": self.tree, "sha256": self.sha256}


def complete(tree: Tree, store: Store) -> Tree:
    """Returns a tree of the store with the SHA-256 of every file, reading those whose it does not know."""
    if all(entry.sha256 is not None for entry in tree.files()):
        return tree
    entries = [
        entry._replace(sha256=_sha256_of(entry, store)) if entry.is_file and entry.sha256 is None else entry
        for entry in tree.entries
    ]
    return Tree.of(entries, single_file=tree.single_file)


def bound(tree: Tree) -> Bound:
    """Returns both digests of a complete tree."""
    return Bound(tree.hash, sha256_hex(tree.manifest()))


def incoming_tree(data: bytes, expected: Bound) -> Tree:
    """Reads a manifest from outside.

    Raises:
        VerificationError: it is not the one that was signed, or holds what no run of ours leaves.
    """
    got = sha256_hex(data)
    if got != expected.sha256:
        raise VerificationError(
            f"tree {expected.tree}: manifest was changed, expected sha256 {expected.sha256}, got {got}"
        )
    tree = parse_manifest(data, expected.tree)
    problem = next(filter(None, map(_problem, tree.entries)), None) or _shape_problem(tree)
    if problem is not None:
        raise VerificationError(f"tree {expected.tree}: {problem}")
    return tree


def _sha256_of(entry: Entry, store: Store) -> Sha256:
    from repro_est.files import sha256_file

    path = store.layout.blob(entry.xxh3)
    return sha256_file(path) if path.exists() else sha256_hex(store.read_blob(entry))


def _problem(entry: Entry) -> str | None:
    parts = entry.path.split("/")
    if not all(parts) or "." in parts or ".." in parts or "\0" in entry.path:
        return f"got the path {entry.path!r}, expected one that stays inside"
    if entry.is_file:
        if not _XXH3.fullmatch(entry.xxh3) or not _SHA256.fullmatch(entry.sha256 or "") or entry.size < 0:
            return f"{entry.path}: has no digests"
    elif entry.kind is Kind.SYMLINK:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target))
        if not entry.target or entry.target.startswith("/") or target == ".." or target.startswith("../"):
            return f"{entry.path}: is a symlink to {entry.target!r}, which leaves the directory"
    return None


def _shape_problem(tree: Tree) -> str | None:
    paths = [entry.path for entry in tree.entries]
    if len(set(paths)) != len(paths):
        return "has a path twice"
    above = next(nested(paths), None)
    if above is not None:
        return f"{above[1]} is below {above[0]}, which is no directory"
    if tree.single_file and (len(paths) != 1 or "/" in paths[0]):
        return "is no single file"
    return None

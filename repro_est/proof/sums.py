"""SHA-256 of every file of a tree, for whatever is said of it to others.

What a run wrote has them in its manifest. A source or an input that never left this machine may have none: its files
are read once and held against the digest that they do have.
"""

from __future__ import annotations

from pathlib import Path

from repro_est.digest import Sha256, sha256_hex
from repro_est.errors import VerificationError
from repro_est.store.blobs import digest_file
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Tree


def with_sums(tree: Tree, store: Store, *, root: Path | None = None) -> Tree:
    """Returns the same tree, with the SHA-256 of every file.

    Args:
        root: the directory it describes, or the file; None where its contents are blobs.

    Raises:
        VerificationError: a file is not what the tree says, or not there.
    """
    if all(entry.sha256 for entry in tree.files()):
        return tree
    entries = [
        entry._replace(sha256=_sum(entry, tree, store, root)) if entry.is_file and not entry.sha256 else entry
        for entry in tree.entries
    ]
    return Tree.of(entries, single_file=tree.single_file)


def manifest_sum(tree: Tree) -> Sha256:
    """Returns the SHA-256 of a tree's manifest, in which every file has its own: it binds all of the tree."""
    assert all(entry.sha256 for entry in tree.files())
    return sha256_hex(tree.manifest())


def _sum(entry: Entry, tree: Tree, store: Store, root: Path | None) -> Sha256:
    if root is None:
        path = store.layout.blob(entry.xxh3)
        if not path.exists():
            return sha256_hex(store.read_blob(entry))
    else:
        path = root if tree.single_file else root / entry.path
    try:
        content = digest_file(path)
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}") from None
    if content.xxh3 != entry.xxh3:
        raise VerificationError(f"{path}: changed since it was hashed")
    assert content.sha256 is not None
    return content.sha256

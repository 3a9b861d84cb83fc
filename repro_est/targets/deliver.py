"""Bringing trees to a host: what it lacks travels, everything is checked there by SHA-256.

A tree of this store becomes entries as hosts know them (`hostside.objects`), with a SHA-256 for each file. Where a tree
has none, because it never left this machine, the files are read once, compared with the digest they do have, and the
result is kept in `hosts/manifests/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repro_est.errors import VerificationError
from repro_est.files import write_atomic
from repro_est.hosts.session import RequestFailed, Session
from repro_est.hostside.objects import digest_of_entries
from repro_est.store.blobs import digest_file
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_CHUNK = 1 << 18
_T = TypeVar("_T")

HostEntry = list[Any]
"""`[path, kind, sha256 or link target, size]`, as `hostside.objects` has it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A tree on its way.

    Args:
        root: where its files are; None for one whose contents are blobs of the store.
        replaced: contents of files that are others on this host, by SHA-256.
    """

    entries: tuple[HostEntry, ...]
    tree: Tree | None = None
    root: Path | None = None
    replaced: tuple[tuple[str, bytes], ...] = ()

    @property
    def digest(self) -> str:
        """What hosts call it."""
        return digest_of_entries(self.entries)


def parcel_of_tree(tree: Tree, store: Store, *, root: Path | None = None) -> Parcel:
    """Returns a tree ready to travel.

    Args:
        root: the directory it describes, or the file; None where its contents are blobs.

    Raises:
        VerificationError: a file is not what the tree says.
    """
    if all(entry.sha256 for entry in tree.files()):
        entries = [_entry(entry, str(entry.sha256)) for entry in tree.entries]
        return Parcel(tuple(entries), tree, root)
    cached = store.layout.directory("hosts") / "manifests" / f"{tree.hash}.json"
    try:
        entries = json.loads(cached.read_bytes())
    except (OSError, ValueError):
        entries = [_entry(entry, _sha256(entry, tree, store, root)) for entry in tree.entries]
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cached, json.dumps(entries).encode())
    return Parcel(tuple(entries), tree, root)


def deliver(session: Session, parcel: Parcel, store: Store) -> int:
    """Sends what the host lacks of a tree; returns the bytes that were sent.

    Raises:
        RequestFailed: the host has no room.
        VerificationError: a file here is no more what the tree says.
    """
    replaced = dict(parcel.replaced)
    files = {(entry[2], entry[1]): entry for entry in parcel.entries if entry[1] in "fx"}
    wanted = [[digest, kind, entry[3]] for (digest, kind), entry in files.items()]
    missing = session.missing(wanted)
    sources = {entry.path: entry for entry in parcel.tree.files()} if parcel.tree else {}

    def contents() -> Iterator[tuple[str, str, int, Iterator[bytes]]]:
        for digest, kind, size in missing:
            path = files[digest, kind][0]
            if digest in replaced:
                yield digest, kind, size, iter([replaced[digest]])
            else:
                yield digest, kind, size, _chunks(sources[path], parcel, store)

    try:
        return session.put(contents()) if missing else 0
    except RequestFailed as error:
        names = [entry[0] for entry in parcel.entries if entry[1] in "fx" and entry[2] == error.facts.get("digest")]
        if not names:
            raise
        where = _path(sources[names[0]], parcel.tree, parcel.root) if parcel.tree and parcel.root else names[0]
        raise VerificationError(f"{where}: changed since it was hashed") from None


def placed(session: Session, key: str, parcel: Parcel, store: Store, *, path: str | None = None) -> str:
    """Returns where a host has a tree as a read-only directory, bringing it there when it has not.

    Args:
        key: names the place on the host.
        path: where it must be; default: in the host's store.
    """
    at = {"path": path} if path else {}
    answer = session.call("placed", key=key, **at)
    if not answer["placed"]:
        answer = _delivered(
            session, parcel, store, lambda: session.call("place", key=key, entries=list(parcel.entries), **at)
        )
    found: str = answer["path"]
    return found


def copied(session: Session, token: str, parcel: Parcel, store: Store) -> str:
    """Makes the source of a run on a host; returns the digest of what was written there.

    What the host lacks is asked for only when it says that it lacks something: mostly it has all.
    """

    def use() -> str:
        return str(session.call("source", token=token, entries=list(parcel.entries))["digest"])

    try:
        return use()
    except RequestFailed as error:
        if not error.facts.get("damaged"):
            raise
    return _delivered(session, parcel, store, use)


def _delivered(session: Session, parcel: Parcel, store: Store, use: Callable[[], _T]) -> _T:
    """Brings a tree to a host and uses it there; again for what was found changed on that host, and is gone now."""
    deliver(session, parcel, store)
    try:
        return use()
    except RequestFailed as error:
        if not error.facts.get("damaged"):
            raise
    deliver(session, parcel, store)
    return use()


def _entry(entry: Entry, sha256: str) -> HostEntry:
    if entry.is_file:
        return [entry.path, entry.kind.value, sha256, entry.size]
    return [entry.path, entry.kind.value, entry.target if entry.kind is Kind.SYMLINK else "", 0]


def _sha256(entry: Entry, tree: Tree, store: Store, root: Path | None) -> str:
    if not entry.is_file:
        return ""
    if entry.sha256:
        return str(entry.sha256)
    if root is None:
        return hashlib.sha256(store.read_blob(entry)).hexdigest()
    content = digest_file(_path(entry, tree, root))
    if content.xxh3 != entry.xxh3:
        raise VerificationError(f"{_path(entry, tree, root)}: changed since it was hashed")
    return str(content.sha256)


def _chunks(entry: Entry, parcel: Parcel, store: Store) -> Iterator[bytes]:
    assert parcel.tree is not None
    if parcel.root is not None:
        path: Path | None = _path(entry, parcel.tree, parcel.root)
    else:
        blob = store.layout.blob(entry.xxh3)
        path = blob if blob.exists() else None
    if path is None:
        yield store.read_blob(entry)
        return
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _path(entry: Entry, tree: Tree, root: Path) -> Path:
    return root if tree.single_file else root / entry.path


def changed_files(session: Session, places: Sequence[tuple[str, str, str]]) -> list[str]:
    """Returns the inputs (name, key, path on the host) that are not as they were placed."""
    return [name for name, key, path in places if not session.call("placed", key=key, path=path)["placed"]]

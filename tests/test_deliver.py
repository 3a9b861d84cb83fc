"""Trees are brought to a host: only what it lacks travels, and what arrives is what was hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.digest import Sha256
from repro_est.errors import VerificationError
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.local import LocalHost
from repro_est.hosts.session import Session
from repro_est.hostside import runs
from repro_est.hostside.objects import described
from repro_est.store.blobs import digest_file
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree
from repro_est.targets.deliver import Parcel, changed_files, copied, deliver, parcel_of_tree, placed


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(LocalHost(HostSpec("h1", store=str(tmp_path / "host"), is_local=True)))
    yield session
    session.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"a" * 1000)
    (root / "sub/b").write_bytes(b"b" * 2000)
    (root / "sub/same").write_bytes(b"a" * 1000)
    return root


def tree_of(root: Path, *, sha256: bool = True) -> Tree:
    entries = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = digest_file(path)
            proof = Sha256(str(content.sha256)) if sha256 else None
            entries.append(Entry(str(path.relative_to(root)), Kind.FILE, content.xxh3, path.stat().st_size, proof))
    return Tree.of(entries)


def spoil(tmp_path: Path, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    path = tmp_path / "host/objects" / digest[:2] / digest[2:]
    path.chmod(0o644)
    path.write_bytes(b"#" + content[1:])


def test_only_what_is_missing_is_sent(session: Session, store: Store, source: Path) -> None:
    assert deliver(session, parcel_of_tree(tree_of(source), store, root=source), store) == 3000  # `same` once
    assert deliver(session, parcel_of_tree(tree_of(source), store, root=source), store) == 0
    (source / "c").write_bytes(b"c" * 7)
    assert deliver(session, parcel_of_tree(tree_of(source), store, root=source), store) == 7


def test_a_place_is_made_once_and_is_the_tree(session: Session, store: Store, source: Path) -> None:
    parcel = parcel_of_tree(tree_of(source), store, root=source)
    path = placed(session, "key", parcel, store)
    inode = os.stat(path).st_ino
    assert described(path) == list(parcel.entries)
    assert placed(session, "key", parcel, store) == path
    assert os.stat(path).st_ino == inode


def test_objects_that_were_changed_on_the_host_are_sent_again(
    session: Session, store: Store, source: Path, tmp_path: Path
) -> None:
    parcel = parcel_of_tree(tree_of(source), store, root=source)
    deliver(session, parcel, store)
    for content in (b"a" * 1000, b"b" * 2000):
        spoil(tmp_path, content)
    assert described(placed(session, "key", parcel, store)) == list(parcel.entries)


def test_a_source_of_objects_that_were_changed_is_copied_in_the_end(
    session: Session, store: Store, source: Path, tmp_path: Path
) -> None:
    parcel = parcel_of_tree(tree_of(source), store, root=source)
    deliver(session, parcel, store)
    spoil(tmp_path, b"b" * 2000)
    token = "unit" + os.urandom(6).hex()
    directory = Path(runs.create(str(tmp_path / "host"), token, {}))
    try:
        assert copied(session, token, parcel, store) == parcel.digest
        assert described(str(directory / "source")) == list(parcel.entries)
    finally:
        runs.remove(str(tmp_path / "host"), token)


@pytest.mark.parametrize("sha256", [True, False], ids=["with SHA-256", "without"])
def test_an_input_that_changed_since_it_was_hashed_is_named(
    session: Session, store: Store, source: Path, sha256: bool
) -> None:
    tree = tree_of(source, sha256=sha256)
    (source / "sub/b").write_bytes(b"B" * 2000)
    with pytest.raises(VerificationError, match="sub/b: changed since it was hashed"):
        deliver(session, parcel_of_tree(tree, store, root=source), store)
    assert session.call("hello")["ok"]


def test_the_sha256_of_an_input_is_read_once(session: Session, store: Store, source: Path) -> None:
    tree = tree_of(source, sha256=False)
    entries = parcel_of_tree(tree, store, root=source).entries
    (source / "sub/b").write_bytes(b"B" * 2000)
    parcel = parcel_of_tree(tree, store, root=source)
    assert parcel.entries == entries
    with pytest.raises(VerificationError, match="sub/b: changed since it was hashed"):
        placed(session, "key", parcel, store)
    assert session.call("placed", key="key")["placed"] is False


def test_contents_may_be_others_on_the_host(session: Session, store: Store, source: Path) -> None:
    tree = tree_of(source)
    data = b"#!/there/python\n"
    digest = hashlib.sha256(data).hexdigest()
    entries = tuple(
        [e.path, "f", digest, len(data)] if e.path == "a" else [e.path, "f", str(e.sha256), e.size]
        for e in tree.entries
    )
    path = placed(session, "key", Parcel(entries, tree, source, ((digest, data),)), store)
    assert Path(path, "a").read_bytes() == data


def test_an_input_that_was_written_to_on_the_host_is_named(session: Session, store: Store, source: Path) -> None:
    parcel = parcel_of_tree(tree_of(source), store, root=source)
    good, bad = (placed(session, key, parcel, store) for key in ("good", "bad"))
    Path(bad).chmod(0o755)
    Path(bad, "new").touch()
    assert changed_files(session, [("train", "good", good), ("test", "bad", bad)]) == ["test"]

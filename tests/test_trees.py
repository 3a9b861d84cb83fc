"""Tree manifests: identity, escaping, tamper detection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.digest import Sha256, TreeHash, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.store.trees import Entry, Kind, Tree, escape, parse_manifest, unescape

GOLDEN = (
    Entry("train.py", Kind.FILE, xxh3_hex(b"print(1)\n"), 9, Sha256("a" * 64)),
    Entry("bin/go", Kind.EXECUTABLE, xxh3_hex(b""), 0),
    Entry("latest", Kind.SYMLINK, target="bin/go"),
    Entry("empty", Kind.DIRECTORY),
    Entry("tab\tnew\nback\\slash", Kind.FILE, xxh3_hex(b"x"), 1),
)


def test_a_tree_keeps_its_published_hash() -> None:
    assert Tree.of(GOLDEN).hash == "cb63d577a0a1745bfc4c94c8ae5abf9c"


def test_a_single_file_is_another_tree_than_a_directory_with_it() -> None:
    assert Tree.of(GOLDEN[:1]).hash != Tree.of(GOLDEN[:1], single_file=True).hash


def test_sha256_is_kept_and_does_not_decide_the_identity() -> None:
    without = [entry._replace(sha256=None) for entry in GOLDEN]
    assert Tree.of(GOLDEN).hash == Tree.of(without).hash
    assert parse_manifest(Tree.of(GOLDEN).manifest(), Tree.of(GOLDEN).hash).by_path()["train.py"].sha256 == "a" * 64


@pytest.mark.parametrize(
    "change",
    [
        {"path": "train2.py"},
        {"kind": Kind.EXECUTABLE},
        {"xxh3": xxh3_hex(b"other")},
        {"size": 10},
        {"kind": Kind.DIRECTORY},
        {"kind": Kind.SYMLINK, "target": "x"},
    ],
    ids=str,
)
def test_each_field_of_an_entry_decides(change: dict[str, object]) -> None:
    changed = (GOLDEN[0]._replace(**change), *GOLDEN[1:])  # type: ignore[arg-type]
    assert Tree.of(changed).hash != Tree.of(GOLDEN).hash


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
files = st.builds(
    lambda path, data, executable, sha: Entry(
        path, Kind.EXECUTABLE if executable else Kind.FILE, xxh3_hex(data), len(data), Sha256("b" * 64) if sha else None
    ),
    paths,
    st.binary(max_size=8),
    st.booleans(),
    st.booleans(),
)
links = st.builds(lambda path, target: Entry(path, Kind.SYMLINK, target=target), paths, names)
entries = st.lists(files | links | paths.map(lambda path: Entry(path, Kind.DIRECTORY)), unique_by=lambda e: e.path)


@given(entries)
def test_a_manifest_reads_back_as_the_same_tree(found: list[Entry]) -> None:
    tree = Tree.of(found)
    assert parse_manifest(tree.manifest(), tree.hash) == tree


@given(entries)
def test_the_order_of_a_walk_does_not_matter(found: list[Entry]) -> None:
    assert Tree.of(reversed(found)) == Tree.of(found)


@given(st.text())
def test_escaping_is_undone(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not set(escape(text)) & set("\t\n\r")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b"train.py", b"trein.py"),
        lambda data: b"repro-tree 2\n" + data.split(b"\n", 1)[1],
        lambda data: data + b"x\n",
        lambda data: b"\xff\xfe",
        lambda data: b"",
    ],
)
def test_a_damaged_manifest_is_refused(damage: object) -> None:
    tree = Tree.of(GOLDEN)
    with pytest.raises(VerificationError):
        parse_manifest(damage(tree.manifest()), tree.hash)  # type: ignore[operator]


def test_a_part_of_a_tree_is_a_tree() -> None:
    tree = Tree.of(GOLDEN)
    assert [entry.path for entry in (tree.below("bin") or tree).entries] == ["go"]
    alone = tree.below("train.py")
    assert alone is not None
    assert alone.single_file
    assert tree.below("nothing") is None
    assert tree.below("") is tree
    assert tree.below("empty") == Tree.of([])


def test_a_manifest_of_another_tree_is_refused() -> None:
    with pytest.raises(VerificationError, match="was changed"):
        parse_manifest(Tree.of(GOLDEN).manifest(), TreeHash("0" * 32))

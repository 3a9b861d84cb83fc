"""The content side of the store: what is visible is whole, what leaves is checked, nothing is shared."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repro_est.digest import Sha256, xxh3_hex
from repro_est.errors import StoreError, VerificationError
from repro_est.files import write_atomic
from repro_est.store.blobs import digest_file
from repro_est.store.packs import PACK_FROM, Packs
from repro_est.store.scratch import claimed_directory, is_abandoned
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree
from repro_est.store.verify import verify
from tests.conftest import as_root, missing
from tests.faults import crash_everywhere


def put(store: Store, *contents: bytes) -> list[Entry]:
    with store.batch() as batch:
        for data in contents:
            batch.put(data, xxh3_hex(data))
        batch.publish()
    return [Entry(f"file{number}", Kind.FILE, xxh3_hex(data), len(data)) for number, data in enumerate(contents)]


def blobs(store: Store) -> list[Path]:
    return sorted(path for path in store.layout.directory("blobs").rglob("*") if path.is_file())


def test_a_new_store_says_its_format_and_opens_again(tmp_path: Path) -> None:
    assert Store.open(tmp_path / "s").layout.format_file.read_text() == "1\n"
    Store.open(tmp_path / "s")


def test_a_store_of_a_newer_format_is_refused(store: Store) -> None:
    store.layout.format_file.write_text("2\n")
    with pytest.raises(StoreError, match="format 2, this version of repro reads up to 1"):
        Store.open(store.layout.root)


def test_a_directory_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"is not a store, it holds `thesis.tex`"):
        Store.open(tmp_path)


@pytest.mark.parametrize("name", [".format.77.0a1b2c3d.tmp", "index.db-journal"])
def test_a_store_that_somebody_else_makes_at_this_moment_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert Store.open(tmp_path).layout.format_file.read_text() == "1\n"


def test_nothing_is_visible_before_publish_and_nothing_stays_without_it(store: Store) -> None:
    with store.batch() as batch:
        batch.put(b"abc", xxh3_hex(b"abc"))
        assert blobs(store) == []
    assert blobs(store) == []
    assert os.listdir(store.layout.directory("tmp")) == []


def test_blobs_are_read_only_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        put(store, b"abc")
    finally:
        os.umask(before)
    assert stat.S_IMODE(blobs(store)[0].stat().st_mode) == 0o444


def test_the_same_bytes_are_stored_once(store: Store) -> None:
    put(store, b"abc", b"def")
    put(store, b"abc")
    assert len(blobs(store)) == 2


def test_a_torn_blob_is_written_again(store: Store) -> None:
    entry = put(store, b"abcdef")[0]
    path = store.layout.blob(entry.xxh3)
    path.chmod(0o644)
    path.write_bytes(b"abc")
    put(store, b"abcdef")
    assert path.read_bytes() == b"abcdef"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1 << 20, (8 << 20) + 1])
def test_reading_in_one_piece_or_overlapped_gives_the_same_digests(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    content = digest_file(tmp_path / "f")
    assert (content.xxh3, content.size) == (xxh3_hex(data), size)


def test_adopting_takes_a_file_without_copying(store: Store) -> None:
    with claimed_directory(store.layout, "work") as work:
        (work / "model").write_bytes(b"weights")
        inode = (work / "model").stat().st_ino
        with store.batch() as batch:
            (content,) = batch.adopt([work / "model"])
            batch.publish()
    assert store.layout.blob(content.xxh3).stat().st_ino == inode


def test_a_changed_blob_never_leaves_the_store(store: Store, tmp_path: Path) -> None:
    entry = put(store, b"good")[0]
    path = store.layout.blob(entry.xxh3)
    path.chmod(0o644)
    path.write_bytes(b"evil")
    with pytest.raises(VerificationError, match="was changed"):
        store.fetch_blob(entry, tmp_path / "out", mode=0o644)
    assert not (tmp_path / "out").exists()


def test_a_working_copy_shares_nothing_with_the_store(store: Store, tmp_path: Path) -> None:
    entries = put(store, b"one", b"two")
    tree = Tree.of(
        [
            entries[0],
            entries[1]._replace(kind=Kind.EXECUTABLE, path="d/x"),
            Entry("e", Kind.DIRECTORY),
            Entry("l", Kind.SYMLINK, target="d/x"),
        ]
    )
    store.materialise(tree, tmp_path / "work")
    (tmp_path / "work" / "file0").write_bytes(b"changed")
    assert store.layout.blob(entries[0].xxh3).read_bytes() == b"one"
    assert os.access(tmp_path / "work/d/x", os.X_OK)
    assert (tmp_path / "work/e").is_dir()
    assert os.readlink(tmp_path / "work/l") == "d/x"


def test_a_view_is_read_only_and_costs_no_space(store: Store, tmp_path: Path) -> None:
    tree = Tree.of([entry._replace(path=f"a/{entry.path}") for entry in put(store, b"one")])
    store.view(tree, store.layout.root / "runs" / "view")
    file = store.layout.root / "runs/view/a/file0"
    assert file.stat().st_nlink == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    if not as_root():
        with pytest.raises(PermissionError):
            file.write_bytes(b"x")


def test_a_read_only_store_still_reads(store: Store) -> None:
    tree = Tree.of(put(store, b"abc"))
    store.write_tree(tree)
    if as_root():
        subprocess.run(["mount", "--bind", store.layout.root, store.layout.root], check=False)
        done = subprocess.run(["mount", "-o", "remount,bind,ro", store.layout.root], check=False)
        if done.returncode:
            missing("no permission to mount a directory read-only")
    else:
        subprocess.run(["chmod", "-R", "a-w", store.layout.root], check=True)
    try:
        again = Store.open(store.layout.root)
        assert again.read_tree(tree.hash) == tree
        with pytest.raises(StoreError, match=r"read-only|no permission"):
            put(again, b"new")
    finally:
        if as_root():
            subprocess.run(["umount", "-l", store.layout.root], check=False)
        else:
            subprocess.run(["chmod", "-R", "u+w", store.layout.root], check=True)


def test_a_full_disk_is_an_error_and_leaves_the_old_state(small_disk: Callable[[int], Path]) -> None:
    store = Store.open(small_disk(2 << 20) / "store")
    put(store, b"old")
    with pytest.raises(StoreError, match="no space left"):
        put(store, os.urandom(3 << 20))
    assert [path.read_bytes() for path in blobs(store)] == [b"old"]
    assert os.listdir(store.layout.directory("tmp")) == []
    put(store, b"new")


def test_a_kill_at_any_point_of_publishing_leaves_no_torn_blob(store: Store) -> None:
    contents = [b"x" * size for size in (1, 100, 70_000)]
    deaths = 0
    for _ in crash_everywhere(lambda: put(store, *contents) and None):
        deaths += 1
        for path in blobs(store):
            assert xxh3_hex(path.read_bytes()) == path.parent.name + path.name
    assert deaths > 8
    assert len(blobs(store)) == 3


def test_scratch_of_a_dead_process_is_known_as_abandoned(store: Store) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from repro_est.store.layout import Layout\n"
        "from repro_est.store.scratch import claimed_directory\n"
        "with claimed_directory(Layout(Path(sys.argv[1])), 'tmp') as path:\n"
        "    print(path, flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store.layout.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    path = Path(process.stdout.readline().strip())
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    assert not is_abandoned(path)
    process.kill()
    process.wait()
    assert is_abandoned(path)


def test_sha256_is_computed_beside_the_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with store.batch() as batch, open(tmp_path / "f", "rb") as file:
        content = batch.copy(file.fileno())
        batch.publish()
    assert content.sha256 == Sha256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


MEASURE = """
import sys
from pathlib import Path
from repro_est.store.blobs import digest_file
from repro_est.store.store import Store
digest_file(Path(sys.argv[1]))
store = Store.open(Path(sys.argv[2]))
with store.batch() as batch, open(sys.argv[1], "rb") as file:
    batch.copy(file.fileno())
    batch.publish()
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_size_of_a_file(tmp_path: Path) -> None:
    peaks: list[int] = []
    for size in (1 << 20, 300 << 20):
        with open(tmp_path / "file", "wb") as file:
            file.truncate(size)
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "file"), str(tmp_path / f"store{size}")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 16 << 10  # KiB


def many(store: Store) -> tuple[Tree, list[bytes]]:
    contents = [b"%d," % number * (1 + number % 50) for number in range(PACK_FROM + 5)]
    tree = Tree.of(put(store, *contents))
    store.write_tree(tree)
    return tree, contents


def test_many_small_files_are_one_pack_and_read_like_any_other(store: Store, tmp_path: Path) -> None:
    tree, contents = many(store)
    assert blobs(store) == []
    assert len(os.listdir(store.layout.directory("packs"))) == 2
    again = Store.open(store.layout.root)
    assert all(again.has_blob(entry) for entry in tree.entries)
    store.materialise(tree, tmp_path / "work")
    assert (tmp_path / "work" / "file7").read_bytes() == contents[7]
    again.view(tree, store.layout.root / "work" / "view")
    assert (store.layout.root / "work/view/file7").read_bytes() == contents[7]
    put(again, contents[7])
    assert blobs(store) == []  # what is packed is not stored again
    assert verify(store).findings == []


def test_a_changed_pack_is_found_and_set_aside(store: Store, tmp_path: Path) -> None:
    tree, contents = many(store)
    pack = next(store.layout.directory("packs").glob("*.pack"))
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes().replace(b"77,", b"78,", 1))
    assert [finding.kind for finding in verify(store, repair=True).findings] == ["pack"]
    with pytest.raises(VerificationError, match="not in the store"):
        Store.open(store.layout.root).materialise(tree, tmp_path / "work")
    put(store, *contents)
    Store.open(store.layout.root).materialise(tree, tmp_path / "work2")


def test_a_kill_while_packing_leaves_no_index_without_its_pack(store: Store) -> None:
    contents = [b"%d" % number for number in range(PACK_FROM)]
    for _ in crash_everywhere(lambda: put(store, *contents) and None):
        for name, found in Packs(store.layout).entries():
            assert xxh3_hex(found.read()) == name
    assert len(list(Packs(store.layout).entries())) == PACK_FROM


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    write_atomic(tmp_path / "null", b"x")
    assert (tmp_path / "null").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(tmp_path / "pipe", b"through")
    assert os.read(reader, 10) == b"through"
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    os.close(reader)

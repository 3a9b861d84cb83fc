"""Snapshots and inputs: what is taken, what is refused, and what is not read twice."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repro_est.errors import InputError, SourceError
from repro_est.git import facts
from repro_est.ignore import Ignore
from repro_est.snapshot import Snapshot, changes, digest_input, list_source, signatures, snapshot
from repro_est.store.store import Store
from repro_est.store.trees import Kind
from tests.conftest import as_root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text("import pkg\n")
    (root / "pkg" / "__init__.py").write_text("")
    return root


def take(source: Path, store: Store, **limits: int) -> Snapshot:
    return snapshot(
        source, store, exclude=(), max_bytes=limits.get("max_bytes", 1 << 30), max_files=limits.get("max_files", 10**6)
    )


def age(root: Path) -> None:
    """Waits until nothing below root is racy any more; file times cannot be set back as ctime cannot."""
    time.sleep(2.1)


def paths(source: Path, store: Store) -> list[str]:
    return [entry.path for entry in store.read_tree(take(source, store).hash).entries]


def test_modes_links_and_empty_directories_are_kept(source: Path, store: Store) -> None:
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    (source / "link").symlink_to("pkg/__init__.py")
    (source / "empty").mkdir()
    kinds = {entry.path: entry.kind for entry in store.read_tree(take(source, store).hash).entries}
    assert kinds == {
        "empty": Kind.DIRECTORY,
        "link": Kind.SYMLINK,
        "pkg/__init__.py": Kind.FILE,
        "run.sh": Kind.EXECUTABLE,
        "train.py": Kind.FILE,
    }


def test_the_hash_moves_with_content_names_modes_and_nothing_else(source: Path, store: Store) -> None:
    first = take(source, store).hash
    os.utime(source / "train.py", (1, 1))
    (source / "train.py").chmod(0o600)
    assert take(source, store).hash == first
    (source / "pkg").rename(source / "package")
    renamed = take(source, store).hash
    (source / "train.py").chmod(0o755)
    assert len({first, renamed, take(source, store).hash}) == 3


def test_another_directory_has_the_same_hash(source: Path, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", source, copy], check=True, env={"PATH": os.environ["PATH"]}, umask=0o077)
    assert take(copy, store).hash == take(source, store).hash


def test_what_is_executed_is_the_copy(source: Path, store: Store) -> None:
    taken = take(source, store)
    (source / "train.py").write_text("changed later\n")
    entry = store.read_tree(taken.hash).by_path()["train.py"]
    assert store.layout.blob(entry.xxh3).read_text() == "import pkg\n"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "pkg/../../x"])
def test_a_symlink_that_leaves_the_source_is_refused(source: Path, store: Store, target: str) -> None:
    (source / "link").symlink_to(target)
    with pytest.raises(SourceError, match="link: symlink to"):
        take(source, store)


def test_all_that_cannot_be_kept_is_said_at_once(source: Path, store: Store) -> None:
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "sock"))
    (source / "Train.py").write_text("")
    (source / "cafe\u0301").write_text("")
    (source / "caf\u00e9").write_text("")
    Path(os.fsdecode(os.fsencode(source) + b"/bad\xff.py")).write_text("")
    with pytest.raises(SourceError) as caught:
        take(source, store)
    message = str(caught.value)
    for expected in (
        "pipe: is a named pipe",
        "sock: is a socket",
        "train.py: collides with Train.py",
        "café",
        r"bad\xff.py: name is not UTF-8",
    ):
        assert expected in message


def test_directories_that_differ_only_in_case_are_refused(source: Path, store: Store) -> None:
    (source / "Pkg").mkdir()
    (source / "Pkg" / "other.py").write_text("")
    with pytest.raises(SourceError, match="collides with Pkg"):
        take(source, store)


def test_an_unreadable_file_is_refused() -> None:
    def refusal() -> str:
        root = Path(tempfile.mkdtemp(prefix="unreadable-"))
        try:
            (root / "source").mkdir()
            (root / "source" / "train.py").touch(mode=0)
            take(root / "source", Store.open(root / "store"))
        except SourceError as error:
            return str(error)
        finally:
            shutil.rmtree(root)
        return "it was taken"

    assert "train.py: cannot be read: Permission denied" in as_nobody(refusal)


def as_nobody(function: Callable[[], str]) -> str:
    """Calls a function as an ordinary user, because root reads every file."""
    if not as_root():
        return function()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            os.write(writer, function().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def test_ignore_rules_in_their_order(source: Path, store: Store) -> None:
    (source / ".gitignore").write_text("*.log\n/big\n# comment\n!keep.log\n")
    (source / "pkg" / ".gitignore").write_text("local.txt\n!inner.log\n")
    (source / ".amlignore").write_text("notes.md\n")
    (source / ".reproignore").write_text("!again.log\n*.tmp\n")
    for name in ("a.log", "keep.log", "again.log", "x.tmp", "notes.md", "pkg/local.txt", "pkg/inner.log", "local.txt"):
        (source / name).write_text("")
    for name in ("big/data.bin", "__pycache__/x.pyc", ".git/HEAD", "outputs/old", "logs/old", "pkg/outputs/kept"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    assert paths(source, store) == [
        "again.log", "keep.log", "local.txt", "pkg/__init__.py", "pkg/inner.log", "pkg/outputs/kept", "train.py",
    ]  # fmt: skip


def test_ignore_rules_agree_with_git(source: Path, store: Store) -> None:
    (source / ".gitignore").write_text("*.o\nbuild/\n/top.txt\ndoc/**/*.pdf\n!doc/keep.pdf\nfoo[0-9]\n\\#odd\n")
    for name in (
        "a.o",
        "build/x",
        "sub/build/y",
        "top.txt",
        "sub/top.txt",
        "doc/a/b.pdf",
        "doc/keep.pdf",
        "foo1",
        "food",
        "#odd",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    subprocess.run(["git", "init", "-q", source], check=True)
    listed = subprocess.run(
        ["git", "-C", source, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert sorted(name for name in listed if name and name != ".gitignore") == paths(source, store)


def test_each_exclusion_knows_its_reason(source: Path) -> None:
    (source / ".gitignore").write_text("\n*.log\n")
    (source / "a.log").write_text("")
    listing = list_source(source, exclude=(source / "train.py",))
    assert dict(listing.ignored)["a.log"] == ".gitignore:2 *.log"
    assert "tells repro" in dict(listing.ignored)["train.py"]
    assert listing.included == (("pkg/__init__.py", 0),)
    assert Ignore(source).reason("x/.venv", True) is not None


def test_a_source_that_is_too_large_names_its_largest_files(source: Path, store: Store) -> None:
    (source / "weights.bin").write_bytes(b"x" * 5000)
    with pytest.raises(SourceError) as caught:
        take(source, store, max_bytes=1000)
    assert "5,000  weights.bin" in caught.value.message
    assert "`/weights.bin`" in str(caught.value.hint)
    with pytest.raises(SourceError):
        take(source, store, max_files=1)


def test_what_looks_like_a_secret_is_warned_about(source: Path, store: Store) -> None:
    for name in (".env", "id_rsa", ".env.example", "pkg/server.pem"):
        (source / name).write_text("x")
    warned = [warning.split(":")[0] for warning in take(source, store).warnings]
    assert sorted(Path(path).name for path in warned) == [".env", "id_rsa", "server.pem"]
    assert take(source, store).warnings  # also when the answer comes from the cache


def test_an_unchanged_source_is_not_read_again(source: Path, store: Store) -> None:
    age(source)
    first = take(source, store)
    again = take(source, store)
    assert (first.cached, again.cached) == (False, True)
    assert again.hash == first.hash


@pytest.mark.parametrize("change", ["content", "mode", "new", "gone", "ignore", "renamed"])
def test_the_stat_cache_misses_no_change(source: Path, store: Store, change: str) -> None:
    (source / "pkg" / "b.py").write_text("b = 1\n")
    age(source)
    first = take(source, store).hash
    match change:
        case "content":
            (source / "pkg" / "b.py").write_text("b = 2\n")
            os.utime(source / "pkg" / "b.py", (1, 1))
        case "mode":
            (source / "pkg" / "b.py").chmod(0o755)
        case "new":
            (source / "pkg" / "c.py").write_text("")
        case "gone":
            (source / "pkg" / "b.py").unlink()
        case "ignore":
            (source / ".gitignore").write_text("b.py\n")
        case "renamed":
            (source / "pkg" / "b.py").rename(source / "pkg" / "z.py")
    second = take(source, store)
    assert (second.cached, second.hash != first) == (False, True)
    (store.layout.root / "stat").rename(store.layout.root / "tmp" / "stat")
    assert take(source, store).hash == second.hash  # and without any cache it is the same


def test_a_file_written_just_now_is_not_trusted(source: Path, store: Store) -> None:
    take(source, store)
    assert not take(source, store).cached


def test_a_broken_stat_cache_is_ignored(source: Path, store: Store) -> None:
    age(source)
    first = take(source, store).hash
    for file in store.layout.directory("stat").iterdir():
        file.write_bytes(b'{"directories": 3}')
    assert take(source, store).hash == first


def test_a_file_that_never_holds_still_is_refused_or_whole(source: Path, store: Store) -> None:
    (source / "train.py").write_bytes(b"%08d\n" % 0 * 20_000)
    stop = threading.Event()

    def rewrite() -> None:  # in place and in pieces, 200 times a second
        for number in itertools.count(1):
            with open(source / "train.py", "r+b", buffering=0) as file:
                for _ in range(10):
                    file.write(b"%08d\n" % number * 2000)
            if stop.wait(0.005):
                return

    writer = threading.Thread(target=rewrite)
    writer.start()
    refused = 0
    try:
        for _ in range(15):
            try:
                entry = store.read_tree(take(source, store).hash).by_path()["train.py"]
            except SourceError as error:
                refused += "train.py: changed while it was read" in str(error)
            else:
                assert len(set(store.layout.blob(entry.xxh3).read_bytes().split())) == 1
    finally:
        stop.set()
        writer.join()
    assert refused
    take(source, store)


def test_an_input_is_hashed_in_place_and_not_copied(tmp_path: Path, store: Store) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1,2\n")
    tree = digest_input(data, store)
    assert [entry.path for entry in tree.tree.entries] == ["a.csv"]
    assert list(store.layout.directory("blobs").rglob("*")) == []
    assert digest_input(data / "a.csv", store).tree.single_file


def test_a_file_as_an_input_is_not_a_directory_with_that_file(tmp_path: Path, store: Store) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    assert digest_input(tmp_path / "d", store).tree.hash != digest_input(tmp_path / "d/a", store).tree.hash


def test_an_input_that_is_written_to_is_noticed(tmp_path: Path, store: Store) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    (data / "b").write_text("1")
    tree = digest_input(data, store)
    before = signatures(tree)
    assert changes(before, tree) == []
    (data / "a").write_text("2")
    (data / "c").write_text("3")
    (data / "b").unlink()
    assert changes(before, tree) == ["a", "b", "c"]


def test_a_missing_input_is_an_error(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="No such file"):
        digest_input(tmp_path / "nothing", store)


def test_git_facts_have_no_credentials_and_are_never_required(source: Path) -> None:
    assert facts(source) is None
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://me:secret@host/team/code.git"], check=True)
    clean = facts(source)
    assert clean is not None
    assert (clean.remote, clean.branch, clean.dirty, clean.patch) == ("https://host/team/code.git", "main", False, "")
    (source / "train.py").write_text("import os\n")
    dirty = facts(source)
    assert dirty is not None
    assert "+import os" in dirty.patch

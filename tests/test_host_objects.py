"""What a host keeps is what it is named for, whatever happened to its disk, and whoever else was at it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro_est.hostside import objects as module
from repro_est.hostside import runs
from repro_est.hostside.objects import Damaged, Objects, described, digest_of_entries, remove_tree
from tests.conftest import as_root


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def here(tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "host"))


def keep(here: Objects, data: bytes, kind: str = "f") -> str:
    here.put(sha256(data), kind, [data[:3], data[3:]])
    return sha256(data)


def tree(here: Objects) -> list[list[Any]]:
    """A tree with everything in it, its objects all here."""
    return [
        ["a/data.txt", "f", keep(here, b"data"), 4],
        ["a/same.txt", "f", sha256(b"data"), 4],
        ["empty", "d", "", 0],
        ["link", "l", "a/data.txt", 0],
        ["tool", "x", keep(here, b"#!/bin/sh\n", "x"), 10],
    ]


def overwrite(path: str, data: bytes) -> None:
    os.chmod(path, 0o644)
    Path(path).write_bytes(data)


def temporary(here: Objects) -> list[Path]:
    return sorted(Path(here.root).rglob("*.tmp"))


# ---- contents


def test_a_content_is_kept_read_only_under_its_digest(here: Objects) -> None:
    digest = keep(here, b"hello")
    path = here.path(digest, "f")
    assert Path(path).read_bytes() == b"hello"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o444
    assert stat.S_IMODE(os.stat(here.path(keep(here, b"hello", "x"), "x")).st_mode) == 0o555


def test_only_what_is_not_here_is_missing(here: Objects) -> None:
    digest = keep(here, b"hello")
    wanted = [[digest, "f", 5], [digest, "x", 5], [sha256(b"other"), "f", 5]]
    assert here.missing(wanted) == wanted[1:]
    overwrite(here.path(digest, "f"), b"hell")
    assert here.missing(wanted[:1]) == wanted[:1]


def test_another_content_than_announced_is_not_kept(here: Objects) -> None:
    with pytest.raises(Damaged, match="arrived as"):
        here.put(sha256(b"hello"), "f", [b"hellO"])
    assert here.missing([[sha256(b"hello"), "f", 5]]) != []
    assert temporary(here) == []


def test_a_full_disk_leaves_nothing_behind(small_disk: Callable[[int], Path]) -> None:
    here = Objects(str(small_disk(1 << 20)))
    data = os.urandom(2 << 20)
    with pytest.raises(OSError, match="No space left"):
        here.put(sha256(data), "f", [data])
    assert temporary(here) == []
    keep(here, b"small enough")
    large = keep(here, os.urandom(700_000))
    with pytest.raises(OSError, match="No space left"):
        here.copy_tree([["one", "f", large, 700_000]], os.path.join(here.root, "runs", "source"))
    assert os.listdir(os.path.join(here.root, "runs", "source")) == []


def _put_often(root: str, data: bytes) -> None:
    here = Objects(root)
    for _ in range(50):
        here.put(sha256(data), "f", [data[at : at + 1000] for at in range(0, len(data), 1000)])


def test_several_processes_may_put_the_same_at_once(here: Objects) -> None:
    data = os.urandom(100_000)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_put_often, args=(here.root, data)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert module.digest_of(here.path(sha256(data), "f")) == sha256(data)
    assert temporary(here) == []


def test_what_killed_processes_left_goes_after_a_day(here: Objects) -> None:
    program = (
        "import sys, os, time; from repro_est.hostside.objects import Objects\n"
        "def chunks():\n    yield b'half'\n    print('there', flush=True)\n    time.sleep(60)\n"
        f"Objects({here.root!r}).put({sha256(b'x')!r}, 'f', chunks())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    place = Path(here.root, "places", "key.0123.tmp")
    (place / "inside").mkdir(parents=True)
    place.chmod(0o555)
    left = temporary(here)
    assert len(left) == 2
    here.tidy()
    assert temporary(here) == left  # it may still be arriving
    for path in left:
        os.utime(path, (0, time.time() - 25 * 3600))
    here.tidy()
    assert temporary(here) == []


def old(here: Objects, days: float) -> None:
    """Makes all there is as old as if nobody had used it for so many days."""
    when = time.time() - days * 24 * 3600
    for directory, names, files in os.walk(here.root):
        for name in (*names, *files):
            os.utime(os.path.join(directory, name), (when, when), follow_symlinks=False)


def test_what_was_not_used_for_a_month_goes_and_what_was_stays(here: Objects) -> None:
    for key in ("used", "unused"):
        here.make_place(key, here.place(key), [[f"{key}.txt", "f", keep(here, key.encode()), len(key)]])
    sent = keep(here, b"sent again")
    keep(here, b"never again")
    old(here, 31)
    again = described(here.place("used"))
    here.make_place("used", here.place("used"), again)
    assert here.is_placed("used", here.place("used"))
    assert here.missing([[sent, "f", 10]]) == []
    here.clean()
    assert here.is_placed("used", here.place("used"))
    assert not os.path.exists(here.place("unused"))
    left = sorted(Path(here.root, "objects").rglob("*/*"))
    assert len(left) == 2
    assert here.missing([[sent, "f", 10]]) == []
    assert temporary(here) == []


def test_what_an_attempt_that_is_here_may_use_stays_however_old(here: Objects) -> None:
    here.make_place("key", here.place("key"), [["a", "f", keep(here, b"data"), 4]])
    runs.create(here.root, "token", {})
    try:
        old(here, 40)
        here.clean()
        assert os.path.isdir(here.place("key"))
    finally:
        os.unlink(runs.link("token"))


def test_a_place_that_is_elsewhere_is_not_ours_to_remove(here: Objects, tmp_path: Path) -> None:
    elsewhere = tmp_path / "prefix" / "env"
    here.make_place("key", str(elsewhere), [["a", "f", keep(here, b"data"), 4]])
    old(here, 40)
    here.clean()
    assert here.is_placed("key", str(elsewhere))


# ---- places


def test_a_place_is_the_tree_read_only(here: Objects) -> None:
    entries, path = tree(here), here.place("key")
    here.make_place("key", path, entries)
    assert described(path) == sorted(entries)
    modes = {
        name: stat.S_IMODE(os.lstat(os.path.join(path, name)).st_mode)
        for name in ("", "a", "empty", "a/data.txt", "tool")
    }
    assert modes == {"": 0o555, "a": 0o555, "empty": 0o555, "a/data.txt": 0o444, "tool": 0o555}
    assert os.path.samefile(os.path.join(path, "tool"), here.path(sha256(b"#!/bin/sh\n"), "x"))
    assert here.is_placed("key", path)
    assert not here.is_placed("key", path + "2")
    assert not here.is_placed("other", path)


def _change(path: Path) -> None:
    overwrite(str(path / "a/data.txt"), b"DATA")


def _same_size_and_time(path: Path) -> None:
    before = (path / "a/data.txt").stat()
    (path / "a").chmod(0o755)
    (path / "a/new").write_bytes(b"DATA")
    os.utime(path / "a/new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (path / "a/new").rename(path / "a/data.txt")


def _another_link(path: Path) -> None:
    path.chmod(0o755)
    (path / "link").unlink()
    (path / "link").symlink_to("tool")


def _without_exec_bit(path: Path) -> None:
    (path / "tool").chmod(0o444)


def _one_more(path: Path) -> None:
    path.chmod(0o755)
    (path / "more").touch()


def _one_less(path: Path) -> None:
    path.chmod(0o755)
    (path / "empty").rmdir()


def _gone(path: Path) -> None:
    remove_tree(str(path))


@pytest.mark.parametrize(
    "spoil",
    [_change, _same_size_and_time, _another_link, _without_exec_bit, _one_more, _one_less, _gone],
    ids=lambda function: function.__name__.strip("_"),
)
def test_a_changed_place_is_noticed_and_made_anew(here: Objects, spoil: Callable[[Path], None]) -> None:
    entries, path = tree(here), here.place("key")
    here.make_place("key", path, entries)
    spoil(Path(path))
    assert not here.is_placed("key", path)
    try:
        here.make_place("key", path, entries)
    except Damaged:  # a place shares its files with the objects: what was changed is sent again
        assert here.missing([entry[2:0:-1] + entry[3:] for entry in entries if entry[1] in "fx"]) != []
        here.make_place("key", path, tree(here))
    assert here.is_placed("key", path)
    assert described(path) == sorted(entries)


def test_a_place_that_was_only_touched_is_sealed_again(here: Objects) -> None:
    entries, path = tree(here), here.place("key")
    here.make_place("key", path, entries)
    inode = os.stat(path).st_ino
    os.utime(os.path.join(path, "a/data.txt"), (1, 1))
    record = Path(here.place("key") + ".json").read_text()
    assert here.is_placed("key", path)
    assert Path(here.place("key") + ".json").read_text() != record
    assert os.stat(path).st_ino == inode


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"path": 1}', "\x00"])
def test_a_record_that_says_nothing_is_not_believed(here: Objects, record: str) -> None:
    entries, path = tree(here), here.place("key")
    here.make_place("key", path, entries)
    Path(here.place("key") + ".json").write_text(record)
    assert not here.is_placed("key", path)


def test_all_changed_objects_are_found_at_once_and_removed(here: Objects) -> None:
    entries = tree(here)
    for digest, kind in ((entries[0][2], "f"), (entries[4][2], "x")):
        overwrite(here.path(digest, kind), b"XXXX")
    with pytest.raises(Damaged):
        here.make_place("key", here.place("key"), entries)
    assert here.missing([[entries[0][2], "f", 4], [entries[4][2], "x", 4]]) == [
        [entries[0][2], "f", 4],
        [entries[4][2], "x", 4],
    ]
    assert temporary(here) == []
    assert not os.path.exists(here.place("key"))


def test_a_place_of_another_tree_is_made_anew(here: Objects) -> None:
    entries, path = tree(here), here.place("key")
    here.make_place("key", path, entries)
    here.make_place("key", path, entries[:2])
    assert described(path) == entries[:2]


def test_a_place_may_be_elsewhere(here: Objects, tmp_path: Path) -> None:
    entries, path = tree(here), str(tmp_path / "deep/er/prefix")
    (tmp_path / "deep/er/prefix.0a.tmp").mkdir(parents=True)  # of a process that was killed
    here.make_place("key", path, entries)
    assert here.is_placed("key", path)
    assert os.listdir(tmp_path / "deep/er") == ["prefix"]


def _place(root: str, entries: list[list[Any]], ready: Any, answers: Any) -> None:
    here = Objects(root)
    ready.wait(10)
    here.make_place("key", here.place("key"), entries)
    answers.put(os.stat(here.place("key")).st_ino)


def test_who_makes_the_same_place_at_once_gets_the_same(here: Objects) -> None:
    entries = [*tree(here), *([f"many/{number}", "f", sha256(b"data"), 4] for number in range(300))]
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_place, args=(here.root, entries, ready, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    inodes = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(10)
    assert len(inodes) == 1
    assert temporary(here) == []


# ---- copies


def test_a_copy_is_private_and_writable(here: Objects, tmp_path: Path) -> None:
    entries, path = tree(here), str(tmp_path / "copy")
    assert here.copy_tree(entries, path) == digest_of_entries(entries) == digest_of_entries(described(path))
    overwrite(os.path.join(path, "a/data.txt"), b"mine")
    assert here.copy_tree(entries, str(tmp_path / "next")) == digest_of_entries(entries)
    assert stat.S_IMODE(os.stat(os.path.join(path, "tool")).st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_changed_object_is_noticed_on_copy_and_sent_again(here: Objects, tmp_path: Path, how: str) -> None:
    entries, path = tree(here), str(tmp_path / "copy")
    if how == "changed":
        overwrite(here.path(entries[0][2], "f"), b"DATA")
    else:
        os.unlink(here.path(entries[0][2], "f"))
    with pytest.raises(Damaged):
        here.copy_tree(entries, path)
    assert os.listdir(path) == []
    keep(here, b"data")
    assert here.copy_tree(entries, path) == digest_of_entries(described(path))


def test_the_digest_of_a_tree_moves_with_names_kinds_and_contents_only() -> None:
    entries = [["a", "f", "1", 1], ["b", "l", "a", 0]]
    assert (
        digest_of_entries(entries)
        == digest_of_entries(entries[::-1])
        == digest_of_entries([["a", "f", "1", 9], entries[1]])
    )
    others = (
        [["a", "x", "1", 1], entries[1]],
        [["c", "f", "1", 1], entries[1]],
        [["a", "f", "2", 1], entries[1]],
        entries[:1],
    )
    assert len({digest_of_entries(other) for other in [entries, *others]}) == 5


def test_removing_takes_read_only_parts_too_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").touch()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "a/b").chmod(0o000)
    (root / "a").chmod(0o555)
    remove_tree(str(root))
    remove_tree(str(root))  # nothing there is fine
    assert not root.exists()
    assert (tmp_path / "outside/kept").exists()


# ---- attempts


def test_an_attempt_that_is_removed_is_gone_at_once_and_whole(here: Objects) -> None:
    token = "unit" + os.urandom(6).hex()
    path = runs.create(here.root, token, {"user": "me"})
    assert runs.status(here.root, token) == {"known": True, "alive": False, "verdict": None, "about": {"user": "me"}}
    assert os.path.samefile(runs.link(token), path)
    runs.remove(here.root, token)
    assert not os.path.lexists(runs.link(token))
    assert (runs.tokens(here.root), os.listdir(os.path.join(here.root, "runs"))) == ([], [])
    os.mkdir(os.path.join(here.root, "runs", ".going-" + token))  # killed in the middle
    runs.reap(here.root)
    assert os.listdir(os.path.join(here.root, "runs")) == []


def test_an_attempt_without_a_daemon_is_lost_and_kept_for_its_controller(here: Objects) -> None:
    token = "unit" + os.urandom(6).hex()
    path = Path(runs.create(here.root, token, {}))
    runs.reap(here.root)
    assert runs.status(here.root, token)["verdict"] is None  # it is just being made
    (path / "alive").touch()
    (path / "ranks/0").mkdir()  # it was told what to execute
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "REPRO_TOKEN": token}
    )
    try:
        runs.reap(here.root)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
    assert runs.status(here.root, token)["verdict"]["outcome"] == "host_lost"
    old = time.time() - runs.KEPT_SECONDS - 60
    os.utime(path / "verdict.json", (old, old))
    runs.reap(here.root)
    assert runs.tokens(here.root) == []


@pytest.mark.parametrize("token", ["", "..", "a/b", "a-b"])
def test_a_token_names_no_other_directory(token: str) -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        runs.directory("/x", token)


def test_who_is_not_root_notices_changes_too(tmp_path: Path) -> None:
    if not as_root():
        pytest.skip("the other tests are of somebody who is not root")
    root = tmp_path / "theirs"
    root.mkdir()
    for parent in [root, *list(root.parents)[:3]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    os.chown(root, 65534, 65534)
    program = f"""
import os, hashlib
from repro_est.hostside.objects import Objects, remove_tree
os.setgid(65534); os.setuid(65534)
here = Objects({str(root)!r} + "/store")
digest = hashlib.sha256(b"x").hexdigest()
here.put(digest, "f", [b"x"])
entries = [["d/e/file", "f", digest, 1]]
path = here.place("key")
here.make_place("key", path, entries)
assert here.is_placed("key", path)
os.chmod(path + "/d/e", 0)
assert not here.is_placed("key", path)
here.make_place("key", path, entries)
assert here.is_placed("key", path)
remove_tree(path)
assert not os.path.exists(path)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

"""What a store needs of a file system, tried out in a directory: for `repro doctor`, of stores and shared directories.

Each trial makes a few small files in a directory of its own and removes them. What other processes see is tried with
another process: on NFS a lock keeps out others, and not the one that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repro_est.files import fsync_directory, remove_tree

_SKEW_SECONDS = 2.0
_LOW_INODES = 0.02
_OTHER = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(7)
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried.

    Args:
        found: what came out, in words.
        remedy: what to do when it is not well.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


_LOCAL = "keep the store on a local POSIX file system"


def try_out(root: Path) -> Iterator[Trial]:
    """Yields what came of each trial; the first one says whether anything can be written at all."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="doctor-", dir=root))
    except OSError as error:
        remedy = "set REPRO_STORE to a directory you can write to; reading still works"
        yield Trial("writable", False, f"{root}: {error.strerror}", remedy)
        return
    trials: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
        ("rename", _renames, _LOCAL),
        ("hard links", _links, _LOCAL),
        ("symlinks", _symlinks, _LOCAL),
        ("locks", _locks, "keep the store on a file system with flock(2); NFS: mount it with `local_lock=none`"),
        ("exec bit", _exec_bit, "mount the store's file system without `noexec`/fixed modes"),
        ("case", _keeps_case, "use a case-sensitive volume for the store"),
        ("names", _keeps_names, "use a volume that keeps names as they are written (not HFS+)"),
        ("directories", _syncs, "keep the store where a directory can be synced: a crash may lose what was finished"),
    )
    try:
        for name, trial, remedy in trials:
            try:
                ok, found = trial(directory), ""
            except OSError as error:
                ok, found = False, f": {error.strerror}"
            yield Trial(name, ok, f"{'works' if ok else 'does not work'}{found}", remedy)
        yield _clock(directory)
        yield from _inodes(directory)
    finally:
        remove_tree(directory)


def _renames(directory: Path) -> bool:
    (directory / "a").write_bytes(b"new")
    (directory / "b").write_bytes(b"old")
    os.replace(directory / "a", directory / "b")
    return (directory / "b").read_bytes() == b"new"


def _links(directory: Path) -> bool:
    (directory / "one").write_bytes(b"")
    os.link(directory / "one", directory / "two")
    return (directory / "two").stat().st_nlink == 2


def _symlinks(directory: Path) -> bool:
    (directory / "link").symlink_to("b")
    return os.readlink(directory / "link") == "b"


def _locks(directory: Path) -> bool:
    """Whether another process is kept out, and let in afterwards."""
    path = directory / "lock"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept_out = _other_is_kept_out(path)
    return kept_out and not _other_is_kept_out(path)


def _other_is_kept_out(path: Path) -> bool:
    return subprocess.run([sys.executable, "-I", "-c", _OTHER, str(path)], timeout=60).returncode == 7


def _exec_bit(directory: Path) -> bool:
    path = directory / "program"
    path.write_bytes(b"")
    path.chmod(0o755)
    executable = path.stat().st_mode & 0o111 == 0o111
    path.chmod(0o644)
    return executable and not path.stat().st_mode & 0o111


def _keeps_case(directory: Path) -> bool:
    (directory / "case").write_bytes(b"")
    return not (directory / "CASE").exists()


def _keeps_names(directory: Path) -> bool:
    """Whether a name in Unicode's composed form and the same in its decomposed form are two, and stay as they are."""
    composed, decomposed = "\u00e9", "e\u0301"
    (directory / composed).write_bytes(b"")
    (directory / decomposed).write_bytes(b"")
    return {composed, decomposed} <= set(os.listdir(directory))


def _syncs(directory: Path) -> bool:
    fsync_directory(directory)
    return True


def _clock(directory: Path) -> Trial:
    """Compares the clock that stamps files with that of this machine."""
    before = time.time()
    (directory / "now").write_bytes(b"")
    skew = (directory / "now").stat().st_mtime - (before + time.time()) / 2
    well = abs(skew) < _SKEW_SECONDS
    words = (
        "agrees with that of the disk"
        if well
        else f"that of the disk is {abs(skew):,.0f} s " + ("ahead" if skew > 0 else "behind")
    )
    remedy = "set both clocks by NTP: what is young and what is old is told by the disk's"
    return Trial("clock", well, words, remedy)


def _inodes(directory: Path) -> Iterator[Trial]:
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        if status.f_files:  # btrfs, ZFS and the like have no fixed number
            well = status.f_favail > _LOW_INODES * status.f_files
            remedy = "repro gc --collect, or a file system with more inodes"
            yield Trial("inodes", well, f"{status.f_favail:,} free of {status.f_files:,}", remedy)

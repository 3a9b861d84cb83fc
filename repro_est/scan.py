"""Walking a directory: what is there, with the stat signature that says whether it changed.

Symlinks are never followed. Names are kept as bytes decoded from UTF-8; what cannot be kept faithfully on every
machine is a problem: names that are not UTF-8, names that collide when case or Unicode form is ignored, sockets
and devices, unreadable files, symlinks that leave the tree, nesting without end. All problems of a tree are found in
one walk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from repro_est.files import is_utf8, printable
from repro_est.store.trees import Kind

Signature = tuple[int, int, int, int, int, int]
"""device, inode, size, mtime_ns, ctime_ns, mode: equal before and after means nobody wrote (bar a reset clock)."""


class Scanned(NamedTuple):
    """One thing below the root.

    Args:
        path: relative POSIX path.
        kind: DIRECTORY is an empty one; others exist through their files.
        target: of a symlink.
        size: bytes of a file.
        signature: of a file or symlink.
    """

    path: str
    kind: Kind
    target: str
    size: int
    signature: Signature


MAX_DEPTH = 256
"""Directories inside each other; what removes and copies trees calls itself once for each."""

Excluder = Callable[[str, bool], bool]
"""Given a relative path and whether it is a directory: leave it out?"""


def signature_of(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


def scan(
    root: Path, *, shown: str, exclude: Excluder | None = None, links_may_leave: bool = False
) -> tuple[list[Scanned], list[str]]:
    """Walks `root`.

    Args:
        shown: how the root is called in messages.
        exclude: leaves out a file, or a directory with everything below it.
        links_may_leave: keep symlinks that point out of the tree, as an environment's do.

    Returns:
        What is there, in no particular order, and a sentence for each thing that cannot be taken.
    """
    walk = _Walk(shown, exclude, links_may_leave)
    found = list(walk.below(str(root), ""))
    return _without_collisions(found, shown, walk.problems), walk.problems


class _Walk:
    """One walk: what it was told, and the problems it met."""

    def __init__(self, shown: str, exclude: Excluder | None, links_may_leave: bool) -> None:
        self._shown, self._exclude, self._links_may_leave = shown, exclude, links_may_leave
        self.problems: list[str] = []

    def below(self, directory: str, prefix: str) -> Iterator[Scanned]:
        if prefix.count("/") > MAX_DEPTH:
            self._problem(prefix[:-1], f"is nested too deeply, expected at most {MAX_DEPTH} directories")
            return
        try:
            with os.scandir(directory) as entries:
                listed = list(entries)
        except OSError as error:
            self._problem(prefix.rstrip("/"), f"cannot be listed: {error.strerror}")
            return
        if not listed and prefix:
            yield Scanned(prefix[:-1], Kind.DIRECTORY, "", 0, (0, 0, 0, 0, 0, 0))
        for entry in listed:
            path = prefix + entry.name
            if not is_utf8(entry.name):
                self._problem(printable(path), "name is not UTF-8")
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                self._problem(path, error.strerror or "cannot be looked at")
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if self._exclude is not None and self._exclude(path, is_directory):
                continue
            if is_directory:
                yield from self.below(entry.path, path + "/")
            else:
                item = self._leaf(entry.path, path, status)
                if item is not None:
                    yield item

    def _leaf(self, location: str, path: str, status: os.stat_result) -> Scanned | None:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            kind = Kind.EXECUTABLE if mode & 0o111 else Kind.FILE
            return Scanned(path, kind, "", status.st_size, signature_of(status))
        if stat.S_ISLNK(mode):
            target = os.readlink(location)
            problem = None if self._links_may_leave else symlink_problem(path, target)
            if problem is None:
                return Scanned(path, Kind.SYMLINK, target, 0, signature_of(status))
            self._problem(path, problem)
        else:
            self._problem(path, f"is a {_special(mode)}, expected a file, directory or symlink")
        return None

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(f"{_join(self._shown, path)}: {message}")


def symlink_problem(path: str, target: str) -> str | None:
    """Returns why a symlink cannot be kept, or None: its target as text must stay inside the tree."""
    if not is_utf8(target):
        return f"symlink target {printable(target)} is not UTF-8"
    if target.startswith("/"):
        return f"symlink to the absolute path {target}, expected a relative one inside the tree"
    depth = path.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return f"symlink to {target} leaves the tree"
    return None


def _without_collisions(found: list[Scanned], shown: str, problems: list[str]) -> list[Scanned]:
    """Drops the later of two paths that are one on a file system without case or with one Unicode form."""
    if all(item.path.isascii() and item.path.islower() for item in found):
        return found
    seen: dict[str, str] = {}
    reported: set[str] = set()
    kept: list[Scanned] = []
    for item in sorted(found, key=lambda item: item.path):
        clash = next((name for name in _prefixes(item.path) if seen.setdefault(_folded(name), name) != name), None)
        if clash is None:
            kept.append(item)
        elif clash not in reported:
            reported.add(clash)
            problems.append(
                f"{_join(shown, clash)}: collides with {seen[_folded(clash)]} where case or Unicode form is ignored; "
                "rename one"
            )
    return kept


def _prefixes(path: str) -> Iterator[str]:
    """`a/b/c` gives `a`, `a/b`, `a/b/c`."""
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)
    yield path


def _folded(path: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _special(mode: int) -> str:
    for test, name in (
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISCHR, "character device"),
    ):
        if test(mode):
            return name
    return "special file"


def _join(shown: str, path: str) -> str:
    return f"{shown}/{path}" if path else shown

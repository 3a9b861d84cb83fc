"""What a host keeps between runs: file contents by SHA-256, and finished directories made of them.

    objects/ab/cdef...      a file's content, read-only; `-x` at the end of the name for an executable one
    incoming/               contents on their way in
    places/<key>/           an environment or an input, hard links to objects, read-only
    places/<key>.json       its record, written last: what is in it, and the stat signatures of all of it
    places/<key>.lock       locked by whoever makes it
    runs/<token>/           one attempt of a run
    programs/<sha256>.zip   what repro sent here to run

A content is compared with its name when it arrives, when it is linked into a place, and when it is copied into a run,
so what a run starts with is what was asked for whatever happened to the disk meanwhile. A place is used again only
while no signature of it moved; one that moved is read again, and made anew if it differs. What a killed process left
half made has a name that ends in `.tmp`, and goes after a day (`tidy`).

What was not used for 30 days goes too (`clean`), unless an attempt is here that may use it. The time stamp of a place's
record, of a program, and of an object that nothing links to says when that was. What is gone is sent again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

_CHUNK = 1 << 20
UNUSED_SECONDS = 30 * 24 * 3600
_ABANDONED_SECONDS = 24 * 3600
"""Nothing takes so long to arrive or to be made without its temporary name being written to."""

Entry = typing.Sequence[Any]
"""`[path, kind, digest or target, size]`; kind is `f`, `x` (executable), `l` (symlink) or `d` (empty directory)."""


class Damaged(Exception):
    """A content is not what it is named for."""


def _damaged(names: Sequence[str]) -> Damaged:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Damaged(f"object {names[0]}{more}: changed on this host")


class Objects:
    """The objects of one host store."""

    def __init__(self, root: str) -> None:
        self.root = root
        for name in ("objects", "incoming", "places", "runs", "programs"):
            os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)

    def path(self, digest: str, kind: str) -> str:
        return os.path.join(self.root, "objects", digest[:2], digest[2:] + ("-x" if kind == "x" else ""))

    def missing(self, wanted: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Returns those of `[digest, kind, size]` that are not here with that size."""
        return [item for item in wanted if not self._is_here(*item)]

    def _is_here(self, digest: str, kind: str, size: int) -> bool:
        try:
            status = os.lstat(self.path(digest, kind))
        except OSError:
            return False
        if stat.S_ISREG(status.st_mode) and status.st_size == size:
            if status.st_nlink == 1:  # else its time stamp is one that places know (`signatures`)
                renew(self.path(digest, kind))
            return True
        return False

    def put(self, digest: str, kind: str, chunks: Iterable[bytes]) -> None:
        """Takes a content in.

        Raises:
            Damaged: it is another one.
            OSError: the disk is full.
        """
        path = self.path(digest, kind)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = unique(os.path.join(self.root, "incoming", digest))
        hasher = hashlib.sha256()
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb", 0) as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    write_all(file.fileno(), chunk)
                os.fchmod(file.fileno(), _mode(kind))
            if hasher.hexdigest() != digest:
                raise Damaged(f"content {digest} arrived as {hasher.hexdigest()}")
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def tidy(self) -> None:
        """Removes what processes that were killed have left half made."""
        oldest = time.time() - _ABANDONED_SECONDS
        for name in ("incoming", "places", "programs"):
            with os.scandir(os.path.join(self.root, name)) as listing:
                left = [item.path for item in listing if item.name.endswith(".tmp")]
            for path in left:
                with contextlib.suppress(FileNotFoundError):  # another one was faster
                    if os.lstat(path).st_mtime < oldest:
                        remove_tree(path)

    def clean(self) -> None:
        """Removes what was not used for long, and that no attempt which is here can have been given."""
        oldest = time.time() - UNUSED_SECONDS
        runs = os.path.join(self.root, "runs")
        for token in os.listdir(runs):
            try:
                started = os.lstat(os.path.join(runs, token, "about.json")).st_mtime
            except OSError:
                return  # one that is being made or removed just now: the next session cleans
            oldest = min(oldest, started - _ABANDONED_SECONDS)
        for name in os.listdir(os.path.join(self.root, "places")):
            if name.endswith(".json"):
                self._clean_place(name[: -len(".json")], oldest)
        for directory, _, names in os.walk(os.path.join(self.root, "objects")):
            self._clean_files(directory, names, oldest)
        programs = os.path.join(self.root, "programs")
        self._clean_files(programs, [name for name in os.listdir(programs) if name.endswith(".zip")], oldest)

    def _clean_files(self, directory: str, names: Iterable[str], oldest: float) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if status.st_nlink == 1 and status.st_mtime < oldest:
                    os.unlink(path)

    def _clean_place(self, key: str, oldest: float) -> None:
        """Removes a place here; one that has a path of its own is somebody else's directory too, and stays."""
        record, path = self.place(key) + ".json", self.place(key)
        lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.lstat(record).st_mtime < oldest and os.path.isdir(path):
                os.unlink(record)
                temporary = unique(path)
                os.chmod(path, 0o755)  # a directory is renamed only by who may write to it
                os.rename(path, temporary)
                remove_tree(temporary)
        except OSError:
            pass  # somebody uses it, or was faster
        finally:
            os.close(lock)

    # ---- places

    def place(self, key: str) -> str:
        return os.path.join(self.root, "places", key)

    def is_placed(self, key: str, path: str, entries: Sequence[Entry] | None = None) -> bool:
        """Whether a place is there as it was made; reads its files only if something moved.

        Args:
            entries: sorted; what it must have been made of, None for whatever it was.
        """
        try:
            with open(self.place(key) + ".json", encoding="utf-8") as file:
                record = json.load(file)
            if record["path"] != path or not os.path.isdir(path):
                return False
            if entries is not None and record["entries"] != entries:
                return False
            if signatures(path) == record["signatures"]:
                renew(self.place(key) + ".json")
                return True
            if described(path) != record["entries"]:
                return False
            self._seal(key, path, record["entries"])
        except (OSError, ValueError, KeyError, TypeError):  # unreadable: as good as not there
            return False
        return True

    def make_place(self, key: str, path: str, entries: Sequence[Entry]) -> None:
        """Makes a place of objects that are all here; the files are links, read-only.

        Where another process has just made it, that one stays: somebody may use it already.

        Raises:
            Damaged: objects are not what they are named for; they were removed.
        """
        ordered = sorted(map(list, entries), key=lambda entry: str(entry[0]))
        lock = os.open(self.place(key) + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.is_placed(key, path, ordered):
                self._make_place(key, path, ordered)
        finally:
            os.close(lock)

    def _make_place(self, key: str, path: str, entries: Sequence[Entry]) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.place(key) + ".json")
        parent, name = os.path.split(path)
        os.makedirs(parent, mode=0o755, exist_ok=True)
        for left in os.listdir(parent):  # by a process that was killed: this one has the lock
            if left == name or (left.startswith(name + ".") and left.endswith(".tmp")):
                remove_tree(os.path.join(parent, left))
        temporary = unique(path)
        os.mkdir(temporary, 0o755)
        try:
            self._fill(temporary, entries)
            os.rename(temporary, path)
        except BaseException:
            remove_tree(temporary)
            raise
        os.chmod(path, 0o555)
        self._seal(key, path, entries)

    def _fill(self, root: str, entries: Sequence[Entry]) -> None:
        damaged: list[str] = []
        for name, kind, value, _ in entries:
            target = prepared(root, name)
            if kind == "d":
                os.makedirs(target, exist_ok=True)
            elif kind == "l":
                os.symlink(value, target)
            elif self._is_good(value, kind):
                link(self.path(value, kind), target, _mode(kind))
            else:
                damaged.append(value)
        if damaged:
            raise _damaged(damaged)
        for directory, _, _ in os.walk(root, topdown=False):
            if directory != root:  # which is renamed yet
                os.chmod(directory, 0o555)

    def _seal(self, key: str, path: str, entries: Sequence[Entry]) -> None:
        record = self.place(key) + ".json"
        temporary = unique(record)
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"path": path, "entries": entries, "signatures": signatures(path)}, file)
            os.rename(temporary, record)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _is_good(self, digest: str, kind: str) -> bool:
        """Whether an object is what it is named for, by reading it; one that is not is removed."""
        path = self.path(digest, kind)
        try:
            good = digest_of(path) == digest
            if good and stat.S_IMODE(os.lstat(path).st_mode) != _mode(kind):
                os.chmod(path, _mode(kind))
        except FileNotFoundError:
            return False
        if not good:
            self._discard(path)
        return good

    def _discard(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    # ---- copies

    def copy_tree(self, entries: Sequence[Entry], destination: str) -> str:
        """Makes a private, writable copy of a tree and returns the digest of what was written.

        Args:
            destination: there is nothing in it; after an error neither.

        Raises:
            Damaged: objects are not what they are named for; they were removed.
        """
        os.makedirs(destination, exist_ok=True)
        try:
            self._copy_entries(entries, destination)
        except BaseException:
            for name in os.listdir(destination):
                remove_tree(os.path.join(destination, name))
            raise
        return digest_of_entries(entries)

    def _copy_entries(self, entries: Sequence[Entry], destination: str) -> None:
        made = {""}
        damaged: list[str] = []
        for name, kind, value, _ in entries:
            parent = name.rpartition("/")[0]
            if parent not in made:
                os.makedirs(os.path.join(destination, parent), exist_ok=True)
                made.add(parent)
            target = os.path.join(destination, name)
            if kind == "d":
                os.makedirs(target, exist_ok=True)
            elif kind == "l":
                os.symlink(value, target)
            elif self._copy(value, kind, target) != value:
                self._discard(self.path(value, kind))
                damaged.append(value)
        if damaged:
            raise _damaged(damaged)

    def _copy(self, digest: str, kind: str, target: str) -> str:
        try:
            return copy_file(self.path(digest, kind), target, 0o755 if kind == "x" else 0o644)
        except FileNotFoundError:
            return ""  # somebody removed it since it was asked for


def renew(path: str) -> None:
    """Says that something is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _mode(kind: str) -> int:
    return 0o555 if kind == "x" else 0o444


def digest_of_entries(entries: Iterable[Entry]) -> str:
    """Returns the SHA-256 that names a tree among hosts: of its sorted entries, as JSON lines."""
    lines = sorted(json.dumps([name, kind, value]) for name, kind, value, _ in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def described(root: str) -> list[Entry]:
    """Returns the sorted entries of a directory, reading every file."""
    found: list[Entry] = []
    for name, path, status in walk(root):
        if stat.S_ISLNK(status.st_mode):
            found.append([name, "l", os.readlink(path), 0])
        elif stat.S_ISDIR(status.st_mode):
            if not os.listdir(path):
                found.append([name, "d", "", 0])
        elif stat.S_ISREG(status.st_mode):
            kind = "x" if status.st_mode & 0o111 else "f"
            found.append([name, kind, digest_of(path), status.st_size])
        else:
            found.append([name, "?", "", 0])
    return sorted(found, key=lambda entry: str(entry[0]))


def signatures(root: str) -> dict[str, list[int]]:
    """Returns what moves when anything below a directory does: no content is read, links are not followed.

    The time of the last status change is left out for files: they are hard links, whose count changes with others.
    """
    found: dict[str, list[int]] = {}
    for name, _, status in walk(root):
        kept = [stat.S_IFMT(status.st_mode), status.st_ino]
        if stat.S_ISREG(status.st_mode):
            kept += [status.st_size, status.st_mtime_ns, status.st_mode & 0o111]
        else:  # of a symlink too: the next one often gets the inode of the last
            kept += [status.st_mtime_ns]
        found[name] = kept
    return found


def walk(root: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yields everything below a directory: name relative to it, path, status; links are not followed."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(root, directory)) as listing:
            for item in listing:
                name = directory + "/" + item.name if directory else item.name
                status = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(name)
                yield name, item.path, status


def digest_of(path: str) -> str:
    """Returns the SHA-256 of a file."""
    hasher = hashlib.sha256()
    with open(path, "rb", 0) as file:
        for chunk in pieces(file):
            hasher.update(chunk)
    return hasher.hexdigest()


def pieces(file: BinaryIO, size: int = _CHUNK) -> Iterator[bytes]:
    while True:
        chunk = file.read(size)
        if not chunk:
            return
        yield chunk


def copy_file(source: str, destination: str, mode: int) -> str:
    """Copies a file and returns the SHA-256 of what was written."""
    reader = os.open(source, os.O_RDONLY)
    try:
        writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            hasher = hashlib.sha256()
            chunk = os.read(reader, _CHUNK)
            while chunk:
                write_all(writer, chunk)
                hasher.update(chunk)
                chunk = os.read(reader, _CHUNK)
            return hasher.hexdigest()
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def unique(path: str) -> str:
    """Returns a temporary name beside a path that no other process has, on no other host of a shared disk."""
    return f"{path}.{os.urandom(6).hex()}.tmp"


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`; write(2) may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def prepared(root: str, name: str) -> str:
    """Returns the path of a name below a root, its parents made."""
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def link(source: str, target: str, mode: int) -> None:
    """Makes a hard link, or a copy where the file system has no more of them."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV):
            raise
        copy_file(source, target, mode)


def remove_tree(path: str) -> None:
    """Removes a file or a directory, read-only ones in it too; nothing there is fine."""
    if os.path.islink(path) or not os.path.isdir(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    make_writable(path)
    shutil.rmtree(path, ignore_errors=True)


def make_writable(root: str) -> None:
    """Gives the owner the right to write to every directory below."""
    pending = [root]
    while pending:
        directory = pending.pop()
        with contextlib.suppress(OSError):  # another user's: then it cannot be removed, and stays
            os.chmod(directory, 0o755)
            with os.scandir(directory) as listing:
                pending += [item.path for item in listing if item.is_dir(follow_symlinks=False)]

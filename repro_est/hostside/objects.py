"""What a host keeps between runs: file contents by SHA-256, and finished directories made of them.

    objects/ab/cdef...      a file's content, read-only; `-x` at the end of the name for an executable one
    places/<key>/           an environment or an input, hard links to objects, read-only
    places/<key>.json       its record, written last: what is in it, and the stat signatures of all of it
    runs/<token>/           one attempt of a run
    programs/<sha256>.zip   what repro sent here to run

A content is compared with its name when it arrives, when it is linked into a place, and when it is copied into a run,
so what a run starts with is what was asked for whatever happened to the disk meanwhile. A place is used again only
while no signature of it moved; one that moved is read again, and made anew if it differs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

_CHUNK = 1 << 20

Entry = typing.Sequence[Any]
"""`[path, kind, digest or target, size]`; kind is `f`, `x` (executable), `l` (symlink) or `d` (empty directory)."""


class Damaged(Exception):
    """A content is not what it is named for."""


class Objects:
    """The objects of one host store."""

    def __init__(self, root: str) -> None:
        self.root = root
        for name in ("objects", "places", "runs", "programs"):
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
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def put(self, digest: str, kind: str, chunks: Iterable[bytes]) -> None:
        """Takes a content in.

        Raises:
            Damaged: it is another one.
            OSError: the disk is full.
        """
        path = self.path(digest, kind)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        hasher = hashlib.sha256()
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", 0) as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    write_all(file.fileno(), chunk)
                os.fchmod(file.fileno(), 0o555 if kind == "x" else 0o444)
            if hasher.hexdigest() != digest:
                raise Damaged(f"content {digest} arrived as {hasher.hexdigest()}")
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    # ---- places

    def place(self, key: str) -> str:
        return os.path.join(self.root, "places", key)

    def is_placed(self, key: str, path: str) -> bool:
        """Whether a place is there as it was made; reads its files only if something moved."""
        try:
            with open(self.place(key) + ".json", encoding="utf-8") as file:
                record = json.load(file)
        except (OSError, ValueError):
            return False
        if record.get("path") != path or not os.path.isdir(path):
            return False
        if signatures(path) == record["signatures"]:
            return True
        if described(path) != record["entries"]:
            return False
        self._seal(key, path, record["entries"])
        return True

    def make_place(self, key: str, path: str, entries: Sequence[Entry]) -> None:
        """Makes a place of objects that are all here; the files are links, read-only.

        Raises:
            Damaged: an object is not what it is named for; it was removed.
        """
        with contextlib.suppress(OSError):
            os.unlink(self.place(key) + ".json")
        remove_tree(path)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        remove_tree(temporary)
        os.mkdir(temporary, 0o755)
        for name, kind, value, _ in entries:
            target = prepared(temporary, name)
            if kind == "d":
                os.makedirs(target, exist_ok=True)
            elif kind == "l":
                os.symlink(value, target)
            else:
                self._check(value, kind)
                link(self.path(value, kind), target, 0o555 if kind == "x" else 0o444)
        for directory, _, _ in os.walk(temporary, topdown=False):
            os.chmod(directory, 0o555 if directory != temporary else 0o755)
        os.rename(temporary, path)
        os.chmod(path, 0o555)
        self._seal(key, path, sorted(map(list, entries), key=lambda entry: str(entry[0])))

    def _seal(self, key: str, path: str, entries: Sequence[Entry]) -> None:
        record = self.place(key) + ".json"
        temporary = f"{record}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"path": path, "entries": entries, "signatures": signatures(path)}, file)
        os.rename(temporary, record)

    def _check(self, digest: str, kind: str) -> None:
        path = self.path(digest, kind)
        try:
            if digest_of(path) == digest:
                return
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise Damaged(f"object {digest} was changed on this host")

    # ---- copies

    def copy_tree(self, entries: Sequence[Entry], destination: str) -> str:
        """Makes a private, writable copy of a tree and returns the digest of what was written.

        Raises:
            Damaged: an object is not what it is named for; it was removed.
        """
        os.makedirs(destination, exist_ok=True)
        made = {""}
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
            elif copy_file(self.path(value, kind), target, 0o755 if kind == "x" else 0o644) != value:
                with contextlib.suppress(OSError):
                    os.unlink(self.path(value, kind))
                raise Damaged(f"object {value} of {name} was changed on this host")
        return digest_of_entries(entries)


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
        elif stat.S_ISDIR(status.st_mode):
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
            chunk = os.read(reader, _CHUNK)
            hasher = hashlib.sha256(chunk)
            while chunk:
                write_all(writer, chunk)
                chunk = os.read(reader, _CHUNK) if len(chunk) == _CHUNK else b""
                hasher.update(chunk)
            return hasher.hexdigest()
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def write_all(descriptor: int, data: bytes) -> None:
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
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o755)
            with os.scandir(directory) as listing:
                pending += [item.path for item in listing if item.is_dir(follow_symlinks=False)]

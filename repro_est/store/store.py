"""The store: opening it, its trees, and its files on the way in and out.

Guarantees. A name that exists stands for whole, durable bytes (see `blobs.Batch` for how). A reader takes no
lock. What leaves the store is checked against its digest while it is copied. Nothing outside ever shares a
writable inode with a blob. It knows bytes and hashes, nothing of recipes or runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from repro_est.digest import TreeHash, xxh3_hex
from repro_est.errors import StoreError, VerificationError
from repro_est.files import copy_file, fsync_directory, is_utf8, printable, remove_tree, write_atomic, write_new
from repro_est.store.blobs import Batch, digest_file
from repro_est.store.freshness import renew, renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import DIRECTORIES, Layout
from repro_est.store.packs import Packs
from repro_est.store.quarantine import set_aside
from repro_est.store.scratch import claimed_directory
from repro_est.store.trees import Entry, Kind, Tree, parse_manifest

STORE_FORMAT = 1
_IGNORED_IN_EMPTY = {"README.md", ".gitignore", "lost+found"}
_OF_ANOTHER = (".format.", "index.db-")
"""Temporary names of somebody who makes the same store at this moment."""


class Store:
    """One store on this machine.

    Args:
        layout: where it is.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._packs = Packs(layout)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Opens the store at `root`, making an empty one where there is nothing.

        Raises:
            StoreError: a newer format, something that is no store, no permission, or a path that is not UTF-8.
        """
        if not is_utf8(str(root)):
            raise StoreError(
                f"{printable(str(root))}: got a path that is not UTF-8, in which no environment can be built",
                hint="set REPRO_STORE to another directory",
            )
        store = cls(Layout(root))
        try:
            text = store.layout.format_file.read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            store._create()
            return store
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{store.layout.format_file}: cannot be read: {error}") from None
        if not text.strip().isdecimal():
            raise StoreError(f"{store.layout.format_file}: got {text[:40]!r}, expected a format number")
        if int(text) > STORE_FORMAT:
            raise StoreError(
                f"{root}: store has format {int(text)}, this version of repro reads up to {STORE_FORMAT}",
                hint="upgrade repro, or set REPRO_STORE to another directory",
            )
        return store

    def _create(self) -> None:
        root = self.layout.root
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            foreign = {name for name in os.listdir(root) if not name.startswith(_OF_ANOTHER)} - _IGNORED_IN_EMPTY
            if foreign and not foreign <= {*DIRECTORIES, "format", "index.db"}:
                raise StoreError(
                    f"{root}: is not a store, it holds `{min(foreign)}`", hint="set REPRO_STORE to an empty directory"
                )
            for name in DIRECTORIES:
                self.layout.directory(name).mkdir(exist_ok=True)
            write_atomic(self.layout.format_file, f"{STORE_FORMAT}\n".encode())

    def batch(self) -> Batch:
        """Returns a group of writes that become visible together; a context manager."""
        return Batch(self.layout)

    def has_tree(self, tree: TreeHash) -> bool:
        """Whether a tree is here; then no cleaning removes it, or a blob of it, for a day."""
        return renew_if_ours(self.layout, self.layout.tree(tree))

    def read_tree(self, tree: TreeHash) -> Tree:
        """Returns a tree by its hash.

        Raises:
            StoreError: it is not here.
            VerificationError: its manifest was changed.
        """
        try:
            data = self.layout.tree(tree).read_bytes()
        except FileNotFoundError:
            raise StoreError(f"tree {tree}: not in the store {self.layout.root}", hint="repro verify") from None
        return parse_manifest(data, tree)

    def write_tree(self, tree: Tree) -> None:
        """Stores a manifest; the blobs must be there already, or belong to an input that is hashed in place.

        They must be there to stay: `Batch` says so of them, or a run or model has them.
        """
        path = self.layout.tree(tree.hash)
        with contextlib.suppress(PermissionError):
            if renew(self.layout, path):
                return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, tree.manifest(), mode=0o444)

    def fetch_blob(self, entry: Entry, destination: Path, *, mode: int) -> None:
        """Copies a file out, checked against its digest.

        Raises:
            VerificationError: the blob is missing or was changed; nothing is left at `destination`.
        """
        blob = self.layout.blob(entry.xxh3)
        try:
            copy_file(blob, destination, mode=mode)
        except FileNotFoundError:
            if blob.exists():
                raise
            write_new(destination, self._packed(entry), mode=mode)
        got = digest_file(destination, with_sha256=False).xxh3
        if got != entry.xxh3:
            destination.unlink()
            raise VerificationError(
                f"blob {entry.xxh3} ({entry.path}): was changed, its content is now {got}",
                hint="repro verify --repair   sets it aside",
            )

    def materialise(self, tree: Tree, destination: Path) -> None:
        """Makes a writable, private copy of a tree; every byte is checked on the way.

        Raises:
            VerificationError: a blob is missing or was changed.
        """
        with writing(destination):
            destination.mkdir()
            for entry, path in _placed(tree, destination):
                match entry.kind:
                    case Kind.DIRECTORY:
                        path.mkdir(exist_ok=True)
                    case Kind.SYMLINK:
                        path.symlink_to(entry.target)
                    case Kind.EXECUTABLE:
                        self.fetch_blob(entry, path, mode=0o755)
                    case Kind.FILE:
                        self.fetch_blob(entry, path, mode=0o644)

    def view(self, tree: Tree, destination: Path) -> None:
        """Makes a read-only, browsable view of a tree, out of hard links to the blobs.

        Executable files are copies, because a link shares its mode with the blob; so is a file whose blob has
        all the links its file system allows.
        """
        with writing(destination), claimed_directory(self.layout, "tmp") as scratch:
            root = scratch / "view"
            root.mkdir()
            for entry, path in _placed(tree, root):
                match entry.kind:
                    case Kind.DIRECTORY:
                        path.mkdir(exist_ok=True)
                    case Kind.SYMLINK:
                        path.symlink_to(entry.target)
                    case Kind.EXECUTABLE:
                        self.fetch_blob(entry, path, mode=0o555)
                    case Kind.FILE:
                        self._link(entry, path)
            for directory, _, _ in os.walk(root, topdown=False):
                if directory != str(root):  # renaming a directory needs to write its `..` entry
                    os.chmod(directory, 0o555)
            os.rename(root, destination)
            os.chmod(destination, 0o555)
            fsync_directory(destination.parent)

    def _link(self, entry: Entry, path: Path) -> None:
        try:
            os.link(self.layout.blob(entry.xxh3), path)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOENT):
                raise
            self.fetch_blob(entry, path, mode=0o444)

    def has_blob(self, entry: Entry) -> bool:
        """Whether the blob of a file entry is here with the right size; reads no content."""
        return self.locate(entry) is not None

    def locate(self, entry: Entry) -> tuple[str, os.stat_result] | None:
        """Returns where the blob of a file entry is and the status of that file, None when it is not here whole.

        The place is relative to the store: the blob itself, or the pack it is in. Reads no content.
        """
        blob = self.layout.blob(entry.xxh3)
        try:
            status = os.lstat(blob)
        except OSError:
            self._packs.refresh()
            packed = self._packs.find(entry.xxh3)
            if packed is None or packed.size != entry.size:
                return None
            return str(packed.pack.relative_to(self.layout.root)), os.stat(packed.pack)
        whole = stat.S_ISREG(status.st_mode) and status.st_size == entry.size
        return (str(blob.relative_to(self.layout.root)), status) if whole else None

    def is_good(self, entry: Entry) -> bool:
        """Whether the content of a file entry, read to its end, is what it is named for."""
        try:
            return digest_file(self.layout.blob(entry.xxh3), with_sha256=False).xxh3 == entry.xxh3
        except FileNotFoundError:
            return xxh3_hex(self._packed(entry)) == entry.xxh3
        except OSError:  # a bad disk: nobody can say that it is good
            return False

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Moves a blob that is not what it is named for into quarantine: its pack's index when it is in one."""
        blob, packed = self.layout.blob(entry.xxh3), self._packs.find(entry.xxh3)
        if blob.exists():
            set_aside(self.layout, blob, kind="blob", name=entry.xxh3, reason=reason)
        elif packed is not None:
            index = packed.pack.with_suffix(".index")
            set_aside(self.layout, index, kind="pack", name=index.stem, reason=reason)
        self.forget_stats()

    def read_blob(self, entry: Entry) -> bytes:
        """Returns the content of a small file, checked against its digest.

        Raises:
            VerificationError: the blob is missing or was changed.
        """
        try:
            data = self.layout.blob(entry.xxh3).read_bytes()
        except FileNotFoundError:
            data = self._packed(entry)
        if xxh3_hex(data) != entry.xxh3:
            raise VerificationError(f"blob {entry.xxh3} ({entry.path}): was changed", hint="repro verify --repair")
        return data

    def _packed(self, entry: Entry) -> bytes:
        self._packs.refresh()
        found = self._packs.find(entry.xxh3)
        if found is not None:
            try:
                return found.read()
            except FileNotFoundError:  # the pack was rewritten this moment
                self._packs.refresh()
                if (found := self._packs.find(entry.xxh3)) is not None:
                    return found.read()
        self.forget_stats()
        raise VerificationError(
            f"blob {entry.xxh3} ({entry.path}): not in the store",
            hint="run the same command again, which reads the source anew; else `repro verify`",
        )

    def forget_stats(self) -> None:
        """Drops every stat cache: one may answer with a tree whose blobs are not all here, for ever."""
        with contextlib.suppress(OSError):  # a read-only store keeps them, and cannot take the blobs either
            remove_tree(self.layout.directory("stat"))

    def discard(self, path: Path) -> None:
        """Takes a directory out of sight at once, then removes it."""
        trash = self.layout.directory("trash") / f"{path.name}-{os.urandom(4).hex()}"
        try:
            os.chmod(path, 0o755)  # a directory is renamed only by who may write to it
            os.rename(path, trash)
        except FileNotFoundError:
            return
        remove_tree(trash)


def _placed(tree: Tree, root: Path) -> Iterator[tuple[Entry, Path]]:
    """Every entry with its path below `root`, whose parents exist by then."""
    made = {""}
    for entry in tree.entries:
        parent = entry.path.rpartition("/")[0]
        if parent not in made:
            (root / parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)
        yield entry, root / entry.path

"""File contents on their way into the store, and the reading that digests them.

A `Batch` is a group of files that becomes visible together. Its order is what makes a name trustworthy:

    1  every file is written (or linked) under a temporary name on the store's file system
    2  all of them are made durable: fsync each, or one syncfs from a few dozen files on
    3  each is renamed to `blobs/ab/cdef...`; very many small ones become a pack instead (`packs`)
    4  the directories are made durable

A crash before 3 leaves nothing visible; during 3, some blobs that no record names yet. Leaving the block
without `publish` leaves nothing at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from repro_est.digest import BlobHash, Hasher, Sha256, sha256, sha256_hex, xxh3, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.files import fsync, fsync_directory, sync_filesystem, write_all
from repro_est.store.freshness import renew
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.packs import PACK_FROM, Packs
from repro_est.store.scratch import claimed_directory

SMALL = 1 << 16
"""Files up to this many bytes are read with one system call."""
_CHUNK = 1 << 20
_PIPELINE_FROM = 8 << 20
_PIPELINE_CHUNK = 4 << 20  # large enough that handing a chunk to the other thread costs little beside digesting it
_SYNC_EACH_UP_TO = 32
_PARALLEL_FROM = 32 << 20


class Content(NamedTuple):
    """What a file holds. `sha256` is None when it was not asked for."""

    xxh3: BlobHash
    sha256: Sha256 | None
    size: int


def mismatch(got: Content, expected: Content) -> str:
    """Returns in words how a content differs from what it must be."""
    if got.size != expected.size:
        more = "more than " if got.size > expected.size else ""
        return f"expected {expected.size:,} bytes, got {more}{min(got.size, expected.size):,}"
    if got.sha256 != expected.sha256:
        return f"expected sha256 {expected.sha256}, got {got.sha256}"
    return f"expected xxh3 {expected.xxh3}, got {got.xxh3}"


def digest_file(path: Path, *, with_sha256: bool = True) -> Content:
    """Reads a file once and returns its digests; memory stays at two buffers whatever its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return digest_descriptor(descriptor, with_sha256=with_sha256)
    finally:
        os.close(descriptor)


def digest_descriptor(descriptor: int, *, with_sha256: bool, sink: int | None = None) -> Content:
    """Reads from an open file to its end and returns the digests.

    Args:
        sink: a descriptor that every byte is written to as well, before it is digested.
    """
    size = os.fstat(descriptor).st_size
    if size <= SMALL and sink is None:
        data = os.read(descriptor, SMALL + 1)
        if len(data) <= SMALL:
            return Content(xxh3_hex(data), sha256_hex(data) if with_sha256 else None, len(data))
        os.lseek(descriptor, 0, os.SEEK_SET)
    hashers: list[Hasher] = [xxh3(), *([sha256()] if with_sha256 else [])]
    read = _read_overlapped if size >= _PIPELINE_FROM else _read_plain
    length = read(descriptor, hashers, sink)
    return Content(BlobHash(hashers[0].hexdigest()), Sha256(hashers[1].hexdigest()) if with_sha256 else None, length)


def _read_plain(descriptor: int, hashers: Sequence[Hasher], sink: int | None) -> int:
    buffer = memoryview(bytearray(_CHUNK))
    length = 0
    while count := os.readv(descriptor, [buffer]):
        _consume(buffer[:count], hashers, sink)
        length += count
    return length


def _read_overlapped(descriptor: int, hashers: Sequence[Hasher], sink: int | None) -> int:
    """Reads the next chunk in one thread while this one digests the last; both leave the interpreter lock."""
    from concurrent.futures import Future, ThreadPoolExecutor

    buffers = [memoryview(bytearray(_PIPELINE_CHUNK)) for _ in range(2)]
    length, turn = 0, 0
    with ThreadPoolExecutor(1) as reader:
        pending: Future[int] = reader.submit(os.readv, descriptor, [buffers[0]])
        while count := pending.result():
            pending = reader.submit(os.readv, descriptor, [buffers[1 - turn]])
            _consume(buffers[turn][:count], hashers, sink)
            length += count
            turn = 1 - turn
    return length


def _consume(data: memoryview, hashers: Sequence[Hasher], sink: int | None) -> None:
    if sink is not None:
        write_all(sink, data)
    for hasher in hashers:
        hasher.update(data)


def _close(file: BinaryIO) -> None:
    """Closes a file that is not needed any more; what a full disk leaves in its buffer was reported when it was put."""
    with contextlib.suppress(OSError):
        file.close()


class Batch:
    """A group of blobs written together. Use as a context manager and end with `publish`.

    Args:
        layout: the store's.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._exit = contextlib.ExitStack()
        self._scratch: Path | None = None
        self._staged: dict[BlobHash, str] = {}
        self._copies = 0
        self._packs = Packs(layout)
        self._pack: BinaryIO | None = None
        self._packed: dict[BlobHash, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._exit.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    def has(self, blob: BlobHash, size: int) -> bool:
        """Whether a blob is staged here, or in the store with this size; then no cleaning removes it for a day.

        One that belongs to somebody else, and so cannot be kept from his cleaning, is not: we write our own.
        """
        if blob in self._staged or blob in self._packed:
            return True
        path = f"{self._layout.root}/blobs/{blob[:2]}/{blob[2:]}"
        with contextlib.suppress(PermissionError):
            try:
                status = os.lstat(path)
            except OSError:
                return self._has_packed(blob, size)
            return stat.S_ISREG(status.st_mode) and status.st_size == size and renew(self._layout, path, status)
        return False

    def _has_packed(self, blob: BlobHash, size: int) -> bool:
        packed = self._packs.find(blob)
        if packed is not None and not renew(self._layout, packed.pack):  # it was rewritten meanwhile
            self._packs.refresh()
            packed = self._packs.find(blob)
        return packed is not None and packed.size == size and renew(self._layout, packed.pack)

    def put(self, data: bytes, blob: BlobHash) -> None:
        """Adds content that is in memory; `blob` is its digest."""
        if self.has(blob, len(data)):
            return
        with writing(self._layout.root):
            if self._pack is None:
                self._pack = open(self._directory() / "pack", "w+b", buffering=_CHUNK)  # noqa: SIM115 -- see _close
                self._exit.callback(_close, self._pack)
            offset = self._pack.tell()
            self._pack.write(data)
        self._packed[blob] = (offset, len(data))

    def copy(self, descriptor: int, *, with_sha256: bool = True) -> Content:
        """Copies an open file, digesting what it writes."""
        with writing(self._layout.root):
            self._copies += 1
            path = f"{self._directory()}/copy-{self._copies}"
            sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            try:
                content = digest_descriptor(descriptor, with_sha256=with_sha256, sink=sink)
            finally:
                os.close(sink)
            if self.has(content.xxh3, content.size):
                os.unlink(path)
            else:
                self._staged[content.xxh3] = path
            return content

    def receive(self, chunks: Iterable[bytes], expected: Content) -> None:
        """Takes content from outside as it streams in; several threads may, each a file of its own.

        Args:
            expected: both digests and the size it must have.

        Raises:
            VerificationError: it is something else; nothing of it is kept.
        """
        with writing(self._layout.root):
            with self._lock:
                self._copies += 1
                path = f"{self._directory()}/received-{self._copies}"
            sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            hashers: list[Hasher] = [xxh3(), sha256()]
            size = 0
            try:
                for chunk in chunks:
                    size += len(chunk)
                    if size > expected.size:  # whoever sends may mean to fill the disk
                        break
                    _consume(memoryview(chunk), hashers, sink)
            finally:
                os.close(sink)
            got = Content(BlobHash(hashers[0].hexdigest()), Sha256(hashers[1].hexdigest()), size)
            if got != expected:
                os.unlink(path)
                raise VerificationError(mismatch(got, expected))
            self._staged[got.xxh3] = path

    def adopt(self, paths: Sequence[Path]) -> list[Content]:
        """Takes files that belong to `repro` itself, on the store's file system, without copying a byte.

        Each file gets a second name in the store and loses its write bits, so no process may have it open for
        writing any more. One that has another name already, which may be the user's, is copied. Digested in parallel.
        """
        if sum(os.lstat(path).st_size for path in paths) < _PARALLEL_FROM:
            contents = [digest_file(path) for path in paths]
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                contents = list(pool.map(digest_file, paths))
        with writing(self._layout.root):
            for path, content in zip(paths, contents, strict=True):
                if not self.has(content.xxh3, content.size):
                    self._adopt_one(path, content)
        return contents

    def _adopt_one(self, path: Path, content: Content) -> None:
        if os.lstat(path).st_nlink > 1:
            with open(path, "rb") as file:
                self.copy(file.fileno())
            return
        staged = f"{self._directory()}/{content.xxh3}"
        os.link(path, staged)
        os.chmod(staged, 0o444)
        os.utime(staged)  # a script may have written it days ago, and what is old and not referred to is removed
        self._staged[content.xxh3] = staged

    def publish(self) -> None:
        """Makes everything durable, then visible."""
        with writing(self._layout.root):
            self._publish_small()
            if not self._staged:
                return
            self._make_durable()
            shards: set[str] = set()
            for blob, path in self._staged.items():
                shards.add(blob[:2])
                self._place(path, blob)
            for shard in sorted(shards):
                fsync_directory(self._layout.directory("blobs") / shard)
            fsync_directory(self._layout.directory("blobs"))
        self._staged.clear()

    def _publish_small(self) -> None:
        """Makes the content that was in memory a pack when it is much, and single blobs when it is not."""
        if self._pack is None:
            return
        self._pack.flush()
        if len(self._packed) >= PACK_FROM:
            self._packs.add(self._directory() / "pack", self._packed)
        else:
            for blob, (offset, size) in self._packed.items():
                path = f"{self._directory()}/{blob}"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
                try:
                    write_all(descriptor, os.pread(self._pack.fileno(), size, offset))
                finally:
                    os.close(descriptor)
                self._staged[blob] = path
        self._packed.clear()

    def _place(self, path: str, blob: BlobHash) -> None:
        target = f"{self._layout.root}/blobs/{blob[:2]}/{blob[2:]}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(path, target)

    def _make_durable(self) -> None:
        if len(self._staged) > _SYNC_EACH_UP_TO:
            sync_filesystem(self._layout.root)
            return
        for path in self._staged.values():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fsync(descriptor)
            finally:
                os.close(descriptor)

    def _directory(self) -> Path:
        if self._scratch is None:
            self._scratch = self._exit.enter_context(claimed_directory(self._layout, "tmp"))
        return self._scratch

"""Packs: thousands of small blobs in one file.

A source tree of 100,000 files would be 100,000 inodes, and making those is most of the time of its first snapshot.
When a batch holds many new small files they are written back to back into one file, with an index beside it. This
module owns the format:

    packs/<name>.pack     the contents, one after the other
    packs/<name>.index    "repro-pack 1\\n", then for each blob, sorted: 16 bytes XXH3-128, 8 bytes offset, 8 bytes
                          size (little-endian); written last, so that an index stands for a whole pack

`<name>` is the XXH3-128 of the index. A blob is where `blobs/` has it, or in a pack; nobody outside of the store's
floor needs to know which.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from repro_est.digest import BlobHash, xxh3_hex
from repro_est.files import fsync, fsync_directory, write_atomic
from repro_est.store.layout import Layout

PACK_FROM = 1000
"""New small blobs in one batch from which on they become a pack."""

_HEADER = b"repro-pack 1\n"
_record = Struct("<16sQQ")


class Slice(NamedTuple):
    """Where a blob lies in a pack; offset and size in bytes."""

    pack: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.pack, "rb") as file:
            return os.pread(file.fileno(), self.size, self.offset)


class PackIndex(NamedTuple):
    """What is in one pack."""

    pack: Path
    records: bytes

    @property
    def path(self) -> Path:
        """The index file, without which a pack is not there."""
        return self.pack.with_suffix(".index")

    @property
    def number(self) -> int:
        return len(self.records) // _record.size

    def part(self, first: int) -> list[tuple[bytes, int, int]]:
        """Returns digest, offset and size of the blobs whose digest begins with a byte."""
        width = _record.size
        start = bisect_left(range(self.number), first, key=lambda i: self.records[i * width])
        end = bisect_left(range(self.number), first + 1, key=lambda i: self.records[i * width])
        return list(_record.iter_unpack(self.records[start * width : end * width]))

    def find(self, digest: bytes) -> Slice | None:
        width = _record.size
        at = bisect_left(range(self.number), digest, key=lambda i: self.records[i * width : i * width + 16])
        if at == self.number:
            return None
        found, offset, size = _record.unpack_from(self.records, at * _record.size)
        return Slice(self.pack, offset, size) if found == digest else None


class Packs:
    """The packs of one store; their indexes are read when they are first needed, and again by `refresh`."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.directory("packs")
        self._stamp = -1
        self._indexes: list[PackIndex] = []

    def find(self, blob: BlobHash) -> Slice | None:
        """Returns where a packed blob lies, None when it is in no pack known here; see `refresh`."""
        if self._stamp < 0:
            self.refresh()
        if not self._indexes:
            return None
        digest = bytes.fromhex(blob)
        return next((found for index in self._indexes if (found := index.find(digest))), None)

    def all(self) -> list[PackIndex]:
        """Returns every pack."""
        self.refresh()
        return list(self._indexes)

    def entries(self) -> Iterator[tuple[BlobHash, Slice]]:
        """Every packed blob, pack by pack."""
        self.refresh()
        for index in self._indexes:
            for digest, offset, size in _record.iter_unpack(index.records):
                yield BlobHash(digest.hex()), Slice(index.pack, offset, size)

    def add(self, staged: Path, entries: dict[BlobHash, tuple[int, int]]) -> None:
        """Makes a staged file a pack.

        Args:
            staged: the contents, on the store's file system; it is moved.
            entries: offset and size of each blob in it.
        """
        records = b"".join(
            _record.pack(bytes.fromhex(blob), offset, size) for blob, (offset, size) in sorted(entries.items())
        )
        name = xxh3_hex(_HEADER + records)
        self._directory.mkdir(exist_ok=True)
        os.chmod(staged, 0o444)
        with open(staged, "rb") as file:
            fsync(file.fileno())
        os.rename(staged, self._directory / f"{name}.pack")
        fsync_directory(self._directory)
        write_atomic(self._directory / f"{name}.index", _HEADER + records, mode=0o444)

    def refresh(self) -> None:
        """Looks for packs that other processes made meanwhile."""
        try:
            stamp = os.stat(self._directory).st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        if stamp == self._stamp:
            return
        self._stamp, self._indexes = stamp, []
        for name in sorted(os.listdir(self._directory)) if stamp else ():
            if name.endswith(".index") and not name.startswith("."):
                data = (self._directory / name).read_bytes()
                pack = (self._directory / name).with_suffix(".pack")
                if data.startswith(_HEADER) and xxh3_hex(data) == name.removesuffix(".index") and pack.exists():
                    self._indexes.append(PackIndex(pack, data[len(_HEADER) :]))

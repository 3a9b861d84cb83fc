"""Packs of a remote: many small files in one object, so that 100,000 of them do not cost 100,000 round trips.

    packs/<name>          the contents, one after the other, in the order of their SHA-256
    packs/<name>.index    "repro-remote-pack 1\\n", then for each file, sorted: 32 bytes SHA-256, 8 bytes offset,
                          8 bytes size (little-endian); written after the pack, so that an index stands for a whole one

`<name>` is the SHA-256 of the index, which lists what it holds by digest: the same files make the same pack, whoever
pushes them. An index is kept here once it was read; nothing of it is believed but where to look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from repro_est.digest import Sha256, sha256_hex
from repro_est.errors import RemoteError
from repro_est.files import write_atomic
from repro_est.share.remote import Remote, is_sha256, read_small

PACK_FROM = 33
"""Small files that are not there yet from which on they become a pack."""
PACK_BYTES = 64 << 20

_PREFIX = "packs/"
_SUFFIX = ".index"
_HEADER = b"repro-remote-pack 1\n"
_INDEX_LIMIT = 256 << 20
_THREADS = 8
_record = Struct("<32sQQ")


class Place(NamedTuple):
    """Where a file lies in a pack; offset and size in bytes."""

    pack: str
    offset: int
    size: int


class Planned(NamedTuple):
    """A pack to be written: its name, the bytes of its index, and the files in order."""

    name: str
    content: bytes
    files: tuple[Sha256, ...]
    size: int


def pack_name(name: str) -> str:
    return _PREFIX + name


def index_name(name: str) -> str:
    return _PREFIX + name + _SUFFIX


def plan_packs(files: Iterable[tuple[Sha256, int]]) -> Iterator[Planned]:
    """Puts small files into packs of at most `PACK_BYTES`."""
    group: list[tuple[Sha256, int]] = []
    total = 0
    for sha256, size in sorted(files):
        if group and total + size > PACK_BYTES:
            yield _planned(group)
            group, total = [], 0
        group.append((sha256, size))
        total += size
    if group:
        yield _planned(group)


def _planned(group: Sequence[tuple[Sha256, int]]) -> Planned:
    records, offset = [], 0
    for sha256, size in group:
        records.append(_record.pack(bytes.fromhex(sha256), offset, size))
        offset += size
    index = _HEADER + b"".join(records)
    return Planned(sha256_hex(index), index, tuple(sha256 for sha256, _ in group), offset)


class Catalog:
    """What the packs of one remote hold.

    Args:
        cache: directory where indexes that were read are kept; disposable.
    """

    def __init__(self, remote: Remote, cache: Path) -> None:
        self._remote, self._cache = remote, cache

    def all(self) -> list[str]:
        """Returns the names of all packs that are there."""
        names = [item.name.removeprefix(_PREFIX) for item in self._remote.below(_PREFIX)]
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and is_sha256(name[:-6]))

    def find(self, wanted: Iterable[Sha256], packs: Sequence[str]) -> dict[Sha256, Place]:
        """Returns where each of these files lies, of those that are in one of the packs."""
        digests, found = {bytes.fromhex(item) for item in wanted}, dict[Sha256, Place]()
        if not digests:
            return found
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, records in zip(packs, pool.map(self._records, packs), strict=True):
                for digest, offset, size in _record.iter_unpack(records):
                    if digest in digests:
                        found[Sha256(digest.hex())] = Place(name, offset, size)
        return found

    def _records(self, name: str) -> bytes:
        """Returns the records of a pack; none when its index is not there, or is not what it is named for."""
        kept = self._cache / (name + _SUFFIX)
        with contextlib.suppress(OSError):
            data = kept.read_bytes()
            if sha256_hex(data) == name:
                return data[len(_HEADER) :]
        try:
            data = read_small(self._remote, index_name(name), limit=_INDEX_LIMIT)
        except (FileNotFoundError, RemoteError):
            return b""
        records = data[len(_HEADER) :]
        if sha256_hex(data) != name or not data.startswith(_HEADER) or len(records) % _record.size:
            return b""
        with contextlib.suppress(OSError):
            self._cache.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, data)
        return records

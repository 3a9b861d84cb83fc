"""A spill: digests by the hundred million, each with a number, on disk and in 256 parts.

Which blobs a store needs is found out tree by tree, and asked for directory by directory. In between it lies here, by
the first byte of the digest, so that only one part in 256 is ever in memory. Records of 16 + 4 bytes, little-endian.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from struct import Struct

PARTS = 256
_FLUSH_BYTES = 1 << 17
_record = Struct("<16sI")


class Spill:
    """Digests with numbers.

    Args:
        directory: an empty one, for nothing else.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting = [bytearray() for _ in range(PARTS)]

    def add(self, digests: Iterable[bytes], number: int) -> None:
        """Notes a number (below 2**32) for each of these."""
        tail = number.to_bytes(4, "little")
        waiting = self._waiting
        full: set[int] = set()
        for digest in digests:
            part = waiting[digest[0]]
            part += digest
            part += tail
            if len(part) > _FLUSH_BYTES:
                full.add(digest[0])
        for number_of_part in full:
            self._flush(number_of_part)

    def highest(self, part: int) -> dict[bytes, int]:
        """Returns every digest that begins with a byte, with the highest of its numbers."""
        found: dict[bytes, int] = {}
        for digest, number in _record.iter_unpack(self._read(part)):
            if found.get(digest, -1) < number:
                found[digest] = number
        return found

    def common(self, part: int, several: int) -> dict[bytes, int]:
        """Returns every digest that begins with a byte, with its number; `several` where it has more than one."""
        found: dict[bytes, int] = {}
        for digest, number in _record.iter_unpack(self._read(part)):
            if found.setdefault(digest, number) != number:
                found[digest] = several
        return found

    def _read(self, part: int) -> bytes:
        self._flush(part)
        try:
            return self._path(part).read_bytes()
        except FileNotFoundError:
            return b""

    def _flush(self, part: int) -> None:
        if not self._waiting[part]:
            return
        with open(self._path(part), "ab") as file:
            file.write(self._waiting[part])
        self._waiting[part] = bytearray()

    def _path(self, part: int) -> Path:
        return self._directory / f"{part:02x}"

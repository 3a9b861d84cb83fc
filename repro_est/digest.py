"""The two digests of `repro`, and the one way a structure becomes bytes to be digested.

XXH3-128 names files, trees, plans and runs on this machine: it is as fast as memory and finds
change, not malice. SHA-256 binds whatever crosses to another machine. Both are hashlib-shaped
(`update`, `hexdigest`), and nothing else in `repro` imports a hash function.

A structure is digested as its canonical JSON (RFC 8785) behind a domain tag,

    XXH3-128( tag + NUL + RFC8785(document) )        tag = "repro:<kind>:<format version>"

so that a tree can never have the name of a plan, and a new format never the name of an old one.
Golden vectors are in `tests/golden/digests.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NewType, Protocol

import xxhash

BlobHash = NewType("BlobHash", str)
"""XXH3-128 of a file's bytes, 32 lower-case hex digits."""
TreeHash = NewType("TreeHash", str)
"""XXH3-128 of a tree's listing (see `repro_est.store.trees`)."""
EnvironmentKey = NewType("EnvironmentKey", str)
"""XXH3-128 of the locked artifacts of one platform."""
RunHash = NewType("RunHash", str)
"""XXH3-128 of a plan: the address of everything the run made."""
Sha256 = NewType("Sha256", str)
"""SHA-256 of a file's bytes, 64 lower-case hex digits."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What a canonical document is made of."""

DIGEST_LENGTH = 32
"""Hex digits in an XXH3-128 digest."""


class Hasher(Protocol):
    """The part of hashlib's interface that both digests share."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def xxh3(data: bytes = b"") -> Hasher:
    """Returns a new XXH3-128 hasher, hashlib-shaped."""
    return xxhash.xxh3_128(data)


def sha256(data: bytes | bytearray | memoryview = b"") -> Hasher:
    """Returns a new SHA-256 hasher."""
    import hashlib  # 2 ms for OpenSSL, and a hit computes none

    return hashlib.sha256(data)


def xxh3_hex(data: bytes | bytearray | memoryview) -> BlobHash:
    """Returns the XXH3-128 of `data` in hex."""
    return BlobHash(xxhash.xxh3_128_hexdigest(data))


def sha256_hex(data: bytes | bytearray | memoryview) -> Sha256:
    """Returns the SHA-256 of `data` in hex."""
    return Sha256(sha256(data).hexdigest())


def canonical(document: Json) -> bytes:
    """Returns the RFC 8785 (JSON Canonicalization Scheme) bytes of `document`.

    Raises:
        ValueError: a number RFC 8785 cannot carry (NaN, infinity, an integer beyond 2**53).
    """
    import rfc8785  # 5 ms, and a listing of runs needs none of it

    return rfc8785.dumps(document)


def identify(tag: str, document: Json) -> str:
    """Returns the XXH3-128 of `document` under a domain tag such as `repro:plan:1`."""
    return xxhash.xxh3_128_hexdigest(tag.encode("ascii") + b"\0" + canonical(document))


def tagged(tag: str, data: bytes) -> str:
    """Returns the XXH3-128 of bytes that are canonical already, under a domain tag."""
    return xxhash.xxh3_128_hexdigest(tag.encode("ascii") + b"\0" + data)

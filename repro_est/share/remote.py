"""A remote: a place of names and bytes that a team shares, and what each name in it stands for.

    format                          version; a newer one is refused
    runs/<run hash>/<key id>.json   a signed statement about a run (`share.statement`), written last
    plans/<sha256>.json             `plan.json` of a run
    trees/<sha256>                  a manifest (`store.trees`), with the SHA-256 of every file
    trees/<sha256>.packs            names of packs that hold its small files, one a line: a hint
    objects/ab/<sha256>             the content of one file
    packs/<name>, <name>.index      many small files in one (`share.packs`)
    leases/<run hash>/<n>           who executes a run (`share.lease`)
    incoming/                       what is being written; a directory has it, a bucket does not

All but `format`, statements, hints and leases is named for its content, so it is written once and never changed, and
two who push at once write the same. Nothing in a remote is believed: whoever reads checks every byte against a name
that a trusted signature covers. A remote only has to keep what it was given, or to be found out.

Implementations: `directory`, `ssh`, `bucket`. Each may be used by several threads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from repro_est.digest import RunHash
from repro_est.errors import RemoteError, UsageError

REMOTE_FORMAT = 1
FORMAT = "format"
CHUNK = 1 << 20
SMALL = 1 << 16
"""Files smaller than this may go into a pack."""

_HEX32, _HEX64 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Upload:
    """One object to be written.

    Args:
        size: in bytes.
        chunks: gives its content from the start, checked; an error in it means that nothing is written.
    """

    name: str
    size: int
    chunks: Callable[[], Iterable[bytes]]

    @classmethod
    def of(cls, name: str, data: bytes) -> Upload:
        return cls(name, len(data), lambda: [data])


class Listed(NamedTuple):
    """An object that is there; size in bytes."""

    name: str
    size: int


Told = Callable[[int], None]
"""Told how many bytes more have gone."""


class Remote(Protocol):
    """See above. Every method raises `RemoteError` when the place cannot be reached or refuses."""

    @property
    def name(self) -> str:
        """What the project calls it."""

    def exists(self, names: Sequence[str]) -> dict[str, int]:
        """Returns those that are there, with their sizes in bytes."""

    def below(self, prefix: str) -> Iterator[Listed]:
        """Yields everything below a directory such as `runs/`, which ends in a slash."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yields the bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """

    def write(self, uploads: Sequence[Upload], told: Told | None = None) -> None:
        """Writes objects, several at a time; each appears whole or not at all, and all are durable at the end.

        One that is there already stays.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small object if there is none of that name; False when there is. Two who try: one succeeds."""

    def replace(self, name: str, data: bytes) -> None:
        """Writes a small object in place of the one that is there; a reader sees one or the other."""

    def delete(self, name: str) -> None:
        """Takes an object away; one that is not there is fine."""

    def close(self) -> None:
        """Ends connections; they may be made again."""


def object_name(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def tree_name(sha256: str) -> str:
    return f"trees/{sha256}"


def hint_name(sha256: str) -> str:
    return f"trees/{sha256}.packs"


def plan_name(sha256: str) -> str:
    return f"plans/{sha256}.json"


def statements_of(run: RunHash) -> str:
    return f"runs/{run}/"


def statement_name(run: RunHash, key_id: str) -> str:
    return f"runs/{run}/{key_id}.json"


def is_run_hash(text: object) -> bool:
    return isinstance(text, str) and _HEX32.fullmatch(text) is not None


def is_sha256(text: object) -> bool:
    return isinstance(text, str) and _HEX64.fullmatch(text) is not None


def read_small(remote: Remote, name: str, *, limit: int) -> bytes:
    """Returns an object that must not be larger than `limit`, since whoever wrote it may mean ill.

    Raises:
        FileNotFoundError: there is none.
        RemoteError: it is larger.
    """
    parts, size = [], 0
    for chunk in remote.read(name):
        size += len(chunk)
        if size > limit:
            raise RemoteError(f"{remote.name}: {name} is larger than {limit:,} bytes, which nothing of its kind is")
        parts.append(chunk)
    return b"".join(parts)


def check_format(remote: Remote, *, make: bool) -> None:
    """Refuses a remote of a newer format.

    Args:
        make: write the format of an empty one.

    Raises:
        UsageError: it is newer, or no remote of ours.
    """
    try:
        text = read_small(remote, FORMAT, limit=1 << 10).decode("ascii", "replace").strip()
    except FileNotFoundError:
        if make:
            remote.create(FORMAT, f"{REMOTE_FORMAT}\n".encode())
        return
    if not text.isdecimal():
        raise UsageError(f"{remote.name}: its `format` holds {text[:40]!r}, expected a number")
    if int(text) > REMOTE_FORMAT:
        raise UsageError(
            f"{remote.name}: has format {text}, this version of repro reads up to {REMOTE_FORMAT}", hint="upgrade repro"
        )


@contextlib.contextmanager
def closing(remotes: Iterable[Remote]) -> Iterator[None]:
    try:
        yield
    finally:
        for remote in remotes:
            remote.close()

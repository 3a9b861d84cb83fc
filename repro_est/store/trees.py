"""The tree manifest: one directory (or one file) as an immutable, content-addressed list.

This module owns the format. A manifest is UTF-8 text; its first line is `repro-tree 1`, each further
line is one entry, sorted by the UTF-8 bytes of its path, fields separated by a tab:

    f  <xxh3>  <size>  <sha256 or ->  <path>        a file
    x  <xxh3>  <size>  <sha256 or ->  <path>        a file with an executable bit
    l  -       -       -              <path>  <target>   a symlink, its target as text
    d  -       -       -              <path>        an empty directory

`<path>` is relative, `/`-separated, never `.` or `..`; backslash, tab, newline and carriage return are
written `\\\\`, `\\t`, `\\n`, `\\r`. The identity of the tree is

    XXH3-128( "repro:tree:1" + NUL + the entry lines, each with its sha256 field replaced by - )

so neither times, owners, permissions beyond one executable bit, nor the presence of SHA-256 decide it.
A tree of a single file (an input that is a file) has exactly one entry and `single_file` true; its first
line is `repro-tree 1 file` and its tag `repro:tree-file:1`.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from repro_est.digest import BlobHash, Sha256, TreeHash, tagged
from repro_est.errors import VerificationError

_HEADER = "repro-tree 1"
_HEADER_FILE = "repro-tree 1 file"
_TAG = "repro:tree:1"
_TAG_FILE = "repro:tree-file:1"
_CONTENT = re.compile(rb"^[fx]\t([0-9a-f]{32})\t([0-9]+)\t", re.MULTILINE)


class Kind(StrEnum):
    """What an entry is; the value is the letter in the manifest."""

    FILE = "f"
    EXECUTABLE = "x"
    SYMLINK = "l"
    DIRECTORY = "d"


class Entry(NamedTuple):
    """One line of a manifest.

    Args:
        path: relative POSIX path.
        kind: file, executable file, symlink or empty directory.
        xxh3: digest of the content; `""` unless a file.
        size: bytes; 0 unless a file.
        sha256: SHA-256 of the content, or None when nothing had to leave this machine yet.
        target: where a symlink points, as written; `""` otherwise.
    """

    path: str
    kind: Kind
    xxh3: BlobHash = BlobHash("")
    size: int = 0
    sha256: Sha256 | None = None
    target: str = ""

    @property
    def is_file(self) -> bool:
        return self.kind is Kind.FILE or self.kind is Kind.EXECUTABLE


@dataclass(frozen=True, slots=True)
class Tree:
    """A sorted, validated set of entries and their identity."""

    entries: tuple[Entry, ...]
    hash: TreeHash
    single_file: bool = False

    @classmethod
    def of(cls, entries: Iterable[Entry], *, single_file: bool = False) -> Tree:
        """Sorts `entries` and computes the identity. Paths are the caller's to have checked."""
        ordered = tuple(sorted(entries, key=_sort_key))
        lines = "".join([_identity_line(entry) for entry in ordered])
        tag = _TAG_FILE if single_file else _TAG
        return cls(ordered, TreeHash(tagged(tag, lines.encode("utf-8"))), single_file)

    @property
    def size(self) -> int:
        """Sum of the file sizes, in bytes."""
        return sum(entry.size for entry in self.entries)

    def files(self) -> Iterator[Entry]:
        """The entries that have content."""
        return (entry for entry in self.entries if entry.is_file)

    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.entries}

    def below(self, path: str) -> Tree | None:
        """Returns the file or directory at `path` as a tree of its own; `""` is the whole, None is not there."""
        if not path:
            return self
        for entry in self.entries:
            if entry.path == path and entry.is_file:
                return Tree.of([entry._replace(path=path.rsplit("/", 1)[-1])], single_file=True)
        prefix = path + "/"
        inside = [
            entry._replace(path=entry.path[len(prefix) :]) for entry in self.entries if entry.path.startswith(prefix)
        ]
        empty = any(entry.path == path and entry.kind is Kind.DIRECTORY for entry in self.entries)
        return Tree.of(inside) if inside or empty else None

    def manifest(self) -> bytes:
        """Returns the bytes of the manifest file."""
        header = _HEADER_FILE if self.single_file else _HEADER
        return "".join([header, "\n", *map(_manifest_line, self.entries)]).encode("utf-8")


def parse_manifest(data: bytes, expected: TreeHash) -> Tree:
    """Reads a manifest and checks that it is the tree it is named for.

    Raises:
        VerificationError: the bytes are not a manifest, or not that of `expected`.
    """
    try:
        header, *lines = data.decode("utf-8").split("\n")
        if header not in (_HEADER, _HEADER_FILE) or lines.pop() != "":
            raise ValueError("no manifest header, or no final newline")
        tree = Tree.of([_parse_line(line) for line in lines], single_file=header == _HEADER_FILE)
    except (ValueError, IndexError) as error:
        raise VerificationError(f"tree {expected}: not a manifest: {error}") from None
    if tree.hash != expected:
        raise VerificationError(f"tree {expected}: manifest was changed, its content is tree {tree.hash}")
    return tree


def contents(manifest: bytes) -> list[tuple[bytes, int]]:
    """Returns the digest (16 bytes) and size of each file that a manifest lists, whether or not it is a good one."""
    return [(unhexlify(digest), int(size)) for digest, size in _CONTENT.findall(manifest)]


def _sort_key(entry: Entry) -> bytes:
    return entry.path.encode("utf-8")


def _identity_line(entry: Entry) -> str:
    if entry.is_file:
        return f"{entry.kind}\t{entry.xxh3}\t{entry.size}\t-\t{escape(entry.path)}\n"
    if entry.kind is Kind.SYMLINK:
        return f"l\t-\t-\t-\t{escape(entry.path)}\t{escape(entry.target)}\n"
    return f"d\t-\t-\t-\t{escape(entry.path)}\n"


def _manifest_line(entry: Entry) -> str:
    if entry.is_file and entry.sha256 is not None:
        return f"{entry.kind}\t{entry.xxh3}\t{entry.size}\t{entry.sha256}\t{escape(entry.path)}\n"
    return _identity_line(entry)


def _parse_line(line: str) -> Entry:
    kind, xxh3, size, sha256, path, *target = line.split("\t")
    path = unescape(path)
    match Kind(kind):
        case Kind.SYMLINK:
            return Entry(path, Kind.SYMLINK, target=unescape(target[0]))
        case Kind.DIRECTORY:
            return Entry(path, Kind.DIRECTORY)
        case file:
            return Entry(path, file, BlobHash(xxh3), int(size), None if sha256 == "-" else Sha256(sha256))


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_UNESCAPES = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


def escape(text: str) -> str:
    """Writes a path so that it holds no tab and no line end."""
    return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)


def unescape(text: str) -> str:
    """The inverse of `escape`.

    Raises:
        ValueError: a backslash that `escape` never writes.
    """
    if "\\" not in text:
        return text
    parts: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            if following not in _UNESCAPES:
                raise ValueError(f"unknown escape `\\{following}`")
            character = _UNESCAPES[following]
        parts.append(character)
    return "".join(parts)

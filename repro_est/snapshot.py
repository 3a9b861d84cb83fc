"""The source directory as an immutable tree, and inputs hashed where they lie.

A snapshot copies each file into the store *as it hashes it*: what is executed later is that copy, and the
working tree is never read again. A file that changes while it is read is read again, and then refused by name. An
input is data, and large: it is hashed in place, and its stat signatures tell afterwards whether somebody wrote to it
(`changes`).

What is part of a snapshot is `ignore`'s rule; how the tree is written down is `store.trees`.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro_est.digest import BlobHash, TreeHash, sha256_hex, xxh3_hex
from repro_est.errors import InputError, SourceError
from repro_est.files import is_utf8, printable
from repro_est.ignore import IGNORE_FILES, Ignore
from repro_est.scan import Excluder, Scanned, Signature, scan, signature_of
from repro_est.store.blobs import SMALL, Batch, Content, digest_descriptor, digest_file
from repro_est.store.statcache import StatCache
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_TRIES = 4
_TICK_NS = 20_000_000
"""Longer than one tick of the clock that stamps files (4 to 10 ms on Linux)."""
_FUTURE_NS = 60_000_000_000
"""A time stamp this far ahead is a wrong clock, not a write that is going on."""
_CONFIDENTIAL = (
    r"(^|/)(\.env(\..*)?|\.netrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?|.*\.(pem|key|p12|pfx))$"
)
_HARMLESS = r"\.(example|sample|template|pub)$"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A source directory in the store.

    Args:
        files, size: how many there are, and their bytes.
        warnings: sentences for a person, such as files that look like secrets.
        cached: nothing had to be read.
    """

    hash: TreeHash
    files: int
    size: int
    warnings: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What a snapshot would hold, and leave out.

    Args:
        included: `(path, bytes)`, sorted.
        ignored: `(path, reason)`, sorted.
        problems: why a snapshot would be refused, a sentence each.
        directories: every directory that is looked into, `""` the source itself; sorted.
    """

    included: tuple[tuple[str, int], ...]
    ignored: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InputTree:
    """An input that was hashed in place.

    Args:
        path: the file or directory itself, absolute.
        tree: what it holds; without SHA-256, since it has not left this machine.
    """

    path: Path
    tree: Tree


def snapshot(source: Path, store: Store, *, exclude: tuple[Path, ...], max_bytes: int, max_files: int) -> Snapshot:
    """Takes a snapshot of `source`.

    Args:
        exclude: absolute paths left out whatever the ignore files say.
        max_bytes, max_files: a larger source is refused.

    Raises:
        SourceError: too large, or something in it cannot be kept; all such things at once.
    """
    cache = source_cache(source, store, exclude)
    known = cache.remembered()
    if known is not None and store.has_tree(known.tree):
        return Snapshot(known.tree, known.files, known.size, known.notes, cached=True)
    ignore = _Ledger(Ignore(source, exclude))
    found, problems = scan(source, shown=str(source), exclude=ignore.excluded)
    if problems:
        raise SourceError("\n".join(problems), hint=f"leave a file out with a line in {source / '.reproignore'}")
    check_limits([(item.path, item.size) for item in found], source, max_bytes=max_bytes, max_files=max_files)
    entries, files = _read_into(store, source, found, cache.files())
    tree = Tree.of(entries)
    store.write_tree(tree)
    warnings = _secret_warnings(found, source)
    cache.remember(tree.hash, files, ignore.names, ignore.directories, warnings)
    return Snapshot(tree.hash, len(files), tree.size, warnings)


def list_source(source: Path, *, exclude: tuple[Path, ...]) -> Listing:
    """Says what a snapshot of `source` would hold and leave out, reading no file.

    Raises:
        SourceError: an ignore file cannot be read.
    """
    ignore = _Ledger(Ignore(source, exclude))
    found, problems = scan(source, shown=str(source), exclude=ignore.excluded)
    return Listing(
        included=tuple(sorted((item.path, item.size) for item in found)),
        ignored=tuple(sorted(ignore.reasons)),
        problems=tuple(problems),
        directories=tuple(sorted(ignore.directories)),
    )


def digest_input(path: Path, store: Store) -> InputTree:
    """Hashes a file or directory in place.

    Raises:
        InputError: it is missing, unreadable, or something in it cannot be an input.
    """
    real = Path(os.path.realpath(path))
    cache = input_cache(real, store)
    known = cache.remembered()
    if known is not None and store.has_tree(known.tree):
        return InputTree(real, store.read_tree(known.tree))
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        found, problems = scan(real, shown=str(path))
        if problems:
            raise InputError("\n".join(problems))
    elif not is_utf8(real.name):
        raise InputError(f"{path}: the file it leads to, {printable(real.name)}, has a name that is not UTF-8")
    elif stat.S_ISREG(mode):
        found = [Scanned(real.name, Kind.FILE, "", 0, (0, 0, 0, 0, 0, 0))]
    else:
        raise InputError(f"{path}: is neither a file nor a directory")
    files = _digest_in_place(real, found, cache.files())
    tree = Tree.of(
        (_entry(item, files[item.path][1] if item.path in files else None) for item in found),
        single_file=stat.S_ISREG(mode),
    )
    store.write_tree(tree)
    directories = {"", *(parent for item in found for parent in _parents(item))}
    cache.remember(tree.hash, files, {}, directories)
    return InputTree(real, tree)


def keep(path: Path, store: Store) -> Tree:
    """Copies a file or directory into the store, all of it, whatever ignore files say.

    Raises:
        InputError: it is missing.
        SourceError: something in it cannot be kept; all such things at once.
    """
    real = Path(os.path.realpath(path))
    try:
        signature = signature_of(os.stat(real))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(signature[5]):
        found, root = [Scanned(real.name, Kind.FILE, "", signature[2], signature)], real.parent
    else:
        found, problems = scan(real, shown=str(path))
        if problems:
            raise SourceError("\n".join(problems))
        root = real
    entries, _ = _read_into(store, root, found, {})
    tree = Tree.of(entries, single_file=root != real)
    store.write_tree(tree)
    return tree


def tree_in_place(path: Path, *, exclude: Excluder | None = None, links_may_leave: bool = False) -> Tree:
    """Returns the tree of a file or directory that is neither copied nor remembered, without SHA-256.

    Raises:
        SourceError: something in it cannot be told apart on every machine.
    """
    if path.is_file():
        content = digest_file(path, with_sha256=False)
        return Tree.of([Entry(path.name, Kind.FILE, content.xxh3, content.size)], single_file=True)
    found, problems = scan(path, shown=str(path), exclude=exclude, links_may_leave=links_may_leave)
    if problems:
        raise SourceError("\n".join(problems))
    plain = (Kind.SYMLINK, Kind.DIRECTORY)
    return Tree.of(
        _entry(item, None if item.kind in plain else digest_file(path / item.path, with_sha256=False)) for item in found
    )


def source_cache(source: Path, store: Store, exclude: tuple[Path, ...]) -> StatCache:
    """Returns the stat cache of a source directory; another exclusion is another cache."""
    return StatCache(store.layout, source, "source\0" + "\0".join(sorted(map(str, exclude))))


def input_cache(path: Path, store: Store) -> StatCache:
    """Returns the stat cache of an input, given by its real path."""
    return StatCache(store.layout, path, "input")


def signatures(item: InputTree) -> dict[str, Signature | None]:
    """Returns the stat signature of everything in an input as it is now; None is gone."""
    if item.tree.single_file:
        return {item.path.name: _signature_at(item.path)}
    found, _ = scan(item.path, shown="")
    return {entry.path: entry.signature for entry in found}


def changes(before: Mapping[str, Signature | None], item: InputTree) -> list[str]:
    """Returns the paths of an input that were written to, made or removed since `before` was taken."""
    after = signatures(item)
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


class _Ledger:
    """An excluder that remembers what it left out, and every directory it let pass."""

    def __init__(self, ignore: Ignore) -> None:
        self._ignore = ignore
        self.names: dict[str, list[str]] = {}
        self.reasons: list[tuple[str, str]] = []
        self.directories: list[str] = [""]

    def excluded(self, path: str, is_directory: bool) -> bool:
        reason = self._ignore.reason(path, is_directory)
        parent, _, name = path.rpartition("/")
        if reason is None:
            if is_directory:
                self.directories.append(path)
            return False
        self.reasons.append((path, reason))
        if name not in IGNORE_FILES:  # one that changes may change everything, so the cache must see it
            self.names.setdefault(parent, []).append(f"{name}/" if is_directory else name)
        return True


def check_limits(found: Sequence[tuple[str, int]], source: Path, *, max_bytes: int, max_files: int) -> None:
    """Refuses a source that is too large.

    Args:
        found: path and bytes of everything a snapshot would hold.

    Raises:
        SourceError: it is; the largest files are named.
    """
    total = sum(size for _, size in found)
    if total <= max_bytes and len(found) <= max_files:
        return
    largest = sorted(found, key=lambda item: -item[1])[:10]
    listed = "\n".join(f"  {size:>15,}  {path}" for path, size in largest)
    raise SourceError(
        f"{source}: {len(found):,} files and {total:,} bytes, expected at most {max_files:,} files "
        f"and {max_bytes:,} bytes; the largest:\n{listed}",
        hint=f"data belongs in [inputs]; leave this file out with the line `/{largest[0][0]}` in "
        f"{source / '.reproignore'}, or raise [snapshot] max_bytes and max_files in repro.toml",
    )


def _read_into(
    store: Store, source: Path, found: Sequence[Scanned], known: Mapping[str, tuple[Signature, Content]]
) -> tuple[list[Entry], dict[str, tuple[Signature, Content]]]:
    """Copies every file into the store unless it is there and its signature says it did not change."""
    entries: list[Entry] = []
    files: dict[str, tuple[Signature, Content]] = {}
    root = str(source)
    with store.batch() as batch:
        for item in found:
            if item.kind in (Kind.SYMLINK, Kind.DIRECTORY):
                entries.append(_entry(item, None))
                continue
            old = known.get(item.path)
            if old is not None and old[0] == item.signature and batch.has(old[1].xxh3, old[1].size):
                signature, content = old
            else:
                signature, content = _take(f"{root}/{item.path}", item, batch)
            kind = Kind.EXECUTABLE if signature[5] & 0o111 else Kind.FILE
            files[item.path] = (signature, content)
            entries.append(Entry(item.path, kind, content.xxh3, content.size, content.sha256))
        batch.publish()
    return entries, files


def _take(path: str, item: Scanned, batch: Batch) -> tuple[Signature, Content]:
    """Copies one file, and makes sure that nobody wrote to it meanwhile."""
    before = item.signature
    for _ in _tries():
        started_ns = time.time_ns()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            content = _copy(descriptor, before[2], batch)
            after = signature_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if after == before and content.size == after[2] and _is_settled(after, started_ns):
            return after, content
        before = after
    raise SourceError(
        f"{path}: changed while it was read, {_TRIES} times in a row",
        hint="stop what writes it, or leave it out with a line in .reproignore",
    )


def _tries() -> Iterator[int]:
    """Tries of reading a file, each but the first after a tick of the file system's clock."""
    for number in range(_TRIES):
        if number:
            time.sleep(_TICK_NS / 1e9)
        yield number


def _is_settled(signature: Signature, started_ns: int) -> bool:
    """Whether the last change is so long ago that a further one would have had another time stamp."""
    return max(signature[3], signature[4]) < started_ns - _TICK_NS or signature[3] > started_ns + _FUTURE_NS


def _copy(descriptor: int, size: int, batch: Batch) -> Content:
    if size > SMALL:
        return batch.copy(descriptor)
    data = os.read(descriptor, SMALL + 1)
    if len(data) > SMALL:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return batch.copy(descriptor)
    xxh3 = xxh3_hex(data)
    batch.put(data, xxh3)
    return Content(xxh3, sha256_hex(data), len(data))


def _digest_in_place(
    root: Path, found: Iterable[Scanned], known: Mapping[str, tuple[Signature, Content]]
) -> dict[str, tuple[Signature, Content]]:
    """Digests the files of an input, several at a time, those whose signature is known excepted."""
    wanted = [item for item in found if item.kind in (Kind.FILE, Kind.EXECUTABLE)]

    def digest(item: Scanned) -> tuple[Signature, Content]:
        path = root / item.path if root.is_dir() else root
        old = known.get(item.path)
        return old if old is not None and old[0] == _signature_at(path) else _digest_steadily(path)

    if len(wanted) == 1:
        return {wanted[0].path: digest(wanted[0])}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip((item.path for item in wanted), pool.map(digest, wanted), strict=True))


def _digest_steadily(path: Path) -> tuple[Signature, Content]:
    for _ in _tries():
        started_ns = time.time_ns()
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            before = signature_of(os.fstat(descriptor))
            content = digest_descriptor(descriptor, with_sha256=False)
            after = signature_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if before == after and _is_settled(after, started_ns):
            return after, content
    raise InputError(f"{path}: changed while it was read, {_TRIES} times in a row", hint="stop what writes it")


def _entry(item: Scanned, content: Content | None) -> Entry:
    if content is None:
        return Entry(item.path, item.kind, target=item.target)
    return Entry(item.path, item.kind, BlobHash(content.xxh3), content.size, content.sha256)


def _parents(item: Scanned) -> list[str]:
    """Every directory above a path, and an empty directory itself."""
    parts = item.path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts) + (item.kind is Kind.DIRECTORY))]


def _signature_at(path: Path) -> Signature | None:
    try:
        return signature_of(os.lstat(path))
    except OSError:
        return None


def _secret_warnings(found: Iterable[Scanned], source: Path) -> tuple[str, ...]:
    return tuple(
        f"{source / item.path}: looks like a secret and is part of the snapshot; leave it out with `/{item.path}` "
        "in .reproignore, and pass values by `secrets`"
        for item in found
        if re.search(_CONFIDENTIAL, item.path) and not re.search(_HARMLESS, item.path)
    )

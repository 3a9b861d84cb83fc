"""Wheels, unpacked and compiled once for each Python version; prefixes are made of copies.

    unpacked/<key>/files/    what a wheel puts into a prefix: bin/, lib/python3.11/site-packages/, byte code included
    unpacked/<key>/tree      written last: the tree hash of files/

So an environment of which one package changed unpacks and compiles one package. A copy shares no writable block with
what it is of, and is held against the tree while it is made: one that was tampered with is set aside and made anew from
the wheel, whose SHA-256 was checked. Scripts name no directory, so the same files serve every prefix.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import source_from_cache
from pathlib import Path

from repro_est.digest import Sha256, TreeHash, identify, xxh3_hex
from repro_est.environment.wheels import unpack
from repro_est.errors import EnvironmentBuildError, ReproError
from repro_est.files import copy_file, make_read_only, nested, write_new
from repro_est.store.blobs import digest_file
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.quarantine import set_aside
from repro_est.store.scratch import claimed_directory
from repro_est.store.sealed import seal
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_TAG = "repro:unpacked:1"
_SMALL = 1 << 20  # bytes: what is copied through memory, in half the system calls
_NAMED = "/env"
"""The prefix as byte code names it, whatever it is."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel to be placed; its content was checked against the SHA-256."""

    path: Path
    sha256: Sha256


class Unpacked:
    """The unpacked wheels of one store, for one Python.

    Args:
        python: an interpreter of that version, which compiles.
        version: `3.11.7`.
    """

    def __init__(self, store: Store, python: Path, version: str) -> None:
        self._store, self._python, self._version = store, python, version
        self._directory = store.layout.directory("unpacked")

    def place(self, wheels: Sequence[Wheel], prefix: Path) -> None:
        """Copies wheels into a prefix, unpacking those that are not there yet.

        Raises:
            EnvironmentBuildError: one is broken, or two have different contents for one path.
        """
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            wheels = sorted(wheels, key=lambda wheel: -wheel.path.stat().st_size)  # the longest work first
            trees = list(pool.map(self._tree, wheels))
            files = [item for item in _together(zip(wheels, trees, strict=True), prefix) if _is_free(*item)]
            for directory, name in sorted({path.parent: wheel.path.name for wheel, _, path in files}.items()):
                try:
                    directory.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError):
                    raise _two_own(str(directory.relative_to(prefix)), name) from None
            done = pool.map(self._copy, files)
            damaged = {wheel for (wheel, _, _), good in zip(files, done, strict=True) if not good}
        if damaged:
            for wheel in damaged:
                reason = f"{wheel.path.name}: its unpacked files were changed"
                with contextlib.suppress(FileNotFoundError):  # somebody else just did
                    set_aside(
                        self._store.layout, self._place(wheel), kind="unpacked", name=self._key(wheel), reason=reason
                    )
            for _, _, path in files:
                path.unlink(missing_ok=True)
            self.place(wheels, prefix)

    def _key(self, wheel: Wheel) -> str:
        return identify(_TAG, [wheel.path.name, wheel.sha256, self._version])

    def _place(self, wheel: Wheel) -> Path:
        return self._directory / self._key(wheel)

    def _copy(self, item: tuple[Wheel, Entry, Path]) -> bool:
        """Copies one file; returns whether it is what it was when it was unpacked."""
        wheel, entry, path = item
        source = self._place(wheel) / "files" / entry.path
        try:
            if entry.kind is Kind.SYMLINK:
                path.symlink_to(entry.target)
                return True
            mode = 0o555 if entry.kind is Kind.EXECUTABLE else 0o444
            if entry.size <= _SMALL:
                data = source.read_bytes()
                write_new(path, data, mode=mode)
                return xxh3_hex(data) == entry.xxh3
            copy_file(source, path, mode=mode)
        except FileNotFoundError:
            return False
        return digest_file(path, with_sha256=False).xxh3 == entry.xxh3

    def _tree(self, wheel: Wheel) -> Tree:
        place = self._place(wheel)
        renew_if_ours(self._store.layout, place)
        try:
            return self._store.read_tree(TreeHash((place / "tree").read_text("ascii")))
        except (OSError, UnicodeDecodeError, ReproError):
            return self._unpack(wheel, place)

    def _unpack(self, wheel: Wheel, place: Path) -> Tree:
        with writing(place), claimed_directory(self._store.layout, "tmp") as scratch:
            made = scratch / "unpacked"
            files = made / "files"
            files.mkdir(parents=True)
            unpack(wheel.path, files, final=None, python=self._version)
            self._compile(files)
            tree = seal(files, except_for="")
            self._store.write_tree(tree)
            (made / "tree").write_text(tree.hash, "ascii")
            make_read_only(made)
            os.chmod(made, 0o755)  # a directory is renamed only by who may write to it
            if place.exists() and not (place / "tree").exists():
                self._store.discard(place)
            try:
                place.parent.mkdir(exist_ok=True)
                os.rename(made, place)
            except OSError:  # somebody else was faster, with the same
                if not place.exists():
                    raise
        return tree

    def _compile(self, files: Path) -> None:
        """Compiles in one process: `compileall -j2` is not deterministic, -j1 is."""
        command = [str(self._python), "-I", "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash"]
        subprocess.run(  # what is no Python of this version stays without byte code
            [*command, "-s", str(files), "-p", _NAMED, str(files / "lib")],
            env={"PYTHONHASHSEED": "0", "PATH": os.defpath},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _is_free(wheel: Wheel, entry: Entry, path: Path) -> bool:
    """Whether a file is still to be placed: a conda package may have brought the same.

    Raises:
        EnvironmentBuildError: it brought another one.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    if stat.S_ISLNK(status.st_mode):
        same = entry.kind is Kind.SYMLINK and entry.target == os.readlink(path)
    else:
        kind = Kind.EXECUTABLE if status.st_mode & 0o100 else Kind.FILE
        same = stat.S_ISREG(status.st_mode) and entry.kind is kind
        same = same and digest_file(path, with_sha256=False).xxh3 == entry.xxh3
    source = _source(str(path))
    if not same and not (source and os.path.lexists(source)):
        raise _two_own(entry.path, wheel.path.name)
    return False


def _source(path: str) -> str | None:
    """Returns what byte code is made of: compiled in two processes, the same source may differ by a bit or two."""
    try:
        return source_from_cache(path)
    except ValueError:
        return None


def _two_own(path: str, *names: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(f"two packages own {path}: {' and '.join(names)}", hint="drop one of them")


def _together(trees: Iterable[tuple[Wheel, Tree]], prefix: Path) -> Iterator[tuple[Wheel, Entry, Path]]:
    """Yields every file of all wheels once; the same content from two of them is one file."""
    owners: dict[str, tuple[Wheel, Entry]] = {}
    for wheel, tree in trees:
        for entry in tree.entries:
            other, theirs = owners.setdefault(entry.path, (wheel, entry))
            if theirs != entry and not _source(entry.path):
                raise _two_own(entry.path, other.path.name, wheel.path.name)
            if other is wheel and entry.kind is not Kind.DIRECTORY:
                yield wheel, entry, prefix / entry.path
    for path, below in nested(path for path, (_, entry) in owners.items() if entry.kind is not Kind.DIRECTORY):
        raise _two_own(path, owners[path][0].path.name, owners[below][0].path.name)

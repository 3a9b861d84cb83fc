"""A remote that is a directory: on this machine, on NFS, on any disk that several people mount.

An object is written below `incoming/`, made durable, and linked to its name, which fails if there is one: so it appears
whole, once. A file system without hard links gets a rename, where two who write the same at once both succeed.

Directories take the mode of the root, group and setgid bits with it, so that whoever may write to the root may write
anywhere below: `chgrp team; chmod 2775` is set once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro_est.errors import RemoteError
from repro_est.files import fsync, fsync_directory, sync_filesystem, write_all, write_atomic
from repro_est.share.remote import CHUNK, Listed, Told, Upload

_THREADS = 4
_SYNC_EACH_UP_TO = 32
_LIST_FROM = 4
"""Names in one directory from which on it is listed, in place of asking for each."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
_REMEDIES = {
    errno.ENOSPC: ("no space left", "free some space there; what has been pushed stays, and the next push goes on"),
    errno.EDQUOT: (
        "disk quota exceeded",
        "free some space there; what has been pushed stays, and the next push goes on",
    ),
    errno.EACCES: ("no permission", "ask its owner, or set `read_only = true`"),
    errno.EPERM: ("no permission", "ask its owner, or set `read_only = true`"),
    errno.EROFS: ("is mounted read-only", "set `read_only = true`"),
}


class DirectoryRemote:
    """See above.

    Args:
        root: must exist when something is written: a mount that is missing is not made a directory.
    """

    def __init__(self, name: str, root: Path) -> None:
        self._name, self._root = name, root

    @property
    def name(self) -> str:
        return self._name

    def exists(self, names: Sequence[str]) -> dict[str, int]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for name in names:
            grouped[name.rpartition("/")[0]].append(name)
        found: dict[str, int] = {}
        with self._words(""):
            for directory, inside in grouped.items():
                if len(inside) >= _LIST_FROM:
                    there = {item.name: item.size for item in self._listed(directory)}
                    found |= {name: there[name] for name in inside if name in there}
                    continue
                for name in inside:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        found[name] = os.stat(self._root / name).st_size
        if not found:
            self._check_root()
        return found

    def below(self, prefix: str) -> Iterator[Listed]:
        with self._words(prefix):
            pending = [prefix.rstrip("/")]
            while pending:
                directory = pending.pop()
                try:
                    entries = list(os.scandir(self._root / directory))
                except (FileNotFoundError, NotADirectoryError):
                    self._check_root()
                    continue
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{directory}/{entry.name}")
                        continue
                    with contextlib.suppress(FileNotFoundError):  # somebody took it away meanwhile
                        yield Listed(f"{directory}/{entry.name}", entry.stat().st_size)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._words(name):
            try:
                descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would keep us for ever
            except NotADirectoryError:
                raise FileNotFoundError(errno.ENOENT, "no such object", name) from None
            except FileNotFoundError:
                self._check_root()
                raise
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "is no file")
                file.seek(offset)
                left = length
                while left is None or left > 0:
                    chunk = file.read(CHUNK if left is None else min(CHUNK, left))
                    if not chunk:
                        return
                    left = None if left is None else left - len(chunk)
                    yield chunk

    def write(self, uploads: Sequence[Upload], told: Told | None = None) -> None:
        self._check_root()
        with self._words(""):
            incoming = self._directory("incoming")
            own = incoming / f"{os.getpid()}-{os.urandom(6).hex()}"
            own.mkdir(mode=0o700)
            try:
                self._write(own, uploads, told)
            finally:
                for name in os.listdir(own):
                    os.unlink(own / name)
                os.rmdir(own)

    def create(self, name: str, data: bytes) -> bool:
        before = name in self.exists([name])
        if before:
            return False
        self._check_root()
        with self._words(name):
            staged = self._directory("incoming") / f"{os.getpid()}-{os.urandom(6).hex()}"
            write_atomic(staged, data, mode=0o444)
            try:
                return self._place(staged, name)
            finally:
                staged.unlink(missing_ok=True)

    def replace(self, name: str, data: bytes) -> None:
        self._check_root()
        with self._words(name):
            staged = self._directory("incoming") / f"{os.getpid()}-{os.urandom(6).hex()}"
            write_atomic(staged, data, mode=0o444)
            directory = self._directory(name.rpartition("/")[0])
            os.replace(staged, self._root / name)
            fsync_directory(directory)

    def delete(self, name: str) -> None:
        with self._words(name):
            (self._root / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open."""

    # ---- parts

    def _write(self, own: Path, uploads: Sequence[Upload], told: Told | None) -> None:
        def stage(number: int) -> None:
            upload, path = uploads[number], own / str(number)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            try:
                for chunk in upload.chunks():
                    write_all(descriptor, chunk)
                    if told is not None:
                        told(len(chunk))
                if len(uploads) <= _SYNC_EACH_UP_TO:
                    fsync(descriptor)
            finally:
                os.close(descriptor)

        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                list(pool.map(stage, range(len(uploads))))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if len(uploads) > _SYNC_EACH_UP_TO:
            sync_filesystem(own)
        for number, upload in enumerate(uploads):
            self._place(own / str(number), upload.name)
        for directory in {upload.name.rpartition("/")[0] for upload in uploads}:
            fsync_directory(self._root / directory)

    def _place(self, staged: Path, name: str) -> bool:
        target = self._root / name
        try:
            os.link(staged, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self._directory(name.rpartition("/")[0])
            return self._place(staged, name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                return False
            os.rename(staged, target)
        return True

    def _directory(self, path: str) -> Path:
        """Makes a directory below the root, with its mode."""
        place = self._root
        mode = stat.S_IMODE(os.stat(place).st_mode)
        for part in filter(None, path.split("/")):
            place = place / part
            try:
                place.mkdir()
            except FileExistsError:
                continue
            with contextlib.suppress(PermissionError):  # a setgid bit of another group
                os.chmod(place, mode)
        return place

    def _listed(self, directory: str) -> Iterator[Listed]:
        try:
            with os.scandir(self._root / directory) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield Listed(f"{directory}/{entry.name}", entry.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise RemoteError(
                f"remote {self._name}: there is no directory {self._root}", hint="mount it, or make it: mkdir -p"
            )

    @contextlib.contextmanager
    def _words(self, name: str) -> Iterator[None]:
        """Says what the system says in terms of the remote."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            what, hint = _REMEDIES.get(error.errno or 0, (error.strerror or str(error), None))
            place = f"{self._root}/{name}" if name else str(self._root)
            raise RemoteError(f"remote {self._name}: {place}: {what}", hint=hint) from None

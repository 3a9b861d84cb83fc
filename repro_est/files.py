"""Small file operations with a promise each: atomic, durable, copied without sharing, removed for sure.

All other modules write through these. Nothing here knows what a store or a recipe is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from repro_est.digest import Sha256, sha256

_CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: ioctl(dst, FICLONE, src)
_F_FULLFSYNC = 51  # macOS fcntl: fsync there does not flush the drive's cache


def fsync(descriptor: int) -> None:
    """Makes a file's or directory's content durable, on macOS through the drive's own cache too."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, _F_FULLFSYNC)
            return
    os.fsync(descriptor)


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> None:
    """Makes everything written to the file system of `path` durable, in one call.

    Cheaper than one fsync a file from a few dozen files on (syncfs(2); sync(2) elsewhere).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if sys.platform == "linux":
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) == 0:
                return
            code = ctypes.get_errno()
            if code != errno.ENOSYS:
                raise OSError(code, os.strerror(code), str(path))
        os.sync()
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data` so that a reader, a crash or a power cut sees the old or the new file.

    Temporary name in the same directory, fsync, rename, fsync of the directory. What is no file but a device or a
    pipe, `/dev/null` or `/dev/stdout`, is written to as it is.

    Raises:
        OSError: as the system said; the old file is then still there.
    """
    if _is_device_or_pipe(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def _is_device_or_pipe(path: Path) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISBLK(mode)


def copy_file(source: Path, destination: Path, *, mode: int) -> None:
    """Copies a file so that the two share no writable block: reflink where the file system can, else bytes.

    Raises:
        FileExistsError: `destination` is there already.
        OSError: as the system said; a half-written destination is removed.
    """
    reader = os.open(source, os.O_RDONLY)
    try:
        writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _copy_content(reader, writer)
            os.fchmod(writer, mode)
        except BaseException:
            os.unlink(destination)
            raise
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_content(reader: int, writer: int) -> None:
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.ioctl(writer, _FICLONE, reader)
            return
        except OSError:
            pass  # not a file system with reflinks, or two file systems
        while os.sendfile(writer, reader, None, 1 << 30):
            pass
        return
    while chunk := os.read(reader, 1 << 20):
        write_all(writer, chunk)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a file that must not be there yet.

    Raises:
        FileExistsError: it is there.
        OSError: as the system said; a half-written file is removed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths hold the same: bytes and exec bit of a file, target of a link, or a directory each."""
    first, second = one.lstat(), other.lstat()
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        return False
    if stat.S_ISLNK(first.st_mode):
        return os.readlink(one) == os.readlink(other)
    if not stat.S_ISREG(first.st_mode):
        return True
    if (first.st_size, first.st_mode & 0o100) != (second.st_size, second.st_mode & 0o100):
        return False
    with open(one, "rb") as here, open(other, "rb") as there:
        while chunk := here.read(_CHUNK):
            if chunk != there.read(_CHUNK):
                return False
    return True


def nested(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each path that is also the directory of another one, with that one, sorted."""
    known = sorted(set(paths))
    directories: set[str] = set()
    for path in known:
        while (path := path.rpartition("/")[0]) and path not in directories:
            directories.add(path)
    for path in sorted(directories.intersection(known)):
        yield from ((path, below) for below in known if below.startswith(f"{path}/"))


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of `data`; write(2) may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def is_utf8(name: str) -> bool:
    """Whether a name from the system or the command line is text; bytes that are none came as lone surrogates."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def printable(name: str) -> str:
    """Returns a name that may hold undecodable bytes as text, those written `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sha256_file(path: Path) -> Sha256:
    """Returns the SHA-256 of a file, read in pieces."""
    hasher = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return Sha256(hasher.hexdigest())


def size_of(path: Path) -> int:
    """Returns the bytes that are free when a file or directory is gone: those of files with no other name."""
    total = 0
    with contextlib.suppress(FileNotFoundError):  # somebody else removes it
        total = path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
        for directory, _, names in os.walk(path):
            for name in names:
                status = os.lstat(os.path.join(directory, name))
                total += status.st_size if status.st_nlink == 1 else 0
    return total


def make_read_only(path: Path) -> None:
    """Takes the write bits from a file or a whole directory tree; symlinks are left alone."""
    for directory, names, files in os.walk(path, topdown=False):
        for name in (*files, *names):
            _drop_write_bits(os.path.join(directory, name))
    _drop_write_bits(str(path))


def _drop_write_bits(path: str) -> None:
    mode = os.lstat(path).st_mode
    if not stat.S_ISLNK(mode):
        os.chmod(path, stat.S_IMODE(mode) & ~0o222)


def remove_tree(path: Path) -> None:
    """Removes a file or directory tree, read-only parts included; a missing one is fine."""
    import shutil

    def make_writable(function: object, name: str, error: BaseException) -> None:
        if isinstance(error, FileNotFoundError):
            return
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            if not os.path.islink(name):
                os.chmod(name, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            Path(name).unlink(missing_ok=True)

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=make_writable)
    else:
        shutil.rmtree(path, onerror=lambda function, name, info: make_writable(function, name, info[1]))

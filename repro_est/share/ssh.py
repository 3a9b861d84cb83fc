"""A remote that is a directory of a host behind SSH: `ssh://[user@]host[:port]/path`, over SFTP.

The connection is that of runs (`hosts.ssh`): the user's configuration, keys, agents, jump hosts and known hosts; a host
of the inventory is reached as that says. `/~/path` is relative to the home there. Nothing but an SFTP server is needed.

SFTP answers each request in turn, so several channels work side by side, names are looked up by listing their
directories, and reads and writes do not wait for answers.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from repro_est.errors import RemoteError
from repro_est.hosts.inventory import HostSpec, find_inventory
from repro_est.hosts.ssh import SshHost
from repro_est.project import Project
from repro_est.share.remote import CHUNK, Listed, Told, Upload
from repro_est.share.settings import RemoteSpec

if TYPE_CHECKING:
    import paramiko

_CHANNELS = 4
"""sshd lets one connection have ten (`MaxSessions`)."""
_LIST_FROM = 4
_T = TypeVar("_T")


class SshRemote:
    """See above.

    Args:
        root: path on the host.
    """

    def __init__(self, name: str, host: SshHost, root: str) -> None:
        self._name, self._host, self._root = name, host, root
        self._idle: queue.LifoQueue[paramiko.SFTPClient] = queue.LifoQueue()
        self._slots = threading.BoundedSemaphore(_CHANNELS)
        self._made: set[str] = set()
        self._numbers = itertools.count()
        self._own = f"{os.getpid()}-{os.urandom(6).hex()}"

    @classmethod
    def at(cls, spec: RemoteSpec, project: Project) -> SshRemote:
        parts = urlsplit(spec.url)
        name = parts.hostname or ""
        inventory = find_inventory(project)
        known = inventory.hosts.get(name) if inventory is not None else None
        host = known or HostSpec(name, user=parts.username, port=parts.port)
        root = spec.path[3:] if spec.path.startswith("/~/") else spec.path
        return cls(spec.name, SshHost(host), root)

    @property
    def name(self) -> str:
        return self._name

    def exists(self, names: Sequence[str]) -> dict[str, int]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for name in names:
            grouped[name.rpartition("/")[0]].append(name)

        def look(directory: str) -> dict[str, int]:
            inside = grouped[directory]
            with self._channel(directory) as channel:
                if len(inside) >= _LIST_FROM:
                    there = {item.filename: item.st_size or 0 for item in self._entries(channel, directory)}
                    return {name: there[last] for name in inside if (last := name.rpartition("/")[2]) in there}
                found: dict[str, int] = {}
                for name in inside:
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = channel.stat(self._path(name)).st_size or 0
                return found

        found: dict[str, int] = {}
        for part in self._each(look, list(grouped)):
            found |= part
        return found

    def below(self, prefix: str) -> Iterator[Listed]:
        pending = [prefix.rstrip("/")]
        while pending:
            directory = pending.pop()
            with self._channel(directory) as channel:
                entries = self._entries(channel, directory)
            for entry in entries:
                path = f"{directory}/{entry.filename}"
                if stat.S_ISDIR(entry.st_mode or 0):
                    pending.append(path)
                else:
                    yield Listed(path, entry.st_size or 0)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._channel(name) as channel, channel.open(self._path(name), "rb") as file:
            size = file.stat().st_size or 0
            end = size if length is None else min(size, offset + length)
            if offset == 0 and end == size:
                file.prefetch(size)
                while chunk := file.read(CHUNK):
                    yield chunk
                return
            while offset < end:
                chunk = b"".join(file.readv([(offset, min(CHUNK, end - offset))]))
                if not chunk:
                    return
                offset += len(chunk)
                yield chunk

    def write(self, uploads: Sequence[Upload], told: Told | None = None) -> None:
        for directory in sorted({upload.name.rpartition("/")[0] for upload in uploads} | {"incoming"}):
            self._make(directory)

        def one(upload: Upload) -> bool:
            return self._write(upload, told)

        for _ in self._each(one, uploads):
            pass

    def create(self, name: str, data: bytes) -> bool:
        self._make(name.rpartition("/")[0])
        self._make("incoming")
        return self._write(Upload.of(name, data), None)

    def replace(self, name: str, data: bytes) -> None:
        self._make(name.rpartition("/")[0])
        self._make("incoming")
        with self._channel(name) as channel:
            staged = self._staged(channel, Upload.of(name, data), None)
            channel.posix_rename(staged, self._path(name))

    def delete(self, name: str) -> None:
        with self._channel(name) as channel, contextlib.suppress(FileNotFoundError):
            channel.remove(self._path(name))

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()
        self._host.close()

    # ---- parts

    def _each(self, function: Callable[..., _T], items: Sequence[object]) -> list[_T]:
        if len(items) == 1:
            return [function(items[0])]
        with ThreadPoolExecutor(_CHANNELS) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write(self, upload: Upload, told: Told | None) -> bool:
        """Writes one object; its rename fails when the name is taken, as OpenSSH's does."""
        with self._channel(upload.name) as channel:
            staged = self._staged(channel, upload, told)
            try:
                channel.rename(staged, self._path(upload.name))
                return True
            except OSError:
                with contextlib.suppress(OSError):
                    channel.remove(staged)
                try:
                    channel.stat(self._path(upload.name))
                except FileNotFoundError:
                    raise OSError(errno.EIO, "cannot be written") from None
                return False

    def _staged(self, channel: paramiko.SFTPClient, upload: Upload, told: Told | None) -> str:
        path = self._path(f"incoming/{self._own}-{next(self._numbers)}")
        try:
            with channel.open(path, "wbx") as file:
                file.set_pipelined(True)
                for chunk in upload.chunks():
                    file.write(chunk)
                    if told is not None:
                        told(len(chunk))
            if (channel.stat(path).st_size or 0) != upload.size:  # a full disk may be told to nobody
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            with contextlib.suppress(OSError, EOFError):
                channel.remove(path)
            raise
        return path

    def _make(self, directory: str) -> None:
        if directory in self._made:
            return
        with self._channel(directory) as channel:
            root = channel.stat(self._root)
            place = self._root
            for part in filter(None, directory.split("/")):
                place = f"{place}/{part}"
                try:
                    channel.stat(place)
                except FileNotFoundError:
                    with contextlib.suppress(OSError):  # somebody else just made it
                        channel.mkdir(place)
                        channel.chmod(place, stat.S_IMODE(root.st_mode or 0o755))
        self._made.add(directory)

    def _entries(self, channel: paramiko.SFTPClient, directory: str) -> list[paramiko.SFTPAttributes]:
        try:
            return list(channel.listdir_attr(self._path(directory)))
        except FileNotFoundError:
            channel.stat(self._root)
            return []

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _channel(self, name: str) -> Iterator[paramiko.SFTPClient]:
        """Lends a channel to one thread, and says what SFTP says in terms of the remote."""
        import paramiko

        with self._slots:
            channel = self._taken()
            try:
                yield channel
            except FileNotFoundError:
                self._idle.put(channel)
                if name and name != self._root:
                    self._check_root()
                raise
            except (EOFError, paramiko.SSHException) as error:
                raise RemoteError(f"remote {self._name}: {self._host.name}: the connection broke: {error}") from None
            except OSError as error:
                self._idle.put(channel)
                said = error.strerror or str(error) or "failure"
                hint = "its disk may be full, or not yours to write to" if said == "Failure" else None
                raise RemoteError(f"remote {self._name}: {self._path(name)}: {said}", hint=hint) from None
            except BaseException:
                self._idle.put(channel)
                raise
            else:
                self._idle.put(channel)

    def _taken(self) -> paramiko.SFTPClient:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._host.sftp()

    def _check_root(self) -> None:
        channel = self._taken()
        try:
            channel.stat(self._root)
        except FileNotFoundError:
            raise RemoteError(
                f"remote {self._name}: there is no directory {self._root} on {self._host.name}",
                hint=f"ssh {self._host.name} mkdir -p {self._root}",
            ) from None
        finally:
            self._idle.put(channel)

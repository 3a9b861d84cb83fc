"""Leases: one process at a time works on one thing, and the others know for whom they wait.

A lease is a kernel lock (flock) on `leases/<name>.lock`. The kernel drops it with its owner, kill -9 included, so a
stale lease cannot exist. The file also holds who the owner is, for the message; its content decides nothing. Lock
files are never removed: a name that is unlinked while another process waits for it would be two locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from repro_est.errors import InfrastructureError
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lease, as that process wrote it down; `since` is seconds since the epoch."""

    pid: int
    host: str
    user: str
    since: float
    command: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid}, for {max(0, time.time() - self.since):.0f} s)"


_SOMEBODY = Owner(0, "this machine", "somebody", 0.0, "")


class Leases:
    """The leases of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextlib.contextmanager
    def hold(
        self, name: str, *, on_wait: Callable[[Owner], None] | None = None, timeout: float | None = None
    ) -> Iterator[None]:
        """Holds a lease for the length of the block, waiting until it is free.

        Args:
            on_wait: called once, with the owner, when the lease is not free.
            timeout: seconds to wait; None waits for ever.

        Raises:
            InfrastructureError: not free within `timeout`.
        """
        path = self._layout.lease(name)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Read-write: NFS maps flock to fcntl locks, which want a descriptor open for writing.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._acquire(descriptor, name, on_wait, timeout)
            with contextlib.suppress(OSError):  # a full disk: what is written in it is only for people
                _write_owner(descriptor)
            yield
        finally:
            os.close(descriptor)

    def is_held(self, name: str) -> bool:
        """Whether some process holds the lease now; one that cannot be asked for is taken to be held."""
        try:
            descriptor = os.open(self._layout.lease(name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who ask do not see each other
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def owner(self, name: str) -> Owner:
        """Returns who wrote itself down as the owner last."""
        try:
            return Owner(**json.loads(self._layout.lease(name).read_bytes()))
        except (OSError, ValueError, TypeError):
            return _SOMEBODY

    def _acquire(
        self, descriptor: int, name: str, on_wait: Callable[[Owner], None] | None, timeout: float | None
    ) -> None:
        started, told = time.monotonic(), False
        for number in itertools.count():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            if number and not told and on_wait is not None:  # the first time it may be somebody who only asks
                on_wait(self.owner(name))
                told = True
            if timeout is not None and time.monotonic() - started > timeout:
                raise InfrastructureError(
                    f"{name}: still held by {self.owner(name)} after {timeout:.0f} s",
                    hint="wait for it, or end that process",
                )
            time.sleep(_POLL_SECONDS)


def _write_owner(descriptor: int) -> None:
    owner = Owner(os.getpid(), socket.gethostname(), user_name(), time.time(), " ".join(sys.argv[:1]))
    data = json.dumps(asdict(owner)).encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def user_name() -> str:
    """Returns who this process belongs to."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database, no LOGNAME
        return f"uid {os.getuid()}"

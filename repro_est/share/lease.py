"""Single flight across machines: who executes a run holds a lease in the remote, and the others wait for the result.

    leases/<run hash>/<n>    {"owner", "host", "pid", "token", "beat"}

The owner counts `beat` up. No clock of another machine is believed: an observer takes an owner for dead when it has
seen no change of the record for `patience` seconds of its own. It takes over by creating `<n + 1>`, which only one can;
if the owner showed life meanwhile, it steps back. A lease saves work and decides nothing: two who execute the same run
after all, because a network was cut, make two statements that can be compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError
from repro_est.observer import Observer
from repro_est.share.remote import Remote, read_small
from repro_est.store.leases import user_name

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 1.0

_LIMIT = 1 << 16


class _Seen(NamedTuple):
    number: int
    data: bytes

    @property
    def owner(self) -> str:
        try:
            content = json.loads(self.data)
            return f"{content['owner']}@{content['host']} (pid {content['pid']})"
        except (ValueError, KeyError, TypeError):
            return "somebody"


class RemoteLease:
    """The lease of one run in one remote.

    Args:
        patience: seconds without a change after which an owner is taken for dead; several times `beat`.
        beat: seconds between signs of life.
        poll: seconds between looks at somebody else's.
    """

    def __init__(
        self,
        remote: Remote,
        run: RunHash,
        observer: Observer,
        *,
        patience: float = PATIENCE_SECONDS,
        beat: float = BEAT_SECONDS,
        poll: float = POLL_SECONDS,
    ) -> None:
        self._remote, self._run, self._observer = remote, run, observer
        self._patience, self._beat, self._poll = patience, beat, poll
        self._token = os.urandom(8).hex()
        self._beats = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the lease for the length of the block, waiting for whoever has it.

        Raises:
            RemoteError: the remote cannot be reached, or takes nothing.
        """
        number = self._acquire()
        ended = threading.Event()
        thread = threading.Thread(target=self._live, args=(number, ended), name=f"lease of {self._run}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(InfrastructureError, OSError):  # else it is taken over in a while
                self._remote.delete(self._name(number))

    def _acquire(self) -> int:
        seen: _Seen | None = None
        since, told = time.monotonic(), False
        while True:
            now = self._look()
            if now is None:
                if self._remote.create(self._name(1), self._record()):
                    return 1
                continue
            if now != seen:
                seen, since = now, time.monotonic()
            if not told:
                self._observer.event("waiting", owner=now.owner, run_hash=self._run)
                told = True
            if time.monotonic() - since > self._patience and self._take_over(now):
                return now.number + 1
            time.sleep(self._poll)

    def _take_over(self, dead: _Seen) -> bool:
        name = self._name(dead.number + 1)
        if not self._remote.create(name, self._record()):
            return False
        if self._read(dead.number) not in (dead, None):
            self._remote.delete(name)
            return False
        self._remote.delete(self._name(dead.number))
        message = f"run {self._run[:12]}: taken over from {dead.owner}, no sign of life for {self._patience:g} s"
        self._observer.event("warning", message=message)
        return True

    def _look(self) -> _Seen | None:
        """Returns the lease that counts: the last one."""
        prefix = f"leases/{self._run}/"
        names = [item.name.removeprefix(prefix) for item in self._remote.below(prefix)]
        numbers = [int(name) for name in names if name.isdecimal()]
        return self._read(max(numbers)) if numbers else None

    def _read(self, number: int) -> _Seen | None:
        try:
            return _Seen(number, read_small(self._remote, self._name(number), limit=_LIMIT))
        except FileNotFoundError:
            return None

    def _live(self, number: int, ended: threading.Event) -> None:
        while not ended.wait(self._beat):
            self._beats += 1
            with contextlib.suppress(InfrastructureError, OSError):  # the next one may get through
                if self._read(number) is None:
                    return  # somebody took it over; what we execute is a result all the same
                self._remote.replace(self._name(number), self._record())

    def _record(self) -> bytes:
        content = {
            "owner": user_name(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "token": self._token,
            "beat": self._beats,
        }
        return json.dumps(content).encode()

    def _name(self, number: int) -> str:
        return f"leases/{self._run}/{number}"

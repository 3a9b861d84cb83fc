"""Reading the logs of a run that its hosts own, without taking part in it: nothing is kept here, or changed there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from repro_est.errors import UsageError
from repro_est.hosts.pool import host_of
from repro_est.hosts.session import Session
from repro_est.launch.handle import Handle

_POLL_SECONDS = 0.2

Show = Callable[[str, str, bytes], None]
"""Gets the rank, the stream and the next bytes of it."""


def read_logs(handle: Handle, ranks: Sequence[int] | None, streams: Sequence[str], show: Show, *, follow: bool) -> None:
    """Reads what ranks have written so far.

    Args:
        ranks: None for all.
        follow: goes on until the run has ended.

    Raises:
        UsageError: no such rank.
        HostError: a host cannot be reached.
    """
    wanted = range(handle.world_size) if ranks is None else ranks
    unknown = [rank for rank in wanted if not 0 <= rank < handle.world_size]
    if unknown:
        raise UsageError(f"rank {unknown[0]}: the run has the ranks 0 to {handle.world_size - 1}")
    readers = [
        _Reader(Session(host_of(member.spec)), handle.token, mine, streams)
        for member in handle.members
        if (mine := [rank for rank in member.ranks if rank in wanted])
    ]
    try:
        while True:
            alive = [reader.is_alive() for reader in readers]  # asked before reading, as in `repro logs`
            fresh = [reader.read(show) for reader in readers]
            if not follow or not any(alive):
                return
            if not any(fresh):
                time.sleep(_POLL_SECONDS)
    finally:
        for reader in readers:
            reader.close()


class _Reader:
    """The logs of some ranks of one host."""

    def __init__(self, session: Session, token: str, ranks: Sequence[int], streams: Sequence[str]) -> None:
        self._session, self._token = session, token
        self._keys = [(str(rank), stream) for rank in ranks for stream in streams]
        self._offsets = dict.fromkeys(self._keys, 0)

    def is_alive(self) -> bool:
        return bool(self._session.call("status", token=self._token)["alive"])

    def read(self, show: Show) -> int:
        """Shows what is new; returns how many bytes that was."""
        before = sum(self._offsets.values())

        def take(number: int, data: bytes) -> None:
            key = self._keys[number]
            self._offsets[key] += len(data)
            show(*key, data)

        files = [(f"{rank}/{stream}.log", self._offsets[rank, stream]) for rank, stream in self._keys]
        self._session.fetch(self._token, "ranks", files, take)
        return sum(self._offsets.values()) - before

    def close(self) -> None:
        self._session.close()
        self._session.host.close()

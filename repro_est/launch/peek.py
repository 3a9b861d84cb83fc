"""Looking at a run that its hosts own, without taking part in it: nothing is changed there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro_est.errors import UsageError
from repro_est.hosts.pool import host_of
from repro_est.hosts.session import Session
from repro_est.launch.handle import Handle
from repro_est.outputs import LOGS
from repro_est.targets.gather import is_below

_POLL_SECONDS = 0.2
_LOGS = f"source/{LOGS}"

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


def bring_logs(handle: Handle, directory: Path) -> None:
    """Brings what the script has written into `./logs` so far; again, and only what is new comes.

    Of a path that several nodes have, the first node's is taken.

    Raises:
        HostError: a host cannot be reached.
    """
    taken: set[str] = set()
    for member in handle.members:
        host = host_of(member.spec)
        session = Session(host)
        try:
            found = session.call("listing", token=handle.token, path=_LOGS, digests=False)["entries"] or []
            files = {name: size for name, kind, _, size in found if kind in "fx" and is_below(name)}
            _bring(session, handle.token, {name: size for name, size in files.items() if name not in taken}, directory)
            taken |= files.keys()
        finally:
            session.close()
            host.close()


def _bring(session: Session, token: str, files: Mapping[str, int], directory: Path) -> None:
    wanted: list[tuple[str, int]] = []
    for name, size in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        have = path.stat().st_size if path.exists() else 0
        if have > size:  # it was written anew
            path.unlink()
            have = 0
        path.touch()
        if have < size:
            wanted.append((name, have))

    def take(number: int, data: bytes) -> None:
        with open(directory / wanted[number][0], "ab") as file:
            file.write(data)

    session.fetch(token, _LOGS, wanted, take)


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

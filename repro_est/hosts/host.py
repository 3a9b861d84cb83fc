"""One machine and what can be done with it: start a program there and speak with it. Nothing else.

All that `repro` does on hosts it does through a program it sends there; so a host is whatever can start one and pass
bytes both ways: this machine (`local`), one behind SSH (`ssh`), or one that only exists in memory (`fake`).

    HostError                5  a host cannot be used
    |- HostLost              5  a connection that was there broke
    |- UnknownHostKey        5  nobody has said that this is the key of the host
    `- HostKeyChanged        5  the host has another key than the one that is known
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from repro_est.errors import InfrastructureError

if TYPE_CHECKING:
    from repro_est.hosts.inventory import HostSpec


class HostError(InfrastructureError):
    """A host cannot be used; the message begins with its name."""

    def __init__(self, host: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{host}: {reason}", hint=hint)
        self.host, self.reason = host, reason


class HostLost(HostError):
    """A connection that was there broke."""


class UnknownHostKey(HostError):
    """Nobody has said that this is the key of the host."""


class HostKeyChanged(HostError):
    """The host has another key than the one that is known: it was installed anew, or somebody is in between."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended; `code` is 128+n for signal n."""

    code: int
    out: bytes
    err: str


class Channel(Protocol):
    """A program that was started: bytes both ways."""

    def send(self, data: bytes) -> None:
        """Sends all of it, waiting for room.

        Raises:
            HostLost: the connection broke, or the program is gone.
        """

    def receive(self, size: int = 65536) -> bytes:
        """Returns what it writes next, `b""` at its end.

        Raises:
            HostLost: the connection broke.
        """

    def close_input(self) -> None:
        """Says that nothing more will be sent."""

    def errors(self) -> str:
        """Returns the end of what it wrote to stderr so far, at most 64 KiB; it never waits for us to read it."""

    def wait(self, timeout: float | None = None) -> int:
        """Returns its exit status, 128+n for signal n.

        Raises:
            TimeoutError: it has not ended.
            HostLost: the connection broke before it said.
        """

    def close(self) -> None:
        """Ends the channel; what runs there may go on."""


class Host(Protocol):
    """See above."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> HostSpec: ...

    def connect(self) -> None:
        """Makes the connection, if there is none; tries again for a while.

        Raises:
            HostError: there is no way.
        """

    def spawn(self, words: Sequence[str]) -> Channel:
        """Starts a program, after connecting if need be. What it is sent is bytes; its environment is the host's.

        Raises:
            HostError: it cannot be started.
            HostLost: the connection broke.
        """

    def run(self, words: Sequence[str], *, data: bytes = b"", timeout: float = 60.0) -> Completed:
        """Runs a program to its end.

        Args:
            data: what it reads on stdin.
            timeout: seconds it may take.

        Raises:
            HostLost: the connection broke, or it takes longer.
        """

    def close(self) -> None:
        """Ends the connection; it may be made again."""

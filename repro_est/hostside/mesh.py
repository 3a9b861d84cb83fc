"""The daemons of one attempt among themselves: a star over TCP, node 0 in its middle, every line authenticated.

    line   = HMAC-SHA256(key, direction NUL nonces NUL counter NUL text), 32 hex digits, space, text of a JSON object
    first  = "REPRO-MESH-1 <node> <nonce>" from the node, "<nonce>" from the head

The key is a random one of this attempt that the controller gave to every daemon over SSH. With a nonce of either side
and a counter in each code, nobody on the network can say anything, say something again, or leave something out in the
middle; anybody can read along, and nothing secret is said. A link that breaks is made again by the node; both sides
then say again what counts, and what is said twice counts once (`node`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

MAGIC = b"REPRO-MESH-1"
_MAX_LINE = 8 << 20
_MAX_HELLO = 256
"""Bytes that somebody may send who has not shown yet that he belongs here."""
_CODE = 32


class Forged(Exception):
    """A line that the other side did not say."""


class Line:
    """One authenticated connection, not blocking.

    Args:
        sends_as: `head` or `node`.
    """

    def __init__(self, connection: socket.socket, key: bytes, sends_as: str) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.node = -1  # who is at the other end, once it is known
        self.heard = time.monotonic()
        self.opened = time.monotonic()
        self._key, self._sends_as = key, sends_as
        self._nonces, self._number = b"", 0
        self._mine = os.urandom(16).hex().encode()
        self._in, self._out = b"", b""
        self._sent = self._received = 0
        self._greeted = False
        self._waiting: list[dict[str, Any]] = []

    @classmethod
    def dial(cls, address: tuple[str, int], key: bytes, node: int) -> Line:
        """Starts to connect a node with the head; whether that worked is seen when it writes."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        code = connection.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            connection.close()
            raise OSError(code, os.strerror(code))
        line = cls(connection, key, "node")
        line.node, line._number = 0, node
        line._out = b"%s %d %s\n" % (MAGIC, node, line._mine)
        return line

    @property
    def is_ready(self) -> bool:
        """Whether the other side has said something that only who has the key can say."""
        return self._received > 0

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def say(self, message: dict[str, Any]) -> None:
        """Sends a message, once both sides have said hello."""
        if not self._greeted:
            self._waiting.append(message)
            return
        text = json.dumps(message, separators=(",", ":")).encode()
        self._out += self._code(self._sends_as, self._sent, text) + b" " + text + b"\n"
        self._sent += 1

    def write(self) -> None:
        """Sends what the connection takes now.

        Raises:
            OSError: it is broken.
        """
        with contextlib.suppress(BlockingIOError):
            sent = self.connection.send(self._out[: 1 << 18])
            self._out = self._out[sent:]

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the messages that arrived.

        Raises:
            OSError: the connection is broken, or ended.
            Forged: somebody else is at the other end.
        """
        try:
            data = self.connection.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise OSError(errno.ECONNRESET, "the other side hung up")
        self._in += data
        *lines, self._in = self._in.split(b"\n")
        if len(self._in) > (_MAX_LINE if self._greeted else _MAX_HELLO):
            raise Forged("a line without end")
        for line in lines:
            if not self._greeted:
                self._greet(line)
                continue
            yield self._opened(line)

    def close(self) -> None:
        self.connection.close()

    def _greet(self, line: bytes) -> None:
        if self._sends_as == "head":
            words = line.split(b" ")
            if len(words) != 3 or words[0] != MAGIC or not words[1].isdigit() or len(words[2]) != 32:
                raise Forged("not a node of a run")
            self.node = int(words[1])
            self._nonces = b" ".join((words[1], words[2], self._mine))
            self._out += self._mine + b"\n"
        else:
            if len(line) != 32:
                raise Forged("not the head of a run")
            self._nonces = b" ".join((b"%d" % self._number, self._mine, line))
        self._greeted = True
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.say(message)

    def _opened(self, line: bytes) -> dict[str, Any]:
        code, _, text = line.partition(b" ")
        other = "node" if self._sends_as == "head" else "head"
        if not hmac.compare_digest(code, self._code(other, self._received, text)):
            raise Forged("a line with a wrong code")
        self._received += 1
        self.heard = time.monotonic()
        message: dict[str, Any] = json.loads(text.decode())
        return message

    def _code(self, direction: str, counter: int, text: bytes) -> bytes:
        signed = b"\0".join((direction.encode(), self._nonces, b"%d" % counter, text))
        return hmac.new(self._key, signed, hashlib.sha256).hexdigest()[:_CODE].encode()


def listen(address: str, ports: tuple[int, int] | None = None) -> socket.socket:
    """Returns a socket that listens at an address, on a port the kernel picks.

    Args:
        ports: first and last port that may be taken; default: any.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    last: OSError | None = None
    for port in range(ports[0], ports[1] + 1) if ports else (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((address, port))
            listener.listen(256)
            listener.setblocking(False)
            return listener
        except OSError as error:
            last = error
            listener.close()
    raise last if last else OSError("no port")


def free_port(address: str) -> int:
    """Returns a port nobody has now: for a rendezvous of the ranks, which bind it themselves a moment later."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port

"""The controllers that listen to a daemon, and the logs it passes on to them.

The files are the truth; what is sent is read from them at the offset where each controller stands. So a controller may
come late, go, or read slowly: no rank waits for it, nothing is lost, and no memory grows. When which file grew is kept
in `timeline`, one line `seconds name stream end` for each look, from which one driver log in the order of time is made.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Tuple

from repro_est.hostside import frames

_PIECE = 1 << 18
_MOST_QUEUED = 4 << 20  # bytes for one controller; then the files have to wait
STREAMS = ("stdout", "stderr")

Key = Tuple[str, str]
"""Name of a rank, or `launcher`, and one of `STREAMS`."""


class Client:
    """One controller."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.decoder = frames.Decoder()
        self.attached = False
        self.only: list[str] | None = None
        self.offsets: dict[Key, int] = {}
        self.queue: list[bytes] = []
        self.queued = 0

    def send(self, data: bytes) -> None:
        self.queue.append(data)
        self.queued += len(data)

    def flush(self) -> None:
        """Raises OSError when nobody is there any more."""
        while self.queue:
            try:
                sent = self.connection.send(self.queue[0])
            except BlockingIOError:
                return
            self.queued -= sent
            if sent == len(self.queue[0]):
                self.queue.pop(0)
            else:
                self.queue[0] = self.queue[0][sent:]


class Clients:
    """All controllers of one daemon.

    Args:
        directory: of the attempt.
        on_message: does what one says, and returns the answer.
    """

    def __init__(self, directory: str, on_message: Callable[[frames.Message], frames.Message | None]) -> None:
        self._directory, self._on_message = directory, on_message
        self._clients: list[Client] = []
        self._sizes: dict[Key, int] = {}
        self._timeline = open(os.path.join(directory, "timeline"), "a", encoding="ascii")  # noqa: SIM115 -- closed later

    @property
    def has_output(self) -> bool:
        return any(client.queue for client in self._clients)

    def add(self, connection: socket.socket) -> None:
        self._clients.append(Client(connection))

    def follow(self, name: str) -> None:
        """Passes on the logs of a rank, or of the launcher, from now on."""
        for stream in STREAMS:
            self._sizes.setdefault((name, stream), 0)

    def tell(self, message: frames.Message) -> None:
        """Tells every controller that listens."""
        for client in self._clients:
            if client.attached:
                client.send(frames.encode(message))

    @contextlib.contextmanager
    def selected(self, selector: selectors.BaseSelector) -> Iterator[None]:
        """While the block runs, the selector watches the controllers."""
        clients = list(self._clients)
        for client in clients:
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.queue else 0)
            selector.register(client.connection, mask, lambda mask, client=client: self._on_event(client, mask))
        try:
            yield
        finally:
            for client in clients:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(client.connection)

    def pump(self, on_growth: Callable[[str], None]) -> None:
        """Looks which logs grew, and sends what each controller has room for."""
        now = time.time()
        for key in list(self._sizes):
            size = self._size(key)
            if size > self._sizes[key]:
                self._sizes[key] = size
                with contextlib.suppress(OSError):  # a full disk: the order of some lines is lost
                    self._timeline.write(f"{now:.3f} {key[0]} {key[1]} {size}\n")
                    self._timeline.flush()
                on_growth(key[0])
        for client in list(self._clients):
            self._feed(client)

    def behind(self, on_growth: Callable[[str], None]) -> bool:
        """Whether a controller has not got all there is."""
        self.pump(on_growth)
        return any(client.attached and (client.queue or self._waiting(client)) for client in self._clients)

    def close_timeline(self) -> None:
        with contextlib.suppress(OSError):
            self._timeline.close()

    # ---- parts

    def _size(self, key: Key) -> int:
        try:
            return os.stat(self._path(key)).st_size
        except OSError:
            return 0

    def _path(self, key: Key) -> str:
        return os.path.join(self._directory, "ranks", key[0], key[1] + ".log")

    def _waiting(self, client: Client) -> list[Key]:
        return [
            key
            for key, size in self._sizes.items()
            if client.offsets.get(key, 0) < size and (client.only is None or key[0] in client.only)
        ]

    def _feed(self, client: Client) -> None:
        if not client.attached:
            return
        for key in self._waiting(client):
            if client.queued > _MOST_QUEUED:
                break
            offset = client.offsets.get(key, 0)
            try:
                with open(self._path(key), "rb") as file:
                    file.seek(offset)
                    data = file.read(_PIECE)
            except OSError:
                continue
            if data:
                client.send(frames.encode({"event": "log", "name": key[0], "stream": key[1], "offset": offset}, data))
                client.offsets[key] = offset + len(data)
        self._flush(client)

    def _on_event(self, client: Client, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(client)
        if mask & selectors.EVENT_READ:
            try:
                data = client.connection.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(client)
                return
            try:
                for message, _ in client.decoder.feed(data):
                    self._on_client_message(client, message)
            except (frames.ProtocolError, KeyError, TypeError):
                self._drop(client)

    def _on_client_message(self, client: Client, message: dict[str, Any]) -> None:
        if message.get("op") == "attach":
            client.only = message.get("only")
            client.offsets = {(name, stream): end for name, stream, end in message.get("offsets", ())}
            client.attached = True
        answer = self._on_message(message)
        if answer is not None:
            client.send(frames.encode(answer))
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            client.flush()
        except OSError:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            client.connection.close()

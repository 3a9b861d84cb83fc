"""The controller's side of a session with a host: what runs there is sent there, and asked for things.

    words of the command   python3 -I -S -B -uc <boot>
    stdin                  one JSON line (size and SHA-256 of the program, the host's store), the program, then requests

The program is the package `repro_est.hostside` as a zip file; nothing is installed. A host needs sshd and a python3.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import repro_est
from repro_est import hostside
from repro_est.errors import InfrastructureError
from repro_est.hosts.host import Channel, Host, HostError, HostLost
from repro_est.hostside.frames import Decoder, Message, ProtocolError, encode
from repro_est.hostside.session import MARKER

_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)
_TAKEN = 16 << 20
"""Bytes read at once: paramiko moves all that it leaves of what waits, for each read."""
_NOISE = 1 << 20
"""Bytes that start-up files of a shell may print before our first line."""

_BOOT = """
import hashlib, json, os, sys
if sys.version_info < (3, 8):
    sys.exit("repro: this host has Python %d.%d, 3.8 or newer is needed" % sys.version_info[:2])
source = os.fdopen(0, "rb", 0, closefd=False)
header = json.loads(source.readline().decode())
program = b""
while len(program) < header["size"]:
    piece = source.read(header["size"] - len(program))
    if not piece:
        sys.exit(3)
    program += piece
if hashlib.sha256(program).hexdigest() != header["sha256"]:
    sys.exit("repro: what was sent arrived as something else")
directory = os.path.join(os.path.expanduser(header["store"]), "programs")
os.makedirs(directory, 0o700, exist_ok=True)
path = os.path.join(directory, header["sha256"] + ".zip")
try:
    with open(path, "rb") as file:
        good = file.read() == program
except OSError:
    good = False
if not good:
    with open("%s.%d.tmp" % (path, os.getpid()), "wb") as file:
        file.write(program)
    os.rename(file.name, path)
sys.path.insert(0, path)
from repro_est.hostside.session import main
main(header, path)
"""


class RequestFailed(InfrastructureError):
    """A host could not do what it was asked for.

    Args:
        facts: what it says besides: `full`, `busy`, `damaged` with the `digest`.
    """

    def __init__(self, host: str, message: str, facts: Mapping[str, Any]) -> None:
        hint = "free space there, or name another `store` in the inventory" if facts.get("full") else None
        super().__init__(f"{host}: {message}", hint=hint)
        self.host, self.facts = host, facts


class Session:
    """One channel to the program on a host; requests are answered in their order."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._channel: Channel | None = None
        self._decoder = Decoder()
        self._ready: deque[tuple[Message, bytes]] = deque()

    @property
    def name(self) -> str:
        return self.host.name

    def open(self) -> None:
        """Starts the program on the host.

        Raises:
            HostError: the host cannot be reached, or has no usable Python.
        """
        self.host.connect()
        python = self.host.spec.python
        channel = self.host.spawn([python, "-I", "-S", "-B", "-uc", _BOOT])
        data = program()
        header = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "store": self.host.spec.store}
        seen = b""
        try:
            channel.send(json.dumps(header).encode() + b"\n" + data)
            while MARKER not in seen:
                piece = channel.receive()
                if not piece or len(seen) > _NOISE:
                    raise HostLost(self.name, "its program did not start")
                seen += piece
        except HostLost:
            said = channel.errors().strip() or seen.decode("utf-8", "replace").strip()
            channel.close()
            last = said.splitlines()[-1] if "Traceback" in said else said[-500:]  # its end says what is wrong
            reason = f"{python} could not run what repro sent there: {last or 'no answer'}"
            raise HostError(self.name, reason, hint="repro hosts") from None
        self._channel, self._decoder, self._ready = channel, Decoder(), deque()
        rest = seen.partition(MARKER)[2]
        if rest:
            self._ready += self._decoded(rest)

    @property
    def channel(self) -> Channel:
        if self._channel is None:
            self.open()
        assert self._channel is not None
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def call(self, op: str, **arguments: Any) -> Message:
        """Asks for one operation and returns its answer.

        Raises:
            RequestFailed: the host says that it cannot be done.
            HostLost: the connection broke.
        """
        self.channel.send(encode({"op": op, **arguments}))
        return self._answer()

    def missing(self, wanted: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Returns those of `[sha256, kind, size]` that the host does not have."""
        found: list[list[Any]] = self.call("missing", wanted=list(wanted))["missing"]
        return found

    def put(self, contents: Iterable[tuple[str, str, int, Iterable[bytes]]]) -> int:
        """Sends contents (sha256, kind, size, chunks); the host checks each. Returns the bytes sent.

        Raises:
            RequestFailed: it could not keep one: a full disk, or other bytes than were announced.
        """
        try:
            sent = self._send(contents)
        except BaseException:  # in the middle of a file: whatever is said now would be taken for its content
            self.close()
            raise
        self._answer()
        return sent

    def _send(self, contents: Iterable[tuple[str, str, int, Iterable[bytes]]]) -> int:
        sent = 0
        batch: list[bytes] = []
        held = 0
        for digest, kind, size, chunks in contents:
            batch.append(encode({"op": "put", "digest": digest, "kind": kind, "length": size}))
            left = size
            for chunk in itertools.chain(chunks, itertools.repeat(_ZEROS)):
                # Zeros: the file shrank while it was read, and the host will see that it is another one.
                if not left:
                    break
                data = chunk[:left]
                left -= len(data)
                batch.append(data)
                held += len(data)
                if held > _CHUNK:
                    self.channel.send(b"".join(batch))
                    batch, held = [], 0
            sent += size
        batch.append(encode({"op": "sync"}))
        self.channel.send(b"".join(batch))
        return sent

    def fetch(
        self, token: str, path: str, files: Sequence[tuple[str, int]], take: Callable[[int, bytes], None]
    ) -> list[tuple[int, str]]:
        """Gets files of a run (name, offset from where on); returns those that cannot be read, with the reason.

        Args:
            take: gets the number of the file in `files` and the next bytes of it.
        """
        if not files:
            return []
        unreadable: list[tuple[int, str]] = []
        self.channel.send(encode({"op": "fetch", "token": token, "path": path, "files": list(files)}))
        while True:
            message, payload = self._next()
            if "ok" in message or "error" in message:
                self._check(message)
                return unreadable
            if "unreadable" in message:
                unreadable.append((message["file"], str(message["unreadable"])))
            else:
                take(message["file"], payload)

    def _answer(self) -> Message:
        message, _ = self._next()
        self._check(message)
        return message

    def _check(self, message: Message) -> None:
        if "error" in message:
            raise RequestFailed(self.name, str(message.pop("error")), message)

    def _next(self) -> tuple[Message, bytes]:
        while not self._ready:
            data = self.channel.receive(_TAKEN)
            if not data:
                said = self.channel.errors().strip()[-500:]
                raise HostLost(self.name, f"its program ended{': ' + said if said else ''}")
            self._ready += self._decoded(data)
        return self._ready.popleft()

    def received(self) -> list[tuple[Message, bytes]]:
        """Returns the messages that arrived meanwhile, or else waits for the next; none at the end.

        Raises:
            HostLost: the connection broke.
        """
        ready = list(self._ready)
        self._ready.clear()
        while not ready:
            data = self.channel.receive(_TAKEN)
            if not data:
                break
            ready = self._decoded(data)
        return ready

    def _decoded(self, data: bytes) -> list[tuple[Message, bytes]]:
        try:
            return list(self._decoder.feed(data))
        except ProtocolError as error:
            raise HostLost(self.name, f"what arrives is no message: {error}") from None


class Bridge:
    """A second channel: the messages of the daemon of one attempt."""

    def __init__(self, host: Host, token: str) -> None:
        self._session = Session(host)
        self._token = token

    @property
    def name(self) -> str:
        return self._session.name

    def open(self) -> None:
        """Raises HostError when the host cannot be reached."""
        self._session.open()
        self._session.channel.send(encode({"op": "bridge", "token": self._token}))

    def say(self, **message: Any) -> None:
        self._session.channel.send(encode(message))

    def messages(self) -> Iterator[tuple[Message, bytes]]:
        """Yields what the daemon says, until it ends.

        Raises:
            HostLost: the connection broke.
        """
        while messages := self._session.received():
            yield from messages

    def close(self) -> None:
        self._session.close()


@functools.cache
def program() -> bytes:
    """Returns the zip file of what runs on a host; the same bytes for the same version."""
    root = Path(hostside.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {"repro_est/__init__.py": f'__version__ = "{repro_est.__version__}"\n'.encode()}
        files |= {f"repro_est/hostside/{path.name}": path.read_bytes() for path in sorted(root.glob("*.py"))}
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

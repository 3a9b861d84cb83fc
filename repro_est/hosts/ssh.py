"""A host behind SSH, through fabric: its configuration, keys, agents and jump hosts are those of the user's `ssh`.

Programs run on raw channels of paramiko, without a terminal. Nothing of an environment is passed through SSH: fabric
does not quote values, and sshd refuses most names. Start-up files of a shell (`~/.bashrc`) run before our program and
may print; whoever speaks with it waits for a marker line.

Host keys are checked against known_hosts, always. What was measured and is set here: without TCP_NODELAY every message
waits 44 ms; AES-GCM moves twice the bytes that AES-CTR does; sshd drops more than ten connections that are being made
at once (`MaxStartups`), so such a failure is tried again; a peer that is gone is noticed only with keepalive and
TCP_USER_TIMEOUT. sshd lets one connection have ten programs at a time (`MaxSessions`); the eleventh is an error that
says so.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import logging
import os
import random
import shlex
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repro_est.hosts.host import Channel, Completed, HostError, HostKeyChanged, HostLost, UnknownHostKey
from repro_est.hosts.inventory import HostSpec

if TYPE_CHECKING:
    import paramiko
    from fabric import Config, Connection

_WINDOW = 16 << 20
"""Bytes that may wait here for whoever reads; 1 Gbit/s over 130 ms."""
_PACKET = 1 << 17
_SILENT_MS = 15_000
_KEEPALIVE_SECONDS = 5
_OPEN_SECONDS = 30.0
_ERRORS = 64 << 10
_FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # those of OpenSSH
_CONNECT_FAILED = 2  # RFC 4254, 5.1
_SSH_PORT = 22
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")

# It would print tracebacks of what is told here in words.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshHost:
    """See above. One connection, made when it is needed, shared by threads."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def spec(self) -> HostSpec:
        return self._spec

    def connect(self) -> None:
        self._transport()

    def spawn(self, words: Sequence[str]) -> Channel:
        return self._spawn(words)

    def run(self, words: Sequence[str], *, data: bytes = b"", timeout: float = 60.0) -> Completed:
        deadline = time.monotonic() + timeout
        channel = self._spawn(words)
        try:
            channel.send_before(data, deadline)
            channel.close_input()
            out = b"".join(channel.received_before(deadline))
            return Completed(channel.wait(max(0.0, deadline - time.monotonic())), out, channel.errors())
        except TimeoutError:
            raise HostLost(self.name, f"`{shlex.join(words)[:80]}` did not end within {timeout:g} s") from None
        finally:
            channel.close()

    def sftp(self) -> paramiko.SFTPClient:
        """Opens one more channel for files; the caller closes it.

        Raises:
            HostError: there is no way, or sshd refuses one more.
        """
        import paramiko

        transport = self._transport()
        try:
            client = paramiko.SFTPClient.from_transport(transport, window_size=_WINDOW, max_packet_size=_PACKET)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise HostError(self.name, f"has no SFTP for us: {_words(error)}") from None
        assert client is not None
        return client

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                _close(connection)

    def _spawn(self, words: Sequence[str]) -> SshChannel:
        import paramiko

        transport = self._transport()
        try:
            channel = transport.open_session(window_size=_WINDOW, max_packet_size=_PACKET, timeout=_OPEN_SECONDS)
        except paramiko.ChannelException as error:
            raise HostError(
                self.name,
                f"sshd refuses one more session on the connection: {error.text}",
                hint="raise MaxSessions in its sshd_config (default 10)",
            ) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise HostLost(self.name, f"the connection broke: {_words(error)}") from None
        started = SshChannel(self.name, channel)
        try:
            channel.exec_command("exec " + shlex.join(words))
        except (paramiko.SSHException, EOFError, OSError) as error:
            started.close()
            raise HostLost(self.name, f"the connection broke: {_words(error)}") from None
        started.drain_errors()
        return started

    # ---- connecting

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._connection is None or not self._connection.is_connected:
                self._connection = None  # a broken one is not mended, a new one is made
                self._connection = self._connected()
            return self._connection.transport

    def _connected(self) -> Connection:
        """Connects; a failure that often goes away is tried again for as long as the host has to answer."""
        deadline = time.monotonic() + self._spec.connect_seconds
        pause = 0.2
        while True:
            try:
                return self._connect_once()
            except _Passing as error:
                if time.monotonic() + pause > deadline:
                    raise error.told from None
                time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311 -- no secret
                pause = min(2 * pause, 3.0)

    def _connect_once(self) -> Connection:
        import paramiko

        try:
            connection = _configured(self._spec)
        except (paramiko.SSHException, OSError, ValueError) as error:
            raise HostError(self.name, f"the configuration of ssh cannot be used: {_words(error)}") from None
        known = Path(os.path.expanduser(self._spec.known_hosts or "~/.ssh/known_hosts"))
        try:
            for hop in _hops(connection, self._spec):
                hop.open(self.name, known)
        except BaseException:
            _close(connection)
            raise
        return connection


class SshChannel:
    """A program on a host."""

    def __init__(self, host: str, channel: paramiko.Channel) -> None:
        self._host, self._channel = host, channel
        self._errors = b""
        self._drain: threading.Thread | None = None

    def drain_errors(self) -> None:
        """Begins to read stderr: what nobody reads would fill the window and stop the program."""
        self._drain = threading.Thread(target=self._read_errors, name=f"stderr of {self._host}", daemon=True)
        self._drain.start()

    def send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (OSError, EOFError) as error:
            raise HostLost(self._host, f"the connection broke: {_words(error)}") from None

    def send_before(self, data: bytes, deadline: float) -> None:
        """Sends what the program takes; one that ends without reading it all is no error."""
        view = memoryview(data)
        while view:
            self._channel.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                sent = self._channel.send(view[:_PACKET])
            except TimeoutError:
                raise
            except (OSError, EOFError):
                return  # it ended: `receive` knows whether the connection did
            if sent == 0:
                return
            view = view[sent:]

    def receive(self, size: int = 65536) -> bytes:
        try:
            data: bytes = self._channel.recv(size)
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            raise HostLost(self._host, f"the connection broke: {_words(error)}") from None
        if not data and not self._channel.eof_received:
            raise HostLost(self._host, "the connection broke")
        return data

    def received_before(self, deadline: float) -> Iterator[bytes]:
        """Yields all it writes; raises TimeoutError when that takes too long."""
        while True:
            self._channel.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.receive()
            if not data:
                self._channel.settimeout(None)
                return
            yield data

    def close_input(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def errors(self) -> str:
        if self._drain is not None and self._channel.eof_received:
            self._drain.join(10.0)
        return self._errors.decode("utf-8", "replace")

    def wait(self, timeout: float | None = None) -> int:
        if not self._channel.status_event.wait(timeout):
            raise TimeoutError(f"{self._host}: the program has not ended")
        status: int = self._channel.exit_status
        if status < 0:  # the channel ended and nobody said how
            raise HostLost(self._host, "the connection broke")
        return status

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()

    def _read_errors(self) -> None:
        while True:
            try:
                data = self._channel.recv_stderr(1 << 18)
            except TimeoutError:  # `run` gives stdout a deadline, and the two share it
                continue
            except (OSError, EOFError):
                return
            if not data:
                return
            self._errors = (self._errors + data)[-_ERRORS:]


class _Passing(Exception):
    """A failure that often goes away: a busy sshd drops connections, a host that boots refuses them."""

    def __init__(self, told: HostError) -> None:
        super().__init__(told.message)
        self.told = told


class _Hop(NamedTuple):
    """One connection on the way to a host.

    Args:
        spec: what the inventory says of it; None for a jump host of ~/.ssh/config.
        is_last: it is the host, not a jump host.
    """

    connection: Connection
    spec: HostSpec | None
    is_last: bool

    @property
    def place(self) -> str:
        return f"{self.connection.host}:{self.connection.port}"

    def open(self, name: str, known: Path) -> None:
        """Connects, those before it being open.

        Args:
            name: the host that is the goal, for messages.
            known: the file of known host keys.
        """
        import paramiko

        if self.spec is not None and self.spec.key and not os.path.exists(os.path.expanduser(self.spec.key)):
            raise HostError(name, f"there is no key {self.spec.key}", hint="correct `key` in the inventory")
        named = self.connection.connect_kwargs.get("key_filename", [])
        self.connection.connect_kwargs["key_filename"] = [path for path in named if os.path.exists(path)]
        _refuse_unknown(self, known, name)
        try:
            self.connection.open()
            _tune(self.connection.transport)
        except paramiko.BadHostKeyException as error:
            raise self._key_changed(name, error, known) from None
        except paramiko.AuthenticationException as error:
            raise self._denied(name, error) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._unreachable(name, error) from None

    def _key_changed(self, name: str, error: paramiko.BadHostKeyException, known: Path) -> HostKeyChanged:
        address = _known_as(self.connection)
        return HostKeyChanged(
            name,
            f"the host key of {self.place} is not the one in {known}\n"
            f"  expected {_fingerprint(error.expected_key)}, got {_fingerprint(error.key)}",
            hint=f"if that host was installed anew: ssh-keygen -f {shlex.quote(str(known))} -R {shlex.quote(address)}"
            "   and add the new key; else somebody is in between",
        )

    def _denied(self, name: str, error: Exception) -> HostError:
        import paramiko

        user, keys = self.connection.user, _key_files(self.connection)
        if isinstance(error, paramiko.PasswordRequiredException):
            what = f"the key {' or '.join(keys)} has a passphrase, and no agent holds it"
            return HostError(name, what, hint=f"ssh-add {shlex.join(keys)}")
        option = f"-i {shlex.quote(keys[0])} " if keys else ""
        tried = ", ".join(keys) or "no key: there is none in ~/.ssh"
        agent = " and those of the agent" if os.environ.get("SSH_AUTH_SOCK") else ""
        return HostError(
            name,
            f"permission denied for user {user} at {self.place}; tried {tried}{agent} ({_words(error)})",
            hint=f"ssh-copy-id {option}-p {self.connection.port} {user}@{self.connection.host}"
            "   or set `user` and `key` in the inventory",
        )

    def _unreachable(self, name: str, error: Exception) -> Exception:
        """Returns a failure in words; one that often goes away as `_Passing`."""
        import paramiko

        connection, number = self.connection, _errno(error)
        hint = f"ssh -p {connection.port} {connection.user}@{connection.host} true"
        passing = False
        if isinstance(error, socket.gaierror):
            passing = error.errno == socket.EAI_AGAIN
            told = f"the name {connection.host} is not known ({error.strerror})"
            hint = "set `address` in the inventory, or HostName in ~/.ssh/config"
        elif isinstance(error, paramiko.ChannelException):
            passing = error.code == _CONNECT_FAILED
            told = f"the jump host {connection.gateway.host} cannot reach {self.place}: {error.text}"
            gateway = connection.gateway
            hint = f"ssh -p {gateway.port} {gateway.user}@{gateway.host} nc -vz {connection.host} {connection.port}"
        elif number == errno.ECONNREFUSED:
            told, passing = f"nothing listens at {self.place}: connection refused", True
        elif number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            told, passing = f"there is no route to {self.place}", number == errno.EHOSTUNREACH
        elif isinstance(error, TimeoutError):
            told = f"{self.place} did not answer in time"
        else:
            told = f"no SSH connection to {self.place}: {_words(error)}"
            passing = isinstance(error, ConnectionError | EOFError) or any(
                word in str(error) for word in ("banner", "reset", "No existing session", "EOF", "Broken pipe")
            )
        host_error = HostError(name, told if self.is_last else f"the jump host failed: {told}", hint=hint)
        return _Passing(host_error) if passing else host_error


def _configured(spec: HostSpec) -> Connection:
    """Returns a connection that is not open yet, with the way to it."""
    from fabric import Config

    config, address = Config(), spec.address or spec.name
    gateway = _configured(spec.gateway) if spec.gateway is not None else _jump_of(address, config, spec, ())
    connection = _connection(address, config, spec, gateway)
    connection.user, connection.port = spec.user or connection.user, spec.port or connection.port
    if spec.key:
        named = connection.connect_kwargs.get("key_filename", [])
        connection.connect_kwargs |= {"key_filename": [os.path.expanduser(spec.key), *named], "look_for_keys": False}
    return connection


def _connection(text: str, config: Config, spec: HostSpec, gateway: Connection | bool | None) -> Connection:
    from fabric import Connection

    seconds = _OPEN_SECONDS
    options: dict[str, Any] = {"banner_timeout": seconds, "auth_timeout": seconds, "channel_timeout": seconds}
    options["transport_factory"] = _transport
    return Connection(
        text, config=config, gateway=gateway, connect_timeout=spec.connect_seconds, connect_kwargs=options
    )


def _transport(sock: socket.socket, **options: Any) -> paramiko.Transport:
    """Returns a connection that asks for AES-GCM first: one pass over the bytes in place of two of AES-CTR and HMAC."""
    import paramiko

    transport = paramiko.Transport(sock, **options)
    preferred = transport._preferred_ciphers
    transport._preferred_ciphers = (*(name for name in _FAST_CIPHERS if name in preferred), *preferred)
    return transport


def _jump_of(text: str, config: Config, spec: HostSpec, above: tuple[str, ...]) -> Connection | bool | None:
    """Returns what ProxyJump of ~/.ssh/config leads through: False for nothing, None when it says nothing.

    Left alone, fabric goes through several jump hosts in reverse, and takes `none` for the name of one.
    """
    address = text.rpartition("@")[2].partition(":")[0]
    named = str(config.base_ssh_config.lookup(address).get("proxyjump", ""))
    if not named:
        return None  # a ProxyCommand may be there, which fabric sees to
    hops = [] if named.lower() == "none" else [hop.strip() for hop in named.split(",")]
    if address in above or any(hop.rpartition("@")[2].partition(":")[0] == address for hop in hops):
        return False  # `Host *` means all others, as ssh has it
    gateway: Connection | bool | None = False
    for number, hop in enumerate(hops):
        way = _jump_of(hop, config, spec, (*above, address)) if number == 0 else gateway
        gateway = _connection(hop, config, spec, way)
    return gateway


def _hops(connection: Connection, spec: HostSpec) -> list[_Hop]:
    """Returns the connections on the way, in the order in which they are opened."""
    hops = [_Hop(connection, spec, True)]
    gateway, of = _gateway(connection), spec.gateway
    while gateway is not None:
        hops.append(_Hop(gateway, of, False))
        gateway, of = _gateway(gateway), of.gateway if of is not None else None
    return hops[::-1]


def _gateway(connection: Connection) -> Connection | None:
    """Returns the connection that leads to another one; what may stand there instead is False and a ProxyCommand."""
    return None if isinstance(connection.gateway, str | bool) else connection.gateway


def _tune(transport: paramiko.Transport) -> None:
    """Sets what was measured to matter, and hears of the signal that ended a program, which paramiko ignores."""
    import paramiko
    from paramiko.common import MSG_CHANNEL_REQUEST

    def request(channel: paramiko.Channel, message: paramiko.Message) -> None:
        said = paramiko.Message(message.get_remainder())
        if said.get_text() != "exit-signal":
            paramiko.Channel._handle_request(channel, message)
            return
        said.get_boolean()
        number = getattr(signal, f"SIG{said.get_text()}", signal.SIGKILL)
        channel.exit_status = 128 + number
        channel.status_event.set()

    table = dict(transport._channel_handler_table)
    table[MSG_CHANNEL_REQUEST] = request
    transport._channel_handler_table = table
    transport.set_keepalive(_KEEPALIVE_SECONDS)
    if isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_MS)


def _refuse_unknown(hop: _Hop, known: Path, name: str) -> None:
    """Makes a connection refuse every host key that is not known; fabric would take any."""
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc, unused-ignore]
        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            connection = hop.connection
            port = f"-p {connection.port} " if connection.port != _SSH_PORT else ""
            scan = f"ssh-keyscan -t {_scan_type(key)} {port}{connection.host}"
            gateway = _gateway(connection)
            if gateway is not None:
                scan = f"ssh -p {gateway.port} {gateway.user}@{gateway.host} {scan}"
            raise UnknownHostKey(
                name,
                f"the host key of {hop.place} is not known\n  expected a line for {hostname} in {known}, "
                f"got {key.get_name()} {_fingerprint(key)}",
                hint=f"compare the fingerprint with the host's own, then: {scan} >> {shlex.quote(str(known))}",
            )

    client = hop.connection.client
    for file in (_SYSTEM_KNOWN_HOSTS, known):
        if file.exists():
            client.load_host_keys(str(file))
    client.set_missing_host_key_policy(Refuse())


def _known_as(connection: Connection) -> str:
    """Returns the name of a host in known_hosts."""
    return connection.host if connection.port == _SSH_PORT else f"[{connection.host}]:{connection.port}"


def _key_files(connection: Connection) -> list[str]:
    """Returns the private keys that are tried, but for those of an agent."""
    files = list(connection.connect_kwargs.get("key_filename", []))
    if connection.connect_kwargs.get("look_for_keys", True):
        kinds = ("rsa", "ecdsa", "ed25519")
        files += [path for kind in kinds if os.path.exists(path := os.path.expanduser(f"~/.ssh/id_{kind}"))]
    return files


def _scan_type(key: paramiko.PKey) -> str:
    kinds = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}
    return kinds.get(key.get_name(), "ecdsa")


def _fingerprint(key: paramiko.PKey) -> str:
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _errno(error: Exception) -> int | None:
    """Returns the number of a system error; paramiko hides those of several addresses in one error."""
    several: dict[Any, OSError] | None = getattr(error, "errors", None)
    if several:
        return next(iter(several.values())).errno
    return error.errno if isinstance(error, OSError) else None


def _close(connection: Connection) -> None:
    """Closes a connection and those that lead to it."""
    hop: Connection | None = connection
    while hop is not None:
        with contextlib.suppress(Exception):  # what is broken may fail in any way while it is closed
            hop.client.close()
        hop = _gateway(hop)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__

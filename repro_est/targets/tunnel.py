"""The Docker daemon of a host, as if it were here: a socket of this machine, passed on over the connection there is.

For each connection the docker program there is started as `docker system dial-stdio`, which is how Docker's own client
speaks over SSH. So all that is known about images works there too: what the daemon has, sending only the layers it
lacks, pulling from the team's registry.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from typing import TYPE_CHECKING

from repro_est.errors import InfrastructureError
from repro_est.hosts.host import Channel, Host

if TYPE_CHECKING:
    from docker import DockerClient

_TIMEOUT_SECONDS = 600


class Tunnel:
    """Passes connections of a unix socket on to a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._directory = tempfile.mkdtemp(prefix="repro-docker-")
        self.path = os.path.join(self._directory, "sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for item in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            try:
                channel = self._host.spawn(["docker", "system", "dial-stdio"])
            except InfrastructureError:
                connection.close()
                continue
            threading.Thread(target=_upwards, args=(connection, channel), daemon=True).start()
            threading.Thread(target=_downwards, args=(connection, channel), daemon=True).start()


def docker_of(host: Host, stack: contextlib.ExitStack) -> DockerClient:
    """Returns a client of the daemon of a host; the stack ends the tunnel.

    Raises:
        InfrastructureError: it does not answer.
    """
    import docker
    from docker.errors import DockerException

    tunnel = Tunnel(host)
    stack.callback(tunnel.close)
    try:
        client = docker.DockerClient(base_url=f"unix://{tunnel.path}", timeout=_TIMEOUT_SECONDS)
        client.ping()
    except (DockerException, OSError) as error:
        raise InfrastructureError(
            f"{host.name}: its Docker daemon does not answer: {error}", hint=f"ssh {host.spec.address} docker info"
        ) from None
    stack.callback(client.close)
    return client


def _upwards(connection: socket.socket, channel: Channel) -> None:
    taken = True
    with contextlib.suppress(OSError):
        while data := connection.recv(1 << 18):
            try:
                if taken:
                    channel.send(data)
            except InfrastructureError:
                taken = False  # the daemon has answered and hung up: what still comes must not break the answer
    channel.close_input()


def _downwards(connection: socket.socket, channel: Channel) -> None:
    with contextlib.suppress(OSError, InfrastructureError):
        while data := channel.receive(1 << 18):
            connection.sendall(data)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError, InfrastructureError):
        channel.close()

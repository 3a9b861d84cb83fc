"""Real sshds on this machine, each with a port, keys and a home of its own: hosts that need no root and no namespaces."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.ssh import SshHost
from tests.conftest import missing


@dataclass
class Sshd:
    """An sshd of a test, with keys and a home of its own."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def home(self) -> Path:
        return self.directory / "home"

    def spec(self, **changes: object) -> HostSpec:
        spec = HostSpec(
            "h1",
            address="127.0.0.1",
            user=getpass.getuser(),
            port=self.port,
            key=str(self.directory / "id_ed25519"),
            known_hosts=str(self.known_hosts),
            connect_seconds=10.0,
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    def host(self, **changes: object) -> SshHost:
        return SshHost(self.spec(**changes))

    def sessions(self) -> list[int]:
        """The processes of connections that are open."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


def new_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sshds(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Gives a function that starts sshds on ports of their own; nothing of the machine's configuration is used.

    Its arguments are further lines of the configuration. They end with the context.
    """
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        missing("there is no sshd (apt-get install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    started: list[Sshd] = []

    def start(*options: str) -> Sshd:
        directory = tmp_path / f"sshd{len(started)}"
        (directory / "home").mkdir(parents=True)
        host_key = new_key(directory / "host_key")
        (directory / "authorized_keys").write_text(new_key(directory / "id_ed25519") + "\n")
        port = free_port()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
        lines = [
            *options,
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {directory}/host_key",
            f"AuthorizedKeysFile {directory}/authorized_keys",
            f"SetEnv HOME={directory}/home",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
        ]
        (directory / "config").write_text("\n".join(lines) + "\n")
        log = open(directory / "log", "wb")  # noqa: SIM115
        process = subprocess.Popen([program, "-D", "-e", "-f", str(directory / "config")], stderr=log)
        sshd = Sshd(directory, port, process)
        started.append(sshd)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return sshd
            time.sleep(0.05)
        raise AssertionError((directory / "log").read_text())

    try:
        yield start
    finally:
        for sshd in started:
            for pid in sshd.sessions():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            sshd.process.terminate()
            sshd.process.wait(10)

"""The lab: what the end-to-end tests need, installed and started by hand or by `make test`.

    python -m tests.lab up [--channel] [--hosts]     idempotent; without root it makes files only, and says what is missing
    python -m tests.lab down

.lab/base.tar    a root file system of packages of this Debian
.lab/channel/    with --channel: a conda channel, for recipes/conda-digits.toml
.lab/inventory.toml    with --hosts: an inventory with the target `lab`, of three hosts that are up; tests have their own
dockerd          on its usual socket, unless one answers there already
docker-registry  on 127.0.0.1:5000, and one on 127.0.0.1:5001 that asks for LOGIN
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab import base, channel, hosts

LAB = Path(__file__).parents[2] / ".lab"
REGISTRY, PRIVATE_REGISTRY = "127.0.0.1:5000", "127.0.0.1:5001"
LOGIN = ("lab", "lab-password")
_HASHED = "$2b$05$lxuHPFOnRiWVmXSaX7L8ve.RJIEDsdy.fugJkOATYuZjs/YXS3lAa"  # bcrypt, as htpasswd -B writes it
_PROGRAMS = {  # by package
    "bubblewrap": "bwrap",
    "docker.io": "dockerd",
    "iptables": "iptables",
    "docker-registry": "docker-registry",
    "openssh-server": "sshd",
    "openssh-client": "ssh-keyscan",
    "iproute2": "ip",
    "procps": "pkill",
    "openmpi-bin": "mpirun.openmpi",
    "mpich": "mpiexec.mpich",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "sbatch",
    "munge": "munged",
}


def up(*, with_channel: bool, with_hosts: bool) -> None:
    LAB.mkdir(exist_ok=True)
    if not (LAB / "base.tar").exists() and shutil.which("dpkg-query"):
        base.build(LAB / "base.tar")
    if with_channel and not (LAB / "channel/noarch/repodata.json").exists():
        channel.main([str(LAB / "channel"), "scikit-learn>=1.5"])
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print("lab: no root, or no Debian: tests that need Docker or hosts are skipped")
        return
    _install()
    if not _docker_answers():
        _start("dockerd", ["dockerd"], _docker_answers)
    for address in (REGISTRY, PRIVATE_REGISTRY):
        if not registry_answers(address):
            _start_registry(address)
    print("lab: dockerd and docker-registry answer")
    if with_hosts:
        cluster = hosts.Cluster(LAB / "hosts")
        try:
            cluster.up(3)
        except hosts.LabError as error:
            sys.exit(f"lab: {error}")
        inventory = cluster.inventory(LAB / "inventory.toml")
        print(f"lab: {', '.join(cluster.hosts)} answer, the inventory is {inventory}")


def down() -> None:
    if os.geteuid() == 0:
        hosts.Cluster(LAB / "hosts").down()
        hosts.clear_away_abandoned()
    for pid_file in LAB.glob("*.pid"):
        try:
            process = int(pid_file.read_text())
            os.kill(process, signal.SIGTERM)
            for _ in range(100):
                os.kill(process, 0)
                time.sleep(0.1)
        except (ProcessLookupError, ValueError):
            pass
        pid_file.unlink(missing_ok=True)
    shutil.rmtree(LAB, ignore_errors=True)


def _install() -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    wanted = [package for package, program in _PROGRAMS.items() if not shutil.which(program, path=path)]
    if not wanted:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # A package's own start-up script must not start anything: here daemons are ours.
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted]
        log = LAB / "apt.log"
        with open(log, "wb") as output:
            for command in (["apt-get", "update", "-qq"], install):
                done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        if done.returncode != 0:
            sys.exit(f"lab: {' '.join(install)} failed, see {log}:\n" + log.read_text()[-2000:])
    finally:
        if made:
            policy.unlink()


def _start(name: str, command: Sequence[str], answers: Callable[[], bool]) -> None:
    log = LAB / f"{name}.log"
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    (LAB / f"{name}.pid").write_text(str(process.pid))
    for _ in range(300):
        if answers():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"lab: {name} did not start, see {log}:\n" + log.read_text(errors="replace")[-2000:])


def _start_registry(address: str) -> None:
    name = f"docker-registry-{address.rpartition(':')[2]}"
    settings = (
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {LAB / name}\n  delete:\n    enabled: true\n"
        f"http:\n  addr: {address}\n"
    )
    if address == PRIVATE_REGISTRY:
        (LAB / f"{name}.htpasswd").write_text(f"{LOGIN[0]}:{_HASHED}\n")
        settings += f"auth:\n  htpasswd:\n    realm: lab\n    path: {LAB / name}.htpasswd\n"
    file = LAB / f"{name}.yml"
    file.write_text(settings)
    _start(name, ["docker-registry", "serve", str(file)], lambda: registry_answers(address))


def _docker_answers() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def registry_answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up", *more] if set(more) <= {"--channel", "--hosts"}:
            up(with_channel="--channel" in more, with_hosts="--hosts" in more)
        case ["down"]:
            down()
        case _:
            sys.exit(__doc__)

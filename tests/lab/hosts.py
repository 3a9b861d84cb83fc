"""Hosts of the lab: machines made of namespaces, each with an sshd, an address, a disk and users of its own.

    machine ── 10.77.0.1 ── switch ──┬── h1 10.77.0.11
    (main namespace)                 ├── h2 10.77.0.12
                                     └── h3 10.77.0.13, with a dockerd

A host sees the machine's programs (an overlay of `/`), and none of its /tmp, /root, /home, /work or /run. It has a
process table, a host name, a boot id, a /tmp, a /dev/shm and shared memory of its own. `root` and `alice` log in with
the cluster's key. No host knows a key, or the name, of another. A power cut empties what a power cut empties: /tmp,
/run and /dev/shm; homes and Docker's images are on the host's disk and stay.

Processor, memory, clock and kernel are shared with the machine. Inside a container the boot id is the machine's.
Needs root on Linux, and a root file system that an overlay can be laid over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

INIT = Path(__file__).with_name("init.py")
WIRE = ("/usr/bin/python3", "-IS", str(Path(__file__).with_name("wire.py")))
STAND_IN = Path(__file__).with_name("stand-in-nvidia-smi")
_LOCKS = Path("/run/repro-lab")
_SHARED = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr", "var")
_EMPTY = ("boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp")
_HIDDEN = ("var/tmp", "var/lib/docker", "etc/ssh", "etc/docker", "etc/slurm")
_PROGRAMS = ("ip", "nsenter", "unshare", "pivot_root", "sshd", "ssh-keygen", "iptables", "tc")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALICE = 2001
_DAEMONS = re.compile(r"(sshd:?|dockerd|containerd(-shim.*)?|slurmctld|slurmd|slurmscriptd|munged)$")


class LabError(Exception):
    """The lab could not be made or does not do what was asked."""


class Cluster:
    """Some hosts on one subnet; see the module. Methods take a host by its name, `h1` and so on.

    Args:
        root: where keys, disks and logs are; removed by `down`
        subnet: the first three numbers of a /24, unique among the clusters of the machine
        sshd: more lines for every host's sshd_config
    """

    def __init__(self, root: Path, subnet: str = "10.77.0", *, sshd: str = "") -> None:
        self.root = root.absolute()
        self.subnet = subnet
        self.hosts: tuple[str, ...] = ()
        self._sshd = sshd
        self._tag = "-".join(subnet.split(".")[1:])
        self._switch = f"repro-lab-{self._tag}"
        self._faults: set[tuple[str, ...]] = set()
        self._wires: dict[str, subprocess.Popen[bytes]] = {}
        self._disks: list[tuple[str, str]] = []
        self._excused: list[tuple[str, str]] = []
        if self.root.is_dir():
            self.hosts = tuple(sorted((path.parent.name for path in self.root.glob("h*/upper")), key=_number))

    @property
    def gateway(self) -> str:
        """The machine's address on this subnet."""
        return f"{self.subnet}.1"

    @property
    def network(self) -> str:
        return f"{self.subnet}.0/24"

    @property
    def key(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def dockers(self) -> tuple[str, ...]:
        """The hosts with a dockerd."""
        return tuple(host for host in self.hosts if (self.root / host / "docker").exists())

    def address(self, host: str) -> str:
        return f"{self.subnet}.{10 + _number(host)}"

    # --- the whole cluster

    def up(self, count: int = 3, *, dockers: Sequence[int] = (3,)) -> None:
        """Brings up `count` hosts, the numbered ones with a dockerd; those that are up stay as they are."""
        if reason := unable():
            raise LabError(reason)
        self._claim()
        self._make_keys()
        self._make_switch()
        (self.root / "shared").mkdir(exist_ok=True)
        self.hosts = tuple(f"h{number}" for number in range(1, max(count, len(self.hosts)) + 1))
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda host: self._prepare(host, docker=_number(host) in dockers), self.hosts):
                pass
            self.known_hosts.write_text("".join(f"{self.address(h)} {self._host_key(h)}\n" for h in self.hosts))
            for _ in pool.map(self.start, self.hosts):
                pass

    def down(self) -> None:
        """Removes every host with all its processes, mounts and interfaces, and the cluster's directory."""
        if self._owner() in (None, str(self.root)):
            for namespace in self._namespaces():
                self._empty(namespace)
                _call("ip", "netns", "delete", namespace)
            for wire in self._wires.values():
                wire.wait()
            if (Path("/sys/class/net") / self._switch).exists():
                _call("ip", "link", "delete", self._switch, check=False)  # it went with its namespace
            for host in self.hosts:
                self._remove_cgroups(host)
            self._mark.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.hosts = ()

    def reset(self) -> None:
        """Mends every fault, ends what programs left running, and empties what they left in /tmp and /dev/shm.

        Homes stay, and so does what a store there holds: `wipe` empties them.
        """
        for host, path in self._disks:
            if self.is_up(host):
                self.run(host, ["umount", "-l", path], check=False)
        self._disks = []
        for fault in list(self._faults):
            self._mend(fault)
        for host in self.hosts:
            if not self.is_up(host):
                self.start(host)
            self._end_processes(host)
            if host in self.dockers:
                if not self._docker_answers(host):
                    self._start_docker(host)
                if left := self.run(host, ["docker", "ps", "-aq"]).stdout.split():
                    self.run(host, ["docker", "rm", "-f", *left])
            for path in (*self.path(host, "/tmp").iterdir(), *self.path(host, "/dev/shm").iterdir()):
                _remove(path)
        self._excused = []

    # --- one host

    def start(self, host: str) -> None:
        """Boots a host, with a new boot id; returns when its sshd (and dockerd, if it has one) answers."""
        if not self.is_up(host):
            self._plug_in(host)
            directory = self.root / host
            (directory / "pid").unlink(missing_ok=True)
            unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
            boot = ["/usr/bin/python3", "-IS", str(INIT), host, str(directory), *_interpreter()]
            with open(directory / "boot.log", "wb") as log:
                subprocess.Popen(
                    [*_in(self._namespace(host)), *unshare, *boot],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={"PATH": PATH},
                )
            wait(lambda: self._greets(host), 30, lambda: f"{host} did not boot: {(directory / 'boot.log').read_text()}")
        if host in self.dockers and not self._docker_answers(host):
            self._start_docker(host)

    def kill(self, host: str) -> None:
        """Cuts the power: the link goes first, so that no peer hears of it."""
        self._ip(self._switch, f"link set {_port(host)} down")
        self._empty(self._namespace(host))
        self._remove_wire(host)
        _call("ip", "netns", "delete", self._namespace(host))
        self._ip(self._switch, f"link delete {_port(host)}", check=False)
        self._remove_cgroups(host)
        self._faults = {fault for fault in self._faults if host not in fault}
        self._disks = [(other, path) for other, path in self._disks if other != host]

    def is_up(self, host: str) -> bool:
        return self._pid(host) is not None

    def pid(self, host: str) -> int:
        """The machine's number for the first process of a host."""
        pid = self._pid(host)
        if pid is None:
            raise LabError(f"{host} is down")
        return pid

    def path(self, host: str, path: str) -> Path:
        """Where the machine finds a file of a host. Absolute symlinks on the way lead elsewhere."""
        return Path(f"/proc/{self.pid(host)}/root") / path.lstrip("/")

    def run(
        self,
        host: str,
        words: Sequence[str],
        *,
        user: str = "root",
        data: bytes = b"",
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host past its sshd, for a test's preparations and assertions."""
        login = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        home = "/root" if user == "root" else f"/home/{user}"
        done = subprocess.run(
            [*self._enter(host), "env", "-i", f"PATH={PATH}", f"HOME={home}", f"USER={user}", *login, *words],
            input=data.decode(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise LabError(f"{host}: {' '.join(words)} gave {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def processes(self, host: str) -> list[tuple[int, str]]:
        """Every process of a host as (pid there, command line); those of its containers too, zombies not."""
        found = []
        for directory in self.path(host, "/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (directory / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    text = b" ".join(words).decode(errors="replace")
                    if text:  # neither a zombie nor a kernel's
                        found.append((int(directory.name), text))
        return sorted(found)

    def wipe(self, host: str) -> None:
        """Empties the homes of a host, stores with them; the keys that let us in stay."""
        for home in ("root", "home/alice"):
            for path in self.path(host, home).iterdir():
                if path.name not in (".ssh", ".pyenv"):
                    _remove(path)

    # --- faults; `reset` mends them all

    def cut(self, host: str) -> None:
        """Pulls the cable of a host: it runs on, and nobody hears of it."""
        self._ip(self._switch, f"link set {_port(host)} down")
        self._faults.add(("cut", host))

    def heal(self, host: str) -> None:
        """Mends what `cut`, `partition`, `slow` and `change_host_key` did to a host."""
        for fault in [fault for fault in self._faults if host in fault]:
            self._mend(fault)

    def partition(self, one: str, other: str) -> None:
        """Lets two hosts no longer hear each other, while the machine hears both."""
        for here, there in ((one, other), (other, one)):
            self._iptables(here, "-A", there)
        self._faults.add(("partition", one, other))

    def slow(self, host: str, *, delay_ms: float = 0, rate: str = "", loss: float = 0) -> None:
        """Makes a host's link long, narrow and lossy, both ways.

        Args:
            delay_ms: milliseconds that a frame takes, each way
            rate: as tc writes it, `"10mbit"`; at most some 100 Mbit/s
            loss: percent of the frames that never arrive
        """
        self._mend(("slow", host))
        self._faults.add(("slow", host))
        ends = ((self._switch, _port(host)), (self._namespace(host), "eth0"))
        if rate:
            for namespace, interface in ends:
                shape = ["tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
                _call("tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", "handle", "1:", *shape)
        if not (delay_ms or loss):
            return
        place = ["parent", "1:1"] if rate else ["root"]
        netem = ["netem", "limit", "100000", "delay", f"{delay_ms}ms", "loss", f"{loss}%"]
        for namespace, interface in ends:
            if (
                _call("tc", "-n", namespace, "qdisc", "add", "dev", interface, *place, *netem, check=False).returncode
                != 0
            ):
                self._lay_wire(host, delay_ms, loss)  # this kernel has no netem
                return

    def change_host_key(self, host: str) -> None:
        """Gives a host another key than the one in `known_hosts`."""
        other = self.root / host / "another_key"
        _remove(other)
        _keygen(other, host)
        self._install_host_key(host, other)
        self._faults.add(("key", host))

    def small_disk(self, host: str, path: str, size: int) -> None:
        """Mounts a disk of `size` bytes at a path of a host."""
        self.run(host, ["mkdir", "-p", path])
        self.run(host, ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", path])
        self._disks.append((host, path))

    def stop_docker(self, host: str) -> None:
        """Kills a host's dockerd and containerd outright; containers stay, with nobody to look after them."""
        self.run(host, ["pkill", "-KILL", "-x", "dockerd|containerd"], check=False)
        wait(lambda: not self._docker_answers(host), 5, lambda: f"the dockerd of {host} does not die")

    def may_leave(self, host: str, text: str) -> None:
        """Excuses the running test from clearing away what has `text` in its description; see `leftovers`."""
        self._excused.append((host, text))

    # --- what is left

    def leftovers(self, host: str) -> list[str]:
        """What programs left on a host: processes, containers, leases, files in /tmp and /dev/shm, each in words."""
        found = [
            f"process {pid}: {command[:200]}"
            for pid, command in self.processes(host)
            if pid != 1 and not _DAEMONS.match(_program(command))
        ]
        found += [f"/tmp/{path.name}" for path in self.path(host, "/tmp").glob("repro*")]
        found += [f"/dev/shm/{path.name}" for path in self.path(host, "/dev/shm").iterdir()]
        found += [f"lease {path.name} is held" for path in _held(self.path(host, "/tmp/.repro-leases"))]
        if host in self.dockers and self.path(host, "/var/lib/docker/containers").exists():
            found += [f"container {path.name[:12]}" for path in self.path(host, "/var/lib/docker/containers").iterdir()]
        excuses = [text for other, text in self._excused if other == host]
        return [line for line in found if not any(text in line for text in excuses)]

    def all_leftovers(self, *, patience: float = 5) -> dict[str, list[str]]:
        """What is left on each living host after some seconds in which it may still go."""
        until = time.monotonic() + patience
        while True:
            left = {host: lines for host in self.hosts if self.is_up(host) and (lines := self.leftovers(host))}
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.05)

    # --- for `repro`

    def inventory(self, path: Path, *, runtime: str = "process", more: str = "") -> Path:
        """Writes an inventory with the target `lab`, `docker-lab` for the hosts with Docker, and what `more` adds."""
        lines = [f'known_hosts = "{self.known_hosts}"', ""]
        for host in self.hosts:
            lines += [
                f"[hosts.{host}]",
                f'address = "{self.address(host)}"',
                'user = "root"',
                f'key = "{self.key}"',
                "",
            ]
        for target, hosts, how in (("lab", self.hosts, runtime), ("docker-lab", self.dockers, "docker")):
            if hosts:
                names = ", ".join(f'"{host}"' for host in hosts)
                lines += [f"[targets.{target}]", f"hosts = [{names}]", f'runtime = "{how}"']
                lines += [f'interface = "{self.network}"', "lost_after_seconds = 5", ""]
        path.write_text("\n".join(lines) + more)
        return path

    def docker_url(self, host: str) -> str:
        """Where the machine reaches the dockerd of a host."""
        return f"unix://{self.path(host, '/run/docker.sock')}"

    def give_gpus(self, host: str, count: int = 4, **settings: str | int) -> None:
        """Installs the stand-in for nvidia-smi on a host; its first lines say what can be set, such as `mig=2`."""
        lines = {"gpus": count, "host": host, **settings}
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        self.path(host, "/etc/stand-in-nvidia-smi").write_text(text)
        program = self.path(host, "/usr/local/bin/nvidia-smi")
        program.write_bytes(STAND_IN.read_bytes())
        program.chmod(0o755)
        self._faults.add(("gpus", host))

    # --- making

    def _claim(self) -> None:
        _LOCKS.mkdir(exist_ok=True)
        if self._namespaces() and self._owner() != str(self.root):
            raise LabError(f"the hosts of {self.network} belong to {self._owner() or 'nobody known'}")
        self._mark.write_text(str(self.root))

    @property
    def _mark(self) -> Path:
        return _LOCKS / f"{self._tag}.root"

    def _owner(self) -> str | None:
        return self._mark.read_text() if self._mark.exists() else None

    def _make_keys(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            _keygen(self.key, "lab")

    def _make_switch(self) -> None:
        """A bridge in a namespace of its own: the machine's firewall, Docker's above all, sees none of its traffic."""
        if self._switch in self._namespaces():
            return
        _call("ip", "netns", "add", self._switch)
        _call("ip", "link", "add", self._switch, "type", "veth", "peer", "name", "up0", "netns", self._switch)
        self._ip(
            self._switch,
            "link set lo up",
            "link add br0 type bridge",
            "link set br0 up",
            "link set up0 master br0",
            "link set up0 up",
        )
        _call("ip", "addr", "add", f"{self.gateway}/24", "dev", self._switch)
        _call("ip", "link", "set", self._switch, "up")

    def _prepare(self, host: str, *, docker: bool) -> None:
        """Makes the disk of a host."""
        directory = self.root / host
        upper = directory / "upper"
        if upper.exists():
            return
        (directory / "work").mkdir(parents=True)
        if docker and shutil.which("dockerd", path=PATH):
            (directory / "docker").mkdir()
        for name in (*_EMPTY, *_HIDDEN):
            place = upper / name
            place.mkdir(parents=True)
            os.setxattr(place, "trusted.overlay.opaque", b"y")
        for path in Path("/").iterdir():
            if path.name not in (*_SHARED, *_EMPTY):
                os.mknod(upper / path.name, stat.S_IFCHR, 0)  # an overlay's way to say that it is not there
        for name in ("tmp", "var/tmp"):
            (upper / name).chmod(0o1777)
        (upper / "root").chmod(0o711)  # alice too may run the interpreter that lies below it
        _keygen(directory / "host_key", host)
        for name, text in self._files(host).items():
            (upper / name).parent.mkdir(parents=True, exist_ok=True)
            (upper / name).write_text(text)
        (upper / "etc/shadow").chmod(0o640)
        (upper / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
        for user, home in ((0, upper / "root"), (_ALICE, upper / "home/alice")):
            keys = home / ".ssh"
            keys.mkdir(parents=True, mode=0o700)
            (keys / "authorized_keys").write_text(_public(self.key))
            for path in (keys, keys / "authorized_keys", *([home] if user else [])):
                os.chown(path, user, user)
        if docker:
            (directory / "docker").mkdir(exist_ok=True)

    def _files(self, host: str) -> dict[str, str]:
        directory = self.root / host
        passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        users = [line.split(":")[0] for line in passwd.splitlines()]
        return {
            "etc/passwd": f"{passwd}alice:x:{_ALICE}:{_ALICE}::/home/alice:/bin/bash\n",
            "etc/group": f"{group}alice:x:{_ALICE}:\n",
            "etc/shadow": "".join(f"{user}:*:19000:0:99999:7:::\n" for user in [*users, "alice"]),
            "etc/hostname": f"{host}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {host}\n",  # as Debian writes it
            "etc/resolv.conf": "",
            "etc/environment": "",
            "etc/ssh/sshd_config": f"ListenAddress {self.address(host)}\n"
            "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            f"UsePAM no\nPidFile none\nUseDNS no\nSubsystem sftp internal-sftp\n{self._sshd}\n",
            "etc/ssh/ssh_host_ed25519_key": (directory / "host_key").read_text(),
            "etc/ssh/ssh_host_ed25519_key.pub": _public(directory / "host_key"),
        }

    def _plug_in(self, host: str) -> None:
        namespace, number = self._namespace(host), _number(host)
        if namespace in self._namespaces():
            self._empty(namespace)
            _call("ip", "netns", "delete", namespace)
            self._ip(self._switch, f"link delete {_port(host)}", check=False)
        _call("ip", "netns", "add", namespace)
        first, second = (int(part) for part in self.subnet.split(".")[1:])
        mac = f"02:77:{first:02x}:{second:02x}:00:{number:02x}"
        self._ip(self._switch, f"link add {_port(host)} type veth peer name eth0 address {mac} netns {namespace}")
        self._ip(self._switch, f"link set {_port(host)} master br0", f"link set {_port(host)} up")
        self._ip(namespace, "link set lo up", f"addr add {self.address(host)}/24 dev eth0", "link set eth0 up")

    def _start_docker(self, host: str) -> None:
        for name in ("docker.sock", "dockerd.pid"):
            self.path(host, f"/run/{name}").unlink(missing_ok=True)
        command = (
            "exec setsid dockerd --exec-root /run/docker --pidfile /run/dockerd.pid --host unix:///run/docker.sock"
            " --bridge none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false"
            f" --storage-driver overlay2 --cgroup-parent /{self._namespace(host)} --insecure-registry {self.network}"
        )
        self.run(host, ["sh", "-c", f"({command} </dev/null >/var/log/dockerd.log 2>&1 &)"])
        log = self.path(host, "/var/log/dockerd.log")
        wait(lambda: self._docker_answers(host), 30, lambda: f"the dockerd of {host} did not start: {log.read_text()}")

    def _docker_answers(self, host: str) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(2)
                client.connect(str(self.path(host, "/run/docker.sock")))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(100)
        except OSError:
            return False

    def _host_key(self, host: str) -> str:
        return " ".join(_public(self.root / host / "host_key").split()[:2])

    def _install_host_key(self, host: str, key: Path) -> None:
        self.path(host, "/etc/ssh/ssh_host_ed25519_key").write_bytes(key.read_bytes())
        self.path(host, "/etc/ssh/ssh_host_ed25519_key.pub").write_text(_public(key))
        self.run(host, ["pkill", "-HUP", "-o", "-x", "sshd"])
        wanted = " ".join(_public(key).split()[:2])
        scan = ["ssh-keyscan", "-T", "2", "-t", "ed25519", self.address(host)]
        wait(
            lambda: wanted in subprocess.run(scan, capture_output=True, text=True).stdout,
            10,
            lambda: f"sshd of {host} does not show its new key",
        )

    # --- mending

    def _mend(self, fault: tuple[str, ...]) -> None:
        self._faults.discard(fault)
        kind, host, *others = fault
        if not self.is_up(host):
            return
        match kind:
            case "cut":
                self._ip(self._switch, f"link set {_port(host)} up")
                wait(lambda: self._greets(host), 10, lambda: f"{host} is not back")
            case "partition":
                for here, there in ((host, others[0]), (others[0], host)):
                    if self.is_up(here):
                        self._iptables(here, "-D", there)
            case "slow":
                self._remove_wire(host)
                for namespace, interface in ((self._switch, _port(host)), (self._namespace(host), "eth0")):
                    _call("tc", "-n", namespace, "qdisc", "delete", "dev", interface, "root", check=False)
            case "key":
                self._install_host_key(host, self.root / host / "host_key")
            case "gpus":
                self.path(host, "/usr/local/bin/nvidia-smi").unlink(missing_ok=True)

    def _lay_wire(self, host: str, delay_ms: float, loss: float) -> None:
        number = _number(host)
        self._ip(
            self._switch,
            f"link add w{number} type veth peer name x{number}",
            f"link set {_port(host)} nomaster",
            f"link set w{number} master br0",
            f"link set w{number} up",
            f"link set x{number} up",
        )
        for namespace, interface in ((self._switch, f"w{number}"), (self._namespace(host), "eth0")):
            _call(*_in(namespace), *WIRE, "offload", interface, "0")
        words = [*_in(self._switch), *WIRE, _port(host), f"x{number}", str(delay_ms), str(loss)]
        self._wires[host] = subprocess.Popen(words, stdin=subprocess.DEVNULL, env={"PATH": PATH})

    def _remove_wire(self, host: str) -> None:
        wire = self._wires.pop(host, None)
        if wire is not None:
            wire.kill()
            wire.wait()
            self._ip(self._switch, f"link delete w{_number(host)}")
            if self.is_up(host):
                _call(*_in(self._namespace(host)), *WIRE, "offload", "eth0", "1")
                self._ip(self._switch, f"link set {_port(host)} master br0")

    def _iptables(self, host: str, verb: str, other: str) -> None:
        _call(*_in(self._namespace(host)), "iptables", "-w", verb, "INPUT", "-s", self.address(other), "-j", "DROP")

    def _end_processes(self, host: str) -> None:
        shims = host in self.dockers and not self._docker_answers(host)
        for pid, command in self.processes(host):
            session = command.startswith("sshd:") and "[listener]" not in command
            orphan = shims and "containerd-shim" in command
            if pid != 1 and (session or orphan or not _DAEMONS.match(_program(command))):
                self.run(host, ["kill", "-KILL", str(pid)], check=False)

    # --- looking

    def _namespace(self, host: str) -> str:
        return f"{self._switch}-{host}"

    def _namespaces(self) -> list[str]:
        names = re.compile(re.escape(self._switch) + r"(-h\d+)?")
        place = Path("/run/netns")
        return sorted(path.name for path in place.iterdir() if names.fullmatch(path.name)) if place.is_dir() else []

    def _pid(self, host: str) -> int | None:
        """The first process, if it is still the one that wrote the file."""
        try:
            pid = int((self.root / host / "pid").read_text())
            ours = os.stat(f"/run/netns/{self._namespace(host)}").st_ino
            return pid if os.stat(f"/proc/{pid}/ns/net").st_ino == ours else None
        except (OSError, ValueError):
            return None

    def _greets(self, host: str) -> bool:
        try:
            with socket.create_connection((self.address(host), 22), timeout=1) as client:
                return client.recv(4) == b"SSH-"
        except OSError:
            return False

    def _enter(self, host: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid(host)), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]

    def _empty(self, namespace: str) -> None:
        """Kills whatever runs in a network namespace, and waits until it is gone."""

        def kill() -> bool:
            pids = _call("ip", "netns", "pids", namespace, check=False).stdout.split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            return not pids

        wait(kill, 20, lambda: f"processes of {namespace} do not die")

    def _remove_cgroups(self, host: str) -> None:
        for top in (
            Path("/sys/fs/cgroup").glob(f"**/{self._namespace(host)}")
            if self.root.joinpath(host, "docker").exists()
            else ()
        ):
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def _ip(self, namespace: str, *lines: str, check: bool = True) -> None:
        done = subprocess.run(
            ["ip", "-n", namespace, "-batch", "-"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            env={"PATH": PATH},
        )
        if check and done.returncode != 0:
            raise LabError(f"ip -n {namespace}: {'; '.join(lines)}: {done.stderr}")


def unable() -> str | None:
    """Why this machine can have no hosts, or None."""
    if not sys.platform.startswith("linux"):
        return "the hosts of the lab are made of Linux namespaces"
    if os.geteuid() != 0:
        return "the hosts of the lab need root, to make namespaces"
    lacking = [program for program in _PROGRAMS if not shutil.which(program, path=PATH)]
    return f"the hosts of the lab need {', '.join(lacking)} (`make lab-up` installs them)" if lacking else None


@contextlib.contextmanager
def reserved_subnet() -> Iterator[str]:
    """Finds a subnet that no other process of the machine tests on, and clears away what a killed one left there."""
    _LOCKS.mkdir(exist_ok=True)
    for number in range(256):
        with open(_LOCKS / f"78-{number}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            subnet = f"10.78.{number}"
            _clear_away(subnet)
            yield subnet
            return
    raise LabError("all subnets of the lab are in use")


def clear_away_abandoned() -> None:
    """Removes the hosts of tests that were killed."""
    for lock in _LOCKS.glob("78-*.lock") if _LOCKS.is_dir() else ():
        with open(lock, "w") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear_away(f"10.{lock.stem.replace('-', '.')}")


def _clear_away(subnet: str) -> None:
    owner = Cluster(Path(os.devnull), subnet)._owner()
    if owner is not None:
        Cluster(Path(owner), subnet).down()


def _interpreter() -> list[str]:
    """The base of this interpreter where a host would not see it."""
    base = Path(sys.base_prefix).resolve()
    return [] if base.parts[1] in _SHARED else [str(base)]


def _held(directory: Path) -> Iterator[Path]:
    """The files of a directory that some process has a lock on."""
    if not directory.is_dir():
        return
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield path


def _in(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}"]


def _program(command: str) -> str:
    return Path(command.strip().partition(" ")[0]).name


def _number(host: str) -> int:
    return int(host.removeprefix("h"))


def _port(host: str) -> str:
    return f"p{_number(host)}"


def _public(key: Path) -> str:
    return key.with_name(key.name + ".pub").read_text()


def _keygen(path: Path, comment: str) -> None:
    _remove(path.with_name(path.name + ".pub"))
    _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _call(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": PATH}
    )
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(words)} gave {done.returncode}: {done.stderr}{done.stdout}")
    return done


def wait(done: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise LabError(otherwise())
        time.sleep(0.02)

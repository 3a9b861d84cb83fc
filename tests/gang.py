"""A run of several ranks on the hosts of the lab, while something happens to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Done, Workshop
from tests.lab.hosts import Cluster

LOST_AFTER = 3
GO = "/root/go"
WAITS = f"""\
import os, pathlib, sys, time
rank = os.environ["RANK"]
pathlib.Path("outputs", "part-" + rank).write_text("half")
print("ready", rank)
while not os.path.exists("{GO}"):
    time.sleep(0.02)
print("done", rank)
"""
"""Every rank writes a part of its outputs, says so, and waits for `Stage.go`."""

COUNTS = f"""\
import os, time
print("ready", os.environ["RANK"])
number = 0
while not os.path.exists("{GO}"):
    print("line", number)
    number += 1
    time.sleep(0.002)
"""
"""Every rank writes numbered lines."""
TALKS = f"""\
import os, socket, sys, time
rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank:
    for _ in range(500):
        try:
            peers = [socket.create_connection(address)]
            break
        except OSError:
            time.sleep(0.02)
else:
    listener = socket.create_server(address)
    peers = [listener.accept()[0] for _ in range(int(os.environ["WORLD_SIZE"]) - 1)]
print("ready", rank)
while not os.path.exists("{GO}"):
    for peer in peers:
        peer.sendall(b"x")
        peer.settimeout(1)
        if not peer.recv(1):
            sys.exit("the connection to a peer ended")
    time.sleep(0.02)
print("done", rank)
"""
"""The ranks talk to rank 0 all the time, and fail when it, or one of them, is silent for a second."""
DAEMONISES = f"""\
import os, signal, subprocess, sys, time
rank = os.environ["RANK"]
print("ready", rank)
if rank == "1":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:  # a daemon as the book has it
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        time.sleep(600)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    os.makedirs("/dev/shm/repro-" + os.environ["REPRO_TOKEN"])
    print("daemonised")
while not os.path.exists("{GO}"):
    time.sleep(0.02)
"""
"""Rank 1 ignores TERM, and so does the daemon that it leaves behind, besides a child in another session."""


class Client:
    """A `repro` of its own, whose words are kept in files: whoever reads them or not, it never waits."""

    def __init__(
        self, words: tuple[str, ...], cwd: Path, directory: Path, before: str, environment: dict[str, str]
    ) -> None:
        self._out, self._err = directory / "out", directory / "err"
        directory.mkdir(parents=True)
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\nfrom repro_est.cli.main import main\nexit(main())", *words],
                cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._err.read_bytes().decode("utf-8", "replace")

    def waits_for(self, *texts: str, seconds: float = 20) -> None:
        """Returns when it has said all of that on stderr."""
        until_true(
            lambda: all(text in self.said for text in texts) or self.process.poll() is not None,
            seconds,
            lambda: f"it does not say {texts}: {self.said}",
        )
        assert all(text in self.said for text in texts), f"ended with {self.process.returncode}: {self.said}"

    def ends(self, seconds: float = 30) -> Done:
        self.process.wait(seconds)
        return Done(self.process.returncode, self._out.read_bytes().decode("utf-8", "replace"), self.said)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`, with all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class Stage:
    """A project whose inventory is the lab, with recipes of three nodes."""

    def __init__(self, workshop: Workshop, hosts: Cluster) -> None:
        self.workshop, self.hosts = workshop, hosts
        self.clients: list[Client] = []
        inventory = workshop.root / "inventory.toml"
        text = inventory.read_text().replace("lost_after_seconds = 5", f"lost_after_seconds = {LOST_AFTER}")
        inventory.write_text(text.replace('user = "root"', 'user = "root"\nconnect_seconds = 2\nslots = 2'))
        for host in hosts.hosts:
            hosts.run(host, ["rm", "-rf", GO, "/root/.cache/repro/runs"])  # of a host that an earlier test cut off

    def recipe(
        self,
        script: str = WAITS,
        *,
        nodes: int = 3,
        each: int = 1,
        name: str = "job",
        estimator: str = "",
        more: str = "",
    ) -> str:
        layout = f"node_count = {nodes}\nprocess_count_per_node = {each}\n"
        return self.workshop.recipe(script, more, name=name, estimator=layout + estimator)

    def repro(self, *words: str, before: str = "", **environment: str) -> Client:
        """Starts `repro` as a process of its own.

        Args:
            before: Python that is executed first: to have it die at a certain point.
        """
        place = self.workshop.root.parent / "clients" / str(len(self.clients))
        client = Client(words, self.workshop.root, place, before, environment)
        self.clients.append(client)
        return client

    def started(self, recipe: str, *words: str, ranks: int = 3, **environment: str) -> Client:
        """Starts a run of `WAITS` on the lab; returns when all of its ranks are ready."""
        client = self.repro("run", recipe, "-t", "lab", *words, **environment)
        client.waits_for(*(f"[{rank}] ready {rank}\n" for rank in range(ranks)))
        return client

    def go(self, *hosts: str) -> None:
        """Lets the ranks of these hosts, or of all, end."""
        for host in hosts or self.hosts.hosts:
            if self.hosts.is_up(host):
                self.hosts.path(host, GO).touch()

    def pids(self, host: str, text: str) -> list[int]:
        """The processes of a host with that in their command line, the oldest first."""
        return [pid for pid, command in self.hosts.processes(host) if text in command]

    def rank(self, host: str) -> int:
        """The script on a host with one rank."""
        (pid,) = self.pids(host, "python train.py")
        return pid

    def supervisor(self, host: str) -> int:
        (pid,) = self.pids(host, "supervisor.py --rank")
        return pid

    def daemon(self, host: str) -> tuple[int, int]:
        """Guardian and worker."""
        guardian, worker = self.pids(host, "repro_est.hostside.node")
        return guardian, worker

    def sessions(self, host: str) -> list[int]:
        """The processes of sshd for connections that are open."""
        processes = self.hosts.processes(host)
        return [pid for pid, command in processes if command.startswith("sshd:") and "[listener]" not in command]

    def signal(self, host: str, *pids: int, number: int = signal.SIGKILL) -> None:
        self.hosts.run(host, ["kill", f"-{int(number)}", *map(str, pids)])

    def shown(self) -> Any:
        return self.workshop.repro("show", "@", "--json").json

    def logs(self, rank: int) -> str:
        return self.workshop.repro("logs", "@", "--rank", str(rank), "--stream", "stdout").out

    def kept(self, attempt: int = 1) -> list[str]:
        """The partial outputs of an attempt of the newest run."""
        run = self.shown()["run_hash"]
        return sorted(os.listdir(self.workshop.root / "cache/runs" / run / f"attempts/{attempt}/outputs"))

    def run_directories(self) -> dict[str, list[str]]:
        """The attempts that living hosts still know, by host."""
        found = {}
        for host in self.hosts.hosts:
            place = self.hosts.path(host, "/root/.cache/repro/runs") if self.hosts.is_up(host) else None
            if place is not None and place.is_dir() and (names := sorted(path.name for path in place.iterdir())):
                found[host] = names
        return found

    def unplug(self) -> None:
        """Pulls the cable of this machine: the hosts still hear each other."""
        self._between("-A")

    def plug_in(self) -> None:
        self._between("-D")

    def _between(self, verb: str) -> None:
        for host in self.hosts.hosts:
            self.hosts.run(host, ["iptables", "-w", verb, "INPUT", "-s", self.hosts.gateway, "-j", "DROP"])

    def forget(self, host: str) -> None:
        """Removes what a host has of runs: it was lost to the client, which could not release it."""
        self.hosts.run(host, ["rm", "-rf", "/root/.cache/repro/runs"])

    def close(self) -> None:
        """Ends what the test left; no living host still knows a run."""
        for client in self.clients:
            if client.process.poll() is None:
                client.kill()
        for host in self.hosts.hosts:
            if self.hosts.is_up(host):
                self.hosts.run(host, ["rm", "-f", GO])
        assert self.run_directories() == {}


def until_true(done: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.02)

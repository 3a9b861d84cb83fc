"""A thousand hosts in memory, taken through what the client does with hosts: docs/scale.md counts on these bounds."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.hosts.fake import FakeHost, Process
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.pool import connect_all
from repro_est.hostside.frames import Decoder, Message, encode
from repro_est.hostside.session import MARKER
from repro_est.launch import crew
from repro_est.launch.follow import Follower
from repro_est.launch.streams import Logs

HOSTS = 1000
TOKEN = "0123456789abcdef"
ENDED = {"outcome": "completed", "words": "every rank ended with 0"}


class Silent:
    """Nobody looks."""

    def event(self, kind: str, **facts: object) -> None: ...

    def output(self, stream: str, data: bytes) -> None: ...


class Peak:
    """How many threads there were at most, besides those of the hosts themselves."""

    def __init__(self) -> None:
        self.threads = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            ours = [item for item in threading.enumerate() if not item.name.startswith("node")]
            self.threads = max(self.threads, len(ours))


def answer(number: int, message: Message) -> Iterator[bytes]:
    """What the program of a host says to one message."""
    match message["op"]:
        case "hello":
            yield encode({"ok": True, "time": time.time()})
        case "probe":
            address = {"interface": "eth0", "address": f"10.0.{number // 250}.{number % 250 + 1}", "prefix": 16}
            yield encode({"ok": True, "held": {}, "facts": {"addresses": [address], "cpu_count": 8, "gpus": []}})
        case "start":
            yield encode({"ok": True, "directory": f"/runs/{message['token']}", "ports": [40000], "port": 40001})
        case "begin":
            text = f"hello from {number}\n".encode()
            yield encode({"event": "going"})
            yield encode({"event": "log", "name": str(number), "stream": "stdout", "offset": 0}, text)
            yield encode({"event": "ended", "verdict": ENDED})


def program_of(process: Process) -> int:
    """Is sent its own text first, as the payload of a message, then answers as a host would."""
    decoder, number = Decoder(), int(process.host.removeprefix("node"))
    while data := process.read(1 << 20):
        for message, payload in decoder.feed(data):
            if payload:
                process.write(MARKER)
            else:
                for said in answer(number, message):
                    process.write(said)
    return 0


def fakes(latency: float) -> list[FakeHost]:
    specs = [HostSpec(f"node{number}", python="python3") for number in range(HOSTS)]
    return [FakeHost(spec, {"python3": program_of}, latency=latency) for spec in specs]


def test_a_thousand_hosts_are_connected_probed_and_started_in_bounded_threads_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {host.name: host for host in fakes(latency=0.002)}
    monkeypatch.setattr(crew, "host_of", lambda spec: hosts[spec.name])
    before = threading.active_count()
    tracemalloc.start()
    began = time.monotonic()
    with Peak() as peak:
        mates, errors = crew.muster([host.spec for host in hosts.values()], None)
        started = crew.at_once(lambda mate: mate.session.call("start", token=TOKEN), mates)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(mates), errors, len(started)) == (HOSTS, [], HOSTS)
    assert [mate.address for mate in mates[249:251]] == ["10.0.0.250", "10.0.1.1"], "in the order of the inventory"
    assert peak.threads <= before + 2 * 32 + 2, "the client asks with a limit, however many hosts there are"
    assert memory < HOSTS * 64 * 1024, "what is kept of a host is small"
    assert time.monotonic() - began < 60
    for mate in mates:
        mate.session.close()


def test_a_thousand_hosts_are_followed_to_their_end_by_a_thread_each(tmp_path: Path) -> None:
    hosts = fakes(latency=0.0)
    connect_all(hosts)
    before = threading.active_count()
    logs = Logs(tmp_path)
    follower = Follower(hosts, TOKEN, logs, Silent(), lost_after=30, grace=5)
    with Peak() as peak:
        follower.start()
        for link in follower.links:
            link.begin({})
        verdict = follower.follow()
    files = len(os.listdir("/proc/self/fd"))
    follower.close()
    logs.close()
    assert verdict == ENDED
    assert len(follower.ended) == HOSTS
    assert (tmp_path / "rank-999" / "stdout.log").read_text() == "hello from 999\n"
    assert peak.threads <= before + HOSTS + 2
    assert files < 512, "a process may have 1,024 files open by default"

"""The host in memory behaves as those behind SSH do, and costs little enough to have a thousand of them."""

from __future__ import annotations

import threading
import time

import pytest

from repro_est.hosts.fake import FakeHost, ManualClock, Process
from repro_est.hosts.host import HostError, HostLost
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.pool import connect_all


def echo(process: Process) -> int:
    while data := process.read():
        process.write(data)
    process.complain("done\n")
    return 3


def hang(process: Process) -> int:
    process.write(process.read_line())
    process.read()
    return 0


def test_a_program_gets_its_input_and_gives_output_errors_and_status() -> None:
    host = FakeHost("h1", {"cat": echo})
    done = host.run(["cat"], data=b"in\0put")
    assert (done.code, done.out, done.err) == (3, b"in\0put", "done\n")
    assert host.started == [("cat",)]


def test_a_program_that_is_not_there_ends_as_a_shell_tells_it() -> None:
    done = FakeHost("h1").run(["mpirun"])
    assert (done.code, done.err) == (127, "sh: 1: exec: mpirun: not found\n")


def test_a_cut_is_told_and_the_connection_made_again() -> None:
    host = FakeHost("h1", {"hang": hang, "cat": echo})
    channel = host.spawn(["hang"])
    channel.send(b"hello\n")
    assert channel.receive() == b"hello\n"
    with pytest.raises(TimeoutError):
        channel.wait(0.01)
    host.cut()
    for operation in (channel.receive, channel.wait, lambda: channel.send(b"x")):
        with pytest.raises(HostLost, match="h1: the connection broke"):
            operation()
    assert host.run(["cat"], data=b"again").out == b"again"
    host.switch_off()
    with pytest.raises(HostError, match="did not answer"):
        host.connect()
    host.switch_on()
    host.connect()


def test_a_program_that_takes_too_long_is_given_up() -> None:
    host = FakeHost("h1", {"hang": lambda process: process.clock.wait_until(process.clock.now() + 1) or 0})
    with pytest.raises(HostLost, match=r"did not end within 0\.01 s"):
        host.run(["hang"], timeout=0.01)


def test_failures_come_first_and_one_at_a_time() -> None:
    host = FakeHost("h1", failures=[HostError("h1", "busy")])
    with pytest.raises(HostError, match="busy"):
        host.connect()
    host.connect()


def test_latency_passes_on_its_clock_only() -> None:
    clock = ManualClock()
    host = FakeHost("h1", {"cat": echo}, latency=10.0, clock=clock)
    before = time.monotonic()
    host.run(["cat"], data=b"x")
    assert clock.now() == 80.0, "six ways to connect, one there, one back"
    assert time.monotonic() - before < 5


def test_a_thousand_idle_hosts_need_no_threads() -> None:
    clock = ManualClock()
    before = threading.active_count()
    hosts = [FakeHost(f"h{number}", latency=0.05, clock=clock) for number in range(1000)]
    found = connect_all(hosts)
    assert all(found[host.name] is host for host in hosts)
    assert list(found) == [host.name for host in hosts]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


class CountedHost(FakeHost):
    """Counts how many of its kind are being connected at once."""

    now = 0
    most = 0
    lock = threading.Lock()

    def connect(self) -> None:
        cls = type(self)
        with cls.lock:
            cls.now += 1
            cls.most = max(cls.most, cls.now)
        time.sleep(0.01)
        super().connect()
        with cls.lock:
            cls.now -= 1


@pytest.mark.parametrize(("gateway", "most"), [(None, 16), (HostSpec("gate"), 4)])
def test_connections_that_are_made_at_once_are_limited(gateway: HostSpec | None, most: int) -> None:
    kind = type("Kind", (CountedHost,), {"now": 0, "most": 0})
    hosts = [kind(HostSpec(f"h{number}", gateway=gateway)) for number in range(40)]
    connect_all(hosts, limit=16, per_gateway=4)
    assert 1 < kind.most <= most


def test_a_host_that_fails_does_not_harm_the_others() -> None:
    hosts = [FakeHost("h1"), FakeHost("h2", failures=[HostError("h2", "busy")]), FakeHost("h3")]
    found = connect_all(hosts)
    assert found["h1"] is hosts[0]
    assert found["h3"] is hosts[2]
    assert isinstance(found["h2"], HostError)

"""Leases in a remote: one executes, the others wait, and a dead owner is replaced by one of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import RunHash
from repro_est.share.directory import DirectoryRemote
from repro_est.share.lease import RemoteLease

RUN = RunHash("0" * 32)


class Listener:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **facts: Any) -> None:
        self.events.append((kind, facts))

    def output(self, stream: str, data: bytes) -> None:
        pass


@pytest.fixture
def remote(tmp_path: Path) -> DirectoryRemote:
    (tmp_path / "shared").mkdir()
    return DirectoryRemote("team", tmp_path / "shared")


def test_of_a_hundred_who_ask_one_executes(remote: DirectoryRemote) -> None:
    executed, at_once, most, served = list[int](), 0, 0, 0
    lock = threading.Lock()

    def ask(number: int) -> None:
        nonlocal at_once, most, served
        with RemoteLease(remote, RUN, Listener(), poll=0.05).hold():
            with lock:
                at_once += 1
                most = max(most, at_once)
            if not remote.exists(["runs/made"]):
                executed.append(number)
                remote.create("runs/made", b"")
            with lock:
                at_once, served = at_once - 1, served + 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(executed) == 1
    assert most == 1
    assert served == 100
    assert list(remote.below(f"leases/{RUN}/")) == []


def test_an_owner_that_lives_is_waited_for(remote: DirectoryRemote) -> None:
    listener, order = Listener(), list[str]()

    def second() -> None:
        with RemoteLease(remote, RUN, listener, patience=0.4, poll=0.02).hold():
            order.append("second")

    with RemoteLease(remote, RUN, Listener(), beat=0.05).hold():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.2)  # three times its patience
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert [kind for kind, _ in listener.events] == ["waiting"]
    assert "pid" in listener.events[0][1]["owner"]


def test_a_dead_owner_is_replaced_with_the_reason_whatever_its_clock_said(remote: DirectoryRemote) -> None:
    remote.create(f"leases/{RUN}/3", b'{"owner": "eve", "host": "gone", "pid": 7, "token": "x", "beat": 9}')
    listener = Listener()
    with RemoteLease(remote, RUN, listener, patience=0.2, poll=0.02).hold():
        assert [item.name for item in remote.below(f"leases/{RUN}/")] == [f"leases/{RUN}/4"]
    assert "taken over from eve@gone (pid 7)" in listener.events[-1][1]["message"]


def test_of_many_who_wait_for_a_dead_owner_one_takes_over_at_a_time(remote: DirectoryRemote) -> None:
    remote.create(f"leases/{RUN}/1", b"torn")
    at_once, most, held = 0, 0, 0
    lock = threading.Lock()

    def ask() -> None:
        nonlocal at_once, most, held
        with RemoteLease(remote, RUN, Listener(), patience=0.5, beat=0.05, poll=0.02).hold():
            with lock:
                at_once += 1
                most, held = max(most, at_once), held + 1
            time.sleep(0.02)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most, held) == (1, 12)

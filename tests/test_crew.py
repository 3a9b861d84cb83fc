"""The hosts of a run, spoken to at once: who answers, where the others reach it, what it has for ranks."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from repro_est.errors import InfrastructureError, UsageError
from repro_est.hosts.host import HostError
from repro_est.hosts.inventory import HostSpec, TargetSpec
from repro_est.hosts.local import LocalHost
from repro_est.hosts.session import Session
from repro_est.launch.crew import Mate, at_once, chosen, internal_address, muster, together
from repro_est.launch.wishes import Wishes


def test_calls_are_made_at_once_and_answers_stand_in_order() -> None:
    barrier = threading.Barrier(8)
    assert at_once(lambda number: (barrier.wait(10), number)[1], range(8)) == list(range(8))
    assert at_once(str, []) == []


def test_an_error_is_raised_when_all_have_ended() -> None:
    ended = []

    def call(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(ValueError, match="first"):
        at_once(call, [0, 1, 2])
    assert sorted(ended) == [1, 2]


def test_hosts_that_answer_are_mates_and_the_others_are_told(tmp_path: Path) -> None:
    specs = [
        HostSpec("good", store=str(tmp_path / "a"), is_local=True),
        HostSpec("bad", store=str(tmp_path / "b"), is_local=True, python="/nowhere/python"),
    ]
    mates, errors = muster(specs, None)
    try:
        assert [mate.name for mate in mates] == ["good"]
        assert (mates[0].address, mates[0].network, abs(mates[0].skew) < 5) == ("127.0.0.1", "127.0.0.0/8", True)
        assert "bad: /nowhere/python" in errors[0].message
    finally:
        for mate in mates:
            mate.session.close()


def test_several_errors_are_told_as_one() -> None:
    one, two = HostError("h1", "no"), InfrastructureError("h2: never", hint="try again")
    assert together([one]) is one
    assert (together([one, two]).message, together([one, two]).hint) == ("h1: no\nh2: never", "try again")


FACTS: dict[str, Any] = {
    "cpu_count": 8,
    "addresses": [{"interface": "eth0", "address": "10.0.0.5", "prefix": 24}],
    "gpus": [
        {"index": 0, "uuid": "GPU-a", "name": "A", "memory": 80},
        {"index": 1, "uuid": "GPU-b", "name": "A", "memory": 80},
    ],
}


def mate(spec: HostSpec, held: dict[str, str]) -> Mate:
    return Mate(Session(LocalHost(spec)), FACTS, held, "10.0.0.5", "eth0", "10.0.0.0/24")


def test_a_host_offers_what_nobody_has() -> None:
    offer = mate(HostSpec("h1", slots=4), {"slot-0": "ada", "slot-1": "ada", "gpu-GPU-b": "ada"}).offer()
    assert (offer.slots, offer.free_slots) == (4, 2)
    assert [(device.id, device.busy) for device in offer.gpus] == [("GPU-a", ""), ("GPU-b", "ada")]


def test_a_host_without_a_number_of_slots_has_one_for_each_cpu() -> None:
    assert mate(HostSpec("h1"), {}).offer().slots == 8


def test_only_gpus_of_the_inventory_are_used() -> None:
    devices = mate(HostSpec("h1", gpus=({"uuid": "GPU-b"},)), {}).offer().gpus
    assert [(device.id, device.index) for device in devices] == [("GPU-b", 1)]


def test_others_reach_a_host_where_it_has_an_address() -> None:
    assert internal_address(HostSpec("h1", address="10.0.0.5"), FACTS, "eth0") == ("10.0.0.5", "eth0", "10.0.0.0/24")
    with pytest.raises(UsageError, match=r"h1: has no address on ib0, it has eth0 10.0.0.5"):
        internal_address(HostSpec("h1", address="10.0.0.5"), FACTS, "ib0")


def test_hosts_are_chosen_in_the_order_they_are_named() -> None:
    target = TargetSpec("lab", (HostSpec("h1"), HostSpec("h2"), HostSpec("h3")))
    assert [spec.name for spec in chosen(target, Wishes(hosts=("h3", "h1")))] == ["h3", "h1"]
    assert chosen(target, Wishes()) == target.hosts
    with pytest.raises(UsageError, match="--hosts: h9 not in the target lab, which has h1, h2, h3"):
        chosen(target, Wishes(hosts=("h9",)))


def test_a_gpu_that_is_only_in_the_inventory_is_none() -> None:
    spec = HostSpec("h1", gpus=({"uuid": "GPU-of-another-host", "index": 7},))
    assert mate(spec, {}).offer().gpus == ()

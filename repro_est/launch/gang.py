"""A run of several ranks, on this machine or on the hosts of an inventory: all ranks or none.

    muster      connect to the hosts and ask what they have
    place       which rank is where, with which devices; wait while others have them
    start       a daemon on each host takes the GPUs and slots (`hostside.node`)
    deliver     environment, source and inputs: what a host lacks
    begin       the daemons start the ranks, which say what they are about to execute; if all agree, they start
    follow      from here on the run belongs to the hosts
    gather      outputs and logs of all, then the hosts forget it

One code path for one machine and for a hundred: this machine is a host whose commands need no SSH, and whose source,
environment and inputs are where they are already.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro_est.console import counted
from repro_est.errors import Detached, InfrastructureError
from repro_est.hosts.inventory import TargetSpec
from repro_est.launch.allocation import Allocation
from repro_est.launch.ending import gather, outcome_of, release
from repro_est.launch.follow import Follower
from repro_est.launch.handle import Handle, remove_handle, write_handle
from repro_est.launch.orders import GRACE_SECONDS, Orders
from repro_est.launch.process import Outcome
from repro_est.launch.provision import Provision
from repro_est.launch.streams import Logs, Prefixed
from repro_est.launch.wishes import Wishes
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.outputs import LOGS
from repro_est.plan import Plan
from repro_est.project import Project
from repro_est.store.store import Store
from repro_est.targets.stage import Workplace


class Gang:
    """One attempt of a run of several ranks.

    Args:
        attempt: its directory in the store.
        work: an empty directory for what lives as long as this process.
    """

    survives = True

    def __init__(
        self,
        plan: Plan,
        lock: Lock,
        target: TargetSpec,
        store: Store,
        observer: Observer,
        project: Project,
        secrets: Mapping[str, str],
        wishes: Wishes,
        *,
        attempt: Path,
        work: Path,
    ) -> None:
        self._plan, self._target, self._observer = plan, target, observer
        self._secrets, self._wishes, self._attempt, self._work = secrets, wishes, attempt, work
        self._token = os.urandom(8).hex()
        self._allocation = Allocation(plan, target, wishes, self._token, observer)
        self._provision = Provision(plan, lock, target, self._token, store, observer, project, work)
        self._handle: Handle | None = None
        self._follower: Follower | None = None
        self._facts: dict[str, Any] = {"layout": str(plan.layout)}

    def facts(self) -> Mapping[str, Any]:
        return {**self._facts, **self._provision.facts}

    def prepare(self) -> None:
        """Finds hosts with room, takes it, and brings the environment there."""
        self._allocation.take()
        berths = self._allocation.berths
        self._facts["hosts"] = [berth.to_json() for berth in berths]
        self._follower = Follower(
            [berth.mate.session.host for berth in berths],
            self._token,
            Logs(self._attempt / LOGS, Prefixed(self._observer.output, only=self._wishes.shown)),
            self._observer,
            lost_after=self._target.lost_after_seconds,
            grace=GRACE_SECONDS,
        )
        self._follower.start()
        self._provision.bring_environment(berths)

    def stage(self) -> None:
        """Brings source and inputs to every host."""
        self._provision.bring_source(self._allocation.berths)
        self._provision.bring_inputs(self._allocation.berths)

    def run(self) -> Outcome:
        """Starts the ranks and follows them to the end.

        Raises:
            Detached: the user wants to leave; the run goes on.
        """
        assert self._follower is not None
        berths = self._allocation.berths
        orders = Orders(self._plan, self._target, self._token, berths, self._allocation.placement, self._secrets)
        configs = orders.all()
        self._facts |= orders.facts
        self._handle = self._make_handle()
        write_handle(self._attempt, self._handle)
        self._provision.close()
        for berth in berths:  # the run needs no session; one that is asked for later is made anew
            berth.mate.session.close()
        names = ", ".join(berth.mate.name for berth in berths)
        self._observer.event("placed", words=f"{counted(self._handle.world_size, 'rank')} on {names}")
        for link, config in zip(self._follower.links, configs, strict=True):
            link.begin(config)
        verdict = self._follower.follow(until_going=self._wishes.detach)
        if verdict is None:
            self._follower.close()
            raise Detached(
                f"run {self._plan.hash[:12]}: {counted(self._handle.world_size, 'rank')} on {names}",
                hint=f"repro attach {self._plan.hash[:12]}; repro logs -f {self._plan.hash[:12]}",
            )
        return outcome_of(verdict, self._follower.ended, self._handle)

    def gather(self) -> tuple[Workplace, list[str]]:
        """Brings outputs and logs here; returns where they are, and what could not be kept."""
        assert self._follower is not None
        assert self._handle is not None
        self._follower.close()
        sessions = {number: berth.mate.session for number, berth in enumerate(self._allocation.berths)}
        follower = self._follower
        return gather(self._plan, self._handle, sessions, follower.verdict, follower.ended, self._attempt, self._work)

    def release(self) -> None:
        """Has the hosts forget the run, after what they had of it is here."""
        if self._handle is not None and self._follower is not None:
            berths = [self._allocation.berths[number] for number in self._follower.ended]
            release(self._handle, [berth.mate.session for berth in berths], self._attempt)

    def close(self, *, abandon: bool) -> None:
        """Ends all connections.

        Args:
            abandon: the run has not started, or must not go on: the hosts end what they have.
        """
        if self._follower is not None:
            if abandon:
                self._follower.stop("given up before it started", 0.0)
                self._wait_until_gone()
            self._follower.close()
        self._provision.close()
        for berth in self._allocation.berths:
            if abandon:
                with contextlib.suppress(InfrastructureError):
                    berth.mate.session.call("release", token=self._token)
            berth.mate.session.close()
            berth.mate.session.host.close()
        if abandon:
            remove_handle(self._attempt)

    def _wait_until_gone(self) -> None:
        until = time.monotonic() + 10
        for berth in self._allocation.berths:
            with contextlib.suppress(InfrastructureError):
                while time.monotonic() < until and berth.mate.session.call("status", token=self._token)["alive"]:
                    time.sleep(0.05)

    def _make_handle(self) -> Handle:
        members = tuple(berth.member(berth.ranks) for berth in self._allocation.berths)
        lost_after, commit = self._target.lost_after_seconds, self._wishes.commit
        return Handle(self._token, self._target.name, lost_after, members, self.facts(), commit)

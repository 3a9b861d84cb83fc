"""An attempt that is at its hosts, followed again by whoever comes next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro_est.errors import Detached
from repro_est.hosts.pool import host_of
from repro_est.hosts.session import Session
from repro_est.launch.ending import gather, outcome_of, release
from repro_est.launch.follow import Follower
from repro_est.launch.handle import Handle
from repro_est.launch.orders import GRACE_SECONDS
from repro_est.launch.process import Outcome
from repro_est.launch.streams import Logs, Prefixed
from repro_est.launch.wishes import Wishes
from repro_est.observer import Observer
from repro_est.outputs import LOGS
from repro_est.plan import Plan
from repro_est.targets.stage import Workplace

_PATIENCE_SECONDS = 300.0


class Attached:
    """An attempt that is at its hosts, taken up again by whoever comes next.

    Args:
        cancel: it is to end.
    """

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        wishes: Wishes,
        *,
        attempt: Path,
        work: Path,
        handle: Handle,
        cancel: bool,
    ) -> None:
        self._plan, self._handle, self._observer, self._wishes = plan, handle, observer, wishes
        self._attempt, self._work, self._cancel = attempt, work, cancel
        self._sessions: dict[int, Session] = {}

    survives = True

    def facts(self) -> Mapping[str, Any]:
        return self._handle.facts

    def prepare(self) -> None:
        logs = Logs(self._attempt / LOGS, Prefixed(self._observer.output, only=self._wishes.shown))
        self._follower = Follower(
            [host_of(member.spec) for member in self._handle.members],
            self._handle.token,
            logs,
            self._observer,
            lost_after=self._handle.lost_after,
            grace=GRACE_SECONDS,
            begun=True,
            patience=self._handle.lost_after + 5 if self._cancel else _PATIENCE_SECONDS,
        )

    def stage(self) -> None:
        if self._cancel:
            self._follower.stop("cancelled by the user")
        self._follower.start()

    def run(self) -> Outcome:
        verdict = self._follower.follow(until_going=self._wishes.detach)
        if verdict is None:
            names = ", ".join(member.spec.name for member in self._handle.members)
            raise Detached(
                f"run {self._plan.hash[:12]}: goes on already, on {names}", hint=f"repro attach {self._plan.hash[:12]}"
            )
        return outcome_of(verdict, self._follower.ended, self._handle)

    def gather(self) -> tuple[Workplace, list[str]]:
        self._follower.close()
        hosts = [link.host for link in self._follower.links]
        self._sessions = {number: Session(host) for number, host in enumerate(hosts)}
        follower = self._follower
        return gather(
            self._plan, self._handle, self._sessions, follower.verdict, follower.ended, self._attempt, self._work
        )

    def release(self) -> None:
        release(self._handle, [self._sessions[number] for number in self._follower.ended], self._attempt)

    def close(self, *, abandon: bool) -> None:
        self._follower.close()
        for link in self._follower.links:
            link.host.close()

"""Room for a run on hosts: which of them, and on each its slots and GPUs, all or nothing; others are waited for."""

from __future__ import annotations

import contextlib
import getpass
import socket
import time
from collections.abc import Sequence
from typing import Any

from repro_est.errors import InfrastructureError
from repro_est.hosts.inventory import TargetSpec
from repro_est.hosts.session import Bridge, RequestFailed
from repro_est.launch.berth import Berth
from repro_est.launch.crew import Mate, at_once, chosen, muster, together
from repro_est.launch.wishes import Wishes
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.targets.placement import Busy, Placement, place

_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)


class Allocation:
    """The hosts of one run, each with a daemon that holds what was taken there.

    Args:
        token: what the hosts call the attempt.
    """

    def __init__(self, plan: Plan, target: TargetSpec, wishes: Wishes, token: str, observer: Observer) -> None:
        self._plan, self._target, self._wishes, self._token = plan, target, wishes, token
        self._observer = observer
        self.berths: list[Berth] = []
        self.placement = Placement(plan.layout, ())

    def take(self) -> None:
        """Takes the room.

        Raises:
            HostError: too few hosts can be reached.
            Impossible: these hosts can never hold the run.
        """
        mates = self._muster()
        try:
            self._start(mates)
        except BaseException:
            for mate in mates:
                mate.session.close()
                mate.session.host.close()
            raise

    @property
    def _is_local(self) -> bool:
        return self._target.is_local

    def _muster(self) -> list[Mate]:
        mates, errors = muster(chosen(self._target, self._wishes), self._target.interface)
        needed = 1 if self._is_local else self._plan.layout.node_count
        if errors and len(mates) < needed:
            for mate in mates:
                mate.session.host.close()
            raise together(errors)
        for error in errors:
            self._observer.event("warning", message=f"{error.message}; the run goes without it")
        if self._target.runtime == "docker":
            self._require_docker(mates)
        return mates

    def _require_docker(self, mates: Sequence[Mate]) -> None:
        for mate in list(mates):
            docker = mate.facts.get("docker") or {}
            if not docker.get("version"):
                raise InfrastructureError(
                    f"{mate.name}: no Docker: {docker.get('error') or 'the docker program is not there'}",
                    hint='install Docker there, or runtime = "process" in the target',
                )

    def _start(self, mates: list[Mate]) -> None:
        """Places the ranks and takes the room on their hosts; waits while others have it."""
        layout, said = self._plan.layout, ""
        for attempt in range(1 << 30):
            try:
                placement = place(
                    layout, [mate.offer() for mate in mates], use_gpu=self._plan.use_gpu, pack=self._is_local
                )
                self._take(mates, placement)
                return
            except Busy as error:
                if error.message != said:
                    said = error.message
                    self._observer.event("queued", reason=said)
            time.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            for mate in mates:
                mate.held = mate.session.call("held")["held"]

    def _take(self, mates: list[Mate], placement: Placement) -> None:
        by_name = {mate.name: mate for mate in mates}
        berths = [Berth(by_name[host], placement.shares_on(host)) for host in placement.hosts]
        errors: list[RequestFailed] = []

        def start(numbered: tuple[int, Berth]) -> None:
            number, berth = numbered
            try:
                answer = self._start_daemon(number, berth)
            except RequestFailed as error:
                errors.append(error)
                return
            berth.directory, berth.ports = answer["directory"], tuple(answer["ports"])
            berth.mesh_port = answer.get("port", 0)

        at_once(start, list(enumerate(berths)))
        if errors:
            for berth in berths:
                if berth.directory:
                    self._undo(berth)
            busy = [error for error in errors if "busy" in error.facts]
            if len(busy) < len(errors):
                raise next(error for error in errors if error not in busy)
            raise Busy(
                "\n".join(
                    f"{error.host}: {name} is held by {who or 'somebody'}"
                    for error in busy
                    for name, who in error.facts["busy"].items()
                )
            )
        self.berths, self.placement = berths, placement
        for mate in mates:
            if mate.name not in placement.hosts:
                mate.session.close()
                mate.session.host.close()

    def _start_daemon(self, number: int, berth: Berth) -> dict[str, Any]:
        user = f"{getpass.getuser()}@{socket.gethostname()}"
        answer: dict[str, Any] = berth.mate.session.call(
            "start",
            token=self._token,
            name=berth.mate.name,
            head=number == 0,
            address=berth.mate.address,
            ports=1 + len(berth.ranks),
            gpus=[device.id for device in berth.devices],
            slots=0 if self._is_local else len(berth.ranks),
            total_slots=berth.mate.slots,
            owner=f"{user}, run {self._plan.hash[:12]}",
            about={
                "run_hash": self._plan.hash,
                "name": self._plan.recorded.name,
                "owner": user,
                "started": time.time(),
                "ranks": [rank.rank for rank in berth.ranks],
                "docker": self._target.runtime == "docker",
            },
        )
        return answer

    def _undo(self, berth: Berth) -> None:
        """Gives back what one host gave while another one had nothing."""
        with contextlib.suppress(InfrastructureError):
            bridge = Bridge(berth.mate.session.host, self._token)
            bridge.open()
            bridge.say(op="stop", reason="another host is busy", grace=0)
            for message, _ in bridge.messages():
                if message.get("event") == "ended":
                    break
            bridge.close()
            berth.mate.session.call("release", token=self._token)

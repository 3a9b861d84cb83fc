"""The hosts of a run, all spoken to at once: connected, probed, and turned into what placement can choose from."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from repro_est.errors import InfrastructureError, ReproError, UsageError
from repro_est.hosts.host import Host
from repro_est.hosts.inventory import HostSpec, TargetSpec
from repro_est.hosts.pool import connect_all, host_of
from repro_est.hosts.session import Session
from repro_est.hosts.survey import seen_address
from repro_est.launch.wishes import Wishes
from repro_est.plan import Plan
from repro_est.targets.placement import Device, Offer, Placement, place

_AT_ONCE = 32
_MANY = 1 << 16
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(slots=True)
class Mate:
    """One host with an open session and what it says of itself.

    Args:
        address, interface, network: where the other hosts reach it: address, name of the interface, CIDR.
        held: leases of GPUs and slots that somebody has, with who.
        skew: seconds its clock is ahead of ours.
        alias: what it is called, where that is not the name of the host the session is with.
    """

    session: Session
    facts: Mapping[str, Any]
    held: Mapping[str, str]
    address: str
    interface: str
    network: str
    skew: float = 0.0
    alias: str = ""

    @property
    def name(self) -> str:
        return self.alias or self.session.name

    @property
    def spec(self) -> HostSpec:
        return self.session.host.spec

    @property
    def slots(self) -> int:
        return self.spec.slots or max(1, int(self.facts.get("cpu_count") or 1))

    def offer(self) -> Offer:
        """What this host has for ranks."""
        holders = [who for name, who in self.held.items() if name.startswith("slot-")]
        free = max(0, self.slots - len(holders))
        if self.spec.is_local:  # ranks of a local run share what there is, as any program here
            return Offer(self.name, self.address, _MANY, _MANY, tuple(self._devices()))
        devices = tuple(self._devices())
        return Offer(self.name, self.address, self.slots, free, devices, tuple(dict.fromkeys(holders)))

    def _listed(self) -> list[Mapping[str, Any]]:
        present = {int(gpu["index"]): gpu for gpu in self.facts.get("gpus") or ()}
        by_uuid = {gpu.get("uuid"): gpu for gpu in present.values()}
        listed: list[Mapping[str, Any]] = []
        for number, gpu in enumerate(self.spec.gpus or ()):
            real = by_uuid.get(gpu.get("uuid")) or present.get(int(gpu.get("index", number)), {})
            if not real and not self.facts.get("amd"):
                continue  # the inventory lists what is not there, as `repro hosts` says; AMD's are not looked for
            given = {"index": number, "name": gpu.get("model", "GPU"), "memory": gpu.get("memory_mb")}
            listed.append({**given, **real, **{key: gpu[key] for key in ("index", "uuid") if key in gpu}})
        return listed

    def _devices(self) -> list[Device]:
        """Its GPUs: those the inventory lists, else those it has."""
        found: list[Device] = []
        for gpu in self._listed() if self.spec.gpus is not None else self.facts.get("gpus") or ():
            for identity in gpu.get("mig") or [gpu.get("uuid") or str(gpu["index"])]:
                busy = self.held.get(f"gpu-{identity}", "")
                found.append(Device(identity, int(gpu["index"]), str(gpu["name"]), int(gpu.get("memory") or 0), busy))
        return found


def at_once(call: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Calls for every item in parallel threads, with a limit; the first error is raised when all have ended."""
    if not items:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
        futures = [pool.submit(call, item) for item in items]
    return [future.result() for future in futures]


def muster(specs: Sequence[HostSpec], interface: str | None) -> tuple[list[Mate], list[InfrastructureError]]:
    """Connects to hosts and probes them, all at once; returns those that answer, and why the others do not."""
    hosts = [host_of(spec) for spec in specs]
    connected = connect_all(hosts)

    def ask(host: Host) -> Mate | InfrastructureError:
        error = connected[host.name]
        if isinstance(error, InfrastructureError):
            return error
        try:
            return mate_of(host, interface)
        except InfrastructureError as failure:
            return failure

    try:
        answers = at_once(ask, hosts)
    except BaseException:
        for host in hosts:
            host.close()
        raise
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, InfrastructureError):
            host.close()
    mates = [answer for answer in answers if isinstance(answer, Mate)]
    return mates, [answer for answer in answers if isinstance(answer, InfrastructureError)]


def together(errors: Sequence[ReproError]) -> ReproError:
    """Returns one error that says what several say."""
    if len(errors) == 1:
        return errors[0]
    text = "\n".join(error.message for error in errors)
    return InfrastructureError(text, hint=next((error.hint for error in errors if error.hint), None))


def mate_of(host: Host, interface: str | None) -> Mate:
    """Opens the session of a connected host and asks what it is."""
    session = Session(host)
    session.open()
    before = time.time()
    hello = session.call("hello")
    skew = float(hello["time"]) - (before + time.time()) / 2
    answer = session.call("probe")
    facts = answer["facts"]
    address, name, network = internal_address(host.spec, facts, interface)
    return Mate(session, facts, answer["held"], address, name, network, round(skew, 3))


def internal_address(spec: HostSpec, facts: Mapping[str, Any], interface: str | None) -> tuple[str, str, str]:
    """Returns where other hosts reach this one: address, name of its interface, network.

    Args:
        interface: of the target: a network, the name of an interface, or None.

    Raises:
        UsageError: the host has no such address.
    """
    if spec.is_local:
        return "127.0.0.1", "lo", "127.0.0.0/8"
    address = seen_address(spec, facts, interface)
    if address is None:
        have = ", ".join(f"{item['interface']} {item['address']}" for item in facts.get("addresses") or ()) or "none"
        which = f"on {interface}" if interface else "that others could reach"
        raise UsageError(
            f"{spec.name}: has no address {which}, it has {have}",
            hint="`interface` of the target in the inventory: a network, or the name of an interface",
        )
    item = next((item for item in facts.get("addresses") or () if item["address"] == address), None)
    if item is None:  # translated on its way: only the inventory knows it
        return address, "", interface if interface and "/" in interface else ""
    network = str(ipaddress.ip_interface(f"{address}/{item['prefix']}").network)
    return address, str(item["interface"]), interface if interface and "/" in interface else network


def chosen(target: TargetSpec, wishes: Wishes) -> tuple[HostSpec, ...]:
    """Returns the hosts of a target that may be used.

    Raises:
        UsageError: `--hosts` names another one.
    """
    if not wishes.hosts:
        return target.hosts
    known = {spec.name: spec for spec in target.hosts}
    unknown = [name for name in wishes.hosts if name not in known]
    if unknown:
        raise UsageError(f"--hosts: {', '.join(unknown)} not in the target {target.name}, which has {', '.join(known)}")
    return tuple(known[name] for name in wishes.hosts)


def placement_of(plan: Plan, target: TargetSpec, wishes: Wishes) -> Placement:
    """Returns which rank would run where now; takes nothing."""
    mates, errors = muster(chosen(target, wishes), target.interface)
    try:
        if errors:
            raise together(errors)
        return place(plan.layout, [mate.offer() for mate in mates], use_gpu=plan.use_gpu, pack=target.is_local)
    finally:
        for mate in mates:
            mate.session.close()
            mate.session.host.close()

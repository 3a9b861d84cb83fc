"""What the hosts of an inventory are and have, asked of all at once, and what is not well with each.

The program that asks is `repro_est.hostside.probe`, sent over stdin; a host needs sshd and a python3. The clocks are
compared as NTP does, with two times of either side, so that a slow host or network is not taken for a wrong clock.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.hosts.host import Host, HostError
from repro_est.hosts.inventory import HostSpec, TargetSpec
from repro_est.hosts.pool import connect_all, host_of
from repro_est.hostside import probe

_SECONDS = 60.0
_MARKER = "REPRO-PROBE "
_NOTICED_SKEW = 5.0
_USELESS_SKEW = 3600.0
_LOW_SPACE = 2 * 1000**3
_INSIDE_ONLY = ("docker", "br-", "veth", "virbr", "cni", "flannel")
"""How interfaces begin that lead to containers and virtual machines of the host only."""

_BOOT = f"""
import sys
if sys.version_info < (3, 8):
    sys.exit("repro: Python %d.%d" % sys.version_info[:2])
import json, time
began = time.time()
scope = {{"__name__": "probe"}}
exec(compile(sys.stdin.buffer.read().decode("utf-8"), "probe.py", "exec"), scope)
facts = scope["probe"](sys.argv[1])
answer = {{"began": began, "ended": time.time(), "facts": facts}}
print("\\n" + {_MARKER!r} + json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not well with a host.

    Args:
        is_problem: the host cannot be used as it is; else it can, and this should be known.
        remedy: what to do about it.
    """

    is_problem: bool
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What was found out about one host.

    Args:
        state: `ok`, `unreachable`, or `problem`.
        facts: of the probe; empty when there was no answer.
        skew: seconds that its clock is ahead of this one, None when there was no answer.
        address: where the other hosts reach it, None when that is not known.
    """

    spec: HostSpec
    state: str
    facts: Mapping[str, Any]
    skew: float | None
    address: str | None
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "host": self.spec.name,
            "address": self.spec.address or self.spec.name,
            "state": self.state,
            "internal_address": self.address,
            "clock_skew_seconds": self.skew,
            "problems": [
                {"problem": item.what, "remedy": item.remedy, "usable": not item.is_problem} for item in self.findings
            ],
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class Needs:
    """What the targets that name a host ask of it."""

    docker: bool = False
    interfaces: tuple[str, ...] = ()
    has_peers: bool = False


def survey(specs: Sequence[HostSpec], targets: Sequence[TargetSpec]) -> list[Surveyed]:
    """Connects to hosts and probes them, in parallel.

    Args:
        specs: the hosts, with names that differ.
        targets: what they are to be good for.
    """
    hosts = [host_of(spec) for spec in specs]
    connected = connect_all(hosts)
    needs = {spec.name: _needs(spec, targets) for spec in specs}
    try:
        with ThreadPoolExecutor(min(32, max(1, len(hosts)))) as pool:
            found = list(pool.map(lambda host: _surveyed(host, connected[host.name], needs[host.name]), hosts))
    finally:
        for host in hosts:
            host.close()
    return _with_doubles(found)


def ask(host: Host) -> tuple[dict[str, Any], float]:
    """Probes a host; returns the facts, and by how many seconds its clock is ahead.

    Raises:
        HostError: it does not answer, or has no Python that could.
    """
    source = Path(probe.__file__).read_bytes()
    python = host.spec.python
    sent = time.time()
    done = host.run([python, "-I", "-S", "-B", "-c", _BOOT, host.spec.store], data=source, timeout=_SECONDS)
    received = time.time()
    text = done.out.decode("utf-8", "replace").rpartition(_MARKER)[2]
    if done.code != 0 or _MARKER not in done.out.decode("utf-8", "replace"):
        raise _no_python(host, done.code, done.err.strip())
    answer = json.loads(text)
    skew = ((answer["began"] - sent) + (answer["ended"] - received)) / 2
    return answer["facts"], round(skew, 3)


def _no_python(host: Host, code: int, said: str) -> HostError:
    python = host.spec.python
    hint = f"install Python 3.8 or newer there, or set `python` of [hosts.{host.name}] to one that is there"
    last = said.splitlines()[-1] if said else ""
    if last.startswith("repro: Python "):
        version = last.removeprefix("repro: ")
        return HostError(host.name, f"`{python}` there is {version}, expected 3.8 or newer", hint=hint)
    if code in (126, 127):
        return HostError(host.name, f"there is no `{python}`: {last or 'not found'}", hint=hint)
    return HostError(host.name, f"`{python}` there ended with {code}: {last or 'no answer'}", hint=hint)


def _surveyed(host: Host, connection: Host | HostError, needs: Needs) -> Surveyed:
    spec = host.spec
    if isinstance(connection, HostError):
        finding = Finding(True, connection.reason, connection.hint or "")
        return Surveyed(spec, "unreachable", {}, None, None, (finding,))
    try:
        facts, skew = ask(host)
    except HostError as error:
        return Surveyed(spec, "problem", {}, None, None, (Finding(True, error.reason, error.hint or ""),))
    address = seen_address(spec, facts, needs.interfaces[0] if needs.interfaces else None)
    findings = tuple(judge(spec, facts, skew=skew, needs=needs))
    state = "problem" if any(item.is_problem for item in findings) else "ok"
    return Surveyed(spec, state, facts, skew, address, findings)


# ---- judging, without effects


def judge(spec: HostSpec, facts: Mapping[str, Any], *, skew: float, needs: Needs) -> Iterator[Finding]:
    """Yields what is not well with a host that answered."""
    if facts.get("system") not in ("Linux", None):
        yield Finding(True, f"its system is {facts['system']}, expected Linux", "take it out of the target")
    disk = facts.get("disk")
    if disk and not disk["writable"]:
        what = f"its store {spec.store} cannot be made: {facts.get('user')} cannot write to {disk['path']}"
        yield Finding(True, what, f"set `store` of [hosts.{spec.name}] to a directory that is writable")
    elif disk and disk["free"] < _LOW_SPACE:
        what = f"only {disk['free'] / 1e9:.1f} GB are free at {disk['path']}"
        yield Finding(False, what, f"free some, or set `store` of [hosts.{spec.name}] to another disk")
    docker = facts.get("docker") or {}
    if needs.docker and "version" not in docker:
        said = docker.get("error") or "no Docker daemon answers"
        yield Finding(True, f"a target runs containers there: {said}", _docker_remedy(said, facts))
    yield from _gpu_findings(spec, facts)
    if abs(skew) > _NOTICED_SKEW:
        direction = "ahead of" if skew > 0 else "behind"
        what = f"its clock is {abs(skew):,.0f} s {direction} the clock here"
        yield Finding(abs(skew) > _USELESS_SKEW, what, "set it, and start chrony or systemd-timesyncd there")
    for interface in needs.interfaces:
        if seen_address(spec, facts, interface) is None:
            have = ", ".join(f"{item['interface']} {item['address']}" for item in _outside(facts)) or "none"
            what = f"it has no address on the interface {interface} of its target; it has {have}"
            yield Finding(
                True, what, "`interface` of the target: a network such as 10.0.0.0/24, or an interface's name"
            )
    if needs.has_peers and not needs.interfaces and seen_address(spec, facts, None) is None:
        what = "it has no address that other hosts could reach"
        yield Finding(True, what, f"set `internal_address` of [hosts.{spec.name}]")


def _docker_remedy(said: str, facts: Mapping[str, Any]) -> str:
    if "permission denied" in said:
        return f"there: sudo usermod -aG docker {facts.get('user')}   then connect anew"
    if "no docker program" in said:
        return 'install Docker there, or runtime = "process" in the target'
    return "there: systemctl start docker"


def _gpu_findings(spec: HostSpec, facts: Mapping[str, Any]) -> Iterator[Finding]:
    found = facts.get("gpus")
    if found is None:
        yield Finding(spec.gpus is not None, "nvidia-smi is there and does not work", "there: nvidia-smi")
        return
    names = {gpu["index"] for gpu in found} | {gpu["uuid"] for gpu in found}
    names |= {instance for gpu in found for instance in gpu["mig"]}
    absent = [gpu.get("uuid", gpu.get("index")) for gpu in spec.gpus or ()]
    absent = [name for name in absent if name not in names]
    if absent and not facts.get("amd"):
        what = f"the inventory names GPU {', '.join(map(str, absent))}, nvidia-smi finds {len(found)}"
        yield Finding(True, what, f"correct `gpus` of [hosts.{spec.name}], or see `nvidia-smi -L` there")


def seen_address(spec: HostSpec, facts: Mapping[str, Any], interface: str | None) -> str | None:
    """Returns where other hosts reach a host.

    Args:
        interface: of the target: a network, the name of an interface, or None.
    """
    if spec.internal_address:
        return spec.internal_address
    found = _outside(facts)
    if interface is not None:
        return next((item["address"] for item in found if _is_on(item, interface)), None)
    addresses = [item["address"] for item in found]
    if spec.address in addresses:
        return spec.address
    return next((address for address in addresses if ":" not in address), next(iter(addresses), None))


def _outside(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the addresses that may be reached from elsewhere."""
    found = []
    for item in facts.get("addresses") or ():
        address = ipaddress.ip_address(item["address"])
        if not address.is_loopback and not address.is_link_local:
            found.append(item)
    return sorted(found, key=lambda item: item["interface"].startswith(_INSIDE_ONLY))


def _is_on(item: Mapping[str, Any], interface: str) -> bool:
    if "/" not in interface:
        return bool(item["interface"] == interface)
    network = ipaddress.ip_network(interface, strict=False)
    return ipaddress.ip_address(item["address"]) in network


def _needs(spec: HostSpec, targets: Sequence[TargetSpec]) -> Needs:
    naming = [target for target in targets if spec in target.hosts]
    return Needs(
        docker=any(target.runtime == "docker" for target in naming),
        interfaces=tuple(dict.fromkeys(target.interface for target in naming if target.interface)),
        has_peers=any(len(target.hosts) > 1 for target in naming),
    )


def _with_doubles(found: Sequence[Surveyed]) -> list[Surveyed]:
    """Adds to hosts that are one machine under several names that they are."""
    groups: defaultdict[tuple[Any, Any], list[str]] = defaultdict(list)
    for item in found:
        if item.facts.get("boot_id"):
            groups[item.facts["boot_id"], item.facts.get("hostname")].append(item.spec.name)
    doubles = {name: names for names in groups.values() if len(names) > 1 for name in names}
    return [_with_double(item, doubles.get(item.spec.name, [])) for item in found]


def _with_double(item: Surveyed, names: Sequence[str]) -> Surveyed:
    others = [name for name in names if name != item.spec.name]
    if not others:
        return item
    finding = Finding(False, f"it is the same machine as {', '.join(others)}", "name each machine once")
    return Surveyed(item.spec, item.state, item.facts, item.skew, item.address, (*item.findings, finding))


def gpu_words(facts: Mapping[str, Any]) -> str:
    """Returns the GPUs of a host as people name them: `2x NVIDIA H100 80GB HBM3`; `""` for none."""
    counted = Counter(_model(gpu) for gpu in facts.get("gpus") or ())
    words = [f"{count}x {model}" for model, count in counted.items()]
    if not words and facts.get("amd"):
        words = ["AMD"]
    return ", ".join(words)


def _model(gpu: Mapping[str, Any]) -> str:
    name, memory, instances = str(gpu["name"]), gpu.get("memory"), len(gpu.get("mig") or ())
    size = f" {round(memory / 1024)} GB" if memory and "GB" not in name else ""
    return f"{name}{size}" + (f" ({instances} MIG)" if instances else "")

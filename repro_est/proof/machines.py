"""The machines of two executions, as their attempts recorded them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro_est.console import counted, human_size

_MOVING = {"clock_skew", "origin", "address", "ranks", "devices"}
"""Facts that may be others on the same machine."""
_TOLD = ("machine", "hosts", "image", "interpreter", "target")


def facts_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of an attempt's facts is about where it ran; on hosts, that is not the machine that asked."""
    told = [name for name in _TOLD if name in facts and not (name == "machine" and facts.get("hosts"))]
    return {name: facts[name] for name in told}


def machine_in_words(facts: Mapping[str, Any]) -> str:
    """Returns where an attempt ran: `ada (AMD EPYC 7B13, 16 CPUs, 64.0 GB; 2 x NVIDIA H100, driver 570.1)`."""
    hosts = facts.get("hosts")
    if isinstance(hosts, list) and hosts:
        return "; ".join(_host(host) for host in hosts)
    machine = facts.get("machine")
    if not isinstance(machine, Mapping):
        return "an unknown machine"
    return f"{machine.get('hostname') or '?'} ({hardware(machine)})"


def hardware(machine: Mapping[str, Any]) -> str:
    """Returns processor, memory and GPUs of a machine."""
    parts = [str(machine.get("cpu") or machine.get("cpu_model") or machine.get("machine") or "?")]
    if machine.get("cpu_count"):
        parts.append(counted(int(machine["cpu_count"]), "CPU"))
    if machine.get("memory"):
        parts.append(human_size(float(machine["memory"])))
    return ", ".join(parts) + _gpus(machine.get("gpus"))


def differing_facts(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns what is not the same of two machines: name, before and after; of a host more or less, its name."""
    mine, theirs = _flat("", one), _flat("", two)
    return [
        (name, mine.get(name, "-"), theirs.get(name, "-"))
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name) and _MOVING.isdisjoint(name.split(".")) and _is_told(name, mine, theirs)
    ]


def _is_told(name: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    top, number, *rest = [*name.split("."), ""]
    if top != "hosts" or rest[:1] == ["host"]:
        return True
    return all(f"hosts.{number}.host" in side for side in (mine, theirs))


def _host(host: Any) -> str:
    if not isinstance(host, Mapping):
        return str(host)
    machine = host.get("machine", host)
    known = isinstance(machine, Mapping) and (machine.get("cpu_model") or machine.get("gpus"))
    return f"{host.get('host', '?')} ({hardware(machine)})" if known else str(host.get("host", "?"))


def _gpus(gpus: Any) -> str:
    if not isinstance(gpus, list) or not gpus:
        return ""
    names = [str(gpu.get("name", "GPU")) if isinstance(gpu, Mapping) else str(gpu) for gpu in gpus]
    driver = _driver(gpus[0]) if isinstance(gpus[0], Mapping) else None
    listed = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return f"; {listed}" + (f", driver {driver}" if driver else "")


def _driver(gpu: Mapping[str, Any]) -> Any:
    return gpu.get("driver_version") or gpu.get("driver")  # as nvidia-smi has it, or as hosts say it


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {name: text for key, item in value.items() for name, text in _flat(_joined(prefix, key), item).items()}
    if isinstance(value, list):
        return {
            name: text for key, item in enumerate(value) for name, text in _flat(_joined(prefix, key), item).items()
        }
    return {prefix: str(value)}


def _joined(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)

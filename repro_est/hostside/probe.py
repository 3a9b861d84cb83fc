"""What a host is and has: machine, Python, Docker, MPI, GPUs, addresses, room. Every part may be None; nothing raises.

It needs the standard library of Python 3.8 and no other module, so that it also works alone: `repro hosts` sends just
this file.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

_SECONDS = 10
_GPU_FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "compute_cap", "mig.mode.current")


def probe(store: str) -> dict[str, Any]:
    """Returns the facts of this host as JSON.

    Args:
        store: where its store is or will be; `~` is the user's home.
    """
    parts = {
        "hostname": socket.gethostname,
        "user": getpass.getuser,
        "uid": os.getuid,
        "home": lambda: os.path.expanduser("~"),
        "boot_id": lambda: _line("/proc/sys/kernel/random/boot_id"),
        "time": time.time,
        "python": lambda: {"version": platform.python_version(), "executable": sys.executable},
        "interpreters": _interpreters,
        "system": platform.system,
        "kernel": platform.release,
        "machine": platform.machine,
        "libc": lambda: " ".join(platform.libc_ver()).strip(),
        "cpu_model": _cpu_model,
        "cpu_count": lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk": lambda: _disk(store),
        "shm": lambda: _free("/dev/shm"),
        "docker": _docker,
        "mpirun": _mpirun,
        "gpus": _gpus,
        "amd": lambda: os.path.exists("/sys/class/kfd/kfd/topology/nodes"),
        "addresses": addresses,
    }
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        facts[name] = None
        with contextlib.suppress(Exception):
            facts[name] = part()
    return facts


def _run(words: list[str]) -> subprocess.CompletedProcess[str] | None:
    if shutil.which(words[0]) is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            text=True,
            errors="replace",
        )
    return None


def _line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().strip()


def _cpu_model() -> str | None:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def _disk(store: str) -> dict[str, Any]:
    path = os.path.abspath(os.path.expanduser(store))
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return {"path": path, "free": _free(path), "writable": _is_writable(path)}


def _is_writable(path: str) -> bool:
    """Tried, not asked: permissions say nothing of quotas, of root over a network, of /proc."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".repro-", dir=path))
    except OSError:
        return False
    return True


def _free(path: str) -> int:
    statistics = os.statvfs(path)
    return statistics.f_bavail * statistics.f_frsize


def _interpreters() -> list[dict[str, str]]:
    """Every `python3.X` on the path, each version once, the newest first."""
    found: dict[int, str] = {}
    for directory in os.get_exec_path():
        with contextlib.suppress(OSError):
            for name in os.listdir(directory):
                match = re.match(r"python3\.(\d+)$", name)
                if match and os.access(os.path.join(directory, name), os.X_OK):
                    found.setdefault(int(match.group(1)), os.path.join(directory, name))
    interpreters = []
    for minor in sorted(found, reverse=True):
        done = _run([found[minor], "--version"])
        if done is not None and done.returncode == 0:
            interpreters.append({"version": done.stdout.strip().rpartition(" ")[2], "path": found[minor]})
    return interpreters


def _mpirun() -> str | None:
    done = _run(["mpirun", "--version"])
    lines = done.stdout.strip().splitlines() if done is not None and done.returncode == 0 else []
    return lines[0] if lines else None


def _docker() -> dict[str, Any]:
    if shutil.which("docker") is None:
        return {"error": "there is no docker program"}
    done = _run(["docker", "version", "--format", "{{.Server.Version}}"])
    if done is None:
        return {"error": "the Docker daemon does not answer"}
    version = done.stdout.strip()
    if done.returncode == 0 and version:
        return {"version": version}
    lines = done.stderr.strip().splitlines()
    return {"error": lines[-1] if lines else "the Docker daemon does not answer"}


def _gpus() -> list[dict[str, Any]] | None:
    """The GPUs of NVIDIA; None when their driver does not answer."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = _run(["nvidia-smi", "--query-gpu=" + ",".join(_GPU_FIELDS), "--format=csv,noheader,nounits"])
    if done is None or done.returncode != 0:
        return None
    listing = _run(["nvidia-smi", "-L"])
    return parse_gpus(done.stdout, listing.stdout if listing is not None else "")


def parse_gpus(table: str, listing: str) -> list[dict[str, Any]]:
    """Reads what nvidia-smi prints.

    Args:
        table: of `--query-gpu`, the fields of `_GPU_FIELDS`.
        listing: of `-L`, which alone names the instances of a card that is cut by MIG.
    """
    instances: dict[str, list[str]] = {}
    card = ""
    for line in listing.splitlines():
        found = re.search(r"\(UUID: ([^)]+)\)", line)
        if found and line.startswith("GPU "):
            card = found.group(1)
        elif found:
            instances.setdefault(card, []).append(found.group(1))
    gpus: list[dict[str, Any]] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 5 or not cells[0].isdigit():
            continue
        row = dict(zip(_GPU_FIELDS, cells))
        memory = row["memory.total"].split(" ")[0]
        gpus.append(
            {
                "index": int(row["index"]),
                "uuid": row["uuid"],
                "name": row["name"],
                "memory": int(memory) if memory.isdigit() else None,
                "driver": row["driver_version"],
                "compute_cap": row.get("compute_cap"),
                "mig": instances.get(row["uuid"], []),
            }
        )
    return gpus


def addresses() -> list[dict[str, Any]]:
    done = _run(["ip", "-j", "addr"]) or _run(["/sbin/ip", "-j", "addr"])
    if done is not None and done.returncode == 0:
        return [
            {"interface": link["ifname"], "address": item["local"], "prefix": item["prefixlen"]}
            for link in json.loads(done.stdout)
            for item in link.get("addr_info", ())
            if "UP" in link.get("flags", ()) and item.get("family") in ("inet", "inet6")
        ]
    found = {str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), None, proto=socket.IPPROTO_TCP)}
    return [{"interface": "", "address": address, "prefix": 128 if ":" in address else 32} for address in sorted(found)]

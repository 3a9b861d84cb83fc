"""What this machine is, to be recorded with an attempt; nothing of it is hashed. Each part may be missing."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
from typing import Any

from repro_est.store.leases import user_name

_GPU_TIMEOUT_SECONDS = 10
_GPU_FIELDS = "index,name,memory.total,driver_version,compute_cap"


def machine_facts() -> dict[str, Any]:
    """Returns a JSON object: names, system, processor, memory (bytes), GPUs and driver."""
    system = os.uname()
    return {
        "hostname": socket.gethostname(),
        "user": user_name(),
        "system": system.sysname,
        "kernel": system.release,
        "machine": system.machine,
        "libc": " ".join(platform.libc_ver()).strip(),
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory": _memory(),
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, str]]:
    """Returns the NVIDIA GPUs that nvidia-smi lists, none when it is not there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    names = _GPU_FIELDS.split(",")
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _cpu_model() -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None

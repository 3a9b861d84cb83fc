"""Why a script failed, on one screen: how it ended, its last lines, the likely cause and what to do.

The causes are guesses from the end of stderr and from what the kernel counted, and are worded as such.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from repro_est.console import human_time
from repro_est.launch.process import Outcome
from repro_est.recipe.imports import distribution_for
from repro_est.store.guard import FULL

_LINES = 30
_TAIL_BYTES = 1 << 16


_NAMES = {
    "host_lost": "a host was lost",
    "rank_hung": "a rank hung",
    "launcher_failed": "what starts the ranks failed",
    "not_started": "not all ranks could be started",
    "disagreement": "nothing was started",
}


class Cause(NamedTuple):
    """A likely cause and what to do about it; both in words."""

    cause: str
    hint: str | None = None


def report(outcome: Outcome, logs: Path, *, timeout_seconds: float | None) -> tuple[str, str | None]:
    """Returns the text of one screen, and a hint.

    Args:
        logs: directory of the attempt's logs.
    """
    rank = logs / f"rank-{outcome.rank}"
    stderr, stdout = tail(rank / "stderr.log"), tail(rank / "stdout.log")
    text = stderr or stdout
    ended = outcome.words
    if outcome.timed_out and timeout_seconds is not None:
        ended = f"took longer than max_run_duration_seconds = {timeout_seconds:g} ({human_time(timeout_seconds)})"
    cause = diagnose(outcome, stderr)
    if outcome.cause:
        parts = [f"{_NAMES.get(outcome.cause, outcome.cause)}: {ended}"]
    else:
        who = f"rank {outcome.rank} on {outcome.host}: " if outcome.host and not outcome.timed_out else ""
        parts = [f"the script failed in phase run: {who}{ended}"]
    if text:
        shown = text[-_LINES:]
        name = "stderr" if stderr else "stdout"
        last = "last line" if len(shown) == 1 else f"last {len(shown)} lines"
        parts.append(f"\n{last} of {name}, rank {outcome.rank}:\n" + "\n".join(f"  | {line}" for line in shown))
    if cause:
        parts.append(f"\nlikely cause: {cause.cause}")
    parts.append(f"\nlogs: {rank}")
    return "\n".join(parts), cause.hint if cause else None


def diagnose(outcome: Outcome, stderr: Sequence[str]) -> Cause | None:
    """Returns the likely cause of a failure, or None."""
    text = "\n".join(stderr)
    if outcome.timed_out:
        return Cause("the time limit", "raise max_run_duration_seconds, or leave it out")
    if outcome.unlogged or "No space left on device" in text:
        if outcome.host:
            hint = f"free some space on {outcome.host}, or give it another `store` in the inventory"
            return Cause(f"the disk of {outcome.host} is full", hint)
        return Cause("the disk of the store, on which a run executes, is full", FULL)
    if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", text):
        module = missing.group(1)
        return Cause(
            f"the module `{module}` is not in the environment",
            f'if it is a package, add it: pip_packages = [..., "{distribution_for(module)}"], then repro lock',
        )
    if "used more memory than [docker] memory" in text:
        return Cause("it used more memory than [docker] memory allows", "raise [docker] memory, or use less")
    if outcome.oom_kills or (outcome.signal == "SIGKILL" and not outcome.canceled):
        if outcome.oom_kills or not outcome.ranks:
            return Cause("the kernel killed it, most often for want of memory", "use less memory, or a larger machine")
        return Cause("somebody killed it (kill -9), or the kernel for want of memory", "dmesg on that host tells which")
    if "CUDA out of memory" in text or "OutOfMemoryError" in text:
        return Cause("the GPU's memory was full", "use a smaller batch")
    if re.search(r"^MemoryError", text, re.MULTILINE):
        return Cause("no more memory could be had", "use less memory, or a larger machine")
    if denied := re.search(r"(?:PermissionError|OSError): \[Errno (?:13|30)\] [^:]+: '([^']+)'", text):
        return Cause(
            f"it wrote to {denied.group(1)}; inputs are read-only, and so is the environment",
            'write below ./outputs, or use mode = "copy"',
        )
    if absent := re.search(r"FileNotFoundError: .*: '([^']+)'", text):
        return Cause(
            f"{absent.group(1)} is not there; a run starts in a copy of its source, with its declared inputs",
            "declare it under [inputs], or check .gitignore and `repro snapshot RECIPE --list`",
        )
    if re.search(r"no CUDA-capable device|Found no NVIDIA driver|CUDA is not available", text):
        return Cause("it looked for a GPU and found none", "use_gpu = true")
    if outcome.signal in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT"):
        return Cause(
            f"compiled code crashed ({outcome.signal})", "PYTHONFAULTHANDLER=1 in environment_variables shows where"
        )
    return None


def tail(path: Path) -> list[str]:
    """Returns the last lines of a file as text, whatever is in it; empty when there is none."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read()
    except OSError:
        return []
    lines = data.decode("utf-8", "backslashreplace").splitlines()
    return [line if len(line) <= 500 else line[:500] + " ..." for line in lines]

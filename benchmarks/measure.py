"""Timing commands in turn, so that a machine that is slow for a while is slow for all of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Prepare = Callable[[], None]


@dataclass(frozen=True)
class Command:
    """One contender.

    Args:
        words: an argument list.
        cwd: where it runs.
        prepare: runs before each measured run, outside of the measured time.
    """

    words: Sequence[str]
    cwd: Path
    prepare: Prepare = lambda: None


@dataclass(frozen=True)
class Result:
    """Median wall seconds, and peak memory of the largest run in bytes."""

    seconds: float
    memory: int


def interleaved(commands: Mapping[str, Command], *, rounds: int = 7, warm_up: int = 1) -> dict[str, Result]:
    """Runs the commands in turn, A B A B ..., and returns the median of each."""
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for number in range(warm_up + rounds):
        for name, command in commands.items():
            command.prepare()
            sample = _once(command)
            if number >= warm_up:
                samples[name].append(sample)
    return {
        name: Result(statistics.median(seconds for seconds, _ in taken), max(memory for _, memory in taken))
        for name, taken in samples.items()
    }


def _once(command: Command) -> tuple[float, int]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment.update(DVC_NO_ANALYTICS="1", GIT_CONFIG_NOSYSTEM="1")
    started = time.perf_counter()
    process = subprocess.Popen(
        command.words, cwd=command.cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command.words)}: exit {process.returncode}\n{error.decode(errors='replace')}")
    return seconds, usage.ru_maxrss * 1024


def report(title: str, results: Mapping[str, Result], ours: str, targets: Mapping[str, tuple[str, float]]) -> None:
    """Prints the medians, and our ratio to each peer beside what it should be.

    Args:
        targets: peer to (`<=` or `>=`, ratio): ours / peer at most so much, or peer / ours at least so much.
    """
    print(f"\n{title}")
    for name, result in results.items():
        line = f"  {name:<28} {result.seconds * 1000:>10.1f} ms  {result.memory / 1e6:>7.0f} MB"
        if name in targets:
            kind, wanted = targets[name]
            ratio = results[ours].seconds / result.seconds
            shown, met = (ratio, ratio <= wanted) if kind == "<=" else (1 / ratio, 1 / ratio >= wanted)
            sense = "ours / peer" if kind == "<=" else "peer / ours"
            line += f"   {sense} {shown:6.2f}, wanted {kind} {wanted:g}: {'met' if met else 'MISSED'}"
        print(line, flush=True)

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


def interleaved(commands: Mapping[str, Command], *, rounds: int = 7, warm_up: int = 1) -> dict[str, float]:
    """Runs the commands in turn, A B A B ..., and returns the median of each."""
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(warm_up + rounds):
        for name, command in commands.items():
            command.prepare()
            seconds = _once(command)
            if number >= warm_up:
                samples[name].append(seconds)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def _once(command: Command) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment.update(DVC_NO_ANALYTICS="1", GIT_CONFIG_NOSYSTEM="1")
    started = time.perf_counter()
    done = subprocess.run(
        command.words, cwd=command.cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command.words)}: exit {done.returncode}\n{done.stderr.decode(errors='replace')}")
    return seconds


def report(title: str, results: Mapping[str, float], ours: str, targets: Mapping[str, tuple[str, float]]) -> None:
    """Prints the medians, and our ratio to each peer beside what it should be.

    Args:
        targets: peer to (`<=` or `>=`, ratio): ours / peer at most so much, or peer / ours at least so much.
    """
    print(f"\n{title}")
    for name, seconds in results.items():
        line = f"  {name:<30} {seconds * 1000:>10.1f} ms"
        if name in targets:
            kind, wanted = targets[name]
            ratio = results[ours] / seconds
            shown, met = (ratio, ratio <= wanted) if kind == "<=" else (1 / ratio, 1 / ratio >= wanted)
            sense = "ours / peer" if kind == "<=" else "peer / ours"
            line += f"   {sense} {shown:6.2f}, wanted {kind} {wanted:g}: {'met' if met else 'MISSED'}"
        print(line, flush=True)

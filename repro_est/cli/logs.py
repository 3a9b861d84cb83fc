"""Print the logs of a run; of the newest attempt unless one is named.

repro logs @                  stdout and stderr of rank 0
repro logs @ -f               follow a run that is going on
repro logs @ --list           the log files there are
repro logs @ training.log     one file the script wrote into ./logs
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from repro_est.cli.common import open_store
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.errors import UsageError
from repro_est.files import write_all
from repro_est.store.records import Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store

_POLL_SECONDS = 0.1
_CHUNK = 1 << 16


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="@", help="a run hash, a unique start of one, or `@` (default)")
    parser.add_argument("file", nargs="?", help="a file below logs/ instead of the output of a rank")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--rank", type=int, default=0, help="which rank (default 0)")
    parser.add_argument("--stream", choices=("stdout", "stderr", "both"), default="both", help="default: both")
    parser.add_argument("--attempt", type=int, help="which attempt (default: the last one)")
    parser.add_argument("--list", action="store_true", help="list the log files")


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    attempt = arguments.attempt or _last_attempt(run, runs)
    directory = store.layout.attempt(run, attempt) / "logs"
    if not directory.is_dir():
        raise UsageError(f"run {run[:12]}: attempt {attempt} has no logs", hint=f"repro show {run[:12]}")
    if arguments.list:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            Console().out(str(path.relative_to(directory)))
        return 0
    files = _files(arguments, directory)
    _print(files, lambda: arguments.follow and _running(run, attempt, store))
    return 0


def _last_attempt(run: RunHash, runs: Runs) -> int:
    attempts = runs.attempts(run)
    if not attempts:
        raise UsageError(f"run {run[:12]}: was never executed", hint=f"repro run {run[:12]}")
    return attempts[-1].number


def _files(arguments: argparse.Namespace, directory: Path) -> list[Path]:
    if arguments.file:
        path = directory / arguments.file
        if not path.resolve().is_relative_to(directory.resolve()) or not path.is_file():
            there = ", ".join(sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())[:8])
            raise UsageError(f"{arguments.file}: no such log, there are: {there}")
        return [path]
    rank = directory / f"rank-{arguments.rank}"
    if not rank.is_dir():
        there = ", ".join(sorted(path.name for path in directory.glob("rank-*"))) or "none"
        raise UsageError(f"rank {arguments.rank}: no such rank in this attempt, there are: {there}")
    streams = ("stdout", "stderr") if arguments.stream == "both" else (arguments.stream,)
    return [rank / f"{stream}.log" for stream in streams]


def _running(run: RunHash, attempt: int, store: Store) -> bool:
    records = [record for record in Runs(store.layout).attempts(run) if record.number == attempt]
    return bool(records) and records[0].status is Status.RUNNING


def _print(files: list[Path], going_on: Callable[[], bool]) -> None:
    """Copies the files to stdout; what is appended while `going_on()` follows as it comes."""
    out = sys.stdout.fileno()
    offsets = dict.fromkeys(files, 0)
    while True:
        alive = going_on()  # asked before reading: what is written last is then still read
        for path in files:
            offsets[path] += _copy_from(path, offsets[path], out)
        if not alive:
            return
        time.sleep(_POLL_SECONDS)


def _copy_from(path: Path, offset: int, out: int) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    copied = 0
    with open(descriptor, "rb", buffering=0) as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            write_all(out, chunk)
            copied += len(chunk)
    return copied

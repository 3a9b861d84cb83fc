"""Print the logs of a run; of the newest attempt unless one is named.

repro logs @                  stdout and stderr of rank 0
repro logs @ -f               follow a run that is going on, here or at its hosts
repro logs @ --rank 3         of rank 3; `all` for every rank, in lines with the rank before them
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
from repro_est.store.layout import DRIVER_LOG
from repro_est.store.records import Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store

_POLL_SECONDS = 0.1
_CHUNK = 1 << 16


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="@", help="a run hash, a unique start of one, or `@` (default)")
    parser.add_argument("file", nargs="?", help="a file below logs/ instead of the output of a rank")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--rank", default="0", metavar="N|all", help="which rank, or all (default 0)")
    parser.add_argument("--stream", choices=("stdout", "stderr", "both"), default="both", help="default: both")
    parser.add_argument("--attempt", type=int, help="which attempt (default: the last one)")
    parser.add_argument("--list", action="store_true", help="list the log files")


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    if arguments.rank != "all" and not arguments.rank.isdecimal():
        raise UsageError(f"--rank {arguments.rank}: expected a number, or `all`")
    attempt = arguments.attempt or _last_attempt(run, runs)
    if not arguments.file and not arguments.list and _is_detached(run, attempt, runs):
        return _print_from_hosts(arguments, run, attempt, store)
    directory = store.layout.attempt(run, attempt) / "logs"
    if not directory.is_dir():
        raise UsageError(f"run {run[:12]}: attempt {attempt} has no logs", hint=f"repro show {run[:12]}")
    if arguments.list:
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            Console().out(str(path.relative_to(directory)))
        return 0
    if arguments.rank == "all" and not arguments.file and (directory / DRIVER_LOG).exists():
        arguments.file = DRIVER_LOG
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
    ranks = sorted(directory.glob("rank-*"), key=lambda path: int(path.name.removeprefix("rank-")))
    wanted = [path for path in ranks if arguments.rank in ("all", path.name.removeprefix("rank-"))]
    if not wanted:
        there = ", ".join(path.name for path in ranks) or "none"
        raise UsageError(f"rank {arguments.rank}: no such rank in this attempt, there are: {there}")
    return [rank / f"{stream}.log" for rank in wanted for stream in _streams(arguments)]


def _streams(arguments: argparse.Namespace) -> tuple[str, ...]:
    return ("stdout", "stderr") if arguments.stream == "both" else (arguments.stream,)


def _is_detached(run: RunHash, attempt: int, runs: Runs) -> bool:
    return any(item.number == attempt and item.status is Status.DETACHED for item in runs.attempts(run))


def _print_from_hosts(arguments: argparse.Namespace, run: RunHash, attempt: int, store: Store) -> int:
    from repro_est.launch.handle import read_handle
    from repro_est.launch.peek import read_logs
    from repro_est.launch.streams import Prefixed

    handle = read_handle(store.layout.attempt(run, attempt))
    if handle is None:
        raise UsageError(f"run {run[:12]}: attempt {attempt} was just collected", hint=f"repro logs {run[:12]}")
    out = sys.stdout.fileno()
    streams = _streams(arguments)
    if arguments.rank == "all":
        shown = Prefixed(lambda _, data: write_all(out, data))
        read_logs(handle, None, streams, shown.add, follow=arguments.follow)
        shown.flush(everything=True)
    else:
        ranks = [int(arguments.rank)]
        read_logs(handle, ranks, streams, lambda _, __, data: write_all(out, data), follow=arguments.follow)
    return 0


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

"""Remove what crashed processes left behind; with `--collect` also what nothing keeps any more.

repro gc                       leftovers go; says what `--collect` would remove, by kind
repro gc --list                the same, each run named
repro gc --collect             remove it: runs, and then what only they needed
repro gc --why 3f9c            why a run, blob, tree, environment or file is kept

Kept are: what models and aliases reach, pinned runs (`repro pin`), runs with the tag `keep`, runs that go on, runs used
within `[gc] keep_days` (30), the last `keep_last` (5) of each recipe, and the runs their inputs came from. Safe beside
running jobs. docs/cleaning.md says more.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console, counted, human_size
from repro_est.errors import InfrastructureError
from repro_est.project import Keeping, parse_size
from repro_est.store.gc import GcReport
from repro_est.store.store import Store

_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--collect", action="store_true", help="remove what nothing keeps")
    asked.add_argument("--why", metavar="HASH", help="say what keeps a run, blob, tree, environment, image or file")
    parser.add_argument("--list", action="store_true", help="name every run that goes")
    parser.add_argument("--keep-days", type=_number, metavar="N", help="in place of [gc] keep_days")
    parser.add_argument("--keep-last", type=_number, metavar="N", help="in place of [gc] keep_last")
    parser.add_argument("--quota", type=_size, metavar="SIZE", help="in place of [gc] quota, such as 200GB")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.store import gc
    from repro_est.store.sweep import sweep

    console = Console()
    project, store = open_store()
    keeping = _keeping(project.keeping, arguments)
    if arguments.why is not None:
        return _why(arguments, store, keeping, console)
    left = sweep(store.layout)
    containers = _containers(store)
    report = (gc.collect if arguments.collect else gc.preview)(store.layout, keeping)
    if arguments.json:
        answer = {"removed": [str(path) for path in left.removed], "bytes": left.size, "lost": list(left.lost)}
        collected = {**report.to_json(), "done": arguments.collect}
        console.json({**answer, "containers": containers, "collected": collected})
        return 0
    for run in left.lost:
        console.out(f"{run}: its process is gone; marked as lost")
    for name in containers:
        console.out(f"{name}: its container was still there; removed")
    console.out(f"removed {counted(len(left.removed), 'leftover')}, {human_size(left.size)}")
    _show(report, console, done=arguments.collect, every=arguments.list)
    return 0


def _show(report: GcReport, console: Console, *, done: bool, every: bool) -> None:
    for message in report.unread:
        console.warning(f"{message}; it is kept, with all it may mean")
    if report.count:
        verb = "collected" if done else "nothing keeps"
        console.out(f"{verb} {counted(len(report.runs), 'run')}, {human_size(report.size)} in all:")
        for kind, tally in report.kinds.items():
            if tally.count:
                console.out(f"  {kind:<15} {tally.count:>9,}  {human_size(tally.size):>9}")
        shown = report.runs if every else ()
        for run in shown:
            console.out(f"  {run.run}  {_day(run.used)}  {run.name}")
    else:
        console.out("nothing to collect" if not done else "collected nothing: all there is is kept")
    if report.over:
        console.warning(f"{human_size(report.over)} over the quota, and nothing more may go: repro du")
    if report.count and not done:
        console.info("\nhint: repro gc --collect   removes it" + ("" if every else "; --list names the runs"))


def _why(arguments: argparse.Namespace, store: Store, keeping: Keeping, console: Console) -> int:
    from repro_est.store.keepers import keepers

    chains = keepers(store.layout, keeping, arguments.why)
    if arguments.json:
        console.json([{"chain": chain} for chain in chains])
        return 0
    for chain in chains:
        for depth, line in enumerate(chain):
            console.out(f"{'  ' * depth}{line}")
    return 0


def _keeping(keeping: Keeping, arguments: argparse.Namespace) -> Keeping:
    given = {"keep_days": arguments.keep_days, "keep_last": arguments.keep_last, "quota": arguments.quota}
    return dataclasses.replace(keeping, **{name: value for name, value in given.items() if value is not None})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"got `{text}`, expected a number")
    return int(text)


def _size(text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"got `{text}`, expected a size such as 200GB")
    return size


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _containers(store: Store) -> list[str]:
    """Removes containers of runs nobody executes, where this machine has a Docker daemon."""
    if "DOCKER_HOST" not in os.environ and not os.path.exists("/var/run/docker.sock"):
        return []
    from repro_est.images.containers import reap
    from repro_est.images.daemon import connect

    try:
        return reap(connect(), store)
    except InfrastructureError:
        return []

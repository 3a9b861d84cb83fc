"""End a run: nothing of it is left running on any host; what it wrote so far is kept here.

repro cancel @
repro cancel @ --forget     when its hosts are gone for good: asks none of them
"""

from __future__ import annotations

import argparse

from repro_est import engine
from repro_est.cli.common import TerminalObserver, add_run, open_store
from repro_est.console import Console
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--forget", action="store_true", help="take the run for lost, with what its hosts have of it, and ask none"
    )


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    runs, console = Runs(store.layout), Console()
    run = runs.resolve(arguments.run)
    if arguments.forget:
        engine.forget(run, store)
        console.out(f"{run[:12]}  lost")
        return 0
    if engine.cancel(run, store, TerminalObserver(console)):
        console.out(f"{run[:12]}  canceled")
    else:
        console.info(f"run {run[:12]}: had ended before this could end it")
    return 0

"""End a run: nothing of it is left running on any host; what it wrote so far is kept here.

repro cancel @
repro cancel @ --forget     when its hosts are gone for good: asks none of them
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time

from repro_est import engine
from repro_est.cli.common import TerminalObserver, add_run, open_store
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError, Interrupted, UsageError
from repro_est.store.leases import Leases
from repro_est.store.runs import Runs
from repro_est.store.store import Store

_PATIENCE_SECONDS = 60.0


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
    if runs.is_executed(run):
        _interrupt(run, store)
    elif runs.at_hosts(run) is not None:
        try:
            engine.cancel(engine.plan_of(run, store), store, TerminalObserver(console))
        except Interrupted as done:
            console.info(done.message)
        else:
            console.info(f"run {run[:12]}: had ended before this could end it")
            return 0
    else:
        raise UsageError(f"run {run[:12]}: is not running", hint="repro ps")
    console.out(f"{run[:12]}  canceled")
    return 0


def _interrupt(run: RunHash, store: Store) -> None:
    """Has the client that executes the run end it, as Ctrl-C there would."""
    name = f"run-{run}"
    owner = Leases(store.layout).owner(name)
    if owner.host != socket.gethostname() or owner.pid == os.getpid():
        raise UsageError(
            f"run {run[:12]}: is executed by {owner}, on another machine", hint=f"repro cancel {run[:12]}   there"
        )
    try:
        os.kill(owner.pid, signal.SIGINT)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise UsageError(f"run {run[:12]}: is executed by {owner}, which is not yours to end") from None
    until = time.monotonic() + _PATIENCE_SECONDS
    while Leases(store.layout).is_held(name):
        if time.monotonic() > until:
            raise InfrastructureError(f"run {run[:12]}: {owner} does not end it", hint=f"kill {owner.pid}")
        time.sleep(0.05)

"""Take a run of the team into this store, every byte checked.

repro pull 3f9c2a...            the whole hash, as `repro plan` or a teammate says it
repro pull 3f9c2a... --from team
"""

from __future__ import annotations

import argparse
import re

from repro_est.cli.common import TerminalObserver, add_json, metrics_line, open_store, shown_path
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.errors import UsageError, VerificationError
from repro_est.store.leases import Leases
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run hash, all of it")
    parser.add_argument("--from", dest="remote", metavar="REMOTE", help="only this one (default: all, in order)")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.share.remotes import Remotes

    console = Console(quiet=arguments.json)
    project, store = open_store()
    if not re.fullmatch("[0-9a-f]{32}", arguments.run):
        raise UsageError(f"{arguments.run}: expected all 32 digits of a run hash", hint="repro plan RECIPE")
    run, observer = RunHash(arguments.run), TerminalObserver(console)
    remotes, where = Remotes(project, store, observer), "store"
    try:
        with Leases(store.layout).hold(f"run-{run}"):
            result = Runs(store.layout).hit(run)
            if result is None:
                if not remotes.all():
                    raise UsageError("no remote in repro.toml", hint='[remotes.team] url = "file:///mnt/team"')
                fetched = remotes.fetch(run, name=arguments.remote)
                if fetched is None:
                    raise VerificationError(
                        f"run {run[:12]}: no remote has it in a way that can be believed", hint="repro remotes"
                    )
                result, where = fetched
    finally:
        remotes.close()
    outputs = store.layout.run(run) / "outputs"
    if arguments.json:
        metrics = {name: float(value) for name, value in result.metrics.items()}
        console.json({"run_hash": run, "where": where, "metrics": metrics, "outputs": str(outputs)})
        return 0
    console.out(f"run {run}  {'here already' if where == 'store' else f'from {where}'}  {metrics_line(result.metrics)}")
    console.out(shown_path(outputs))
    return 0

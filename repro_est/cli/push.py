"""Push runs to a remote of the team, signed: what the remote lacks travels.

repro push @                  the newest run, to every remote that takes something
repro push 3f9c --to team
repro push --all              every run that has a result
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import TerminalObserver, add_json, open_store
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.store.index import Index
from repro_est.store.records import Status
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", help="run hashes, unique starts of one, or `@`")
    parser.add_argument("--all", action="store_true", help="every run of this store that has a result")
    parser.add_argument("--to", metavar="REMOTE", help="only this one (default: all that take something)")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.share.remotes import Remotes

    console = Console(quiet=arguments.json)
    project, store = open_store()
    runs = Runs(store.layout)
    if arguments.all == bool(arguments.runs):
        raise UsageError("name runs, or say --all", hint="repro push @")
    if arguments.all:
        listed = Index(store.layout).rows(status=Status.COMPLETED, reverse=True)
        chosen = [row.run_hash for row in listed if runs.result(row.run_hash) is not None]
    else:
        chosen = [runs.resolve(text) for text in arguments.runs]
    remotes = Remotes(project, store, TerminalObserver(console))
    try:
        done = {run: remotes.push(run, arguments.to) for run in chosen}
    finally:
        remotes.close()
    if arguments.json:
        console.json(
            [
                {
                    "run_hash": run,
                    "remote": item.remote,
                    "objects": item.objects,
                    "bytes": item.size,
                    "new": item.is_new,
                }
                for run, items in done.items()
                for item in items
            ]
        )
    return 0

"""Copy a file or directory out of a run; every byte is checked against its digest on the way.

repro get @ outputs/model.joblib /tmp/model.joblib
repro get 3f9c outputs ./results
repro get 3f9c outputs ./partial --attempt 2    what one attempt left, a failed one too
repro get HASH outputs/model.joblib             of a run of the team that is not here: the whole hash
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from repro_est.cli.common import TerminalObserver, open_store, shown_path
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.inputs import subtree_of_attempt, subtree_of_run
from repro_est.project import Project
from repro_est.store.checkout import check_out
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run hash, a unique start of one, or `@`")
    parser.add_argument("path", help="what to copy: outputs, logs, or a path below them")
    parser.add_argument("destination", nargs="?", help="where to (default: the same name in the current directory)")
    parser.add_argument("--attempt", type=int, help="what this attempt left (default: the accepted result)")
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace a directory that is there, or put one in place of a file"
    )


def execute(arguments: argparse.Namespace) -> int:
    project, store = open_store()
    runs = Runs(store.layout)
    fetched = _from_remote(arguments, project, store, runs) if arguments.attempt is None else None
    run = runs.resolve(arguments.run) if fetched is None else RunHash(arguments.run)
    if fetched is not None:
        tree = fetched
    elif arguments.attempt is None:
        tree = subtree_of_run(run, arguments.path, store, runs)
    else:
        tree = subtree_of_attempt(run, arguments.attempt, arguments.path, store, runs)
        result = runs.result(run)
        if result is None or result.attempt != arguments.attempt:
            Console().warning(f"attempt {arguments.attempt} was not accepted; what it left is no result")
    name = arguments.path.rstrip("/").rsplit("/", 1)[-1]
    destination = Path(arguments.destination or name)
    if tree.single_file and destination.is_dir():
        destination = destination / name
    check_out(tree, destination, store, force=arguments.force)
    Console().out(shown_path(destination.absolute()))
    return 0


def _from_remote(arguments: argparse.Namespace, project: Project, store: Store, runs: Runs) -> Tree | None:
    """Returns a part of a run that is not here, its files fetched; None when the run is here, or nowhere."""
    if not project.remotes or not re.fullmatch("[0-9a-f]{32}", arguments.run):
        return None
    run = RunHash(arguments.run)
    if runs.result(run) is not None:
        return None
    from repro_est.share.remotes import Remotes

    remotes = Remotes(project, store, TerminalObserver(Console()))
    try:
        return remotes.part(run, arguments.path)
    finally:
        remotes.close()

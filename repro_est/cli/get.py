"""Copy a file or directory out of a run; every byte is checked against its digest on the way.

repro get @ outputs/model.joblib /tmp/model.joblib
repro get 3f9c outputs ./results
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from repro_est.cli.common import open_store, shown_path
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.files import remove_tree
from repro_est.inputs import subtree_of_run
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run hash, a unique start of one, or `@`")
    parser.add_argument("path", help="what to copy: outputs, logs, or a path below them")
    parser.add_argument("destination", nargs="?", help="where to (default: the same name in the current directory)")
    parser.add_argument("-f", "--force", action="store_true", help="replace a directory that is there")


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    tree = subtree_of_run(run, arguments.path, store, runs)
    name = arguments.path.rstrip("/").rsplit("/", 1)[-1]
    destination = Path(arguments.destination or name)
    if tree.single_file and destination.is_dir():
        destination = destination / name
    _copy(tree, destination, store, force=arguments.force)
    Console().out(shown_path(destination.absolute()))
    return 0


def _copy(tree: Tree, destination: Path, store: Store, *, force: bool) -> None:
    """Copies beside the destination first, so that a failed check leaves what was there."""
    replaces_directory = destination.is_dir() and not destination.is_symlink()
    if replaces_directory and not force:
        raise UsageError(f"{destination}: is a directory that exists already", hint="--force replaces it")
    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination}: its directory does not exist")
    temporary = destination.absolute().with_name(f".{destination.name}.{os.getpid()}.part")
    try:
        if tree.single_file:
            entry = tree.entries[0]
            store.fetch_blob(entry, temporary, mode=0o755 if entry.kind == "x" else 0o644)
        else:
            store.materialise(tree, temporary)
        if replaces_directory:
            remove_tree(destination)
        os.replace(temporary, destination)
    finally:
        remove_tree(temporary)

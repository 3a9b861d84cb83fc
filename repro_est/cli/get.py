"""Copy a file or directory out of a run; every byte is checked against its digest on the way.

repro get @ outputs/model.joblib /tmp/model.joblib
repro get 3f9c outputs ./results
repro get 3f9c outputs ./partial --attempt 2    what one attempt left, a failed one too
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from repro_est.cli.common import open_store, shown_path
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.files import remove_tree
from repro_est.inputs import subtree_of_attempt, subtree_of_run
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
    _, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    if arguments.attempt is None:
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
    _copy(tree, destination, store, force=arguments.force)
    Console().out(shown_path(destination.absolute()))
    return 0


def _copy(tree: Tree, destination: Path, store: Store, *, force: bool) -> None:
    """Copies beside the destination, then renames what was there aside: it is removed last, when all went well."""
    is_directory = destination.is_dir() and not destination.is_symlink()
    # A file replaces a file or a symlink, as cp does; a directory replaces nothing unasked.
    replaces = is_directory or (not tree.single_file and os.path.lexists(destination))
    if replaces:
        _check_replaceable(destination, store)
        if not force:
            what = "a directory" if is_directory else "a symlink" if destination.is_symlink() else "a file"
            raise UsageError(f"{destination}: is {what} that exists already", hint="--force replaces it")
    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination}: its directory does not exist")
    temporary, aside = (
        destination.absolute().with_name(f".{os.getpid()}.{os.urandom(4).hex()}.{end}") for end in ("part", "old")
    )
    try:
        if tree.single_file:
            entry = tree.entries[0]
            store.fetch_blob(entry, temporary, mode=0o755 if entry.kind == "x" else 0o644)
        else:
            store.materialise(tree, temporary)
        if replaces:
            os.rename(destination, aside)
        _place(temporary, destination, aside if replaces else None)
    finally:
        remove_tree(temporary)
    if replaces:
        remove_tree(aside)


def _place(temporary: Path, destination: Path, aside: Path | None) -> None:
    """Gives the copy its name; when that fails, what was set aside gets it back."""
    try:
        os.replace(temporary, destination)
    except BaseException:
        if aside is not None:
            os.rename(aside, destination)
        raise


def _check_replaceable(destination: Path, store: Store) -> None:
    """Refuses to replace what somebody stands on: the current directory or one around it, a mount point, the store.

    Raises:
        UsageError: it is one of these.
    """
    if destination.is_symlink():
        return  # only the link is replaced
    real, root = Path(os.path.realpath(destination)), Path(os.path.realpath(store.layout.root))
    reasons = {
        "is the current directory, or one around it": Path.cwd().is_relative_to(real),
        "is a mount point": os.path.ismount(real),
        "holds the store, or is a part of it": root.is_relative_to(real) or real.is_relative_to(root),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise UsageError(f"{destination}: {reason}, so it is not replaced", hint="name a new directory")

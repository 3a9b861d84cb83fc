"""Mending a store from the remotes: files that went missing here come back from a run of the team that has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from repro_est.digest import BlobHash, RunHash, TreeHash
from repro_est.errors import RemoteError, ReproError, VerificationError
from repro_est.files import remove_tree
from repro_est.observer import Observer
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.share.fetch import fetch_files, fetch_tree
from repro_est.share.remotes import Remotes
from repro_est.store.index import Index
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Tree

_PARTS = (OUTPUTS, LOGS, "source")


def mend(missing: Sequence[Entry], remotes: Remotes, store: Store, observer: Observer) -> list[BlobHash]:
    """Brings what the remotes have of these files into the store, checked as in any fetch; returns what came.

    Args:
        missing: files of trees of this store, each with its SHA-256.
    """
    wanted = {entry.xxh3: entry for entry in missing}
    brought: list[BlobHash] = []
    for run, part, lost in _runs_with(wanted, store):
        lost = [entry for entry in lost if entry.xxh3 in wanted]
        for found in remotes.find(run) if lost else ():
            try:
                whole = fetch_tree(found, part, store)
                there = {(entry.xxh3, entry.sha256) for entry in whole.files()}
                have = [entry for entry in lost if (entry.xxh3, entry.sha256) in there]
                fetch_files(found, whole, Tree.of(have), store, observer)
                _renew_view(run, part, whole, store)
            except (VerificationError, RemoteError) as error:
                observer.event("warning", message=error.message)
                continue
            for entry in have:
                brought.append(entry.xxh3)
                wanted.pop(entry.xxh3, None)
            break
    return brought


def _renew_view(run: RunHash, part: str, tree: Tree, store: Store) -> None:
    """Makes what people look at anew: its files are links to those that were bad."""
    result = Runs(store.layout).result(run)
    if result is not None and part != "source":
        view = store.layout.attempt(run, result.attempt) / part
        remove_tree(view)
        store.view(tree, view)


def _runs_with(wanted: dict[BlobHash, Entry], store: Store) -> Iterator[tuple[RunHash, str, list[Entry]]]:
    """Yields each run, which of its parts lacks files, and those files."""
    runs = Runs(store.layout)
    for row in Index(store.layout).rows():
        try:
            result, plan = runs.result(row.run_hash), runs.plan(row.run_hash)
            if result is None:
                continue
            trees = dict(zip(_PARTS, (result.outputs, result.logs, TreeHash(plan["plan"]["source"])), strict=True))
            for part, tree in trees.items():
                lost = [entry for entry in store.read_tree(tree).files() if entry.xxh3 in wanted]
                if lost:
                    yield row.run_hash, part, lost
        except (ReproError, KeyError, TypeError):
            continue  # `verify` says what is wrong with it

"""Name exactly what differs between a run and the nearest earlier one, with the lines of changed source files.

repro why @                     the newest run against the earlier run with the fewest differences
repro why 3f9c 81ab             what differs between two runs
repro why 3f9c recipe.toml      what a recipe's plan changes against that run; it must be locked, nothing is executed
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import TerminalObserver, add_json, add_overrides, add_run, open_store, shown_path
from repro_est.console import Console
from repro_est.digest import RunHash, TreeHash
from repro_est.errors import LockError, UsageError, VerificationError
from repro_est.explain import Difference, ReadTree, differences, hunk, nearest
from repro_est.plan import Document, Plan
from repro_est.project import Project
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree

_CANDIDATES = 200
"""How many of the latest runs are looked at for the nearest one."""
_WIDTH = 60
"""Characters of a value that a table shows; `--json` has all of it."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "other",
        nargs="?",
        help="a run to compare with instead of the nearest earlier one, or a recipe to hold against it",
    )
    add_overrides(parser)
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    project, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    before, after = _compared(run, arguments, project, store)
    found = differences(before.document, after.document, tree_reader(store))
    if arguments.json:
        console.json(
            {"run": after.hash, "compared_with": before.hash, "differences": [item.to_json() for item in found]}
        )
        return 0
    what = arguments.other if after.hash != run else "run"
    console.out(f"{what} {after.hash[:12]} compared with {before.hash[:12]}")
    show_differences(found, before.document, after.document, store, console)
    return 0


def _compared(run: RunHash, arguments: argparse.Namespace, project: Project, store: Store) -> tuple[Plan, Plan]:
    """Returns the plan that is compared with, and the one that is explained."""
    from repro_est.engine import plan_of

    plan, other = plan_of(run, store), arguments.other
    if other and (Path(other).suffix or Path(other).is_file()):
        return plan, _plan_of_recipe(Path(other), tuple(arguments.overrides), project, store)
    if arguments.overrides:
        raise UsageError("--set: goes with a recipe", hint=f"repro why {arguments.run} RECIPE --set ...")
    if other:
        return plan_of(Runs(store.layout).resolve(other), store), plan
    answer = explained(run, plan.document, plan.recorded.name, store)
    if answer is None:
        raise UsageError(f"run {run[:12]}: no earlier run to compare with", hint="repro ls")
    return plan_of(answer[0], store), plan


def _plan_of_recipe(path: Path, overrides: tuple[str, ...], project: Project, store: Store) -> Plan:
    """Returns the plan of a recipe that is locked; a lock is not made for a question.

    Raises:
        LockError: there is no lock, or it is stale.
    """
    from repro_est.engine import prepare
    from repro_est.recipe.load import load

    recipe = load(path, overrides)
    for item in recipe.with_needed:
        if not item.lock_path.exists():
            raise LockError(f"{shown_path(item.lock_path)}: no lock", hint=f"repro lock {shown_path(item.path)}")
    return prepare(recipe, project, store, TerminalObserver(Console())).plan


def explained(run: RunHash, document: Document, name: str, store: Store) -> tuple[RunHash, list[Difference]] | None:
    """Returns the nearest run made before `run` and what differs from it; None when there is none.

    Runs of the same recipe are asked first, others only when it has none.
    """
    from repro_est.engine import plan_of
    from repro_est.store.index import Index

    index = Index(store.layout)
    for same in (name, None):
        candidates: list[tuple[str, Document]] = []
        for earlier in _before(run, [row.run_hash for row in index.rows(name=same, limit=_CANDIDATES)]):
            try:
                candidates.append((earlier, plan_of(earlier, store).document))
            except VerificationError:
                continue  # `repro verify` names it; here it is just no candidate
        best = nearest(document, candidates)
        if best is not None:
            other = RunHash(best)
            return other, differences(plan_of(other, store).document, document, tree_reader(store))
    return None


def _before(run: RunHash, newest_first: list[RunHash]) -> list[RunHash]:
    """The runs made before `run`; all of them when it was not made yet."""
    return newest_first[newest_first.index(run) + 1 :] if run in newest_first else newest_first


def tree_reader(store: Store) -> ReadTree:
    """Returns a function that reads a tree, or None when the store has it no more."""

    def read(tree: TreeHash) -> Tree | None:
        return store.read_tree(tree) if store.has_tree(tree) else None

    return read


def difference_rows(found: list[Difference]) -> list[list[str]]:
    """Returns the lines of a table; of long values what stands around the first character that differs."""
    return [[item.leaf, *_shortened(item.before or "-", item.after or "-")] for item in found]


def _shortened(before: str, after: str) -> tuple[str, str]:
    if max(len(before), len(after)) <= _WIDTH:
        return before, after
    shorter = min(len(before), len(after))
    same = next((place for place in range(shorter) if before[place] != after[place]), shorter)
    start = max(0, same - _WIDTH // 2)

    def cut(text: str) -> str:
        shown = text[start : start + _WIDTH]
        more = f"... ({len(text):,} characters)" if len(text) > start + _WIDTH else ""
        return ("..." if start else "") + shown + more

    return cut(before), cut(after)


def show_differences(
    found: list[Difference], before: Document, after: Document, store: Store, console: Console
) -> None:
    """Prints the differing leaves, then the hunks of the source files among them."""
    if not found:
        console.out("nothing that identifies them differs")
        return
    console.table(difference_rows(found), header=("differs", "before", "after"))
    changed = [item.leaf for item in found if item.leaf.startswith("source/")]
    if not changed:
        return
    old, new = (store.read_tree(document["source"]) for document in (before, after))  # type: ignore[arg-type]
    for leaf in changed:
        path = leaf.removeprefix("source/")
        console.out("\n" + hunk(path, _content(old, path, store), _content(new, path, store)).rstrip("\n"))


def _content(tree: Tree, path: str, store: Store) -> bytes | None:
    entry = tree.by_path().get(path)
    if entry is None or not entry.is_file:
        return None
    return store.read_blob(entry)

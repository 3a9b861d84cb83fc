"""Inputs, pinned: each `[inputs.NAME]` becomes a tree hash and a note of where its bytes are.

An input of this machine is hashed where it lies, never copied: data is large, and its owner keeps it. What a
run is given is compared with the planned hash just before it starts (`open_input`) and its stat signature again
when it ended (`InputTree.changed`), so that the executed bytes are the hashed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash, Sha256, TreeHash
from repro_est.errors import InputError, UsageError
from repro_est.lock.values import Lock
from repro_est.plan import PlannedInput
from repro_est.recipe.values import Input, InputMode, ModelInput, PathInput, Recipe, RecipeInput, RunInput, UrlInput
from repro_est.snapshot import digest_input
from repro_est.store.freshness import renew_if_ours
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Kind, Tree

RunOf = Callable[[str, Recipe], RunHash]
"""Gives, for the input of a name, the run of a recipe; that has an accepted result."""


def pin_inputs(
    inputs: Sequence[Input], lock: Lock, store: Store, runs: Runs, run_of: RunOf
) -> tuple[PlannedInput, ...]:
    """Returns every input of a recipe with the hash of what the script will see.

    Raises:
        InputError: an input is missing, unreadable, or not in the lock.
        UsageError: a run or model that is not in this store.
    """
    return tuple(_pin(item, lock, store, runs, run_of) for item in inputs)


def _pin(item: Input, lock: Lock, store: Store, runs: Runs, run_of: RunOf) -> PlannedInput:
    copy = item.mode is InputMode.COPY
    match item.source:
        case PathInput(path):
            tree = digest_input(path, store).tree.hash
            return PlannedInput(item.name, tree, {"path": str(path)}, copy)
        case UrlInput(url, sha256):
            locked = next((known for known in lock.inputs if known.name == item.name), None)
            if locked is None or locked.sha256 != sha256:
                raise InputError(f"inputs.{item.name}: {url} is not in the lock", hint="repro lock RECIPE")
            return PlannedInput(item.name, TreeHash(locked.tree), {"url": locked.url, "sha256": sha256}, copy)
        case RunInput(run, path):
            resolved = runs.resolve(run)
            tree = as_input(subtree_of_run(resolved, path, store, runs), store)
            return PlannedInput(item.name, tree, {"run": resolved, "path": path}, copy)
        case RecipeInput(recipe, path):
            run = run_of(item.name, recipe)
            tree = as_input(subtree_of_run(run, path, store, runs), store)
            return PlannedInput(item.name, tree, {"run": run, "path": path, "recipe": str(recipe.path)}, copy)
        case ModelInput() as wanted:
            return _pin_model(item.name, wanted, store, copy=copy)


def _pin_model(input_name: str, wanted: ModelInput, store: Store, *, copy: bool) -> PlannedInput:
    """Returns a registered model as an input; of an alias it keeps the head of the history that said what it is."""
    from repro_est.store.aliases import LATEST, Aliases
    from repro_est.store.models import Models, Reference

    model = Models(store.layout).find(Reference(wanted.name, wanted.version, wanted.alias))
    origin: dict[str, Any] = {"model": model.name, "version": model.version, "run": model.run, "path": model.path}
    if wanted.alias:
        origin["alias"] = wanted.alias
    if wanted.alias not in ("", LATEST):
        origin["head"] = Aliases(store.layout, model.name).head()
    return PlannedInput(input_name, as_input(store.read_tree(model.tree), store), origin, copy)


def as_input(tree: Tree, store: Store) -> TreeHash:
    """Returns what a tree of the store is as an input: of a single file only its bytes and its name count."""
    if not tree.single_file or tree.entries[0].kind is Kind.FILE:
        return tree.hash
    plain = Tree.of([tree.entries[0]._replace(kind=Kind.FILE)], single_file=True)
    store.write_tree(plain)
    return plain.hash


def subtree_of_run(run: RunHash, path: str, store: Store, runs: Runs) -> Tree:
    """Returns a file or directory of a finished run as a tree of its own, and keeps its manifest.

    Args:
        path: `outputs`, `logs`, or a POSIX path below one of them.

    Raises:
        InputError: the run has no result, or nothing stands at `path`.
    """
    renew_if_ours(store.layout, store.layout.run(run))
    result = runs.result(run)
    if result is None:
        raise InputError(
            f"run {run}: has no accepted result, so nothing can be taken from it", hint=f"repro show {run}"
        )
    return _subtree(f"run {run}", path, result.outputs, result.logs, store)


def subtree_of_attempt(run: RunHash, number: int, path: str, store: Store, runs: Runs) -> Tree:
    """Returns a file or directory that one attempt of a run left, accepted or not, as a tree of its own.

    Raises:
        UsageError: there is no such attempt.
        InputError: it kept nothing, or nothing at `path`.
    """
    attempts = {item.number: item for item in runs.attempts(run)}
    if number not in attempts:
        there = ", ".join(map(str, attempts)) or "none"
        raise UsageError(f"run {run}: attempt {number}: no such attempt, there are: {there}")
    record = attempts[number]
    if not record.outputs:
        raise InputError(
            f"run {run}: attempt {number}: {record.status}, kept no outputs", hint=f"repro logs {run[:12]}"
        )
    what = f"run {run}: attempt {number}"
    return _subtree(what, path, TreeHash(record.outputs), TreeHash(record.logs), store)


def _subtree(what: str, path: str, outputs: TreeHash, logs: TreeHash, store: Store) -> Tree:
    top, _, rest = path.strip("/").partition("/")
    if top not in ("outputs", "logs"):
        raise InputError(f"{what}: {path}: got `{top}`, expected a path below `outputs` or `logs`")
    whole = store.read_tree(outputs if top == "outputs" else logs)
    tree = whole.below(rest)
    if tree is None:
        there = ", ".join(entry.path for entry in whole.entries[:8]) or "nothing"
        raise InputError(f"{what}: {path}: no such file, {top}/ holds: {there}")
    store.write_tree(tree)
    return tree


def fetched_path(store: Store, url: str, sha256: str) -> Path:
    """Returns where a URL input lies in the store once it was fetched."""
    from urllib.parse import unquote, urlsplit

    filename = unquote(urlsplit(url).path.rsplit("/", 1)[-1]) or "download"
    return store.layout.fetched(Sha256(sha256), filename.replace("/", "_").lstrip(".") or "download")

"""Registering a model: a path among the outputs of a run, or a file of this machine that belongs to no run.

Only what a run was accepted with can be registered: what a failed attempt left is no result.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from repro_est.digest import RunHash
from repro_est.errors import InputError
from repro_est.snapshot import keep
from repro_est.store.chain import moment
from repro_est.store.freshness import renew_if_ours
from repro_est.store.models import Model, Models, check_labels
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Labels:
    """What is said of a model beside its bytes; see `store.models.Model`."""

    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    framework: str = ""
    framework_version: str = ""


def register_output(
    store: Store, run: RunHash, path: str, name: str, labels: Labels | None = None, *, always_new: bool = False
) -> Model:
    """Registers a file or directory of a completed run.

    Args:
        path: POSIX path below the run, `outputs/model.pkl`.
        always_new: make a new version of the same bytes too.

    Raises:
        InputError: the run has no result, or nothing stands at `path`; what could be meant is named.
        UsageError: a name that no model may have, or a framework's version without the framework.
    """
    runs = Runs(store.layout)
    renew_if_ours(store.layout, store.layout.run(run))
    result = runs.result(run)
    if result is None:
        attempts = runs.attempts(run)
        state = f"its last attempt is `{attempts[-1].status}`" if attempts else "it was not executed yet"
        raise InputError(
            f"run {run}: {state}, and only what a completed run has written can be registered",
            hint=f"repro show {run[:12]}",
        )
    outputs = store.read_tree(result.outputs)
    tree, place = _found(outputs, path, run)
    store.write_tree(tree)
    return _register(store, name, run, place, tree, labels or Labels(), attempt=result.attempt, always_new=always_new)


def register_file(
    store: Store, path: Path, name: str, labels: Labels | None = None, *, always_new: bool = False
) -> Model:
    """Registers a file or directory of this machine; a copy of it is kept.

    Raises:
        InputError, SourceError: it is missing, or something in it cannot be kept.
        UsageError: as for `register_output`.
    """
    said = labels or Labels()
    check_labels(name, said.framework, said.framework_version)
    tree = keep(path, store)
    return _register(store, name, RunHash(""), path.absolute().name, tree, said, attempt=0, always_new=always_new)


def _register(
    store: Store,
    name: str,
    run: RunHash,
    path: str,
    tree: Tree,
    said: Labels,
    *,
    attempt: int,
    always_new: bool,
) -> Model:
    model = Model(
        name,
        0,
        run,
        path,
        tree.hash,
        moment(),
        said.description,
        dict(said.tags),
        dict(said.properties),
        said.framework,
        said.framework_version,
        attempt,
    )
    return Models(store.layout).register(model, always_new=always_new)


def _found(outputs: Tree, path: str, run: RunHash) -> tuple[Tree, str]:
    """Returns what stands at a path of a run and the path as it is recorded."""
    place = PurePosixPath(path).as_posix()
    top, _, rest = place.partition("/")
    tree = outputs.below(rest) if top == "outputs" and rest else None
    if tree is not None:
        return tree, place
    files = [f"outputs/{entry.path}" for entry in outputs.entries]
    if not files:
        raise InputError(f"run {run}: {path}: no such file, the run has no outputs")
    directories = {parent for file in files for parent in _parents(file)}
    near = difflib.get_close_matches(place, [*files, *directories], n=1, cutoff=0.6)
    same_name = [file for file in files if file.rpartition("/")[2] == PurePosixPath(place).name]
    hint = next(iter((*same_name, *near)), None)
    listed = "\n".join(f"  {file}" for file in files[:_SHOWN])
    more = f"\n  ... and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    raise InputError(
        f"run {run}: {path}: no such file, expected a path below `outputs/`; there are:\n{listed}{more}",
        hint=f"did you mean `{hint}`?" if hint else f"repro show {run[:12]}",
    )


def _parents(file: str) -> list[str]:
    parts = file.split("/")
    return ["/".join(parts[:length]) for length in range(2, len(parts))]

"""What an attempt left behind, taken into the store: outputs, logs, metrics, and every promise that was broken.

The files of the work directory belong to `repro` and no process is alive any more, so they are moved into the
blobs, not copied; `attempts/<n>/outputs` and `logs` then are read-only views of them.

A broken promise (a declared output that is missing, a link that leaves the outputs, an input that was written
to, a secret in a file) makes the attempt a failure; what could be kept is kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro_est.console import visible
from repro_est.files import remove_tree
from repro_est.inside.history import History, read_run
from repro_est.outputs import LOGS, OUTPUTS, missing_outputs, read_metrics
from repro_est.plan import Plan
from repro_est.scan import Scanned, scan
from repro_est.snapshot import changes
from repro_est.store.blobs import Batch
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree
from repro_est.targets.stage import Workplace

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Collected:
    """The kept files of an attempt.

    Args:
        problems: promises that were broken, in words; empty for a success.
        warnings: what a person should know of a success.
        history: what the script recorded of itself.
    """

    outputs: Tree
    logs: Tree
    metrics: Mapping[str, float]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    history: History = field(default_factory=History)


def collect(plan: Plan, store: Store, place: Workplace, attempt: Path, *, secrets: Mapping[str, str]) -> Collected:
    """Moves what the script wrote into the store and checks what the recipe promised.

    Args:
        attempt: directory of the attempt; its `logs/` holds the logs of the ranks already.
        secrets: name to value; a file that holds a value is dropped and reported.
    """
    problems = [
        f"inputs.{name}: the script changed {path}; inputs are read-only"
        for name, tree, before in place.inputs
        for path in changes(before, tree)
    ]
    metrics, warnings = read_metrics(place.source / plan.recorded.metrics, plan.recorded.metrics)
    _merge_logs(place.logs, attempt / LOGS)
    history = read_run(str(attempt / LOGS))
    with store.batch() as batch:
        outputs, lost = _take(place.outputs, OUTPUTS, batch, secrets)
        logs, lost_logs = _take(attempt / LOGS, LOGS, batch, secrets)
        batch.publish()
    problems += [*lost, *lost_logs, *_own_verdict(history)]
    problems += [
        f"{pattern}: declared in [outputs], not written" for pattern in missing_outputs(plan.recorded.required, outputs)
    ]
    wanted = [(model.name, model.path) for model in plan.recorded.models]
    problems += [
        f"{path}: to be registered as model `{name}`, not written"
        for name, path in [*wanted, *((model["name"], model["path"]) for model in history.models)]
        if outputs.below(path.removeprefix(f"{OUTPUTS}/")) is None
    ]
    for name, tree in ((OUTPUTS, outputs), (LOGS, logs)):
        store.write_tree(tree)
        remove_tree(attempt / name)
        store.view(tree, attempt / name)
    return Collected(outputs, logs, {**history.scalars(), **metrics}, tuple(problems), tuple(warnings), history)


def _own_verdict(history: History) -> list[str]:
    """What the script said of itself with `run.fail`."""
    if history.end is None or history.end[0] != "failed":
        return []
    text = visible(history.end[1] or "")
    return [f"it called run.fail{f': {text}' if text else ''}"]


def _merge_logs(written: Path, logs: Path) -> None:
    """Moves the script's own logs beside those of the ranks; a name that is taken gets `script-` before it."""
    logs.mkdir(exist_ok=True)
    try:
        names = os.listdir(written)
    except OSError:  # the script removed its logs directory, or made it a file
        return
    for name in names:
        mine, theirs = written / name, logs / name
        if not os.path.lexists(theirs):
            os.rename(mine, theirs)
        elif _is_directory(mine) and _is_directory(theirs):  # `rank-2`: what rank 2 wrote itself
            _merge_logs(mine, theirs)
        else:
            os.rename(mine, logs / f"script-{name}")


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _take(root: Path, shown: str, batch: Batch, secrets: Mapping[str, str]) -> tuple[Tree, list[str]]:
    """Takes the files below `root` into the store; what cannot be kept is left out and named."""
    scanned, problems = _scan(root, shown)
    files: list[Scanned] = []
    entries: list[Entry] = []
    for item in scanned:
        if item.kind in (Kind.SYMLINK, Kind.DIRECTORY):
            entries.append(Entry(item.path, item.kind, target=item.target))
        elif leaked := leaked_secret(root / item.path, secrets):
            problems.append(f"{shown}/{item.path}: holds the value of the secret {leaked}; the file was not kept")
        else:
            files.append(item)
    contents = batch.adopt([root / item.path for item in files])
    entries += [
        Entry(item.path, item.kind, content.xxh3, content.size, content.sha256)
        for item, content in zip(files, contents, strict=True)
    ]
    return Tree.of(entries), problems


def _scan(root: Path, shown: str) -> tuple[Sequence[Scanned], list[str]]:
    if root.is_symlink() or not root.is_dir():
        return (), [f"{shown}/: the script removed or replaced the directory"]
    return scan(root, shown=shown)


def leaked_secret(path: Path, secrets: Mapping[str, str]) -> str | None:
    """Returns the name of a secret whose value stands in the file, reading it in pieces."""
    needles = {name: os.fsencode(value) for name, value in secrets.items() if value}
    if not needles:
        return None
    overlap = max(map(len, needles.values())) - 1
    tail = b""
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            window = tail + chunk
            for name, needle in needles.items():
                if needle in window:
                    return name
            tail = window[-overlap:] if overlap else b""
    return None

"""A completed run and everything that went into it, as values: what statements, bills and capsules are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro_est.digest import RunHash
from repro_est.errors import ReproError, UsageError
from repro_est.inputs import fetched_path
from repro_est.lock.lockfile import loads
from repro_est.lock.values import Artifact, CondaPackage, Lock, Package
from repro_est.plan import Plan, PlannedInput, load_plan
from repro_est.proof.reproduce import accepted
from repro_est.proof.sums import with_sums
from repro_est.store.records import AttemptRecord, Result
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree


@dataclass(frozen=True, slots=True)
class InputMaterial:
    """An input of a run.

    Args:
        tree: with a SHA-256 for each file; None where its bytes are not here any more.
        root: where they are, None for blobs of the store.
    """

    planned: PlannedInput
    tree: Tree | None
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Materials:
    """A run whose result was accepted; each tree with a SHA-256 for each file.

    Args:
        attempt: the accepted one.
    """

    plan: Plan
    result: Result
    attempt: AttemptRecord
    lock: Lock
    source: Tree
    outputs: Tree
    logs: Tree
    inputs: tuple[InputMaterial, ...]

    @property
    def platform(self) -> str:
        return str(self.plan.environment["platform"])

    @property
    def finished(self) -> str:
        """When, to the second, as RFC 3339 has it."""
        return seconds(self.result.finished)

    @property
    def pip(self) -> Iterator[tuple[Package, Artifact]]:
        """The packages of an index that its platform needs, and what those are built with that are built."""
        told: set[str] = set()
        packages = [item for item in self.lock.packages if item.artifact(self.platform)]
        build = [pinned for item in packages if _is_built(item, self.platform) for pinned in item.build]
        for package in (*packages, *build):
            artifact = package.artifact(self.platform)
            if artifact is not None and artifact.sha256 not in told:
                told.add(artifact.sha256)
                yield package, artifact

    @property
    def conda(self) -> tuple[CondaPackage, ...]:
        return self.lock.conda_packages(self.platform)


def materials_of(run: RunHash, store: Store) -> Materials:
    """Returns a completed run with all that went into it.

    Raises:
        UsageError: it has no result.
        VerificationError: its plan, result or a file of it is not what it is named for.
    """
    runs = Runs(store.layout)
    plan = load_plan(runs.plan(run), run)
    result = accepted(run, store)
    attempt = next((item for item in runs.recorded(run) if item.number == result.attempt), None)
    if attempt is None:
        raise UsageError(f"run {run[:12]}: has no record of attempt {result.attempt}", hint="repro verify")
    recorded = plan.recorded
    lock = loads(recorded.lock.encode(), Path(f"the lock of run {run[:12]}"), lambda _: recorded.conda_lock.encode())
    return Materials(
        plan,
        result,
        attempt,
        lock,
        with_sums(store.read_tree(plan.source), store),
        with_sums(store.read_tree(result.outputs), store),
        with_sums(store.read_tree(result.logs), store),
        tuple(_input(item, store) for item in recorded.inputs),
    )


def seconds(moment: str) -> str:
    """Returns a time of a record without its fraction of a second."""
    return moment.partition(".")[0].removesuffix("Z") + "Z" if moment else ""


def _input(item: PlannedInput, store: Store) -> InputMaterial:
    """Finds the bytes of an input: in the store, else where it was."""
    try:
        tree = store.read_tree(item.tree)
    except ReproError:
        return InputMaterial(item, None)
    if all(map(store.has_blob, tree.files())):
        return InputMaterial(item, with_sums(tree, store))
    origin = item.origin
    if "url" in origin:
        root = fetched_path(store, str(origin["url"]), str(origin["sha256"]))
    elif set(origin) == {"path"}:
        root = Path(str(origin["path"]))
    else:
        return InputMaterial(item, None)
    try:
        return InputMaterial(item, with_sums(_unsummed(tree), store, root=root), root)
    except ReproError:
        return InputMaterial(item, None)


def _unsummed(tree: Tree) -> Tree:
    """A tree whose files lie with somebody else: what its manifest says of them may have become untrue."""
    entries = (entry._replace(sha256=None) for entry in tree.entries)
    return Tree.of(entries, single_file=tree.single_file)


def _is_built(package: Package, platform: str) -> bool:
    artifact = package.artifact(platform)
    return artifact is not None and not artifact.is_wheel

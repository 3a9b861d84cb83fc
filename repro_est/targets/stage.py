"""The place where an attempt executes: a private copy of the snapshot, its inputs, and nothing else.

    <work>/source/            the snapshot, writable and private; the script starts here
    <work>/source/outputs/    empty, as is logs/: Azure ML's special folders
    <work>/inputs/NAME        a link to the input (mode mount) or a private copy (mode copy); an input that is
                              a single file is inputs/NAME/<its file name>
    <work>/home, <work>/tmp   fresh HOME and TMPDIR
    <work>/modules            what `repro` puts on the Python path (`targets.parcel`)

Each input is compared with the planned hash here, so that what the script opens is what was hashed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro_est.digest import RunHash
from repro_est.errors import InputError
from repro_est.files import copy_file
from repro_est.inputs import fetched_path, subtree_of_run
from repro_est.lock.values import Lock, LockedInput
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, PlannedInput
from repro_est.recipe.values import Recipe, UrlInput
from repro_est.scan import Signature
from repro_est.snapshot import InputTree, digest_input, signatures
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree
from repro_est.targets.parcel import MODULES, unpack


@dataclass(frozen=True, slots=True)
class Workplace:
    """A staged attempt.

    Args:
        source: working directory of the script.
        modules: goes onto its Python path.
        input_paths: what an argument `{input = NAME}` becomes.
        inputs: name, tree and stat signatures of the mounted inputs, to be looked at again when the script has ended.
        read_only: the directories and files the script must not write to.
    """

    source: Path
    home: Path
    temporary: Path
    modules: Path
    input_paths: dict[str, str]
    inputs: tuple[tuple[str, InputTree, Mapping[str, Signature | None]], ...]
    read_only: tuple[Path, ...]

    @property
    def outputs(self) -> Path:
        return self.source / OUTPUTS

    @property
    def logs(self) -> Path:
        return self.source / LOGS


def stage(plan: Plan, store: Store, root: Path) -> Workplace:
    """Builds the work directory of `plan` below `root`, an empty directory of the store's file system.

    Raises:
        InputError: an input is gone, or is not what was planned.
        VerificationError: the snapshot was tampered with.
    """
    source = root / "source"
    store.materialise(store.read_tree(plan.source), source)
    for directory in (source / OUTPUTS, source / LOGS, root / "home", root / "tmp", root / "inputs"):
        directory.mkdir()
    paths: dict[str, str] = {}
    opened: list[tuple[str, InputTree, Mapping[str, Signature | None]]] = []
    read_only: list[Path] = []
    for item in plan.recorded.inputs:
        tree = open_input(item, store, root / "views")
        link = root / "inputs" / item.name
        if tree.tree.single_file:
            link.mkdir()
            link = link / tree.path.name
        if item.copy:
            _copy_input(tree, link)
        else:
            link.symlink_to(tree.path)
            opened.append((item.name, tree, signatures(tree)))
            read_only.append(tree.path)
        paths[item.name] = str(link)
    unpack(root / MODULES, azureml=plan.compat_azureml)
    return Workplace(source, root / "home", root / "tmp", root / MODULES, paths, tuple(opened), tuple(read_only))


def open_input(item: PlannedInput, store: Store, views: Path) -> InputTree:
    """Finds the bytes of an input and checks that they are the planned ones.

    Where they are gone from where they were, a store that has them all gives them.

    Args:
        views: where a private copy is made of an input that lives in the store only.
    """
    kept = _kept(item, store)
    if kept is not None and not _is_where_it_was(item, store):
        real = _copy_of(item.name, kept, store, views)
    else:
        real = _place_of(item, store, views)
    tree = digest_input(real, store)
    if tree.tree.hash != item.tree:
        raise InputError(
            f"inputs.{item.name}: {real} changed since it was planned\n"
            f"  expected tree {item.tree}, got {tree.tree.hash}",
            hint="run the recipe again, so that the new content gets its own hash",
        )
    return tree


def _place_of(item: PlannedInput, store: Store, views: Path) -> Path:
    match dict(item.origin):
        case {"path": path, **rest} if not rest:
            return Path(path)
        case {"url": url, "sha256": sha256}:
            return _fetched(url, sha256, store)
        case {"model": _}:
            return _copy_of(item.name, store.read_tree(item.tree), store, views)
        case {"run": run, "path": path}:
            return _copy_of(item.name, subtree_of_run(run, path, store, Runs(store.layout)), store, views)
        case origin:
            raise InputError(f"inputs.{item.name}: cannot tell where its bytes are from {origin!r}")


def _kept(item: PlannedInput, store: Store) -> Tree | None:
    """Returns the input as the store has it, None where it has not all of its bytes; it has after a capsule came."""
    if not store.has_tree(item.tree):
        return None
    tree = store.read_tree(item.tree)
    return tree if all(map(store.has_blob, tree.files())) else None


def _is_where_it_was(item: PlannedInput, store: Store) -> bool:
    """Whether the place the plan names still has what was planned."""
    origin = item.origin
    if "run" in origin:
        return "model" in origin or Runs(store.layout).result(RunHash(origin["run"])) is not None
    if "url" in origin:
        return fetched_path(store, origin["url"], origin["sha256"]).exists()
    try:
        return digest_input(Path(origin["path"]), store).tree.hash == item.tree
    except InputError:
        return False


def lock_url_inputs(recipe: Recipe, lock: Lock, store: Store) -> Lock:
    """Returns `lock` with every URL input of the recipe, fetched where it is not known yet."""
    known = {item.name: item for item in lock.inputs}
    locked: list[LockedInput] = []
    for item in recipe.inputs:
        if not isinstance(item.source, UrlInput):
            continue
        old = known.get(item.name)
        if old is not None and (old.url, old.sha256) == (item.source.url, item.source.sha256):
            locked.append(old)
            continue
        real = _fetched(item.source.url, item.source.sha256, store)
        tree = digest_input(real, store).tree
        locked.append(LockedInput(item.name, item.source.url, item.source.sha256, tree.size, tree.hash))
    return dataclasses.replace(lock, inputs=tuple(sorted(locked, key=lambda item: item.name)))


def _fetched(url: str, sha256: str, store: Store) -> Path:
    path = fetched_path(store, url, sha256)
    if not renew_if_ours(store.layout, path):
        from repro_est.lock.fetch import fetch

        with writing(path):
            fetch(url, sha256, path, what=url)
    return path


def _copy_of(name: str, tree: Tree, store: Store, views: Path) -> Path:
    views.mkdir(exist_ok=True)
    store.materialise(tree, views / name)  # a copy: a hard link's ctime moves with every other view of its blob
    return views / name / tree.entries[0].path if tree.single_file else views / name


def _copy_input(tree: InputTree, destination: Path) -> None:
    if tree.tree.single_file:
        copy_file(tree.path, destination, mode=0o644)
    else:
        shutil.copytree(tree.path, destination, symlinks=True, copy_function=shutil.copy)

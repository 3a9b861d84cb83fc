"""Cleaning the store: what nothing keeps is moved to `trash/` and removed; safe beside all that goes on meanwhile.

The sweep goes from the referring to the referred: runs and versions of models, then environments and the like, trees,
blobs, packs. Each thing is looked at once more under the lock of `freshness` and renamed; whatever was used since it
was marked (`marking`) stays, with all it refers to. So a process that is killed, or a job that begins, at any point
finds a store in which nothing that is there lacks a part. What is in `trash/` is removed after each step, or by the
next cleaning.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from repro_est.digest import BlobHash, RunHash, xxh3_hex
from repro_est.errors import InfrastructureError
from repro_est.files import remove_tree, sync_filesystem
from repro_est.project import Keeping
from repro_est.store.freshness import GRACE_SECONDS, removing
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.marking import (
    BLOBS,
    ENVIRONMENTS,
    FETCHED,
    IMAGES,
    KINDS,
    LAYERS,
    MODELS,
    PACKAGES,
    RUNS,
    STATS,
    TREES,
    UNPACKED,
    Marked,
    Tally,
    Thing,
    entries,
)
from repro_est.store.models import Model
from repro_est.store.packs import PackIndex, Packs
from repro_est.store.quota import forget_size
from repro_est.store.reach import RunFacts, layer_of_note, layers_of_image, tree_of_unpacked, trees_of_environment
from repro_est.store.roots import users_first
from repro_est.store.scratch import claimed_directory
from repro_est.store.spill import PARTS, Spill

_STEP = 256
"""Things looked at and renamed under one lock: a few milliseconds."""

_REMOVERS = 4
"""Threads that remove what is in the trash: a disk that is told of every freed block takes its time with each."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a cleaning would remove, or has removed.

    Args:
        runs: the least recently used first.
        kinds: how much, by kind.
        unread: what could not be read, in words; it is kept.
        over: bytes above the quota that stay, because nothing more may go.
    """

    runs: tuple[RunFacts, ...]
    kinds: dict[str, Tally]
    unread: tuple[str, ...]
    over: int

    @property
    def count(self) -> int:
        return sum(tally.count for tally in self.kinds.values())

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(tally.size for tally in self.kinds.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": self.size,
            "kinds": {kind: {"count": tally.count, "bytes": tally.size} for kind, tally in self.kinds.items()},
            "runs": [{"run_hash": run.run, "name": run.name, "used": run.used} for run in self.runs],
            "unread": list(self.unread),
            "bytes_over_quota": self.over,
        }


def preview(layout: Layout, keeping: Keeping) -> GcReport:
    """Returns what a cleaning would remove; removes nothing."""
    with claimed_directory(layout, "tmp") as scratch:
        marked = Marked(layout, keeping, Spill(scratch))
        return _report(marked, marked.dead_runs(), marked.dead())


def collect(layout: Layout, keeping: Keeping) -> GcReport:
    """Removes what nothing keeps; returns what that was.

    Raises:
        InfrastructureError: another cleaning is going on.
    """
    leases = Leases(layout)
    if leases.is_held("gc"):
        raise InfrastructureError(f"{layout.root}: is being cleaned by {leases.owner('gc')}", hint="wait for it")
    with leases.hold("gc"), claimed_directory(layout, "tmp") as scratch:
        marked = Marked(layout, keeping, Spill(scratch))
        with ThreadPoolExecutor(_REMOVERS) as pool:
            sweep = _Sweep(marked, pool)
            sweep.all()
        forget_size(layout)
        return _report(marked, sweep.gone, sweep.tallies)


def _report(marked: Marked, runs: Iterable[RunHash], kinds: dict[str, Tally]) -> GcReport:
    facts = sorted((marked.runs[run] for run in runs), key=lambda facts: (facts.used, facts.run))
    return GcReport(tuple(facts), kinds, tuple(marked.broken), marked.over)


class _Sweep:
    """Removes what is marked."""

    def __init__(self, marked: Marked, pool: ThreadPoolExecutor) -> None:
        self._marked, self._layout, self._pool = marked, marked.layout, pool
        self.tallies = {kind: Tally() for kind in KINDS}
        self.gone: list[RunHash] = []
        self._kept_names: dict[str, set[str]] = defaultdict(set)

    def all(self) -> None:
        self._runs()
        self._models()
        # A power cut must not bring back what refers to something, and not what it refers to.
        sync_filesystem(self._layout.root)
        for kinds in ((ENVIRONMENTS, UNPACKED, IMAGES), (LAYERS, PACKAGES, FETCHED, STATS)):
            self._things(kinds)
        sync_filesystem(self._layout.root)
        self._trees()
        sync_filesystem(self._layout.root)
        self._blobs()
        self._packs()

    # ---- steps

    def _runs(self) -> None:
        marked = self._marked

        def is_dead(run: RunHash) -> bool:
            facts, path = marked.runs[run], self._layout.run(run)
            if run in self._kept_names[RUNS] or not path.exists():
                return False
            unused = path.stat().st_mtime == facts.used and not self._layout.pin(run).exists()
            if unused and not Leases(self._layout).is_held(f"run-{run}"):
                return True
            self._keep_run(run)
            return False

        for run in self._step(users_first(marked.dead_runs(), marked.runs), is_dead, self._paths_of_run):
            self.gone.append(run)
            self.tallies[RUNS].add(marked.runs[run].size)

    def _paths_of_run(self, run: RunHash) -> list[Path]:
        return [self._layout.run(run), self._layout.directory("stat") / f"{run}.blobs"]

    def _keep_run(self, run: RunHash) -> None:
        """Keeps a run that was used since, and all that it refers to."""
        waiting = [run]
        while waiting:
            facts = self._marked.runs.get(waiting.pop())
            if facts is None or facts.run in self._kept_names[RUNS]:
                continue
            self._kept_names[RUNS].add(facts.run)
            self._kept_names[ENVIRONMENTS].add(facts.environment)
            self._kept_names[PACKAGES].update(digest.hex() for digest in facts.files)
            for tree in facts.trees:
                self._marked.keep_tree(tree)
            waiting += facts.sources

    def _models(self) -> None:
        def is_dead(model: Model) -> bool:
            if _is_old(self._layout.model(model.name, model.version)):
                return True
            self._marked.keep_tree(bytes.fromhex(model.tree))
            return False

        for _ in self._step(self._marked.registry.dropped, is_dead, self._paths_of_model):
            self.tallies[MODELS].add(0)

    def _paths_of_model(self, model: Model) -> list[Path]:
        layout, name, version = self._layout, model.name, model.version
        return [layout.model(name, version), layout.model_tags(name, version), layout.model_view(name, version)]

    def _things(self, kinds: tuple[str, ...]) -> None:
        dead = [item for item in self._marked.things if item.kind in kinds and item.rank <= self._marked.threshold]

        def is_dead(thing: Thing) -> bool:
            if self._is_kept(thing):
                self._keep_thing(thing)
                return False
            return True

        for thing in self._step(dead, is_dead, lambda thing: [thing.path]):
            self.tallies[thing.kind].add(thing.size)
            if thing.kind in (PACKAGES, FETCHED):
                _remove_if_empty(thing.path.parent)

        if IMAGES in kinds:
            self._remove_tags()

    def _is_kept(self, thing: Thing) -> bool:
        try:
            if os.lstat(thing.path).st_mtime != thing.used:
                return True
        except FileNotFoundError:
            return True
        kept = self._kept_names
        match thing.kind:
            case "images":
                return layers_of_image(thing.path)[0] in kept[ENVIRONMENTS]
            case "layers":
                layer = thing.path.stem if thing.path.suffix == ".tar" else layer_of_note(thing.path)
                return layer in kept[LAYERS]
            case "packages" | "fetched":
                return thing.name in kept[PACKAGES]
        return thing.name in kept[thing.kind]

    def _keep_thing(self, thing: Thing) -> None:
        trees: list[bytes] = []
        match thing.kind:
            case "environments":
                trees = trees_of_environment(thing.path)
            case "unpacked":
                trees = tree_of_unpacked(thing.path)
            case "images":
                self._kept_names[LAYERS].update(layers_of_image(thing.path)[1])
        for tree in trees:
            self._marked.keep_tree(tree)

    def _remove_tags(self) -> None:
        """Removes the tags of images that are gone."""
        for path in self._layout.directory("images").iterdir():
            if path.is_symlink() and not path.exists():
                path.unlink(missing_ok=True)

    def _trees(self) -> None:
        marked = self._marked
        dead = [bytes.fromhex(name) for rank, name in marked.old_trees if rank <= marked.threshold]

        def is_dead(tree: bytes) -> bool:
            if marked.tree_ranks.get(tree, 0) > marked.threshold:
                return False
            if _is_old(self._tree(tree)):
                return True
            marked.keep_tree(tree)
            return False

        sizes = {tree: _size(self._tree(tree)) for tree in dead}
        for tree in self._step(dead, is_dead, lambda tree: [self._tree(tree)]):
            self.tallies[TREES].add(sizes[tree])

    def _tree(self, tree: bytes) -> Path:
        name = tree.hex()
        return self._layout.directory("trees") / name[:2] / name[2:]

    def _blobs(self) -> None:
        for part in range(PARTS):
            needed = self._marked.needed(part)
            dead = {
                BlobHash(name): status.st_size
                for name, status in entries(self._layout.directory("blobs"), part)
                if needed.get(bytes.fromhex(name), 0) <= self._marked.threshold
            }

            def is_dead(name: BlobHash) -> bool:
                return _is_old(self._layout.blob(name))

            for name in self._step(dead, is_dead, lambda name: [self._layout.blob(name)]):
                self.tallies[BLOBS].add(dead[name])

    def _packs(self) -> None:
        """Removes packs of which nothing is needed, and writes anew what is needed of those that are mostly not."""
        sparse = [index for index in self._marked.packs if self._marked.is_sparse(index.pack)]
        needed: dict[Path, list[tuple[bytes, int, int]]] = {index.pack: [] for index in sparse}
        for part in range(PARTS) if sparse else ():
            ranks = self._marked.needed(part)
            for index in sparse:
                kept = (item for item in index.part(part) if ranks.get(item[0], 0) > self._marked.threshold)
                needed[index.pack] += kept
        for index in sparse:
            if _is_old(index.pack) and self._copied(index, needed[index.pack]):
                freed = _size(index.pack) - sum(size for _, _, size in needed[index.pack])
                count = index.number - len(needed[index.pack])
                # The index first: a pack without one is not there.
                for _ in self._step([index], lambda index: _is_old(index.pack), lambda index: [index.path, index.pack]):
                    self.tallies[BLOBS].add(freed, count)

    def _copied(self, index: PackIndex, kept: list[tuple[bytes, int, int]]) -> bool:
        """Copies blobs out of a pack; whether all of them were what they are named for."""
        if not kept:
            return True
        with claimed_directory(self._layout, "tmp") as scratch, open(index.pack, "rb") as source:
            staged, placed = scratch / "pack", dict[BlobHash, tuple[int, int]]()
            with open(staged, "wb") as file:
                for digest, offset, size in kept:
                    data = os.pread(source.fileno(), size, offset)
                    if xxh3_hex(data) != digest.hex():
                        return False  # for `repro verify`
                    placed[BlobHash(digest.hex())] = (file.tell(), size)
                    file.write(data)
            Packs(self._layout).add(staged, placed)
        return True

    # ---- removing

    def _step(
        self, items: Iterable[_T], is_dead: Callable[[_T], bool], paths: Callable[[_T], list[Path]]
    ) -> Iterator[_T]:
        """Removes things, so many at a time; yields each that is gone.

        Args:
            is_dead: asked when nobody can begin to use it any more.
        """
        waiting = list(items)
        for start in range(0, len(waiting), _STEP):
            trash = self._layout.directory("trash") / f"gc-{os.getpid()}-{os.urandom(6).hex()}"
            trash.mkdir(parents=True)
            gone: list[_T] = []
            with removing(self._layout):
                for item in waiting[start : start + _STEP]:
                    if is_dead(item):
                        for number, path in enumerate(paths(item)):
                            _move(path, trash / f"{len(gone)}-{number}")
                        gone.append(item)
            self._pool.submit(remove_tree, trash)
            yield from gone


def _move(path: Path, place: Path) -> None:
    """Renames what is still there; another cleaning may just have emptied the trash."""
    while True:
        try:
            os.rename(path, place)
            return
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
            place.parent.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            if os.access(path, os.W_OK) or not path.is_dir():
                raise
            os.chmod(path, 0o755)  # a directory is renamed only by who may write to it


def _is_old(path: Path) -> bool:
    """Whether nobody wrote or renewed a file for a day; one that is gone is not."""
    try:
        return time.time() - os.lstat(path).st_mtime >= GRACE_SECONDS
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)

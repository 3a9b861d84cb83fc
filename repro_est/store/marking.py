"""Marking: every run, model and tree is read once, and each thing of the store is given a rank.

0 goes, `KEEP` stays, and what is between goes, lowest first, only as far as a quota asks for (`roots`). What is
referred to has the highest rank of those that refer to it, and of its own last use. Blobs are matched through a spill,
so that memory does not grow with their number; nothing is written to the store but that, and nothing is removed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from repro_est.digest import RunHash
from repro_est.files import size_of
from repro_est.project import Keeping
from repro_est.store.freshness import GRACE_SECONDS, held_trees
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.packs import PackIndex, Packs
from repro_est.store.pins import Pins
from repro_est.store.reach import (
    Reader,
    layer_of_note,
    layers_of_image,
    models,
    names,
    tree_of_unpacked,
    trees_of_environment,
)
from repro_est.store.roots import DAY_SECONDS, KEEP, Roots
from repro_est.store.spill import PARTS, Spill
from repro_est.store.trees import contents

ENVIRONMENTS, UNPACKED, IMAGES, LAYERS = "environments", "unpacked", "images", "layers"
PACKAGES, FETCHED, STATS = "packages", "fetched", "stat notes"
RUNS, MODELS, TREES, BLOBS = "runs", "model versions", "trees", "blobs"
KINDS = (RUNS, MODELS, ENVIRONMENTS, IMAGES, LAYERS, UNPACKED, PACKAGES, FETCHED, STATS, TREES, BLOBS)

SPARSE = 0.5
"""A pack of which less than this share is needed is written anew."""


class Tally:
    """How many things there are of a kind, and their bytes."""

    __slots__ = ("count", "size")

    def __init__(self, count: int = 0, size: int = 0) -> None:
        self.count, self.size = count, size

    def add(self, size: int, count: int = 1) -> None:
        self.count += count
        self.size += size


class Thing(NamedTuple):
    """A file or directory that stands for itself: an environment, a layer, a package.

    Args:
        name: by which others refer to it.
        used: when it was last used, seconds since the epoch.
        rank: see `roots`.
        size: bytes, 0 when there was no need to know.
    """

    kind: str
    name: str
    path: Path
    used: float
    rank: int = 0
    size: int = 0


class Marked:
    """A store of which every part has a rank.

    Args:
        spill: an empty one.

    Attributes:
        threshold: what has this rank or a lower one goes.
        over: bytes above the quota that stay, because nothing more may go.
        old_trees: rank and hash of each tree that may go.
    """

    def __init__(self, layout: Layout, keeping: Keeping, spill: Spill) -> None:
        self.layout, self.spill, self._keeping = layout, spill, keeping
        self._now = time.time()
        self._ranks: dict[str, dict[int, Tally]] = {kind: defaultdict(Tally) for kind in KINDS}
        self._packed: dict[Path, dict[int, Tally]] = {}
        self.registry = models(layout, versions=keeping.model_versions, used_since=self._now - GRACE_SECONDS)
        self.broken = list(self.registry.broken)
        self.runs = {facts.run: facts for facts in Reader(layout).runs()}
        self.broken += [f"run {run}: cannot be read" for run, facts in self.runs.items() if not facts.readable]
        self._leases = set(names(layout.directory("leases")))
        self.roots = Roots(self.runs, self._named(), self._is_busy, keeping, now=self._now)
        for run, facts in self.runs.items():
            self._ranks[RUNS][self.rank(run)].add(facts.size)
        for model in self.registry.dropped:
            self._ranks[MODELS][0].add(_size(layout.model(model.name, model.version)))
        self.tree_ranks = self._trees_named()
        self.things = list(self._ranked(self._find_things()))
        self.old_trees = list(self._mark_trees())
        self.packs = Packs(layout).all()
        self._mark_blobs()
        self.threshold, self.over = self._choose()

    def rank(self, run: RunHash) -> int:
        return self.roots.ranks.get(run, 0)

    def dead_runs(self) -> list[RunHash]:
        """Returns the runs that go, the least recently used first."""
        dead = [run for run in self.runs if self.rank(run) <= self.threshold]
        return sorted(dead, key=lambda run: (self.runs[run].used, run))

    def is_sparse(self, pack: Path) -> bool:
        """Whether little enough of a pack is needed that it is written anew, or removed."""
        ranks = self._packed[pack]
        total = sum(tally.size for tally in ranks.values())
        kept = sum(tally.size for rank, tally in ranks.items() if rank > self.threshold)
        return kept < SPARSE * total or all(rank <= self.threshold for rank in ranks)

    def dead(self) -> dict[str, Tally]:
        """Returns what goes, by kind."""
        dead = {kind: Tally() for kind in KINDS}
        for kind, ranks in self._ranks.items():
            for rank, tally in ranks.items():
                if rank <= self.threshold:
                    dead[kind].add(tally.size, tally.count)
        for pack, ranks in self._packed.items():
            for rank, tally in ranks.items() if self.is_sparse(pack) else ():
                if rank <= self.threshold:
                    dead[BLOBS].add(tally.size, tally.count)
        return dead

    def needed(self, part: int) -> dict[bytes, int]:
        """Returns the rank of each blob whose digest begins with a byte, and that a tree lists which is needed."""
        return self.spill.highest(part)

    def keep_tree(self, tree: bytes) -> None:
        """Keeps a tree after all, with its blobs."""
        if self.tree_ranks.get(tree) != KEEP:
            self.tree_ranks[tree] = KEEP
            name = tree.hex()
            self._note(f"{self.layout.root}/trees/{name[:2]}/{name[2:]}", KEEP)

    # ---- runs and models

    def _named(self) -> dict[RunHash, str]:
        """Returns the runs that something outside of `runs/` names, with the reason."""
        named = {pin.run: "it is pinned" + (f": {pin.why}" if pin.why else "") for pin in Pins(self.layout).all()}
        named |= {RunHash(name): "a model names it whose records cannot be read" for name in self.registry.mentioned}
        for kept in self.registry.kept:
            aliases = f" ({', '.join(kept.aliases)})" if kept.aliases else ""
            named[kept.model.run] = f"it made model {kept.model.id}{aliases}"
        return named

    def _is_busy(self, run: RunHash) -> bool:
        return f"run-{run}.lock" in self._leases and Leases(self.layout).is_held(f"run-{run}")

    # ---- what refers to trees and files

    def _trees_named(self) -> dict[bytes, int]:
        ranks: dict[bytes, int] = {}
        for run, facts in self.runs.items():
            rank = self.rank(run)
            for tree in facts.trees:
                ranks[tree] = max(rank, ranks.get(tree, 0))
        for name in (*self.registry.mentioned, *(kept.model.tree for kept in self.registry.kept)):
            ranks[bytes.fromhex(name)] = KEEP
        for held in held_trees(self.layout):
            ranks[bytes.fromhex(held)] = KEEP
        return ranks

    def _find_things(self) -> Iterator[Thing]:
        directory = self.layout.directory
        yield from _things(IMAGES, directory("images"), ".json")  # first, for they name layers
        yield from _things(ENVIRONMENTS, directory("envs"))
        yield from _things(UNPACKED, directory("unpacked"))
        yield from _things(LAYERS, directory("layers"))
        yield from _things(STATS, directory("stat"))
        for kind in (PACKAGES, FETCHED):
            for digest in names(directory(kind)):
                for thing in _things(kind, directory(kind) / digest):
                    yield thing._replace(name=digest)

    def _ranked(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Gives each thing the rank of what refers to it, or of its own last use."""
        by_environment: dict[str, int] = defaultdict(int)
        by_file: dict[bytes, int] = defaultdict(int)
        by_layer: dict[str, int] = defaultdict(int)
        by_lock: dict[int, tuple[int, frozenset[bytes]]] = {}  # one set for the many runs of a lock
        for run, facts in self.runs.items():
            if rank := self.rank(run):
                by_environment[facts.environment] = max(by_environment[facts.environment], rank)
                by_lock[id(facts.files)] = max(rank, by_lock.get(id(facts.files), (0,))[0]), facts.files
        for rank, files in by_lock.values():
            by_file.update({digest: max(rank, by_file[digest]) for digest in files})
        for thing in things:
            rank = self._by_age(thing.used)
            match thing.kind:
                case "environments":
                    rank = max(rank, by_environment[thing.name])
                    self._keep_trees(trees_of_environment(thing.path), rank)
                case "unpacked":
                    self._keep_trees(tree_of_unpacked(thing.path), rank)
                case "images":
                    environment, layers = layers_of_image(thing.path)
                    rank = max(rank, by_environment[environment])
                    by_layer.update({layer: max(by_layer[layer], rank) for layer in layers})
                case "layers":
                    is_tar = thing.path.suffix == ".tar"
                    rank = max(rank, by_layer[thing.path.stem if is_tar else layer_of_note(thing.path)])
                case "packages" | "fetched":
                    rank = max(rank, by_file[_digest(thing.name)])
            size = size_of(thing.path) if rank == 0 or self._keeping.quota is not None else 0
            self._ranks[thing.kind][rank].add(size)
            yield thing._replace(rank=rank, size=size)

    def _keep_trees(self, trees: Iterable[bytes], rank: int) -> None:
        for tree in trees:
            self.tree_ranks[tree] = max(rank, self.tree_ranks.get(tree, 0))

    def _by_age(self, used: float) -> int:
        age = self._now - used
        return KEEP if age < GRACE_SECONDS else int(age < self._keeping.keep_days * DAY_SECONDS)

    # ---- trees and blobs

    def _mark_trees(self) -> Iterator[tuple[int, str]]:
        """Notes the blobs of every tree that is needed; yields those that may go."""
        for part in range(PARTS):
            for name, status in entries(self.layout.directory("trees"), part):
                rank = self.tree_ranks.get(_digest(name), 0)
                if self._now - status.st_mtime < GRACE_SECONDS:
                    rank = KEEP
                if rank:
                    self._note(f"{self.layout.root}/trees/{name[:2]}/{name[2:]}", rank)
                if rank < KEEP:
                    yield rank, name
                self._ranks[TREES][rank].add(status.st_size)

    def _note(self, tree: str, rank: int) -> None:
        with contextlib.suppress(FileNotFoundError), open(tree, "rb", buffering=0) as file:
            self.spill.add((digest for digest, _ in contents(file.read())), rank)

    def _mark_blobs(self) -> None:
        young = {index.pack for index in self.packs if self._is_young(index)}
        self._packed = {index.pack: defaultdict(Tally) for index in self.packs}
        for part in range(PARTS):
            needed = self.needed(part)
            for name, status in entries(self.layout.directory("blobs"), part):
                rank = needed.get(_digest(name), 0)
                if rank < KEEP and self._now - status.st_mtime < GRACE_SECONDS:
                    rank = KEEP
                self._ranks[BLOBS][rank].add(status.st_size)
            for index in self.packs:
                ranks, is_young = self._packed[index.pack], index.pack in young
                for digest, _, size in index.part(part):
                    ranks[KEEP if is_young else needed.get(digest, 0)].add(size)

    def _is_young(self, index: PackIndex) -> bool:
        try:
            return self._now - os.lstat(index.pack).st_mtime < GRACE_SECONDS
        except FileNotFoundError:
            return True

    # ---- the quota

    def _choose(self) -> tuple[int, int]:
        """Returns the rank up to which all goes, and the bytes that are then still above the quota."""
        if self._keeping.quota is None:
            return 0, 0
        by_rank: dict[int, int] = defaultdict(int)
        for ranks in (*self._ranks.values(), *self._packed.values()):
            for rank, tally in ranks.items():
                by_rank[rank] += tally.size
        over = sum(by_rank.values()) - self._keeping.quota
        threshold = 0
        for rank in sorted(by_rank.keys() | {0}):
            if rank == KEEP or (rank and over <= 0):
                break
            over -= by_rank[rank]
            threshold = rank
        return threshold, max(over, 0)


def entries(directory: Path, part: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the name and status of everything in `directory/xx/`, where `xx` is a byte in hex."""
    shard = f"{part:02x}"
    try:
        with os.scandir(directory / shard) as found:
            for entry in found:
                if not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        yield shard + entry.name, entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return


def _things(kind: str, directory: Path, suffix: str = "") -> Iterator[Thing]:
    for name in names(directory):
        path = directory / name
        with contextlib.suppress(FileNotFoundError):
            if name.endswith(suffix) and not name.startswith("."):
                yield Thing(kind, path.stem if suffix or path.suffix == ".tar" else name, path, path.lstat().st_mtime)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _digest(name: str) -> bytes:
    """Returns the bytes of a name in hex; nothing refers to any other name."""
    try:
        return bytes.fromhex(name)
    except ValueError:
        return b""

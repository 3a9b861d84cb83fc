"""What takes the space of a store: by kind, and by run, alone or together with others.

A run takes its records, and the blobs of its source, its inputs and of what its attempts wrote. What only it refers to
is exclusive: about what its removal would free. What another run, or a model, refers to as well is shared. Counted
through a spill (`spill`), so that memory does not grow with the number of blobs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash
from repro_est.files import size_of
from repro_est.store.layout import Layout
from repro_est.store.marking import Tally, entries
from repro_est.store.packs import Packs
from repro_est.store.reach import Reader, RunFacts, models, names
from repro_est.store.scratch import claimed_directory
from repro_est.store.spill import PARTS, Spill
from repro_est.store.trees import contents

_SHARED = 2**32 - 1
_NOBODY = 2**32 - 2


@dataclass(frozen=True, slots=True)
class RunUsage:
    """What one run takes, in bytes.

    Args:
        exclusive: what nothing else refers to, and its records.
        shared: what other runs or models refer to as well.
    """

    run: RunHash
    name: str
    used: float
    exclusive: int
    shared: int

    def to_json(self) -> dict[str, Any]:
        return {
            "run_hash": self.run,
            "name": self.name,
            "used": self.used,
            "exclusive": self.exclusive,
            "shared": self.shared,
        }


@dataclass(slots=True)
class Usage:
    """What a store takes.

    Args:
        kinds: by directory of the store.
        runs: the largest first.
        unreferenced: bytes of blobs that no run or model refers to.
    """

    kinds: dict[str, Tally] = field(default_factory=dict)
    runs: list[RunUsage] = field(default_factory=list)
    unreferenced: int = 0

    @property
    def size(self) -> int:
        return sum(tally.size for tally in self.kinds.values())

    def recipes(self) -> list[tuple[str, int, int]]:
        """Returns name, number of runs and exclusive bytes of each recipe, the largest first.

        What only runs of one recipe share is in no run exclusive, and not in here.
        """
        found: dict[str, list[int]] = defaultdict(list)
        for run in self.runs:
            found[run.name].append(run.exclusive)
        return sorted(((name, len(sizes), sum(sizes)) for name, sizes in found.items()), key=lambda row: -row[2])

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": self.size,
            "kinds": {kind: {"count": tally.count, "bytes": tally.size} for kind, tally in self.kinds.items()},
            "unreferenced": self.unreferenced,
            "recipes": [{"name": name, "runs": count, "exclusive": size} for name, count, size in self.recipes()],
            "runs": [run.to_json() for run in self.runs],
        }


def usage(layout: Layout) -> Usage:
    """Returns what takes the space of a store."""
    with claimed_directory(layout, "tmp") as scratch:
        return _Count(layout, Spill(scratch)).usage()


class _Count:
    def __init__(self, layout: Layout, spill: Spill) -> None:
        self._layout, self._spill = layout, spill
        self._runs: list[RunFacts] = list(Reader(layout).runs())
        self._reached = [0] * len(self._runs)
        self._exclusive = [0] * len(self._runs)
        self._usage = Usage()

    def usage(self) -> Usage:
        self._spread()
        self._blobs()
        for kind in ("envs", "unpacked", "images", "layers", "packages", "fetched", "models", "hosts", "work",
                     "quarantine", "trash", "stat"):  # fmt: skip
            self._directory(kind)
        self._usage.kinds["runs"] = Tally(len(self._runs), sum(facts.size for facts in self._runs))
        self._usage.runs = [
            RunUsage(facts.run, facts.name, facts.used, facts.size + exclusive, reached - exclusive)
            for facts, reached, exclusive in zip(self._runs, self._reached, self._exclusive, strict=True)
        ]
        self._usage.runs.sort(key=lambda item: (-item.exclusive, item.run))
        return self._usage

    def _spread(self) -> None:
        """Notes for each blob the run that refers to it, or that several do."""
        owners: dict[bytes, list[int]] = defaultdict(list)
        for number, facts in enumerate(self._runs):
            for tree in facts.trees:
                owners[tree].append(number)
        named = models(self._layout, versions=None, used_since=0)
        modelled = {bytes.fromhex(kept.model.tree) for kept in named.kept}
        trees = Tally()
        for part in range(PARTS):
            for name, status in entries(self._layout.directory("trees"), part):
                trees.add(status.st_size)
                tree = bytes.fromhex(name)
                runs = owners.get(tree, [])
                listed = dict(contents(_bytes(self._layout.directory("trees") / name[:2] / name[2:])))
                for run in runs:
                    self._reached[run] += sum(listed.values())
                if tree in modelled or len(runs) > 1:
                    self._spill.add(listed, _SHARED)
                elif runs:
                    self._spill.add(listed, runs[0])
        self._usage.kinds["trees"] = trees

    def _blobs(self) -> None:
        blobs, packed = Tally(), Tally()
        packs = Packs(self._layout).all()
        for part in range(PARTS):
            owners = self._spill.common(part, _SHARED)
            for name, status in entries(self._layout.directory("blobs"), part):
                blobs.add(status.st_size)
                self._give(owners.get(bytes.fromhex(name), _NOBODY), status.st_size)
            for index in packs:
                for digest, _, size in index.part(part):
                    packed.add(size)
                    self._give(owners.get(digest, _NOBODY), size)
        self._usage.kinds |= {"blobs": blobs, "packed blobs": packed}

    def _give(self, owner: int, size: int) -> None:
        if owner == _NOBODY:
            self._usage.unreferenced += size
        elif owner != _SHARED:
            self._exclusive[owner] += size

    def _directory(self, kind: str) -> None:
        directory = self._layout.directory(kind)
        found = names(directory)
        self._usage.kinds[kind] = Tally(len(found), size_of(directory) if found else 0)


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""

"""Two results of one plan held against each other, under the promise of its recipe.

Every output is compared and everything that differs is told, also what a tolerance allows. Contents are named by
SHA-256; a file that is the same by it is not read. What differs is copied out of the store, checked, and looked into.

Bitwise: bytes, exec bits and links of every output, and every metric. Tolerance: numbers of the files and metrics that
a line speaks of may be off by as much as it says; the metrics file is compared by metrics; all else is as for bitwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro_est.outputs import OUTPUTS
from repro_est.proof.distance import Allowed, Distance, distance, first_offset
from repro_est.recipe.reproducible import EXACT, Determinism, Reproducible, Tolerance
from repro_est.store.records import Result
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_WORDS = {Kind.FILE: "a file", Kind.EXECUTABLE: "an executable file"}


@dataclass(frozen=True, slots=True)
class FileDifference:
    """An output that is not what it was.

    Args:
        path: below the work directory, `outputs/...`.
        expected, got: what it was and is, in words; None is not there.
        offset: of the first byte that differs; None where that says nothing.
        distance: of the numbers in it, None where only bytes can be compared.
        tolerance: what is allowed, None for nothing.
        tolerated: it is within that.
    """

    path: str
    expected: str | None
    got: str | None
    offset: int | None = None
    distance: Distance | None = None
    tolerance: Tolerance | None = None
    tolerated: bool = False

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "path": self.path,
            "expected": self.expected,
            "got": self.got,
            "offset": self.offset,
            "tolerated": self.tolerated,
            "tolerance": self.tolerance.to_json() if self.tolerance else None,
        }
        if self.distance is not None:
            first = self.distance.first_outside or self.distance.first
            content |= {
                "compared": self.distance.compared,
                "differing": self.distance.differing,
                "outside": self.distance.outside,
                "element": {"place": first.place, "expected": first.expected, "got": first.got} if first else None,
                **Result.metrics_to_json(
                    {"relative_error": self.distance.relative, "absolute_error": self.distance.absolute}
                ),
            }
        return content


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """A metric that is not what it was; None is not there."""

    name: str
    expected: float | None
    got: float | None
    tolerance: Tolerance
    tolerated: bool

    def to_json(self) -> dict[str, Any]:
        known = {name: value for name, value in (("expected", self.expected), ("got", self.got)) if value is not None}
        return {
            "name": self.name,
            "expected": None,
            "got": None,
            **Result.metrics_to_json(known),
            "tolerance": self.tolerance.to_json(),
            "tolerated": self.tolerated,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two results have in common, and what not.

    Args:
        compared: outputs that were held against each other.
        ignored: paths that the recipe leaves out.
        files, metrics: all that differ, also within their tolerance.
    """

    compared: int
    ignored: tuple[str, ...]
    files: tuple[FileDifference, ...]
    metrics: tuple[MetricDifference, ...]

    @property
    def holds(self) -> bool:
        """Whether all that differs is within its tolerance."""
        return all(item.tolerated for item in self.files) and all(item.tolerated for item in self.metrics)


def compare(
    expected: Result, got: Result, promise: Reproducible, store: Store, *, metrics_file: str = "outputs/metrics.json"
) -> Comparison:
    """Compares two results, whose outputs this store has.

    Args:
        metrics_file: of the recipe; its numbers are metrics.

    Raises:
        VerificationError: a blob is not what it is named for.
    """
    trees = store.read_tree(expected.outputs), store.read_tree(got.outputs)
    return compare_outputs(*trees, promise, store, metrics=(expected.metrics, got.metrics), metrics_file=metrics_file)


def compare_outputs(
    expected: Tree,
    got: Tree,
    promise: Reproducible,
    store: Store,
    *,
    metrics: tuple[Mapping[str, float], Mapping[str, float]],
    metrics_file: str = "outputs/metrics.json",
) -> Comparison:
    """As `compare`, of outputs whose differing files this store has.

    Args:
        metrics: of both.
    """
    mine, theirs = _by_path(expected), _by_path(got)
    paths = sorted(mine.keys() | theirs.keys())
    ignored = tuple(path for path in paths if promise.is_ignored(path))
    files = _Files(promise, store, metrics_file)
    differing = [
        difference
        for path in paths
        if not promise.is_ignored(path) and (difference := files.difference(path, mine.get(path), theirs.get(path)))
    ]
    told = tuple(_metrics(*metrics, promise))
    return Comparison(len(paths) - len(ignored), ignored, tuple(differing), told)


class _Files:
    def __init__(self, promise: Reproducible, store: Store, metrics_file: str) -> None:
        self._promise, self._store, self._metrics_file = promise, store, metrics_file

    def difference(self, path: str, mine: Entry | None, theirs: Entry | None) -> FileDifference | None:
        if mine is None or theirs is None or not (mine.is_file and theirs.is_file) or mine.kind is not theirs.kind:
            words = _in_words(mine), _in_words(theirs)
            return FileDifference(path, *words) if words[0] != words[1] else None
        if _same_content(mine, theirs):
            return None
        tolerance = self._promise.of_file(path)
        allowed = self._allowed(path, tolerance)
        with claimed_directory(self._store.layout, "tmp") as scratch:
            one, two = scratch / "expected", scratch / "got"
            for entry, place in ((mine, one), (theirs, two)):
                self._store.fetch_blob(entry, place, mode=0o600)
            found = distance(path, one, two, allowed or (lambda place: EXACT))
            return FileDifference(
                path,
                _in_words(mine),
                _in_words(theirs),
                first_offset(one, two),
                found,
                tolerance,
                tolerated=allowed is not None and found is not None and not found.outside,
            )

    def _allowed(self, path: str, tolerance: Tolerance | None) -> Allowed | None:
        """Returns the tolerances in a file, None where its bytes count."""
        promise = self._promise
        if promise.kind is not Determinism.TOLERANCE:
            return None
        if tolerance is not None:
            return lambda place: tolerance
        if path == self._metrics_file:
            return lambda place: promise.of_metric("/".join(map(str, place)))
        return None


def _metrics(expected: Mapping[str, float], got: Mapping[str, float], promise: Reproducible) -> list[MetricDifference]:
    found: list[MetricDifference] = []
    for name in sorted(expected.keys() | got.keys()):
        mine, theirs = expected.get(name), got.get(name)
        if promise.is_ignored(f"metrics/{name}"):
            continue
        if mine is None or theirs is None:
            found.append(MetricDifference(name, mine, theirs, EXACT, tolerated=False))
        elif not EXACT.allows(mine, theirs):
            allowed = promise.of_metric(name)
            found.append(MetricDifference(name, mine, theirs, allowed, tolerated=allowed.allows(mine, theirs)))
    return found


def _by_path(tree: Tree) -> dict[str, Entry]:
    return {f"{OUTPUTS}/{entry.path}": entry for entry in tree.entries}


def differing_files(expected: Tree, got: Tree, promise: Reproducible) -> list[Entry]:
    """Returns the files of `got` whose content has to be looked into."""
    mine, theirs = _by_path(expected), _by_path(got)
    return [
        entry
        for path, entry in theirs.items()
        if entry.is_file
        and not promise.is_ignored(path)
        and (known := mine.get(path)) is not None
        and known.kind is entry.kind
        and not _same_content(known, entry)
    ]


def _same_content(mine: Entry, theirs: Entry) -> bool:
    if mine.sha256 and theirs.sha256:
        return mine.sha256 == theirs.sha256
    return (mine.xxh3, mine.size) == (theirs.xxh3, theirs.size)  # both are one blob of this store then


def _in_words(entry: Entry | None) -> str | None:
    if entry is None:
        return None
    if entry.kind is Kind.SYMLINK:
        return f"a link to {entry.target}"
    if entry.kind is Kind.DIRECTORY:
        return "an empty directory"
    name = f"sha256 {entry.sha256}" if entry.sha256 else f"xxh3 {entry.xxh3}"
    return f"{_WORDS[entry.kind]} of {entry.size:,} bytes, {name}"

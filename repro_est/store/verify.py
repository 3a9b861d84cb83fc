"""Reading the whole store and holding every byte against its name.

What is found is a value, not an exception: all of it is wanted at once. Nothing is changed unless it is asked for;
then what is bad is moved to `quarantine/` with the reason, so that it is made or fetched again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.console import counted
from repro_est.digest import BlobHash, EnvironmentKey, RunHash, TreeHash, canonical, identify, sha256_hex, xxh3_hex
from repro_est.errors import ReproError
from repro_est.files import remove_tree, sha256_file
from repro_est.store.aliases import Aliases
from repro_est.store.blobs import digest_file
from repro_est.store.index import Index
from repro_est.store.models import Model, Models
from repro_est.store.packs import Packs
from repro_est.store.quarantine import set_aside
from repro_est.store.records import Result
from repro_est.store.runs import Runs
from repro_est.store.sealed import differences, in_words
from repro_est.store.store import Store
from repro_est.store.trees import Entry

_CONTENTS = ("blob", "pack")
_PLAN_TAG = "repro:plan:1"
_RUN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not what it is named for.

    Args:
        kind: blob, tree, run, package, fetched, environment, unpacked, layer, model or aliases.
        path: the file that is bad, None when it is missing.
    """

    kind: str
    name: str
    message: str
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.message}"


@dataclass(slots=True)
class Report:
    """How much was looked at, and what was found; `size` is bytes of blobs.

    Args:
        findings: what is bad; what was `repaired` is not, any more.
    """

    blobs: int = 0
    size: int = 0
    trees: int = 0
    runs: int = 0
    packages: int = 0
    environments: int = 0
    layers: int = 0
    models: int = 0
    findings: list[Finding] = field(default_factory=list)
    repaired: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": not self.findings,
            "blobs": self.blobs,
            "bytes": self.size,
            "trees": self.trees,
            "runs": self.runs,
            "packages": self.packages,
            "environments": self.environments,
            "layers": self.layers,
            "models": self.models,
            "findings": [{"kind": item.kind, "name": item.name, "message": item.message} for item in self.findings],
            "repaired": [{"kind": item.kind, "name": item.name, "message": item.message} for item in self.repaired],
        }


Refetch = Callable[[Sequence[Entry]], Sequence[BlobHash]]
"""Told of files that are missing, each with its SHA-256; brings those it can into the store, and says which."""


def verify(
    store: Store, *, runs: Sequence[RunHash] | None = None, repair: bool = False, refetch: Refetch | None = None
) -> Report:
    """Checks the store.

    Args:
        runs: only these and what they consist of; None is everything.
        repair: move what is bad into quarantine.
        refetch: asked, when repairing, for what is missing or was moved; what it brings makes runs and models whole.
    """
    report = _checked(store, runs)
    if not repair or not report.findings:
        return report
    if refetch is not None:
        _set_aside(store, [item for item in report.findings if item.kind in _CONTENTS])
        brought = set(refetch(_missing(store)))
        if brought:
            before, report = report, _checked(store, runs)
            left = {(item.kind, item.name) for item in report.findings}
            report.repaired = [item for item in before.findings if (item.kind, item.name) not in left]
    _set_aside(store, report.findings)
    return report


def _checked(store: Store, runs: Sequence[RunHash] | None) -> Report:
    report = Report()
    verifier = _Verifier(store, report)
    if runs is None:
        verifier.everything()
    else:
        verifier.some(runs)
    return report


def _missing(store: Store) -> list[Entry]:
    """Returns every file that a tree lists with its SHA-256, and that is not here, once."""
    missing: dict[BlobHash, Entry] = {}
    for name in _sharded(store.layout.directory("trees")):
        with contextlib.suppress(ReproError):
            for entry in store.read_tree(TreeHash(name)).files():
                if entry.sha256 is not None and entry.xxh3 not in missing and not store.has_blob(entry):
                    missing[entry.xxh3] = entry
    return list(missing.values())


def verify_environments(store: Store, keys: Sequence[EnvironmentKey] | None = None) -> Report:
    """Checks these environments only; None is all of them."""
    report = Report()
    _Verifier(store, report).environments(keys)
    return report


class _Verifier:
    def __init__(self, store: Store, report: Report) -> None:
        self._store, self._layout, self._report = store, store.layout, report
        self._sha256: dict[BlobHash, set[str]] = {}
        self._heads: dict[str, dict[str, RunHash]] = {}

    def everything(self) -> None:
        for name in _sharded(self._layout.directory("trees")):
            self._tree(TreeHash(name), needs_blobs=False)
        self._blobs(BlobHash(name) for name in _sharded(self._layout.directory("blobs")))
        self._packs()
        for name in _names(self._layout.directory("runs")):
            if _RUN.fullmatch(name):
                self._run(RunHash(name))
            elif not name.startswith("."):
                self._found("run", name, "is no run, expected only run hashes here")
        for kind in ("packages", "fetched"):
            self._artifacts(kind)
        self.environments()
        for key in _names(self._layout.directory("unpacked")):
            self._unpacked(key)
        self._layers()
        self._models()

    def some(self, runs: Sequence[RunHash]) -> None:
        wanted: set[BlobHash] = set()
        for run in runs:
            for tree in self._run(run):
                wanted |= self._tree(tree, needs_blobs=True)
        self._blobs(sorted(wanted))

    def environments(self, keys: Sequence[EnvironmentKey] | None = None) -> None:
        for key in _names(self._layout.directory("envs")) if keys is None else keys:
            self._environment(EnvironmentKey(key))

    def _found(self, kind: str, name: str, message: str, path: Path | None = None) -> None:
        self._report.findings.append(Finding(kind, name, message, path))

    def _tree(self, name: TreeHash, *, needs_blobs: bool) -> set[BlobHash]:
        self._report.trees += 1
        try:
            tree = self._store.read_tree(name)
        except ReproError as error:
            path = self._layout.tree(name)
            self._found("tree", name, error.message, path if path.exists() else None)
            return set()
        blobs: set[BlobHash] = set()
        for entry in tree.files():
            if entry.sha256 is not None:  # without one it is an input, which lies elsewhere
                self._sha256.setdefault(entry.xxh3, set()).add(entry.sha256)
                blobs.add(entry.xxh3)
                if needs_blobs and not self._store.has_blob(entry):
                    self._found("blob", entry.xxh3, f"of {entry.path}: missing or of another size")
        return blobs

    def _blobs(self, names: Iterable[BlobHash]) -> None:
        def check(name: BlobHash) -> tuple[BlobHash, int, str | None]:
            path = self._layout.blob(name)
            try:
                content = digest_file(path)
            except OSError as error:
                return name, 0, f"cannot be read: {error.strerror}"
            if content.xxh3 != name:
                return name, content.size, f"was changed, its content is now {content.xxh3}"
            wrong = self._sha256.get(name, set()) - {content.sha256}
            return name, content.size, f"got sha256 {content.sha256}, expected {wrong.pop()}" if wrong else None

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for name, size, message in pool.map(check, names):
                self._report.blobs += 1
                self._report.size += size
                if message:
                    path = self._layout.blob(name)
                    self._found("blob", name, message, path if path.exists() else None)

    def _packs(self) -> None:
        bad: dict[Path, str] = {}
        for name, found in Packs(self._layout).entries():
            self._report.blobs += 1
            self._report.size += found.size
            try:
                good = xxh3_hex(found.read()) == name
            except OSError as error:
                bad.setdefault(found.pack, f"cannot be read: {error.strerror}")
                continue
            if not good:
                bad.setdefault(found.pack, f"blob {name} in it was changed")
        for path, message in bad.items():
            index = path.with_suffix(".index")
            self._found("pack", path.stem, message, index)  # without its index a pack is not there

    def _run(self, name: RunHash) -> list[TreeHash]:
        """Checks plan and result; returns the trees the run consists of."""
        self._report.runs += 1
        runs = Runs(self._layout)
        try:
            content = runs.plan(name)
            got = identify(_PLAN_TAG, content["plan"])
            source = TreeHash(str(content["plan"]["source"]))
        except (ReproError, KeyError, TypeError, ValueError) as error:
            message = error.message if isinstance(error, ReproError) else f"not a plan: {error!r}"
            self._found("run", name, message, self._existing(self._layout.plan(name)))
            return []
        if got != name:
            self._found("run", name, f"plan.json was changed, it is plan {got}", self._layout.plan(name))
        self._source(name, source)
        self._remember_heads(name, content)
        trees = [source]
        try:
            result = runs.result(name)
        except ReproError as error:
            self._found("run", name, error.message, self._existing(self._layout.result(name)))
            return trees
        if result is not None:
            trees += self._result(name, result, content["plan"])
        return trees

    def _remember_heads(self, name: RunHash, content: Mapping[str, Any]) -> None:
        """Keeps what a run saw of the aliases of models when it was planned."""
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            for item in content["recorded"]["inputs"]:
                if "head" in item["origin"]:
                    self._heads.setdefault(item["origin"]["model"], {})[item["origin"]["head"]] = name

    def _source(self, name: RunHash, source: TreeHash) -> None:
        try:
            missing = [e.path for e in self._store.read_tree(source).files() if not self._store.has_blob(e)]
        except ReproError as error:
            self._found("run", name, f"source: {error.message}")
            return
        if missing:
            self._found(
                "run", name, f"source: {counted(len(missing), 'file')} missing or of another size: {missing[0]}"
            )

    def _result(self, name: RunHash, result: Result, plan: Any) -> list[TreeHash]:
        path = self._layout.result(name)
        if result.plan_sha256 != sha256_hex(canonical(plan)):
            self._found("run", name, "result.json was made for another plan (sha256 differs)", path)
        for tree in (result.outputs, result.logs):
            try:
                missing = [e.path for e in self._store.read_tree(tree).files() if not self._store.has_blob(e)]
            except ReproError as error:
                self._found("run", name, error.message, path)
                continue
            if missing:
                self._found(
                    "run", name, f"{counted(len(missing), 'file')} missing or of another size: {missing[0]}", path
                )
        return [result.outputs, result.logs]

    def _artifacts(self, kind: str) -> None:
        for directory in _names(self._layout.directory(kind)):
            for file in _names(self._layout.directory(kind) / directory):
                if file.startswith("."):
                    continue
                self._report.packages += 1
                path = self._layout.directory(kind) / directory / file
                got = sha256_file(path)
                if got != directory:
                    self._found(kind.removesuffix("s"), file, f"expected sha256 {directory}, got {got}", path)

    def _environment(self, key: EnvironmentKey) -> None:
        self._report.environments += 1
        path = self._layout.environment(key)
        try:
            record = json.loads((path / "env.json").read_bytes())
            different = differences(path, TreeHash(record["whole"]), self._store, except_for="env.json")
        except (OSError, ValueError, KeyError, TypeError, ReproError) as error:
            why = error.message if isinstance(error, ReproError) else repr(error)
            self._found("environment", key, f"its record cannot be used: {why}; it is built anew when it is used", path)
        else:
            if different:
                self._found("environment", key, in_words(different), path)

    def _unpacked(self, key: str) -> None:
        path = self._layout.directory("unpacked") / key
        try:
            sealed = TreeHash((path / "tree").read_text("ascii"))
            different = differences(path / "files", sealed, self._store, except_for="")
        except (OSError, UnicodeDecodeError, ReproError) as error:
            why = error.message if isinstance(error, ReproError) else repr(error)
            self._found("unpacked", key, f"its tree cannot be read: {why}", path)
        else:
            if different:
                self._found("unpacked", key, in_words(different), path)

    def _layers(self) -> None:
        for path in sorted(self._layout.directory("layers").glob("*.tar")):
            self._report.layers += 1
            got = sha256_file(path)
            if got != path.stem:
                self._found("layer", path.stem, f"was changed, got sha256 {got}", path)

    def _models(self) -> None:
        registry = Models(self._layout)
        for name in registry.names():
            try:
                for model in registry.versions(name):
                    self._report.models += 1
                    self._model(model)
            except ReproError as error:
                self._found("model", name, error.message)
            self._aliases(name)

    def _model(self, model: Model) -> None:
        try:
            missing = [e.path for e in self._store.read_tree(model.tree).files() if not self._store.has_blob(e)]
        except ReproError:
            self._found("model", model.id, f"its tree {model.tree} is missing, or was changed")
            return
        if missing:
            self._found("model", model.id, f"{counted(len(missing), 'file')} missing or of another size: {missing[0]}")

    def _aliases(self, name: str) -> None:
        """Checks that the history of a model's aliases is whole, and has what runs and promotions saw of it.

        What is found is not set aside by a repair: the history is evidence, and there is nothing to make it of again.
        """
        aliases = Aliases(self._layout, name)
        try:
            history = aliases.history()
        except ReproError as error:
            self._found("aliases", name, error.message)
            return
        for change in history:
            record = self._layout.model(name, change.version) if change.version is not None else None
            if record is not None and (not record.exists() or sha256_file(record) != change.record):
                message = f"version {change.version} is not what `{change.alias}` was pointed at on {change.when}"
                self._found("aliases", name, message)
        for head, run in self._heads.get(name, {}).items():
            if not aliases.holds(head):
                self._found("aliases", name, f"its history was cut off: run {run} has seen {head} as its head")

    def _existing(self, path: Path) -> Path | None:
        return path if path.exists() else None


def _set_aside(store: Store, findings: Sequence[Finding]) -> None:
    """Moves bad files into quarantine; runs lose their result, and stat caches are forgotten with them."""
    for finding in findings:
        if finding.path is None or not finding.path.exists():
            continue
        set_aside(store.layout, finding.path, kind=finding.kind, name=finding.name, reason=finding.message)
        if finding.kind == "run":
            Index(store.layout).update(RunHash(finding.name))
    remove_tree(store.layout.directory("stat"))  # they may remember a tree whose blobs are gone now
    store.layout.directory("stat").mkdir(exist_ok=True)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sharded(directory: Path) -> Iterator[str]:
    for shard in _names(directory):
        for rest in _names(directory / shard):
            if not rest.startswith("."):
                yield shard + rest

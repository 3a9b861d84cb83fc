"""What each thing of a store refers to, read from the disk and from nothing else: runs, models, environments, images.

For a cleaning, so it is fast (`plan.json` is read once, checksums are left to `verify`) and errs on one side only: what
cannot be read is a run that is kept, and every SHA-256 that a lock names is a file that is needed.
"""

from __future__ import annotations

import json
import os
import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from repro_est.digest import EnvironmentKey, RunHash, Sha256, TreeHash, identify, xxh3_hex
from repro_est.errors import ReproError
from repro_est.store.aliases import Aliases
from repro_est.store.layout import HANDLE, Layout
from repro_est.store.models import Model, Models
from repro_est.store.notes import read_notes

KEEP_TAG = "keep"
"""A tag that keeps its run, whatever its value."""

_NO_FILES: frozenset[bytes] = frozenset()
_T = TypeVar("_T")
_ENVIRONMENT_TAG = "repro:environment:1"
_RUN = re.compile("[0-9a-f]{32}")
_HASH = re.compile("(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_SHA256 = re.compile("(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class RunFacts(NamedTuple):
    """One run and what it refers to.

    Args:
        name: of its recipe.
        used: when it was last made, found or said something of; seconds since the epoch.
        size: bytes of its records.
        completed: it has a result.
        readable: its plan and result say what they are; else the rest is not known.
        at_hosts: hosts own an attempt of it.
        tagged: it has the tag `keep`.
        trees: 16 bytes each: source, inputs, and what its attempts wrote.
        sources: runs that its inputs came from.
        files: SHA-256 of what its lock names, 32 bytes each.
    """

    run: RunHash
    name: str
    used: float
    size: int
    completed: bool
    readable: bool
    at_hosts: bool
    tagged: bool
    environment: EnvironmentKey
    trees: tuple[bytes, ...]
    sources: tuple[RunHash, ...]
    files: frozenset[bytes]


class Reader:
    """Reads runs, and keeps what many of them share only once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._shared: dict[Any, Any] = {}
        self._locks: dict[str, frozenset[bytes]] = {}

    def runs(self) -> Iterator[RunFacts]:
        """Every run of the store."""
        for name in names(self._layout.directory("runs")):
            if _RUN.fullmatch(name) and (facts := self.run(RunHash(name))) is not None:
                yield facts

    def run(self, run: RunHash) -> RunFacts | None:
        """Returns one run; None when it is not there."""
        directory = f"{self._layout.root}/runs/{run}"
        try:
            used = os.stat(directory).st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return self._read(run, directory, used)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found = _mentioned(Path(directory), "*.json") | _mentioned(Path(directory), "attempts/*/attempt.json")
            trees, nothing = tuple(map(unhexlify, found)), EnvironmentKey("")
            return RunFacts(run, "", used, 0, False, False, False, False, nothing, trees, (), _NO_FILES)

    def _read(self, run: RunHash, directory: str, used: float) -> RunFacts:
        data = _bytes(f"{directory}/plan.json")
        content = json.loads(data)
        plan, recorded = content["plan"], content["recorded"]
        trees = [plan["source"], *plan.get("inputs", {}).values()]
        size, attempts = len(data), os.listdir(f"{directory}/attempts") if _there(f"{directory}/attempts") else []
        result: Mapping[str, Any] = {}
        if _there(f"{directory}/result.json"):
            data = _bytes(f"{directory}/result.json")
            result, size = json.loads(data), size + len(data)
            trees += [result["outputs"], result["logs"]]
        for number in attempts:
            if number.isdecimal() and number != str(result.get("attempt")):
                trees += _trees_of_attempt(f"{directory}/attempts/{number}/attempt.json")
        environment = result["environment"] if result else _environment(plan)
        origins = [item["origin"] for item in recorded.get("inputs", ())]
        tags: Mapping[str, Any] = recorded.get("tags") or {}
        if _there(f"{directory}/notes.jsonl"):
            tags = read_notes(self._layout, run).over({key: str(value) for key, value in tags.items()})
        return RunFacts(
            run,
            self._once(str(recorded.get("name", ""))),
            used,
            size,
            bool(result),
            True,
            any(_there(f"{directory}/attempts/{number}/{HANDLE}") for number in attempts),
            KEEP_TAG in tags,
            self._once(EnvironmentKey(str(environment))),
            tuple(self._once(unhexlify(tree)) for tree in dict.fromkeys(trees) if tree),
            tuple(dict.fromkeys(RunHash(origin["run"]) for origin in origins if origin.get("run"))),
            self._files(recorded, origins),
        )

    def _files(self, recorded: Mapping[str, Any], origins: Iterable[Mapping[str, Any]]) -> frozenset[bytes]:
        """Returns every SHA-256 of the locks of a run and of its inputs."""
        found: frozenset[bytes] = _NO_FILES
        for text in filter(None, (recorded.get("lock"), recorded.get("conda_lock"))):
            key = xxh3_hex(text.encode("utf-8", "surrogatepass"))
            if key not in self._locks:
                self._locks[key] = frozenset(self._once(unhexlify(digest)) for digest in _SHA256.findall(text))
            found = (found | self._locks[key]) if found else self._locks[key]
        inputs = [unhexlify(origin["sha256"]) for origin in origins if origin.get("sha256")]
        return found | set(inputs) if inputs else found

    def _once(self, value: _T) -> _T:
        shared: _T = self._shared.setdefault(value, value)
        return shared


class Kept(NamedTuple):
    """One version of a model and why it is kept: the names of aliases that point at it, or did."""

    model: Model
    aliases: tuple[str, ...]


@dataclass(slots=True)
class Registry:
    """The models of a store, for a cleaning.

    Args:
        dropped: versions that are not kept.
        mentioned: whatever the records that cannot be read could mean, runs or trees.
        broken: what is wrong with those, in words.
    """

    kept: list[Kept] = field(default_factory=list)
    dropped: list[Model] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


def models(layout: Layout, *, versions: int | None, used_since: float) -> Registry:
    """Returns what is kept of the models.

    A version that an alias points at, or ever did, is kept: the history of an alias is evidence, and names it.

    Args:
        versions: so many of the newest of each model; None is all.
        used_since: a version that was made or promoted later is kept, whatever its number.
    """
    registry, found = Models(layout), Registry()
    for name in registry.names():
        try:
            aliased: dict[int, list[str]] = {}
            for change in Aliases(layout, name).history():
                if change.version is not None and change.alias not in aliased.setdefault(change.version, []):
                    aliased[change.version].append(change.alias)
            known = registry.versions(name)
            newest = {model.version for model in (known if versions is None else known[-versions:])}
            for model in known:
                young = os.lstat(layout.model(name, model.version)).st_mtime >= used_since
                if young or model.version in newest or model.version in aliased:
                    found.kept.append(Kept(model, tuple(aliased.get(model.version, ()))))
                else:
                    found.dropped.append(model)
        except (ReproError, OSError) as error:
            found.broken.append(error.message if isinstance(error, ReproError) else f"model {name}: {error}")
            found.mentioned |= _mentioned(layout.directory("models") / name, "*.json")
    return found


def trees_of_environment(path: Path) -> list[bytes]:
    """Returns the trees that the record of an environment names."""
    record = _json(path / "env.json")
    return [unhexlify(record[name]) for name in ("tree", "whole") if _is_hash(record.get(name))]


def tree_of_unpacked(path: Path) -> list[bytes]:
    """Returns the tree of an unpacked wheel."""
    try:
        text = (path / "tree").read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return []
    return [unhexlify(text)] if _is_hash(text) else []


def layers_of_image(path: Path) -> tuple[EnvironmentKey, list[Sha256]]:
    """Returns the environment that an image holds, and its layers."""
    record = _json(path)
    layers = record.get("layers")
    listed = [str(item.get("diff_id")) for item in layers if isinstance(item, dict)] if isinstance(layers, list) else []
    return EnvironmentKey(str(record.get("environment", ""))), [Sha256(item) for item in listed]


def layer_of_note(path: Path) -> Sha256:
    """Returns which layer a note is of, `""` when it cannot be told."""
    try:
        return Sha256(str(json.loads(path.read_bytes().partition(b"\n")[2])["diff_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Sha256("")


def trees_of_blob(layout: Layout, blob: str) -> list[TreeHash]:
    """Returns the trees that list a blob; reads all of them."""
    needle = f"\t{blob}\t".encode()
    return [
        TreeHash(shard + rest)
        for shard in names(layout.directory("trees"))
        for rest in names(layout.directory("trees") / shard)
        if not rest.startswith(".") and needle in _bytes_or_none(layout.directory("trees") / shard / rest)
    ]


def names(directory: Path) -> list[str]:
    """Returns what is in a directory, sorted; nothing when it is not there."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _environment(plan: Mapping[str, Any]) -> str:
    """Returns the key of the environment of a run without a result."""
    return identify(_ENVIRONMENT_TAG, plan["environment"]) if plan.get("environment") else ""


def _trees_of_attempt(path: str) -> list[str]:
    try:
        record = json.loads(_bytes(path))
        return [tree for tree in (record["outputs"], record["logs"]) if _is_hash(tree)]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # an attempt that died before its first record


def _mentioned(directory: Path, pattern: str) -> set[str]:
    """Returns every hash that is spelled in files."""
    data = b"\n".join(_bytes_or_none(path) for path in directory.glob(pattern))
    return set(_HASH.findall(data.decode("utf-8", "replace")))


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _RUN.fullmatch(value) is not None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _there(path: str) -> bool:
    return os.path.lexists(path)


def _bytes(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _bytes_or_none(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

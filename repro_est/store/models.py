"""The model registry: a name and a version point at bytes, and say which run made them.

    models/<name>/<version>.json         the record, written once and never changed
    models/<name>/<version>.tags.jsonl   how its tags changed since, a chain (`store.chain`)
    models/<name>/aliases.jsonl          which version each alias points at, and did (`store.aliases`)

A record, format 2 (format 1 has no `attempt`, `properties`, `framework`, `framework_version` and `xxh3`):

    {"format": 2, "name", "version", "run", "attempt", "path", "tree", "created", "description", "tags",
     "properties", "framework", "framework_version", "xxh3": XXH3-128 of the rest}

Version numbers count from 1. The same bytes under the same name are the same version: registering them again
returns it, unless a new one is asked for. Two processes that register at once get two versions, because the file is
claimed by link(2), which fails when the name exists. The bytes are a tree of the store: what becomes of the run does
not touch a model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.digest import RunHash, TreeHash, sha256_hex, xxh3_hex
from repro_est.errors import UsageError, VerificationError
from repro_est.files import fsync, fsync_directory
from repro_est.store.aliases import LATEST, AliasChange, Aliases
from repro_est.store.chain import Chain, Link
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.records import encode

MODEL_FORMAT = 2
MODEL_NAME = r"[a-zA-Z0-9][-._a-zA-Z0-9]{0,254}"
"""What a model may be called: Azure ML's rule."""

_REFERENCE = rf"({MODEL_NAME})(?::([1-9][0-9]{{0,8}})|@({MODEL_NAME}))?"


@dataclass(frozen=True, slots=True)
class Model:
    """One registered version.

    Args:
        run: the run that made it, `""` for bytes of no run.
        path: POSIX path below the run, `outputs/model.joblib`; of bytes of no run, the name they had.
        tree: identity of the bytes (a single-file tree for a file).
        created: RFC 3339, UTC.
        tags: as they are now.
        properties: never change.
        framework, framework_version: what it was made with, for whoever loads it.
        attempt: the attempt of the run whose outputs they were; 0 is not known.
    """

    name: str
    version: int
    run: RunHash
    path: str
    tree: TreeHash
    created: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    framework: str = ""
    framework_version: str = ""
    attempt: int = 0

    @property
    def id(self) -> str:
        """`NAME:VERSION`."""
        return f"{self.name}:{self.version}"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": MODEL_FORMAT,
            "name": self.name,
            "version": self.version,
            "run": self.run,
            "attempt": self.attempt,
            "path": self.path,
            "tree": self.tree,
            "created": self.created,
            "description": self.description,
            "tags": dict(self.tags),
            "properties": dict(self.properties),
            "framework": self.framework,
            "framework_version": self.framework_version,
        }


class Reference(NamedTuple):
    """How a person names a version: `NAME:VERSION`, `NAME@ALIAS`, or `NAME`, which is the latest."""

    name: str
    version: int | None = None
    alias: str = ""

    @property
    def moves(self) -> bool:
        """Whether it may mean another version tomorrow."""
        return self.version is None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version is not None else f"{self.name}@{self.alias or LATEST}"


def parse_reference(text: str) -> Reference | None:
    """Returns what a text names, None when it is no name of a model or version."""
    match = re.fullmatch(_REFERENCE, text.removeprefix("model:"))
    if match is None:
        return None
    return Reference(match[1], int(match[2]) if match[2] else None, match[3] or "")


class Models:
    """The registry of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root = layout.directory("models")

    # ---- writing

    def register(self, model: Model, *, always_new: bool = False) -> Model:
        """Stores `model` under the next free version, or returns the version that has the same bytes.

        Args:
            model: its `version` is ignored.
            always_new: make a new version of the same bytes too.

        Raises:
            UsageError: a name that no model may have, or a framework's version without the framework.
        """
        check_labels(model.name, model.framework, model.framework_version)
        directory = self._root / model.name
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            while True:
                records = [self._record(model.name, number) for number in self._numbers(model.name)]
                same = next((known for known in records if known.tree == model.tree), None)
                if same is not None and not always_new:
                    return self._read(model.name, same.version)
                candidate = replace(model, version=records[-1].version + 1 if records else 1)
                if self._claim(candidate):
                    return candidate

    def tag(self, name: str, version: int, tags: Mapping[str, str], *, remove: Sequence[str] = ()) -> Model:
        """Sets and removes tags of a version; returns it as it is then.

        Raises:
            UsageError: no such version, or a tag to remove that it does not have.
        """
        model = self.get(name, version)

        def decide(links: Sequence[Link]) -> Mapping[str, Any] | None:
            now = _tags(self._record(name, version).tags, links)
            missing = [key for key in remove if key not in now]
            if missing:
                there = ", ".join(sorted(now)) or "none"
                raise UsageError(f"model:{name}:{version}: has no tag `{missing[0]}`, it has: {there}")
            if not remove and all(now.get(key) == value for key, value in tags.items()):
                return None
            return {"set": dict(tags), "remove": list(remove)}

        Chain(self._layout, self._layout.model_tags(name, version)).append(decide)
        return self.get(name, model.version)

    def promote(self, name: str, version: int, alias: str, *, why: str = "") -> AliasChange | None:
        """Points an alias at a version; returns None when it does so already.

        Raises:
            UsageError: no such version, or no name for an alias.
        """
        renew_if_ours(self._layout, self._layout.model(name, version))
        self.get(name, version)
        record = sha256_hex(self._layout.model(name, version).read_bytes())
        return Aliases(self._layout, name).point(alias, version, record=record, why=why)

    def demote(self, name: str, alias: str, *, why: str = "") -> None:
        """Takes an alias away.

        Raises:
            UsageError: no such model or alias.
        """
        self._known_numbers(name)
        Aliases(self._layout, name).point(alias, None, why=why)

    # ---- reading

    def versions(self, name: str) -> list[Model]:
        """Returns all versions of one model, oldest first; empty when there is none."""
        return [self._read(name, number) for number in self._numbers(name)]

    def known(self, name: str) -> list[Model]:
        """Returns all versions of a model that there is, oldest first.

        Raises:
            UsageError: there is none; the ones there are are named.
        """
        self._known_numbers(name)
        return self.versions(name)

    def get(self, name: str, version: int) -> Model:
        """Returns one version.

        Raises:
            UsageError: no such model or version; the ones there are named.
        """
        numbers = self._known_numbers(name)
        if version in numbers:
            return self._read(name, version)
        there = ", ".join(map(str, numbers))
        raise UsageError(f"model:{name}:{version}: no such version, `{name}` has: {there}")

    def find(self, reference: Reference) -> Model:
        """Returns the version that a reference means now.

        Raises:
            UsageError: there is none; what there is is named.
            VerificationError: the history of the alias was tampered with.
        """
        name, version, alias = reference
        if version is not None:
            return self.get(name, version)
        numbers = self._known_numbers(name)
        if alias in ("", LATEST):
            return self._read(name, numbers[-1])
        aliases = self.aliases(name)
        if alias not in aliases:
            there = ", ".join((*sorted(aliases), LATEST))
            raise UsageError(
                f"model:{name}@{alias}: no such alias, `{name}` has: {there}",
                hint=f"repro model promote {name} VERSION --as {alias}",
            )
        return self.get(name, aliases[alias])

    def aliases(self, name: str) -> dict[str, int]:
        """Returns the version that each alias of a model points at."""
        current = Aliases(self._layout, name).current()
        return {alias: change.version for alias, change in current.items() if change.version is not None}

    def names(self) -> list[str]:
        """Returns the names of all models, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir())
        except FileNotFoundError:
            return []

    def all(self) -> list[Model]:
        """Returns every version of every model, by name and version."""
        return [model for name in self.names() for model in self.versions(name)]

    # ---- parts

    def _known_numbers(self, name: str) -> list[int]:
        """Returns the numbers of a model's versions, oldest first; raises UsageError where there are none."""
        numbers = self._numbers(name)
        if numbers:
            return numbers
        names = ", ".join(self.names()) or "none"
        raise UsageError(f"model:{name}: no such model, registered ones: {names}", hint="repro model list")

    def _numbers(self, name: str) -> list[int]:
        """Returns the versions of a model that have a record, oldest first."""
        if not re.fullmatch(MODEL_NAME, name):
            return []
        try:
            files = os.listdir(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(match[1]) for file in files if (match := re.fullmatch(r"([1-9][0-9]*)\.json", file)))

    def _read(self, name: str, version: int) -> Model:
        model = self._record(name, version)
        changes = Chain(self._layout, self._layout.model_tags(name, version)).links()
        return replace(model, tags=_tags(model.tags, changes)) if changes else model

    def _record(self, name: str, version: int) -> Model:
        """Returns a version as its record has it, with the tags of that day."""
        path = self._layout.model(name, version)
        try:
            content = json.loads(path.read_bytes())
            digest = content.pop("xxh3", None)
            sealed = xxh3_hex(encode(content))
            number = content.pop("format")
            if number not in (1, MODEL_FORMAT):
                raise ValueError(f"has format {number}, this version of repro reads up to {MODEL_FORMAT}")
            model = Model(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise VerificationError(f"{path}: not a model record: {error}") from None
        if (model.name, model.version) != (name, version):
            raise VerificationError(f"{path}: says it is {model.name} version {model.version}")
        if digest != (sealed if number > 1 else None):
            raise VerificationError(f"{path}: was changed, expected xxh3 {digest}, got {sealed}")
        return model

    def _claim(self, model: Model) -> bool:
        """Writes the record under its version unless that exists; True when it is ours."""
        path = self._layout.model(model.name, model.version)
        temporary = path.with_name(f".{os.getpid()}.{os.urandom(4).hex()}.tmp")
        content = model.to_json()
        _write_durable(temporary, encode({**content, "xxh3": xxh3_hex(encode(content))}))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        fsync_directory(path.parent)
        return True


def check_labels(name: str, framework: str, framework_version: str) -> None:
    """Raises UsageError for a name that no model may have, or a framework's version without the framework."""
    if not re.fullmatch(MODEL_NAME, name):
        expected = "expected a letter or digit, then letters, digits, `-`, `_` and `.`, 255 at most"
        raise UsageError(f"model {name!r}: is no name for a model, {expected}")
    if framework_version and not framework:
        raise UsageError(
            f"model {name}: got framework version {framework_version!r} without a framework, expected both"
        )


def _tags(recorded: Mapping[str, str], links: Sequence[Link]) -> dict[str, str]:
    tags = dict(recorded)
    for link in links:
        for key in link.facts.get("remove", ()):
            tags.pop(key, None)
        tags.update(link.facts.get("set", {}))
    return tags


def _write_durable(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        fsync(file.fileno())

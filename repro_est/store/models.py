"""The model registry: a name and a version point at a path of a run's outputs, by digest.

`models/<name>/<version>.json`, written once and never changed:

    {"format": 1, "name", "version", "run", "path", "tree", "created", "description", "tags"}

Version numbers count from 1. The same bytes under the same name are the same version: registering them again
returns it. Two processes that register at once get two versions, because the file is claimed by link(2),
which fails when the name exists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash, TreeHash
from repro_est.errors import UsageError, VerificationError
from repro_est.files import fsync_directory
from repro_est.store.layout import Layout

MODEL_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Model:
    """One registered version.

    Args:
        run: the run that made it.
        path: POSIX path below the run, `outputs/model.joblib`.
        tree: identity of the bytes (a single-file tree for a file).
        created: RFC 3339, UTC.
    """

    name: str
    version: int
    run: RunHash
    path: str
    tree: TreeHash
    created: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": MODEL_FORMAT,
            "name": self.name,
            "version": self.version,
            "run": self.run,
            "path": self.path,
            "tree": self.tree,
            "created": self.created,
            "description": self.description,
            "tags": dict(self.tags),
        }


class Models:
    """The registry of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root = layout.directory("models")

    def register(self, model: Model) -> Model:
        """Stores `model` under the next free version, or returns the version that has the same bytes.

        Args:
            model: its `version` is ignored.
        """
        directory = self._root / model.name
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            versions = self.versions(model.name)
            same = next((known for known in versions if known.tree == model.tree), None)
            if same is not None:
                return same
            candidate = Model(
                model.name, versions[-1].version + 1 if versions else 1, model.run, model.path, model.tree,
                model.created, model.description, model.tags,
            )  # fmt: skip
            if self._claim(candidate):
                return candidate

    def versions(self, name: str) -> list[Model]:
        """Returns all versions of one model, oldest first; empty when there is none."""
        try:
            files = [entry for entry in os.listdir(self._root / name) if entry.endswith(".json")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbers = sorted(int(stem) for file in files if (stem := file.removesuffix(".json")).isdecimal())
        return [self._read(name, number) for number in numbers]

    def get(self, name: str, version: int) -> Model:
        """Returns one version.

        Raises:
            UsageError: no such model or version; the ones there are named.
        """
        known = self.versions(name)
        model = next((model for model in known if model.version == version), None)
        if model is not None:
            return model
        if known:
            there = ", ".join(str(model.version) for model in known)
            raise UsageError(f"model:{name}:{version}: no such version, `{name}` has: {there}")
        names = ", ".join(self.names()) or "none"
        raise UsageError(f"model:{name}:{version}: no such model, registered ones: {names}", hint="repro models")

    def names(self) -> list[str]:
        """Returns the names of all models, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir())
        except FileNotFoundError:
            return []

    def all(self) -> list[Model]:
        """Returns every version of every model, by name and version."""
        return [model for name in self.names() for model in self.versions(name)]

    def _read(self, name: str, version: int) -> Model:
        path = self._layout.model(name, version)
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != MODEL_FORMAT:
                raise ValueError("another format")
            model = Model(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationError(f"{path}: not a model record: {error}") from None
        if (model.name, model.version) != (name, version):
            raise VerificationError(f"{path}: says it is {model.name} version {model.version}")
        return model

    def _claim(self, model: Model) -> bool:
        """Writes the record under its version unless that exists; True when it is ours."""
        path = self._layout.model(model.name, model.version)
        temporary = path.with_name(f".{os.getpid()}.{os.urandom(4).hex()}.tmp")
        data = json.dumps(model.to_json(), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        _write_durable(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        fsync_directory(path.parent)
        return True


def _write_durable(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""`Workspace`: the project around a directory, with its store; Azure ML's place where everything hangs together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro_est.errors import UsageError
from repro_est.project import Project, find_project
from repro_est.store.store import Store

if TYPE_CHECKING:
    from repro_est.api.dataset import FileDataset
    from repro_est.api.datastore import Datastore
    from repro_est.api.environment import Environment
    from repro_est.api.experiment import Experiment
    from repro_est.api.model import Model


@dataclass(frozen=True, slots=True)
class ComputeTarget:
    """Where runs may go; what `compute_target` of an estimator takes.

    Args:
        type: "process", "docker" or "slurm".
    """

    name: str
    type: str


class Workspace:
    """A project and its store.

    Args:
        path: a directory in it; the current one by default.

    Raises:
        UsageError: there is no such directory, or its `repro.toml` is not valid.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        start = Path(path) if path is not None else Path.cwd()
        if not start.is_dir():
            raise UsageError(f"Workspace: got {str(path)!r}, no such directory")
        self.project: Project = find_project(start)
        self._store: Store | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, **azures: Any) -> Workspace:
        """Returns the workspace around a directory; Azure ML's `config.json` is not read.

        Args:
            path: a directory, or a file in it.
        """
        place = Path(path) if path is not None else None
        return cls(place.parent if place is not None and not place.is_dir() else place)

    @property
    def root(self) -> Path:
        """Absolute directory of the project."""
        return self.project.root

    @property
    def name(self) -> str:
        return self.project.root.name

    @property
    def store(self) -> Store:
        """The store, which is made when there is none."""
        if self._store is None:
            self._store = Store.open(self.project.store)
        return self._store

    @property
    def experiments(self) -> dict[str, Experiment]:
        """Experiments by name."""
        from repro_est.api.experiment import Experiment

        return {item.name: item for item in Experiment.list(self)}

    @property
    def models(self) -> dict[str, Model]:
        """The latest version of each model by name."""
        from repro_est.api.model import Model

        return {item.name: item for item in Model.list(self, latest=True)}

    @property
    def datasets(self) -> dict[str, FileDataset]:
        """Registered datasets by name."""
        from repro_est.api.dataset import Dataset

        return Dataset.get_all(self)

    @property
    def environments(self) -> dict[str, Environment]:
        """Registered environments by name."""
        from repro_est.api.environment import Environment

        return Environment.list(self)

    @property
    def compute_targets(self) -> dict[str, ComputeTarget]:
        """Targets by name: this machine, Docker, and those of the inventory."""
        from repro_est.hosts.inventory import find_inventory

        inventory = find_inventory(self.project)
        targets = inventory.targets if inventory is not None else {}
        named = {name: target.scheduler or target.runtime for name, target in targets.items()}
        kinds = {"local": "process", "docker": "docker", **named}
        return {name: ComputeTarget(name, kind) for name, kind in kinds.items()}

    def get_default_datastore(self) -> Datastore:
        """Returns the project's own directory as a datastore."""
        from repro_est.api.datastore import Datastore

        return Datastore("workspacefilestore", self.root)

    def get_details(self) -> dict[str, str]:
        return {"name": self.name, "root": str(self.root), "store": str(self.project.store)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workspace) and other.project == self.project

    def __hash__(self) -> int:
        return hash(self.project.root)

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"


def workspace_or_default(workspace: Workspace | None) -> Workspace:
    """Returns the workspace, or the one around the current directory."""
    return workspace if workspace is not None else Workspace()

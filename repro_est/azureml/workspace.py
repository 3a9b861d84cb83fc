"""`Workspace` of old code: the project around the current directory, whatever workspace is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro_est.api.run import Run
from repro_est.api.workspace import Workspace as Project
from repro_est.azureml.compute import ComputeTarget, targets
from repro_est.azureml.datastore import DEFAULTS, Datastore
from repro_est.azureml.keyvault import Keyvault
from repro_est.azureml.notes import note


class Workspace(Project):
    """The project, under the names that Azure's SDK gives a workspace.

    Args:
        subscription_id, resource_group, workspace_name: said again by the attributes, and without effect.
        azures: a login, a region and the like, which are not needed.
    """

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str | None = None,
        *azures: object,
        _directory: Path | None = None,
        **more: Any,
    ) -> None:
        super().__init__(_directory)
        self.subscription_id, self.resource_group = subscription_id or "", resource_group or ""
        self.location = str(more.get("location") or "")
        if workspace_name is not None and workspace_name != self.name:
            note(f"workspace `{workspace_name}`: is the project in {self.root}")

    @classmethod
    def from_config(cls, path: Any = None, *azures: object, **more: object) -> Workspace:
        """Returns the project around a path; a `config.json` is not read, and need not be there."""
        place = Path(path) if path is not None else Path()
        while not place.is_dir():
            place = place.parent
        return cls(_directory=place)

    @classmethod
    def get(
        cls, name: str, auth: object = None, subscription_id: str = "", resource_group: str = "", **more: Any
    ) -> Workspace:
        return cls(subscription_id, resource_group, name, **more)

    create = setup = get

    @staticmethod
    def list(*azures: object, **more: object) -> dict[str, list[Workspace]]:
        """Returns the one project there is, by its name."""
        workspace = Workspace()
        return {workspace.name: [workspace]}

    def write_config(self, path: object = None, file_name: object = None) -> None:
        note("write_config: writes nothing, the project is found by its directory")

    def get_details(self) -> dict[str, str]:
        return {**super().get_details(), "location": self.location, "resourceGroup": self.resource_group}

    @property
    def compute_targets(self) -> Any:
        """Targets by name; another name is one, too, and is this machine."""
        return _Targets(self)

    def get_default_compute_target(self, type: str = "CPU") -> ComputeTarget:  # noqa: A002 -- Azure ML's name
        return ComputeTarget(self, "local")

    def get_default_datastore(self) -> Datastore:
        """Returns the project's own directory as a datastore."""
        return Datastore(self, DEFAULTS[0])

    @property
    def datastores(self) -> dict[str, Datastore]:
        return Datastore.all(self)

    def get_default_keyvault(self) -> Keyvault:
        return Keyvault()

    def get_run(self, run_id: str) -> Run:
        return Run(self, run_id)


class _Targets(dict[str, ComputeTarget]):
    """See above."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__({name: ComputeTarget(workspace, name) for name in targets()})
        self._workspace = workspace

    def __missing__(self, name: str) -> ComputeTarget:
        return ComputeTarget(self._workspace, name)


def get_run(experiment: Any, run_id: str, **more: object) -> Run:
    """Returns a run by its id."""
    return Run(experiment.workspace, run_id)

"""`Datastore` of old code, which names one by workspace and name: a directory of the project.

The default ones are the project itself; any other is `datastores/NAME` in it, a directory or a link to one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from repro_est.api.datastore import DataReference
from repro_est.api.datastore import Datastore as Directory
from repro_est.api.home import Home, root_of
from repro_est.api.workspace import Workspace as Project
from repro_est.errors import UsageError

DEFAULTS = ("workspaceblobstore", "workspacefilestore")
"""Datastores that every workspace of Azure's has."""

_HOME = "datastores"


class Datastore(Directory):
    """A directory of the project by name.

    Args:
        workspace: its project has the directory.

    Raises:
        UsageError: there is no such directory.
    """

    __slots__ = ()

    def __init__(self, workspace: Project, name: str) -> None:
        directory = workspace.root if name in DEFAULTS else workspace.root / _HOME / name
        if not directory.is_dir():
            raise UsageError(
                f"datastore {name!r}: no such directory: {directory}",
                hint=f"fetch what it has into there, or link it: ln -s DIRECTORY {_HOME}/{name}",
            )
        super().__init__(name, directory)

    @classmethod
    def get(cls, workspace: Home | None, datastore_name: str) -> Datastore:
        return cls(_project(workspace), datastore_name)

    @classmethod
    def get_default(cls, workspace: Home | None = None) -> Datastore:
        return cls(_project(workspace), DEFAULTS[0])

    @staticmethod
    def all(workspace: Project) -> dict[str, Datastore]:
        """Returns the datastores there are, by name."""
        own = sorted(path.name for path in (workspace.root / _HOME).glob("*") if path.is_dir())
        return {name: Datastore(workspace, name) for name in (*DEFAULTS, *own)}

    def download(
        self, target_path: str, prefix: str | None = None, overwrite: bool = False, show_progress: bool = True
    ) -> int:
        """Copies what begins with a prefix into a directory; returns how many files were copied."""
        copied = 0
        for file in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            name = file.relative_to(self.directory).as_posix()
            target = Path(target_path, name)
            if name.startswith(prefix or "") and (overwrite or not target.exists()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                copied += 1
        return copied


def data_reference(
    datastore_name: str | None = None,
    mode: str = "mount",
    path_on_compute: str | None = None,
    path_on_datastore: str | None = None,
    overwrite: bool = False,
) -> DataReference:
    """Returns what `DataReferenceConfiguration` stood for: a path below a datastore as an input."""
    store = Datastore(Project(), datastore_name or DEFAULTS[0])
    return DataReference(store, None, path_on_datastore, mode, path_on_compute=path_on_compute, overwrite=overwrite)


def _project(workspace: Home | None) -> Project:
    return workspace if isinstance(workspace, Project) else Project(root_of(workspace))

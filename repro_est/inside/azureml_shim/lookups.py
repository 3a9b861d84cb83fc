"""Things that scripts inside a run looked up in Azure's workspace: datasets, models, secrets; here the run's inputs.

A script gets what its recipe declares, and nothing else: a dataset or model is the input of that name (with `_` for
what no name may hold), or an error that says what to declare.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib import import_module

from repro_est.inside.run import Experiment as _Experiment
from repro_est.inside.run import Inputs, Run, RunError, Workspace

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from typing import Any

LOGINS = (
    "AzureCliAuthentication",
    "InteractiveLoginAuthentication",
    "MsiAuthentication",
    "ServicePrincipalAuthentication",
    "TokenAuthentication",
)
EXCEPTIONS = (
    "ActivityFailedException",
    "AzureMLException",
    "ComputeTargetException",
    "ExperimentExecutionException",
    "ModelNotFoundException",
    "ProjectSystemException",
    "RunEnvironmentException",
    "ServiceException",
    "TrainingException",
    "UserErrorException",
    "WebserviceException",
)


class Login:
    """No login is needed; whatever it is given is not kept."""

    def __init__(self, *arguments: object, **keywords: object) -> None: ...


class _IsOffline(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Run) and instance._context.offline


class OfflineRun(metaclass=_IsOffline):
    """What Azure's SDK gave a script that was not submitted: the run of one that `repro` did not start."""


def set_diagnostics_collection(*arguments: object, **keywords: object) -> None:
    """Nothing is collected."""


class Experiment(_Experiment):
    """The experiment of the run, by whichever name it is asked for."""

    def __init__(self, workspace: object, name: str, **keywords: object) -> None:
        super().__init__(name)

    def start_logging(self, **keywords: object) -> Run:
        """Returns the run: it is started."""
        return Run.get_context()


class Keyvault:
    """The secrets that the recipe declares."""

    def get_secret(self, name: str) -> str:
        return Run.get_context().get_secret(name)

    def get_secrets(self, secrets: list[str]) -> dict[str, str]:
        return Run.get_context().get_secrets(secrets)


class InputDataset(str):
    """The path of an input, which old code may take for a dataset as well.

    Args:
        path: the file or directory.
    """

    name: str

    def __new__(cls, name: str, path: str) -> InputDataset:
        made = super().__new__(cls, path)
        made.name = name
        return made

    def as_named_input(self, name: str) -> InputDataset:
        return self

    def as_mount(self, path_on_compute: str | None = None) -> str:
        """Returns the path: it is mounted."""
        return str(self)

    as_download = as_mount

    def mount(self, mount_point: str | None = None, **keywords: object) -> MountContext:
        return MountContext(str(self))

    def to_path(self) -> list[str]:
        """Returns its files, relative to it and with a leading `/`."""
        return ["/" + os.path.relpath(file, self._root()).replace(os.sep, "/") for file in self._files()]

    def download(self, target_path: str | None = None, overwrite: bool = False, **keywords: object) -> list[str]:
        """Copies its files into a directory; returns the copies.

        Raises:
            FileExistsError: one is there, and `overwrite` is False.
        """
        root, copies = target_path or os.path.join(os.environ.get("TMPDIR", "/tmp"), self.name), []  # noqa: S108
        for file in self._files():
            copy = os.path.join(root, os.path.relpath(file, self._root()))
            if os.path.exists(copy) and not overwrite:
                raise FileExistsError(f"{copy}: is there already; overwrite=True replaces it")
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            copies.append(shutil.copyfile(file, copy))
        return copies

    def to_pandas_dataframe(self, **keywords: object) -> Any:
        """Returns the rows of its CSV files as one pandas DataFrame."""
        pandas = import_module("pandas")
        return pandas.concat([pandas.read_csv(file) for file in self._files()], ignore_index=True)

    def _root(self) -> str:
        return str(self) if os.path.isdir(self) else os.path.dirname(self)

    def _files(self) -> list[str]:
        if os.path.isfile(self):
            return [str(self)]
        return sorted(os.path.join(place, name) for place, _, names in os.walk(self) for name in names)


class MountContext:
    """A mount that is there as long as the run."""

    def __init__(self, path: str) -> None:
        self.mount_point = path

    def start(self) -> None:
        """Nothing is to be done."""

    def stop(self) -> None:
        """Nothing is to be done."""

    def __enter__(self) -> MountContext:
        return self

    def __exit__(self, *error: object) -> None: ...


class Datasets(dict):  # type: ignore[type-arg]
    """`workspace.datasets`: the run's inputs."""

    def __missing__(self, name: str) -> InputDataset:
        return Dataset.get_by_name(None, name)


class Dataset:
    """Datasets by name: the run's inputs."""

    @staticmethod
    def get_by_name(workspace: object, name: str, version: object = "latest") -> InputDataset:
        """Returns the input of that name.

        Raises:
            RunError: the recipe declares none.
        """
        path = _input(name)
        if path is None:
            raise RunError(
                f"dataset {name!r}: a run reads what its recipe declares; write [inputs.{_plain(name)}] with its path,"
                f" or Dataset.get_by_name(workspace, {name!r}).as_named_input({_plain(name)!r}) where it is submitted"
            )
        return InputDataset(name, path)


class Model:
    """Models by name: the run's inputs.

    Args:
        name: that of the model, and of the input.
    """

    def __init__(self, workspace: object, name: str, version: object = None, **keywords: object) -> None:
        self.name, self.version = name.partition(":")[0], version
        self._path = self.get_model_path(name, version)

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    @staticmethod
    def get_model_path(model_name: str, version: object = None, _workspace: object = None) -> str:
        """Returns the path of the input that is this model.

        Raises:
            RunError: the recipe declares none.
        """
        name = model_name.partition(":")[0]
        path = _input(name)
        if path is None:
            which = f":{version}" if version else "@latest"
            raise RunError(
                f"model {name!r}: a run reads what its recipe declares; write [inputs.{_plain(name)}] with"
                f' path = "model:{name}{which}"'
            )
        return path

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: bool | None = None) -> str:
        """Copies it into a directory; returns the copy.

        Raises:
            FileExistsError: something of that name is there.
        """
        copy = os.path.join(target_dir, os.path.basename(self._path))
        if os.path.exists(copy) and not (exist_ok or exists_ok):
            raise FileExistsError(f"{copy}: is there already; exist_ok=True replaces it")
        os.makedirs(target_dir, exist_ok=True)
        if os.path.isfile(self._path):
            return shutil.copyfile(self._path, copy)
        return shutil.copytree(self._path, copy, dirs_exist_ok=True)

    @staticmethod
    def register(workspace: object, model_path: str, model_name: str, **keywords: Any) -> object:
        """Registers a file or directory of `./outputs` when the run succeeds."""
        return Run.get_context().register_model(model_name, model_path, **keywords)


def lend(owner: type[Workspace]) -> None:
    """Gives the workspace of a run what old scripts ask of it."""
    owner.datasets = property(_datasets)  # type: ignore[attr-defined]
    owner.get_default_keyvault = lambda self: Keyvault()  # type: ignore[attr-defined]
    owner.get_details = lambda self: {"name": self.name}  # type: ignore[attr-defined]
    for name in ("from_config", "get"):
        setattr(owner, name, staticmethod(_workspace))
    Run.input_datasets = property(_input_datasets)  # type: ignore[assignment, method-assign]
    Run.get_submitted_run = staticmethod(Run.get_context)  # type: ignore[attr-defined]


def _datasets(workspace: Workspace) -> Datasets:
    return Datasets(Run.get_context().input_datasets)


def _input_datasets(run: Run) -> Inputs:
    inputs = run._context.inputs
    return Inputs((name, InputDataset(name, path)) for name, path in inputs.items())


def _workspace(*arguments: object, **keywords: object) -> Workspace:
    return Run.get_context().experiment.workspace


def _input(name: str) -> str | None:
    inputs = Run.get_context().input_datasets
    return next((inputs[known] for known in (name, _plain(name)) if known in inputs), None)


def _plain(name: str) -> str:
    """Returns a name that an input may have."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)

"""`RunConfiguration` of old code: everything of a run in one object that is changed until it is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repro_est.api.condadependencies import CondaDependencies
from repro_est.api.distributed import (
    DistributedConfiguration,
    MpiConfiguration,
    PyTorchConfiguration,
    TensorflowConfiguration,
)
from repro_est.api.docker import DockerConfiguration
from repro_est.api.environment import Environment
from repro_est.api.settings import Settings, wrong
from repro_est.azureml.notes import note
from repro_est.errors import UsageError

_COMMUNICATORS = {
    "none": "",
    "mpi": "mpi",
    "intelmpi": "mpi",
    "openmpi": "mpi",
    "nccl": "torch",
    "gloo": "torch",
    "parameterserver": "tensorflow",
}
_WITHOUT_EFFECT = ("auto_prepare_environment", "prepare_environment", "framework", "history", "priority", "data")


class AmlComputeConfiguration(Settings):
    """The cluster that a run was to have for itself."""

    vm_size: str | None
    vm_priority: str | None
    node_count: int | None

    def __init__(self) -> None:
        self.vm_size = self.vm_priority = self.node_count = None

    _cluster_max_node_count: int | None = None


class RunConfiguration(Settings):
    """What to run, where, in what.

    Args:
        script, arguments: of the run, where `ScriptRunConfig` says none.
        framework: "Python", "PyTorch", "TensorFlow"; the communicator says what joins processes.
        communicator: "None", "OpenMpi", "IntelMpi", "Nccl", "Gloo", "ParameterServer".
        conda_dependencies: of its environment.
    """

    script: str | None
    arguments: list[Any]
    framework: str | None
    communicator: str
    target: Any
    node_count: int | None
    max_run_duration_seconds: float | None
    environment: Environment
    environment_variables: dict[str, str]
    data_references: dict[str, Any]
    mpi: MpiConfiguration
    pytorch: PyTorchConfiguration
    tensorflow: TensorflowConfiguration
    distributed: DistributedConfiguration | None
    docker: DockerConfiguration | None
    amlcompute: AmlComputeConfiguration
    auto_prepare_environment: Any
    prepare_environment: Any
    history: Any
    priority: Any
    data: Any

    def __init__(
        self,
        script: str | None = None,
        arguments: Sequence[Any] | None = None,
        framework: str | None = None,
        communicator: str | None = None,
        conda_dependencies: CondaDependencies | None = None,
        **azures: object,
    ) -> None:
        self.script, self.arguments = script, list(arguments or ())
        self.framework, self.communicator = framework, communicator or "None"
        self.target = self.node_count = self.max_run_duration_seconds = self.docker = self.distributed = None
        self.environment = Environment("environment")
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies
        self.environment_variables, self.data_references = {}, {}
        self.mpi, self.pytorch, self.tensorflow = MpiConfiguration(), PyTorchConfiguration(), TensorflowConfiguration()
        self.amlcompute = AmlComputeConfiguration()
        for name in _WITHOUT_EFFECT:
            if name != "framework":
                setattr(self, name, None)

    def _checked(self, name: str, value: Any) -> Any:
        if name == "communicator" and str(value).lower().replace("_", "") not in _COMMUNICATORS:
            raise wrong(self, name, value, "'OpenMpi', 'Nccl', 'Gloo', 'ParameterServer' or 'None'")
        if name == "environment" and not isinstance(value, Environment):
            raise wrong(self, name, value, "an Environment")
        if name in ("data", "priority") and value:
            note(f"RunConfiguration.{name}: is without effect here; data comes by script_params or arguments")
        return value

    @staticmethod
    def load(path: object, name: str | None = None) -> RunConfiguration:
        """Refused: files are turned into recipes, once."""
        raise UsageError(
            "RunConfiguration.load: a .runconfig is not read while code runs",
            hint=f"repro import .azureml/{name or 'NAME'}.runconfig   makes a recipe of it, and says what it dropped",
        )

    def save(self, *where: object, **more: object) -> None:
        """Refused: what is kept is a recipe."""
        raise UsageError(
            "RunConfiguration.save: what can be kept is a recipe", hint="ScriptRunConfig(...).estimator.to_recipe(PATH)"
        )

    def to_estimator(self) -> dict[str, Any]:
        """Returns what it says as keywords of an `Estimator`; what says nothing is left out."""
        environment = self.environment.clone(self.environment.name)
        environment.environment_variables = {**environment.environment_variables, **self.environment_variables}
        nodes = self.node_count if self.node_count is not None else self.amlcompute.node_count
        said = {
            "entry_script": self.script,
            "arguments": self.arguments or None,
            "compute_target": self.target,
            "environment_definition": environment,
            "distributed_training": self._distributed(nodes),
            "node_count": nodes,
            "max_run_duration_seconds": self.max_run_duration_seconds,
            "docker": self.docker,
            "inputs": dict(self.data_references) or None,
        }
        return {key: value for key, value in said.items() if value is not None}

    def _distributed(self, nodes: int | None) -> DistributedConfiguration | None:
        if self.distributed is not None:
            return self.distributed
        kind = _COMMUNICATORS[self.communicator.lower().replace("_", "")]
        if kind == "torch":
            self.pytorch.communication_backend = self.communicator
        joins = {"mpi": self.mpi, "torch": self.pytorch, "tensorflow": self.tensorflow}
        return joins.get(kind)

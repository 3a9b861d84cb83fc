"""What `azureml` has for code that submits: for each module its names, and where each really comes from.

`azureml.core.Run` is `repro_est.Run`; a name that needs more than `repro_est` has comes from a module beside this one.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module, metadata

from repro_est.azureml.notes import note
from repro_est.azureml.refused import refusals, refusals_of_scripts, unknown
from repro_est.inside.azureml_shim.finder import Finder
from repro_est.inside.azureml_shim.lookups import EXCEPTIONS, LOGINS, Login, OfflineRun, set_diagnostics_collection
from repro_est.inside.azureml_shim.surface import VERSION

_OURS = "repro_est.azureml"
_COMPUTE = {
    name: f"{_OURS}.compute:{name}"
    for name in ("AmlCompute", "ComputeInstance", "ComputeTarget", "KubernetesCompute", "RemoteCompute")
}
_ERRORS: dict[str, object] = {
    **dict.fromkeys(EXCEPTIONS, "repro_est.errors:ReproError"),
    "ActivityFailedException": "repro_est.errors:ScriptFailed",
    "ExperimentExecutionException": "repro_est.errors:UsageError",
    "TrainingException": "repro_est.errors:UsageError",
    "UserErrorException": "repro_est.errors:UsageError",
}
_DISTRIBUTED = {
    name: f"repro_est:{name}" for name in ("MpiConfiguration", "PyTorchConfiguration", "TensorflowConfiguration")
}
_OLD_DISTRIBUTED = {name: f"repro_est.api.distributed:{name}" for name in ("Gloo", "Mpi", "Nccl", "ParameterServer")}
_RUNCONFIG: dict[str, object] = {
    **_DISTRIBUTED,
    "CondaDependencies": "repro_est:CondaDependencies",
    "ContainerRegistry": "repro_est.api.docker:ContainerRegistry",
    "DataReferenceConfiguration": f"{_OURS}.datastore:data_reference",
    "DEFAULT_CPU_IMAGE": None,  # the base image of the project
    "DEFAULT_GPU_IMAGE": None,
    "DockerConfiguration": "repro_est:DockerConfiguration",
    "Environment": "repro_est:Environment",
    "EnvironmentDefinition": "repro_est:Environment",
    "RunConfiguration": f"{_OURS}.runconfig:RunConfiguration",
}
_DATA: dict[str, object] = {
    "DatasetConsumptionConfig": "repro_est.api.dataset:DatasetConsumptionConfig",
    "FileDataset": "repro_est.api.dataset:FileDataset",
    "OutputFileDatasetConfig": "repro_est.api.dataset:OutputFileDatasetConfig",
    "TabularDataset": "repro_est.api.dataset:TabularDataset",
}
_WORKSPACE = f"{_OURS}.workspace:Workspace"
_ESTIMATORS = f"{_OURS}.estimators"
_LOGINS = dict.fromkeys(LOGINS, Login)

SURFACE: dict[str, dict[str, object]] = {
    "azureml": {},
    "azureml.core": {
        "ComputeTarget": _COMPUTE["ComputeTarget"],
        "ContainerRegistry": _RUNCONFIG["ContainerRegistry"],
        "Dataset": "repro_est:Dataset",
        "Datastore": f"{_OURS}.datastore:Datastore",
        "Environment": "repro_est:Environment",
        "Experiment": f"{_OURS}.experiment:Experiment",
        "Keyvault": f"{_OURS}.keyvault:Keyvault",
        "Model": "repro_est:Model",
        "Run": "repro_est:Run",
        "RunConfiguration": _RUNCONFIG["RunConfiguration"],
        "ScriptRunConfig": f"{_ESTIMATORS}:ScriptRunConfig",
        "VERSION": VERSION,
        "Workspace": _WORKSPACE,
    },
    "azureml.core.authentication": {**_LOGINS},
    "azureml.core.compute": {**_COMPUTE, "ComputeTargetException": _ERRORS["ComputeTargetException"]},
    "azureml.core.compute_target": {**_COMPUTE, "ComputeTargetException": _ERRORS["ComputeTargetException"]},
    "azureml.core.compute.amlcompute": {"AmlCompute": _COMPUTE["AmlCompute"]},
    "azureml.core.conda_dependencies": {"CondaDependencies": "repro_est:CondaDependencies"},
    "azureml.core.container_registry": {"ContainerRegistry": _RUNCONFIG["ContainerRegistry"]},
    "azureml.core.dataset": {"Dataset": "repro_est:Dataset"},
    "azureml.core.datastore": {"Datastore": f"{_OURS}.datastore:Datastore"},
    "azureml.core.environment": {
        "CondaDependencies": "repro_est:CondaDependencies",
        "DockerSection": "repro_est.api.docker:DockerSection",
        "Environment": "repro_est:Environment",
        "PythonSection": "repro_est.api.environment:PythonSection",
    },
    "azureml.core.experiment": {"Experiment": f"{_OURS}.experiment:Experiment"},
    "azureml.core.keyvault": {"Keyvault": f"{_OURS}.keyvault:Keyvault"},
    "azureml.core.model": {"Model": "repro_est:Model"},
    "azureml.core.run": {
        "Run": "repro_est:Run",
        "_OfflineRun": OfflineRun,
        "_SubmittedRun": "repro_est:Run",
        "get_run": f"{_OURS}.workspace:get_run",
    },
    "azureml.core.runconfig": _RUNCONFIG,
    "azureml.core.script_run": {"ScriptRun": "repro_est:Run"},
    "azureml.core.script_run_config": {"ScriptRunConfig": f"{_ESTIMATORS}:ScriptRunConfig"},
    "azureml.core.workspace": {"Workspace": _WORKSPACE},
    "azureml.data": _DATA,
    "azureml.data.data_reference": {"DataReference": "repro_est.api.dataset:DataReference"},
    "azureml.data.datapath": {"DataPath": "repro_est.api.dataset:DataPath"},
    "azureml.data.dataset_consumption_config": {"DatasetConsumptionConfig": _DATA["DatasetConsumptionConfig"]},
    "azureml.data.dataset_factory": {
        "FileDatasetFactory": "repro_est.api.dataset:FileDatasetFactory",
        "TabularDatasetFactory": "repro_est.api.dataset:TabularDatasetFactory",
    },
    "azureml.data.file_dataset": {"FileDataset": _DATA["FileDataset"]},
    "azureml.data.output_dataset_config": {"OutputFileDatasetConfig": _DATA["OutputFileDatasetConfig"]},
    "azureml.data.tabular_dataset": {"TabularDataset": _DATA["TabularDataset"]},
    "azureml.exceptions": _ERRORS,
    "azureml._common.exceptions": _ERRORS,
    "azureml.telemetry": {"set_diagnostics_collection": set_diagnostics_collection},
    "azureml.train": {},
    "azureml.train.dnn": {
        **_OLD_DISTRIBUTED,
        "Chainer": f"{_OURS}.frameworks:Chainer",
        "PyTorch": f"{_OURS}.frameworks:PyTorch",
        "TensorFlow": f"{_OURS}.frameworks:TensorFlow",
    },
    "azureml.train.estimator": {**_OLD_DISTRIBUTED, "Estimator": f"{_ESTIMATORS}:Estimator"},
    "azureml.train.sklearn": {"SKLearn": f"{_OURS}.frameworks:SKLearn"},
    "azureml.widgets": {"RunDetails": f"{_OURS}.widgets:RunDetails"},
}

_MEMBERS = {
    "azureml.core.dataset.Dataset": "repro_est:Dataset",
    "azureml.core.dataset.Dataset.File": "repro_est.api.dataset:FileDatasetFactory",
    "azureml.core.dataset.Dataset.Tabular": "repro_est.api.dataset:TabularDatasetFactory",
    "azureml.core.datastore.Datastore": f"{_OURS}.datastore:Datastore",
    "azureml.core.compute.ComputeTarget": _COMPUTE["ComputeTarget"],
    "azureml.core.conda_dependencies.CondaDependencies": "repro_est:CondaDependencies",
    "azureml.core.environment.Environment": "repro_est:Environment",
    "azureml.core.experiment.Experiment": f"{_OURS}.experiment:Experiment",
    "azureml.core.keyvault.Keyvault": f"{_OURS}.keyvault:Keyvault",
    "azureml.core.model.Model": "repro_est:Model",
    "azureml.core.run.Run": "repro_est:Run",
    "azureml.core.runconfig.RunConfiguration": f"{_OURS}.runconfig:RunConfiguration",
    "azureml.core.workspace.Workspace": _WORKSPACE,
    "azureml.data.TabularDataset": "repro_est.api.dataset:TabularDataset",
    "azureml.data.FileDataset": "repro_est.api.dataset:FileDataset",
    "azureml.train.estimator.Estimator": f"{_ESTIMATORS}:Estimator",
}
"""Classes that refuse, by name, what the SDK's class had and they have not."""


def install() -> Finder:
    """Serves `azureml` to everything imported from now on, before one that is installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "azureml"]:
        del sys.modules[name]
    with suppress(metadata.PackageNotFoundError):
        note(f"azureml-core {metadata.version('azureml-core')} is installed here, and not used: `azureml` is repro's")
    _lend_to_scripts()
    finder = Finder(SURFACE, refusals, unknown)
    for name, place in _MEMBERS.items():
        module, _, attribute = place.partition(":")
        refusals.lend(getattr(import_module(module), attribute), name)
    finder.install()
    return finder


def _lend_to_scripts() -> None:
    """Gives what this process is itself, as a script that is not submitted, to old code as it expects it."""
    from repro_est.api.run import Run
    from repro_est.azureml.workspace import Workspace
    from repro_est.inside import run as inside

    Run.get_submitted_run = staticmethod(Run.get_context)  # type: ignore[attr-defined]  # its oldest name
    inside.Workspace.__getattr__ = lambda self, name: getattr(Workspace(), name)  # type: ignore[attr-defined]
    refusals_of_scripts.lend(inside.Run, "azureml.core.run.Run")

"""What `azureml` has inside a run, and what it refuses there."""

from __future__ import annotations

from repro_est.inside.run import Run, Workspace

from . import lookups
from .finder import Finder
from .refused import REFUSED, Refusals

VERSION = "1.62.0"
"""The version of Azure's SDK that is answered for."""

_SUBMITS = "a run starts no runs; do it in the code that submits"
_OUTSIDE = "ask when it has ended, from outside: repro_est.Run or the `repro` command"
_INPUT = "data and models come as inputs: declare one in the recipe, [inputs.NAME], and read run.input_datasets[NAME]"

OUTSIDE = {
    "azureml.core.Environment": _SUBMITS,
    "azureml.core.environment": _SUBMITS,
    "azureml.core.ScriptRunConfig": _SUBMITS,
    "azureml.core.script_run_config": _SUBMITS,
    "azureml.core.RunConfiguration": _SUBMITS,
    "azureml.core.runconfig": _SUBMITS,
    "azureml.core.conda_dependencies": _SUBMITS,
    "azureml.core.container_registry": _SUBMITS,
    "azureml.core.ContainerRegistry": _SUBMITS,
    "azureml.core.compute": _SUBMITS,
    "azureml.core.compute_target": _SUBMITS,
    "azureml.core.ComputeTarget": _SUBMITS,
    "azureml.train": _SUBMITS,
    "azureml.widgets": _SUBMITS,
    "azureml.core.experiment.Experiment.submit": _SUBMITS,
    "azureml.core.experiment.Experiment.get_runs": _OUTSIDE,
    "azureml.core.experiment.Experiment.list": _OUTSIDE,
    "azureml.core.run.Run.description": _OUTSIDE,
    "azureml.core.run.Run.get": _OUTSIDE,
    "azureml.core.run.Run.list": _OUTSIDE,
    "azureml.core.run.Run.get_all_logs": _OUTSIDE,
    "azureml.core.run.Run.get_details_with_logs": _OUTSIDE,
    "azureml.core.run.Run.get_portal_url": _OUTSIDE,
    "azureml.core.run.Run.wait_for_completion": _OUTSIDE,
    "azureml.core.run.Run.download_files": _OUTSIDE,
    "azureml.core.workspace.Workspace.compute_targets": _SUBMITS,
    "azureml.core.workspace.Workspace.environments": _SUBMITS,
    "azureml.core.workspace.Workspace.experiments": _OUTSIDE,
    "azureml.core.workspace.Workspace.datastores": _INPUT,
    "azureml.core.workspace.Workspace.get_default_datastore": _INPUT,
    "azureml.core.workspace.Workspace.models": _INPUT,
    "azureml.core.workspace.Workspace.create": _SUBMITS,
    "azureml.core.workspace.Workspace.setup": _SUBMITS,
    "azureml.core.workspace.Workspace.write_config": _SUBMITS,
    "azureml.core.datastore": _INPUT,
    "azureml.core.Datastore": _INPUT,
    "azureml.core.dataset.Dataset.File": _INPUT,
    "azureml.core.dataset.Dataset.Tabular": _INPUT,
    "azureml.core.dataset.Dataset.get_all": _INPUT,
    "azureml.core.dataset.Dataset.get_by_id": _INPUT,
    "azureml.core.dataset.Dataset.register": _INPUT,
    "azureml.core.model.Model.list": _INPUT,
    "azureml.data": _INPUT,
}
"""What has a meaning outside of runs only."""

_CORE: dict[str, object] = {
    "Run": "repro_est:Run",
    "Experiment": lookups.Experiment,
    "Workspace": Workspace,
    "Dataset": lookups.Dataset,
    "Model": lookups.Model,
    "Keyvault": lookups.Keyvault,
    "VERSION": VERSION,
}

SURFACE: dict[str, dict[str, object]] = {
    "azureml": {},
    "azureml.core": _CORE,
    "azureml.core.run": {
        "Run": "repro_est:Run",
        "RunError": "repro_est:RunError",
        "_OfflineRun": lookups.OfflineRun,
        "_SubmittedRun": "repro_est:Run",
    },
    "azureml.core.experiment": {"Experiment": lookups.Experiment},
    "azureml.core.workspace": {"Workspace": Workspace},
    "azureml.core.dataset": {"Dataset": lookups.Dataset},
    "azureml.core.model": {"Model": lookups.Model},
    "azureml.core.keyvault": {"Keyvault": lookups.Keyvault},
    "azureml.core.authentication": dict.fromkeys(lookups.LOGINS, lookups.Login),
    "azureml.core.datastore": {},
    "azureml.exceptions": dict.fromkeys(lookups.EXCEPTIONS, "repro_est:RunError"),
    "azureml._common.exceptions": dict.fromkeys(lookups.EXCEPTIONS, "repro_est:RunError"),
    "azureml.telemetry": {"set_diagnostics_collection": lookups.set_diagnostics_collection},
}


def finder() -> Finder:
    """Returns what serves `azureml`; the classes of `repro_est` learn to refuse what they have not."""
    refusals = Refusals({**REFUSED, **OUTSIDE})
    lookups.lend(Workspace)
    for owner, name in (
        (Run, "azureml.core.run.Run"),
        (lookups.Experiment, "azureml.core.experiment.Experiment"),
        (Workspace, "azureml.core.workspace.Workspace"),
        (lookups.Dataset, "azureml.core.dataset.Dataset"),
        (lookups.Model, "azureml.core.model.Model"),
        (lookups.Keyvault, "azureml.core.keyvault.Keyvault"),
    ):
        refusals.lend(owner, name)
    return Finder(SURFACE, refusals)

"""What of Azure ML's SDK has no meaning here, and what to do instead: one table, by the SDK's own dotted names.

A name that is longer than an entry falls under it: `azureml.pipeline` covers every class of every module below. The
same table serves scripts inside runs and those that submit them; docs/migrate-from-azureml.md says the same in prose.

    refusals = Refusals(REFUSED)
    refusals.reason("azureml.core.webservice.AciWebservice")       the sentence; None where the shim has the thing
    refusals.placeholder("azureml.core.webservice.AciWebservice")  what it is bound to: may be imported, not used
"""

from __future__ import annotations

import difflib

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SERVE = "serving is not what repro does; `repro get` or `repro model download` hands the model to what serves it"
_STEPS = 'a step is a recipe whose input is another\'s output: Dataset.File.from_files("recipe:prep.toml/outputs/data")'
_SWEEP = "no sweeps yet: submit Estimator(script_params={...}) in a loop; what has run already is not run again"
_MACHINE = "machines are not made here: name yours in inventory.toml and take compute_target=NAME"
_FILES = "data is files here: bring them into a directory, and take Dataset.File.from_files(DIRECTORY)"
_STORE = "a datastore is a directory here: fetch the data, then Datastore(NAME, DIRECTORY) or Dataset.File.from_files"
_PANDAS = "to_pandas_dataframe() gives a DataFrame, which does it"
_CACHE = "every run is kept with its source, lock and inputs; `repro run HASH` does it again"
_OWN_PACKAGE = "put the package that does it into pip_packages, and call it in the script"
_PRIVATE = "is private to Azure's SDK; take what azureml.core offers in public"

REFUSED: dict[str, str] = {
    "azureml.automl": _SWEEP,
    "azureml.train.automl": _SWEEP,
    "azureml.train.hyperdrive": _SWEEP,
    "azureml.train.rl": _OWN_PACKAGE,
    "azureml.pipeline": _STEPS,
    "azureml.contrib": "experimental parts of Azure's SDK have no counterpart; " + _OWN_PACKAGE,
    "azureml.dataprep": _FILES,
    "azureml.datadrift": _OWN_PACKAGE,
    "azureml.explain": _OWN_PACKAGE,
    "azureml.interpret": _OWN_PACKAGE,
    "azureml.responsibleai": _OWN_PACKAGE,
    "azureml.fsspec": _FILES,
    "azureml.opendatasets": "fetch the file once: [inputs.NAME] with its url and sha256",
    "azureml.accel": _SERVE,
    "azureml.monitoring": _SERVE,
    "azureml.tensorboard": "`repro tensorboard RUN...` starts the real one, also while the run goes on",
    "azureml.mlflow": "needs no set-up: mlflow.log_metric in a script lands in the run",
    "azureml.history": _PRIVATE,
    "azureml._base_sdk_common": _PRIVATE,
    "azureml._execution": _PRIVATE,
    "azureml._logging": _PRIVATE,
    "azureml._model_management": _PRIVATE,
    "azureml._project": _PRIVATE,
    "azureml._restclient": _PRIVATE,
    "azureml._run_impl": _PRIVATE,
    "azureml._vendor": _PRIVATE,
    "azureml.core.webservice": _SERVE,
    "azureml.core.Webservice": _SERVE,
    "azureml.core.image": _SERVE,
    "azureml.core.Image": _SERVE,
    "azureml.core.profile": _SERVE,
    "azureml.core.resource_configuration": _SERVE,
    "azureml.core.model.InferenceConfig": _SERVE,
    "azureml.core.model.ModelPackage": _SERVE,
    "azureml.core.model.Model.deploy": _SERVE,
    "azureml.core.model.Model.deploy_from_image": _SERVE,
    "azureml.core.model.Model.package": _SERVE,
    "azureml.core.model.Model.print_configuration": _SERVE,
    "azureml.core.model.Model.profile": _SERVE,
    "azureml.core.model.Model.add_dataset_references": "the inputs of its run are with it: `repro model trace NAME`",
    "azureml.core.model.Model.delete": "a version is for good; an alias says which is in use: `repro model promote`",
    "azureml.core.linked_service": "other services are not linked here; " + _OWN_PACKAGE,
    "azureml.core.LinkedService": "other services are not linked here; " + _OWN_PACKAGE,
    "azureml.core.private_endpoint": "nothing here has an address",
    "azureml.core.databricks": _MACHINE,
    "azureml.core.synapse_spark": _MACHINE,
    "azureml.core.SynapseWorkspaceLinkedServiceConfiguration": _MACHINE,
    "azureml.core.compute.AdlaCompute": _MACHINE,
    "azureml.core.compute.AksCompute": _SERVE,
    "azureml.core.compute.BatchCompute": _MACHINE,
    "azureml.core.compute.DataFactoryCompute": _MACHINE,
    "azureml.core.compute.DatabricksCompute": _MACHINE,
    "azureml.core.compute.HDInsightCompute": _MACHINE,
    "azureml.core.compute.SynapseCompute": _MACHINE,
    "azureml.core.runconfig.ParallelTaskConfiguration": "submit the tasks in a loop; each is a run of its own",
    "azureml.core.runconfig.SparkConfiguration": _OWN_PACKAGE,
    "azureml.core.runconfig.HdiConfiguration": _MACHINE,
    "azureml.core.keyvault.Keyvault.set_secret": "a secret is a variable here: `export NAME=...`, and secrets=[NAME]",
    "azureml.core.keyvault.Keyvault.set_secrets": "a secret is a variable here: `export NAME=...`, and secrets=[NAME]",
    "azureml.core.keyvault.Keyvault.delete_secret": "a secret is a variable here: `unset NAME`",
    "azureml.core.keyvault.Keyvault.delete_secrets": "a secret is a variable here: `unset NAME`",
    "azureml.core.keyvault.Keyvault.list_secrets": "secrets=[...] of the Estimator names them",
    "azureml.core.workspace.Workspace.delete": "the project is a directory; its store is `cache/` in it",
    "azureml.core.workspace.Workspace.webservices": _SERVE,
    "azureml.core.workspace.Workspace.images": _SERVE,
    "azureml.core.workspace.Workspace.linked_services": "other services are not linked here; " + _OWN_PACKAGE,
    "azureml.core.workspace.Workspace.service_context": _PRIVATE,
    "azureml.core.workspace.Workspace.sync_keys": "no service, no keys",
    "azureml.core.workspace.Workspace.set_default_datastore": "paths of datasets are relative to the project",
    "azureml.core.dataset.Dataset.auto_read_files": _FILES,
    "azureml.core.dataset.Dataset.from_delimited_files": "Dataset.Tabular.from_delimited_files is its later name",
    "azureml.core.dataset.Dataset.get_by_id": "get_by_name has those of datasets.toml",
    "azureml.core.dataset.Dataset.Tabular.from_sql_query": _FILES,
    "azureml.core.dataset.Dataset.Tabular.from_parquet_files": _FILES,
    "azureml.core.dataset.Dataset.Tabular.from_json_lines_files": _FILES,
    "azureml.core.dataset.Dataset.Tabular.register_pandas_dataframe": _FILES,
    "azureml.core.dataset.Dataset.Tabular.register_dask_dataframe": _FILES,
    "azureml.core.dataset.Dataset.Tabular.register_spark_dataframe": _FILES,
    "azureml.core.dataset.Dataset.File.upload_directory": _FILES,
    "azureml.data.FileDataset.download": "its files are where they are: Datastore.download, or an input as_download()",
    "azureml.data.FileDataset.mount": "its files are where they are; in a run: an input as_mount()",
    "azureml.data.FileDataset.random_split": "a split is a step of the script, or a recipe of its own",
    "azureml.data.FileDataset.unregister": "take its lines out of datasets.toml",
    "azureml.data.TabularDataset.drop_columns": _PANDAS,
    "azureml.data.TabularDataset.filter": _PANDAS,
    "azureml.data.TabularDataset.keep_columns": _PANDAS,
    "azureml.data.TabularDataset.random_split": _PANDAS,
    "azureml.data.TabularDataset.sample": _PANDAS,
    "azureml.data.TabularDataset.skip": _PANDAS,
    "azureml.data.TabularDataset.take": _PANDAS,
    "azureml.data.TabularDataset.time_after": _PANDAS,
    "azureml.data.TabularDataset.time_before": _PANDAS,
    "azureml.data.TabularDataset.time_between": _PANDAS,
    "azureml.data.TabularDataset.time_recent": _PANDAS,
    "azureml.data.TabularDataset.to_csv_files": _PANDAS,
    "azureml.data.TabularDataset.to_dask_dataframe": _PANDAS,
    "azureml.data.TabularDataset.to_parquet_files": _PANDAS,
    "azureml.data.TabularDataset.to_spark_dataframe": _PANDAS,
    "azureml.data.TabularDataset.with_timestamp_columns": _PANDAS,
    "azureml.core.datastore.Datastore.register_azure_blob_container": _STORE,
    "azureml.core.datastore.Datastore.register_azure_file_share": _STORE,
    "azureml.core.datastore.Datastore.register_azure_data_lake": _STORE,
    "azureml.core.datastore.Datastore.register_azure_data_lake_gen2": _STORE,
    "azureml.core.datastore.Datastore.register_azure_my_sql": _STORE,
    "azureml.core.datastore.Datastore.register_azure_postgre_sql": _STORE,
    "azureml.core.datastore.Datastore.register_azure_sql_database": _STORE,
    "azureml.core.datastore.Datastore.register_dbfs": _STORE,
    "azureml.core.datastore.Datastore.register_hdfs": _STORE,
    "azureml.core.datastore.Datastore.register_onpremises_hdfs": _STORE,
    "azureml.core.experiment.Experiment.archive": "an experiment is a name that runs have; `repro ls` filters by it",
    "azureml.core.experiment.Experiment.delete": "runs are kept; `repro gc` frees what nothing needs",
    "azureml.core.experiment.Experiment.from_directory": _CACHE,
    "azureml.core.experiment.Experiment.get_docs_url": "docs/migrate-from-azureml.md",
    "azureml.core.experiment.Experiment.reactivate": "an experiment is a name that runs have; `repro ls` filters by it",
    "azureml.core.environment.Environment.from_docker_build_context": "from_dockerfile takes a directory, too",
    "azureml.core.environment.Environment.get_image_details": "`repro image show RECIPE`",
    "azureml.train.estimator.Estimator.conda_dependencies": "an estimator is checked when it is made; say it there",
    "azureml.train.estimator.Estimator.run_config": "an estimator is checked when it is made; say it there",
    "azureml.core.run.Run.add_type_provider": _PRIVATE,
    "azureml.core.run.Run.clean": "the files of a run are its record and stay",
    "azureml.core.run.Run.get_snapshot_id": _CACHE,
    "azureml.core.run.Run.output_datasets": "what a run writes is in its outputs: run.get_file_names()",
    "azureml.core.run.Run.list_by_compute": "`repro ps` lists what runs, on which hosts",
    "azureml.core.run.Run.restore_snapshot": _CACHE,
    "azureml.core.run.Run.submit_child": "submit it as a run of its own; an input of it says where it came from",
    "azureml.core.run.Run.take_snapshot": _CACHE,
}


class NotHere(AttributeError):
    """Something of Azure's SDK that has no meaning inside a run was used; an AttributeError: `hasattr` says no."""


class Refusals:
    """A table of refused names, and what comes of using one.

    Args:
        table: for each name what to do instead.
        error: makes an error of the name and what to do instead.
    """

    def __init__(
        self,
        table: Mapping[str, str],
        error: Callable[[str, str], Exception] = lambda name, instead: NotHere(
            f"{name}: has no meaning inside a run; {instead}"
        ),
    ) -> None:
        self._table, self._error = table, error

    def reason(self, name: str) -> str | None:
        """Returns what to do in place of a dotted name, or None where nothing refuses it."""
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            sentence = self._table.get(".".join(parts[:length]))
            if sentence is not None:
                return sentence
        return None

    def error(self, name: str) -> Exception:
        return self._error(name, str(self.reason(name)))

    def placeholder(self, name: str) -> Placeholder:
        return Placeholder(name, self)

    def lend(self, owner: type, name: str) -> None:
        """Lets a class refuse, by name, what the SDK's class of that dotted name had and it has not.

        What is in no table is refused as well, with the nearest name that there is.
        """
        for entry in self._table:
            prefix, _, member = entry.rpartition(".")
            if prefix == name and not hasattr(owner, member):
                setattr(owner, member, _Member(entry, self))

        def missing(instance: object, attribute: str) -> object:
            if attribute.startswith("_"):
                raise AttributeError(attribute)
            if self.reason(f"{name}.{attribute}"):  # an AttributeError of a member comes here as well
                raise self.error(f"{name}.{attribute}")
            known = [item for item in dir(owner) if not item.startswith("_")]
            near = difflib.get_close_matches(attribute, known, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else "docs/migrate-from-azureml.md lists what there is"
            raise self._error(f"{name}.{attribute}", hint)

        if not hasattr(owner, "_refused_by_name"):
            owner.__getattr__ = missing  # type: ignore[attr-defined]
            owner._refused_by_name = True  # type: ignore[attr-defined]


class Placeholder:
    """A refused class or function: an old script may import it, since many import more than they use."""

    def __init__(self, name: str, refusals: Refusals) -> None:
        self._name, self._refusals = name, refusals

    def __repr__(self) -> str:
        return f"<{self._name}: has no meaning here>"

    def __call__(self, *arguments: object, **keywords: object) -> object:
        raise self._refusals.error(self._name)

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise self._refusals.error(f"{self._name}.{attribute}")

    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        raise self._refusals.error(self._name)

    def __instancecheck__(self, instance: object) -> bool:
        return False


class _Member:
    """A refused method of a class that is here."""

    def __init__(self, name: str, refusals: Refusals) -> None:
        self._name, self._refusals = name, refusals

    def __get__(self, instance: object, owner: object = None) -> object:
        raise self._refusals.error(self._name)

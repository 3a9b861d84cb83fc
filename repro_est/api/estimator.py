"""`Estimator`: a recipe said in Python, with Azure ML's keyword parameters.

It is a recipe's document, a dict of tables as TOML has them, read by the same strict reader; so a recipe and the same
thing said in Python are one plan and one run hash. What is wrong is said when the estimator is made, and no argument of
the caller is ever changed.

Relative paths start at the current directory, as if there were a recipe `NAME.toml` in it; its lock is `NAME.lock`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro_est.api.dataset import Consumed, OutputFileDatasetConfig
from repro_est.api.datastore import DataPath
from repro_est.api.distributed import DistributedConfiguration
from repro_est.api.docker import ContainerRegistry, DockerConfiguration
from repro_est.api.environment import Environment
from repro_est.api.workspace import Workspace, workspace_or_default
from repro_est.errors import UsageError

if TYPE_CHECKING:
    from repro_est.engine import Prepared
    from repro_est.observer import Observer
    from repro_est.recipe.values import Recipe

Document = dict[str, Any]
PathLike = str | os.PathLike[str]

_PACKAGES = (
    "conda_packages", "pip_packages", "conda_dependencies_file", "pip_requirements_file", "custom_docker_image",
    "image_registry_details", "user_managed", "use_docker", "environment_variables", "shm_size",
)  # fmt: skip
"""What an `environment_definition` says, and nobody else beside it: Azure ML's rule."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be run.

    Args:
        run_hash: the address of everything the run makes.
        cached_where: "store" when the run is there, else None.
        document: all that was hashed.
        environment: key of the environment.
        source: hash of the snapshot.
    """

    run_hash: str
    cached_where: str | None
    environment: str
    source: str
    document: Mapping[str, Any] = field(repr=False)

    @property
    def cached(self) -> bool:
        return self.cached_where is not None

    def to_json(self) -> dict[str, Any]:
        """Returns what `repro plan --json` prints."""
        return {
            "run_hash": self.run_hash,
            "cached": self.cached,
            "cached_where": self.cached_where,
            "environment": self.environment,
            "source": self.source,
            "plan": dict(self.document),
        }


class Estimator:
    """What to run, on what, with what: see docs/python.md for each parameter.

    Args:
        source_directory: taken as the snapshot.
        compute_target: "local", "docker", a target of the inventory, or an object with such a `name`.
        entry_script: Python file or notebook in the source directory.
        script_params: flags in order; `""` or None is a bare flag, a list is spread, a dataset is its path.
        distributed_training: `MpiConfiguration`, `PyTorchConfiguration`, `TensorflowConfiguration`, or "mpi", "torch".
        environment_definition: an `Environment`, in place of packages, image and variables.
        inputs: datasets as named inputs, in a list or by name; also paths, `run:...`, `model:...`, `recipe:...`.
        resume_from: outputs of an earlier run, passed as `--resume-from PATH`.
        name: of the recipe this stands for; default: of the entry script.
        outputs: paths or globs that a success must have written.
        models: outputs to register by name: `{"digits": "outputs/model.joblib"}`.
        secrets: names of environment variables the script gets.
        python: version or specifier.
        environment: more keys of `[environment]`, such as `{"as_of": "2026-06-01"}`.
        directory: where relative paths start; the current directory by default.

    Raises:
        RecipeError, UsageError: something is wrong; all of it is said at once.

    Example:
        Estimator("digits", entry_script="train.py", script_params={"--regularization": 0.8},
                  pip_packages=["scikit-learn>=1.5"]).plan().run_hash
    """

    def __init__(
        self,
        source_directory: PathLike | None = ".",
        *,
        compute_target: Any = None,
        vm_size: str | None = None,
        vm_priority: str | None = None,
        entry_script: str | None = None,
        script_params: Mapping[str, Any] | None = None,
        node_count: int | None = None,
        process_count_per_node: int | None = None,
        distributed_backend: str | None = None,
        distributed_training: DistributedConfiguration | str | None = None,
        use_gpu: bool = False,
        use_docker: bool | None = None,
        custom_docker_base_image: str | None = None,
        custom_docker_image: str | None = None,
        image_registry_details: ContainerRegistry | Mapping[str, str] | None = None,
        user_managed: bool = False,
        conda_packages: Iterable[str] | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_dependencies_file_path: PathLike | None = None,
        pip_requirements_file_path: PathLike | None = None,
        conda_dependencies_file: PathLike | None = None,
        pip_requirements_file: PathLike | None = None,
        environment_variables: Mapping[str, str] | None = None,
        environment_definition: Environment | None = None,
        inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        source_directory_data_store: Any = None,
        shm_size: str | None = None,
        resume_from: Any = None,
        max_run_duration_seconds: float | None = None,
        name: str | None = None,
        arguments: Sequence[Any] | None = None,
        outputs: Iterable[str] | None = None,
        metrics: str | None = None,
        models: Mapping[str, str | Mapping[str, Any]] | None = None,
        secrets: Iterable[str] | None = None,
        salt: str = "",
        tags: Mapping[str, str] | None = None,
        description: str = "",
        python: str | None = None,
        environment: Mapping[str, Any] | None = None,
        docker: Mapping[str, Any] | DockerConfiguration | None = None,
        compat_azureml: bool = False,
        gpus_per_process: int | None = None,
        gpu_binding: str | None = None,
        retries: int | None = None,
        heartbeat_seconds: float | None = None,
        directory: PathLike | None = None,
        **unknown: Any,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "unknown", "__class__")}
        _check_keywords(unknown, vm_size=vm_size, vm_priority=vm_priority, shared=source_directory_data_store)
        base = Path(directory or ".").absolute()
        if name is not None and (not name or "/" in name):
            raise UsageError(
                f"Estimator: name: got {name!r}, expected the name of a recipe", hint="directory=... says where"
            )
        self._file: Path | None = None
        self._document = _document(given, base)
        self._path = base / f"{name or Path(entry_script or 'estimator').stem}.toml"
        self._recipe: Recipe = self._read()

    @classmethod
    def from_recipe(cls, path: PathLike, overrides: Sequence[str] = ()) -> Estimator:
        """Returns the estimator that a recipe file describes.

        Args:
            overrides: `KEY=VALUE`, as for `--set`.

        Raises:
            RecipeError, UsageError: as `repro check` says it.
        """
        import tomli

        from repro_est.recipe.layers import merged, override_layer
        from repro_est.recipe.load import load

        load(Path(path))  # says what is wrong with the lines it is in
        file = Path(os.path.realpath(path))
        document = tomli.loads(file.read_text("utf-8-sig"))
        made = cls.__new__(cls)
        made._file = made._path = file
        made._document = merged(document, override_layer(file.parent, tuple(overrides)).document)
        made._recipe = made._read()
        return made

    def to_recipe(self, path: PathLike | None = None) -> str:
        """Returns the recipe as TOML text, and writes it if there is a path.

        Relative paths in it start where they did: the text belongs into the estimator's directory.
        """
        from repro_est.files import write_atomic
        from repro_est.recipe.write import write_recipe

        text = write_recipe(self._document)
        if path is not None:
            write_atomic(Path(path), text.encode())
        return text

    # ---- what it says

    @property
    def name(self) -> str:
        return self._path.stem

    @property
    def recipe(self) -> Recipe:
        """The recipe as values."""
        return self._recipe

    @property
    def source_directory(self) -> str:
        return str(self._recipe.estimator.source_directory)

    @property
    def entry_script(self) -> str:
        return self._recipe.estimator.entry_script

    @property
    def lock_file(self) -> str:
        """Where the lock is, or will be."""
        return str(self._recipe.lock_path)

    def with_(
        self, *, script_params: Mapping[str, Any] | None = None, inputs: Any = None, **recorded: Any
    ) -> Estimator:
        """Returns this estimator with other parameters; flags that are not named stay as they are.

        Args:
            script_params: laid over those it has.
            recorded: `experiment_name`, `tags`, `description`.
        """
        from repro_est.recipe.layers import merged

        more: Document = {key: value for key, value in recorded.items() if value}
        draft = _Draft(more, self._path.parent)
        draft.add_inputs(inputs)
        draft.add_params(script_params)
        made = copy.copy(self)
        made._document = merged(self._document, more)
        made._recipe = made._read()
        return made

    # ---- what becomes of it

    def plan(self, workspace: Workspace | None = None, *, relock: bool = False) -> Planned:
        """Pins everything and says what would be run; makes the lock if there is none, executes nothing.

        Raises:
            LockError: the lock is stale; `relock` makes it anew.
            ReproError: something cannot be pinned.
        """
        from repro_est import engine
        from repro_est.api.silence import Silence
        from repro_est.environment.key import environment_key

        workspace = workspace_or_default(workspace)
        plan = self.prepare(workspace, Silence(), relock=relock).plan
        found = engine.look(plan, workspace.store, Silence(), workspace.project)
        where = found.where if found else None
        return Planned(plan.hash, where, environment_key(plan.environment), plan.source, plan.document)

    def prepare(self, workspace: Workspace, observer: Observer, *, relock: bool = False) -> Prepared:
        """Pins everything the recipe depends on (`engine.prepare`)."""
        from repro_est import engine

        return engine.prepare(self._recipe, workspace.project, workspace.store, observer, relock=relock)

    def _read(self) -> Recipe:
        from repro_est.recipe.load import load_document

        return load_document(self._document, self._path, is_file=self._file is not None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source_directory!r}, entry_script={self.entry_script!r})"


def _check_keywords(unknown: Mapping[str, Any], *, vm_size: Any, vm_priority: Any, shared: Any) -> None:
    """Refuses what has no meaning here, and what nobody knows."""
    import difflib
    import inspect

    own = [name for name in unknown if not name.startswith("_")]  # Azure ML's switches of its own checks
    if own:
        known = list(inspect.signature(Estimator.__init__).parameters)
        near = difflib.get_close_matches(own[0], known, n=1)
        raise UsageError(f"Estimator: {own[0]}: no such parameter", hint=f"did you mean `{near[0]}`?" if near else None)
    refused = {
        "vm_size": (vm_size, "repro runs on machines you name: compute_target"),
        "vm_priority": (vm_priority, "repro runs on machines you name: compute_target"),
        "source_directory_data_store": (shared, "every run has a private copy of its source; leave it out"),
    }
    for name, (value, hint) in refused.items():
        if value is not None:
            raise UsageError(f"Estimator: {name}: got {value!r}, which has no meaning here", hint=hint)


def _document(given: Mapping[str, Any], base: Path) -> Document:
    """Returns the document of a recipe from the parameters of an estimator."""
    definition = given["environment_definition"]
    beside = [key for key in _PACKAGES if given[key]] if definition is not None else []
    if beside:
        raise UsageError(
            f"Estimator: got environment_definition and {', '.join(beside)}, expected one or the other",
            hint="put them into the Environment",
        )
    if definition is not None and not isinstance(definition, Environment):
        raise UsageError(f"Estimator: environment_definition: got {definition!r}, expected an Environment")
    document: Document = {"estimator": {}, "environment": dict(given["environment"] or {})}
    if definition is not None:
        if definition.dropped:
            left = ", ".join(definition.dropped)
            warnings.warn(f"Environment {definition.name}: has no meaning here, left out: {left}", stacklevel=4)
        for table, keys in definition.to_recipe().items():
            document.setdefault(table, {}).update(copy.deepcopy(keys))
    estimator = document["estimator"]
    estimator.update(_plain_keys(given))
    estimator.update(_distributed(given))
    if given["python"] is not None:
        document["environment"]["python"] = given["python"]
    _add_docker(document, given["docker"])
    draft = _Draft(document, base)
    draft.add_inputs(given["inputs"])
    draft.add_params(given["script_params"])
    if given["arguments"]:
        estimator["arguments"] = [draft.word(item) for item in given["arguments"]]
    if given["resume_from"] is not None:
        estimator["resume_from"] = _resumed(given["resume_from"])
    outputs = {"required": _listed("outputs", given["outputs"]), "metrics": given["metrics"]}
    document["outputs"] = {key: value for key, value in outputs.items() if value}
    document["models"] = {
        name: {"path": item} if isinstance(item, str) else dict(_table("models", item))
        for name, item in _table("models", given["models"] or {}).items()
    }
    document["compat"] = {"azureml": True} if given["compat_azureml"] else {}
    top = {
        "secrets": _listed("secrets", given["secrets"]),
        "salt": given["salt"],
        "tags": dict(given["tags"] or {}),
        "description": given["description"],
    }
    return {key: value for key, value in {**top, **document}.items() if value}


def _plain_keys(given: Mapping[str, Any]) -> Document:
    """The keys that only need their form."""
    registry = given["image_registry_details"]
    if registry is not None and not isinstance(registry, ContainerRegistry):
        registry = ContainerRegistry(**_table("image_registry_details", registry))
    images = [given[key] for key in ("custom_docker_image", "custom_docker_base_image") if given[key]]
    if len(images) > 1:
        raise UsageError("Estimator: got custom_docker_image and its old name custom_docker_base_image, expected one")
    if images and given["use_docker"] is False:
        raise UsageError("Estimator: got use_docker = False and an image, which needs a container")
    values: Document = {
        "source_directory": os.fspath(given["source_directory"] or "."),
        "entry_script": given["entry_script"],
        "compute_target": _target(given["compute_target"]),
        "use_gpu": given["use_gpu"],
        "custom_docker_image": images[0] if images else None,
        "image_registry_details": registry.to_recipe() if registry else None,
        "user_managed": given["user_managed"],
        "conda_packages": _listed("conda_packages", given["conda_packages"]),
        "pip_packages": _listed("pip_packages", given["pip_packages"]),
        "environment_variables": dict(given["environment_variables"] or {}),
        "shm_size": given["shm_size"],
        "max_run_duration_seconds": given["max_run_duration_seconds"],
        "gpus_per_process": given["gpus_per_process"],
        "gpu_binding": given["gpu_binding"],
        "retries": given["retries"],
        "heartbeat_seconds": given["heartbeat_seconds"],
    }
    for key in ("conda_dependencies_file", "pip_requirements_file"):
        paths = [given[name] for name in (key, f"{key}_path") if given[name]]
        if len(paths) > 1:
            raise UsageError(f"Estimator: got {key} and its old name {key}_path, expected one")
        values[key] = _in_source(given["source_directory"], paths[0], given["directory"]) if paths else None
    return {key: value for key, value in values.items() if value not in (None, "", [], {}, False)}


def _in_source(source: PathLike | None, path: PathLike, directory: PathLike | None) -> str:
    """A file of packages is in the source directory, as Azure ML has it, or where relative paths start."""
    inside = Path(os.fspath(source or "."), path)
    return str(inside) if (Path(directory or ".") / inside).is_file() else os.fspath(path)


def _target(target: Any) -> str | None:
    if target is None or isinstance(target, str):
        return target
    name = getattr(target, "name", None)
    if not isinstance(name, str):
        raise UsageError(f"Estimator: compute_target: got {target!r}, expected a name or an object with one")
    return name


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"Estimator: {key}: got {value!r}, expected a dict by text")
    return value


def _listed(key: str, value: Iterable[str] | None) -> list[str]:
    if isinstance(value, str):
        raise UsageError(f"Estimator: {key}: got {value!r}, expected a list of strings")
    return list(value or ())


def _distributed(given: Mapping[str, Any]) -> Document:
    training = given["distributed_training"]
    keys: Document = {
        key: given[key]
        for key in ("node_count", "process_count_per_node", "distributed_backend")
        if given[key] is not None
    }
    if isinstance(training, DistributedConfiguration):
        keys |= training.to_recipe()
    elif isinstance(training, str | Mapping):
        keys["distributed_training"] = training
    elif training is not None:
        raise UsageError(f"Estimator: distributed_training: got {training!r}, expected an MpiConfiguration or the like")
    several = [
        key for key in ("node_count", "process_count_per_node") if isinstance(keys.get(key), int) and keys[key] > 1
    ]
    if several and "distributed_training" not in keys and "distributed_backend" not in keys:
        raise UsageError(
            f"Estimator: {several[0]}: got {keys[several[0]]}, and nothing that joins the processes",
            hint='distributed_training=MpiConfiguration(), or "none" for processes that know nothing of each other',
        )
    return keys


def _add_docker(document: Document, docker: Mapping[str, Any] | DockerConfiguration | None) -> None:
    tables = docker.to_recipe() if isinstance(docker, DockerConfiguration) else {"docker": dict(docker or {})}
    for table, keys in tables.items():
        for key, value in keys.items():
            into = document.setdefault(table, {})
            into[key] = {**into.get(key, {}), **value} if isinstance(value, dict) else value


class _Draft:
    """A document on its way: what stands in parameters or beside them as a dataset becomes an input.

    Args:
        directory: where relative paths of the recipe start; those of datasets start at the current directory.
    """

    def __init__(self, document: Document, directory: Path) -> None:
        self.document, self._directory = document, directory

    def add_inputs(self, inputs: Any) -> None:
        if isinstance(inputs, Mapping):
            for name, item in inputs.items():
                self._add_input(name, item)
            return
        if inputs is not None and (isinstance(inputs, str) or not isinstance(inputs, Iterable)):
            raise UsageError(f"Estimator: inputs: got {inputs!r}, expected a list of datasets, or a dict")
        for item in inputs or ():
            self._add_input(None, item)

    def add_params(self, params: Mapping[str, Any] | None) -> None:
        made = {flag: self._parameter(flag, value) for flag, value in _table("script_params", params or {}).items()}
        if made:
            self.document.setdefault("estimator", {})["script_params"] = made

    def word(self, value: Any) -> Any:
        """Returns one word of a command line as TOML has it."""
        if isinstance(value, OutputFileDatasetConfig):
            return value.path
        if isinstance(value, Consumed):
            return {"input": self._add_input(None, value)}
        if hasattr(value, "as_named_input"):  # a dataset as it is
            return {"input": self._add_input(None, value.as_mount())}
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of NumPy
            return value.item()
        return copy.deepcopy(value) if isinstance(value, Mapping) else value

    def _parameter(self, flag: str, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value == ""):
            return ""
        if isinstance(value, bool):
            raise UsageError(
                f'Estimator: script_params: {flag}: got {value}, expected "" for a bare flag, or the text "{value}"',
                hint="Azure ML passed the text, TOML's true is a bare flag: say which one is meant",
            )
        if isinstance(value, list | tuple):
            return [self.word(item) for item in value]
        return self.word(value)

    def _add_input(self, name: str | None, item: Any) -> str:
        """Adds an input; returns its name. One without a name of the caller's is numbered when its name is taken."""
        known = self.document.setdefault("inputs", {})
        if isinstance(item, Consumed):
            table = self._here(item.to_recipe())
            wanted = name or item.name
            numbered = not (name or item.is_named)
        elif name is not None and isinstance(item, str | os.PathLike):
            table, wanted, numbered = {"path": os.fspath(item)}, name, False
        elif name is not None and hasattr(item, "as_named_input"):
            return self._add_input(name, item.as_named_input(name))
        else:
            raise UsageError(
                f"Estimator: inputs: got {item!r}, expected a dataset under a name",
                hint='dataset.as_named_input("digits").as_mount()',
            )
        chosen, count = wanted, 1
        while numbered and chosen in known and known[chosen] != table:
            count += 1
            chosen = f"{wanted}_{count}"
        if chosen in known and known[chosen] != table:
            raise UsageError(f"Estimator: inputs: two are called {chosen!r}, expected a name for each")
        known[chosen] = table
        return chosen

    def _here(self, table: Mapping[str, str]) -> dict[str, str]:
        """Returns the table of an input, with a path of this machine as the recipe's directory sees it."""
        path = table.get("path", "")
        if not path or os.path.isabs(path) or path.partition(":")[0] in ("run", "model", "recipe"):
            return dict(table)
        return {**table, "path": os.path.relpath(path, self._directory)}


def _resumed(value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, Consumed):
        table = value.to_recipe()
        if "path" in table:
            return table["path"]
    if hasattr(value, "as_mount"):
        return _resumed(value.as_mount())
    if isinstance(value, DataPath):
        return _resumed(value.create_data_reference())
    raise UsageError(
        f"Estimator: resume_from: got {value!r}, expected a path of an earlier run",
        hint='resume_from="run:HASH/outputs/checkpoints"',
    )

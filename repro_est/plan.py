"""The plan: everything that decides a run's outcome, as one canonical document, and its hash.

    run hash = XXH3-128( "repro:plan:1" + NUL + RFC8785(document) )

Three lists decide what belongs where (docs/identity.md prints them):

* hashed         the document below, built field by field; a field at its default is left out, so that a
                 field added later keeps the hash of every recipe that does not use it
* by policy      what a hit may be asked to match besides: the required outputs, today
* recorded only  `Recorded`: what a person wants to know later and what it takes to run the plan again,
                 but which cannot change the result

Pure data: nothing here reads a file, a clock or a machine.

The document, format 1 (`?` may be absent):

    format                  1
    entry_script            "train.py", relative to the source
    script_params?          [[name, [word, ...]], ...] in order; a word is a string or {"input": NAME}
    arguments?              [word, ...]
    source                  tree hash
    environment             {python, platform, packages: [...], ...}, see `environment.key`
    inputs?                 {NAME: tree hash}
    environment_variables?  {NAME: value}
    secrets?                [NAME, ...] sorted; never a value
    use_gpu?                true
    layout?                 {node_count?, process_count_per_node?, backend?, gpus_per_process?, gpu_binding?,
                            parameter_servers?}: those not at their default (`layout`)
    network?                true
    salt?                   text
    compat?                 {"azureml": true}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from repro_est.digest import Json, RunHash, TreeHash, identify
from repro_est.errors import VerificationError
from repro_est.layout import Layout
from repro_est.recipe.notebook import is_notebook, notebook_command
from repro_est.recipe.reproducible import UNSAID, Reproducible
from repro_est.recipe.values import InputReference, Recipe, Word

PLAN_FORMAT = 1
PLAN_TAG = f"repro:plan:{PLAN_FORMAT}"

Document = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input, pinned.

    Args:
        tree: what the script will see; hashed.
        origin: where the bytes are, as JSON; recorded. One of `{"path": ...}`, `{"url": ..., "sha256": ...}`,
            `{"run": ..., "path": ...}` (and `"recipe"` where that was asked for),
            `{"model": ..., "version": ..., "run": ..., "path": ...}`; a model named by an alias also has `alias`, and
            `head` of the history that said so.
        copy: the script gets a private, writable copy; recorded.
    """

    name: str
    tree: TreeHash
    origin: Mapping[str, Any]
    copy: bool = False


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """An output to register under a name when the run succeeds; recorded."""

    name: str
    path: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is kept beside the hashed document.

    Args:
        name: the recipe's short name, for listings.
        recipe: path of the recipe file.
        lock: the lock file's text: where the artifacts of the environment can be had.
        conda_lock: text of the conda-lock file it names, `""` for none.
        required: outputs that must exist, globs allowed.
        metrics: path of the metrics file.
        timeout_seconds: None is no limit.
        retries: tries more after a failure of hosts.
        heartbeat_seconds: a rank silent for so long is hung; None is no limit.
        reproducible: what executing it again may be expected to give.
        sandbox_required: without a sandbox it is not to run.
        limits: of a container: `memory` and `shm_size` in bytes, `cpus`; only those that are set.
    """

    name: str
    recipe: str
    lock: str
    conda_lock: str = ""
    target: str = "local"
    experiment_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    metrics: str = "outputs/metrics.json"
    reproducible: Reproducible = UNSAID
    timeout_seconds: float | None = None
    retries: int = 0
    heartbeat_seconds: float | None = None
    sandbox_required: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[PlannedInput, ...] = ()
    models: tuple[PlannedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A hashed document and what is recorded beside it."""

    document: Document
    recorded: Recorded
    hash: RunHash

    @property
    def source(self) -> TreeHash:
        return TreeHash(str(self.document["source"]))

    @property
    def environment(self) -> Document:
        environment = self.document["environment"]
        assert isinstance(environment, Mapping)
        return environment

    @property
    def entry_script(self) -> str:
        return str(self.document["entry_script"])

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(_sequence(self.document, "secrets"))

    @property
    def use_gpu(self) -> bool:
        return bool(self.document.get("use_gpu", False))

    @property
    def layout(self) -> Layout:
        layout = self.document.get("layout", {})
        assert isinstance(layout, Mapping)
        return Layout.from_document(layout, use_gpu=self.use_gpu)

    @property
    def network(self) -> bool:
        return bool(self.document.get("network", False))

    @property
    def impurities(self) -> dict[str, str]:
        """What may make another result of the same plan, by name, in words."""
        return {"network": "the script may use it: [environment] network = true"} if self.network else {}

    @property
    def compat_azureml(self) -> bool:
        compat = self.document.get("compat", {})
        assert isinstance(compat, Mapping)
        return bool(compat.get("azureml", False))

    @property
    def environment_variables(self) -> dict[str, str]:
        variables = self.document.get("environment_variables", {})
        assert isinstance(variables, Mapping)
        return {name: str(value) for name, value in variables.items()}

    @property
    def script_params(self) -> list[tuple[str, list[Any]]]:
        """Flags and the words after each, in order; a word is a string or `{"input": NAME}`."""
        return [(str(name), list(words)) for name, words in _sequence(self.document, "script_params")]

    def command(self, python: str, input_paths: Mapping[str, str]) -> tuple[str, ...]:
        """Returns the command line that executes the plan.

        Args:
            python: the interpreter of the environment.
            input_paths: where the run sees each input.
        """

        def render(word: Any) -> str:
            return input_paths[word["input"]] if isinstance(word, Mapping) else str(word)

        params = [(name, [*map(render, values)]) for name, values in self.script_params]
        if is_notebook(self.entry_script):
            return notebook_command(python, self.entry_script, params)
        flags = [word for name, values in params for word in (name, *values)]
        return (python, self.entry_script, *flags, *map(render, _sequence(self.document, "arguments")))

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `plan.json`."""
        recorded = self.recorded
        return {
            "format": PLAN_FORMAT,
            "plan": self.document,
            "recorded": {
                "name": recorded.name,
                "recipe": recorded.recipe,
                "lock": recorded.lock,
                **({"conda_lock": recorded.conda_lock} if recorded.conda_lock else {}),
                "target": recorded.target,
                "experiment_name": recorded.experiment_name,
                "description": recorded.description,
                "tags": dict(recorded.tags),
                "required": list(recorded.required),
                "metrics": recorded.metrics,
                **_promise(recorded.reproducible),
                "timeout_seconds": recorded.timeout_seconds,
                **({"retries": recorded.retries} if recorded.retries else {}),
                **({"heartbeat_seconds": recorded.heartbeat_seconds} if recorded.heartbeat_seconds else {}),
                **({"sandbox_required": True} if recorded.sandbox_required else {}),
                **({"limits": dict(recorded.limits)} if recorded.limits else {}),
                "inputs": [
                    {"name": item.name, "tree": item.tree, "origin": dict(item.origin), "copy": item.copy}
                    for item in recorded.inputs
                ],
                "models": [
                    {"name": item.name, "path": item.path, "description": item.description, "tags": dict(item.tags)}
                    for item in recorded.models
                ],
            },
        }


def make_plan(
    recipe: Recipe,
    *,
    environment: Document,
    source: TreeHash,
    inputs: Sequence[PlannedInput],
    lock: str,
    conda_lock: str = "",
) -> Plan:
    """Builds the plan of a recipe whose parts are all pinned.

    Args:
        environment: the environment document of one platform (`environment.key`).
        source: hash of the snapshot.
        inputs: every input of the recipe.
        lock, conda_lock: texts of the lock and of the conda-lock file it names, recorded.
    """
    document = _document(recipe, environment=environment, source=source, inputs=inputs)
    recorded = Recorded(
        name=recipe.name,
        recipe=str(recipe.path),
        lock=lock,
        conda_lock=conda_lock,
        target=recipe.estimator.compute_target,
        experiment_name=recipe.experiment_name,
        description=recipe.description,
        tags=dict(recipe.tags),
        required=recipe.outputs.required,
        metrics=recipe.outputs.metrics,
        reproducible=recipe.reproducible,
        timeout_seconds=recipe.estimator.max_run_duration_seconds,
        retries=recipe.estimator.retries,
        heartbeat_seconds=recipe.estimator.heartbeat_seconds,
        sandbox_required=recipe.sandbox_required,
        limits={name: value for name, value in asdict(recipe.limits).items() if value is not None},
        inputs=tuple(inputs),
        models=tuple(PlannedModel(m.name, m.path, m.description, dict(m.tags)) for m in recipe.models),
    )
    return Plan(document, recorded, hash_document(document))


def hash_document(document: Document) -> RunHash:
    """Returns the run hash of a plan's document."""
    return RunHash(identify(PLAN_TAG, document))


def load_plan(content: Mapping[str, Any], expected: RunHash) -> Plan:
    """Reads `plan.json` and checks that it is the plan it is named for.

    Raises:
        VerificationError: another plan, another format, or not a plan.
    """
    try:
        if content["format"] != PLAN_FORMAT:
            raise VerificationError(
                f"run {expected}: plan.json has format {content['format']}, this version reads {PLAN_FORMAT}",
                hint="upgrade repro",
            )
        document, recorded = content["plan"], content["recorded"]
        plan = Plan(
            document,
            Recorded(
                name=recorded["name"],
                recipe=recorded["recipe"],
                lock=recorded["lock"],
                conda_lock=recorded.get("conda_lock", ""),
                target=recorded["target"],
                experiment_name=recorded["experiment_name"],
                description=recorded["description"],
                tags=recorded["tags"],
                required=tuple(recorded["required"]),
                metrics=recorded["metrics"],
                reproducible=_read_promise(recorded),
                timeout_seconds=recorded["timeout_seconds"],
                retries=recorded.get("retries", 0),
                heartbeat_seconds=recorded.get("heartbeat_seconds"),
                sandbox_required=recorded.get("sandbox_required", False),
                limits=recorded.get("limits", {}),
                inputs=tuple(
                    PlannedInput(item["name"], item["tree"], item["origin"], item["copy"])
                    for item in recorded["inputs"]
                ),
                models=tuple(PlannedModel(**item) for item in recorded["models"]),
            ),
            hash_document(document),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"run {expected}: plan.json is not a plan: {error!r}") from None
    if plan.hash != expected:
        raise VerificationError(f"run {expected}: plan.json was changed, its content is plan {plan.hash}")
    if {item.name: item.tree for item in plan.recorded.inputs} != document.get("inputs", {}):
        raise VerificationError(f"run {expected}: plan.json was changed, its recorded inputs are not the hashed ones")
    return plan


def _document(
    recipe: Recipe, *, environment: Document, source: TreeHash, inputs: Sequence[PlannedInput]
) -> dict[str, Json]:
    estimator = recipe.estimator
    optional: dict[str, Json] = {
        "script_params": [[param.name, [_word(word) for word in param.words]] for param in estimator.script_params],
        "arguments": [_word(word) for word in estimator.arguments],
        "inputs": {item.name: item.tree for item in inputs},
        "environment_variables": dict(estimator.environment_variables),
        "secrets": sorted(set(recipe.secrets)),
        "use_gpu": estimator.use_gpu,
        "layout": estimator.layout.document(use_gpu=estimator.use_gpu),
        "network": recipe.environment.network,
        "salt": recipe.salt,
        "compat": {"azureml": True} if recipe.compat_azureml else {},
    }
    return {
        "format": PLAN_FORMAT,
        "entry_script": estimator.entry_script,
        "source": source,
        "environment": environment,
        **{key: value for key, value in optional.items() if value},
    }


def _promise(promise: Reproducible) -> dict[str, Any]:
    return {"reproducible": promise.to_json()} if promise != UNSAID else {}


def _read_promise(recorded: Mapping[str, Any]) -> Reproducible:
    promise = recorded.get("reproducible")
    return UNSAID if promise is None else Reproducible.from_json(promise)


def _word(word: Word) -> Json:
    return {"input": word.name} if isinstance(word, InputReference) else word


def _sequence(document: Document, key: str) -> Sequence[Any]:
    value = document.get(key, ())
    assert isinstance(value, Sequence)
    return value

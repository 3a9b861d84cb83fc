"""MLflow's tracking store in a run: what a script tells MLflow lands in the run's own record and in `./outputs`.

MLflow finds it by the entry points of `targets.parcel`, for `MLFLOW_TRACKING_URI=repro:`, and is what loads this
module: nothing else of `inside` needs MLflow. MLflow 2.3 and later.

The first run that MLflow starts is the run itself: its id is the run hash, its artifacts are `./outputs`. Any other,
nested or after it, is a child run: its id is the hash with the child's number behind it (`HASH-1`, `HASH-1-2`), its
artifacts are `./outputs/children/1`. A run ends as its script does: MLflow's word on its end counts for children only.
Models are kept in `./outputs/<name>` by MLflow 2 and 3 alike. The descriptions of logged models live as long as the
process; everything else is in the record, for other processes of the run and for ever.

Of several ranks only rank 0 writes to the run: the others have the same answers from a record in a temporary directory.
What has no meaning in a run is refused with what to do instead.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import uuid
from functools import lru_cache
from pathlib import Path

from mlflow.entities import Experiment, Metric, Param, Run, RunData, RunInfo, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    NOT_IMPLEMENTED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils import validation

from repro_est.inside.history import Growing
from repro_est.inside.record import Record, file_name
from repro_est.inside.run import Context

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

_OWN_EXPERIMENT = "0"  # MLflow's default, which scripts that name none are in
_RUN_NAME = "mlflow.runName"
_PARENT = "mlflow.parentRunId"
_EXPERIMENT = "mlflow.experiment"
_EXPERIMENTS = "mlflow.experiments"
_ENDS = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "canceled"}
_INSTEAD = (
    (("trace", "span", "assessment", "session"), "keep what matters by log_metric, log_dict or log_table"),
    (("delete", "restore", "rename", "remove"), "leave it out: what a run has recorded stays with it"),
    (("dataset",), "declare data as an input of the recipe, [inputs.NAME]"),
)


def refusal(name: str, hint: str) -> MlflowException:
    """Returns the error for what has no meaning in a run."""
    return MlflowException(f"MLflow's `{name}` has no meaning in a run of repro\n\nhint: {hint}", NOT_IMPLEMENTED)


def refuse_the_rest(store: type, instead: Sequence[tuple[tuple[str, ...], str]]) -> None:
    """Makes a class refuse, by name, every method that MLflow's class leaves open and it does not have.

    Args:
        instead: words in the name of a method, and what to do instead of calling it.
    """
    for name in dir(store):
        method = getattr(store, name)
        code = getattr(method, "__code__", None)
        is_open = getattr(method, "__isabstractmethod__", False) or "NotImplementedError" in getattr(
            code, "co_names", ()
        )
        if is_open and not name.startswith("__"):
            setattr(store, name, _refusing(name, instead))
    store.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def _refusing(name: str, instead: Sequence[tuple[tuple[str, ...], str]]) -> Any:
    default = "leave it out, or use an MLflow server: environment_variables = {MLFLOW_TRACKING_URI = ...}"
    hint = next((hint for words, hint in instead if any(word in name for word in words)), default)

    def refuse(*_args: object, **_named: object) -> None:
        raise refusal(name, hint)

    return refuse


class _Kept:
    """One run as MLflow sees it: its record, and what lives as long as the process."""

    def __init__(self, run_id: str, child: str, records: str, outputs: str) -> None:
        self.run_id, self.child = run_id, child
        path = os.path.join(records, file_name(child))
        self.record, self._grown = Record(path), Growing(path)
        self.artifacts = os.path.join(outputs, "children", *child.split(".")) if child else outputs
        self.user, self._status = "", "RUNNING"
        self.started = _now()
        self.ended: int | None = None
        self.datasets: list[Any] = []
        self.model_inputs: list[Any] = []
        self.model_outputs: list[Any] = []
        self._seen: dict[str, tuple[int, set[tuple[int, int, str]]]] = {}

    @property
    def history(self) -> Any:
        return self._grown.look()

    @property
    def status(self) -> str:
        """MLflow's word; for a child that another process ended, that of its record."""
        end = self.history.end if self.child else None
        return next((word for word, kept in _ENDS.items() if end and kept == end[0]), self._status)

    def tell(self, status: str) -> None:
        """Records how MLflow says the run is; the run itself ends as its script does."""
        self._status = status
        if self.child and status in _ENDS:
            self.record.add("end", _ENDS[status], None)
        elif status in ("FAILED", "KILLED"):
            self.record.add("tag", "mlflow.status", status)

    def points(self, name: str, start: int = 0) -> Iterator[tuple[int, int, float]]:
        """Yields the numbers of a metric: step, milliseconds, value."""
        for event in self.history.metrics.get(name, ())[start:]:
            if event[0] == "m" and isinstance(event[2], (int, float)):
                yield event[3] or 0, round(event[4] * 1000), float(event[2])

    def has(self, metric: Metric) -> bool:
        """Tells whether that very point is in the record."""
        count, seen = self._seen.get(metric.key, (0, set()))
        seen.update((step, at, repr(value)) for step, at, value in self.points(metric.key, count))
        self._seen[metric.key] = (len(self.history.metrics.get(metric.key, ())), seen)
        return (metric.step, metric.timestamp, repr(float(metric.value))) in seen

    def info(self, experiment_id: str) -> RunInfo:
        facts = {
            "run_id": self.run_id,
            "experiment_id": experiment_id,
            "user_id": self.user,
            "status": self.status,
            "start_time": self.started,
            "end_time": self.ended,
            "lifecycle_stage": "active",
            "artifact_uri": Path(self.artifacts).as_uri(),
            "run_name": self.history.tags.get(_RUN_NAME, ""),
        }
        try:
            return RunInfo(**facts)
        except TypeError:  # MLflow 2 has the id under two names
            return RunInfo(run_uuid=self.run_id, **facts)

    def as_run(self, experiment_id: str) -> Run:
        history = self.history
        latest = ((name, max(self.points(name), default=None)) for name in history.metrics)
        data = RunData(
            [Metric(name, point[2], point[1], point[0]) for name, point in latest if point],
            [Param(key, str(value)) for key, value in history.params.items()],
            [RunTag(key, str(value)) for key, value in history.tags.items()],
        )
        return Run(self.info(experiment_id), data, **self._linked())

    def _linked(self) -> dict[str, Any]:
        """Returns what MLflow calls inputs and outputs, as far as its version knows them."""
        try:
            from mlflow.entities import RunInputs
        except ImportError:
            return {}
        try:
            from mlflow.entities import RunOutputs
        except ImportError:
            return {"run_inputs": RunInputs(self.datasets)}
        return {
            "run_inputs": RunInputs(self.datasets, self.model_inputs),
            "run_outputs": RunOutputs(self.model_outputs),
        }


class RunStore(AbstractStore):  # type: ignore[misc]
    """The run, as MLflow's clients ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        context = Context(os.environ)
        self._identity, self._records, self._outputs = context.identity, context.records, context.outputs
        if not context.writes:
            scratch = tempfile.mkdtemp(prefix="repro-mlflow-")
            self._records, self._outputs = os.path.join(scratch, "logs"), os.path.join(scratch, "outputs")
        self._runs: dict[str, _Kept] = {}
        self._models: dict[str, Any] = {}
        self._experiments = [self._experiment(0, context.experiment.name or "Default")]
        self._root = self._run(self._identity)
        self._root_is_taken = False

    # ---- runs

    def create_run(
        self,
        experiment_id: str | None,
        user_id: str,
        start_time: int,
        tags: Iterable[RunTag] | None,
        run_name: str | None,
    ) -> Run:
        tags = list(tags or ())
        given = {tag.key: tag.value for tag in tags}
        name = run_name or given.get(_RUN_NAME) or ""
        with self._lock:
            experiment = self.get_experiment(_OWN_EXPERIMENT if experiment_id is None else experiment_id)
            run = self._begin(given.get(_PARENT), name)
            run.user, run.started = user_id, start_time or _now()
            if _RUN_NAME not in given:
                tags.append(RunTag(_RUN_NAME, name or experiment.name if run is self._root else name or run.run_id))
            if experiment.experiment_id != _OWN_EXPERIMENT:
                tags.append(RunTag(_EXPERIMENT, experiment.name))
            self.log_batch(run.run_id, [], [], tags)
            return self._shown(run)

    def _begin(self, parent: str | None, name: str) -> _Kept:
        """Returns the run itself the first time, in whichever process that is, and then a new child."""
        if parent is None and not self._root_is_taken:
            self._root_is_taken = True
            if _RUN_NAME not in self._root.history.tags:
                return self._root
        above = self._run(parent or self._identity)
        child = above.record.begin_child(above.child, name)
        return self._run(f"{self._identity}-{child.replace('.', '-')}")

    def _run(self, run_id: str) -> _Kept:
        run = self._runs.get(run_id)
        if run is not None:
            return run
        child = run_id[len(self._identity) + 1 :].replace("-", ".")
        known = run_id == self._identity or (
            run_id.startswith(f"{self._identity}-") and os.path.exists(os.path.join(self._records, file_name(child)))
        )
        if not known:
            raise MlflowException(
                f"run {run_id}: MLflow knows the run it is in ({self._identity}) and its children, no others\n\n"
                "hint: use files of another run as an input of the recipe",
                RESOURCE_DOES_NOT_EXIST,
            )
        return self._runs.setdefault(run_id, _Kept(run_id, child, self._records, self._outputs))

    def get_run(self, run_id: str) -> Run:
        with self._lock:
            return self._shown(self._run(run_id))

    def _shown(self, run: _Kept) -> Run:
        return run.as_run(self._experiment_of(run))

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        with self._lock:
            run = self._run(run_id)
            if run_name:
                run.record.add("tag", _RUN_NAME, run_name)
            if run_status is not None:
                self._root_is_taken |= run is self._root
                run.tell(RunStatus.to_string(run_status))
            run.ended = end_time or run.ended
            return run.info(self._experiment_of(run))

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str,
        run_view_type: int,
        max_results: int,
        order_by: Sequence[str] | None,
        page_token: str | None,
    ) -> Any:
        from mlflow.entities import ViewType
        from mlflow.utils.search_utils import SearchUtils

        with self._lock:
            started = [run for run in self._all() if run is not self._root or _RUN_NAME in run.history.tags]
            runs = [self._shown(run) for run in started if self._experiment_of(run) in experiment_ids]
        if run_view_type == ViewType.DELETED_ONLY:
            runs = []
        found = SearchUtils.sort(SearchUtils.filter(runs, filter_string), order_by)
        return SearchUtils.paginate(found, page_token, max_results)

    def _all(self, above: _Kept | None = None) -> Iterator[_Kept]:
        run = above or self._root
        yield run
        for child, _ in list(run.history.children):
            yield from self._all(self._run(f"{self._identity}-{child.replace('.', '-')}"))

    # ---- what runs log

    def log_batch(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        for metric in metrics:
            validation._validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
        params = [validation._validate_param(param.key, param.value) or param for param in params]
        validation._validate_param_keys_unique(params)
        for tag in tags:
            validation._validate_tag_name(tag.key)
        with self._lock:
            run = self._run(run_id)
            for param in params:
                self._log_param(run, param)
            for metric in metrics:
                self._log_metric(run, metric)
            for tag in tags:
                run.record.add("tag", tag.key, "" if tag.value is None else str(tag.value))

    def _log_param(self, run: _Kept, param: Param) -> None:
        value, known = str(param.value), run.history.params.get(param.key)
        if known is None:
            run.record.add("param", param.key, value)
        elif known != value:
            raise MlflowException(
                f"parameter {param.key!r} of run {run.run_id}: got {value!r}, is {known!r} already, and never changes"
                "\n\nhint: use a tag, or a nested run: mlflow.start_run(nested=True)",
                INVALID_PARAMETER_VALUE,
            )

    def _log_metric(self, run: _Kept, metric: Metric) -> None:
        model_id = getattr(metric, "model_id", None)
        if model_id is not None:
            self._log_model_metric(model_id, metric)
            if run.has(metric):  # log_model tells the metrics of a run again, for the model
                return
        run.record.scalar(metric.key, float(metric.value), metric.step, metric.timestamp / 1000)

    def delete_tag(self, run_id: str, key: str) -> None:
        with self._lock:
            run = self._run(run_id)
            if key not in run.history.tags:
                raise MlflowException(f"run {run_id}: has no tag {key!r}", RESOURCE_DOES_NOT_EXIST)
            run.record.add("tag", key, None)

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList:
        with self._lock:
            points = self._run(run_id).points(metric_key)
            return PagedList([Metric(metric_key, value, at, step) for step, at, value in points], None)

    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        history = "mlflow.log-model.history"
        with self._lock:
            run = self._run(run_id)
            known = json.loads(run.history.tags.get(history, "[]"))
            told = mlflow_model.get_tags_dict() if hasattr(mlflow_model, "get_tags_dict") else mlflow_model.to_dict()
            run.record.add("tag", history, json.dumps([*known, told], default=str))

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        with self._lock:
            run = self._run(run_id)
            for item in datasets or ():
                data, tags = item.dataset, {tag.key: tag.value for tag in item.tags}
                told = {"digest": data.digest, "source_type": data.source_type, "source": data.source, **tags}
                run.record.add("tag", f"mlflow.input.{data.name}", json.dumps(told))
            run.datasets += datasets or ()
            run.model_inputs += models or ()

    def log_outputs(self, run_id: str, models: Any) -> None:
        with self._lock:
            told = self._run(run_id).model_outputs
            told += [item for item in models or () if item.model_id not in {known.model_id for known in told}]

    # ---- for the registry

    def artifacts(self, run_id: str) -> str:
        """Returns the directory of a run's artifacts."""
        return self._run(run_id).artifacts

    def register_model(self, name: str, path: str, tags: dict[str, str], description: str) -> None:
        """Asks for a file or directory of the run to be registered when the run succeeds."""
        outputs, there = os.path.realpath(self._outputs), os.path.realpath(path)
        if not there.startswith(outputs + os.sep) or not os.path.exists(there):
            raise MlflowException(
                f"model {name!r}: got {path}, expected a file or directory below {outputs}\n\n"
                "hint: log it first, mlflow.<flavor>.log_model(...), or save it below ./outputs",
                RESOURCE_DOES_NOT_EXIST,
            )
        asked = {
            "name": name,
            "path": f"outputs/{os.path.relpath(there, outputs)}",
            "tags": tags,
            "properties": {},
            "framework": None,
            "framework_version": None,
            "description": description,
        }
        self._root.record.add("model", asked)

    # ---- experiments

    def search_experiments(
        self,
        view_type: int = 1,
        max_results: int = 1000,
        filter_string: str | None = None,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils

        found = SearchExperimentsUtils.filter(self._known(), filter_string)
        ordered = SearchExperimentsUtils.sort(found, order_by or ["experiment_id ASC"])
        return PagedList(*SearchUtils.paginate(ordered, page_token, max_results))

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Iterable[Any] | None = None
    ) -> str:
        with self._lock:
            if self.get_experiment_by_name(name) is not None:
                raise MlflowException(f"experiment {name!r} is there already", RESOURCE_ALREADY_EXISTS)
            names = [item.name for item in self._known()[1:]]
            self._root.record.add("tag", _EXPERIMENTS, json.dumps([*names, name]))
            made = self._known()[-1]
            for tag in tags or ():
                made._add_tag(tag)
            return str(made.experiment_id)

    def get_experiment(self, experiment_id: str) -> Experiment:
        found = next((item for item in self._known() if item.experiment_id == str(experiment_id)), None)
        if found is None:
            names = ", ".join(f"{item.experiment_id} ({item.name})" for item in self._known())
            raise MlflowException(
                f"experiment {experiment_id}: not there, this run has {names}\n\nhint: mlflow.set_experiment(NAME)",
                RESOURCE_DOES_NOT_EXIST,
            )
        return found

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        return next((item for item in self._known() if item.name == experiment_name), None)

    def _known(self) -> list[Experiment]:
        """Returns the run's own experiment, which is number 0, and those that its processes have named."""
        with self._lock:
            names = json.loads(self._root.history.tags.get(_EXPERIMENTS, "[]"))
            for name in names[len(self._experiments) - 1 :]:
                self._experiments.append(self._experiment(len(self._experiments), name))
            return list(self._experiments)

    def _experiment(self, number: int, name: str) -> Experiment:
        return Experiment(str(number), name, Path(self._outputs).as_uri(), "active", [], _now(), _now())

    def _experiment_of(self, run: _Kept) -> str:
        found = self.get_experiment_by_name(run.history.tags.get(_EXPERIMENT, ""))
        return str(found.experiment_id) if found else _OWN_EXPERIMENT

    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        self.get_experiment(experiment_id)._add_tag(tag)

    # ---- models that are logged (MLflow 3)

    def create_logged_model(
        self,
        experiment_id: str = _OWN_EXPERIMENT,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Any = None,
        params: Any = None,
        model_type: str | None = None,
    ) -> Any:
        from mlflow.entities import LoggedModel, LoggedModelStatus

        validation._validate_logged_model_name(name)
        with self._lock:
            run = self._run(source_run_id) if source_run_id else self._root
            now = _now()
            model = LoggedModel(
                experiment_id=self.get_experiment(experiment_id).experiment_id,
                model_id=f"m-{uuid.uuid4().hex}",
                name=name or "model",
                artifact_location=Path(_new_directory(run.artifacts, name or "model")).as_uri(),
                creation_timestamp=now,
                last_updated_timestamp=now,
                model_type=model_type,
                source_run_id=source_run_id,
                status=LoggedModelStatus.PENDING,
                tags=tags or [],
                params=params or [],
                metrics=[],
            )
            self._models[model.model_id] = model
            return model

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> Any:
        model = self._models.get(model_id)
        if model is None:
            raise MlflowException(
                f"model {model_id}: not logged by this process\n\n"
                "hint: load it by its path, ./outputs/NAME, or use the model of another run as an input of the recipe",
                RESOURCE_DOES_NOT_EXIST,
            )
        return model

    def finalize_logged_model(self, model_id: str, status: Any) -> Any:
        model = self.get_logged_model(model_id)
        model.status, model.last_updated_timestamp = status, _now()
        return model

    def set_logged_model_tags(self, model_id: str, tags: Any) -> None:
        self.get_logged_model(model_id).tags.update({tag.key: str(tag.value) for tag in tags})

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        if self.get_logged_model(model_id).tags.pop(key, None) is None:
            raise MlflowException(f"model {model_id}: has no tag {key!r}", RESOURCE_DOES_NOT_EXIST)

    def log_logged_model_params(self, model_id: str, params: Any) -> None:
        self.get_logged_model(model_id).params.update({param.key: str(param.value) for param in params or ()})

    def _log_model_metric(self, model_id: str, metric: Metric) -> None:
        model = self._models.get(model_id)
        if model is not None:
            which = (metric.key, metric.dataset_name, metric.dataset_digest)
            others = [item for item in model.metrics if (item.key, item.dataset_name, item.dataset_digest) != which]
            model.metrics[:] = [*others, metric]

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None = None,
        datasets: Any = None,
        max_results: int | None = None,
        order_by: Any = None,
        page_token: str | None = None,
    ) -> PagedList:
        from mlflow.utils.search_utils import SearchLoggedModelsUtils

        models = [model for model in self._models.values() if model.experiment_id in experiment_ids]
        found = SearchLoggedModelsUtils.filter_logged_models(models, filter_string, datasets)
        ordered = SearchLoggedModelsUtils.sort(found, order_by)
        return PagedList(*SearchLoggedModelsUtils.paginate(ordered, page_token, max_results or 100))


refuse_the_rest(RunStore, _INSTEAD)


@lru_cache(maxsize=None)
def the_store() -> RunStore:
    """Returns the one store of this process, whatever the URI was."""
    return RunStore()


def open_store(store_uri: str | None = None, artifact_uri: str | None = None) -> RunStore:
    """Returns the store for `repro:`; called by MLflow."""
    return the_store()


def _new_directory(parent: str, name: str) -> str:
    number = 1
    while True:
        path = os.path.join(parent, name if number == 1 else f"{name}-{number}")
        try:
            os.makedirs(path)
        except FileExistsError:
            number += 1
        else:
            return path


def _now() -> int:
    return int(time.time() * 1000)

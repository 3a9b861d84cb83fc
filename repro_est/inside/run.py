"""`Run`, from inside the training script: what it logs, tags, uploads and registers, as Azure ML's `Run` has it.

    from repro_est import Run
    run = Run.get_context()
    run.log("accuracy", 0.97)

In a run of `repro` everything lands in the run's record (`inside.record`), in `./outputs` and in `./logs`. Of several
ranks only rank 0 writes, the others' calls are checked and dropped, unless told by `get_context(every_rank=True)`.
The same object, with the same methods, when the script is started without `repro`: then the record is
`./logs/offline/<id>/run.jsonl`.
"""

from __future__ import annotations

import itertools
import os
import time

from repro_est.inside.record import Record, file_name

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from repro_est.inside.history import History

_PLAIN = frozenset((float, int, bool, str, type(None)))
_INPUT = "REPRO_INPUT_"
_OUTSIDE = frozenset(
    (
        "clean", "description", "download_files", "get", "get_all_logs", "get_details_with_logs", "get_portal_url",
        "get_series", "get_snapshot_id", "list", "output_datasets", "restore_snapshot", "submit_child",
        "take_snapshot", "wait_for_completion",
    )
)  # fmt: skip
_BEGUN = itertools.count(1)


class RunError(RuntimeError):
    """The run cannot do that: it has ended, or lives elsewhere."""


class Experiment:
    """The experiment a run belongs to, as far as a script sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.workspace = Workspace()

    def __repr__(self) -> str:
        return f"Experiment({self.name!r})"


class Workspace:
    """The project a run belongs to; a script sees its name only, and gets data by inputs."""

    name = "repro"
    subscription_id = resource_group = location = ""

    def __repr__(self) -> str:
        return "Workspace('repro')"


class Model:
    """A model that will be registered when the run succeeds; its version is known then."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.name: str = description["name"]
        self.path: str = description["path"]
        self.version: int | None = None
        self.id = self.name
        self.tags = dict(description["tags"])
        self.properties = dict(description["properties"])
        self.description: str = description["description"]
        self.model_framework: str | None = description["framework"]
        self.model_framework_version: str | None = description["framework_version"]

    def __repr__(self) -> str:
        return f"Model({self.name!r}, path={self.path!r}, registered when the run succeeds)"


class Inputs(dict):  # type: ignore[type-arg]
    """Paths of the run's inputs by name."""

    def __missing__(self, name: str) -> str:
        there = ", ".join(sorted(self)) or "none"
        raise KeyError(
            f"input {name!r}: not declared, the run's inputs are: {there}; declare it in the recipe: [inputs.{name}]"
        )


class Context:
    """Where a run writes, found out once for a process.

    Args:
        identity: the run hash, or an `offline-...` name.
        rank: of this process.
        writes: whether this process writes to the run.
    """

    def __init__(self, variables: Mapping[str, str], *, every_rank: bool = False) -> None:
        run = variables.get("REPRO_RUN", "")
        self.offline = not run
        self.rank = int(variables.get("REPRO_RANK") or "0")
        self.writes = every_rank or self.rank == 0
        self.experiment = Experiment(variables.get("REPRO_EXPERIMENT", "repro"))
        self.secrets = tuple(filter(None, variables.get("REPRO_SECRETS", "").split(",")))
        self.inputs = Inputs((name[len(_INPUT) :], path) for name, path in variables.items() if name.startswith(_INPUT))
        if run:
            self.identity = run
            self.outputs, logs = variables["REPRO_OUTPUTS"], variables["REPRO_LOGS"]
            self.records = os.path.join(logs, f"rank-{self.rank}")
        else:
            began = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            self.identity = f"offline-{began}-{os.getpid()}-{next(_BEGUN)}"
            self.outputs, logs = os.path.abspath("outputs"), os.path.abspath("logs")
            self.records = os.path.join(logs, "offline", self.identity)
        self.logs = logs


class Run:
    """One run, or a child of one. Get it by `Run.get_context()`."""

    _root: Run | None = None

    def __init__(self, context: Context, child: str = "", name: str = "", parent: Run | None = None) -> None:
        self._context, self._child, self._name = context, child, name
        self._record = Record(os.path.join(context.records, file_name(child)))
        self._children = 0
        self._ended = ""
        self._properties: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._images: dict[str, int] = {}
        self._known: set[str] = set()
        self.parent = parent

    @classmethod
    def get_context(cls, allow_offline: bool = True, *, every_rank: bool = False) -> Run:
        """Returns the run this process belongs to; each call the same object.

        Args:
            allow_offline: False is an error when the script was started without `repro`.
            every_rank: this rank writes to the run, whichever it is.

        Raises:
            RunError: not in a run, and `allow_offline` is False.
        """
        if Run._root is None:
            Run._root = Run(Context(os.environ, every_rank=every_rank))
        run = Run._root
        run._context.writes = run._context.writes or every_rank
        if run._context.offline and not allow_offline:
            raise RunError("this script was not started by repro; start it by `repro run RECIPE`")
        return run

    @classmethod
    def begin(cls, experiment: str = "") -> Run:
        """Begins a run that no recipe started, recorded below `./logs/offline/`; each call another one."""
        return cls(Context({"REPRO_EXPERIMENT": experiment}))

    # ---- who it is

    @property
    def run_id(self) -> str:
        """The run hash; a child's has its number behind it, `HASH/1`."""
        identity = self._context.identity
        return f"{identity}/{self._child.replace('.', '/')}" if self._child else identity

    @property
    def id(self) -> str:
        return self.run_id

    @property
    def name(self) -> str:
        return self._name if self._child else self._name or self._context.experiment.name

    display_name = name

    @property
    def type(self) -> str:
        return "repro.child" if self._child else "repro.run"

    @property
    def number(self) -> int:
        return int(self._child.rpartition(".")[2] or "1")

    @property
    def experiment(self) -> Experiment:
        return self._context.experiment

    @property
    def status(self) -> str:
        return self._ended or "Running"

    def get_status(self) -> str:
        """Returns `Running`, or what `complete`, `fail` or `cancel` made of it."""
        return self.status

    def get_detailed_status(self) -> dict[str, str]:
        return {"status": self.status, "details": ""}

    def get_details(self) -> dict[str, Any]:
        """Returns what the script can know of its run, under Azure ML's names."""
        return {
            "runId": self.id,
            "target": "",
            "status": self.status,
            "properties": dict(self._properties),
            "tags": dict(self._tags),
            "inputDatasets": dict(self.input_datasets),
            "logFiles": {},
        }

    def __repr__(self) -> str:
        return f"Run({self.id}, {self.status})"

    # ---- what it gets

    @property
    def input_datasets(self) -> dict[str, str]:
        """Paths of the inputs by name."""
        return self._context.inputs

    @property
    def output_directory(self) -> str:
        """Where files are kept that belong to this run: `./outputs`, a child's below it."""
        outputs = self._context.outputs
        return os.path.join(outputs, "children", *self._child.split(".")) if self._child else outputs

    def get_secret(self, name: str) -> str:
        """Returns the value of a declared secret.

        Args:
            name: of the variable; one that no variable can have, such as `db-password`, is that of `DB_PASSWORD`.

        Raises:
            KeyError: the recipe does not declare it.
        """
        variable = name.replace("-", "_").upper() if "-" in name else name
        if variable not in self._context.secrets and not self._context.offline:
            raise KeyError(f'secret {name!r}: not declared; write secrets = ["{variable}"] into the recipe')
        return os.environ[variable]

    def get_secrets(self, secrets: Iterable[str]) -> dict[str, str]:
        """Returns the values of several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def get_environment(self) -> Any:
        """Returns the packages this script has: an object with `name`, `python` and `packages` (version by name)."""
        from repro_est.inside.surroundings import surroundings

        return surroundings()

    # ---- metrics

    def log(self, name: str, value: object, description: str = "", step: int | None = None) -> None:
        """Logs a number, text, a boolean or None; the same name again makes a series.

        Args:
            step: an integer; without one, the count.

        Raises:
            TypeError: an array, a list or any other thing; see `log_list`, `log_row`, `log_table`.
            RunError: the run has ended.
        """
        if type(value) not in _PLAIN:
            value = _plain(name, value, "log_list")
        if step is not None and type(step) is not int:
            step = _step(name, step)
        if name not in self._known or self._ended:
            self._check(name)
        if self._context.writes:
            self._record.scalar(name, value, step)

    def log_list(self, name: str, value: Iterable[object], description: str = "", step: int | None = None) -> None:
        """Logs a list of scalars at once."""
        self._log("list", name, _cells(name, value), step)

    def log_row(self, name: str, description: str | None = None, *, step: int | None = None, **columns: object) -> None:
        """Logs a row of a table: `run.log_row("error", x=1, y=0.2)`."""
        if not columns:
            raise ValueError(f"log_row({name!r}): got no columns, expected some: log_row({name!r}, x=1, y=0.2)")
        self._log(
            "row",
            name,
            {column: _plain(f"{name}.{column}", cell, "log_table") for column, cell in columns.items()},
            step,
        )

    def log_table(self, name: str, value: Mapping[str, object], description: str = "", step: int | None = None) -> None:
        """Logs a table: a dict of columns, all scalars or all lists of one length."""
        table = _table(name, value)
        self._log("table" if any(isinstance(cell, list) for cell in table.values()) else "row", name, table, step)

    def log_image(
        self, name: str, path: str | None = None, plot: Any = None, description: str = "", step: int | None = None
    ) -> None:
        """Logs a picture: a file, or a matplotlib figure or `pyplot`; kept in `outputs/images/`."""
        from repro_est.inside import files

        self._check(name)
        if (path is None) == (plot is None):
            raise ValueError(f"log_image({name!r}): expected either path= or plot=")
        if self._context.writes:
            number = self._images[name] = self._images.get(name, 0) + 1
            kept = files.keep_image(self.output_directory, name, number, path, plot)
            self._log("image", name, self._shown(kept), step)

    def log_confusion_matrix(self, name: str, value: object, description: str = "") -> None:
        """Logs a confusion matrix: `{schema_type, schema_version, data: {class_labels, matrix}}`, or its JSON."""
        self._log_object(name, value, "confusion_matrix")

    def log_accuracy_table(self, name: str, value: object, description: str = "") -> None:
        self._log_object(name, value, "accuracy_table")

    def log_residuals(self, name: str, value: object, description: str = "") -> None:
        self._log_object(name, value, "residuals")

    def log_predictions(self, name: str, value: object, description: str = "") -> None:
        self._log_object(name, value, "predictions")

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: object = None, populate: bool = False
    ) -> dict[str, Any]:
        """Returns what was logged so far: a value that was logged once, else the list.

        Args:
            recursive: with the metrics of child runs, by their ids.
        """
        from repro_est.inside.history import view

        found = view(self._record.path, name)
        return (
            {**found, **{child.id: child.get_metrics(name, recursive=True) for child in self.get_children()}}
            if recursive
            else found
        )

    # ---- tags and properties

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._tags)

    @property
    def properties(self) -> dict[str, str]:
        return dict(self._properties)

    def tag(self, key: str, value: str | None = None) -> None:
        """Sets a tag; it may be set again."""
        self._set_tag(key, "" if value is None else value)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.tag(key, value)

    def get_tags(self) -> dict[str, str]:
        return self.tags

    def remove_tags(self, tags: Iterable[str]) -> None:
        for key in tags:
            self._set_tag(key, None)

    def add_properties(self, properties: Mapping[str, str]) -> None:
        """Sets properties, which never change.

        Raises:
            ValueError: one is set already.
        """
        for key, value in properties.items():
            if key in self._properties:
                raise ValueError(
                    f"property {key!r}: is {self._properties[key]!r} already, and never changes; use a tag"
                )
            self._write("property", _text(key), _text(value))
            self._properties[key] = _text(value)

    def get_properties(self) -> dict[str, str]:
        return self.properties

    # ---- files and models

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> str:
        """Keeps a file with the run: `outputs/...` or `logs/...`; any other name goes below `outputs/`.

        Returns:
            The name it has in the run.

        Raises:
            ValueError: the name leaves the run's directory.
        """
        from repro_est.inside import files

        self._check(name)
        target = files.place_for(name, self.output_directory, self._context.logs)
        if self._context.writes:
            files.keep(path_or_stream, target)
        return self._shown(target)

    def upload_files(
        self,
        names: Sequence[str],
        paths: Sequence[Any],
        datastore_name: str | None = None,
        return_artifacts: bool = False,
    ) -> list[str]:
        """Keeps several files."""
        if len(names) != len(paths):
            raise ValueError(f"upload_files: got {len(names)} names and {len(paths)} paths, expected as many")
        return [self.upload_file(name, path) for name, path in zip(names, paths)]

    def upload_folder(self, name: str, path: str, datastore_name: str | None = None) -> list[str]:
        """Keeps all files below a directory, under `name/`."""
        from repro_est.inside import files

        found = list(files.below(path))  # before anything is kept in it, if it holds the outputs
        return [self.upload_file(f"{name}/{inside}", file) for inside, file in found]

    def get_file_names(self) -> list[str]:
        """Returns the files of the run so far."""
        from repro_est.inside import files

        roots = {"outputs": self._context.outputs, "logs": self._context.logs}
        return [f"{top}/{name}" for top, root in roots.items() for name, _ in files.below(root, missing_ok=True)]

    def download_file(self, name: str, output_file_path: str | None = None) -> str:
        """Copies a file of the run; returns where it is."""
        from repro_est.inside import files

        source = files.find(name, self.output_directory, self._context.logs)
        return files.keep(source, output_file_path or os.path.basename(name))

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        **unknown: object,
    ) -> Model:
        """Asks for a file or directory of `./outputs` to be registered when the run succeeds.

        Args:
            model_path: `outputs/model.pkl`; without one, the model's name.

        Raises:
            FileNotFoundError: nothing is there; the candidates are named.
        """
        from repro_est.inside import files

        self._check(model_name)
        files.check_model_name(model_name)
        if model_framework_version and not model_framework:
            raise ValueError(f"model {model_name}: model_framework_version goes with model_framework")
        if unknown:
            raise TypeError(f"register_model: {', '.join(sorted(unknown))} has no meaning here; leave it out")
        roots = (self.output_directory, self._context.outputs)
        path = files.find_model(model_path or model_name, roots) if self._context.writes else ""
        description_ = {
            "name": model_name,
            "path": self._shown(path) if path else "",
            "tags": {_text(key): _text(value) for key, value in (tags or {}).items()},
            "properties": {_text(key): _text(value) for key, value in (properties or {}).items()},
            "framework": model_framework,
            "framework_version": model_framework_version,
            "description": description or "",
        }
        self._write("model", description_)
        return Model(description_)

    # ---- children

    def child_run(self, name: str | None = None, run_id: str | None = None, outputs: str | None = None) -> Run:
        """Begins a child run; as a context manager it completes or fails with the block."""
        self._check(name or "")
        if self._context.writes:
            child = self._record.begin_child(self._child, name or "")
        else:
            self._children += 1
            child = f"{self._child}.{self._children}" if self._child else str(self._children)
        return Run(self._context, child, name or "", parent=self)

    def create_children(
        self, count: int | None = None, tag_key: str | None = None, tag_values: Sequence[str] | None = None
    ) -> list[Run]:
        """Begins several child runs: `count` of them, or one for each value of a tag."""
        if (count is None) == (tag_values is None) or (tag_key is None) != (tag_values is None):
            raise ValueError("create_children: expected either count=, or tag_key= with tag_values=")
        children = [self.child_run() for _ in range(len(tag_values) if tag_values is not None else count or 0)]
        for child, value in zip(children, tag_values or ()):
            child.tag(tag_key or "", value)
        return children

    def get_children(
        self,
        recursive: bool = False,
        tags: object = None,
        properties: object = None,
        type: object = None,  # noqa: A002 -- Azure ML's name
        status: object = None,
    ) -> Iterator[Run]:
        """Yields the child runs so far."""
        for child, name in self._history().children:
            run = Run(self._context, child, name, parent=self)
            yield run
            if recursive:
                yield from run.get_children(recursive=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._ended:
            return
        if error is None:
            self.complete()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    def __getattr__(self, name: str) -> Any:
        """Says of what only makes sense outside where it is asked for."""
        if name in _OUTSIDE:
            raise AttributeError(
                f"Run.{name}: is for outside of the run: repro_est.Run(None, {self.id!r}), or the `repro` command"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- its end

    def start(self) -> None:
        """Nothing is to be done: a run is started."""

    def flush(self, timeout_seconds: float = 300) -> None:
        """Nothing is to be done: what was logged is written."""

    def complete(self, _set_status: bool = True) -> None:
        """Ends the run's record; nothing can be logged afterwards."""
        self._end("completed", "Completed", None)

    def fail(self, error_details: object = None, error_code: object = None, _set_status: bool = True) -> None:
        """Says that the run is no success, whatever exit code the script ends with."""
        text = ": ".join(str(part) for part in (error_code, error_details) if part)
        self._end("failed", "Failed", text or None)

    def cancel(self) -> None:
        """Says that the run is to count as cancelled; the script itself goes on to its end."""
        self._end("canceled", "Canceled", None)

    # ---- parts

    def _end(self, word: str, status: str, text: str | None) -> None:
        if self._ended:
            raise RunError(f"run {self.id}: has ended already, it is {self._ended}")
        self._write("end", word, text)
        self._ended = status

    def _check(self, name: str) -> None:
        if self._ended:
            raise RunError(f"run {self.id}: has ended ({self._ended}); nothing can be added to it")
        if type(name) is not str:
            raise TypeError(f"got {name!r} ({type(name).__name__}) as a name, expected a string")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"got {name!r} as a name, expected text that UTF-8 can hold") from None
        self._known.add(name)

    def _log(self, kind: str, name: str, value: object, step: int | None) -> None:
        self._check(name)
        self._write(kind, name, value, None if step is None else _step(name, step))

    def _log_object(self, name: str, value: object, kind: str) -> None:
        import json

        try:
            content = json.loads(value) if isinstance(value, (str, bytes)) else value
        except ValueError as error:
            raise ValueError(f"{name}: got {_shown(value)}, expected JSON: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
            raise TypeError(f"{name}: got {_shown(value)}, expected {{schema_type, schema_version, data}} or its JSON")
        kind_ = content.get("schema_type", kind)
        if kind_ != kind:
            raise ValueError(f"{name}: got schema_type {kind_!r}, expected {kind!r}")
        self._check(name)
        self._write("object", name, kind, content, None)

    def _set_tag(self, key: str, value: str | None) -> None:
        self._write("tag", _text(key), None if value is None else _text(value))
        self._tags[key] = "" if value is None else _text(value)
        if value is None:
            del self._tags[key]

    def _write(self, *event: object) -> None:
        if self._ended:
            raise RunError(f"run {self.id}: has ended ({self._ended}); nothing can be added to it")
        if self._context.writes:
            self._record.add(*event)

    def _history(self) -> History:
        from repro_est.inside.history import read

        return read(self._record.path)

    def _shown(self, path: str) -> str:
        for top, root in (("outputs", self._context.outputs), ("logs", self._context.logs)):
            if path.startswith(root + os.sep):
                return f"{top}/{os.path.relpath(path, root)}"
        return path


def _plain(name: str, value: object, other: str) -> object:
    """Returns a scalar as Python's own: those of NumPy and torch have no dimensions.

    Raises:
        TypeError: it is none.
    """
    if type(value) in _PLAIN:
        return value
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "ndim", None) == 0:
        plain = item()
        if type(plain) in _PLAIN:
            return plain
    for kind in (bool, int, float, str):  # subclasses, such as an IntEnum
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{name}: got {_shown(value)}, expected a number, a string, a boolean or None; see {other}")


def _cells(name: str, value: object) -> list[object]:
    listed = _listed(value)
    if listed is None:
        raise TypeError(f"{name}: got {_shown(value)}, expected a list of scalars")
    return [_plain(f"{name}[{number}]", item, "log_table") for number, item in enumerate(listed)]


def _listed(value: object) -> list[object] | None:
    """Returns a list, tuple, range, generator or one-dimensional array as a list, None for anything else."""
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) == 1:
        found = value.tolist()
        return found if isinstance(found, list) else None
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        return None
    return list(value)


def _table(name: str, value: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        raise TypeError(f"{name}: got {_shown(value)}, expected a dict of columns")
    columns: dict[str, object] = {}
    for column, cells in value.items():
        place = f"{name}.{column}"
        columns[_text(column)] = _plain(place, cells, "log_list") if _listed(cells) is None else _cells(place, cells)
    lengths = {len(cells) if isinstance(cells, list) else -1 for cells in columns.values()}
    if len(lengths) > 1:
        found = ", ".join(f"{c} {len(v) if isinstance(v, list) else 'a scalar'}" for c, v in columns.items())
        raise ValueError(f"{name}: got columns of several lengths ({found}), expected one length")
    return columns


def _step(name: str, step: object) -> int:
    try:
        return step.__index__()  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        raise TypeError(f"{name}: got the step {_shown(step)}, expected an integer") from None


def _text(value: object) -> str:
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"got {_shown(value)}, expected a string")
    return str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"

"""`Run`, from outside: its state, metrics, files, logs, tags, and what can be made of it.

The id of a run is its run hash. Statuses are Azure ML's words: NotStarted, Preparing, Running, Finalizing, Completed,
Failed, Canceled.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from repro_est.api.runfiles import RunFiles
from repro_est.api.submission import State, follow, log_of, read_submission, state_of
from repro_est.api.workspace import Workspace, workspace_or_default
from repro_est.digest import RunHash, TreeHash
from repro_est.errors import (
    InfrastructureError,
    Interrupted,
    ReproError,
    ScriptFailed,
    TimedOut,
    UsageError,
)
from repro_est.inside.history import History
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan
from repro_est.store.notes import NAME, PROPERTY, TAG, Notes, read_notes, write_notes
from repro_est.store.records import AttemptRecord, Status
from repro_est.store.runs import Runs

if TYPE_CHECKING:
    from repro_est.api.experiment import Experiment
    from repro_est.api.model import Model
    from repro_est.inside.run import Run as Inside

_POLL_SECONDS = 0.1
_LAST_LINES = 30


class Run:
    """A run of this store, or a child run of one.

    Args:
        workspace: the project, or an experiment in it; None is the project around the current directory.
        run_id: a run hash, a unique start of one, `@` for the newest; `HASH/1` is the first child.

    Raises:
        UsageError: there is no such run, or several.
    """

    def __init__(
        self,
        workspace: Workspace | Experiment | None = None,
        run_id: str = "@",
        *,
        experiment: Experiment | None = None,
        cached: bool = False,
        parent: Run | None = None,
    ) -> None:
        if workspace is not None and not isinstance(workspace, Workspace):
            experiment, workspace = workspace, workspace.workspace
        elif workspace is None and experiment is not None:
            workspace = experiment.workspace
        self.workspace = workspace_or_default(workspace)
        self._layout = self.workspace.store.layout
        self._runs = Runs(self._layout)
        if not isinstance(run_id, str):
            raise UsageError(f"Run: got {run_id!r}, expected a run hash, a start of one, or `@`")
        start, _, child = run_id.partition("/")
        self._hash: RunHash = self._runs.resolve(start)
        self._files = RunFiles(self._hash, self.workspace.store)
        self._child = child.replace("/", ".")
        self._experiment, self._parent = experiment, parent
        self._plan: Plan | None = None
        self.cached = cached

    # ---- getting one

    @staticmethod
    def get_context(allow_offline: bool = True, *, every_rank: bool = False) -> Inside:
        """Returns the run that this script is (`repro_est.inside.run`)."""
        from repro_est.inside.run import Run as Inside

        return Inside.get_context(allow_offline, every_rank=every_rank)

    @classmethod
    def get(cls, workspace: Workspace | None, run_id: str) -> Run:
        """Returns a run by its id."""
        return cls(workspace, run_id)

    @staticmethod
    def list(
        experiment: Experiment,
        type: str | None = None,  # noqa: A002 -- Azure ML's name
        tags: str | Mapping[str, str] | None = None,
        properties: str | Mapping[str, str] | None = None,
        status: str | None = None,
        include_children: bool = False,
    ) -> Iterator[Run]:
        """Yields the runs of an experiment, newest first; see `Experiment.get_runs`."""
        return experiment.get_runs(type, tags, properties, status, include_children)

    # ---- who it is

    @property
    def run_id(self) -> str:
        """The run hash; a child's number stands behind it."""
        return f"{self._hash}/{self._child.replace('.', '/')}" if self._child else self._hash

    @property
    def id(self) -> str:
        return self.run_id

    @property
    def plan(self) -> Plan:
        """Everything that was hashed, and what is recorded beside it."""
        from repro_est.engine import plan_of

        if self._plan is None:
            self._plan = plan_of(self._hash, self.workspace.store)
        return self._plan

    @property
    def experiment(self) -> Experiment:
        from repro_est.api.experiment import Experiment

        if self._experiment is None:
            names = [*filter(None, (self.plan.recorded.experiment_name,)), *self._notes.experiments, "default"]
            self._experiment = Experiment(self.workspace, names[0])
        return self._experiment

    @property
    def name(self) -> str:
        if self._child:
            parent = self._child.rpartition(".")[0]
            return next((name for child, name in self._history(parent).children if child == self._child), "")
        return self._notes.name or self.plan.recorded.name

    @property
    def display_name(self) -> str:
        return self.name

    @display_name.setter
    def display_name(self, name: str) -> None:
        self._note((NAME, "", name))

    @property
    def description(self) -> str:
        return self.plan.recorded.description

    @property
    def type(self) -> str:
        return "repro.child" if self._child else "repro.run"

    @property
    def number(self) -> int:
        """The attempt that counts, from 1; 0 before the first; of a child, its own number."""
        if self._child:
            return int(self._child.rpartition(".")[2])
        attempt = self._state.attempt
        return attempt.number if attempt else 0

    @property
    def parent(self) -> Run | None:
        if not self._child:
            return None
        above = self._child.rpartition(".")[0].replace(".", "/")
        return self._parent or Run(self.workspace, f"{self._hash}/{above}" if above else self._hash)

    # ---- its state

    @property
    def status(self) -> str:
        return self.get_status()

    def get_status(self) -> str:
        """Returns one of Azure ML's words; that of a child is what its script said, else that of the run."""
        if self._child and (end := self._history().end):
            return end[0].capitalize()
        return self._state.status

    def get_detailed_status(self) -> dict[str, str]:
        """Returns the status, and the reason in words."""
        attempt = self._state.attempt
        return {"status": self.get_status(), "details": attempt.reason if attempt else ""}

    def wait_for_completion(
        self,
        show_output: bool = False,
        wait_post_processing: bool = False,
        raise_on_error: bool = True,
        *,
        stream: TextIO | None = None,
    ) -> dict[str, Any]:
        """Waits until the run has ended; returns its details.

        Ctrl-C stops waiting, and the run goes on.

        Args:
            show_output: shows what it writes meanwhile, on `stream`, by default standard output.
            raise_on_error: raises when it is no success.

        Raises:
            ScriptFailed, TimedOut, Interrupted, InfrastructureError: how it ended, with the last lines of its log.
        """
        out = stream or sys.stdout
        try:
            if show_output and read_submission(self._layout, self._hash) is not None:
                self._show(out)
            while not (state := self._state).is_terminal:
                if state.status == "NotStarted":
                    raise InfrastructureError(f"run {self._hash[:12]}: nobody executes it, or it was removed")
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            print(f"\nstopped waiting; run {self._hash[:12]} goes on: run.cancel() ends it", file=sys.stderr)
            raise
        if show_output:
            print(f"run {self.id}: {self.get_status()}", file=out)
        if raise_on_error and self.get_status() != "Completed":
            raise self._failure()
        return self.get_details()

    def cancel(self) -> None:
        """Ends the run, wherever it is; what it has written is kept.

        Raises:
            UsageError: it is not running.
        """
        from repro_est import engine
        from repro_est.api.silence import Silence

        while self._state.status == "Preparing" and self._state.attempt is None:
            time.sleep(_POLL_SECONDS)  # it has no attempt yet that could be ended
        engine.cancel(self._hash, self.workspace.store, Silence())

    def get_details(self) -> dict[str, Any]:
        """Returns what is known of the run, under Azure ML's names."""
        state, plan = self._state, self.plan
        attempt = state.attempt
        details: dict[str, Any] = {
            "runId": self.id,
            "target": (attempt.facts.get("target") if attempt else None) or plan.recorded.target,
            "status": self.get_status(),
            "startTimeUtc": attempt.started if attempt else None,
            "endTimeUtc": (attempt.finished or None) if attempt else None,
            "properties": {**_git_properties(attempt), "ContentSnapshotId": plan.source, **self.get_properties()},
            "tags": self.get_tags(),
            "inputDatasets": [
                {"name": item.name, "tree": item.tree, "origin": dict(item.origin)} for item in plan.recorded.inputs
            ],
            "outputDatasets": [],
            "runDefinition": dict(plan.document),
            "logFiles": {name: str(path) for name, path in self._files.paths(LOGS).items()},
            "submittedBy": attempt.facts.get("machine", {}).get("user", "") if attempt else "",
        }
        if state.status == "Failed" and attempt:
            details["error"] = {"error": {"code": str(attempt.status), "message": attempt.reason}}
        return details

    def get_details_with_logs(self) -> dict[str, Any]:
        """Returns the details, with the text of each log under `logFiles`."""
        details = self.get_details()
        details["logFiles"] = {
            name: path.read_text("utf-8", "replace") for name, path in self._files.paths(LOGS).items()
        }
        return details

    # ---- metrics

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: object = None, populate: bool = False
    ) -> dict[str, Any]:
        """Returns what the script logged: a value that was logged once, else the list; also while it runs.

        Args:
            recursive: with the metrics of child runs, by their ids.
        """
        found = self._history().view(name)
        if not self._child:
            found |= {
                key: value for key, value in self._kept_metrics().items() if key not in found and name in (None, key)
            }
        if recursive:
            found |= {child.id: child.get_metrics(name, recursive=True) for child in self.get_children()}
        return found

    def get_series(self, name: str) -> Sequence[tuple[int, float, float]]:
        """Returns the numbers of one metric as (step, value, seconds since the epoch)."""
        return self._history().series(name)

    def get_params(self) -> dict[str, Any]:
        """Returns what the script was given, and what it said are its parameters (MLflow's)."""
        listed = {flag: words[0] if len(words) == 1 else words for flag, words in self.plan.script_params}
        return {**listed, **self._history().params}

    # ---- files

    def get_file_names(self) -> Sequence[str]:
        """Returns the files of the run: `outputs/...` and `logs/...`."""
        return self._files.names()

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, _validate_checksum: bool = True
    ) -> str:
        """Copies a file of the run, checked against its digest; returns where it is.

        Args:
            name: `outputs/model.pkl`; a name without `outputs/` or `logs/` is looked for below outputs.
            output_file_path: a file, or a directory that is there; default: the file's name, here.

        Raises:
            InputError: no such file; what could be meant is named.
            VerificationError: the stored bytes are not what they are named for.
        """
        found = self._files.find(name)
        target = Path(output_file_path) if output_file_path is not None else Path(PurePosixPath(found).name)
        if target.is_dir():
            target = target / PurePosixPath(found).name
        self._files.copy([found], [target])
        return str(target)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        output_paths: Sequence[str] | None = None,
        batch_size: int = 100,
        append_prefix: bool = True,
        timeout_seconds: float | None = None,
    ) -> Sequence[str]:
        """Copies all files of the run, or those below a prefix; returns where they are.

        Args:
            output_paths: where each goes, in the order of `get_file_names`.
            append_prefix: False leaves the prefix out of the path below `output_directory`.
        """
        start = f"{prefix.strip('/')}/" if prefix else ""
        names = [name for name in self.get_file_names() if name.startswith(start) or name == start[:-1]]
        if output_paths is not None and len(output_paths) != len(names):
            raise UsageError(f"download_files: got {len(output_paths)} output_paths for {len(names)} files")
        base = Path(output_directory or ".")
        targets = output_paths or [name if append_prefix else name.removeprefix(start) for name in names]
        paths = [base / target for target in targets]
        self._files.copy(names, paths)
        return [str(path) for path in paths]

    def get_all_logs(self, destination: str | os.PathLike[str] | None = None) -> Sequence[str]:
        """Copies all logs; returns where they are."""
        return self.download_files(LOGS, destination or f"logs-{self._hash[:12]}", append_prefix=False)

    # ---- tags and properties

    @property
    def tags(self) -> dict[str, str]:
        return self.get_tags()

    @property
    def properties(self) -> dict[str, str]:
        return self.get_properties()

    def get_tags(self) -> dict[str, str]:
        if self._child:
            return dict(self._history().tags)
        return self._notes.over(dict(self.plan.recorded.tags))

    def tag(self, key: str, value: str | None = None) -> None:
        """Sets a tag; it may be set again."""
        self._note((TAG, key, value or ""))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._note(*((TAG, key, value) for key, value in tags.items()))

    def remove_tags(self, tags: Iterable[str]) -> None:
        self._note(*((TAG, key, None) for key in tags))

    def get_properties(self) -> dict[str, str]:
        return dict(self._history().properties) if self._child else dict(self._notes.properties)

    def add_properties(self, properties: Mapping[str, str]) -> None:
        """Sets properties, which never change.

        Raises:
            UsageError: one is set already, to something else.
        """
        self._note(*((PROPERTY, key, value) for key, value in properties.items()))

    # ---- what can be made of it

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
        """Registers an output of the completed run; the same bytes again are the same version.

        Args:
            model_path: `outputs/model.pkl`; without one, the model's name.

        Raises:
            InputError: nothing is there; the candidates are named.
            UsageError: a name that no model may have.
        """
        from repro_est.api.model import Model, labels
        from repro_est.registration import register_output

        if unknown:
            raise UsageError(f"register_model: {', '.join(sorted(unknown))} has no meaning here; leave it out")
        path = model_path or model_name
        said = labels(
            model_name,
            tags=tags,
            properties=properties,
            description=description,
            model_framework=model_framework,
            model_framework_version=model_framework_version,
        )
        store = self.workspace.store
        place = path if path.partition("/")[0] == OUTPUTS else f"{OUTPUTS}/{path}"
        return Model.of(register_output(store, self._hash, place, model_name, said), store)

    def get_environment(self) -> Any:
        """Returns the packages of the run: an object with `name`, `python` and `packages` (version by name)."""
        from repro_est.inside.surroundings import Surroundings
        from repro_est.lock.lockfile import loads

        recorded = self.plan.recorded
        lock = loads(recorded.lock.encode(), Path("lock"), lambda _: recorded.conda_lock.encode())
        conda = {item.name: item.version for item in lock.conda.packages} if lock.conda else {}
        packages = {**conda, **{item.name: item.version for item in lock.packages}}
        return Surroundings(recorded.name, lock.python, dict(sorted(packages.items())))

    def get_portal_url(self) -> str:
        """Returns the address of a page of the run, which is written now: `file://...`."""
        from repro_est.portal.page import portal_url

        return portal_url(self._hash, self.workspace.store)

    def get_snapshot_id(self) -> str:
        """Returns the hash of the source tree."""
        return self.plan.source

    def restore_snapshot(self, snapshot_id: str | None = None, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the source of the run into a new directory; returns where it is."""
        target = Path(path or f"source-{self._hash[:12]}")
        if target.exists():
            raise UsageError(f"restore_snapshot: {target}: is there already", hint="name a new directory")
        store = self.workspace.store
        store.materialise(store.read_tree(TreeHash(snapshot_id or self.plan.source)), target)
        return str(target)

    def get_children(
        self,
        recursive: bool = False,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        type: str | None = None,  # noqa: A002 -- Azure ML's name
        status: str | None = None,
    ) -> Iterator[Run]:
        """Yields the child runs the script began, in order.

        Args:
            tags, properties: keys with the values they must have.
        """
        for child, _ in self._history().children:
            run = Run(
                self.workspace, f"{self._hash}/{child.replace('.', '/')}", experiment=self._experiment, parent=self
            )
            history = run._history()
            fits = all(history.tags.get(key) == value for key, value in (tags or {}).items())
            fits &= all(history.properties.get(key) == value for key, value in (properties or {}).items())
            if fits and status in (None, run.get_status()):
                yield run
            if recursive:
                yield from run.get_children(True, tags, properties, type, status)

    # ---- parts

    @property
    def _state(self) -> State:
        return state_of(self._hash, self._layout)

    @property
    def _notes(self) -> Notes:
        return read_notes(self._layout, self._hash)

    def _note(self, *notes: tuple[str, str, str | None]) -> None:
        if self._child:
            raise UsageError(f"run {self.id}: a child run is written by its script only")
        for _, key, value in notes:
            if not isinstance(key, str) or not isinstance(value, str | None):
                raise UsageError(f"run {self.id}: got {key!r} = {value!r}, expected strings")
        write_notes(self._layout, self._hash, notes)

    def _kept_metrics(self) -> Mapping[str, float]:
        result = self._runs.result(self._hash)
        return result.metrics if result is not None else {}

    def _history(self, child: str | None = None) -> History:
        """What the script recorded, by now."""
        return self._files.history(self._child if child is None else child)

    def _show(self, out: TextIO) -> None:
        for data in follow(self._hash, self._layout):
            if data:
                out.write(data.decode("utf-8", "replace"))
                out.flush()
            else:
                time.sleep(_POLL_SECONDS)

    def _failure(self) -> ReproError:
        """Returns what to raise for a run that is no success."""
        attempt, short = self._state.attempt, self._hash[:12]
        hint = f"repro logs {short}"
        if attempt is None:
            return InfrastructureError(
                f"run {short}: could not be started\n{self._last_lines(log_of(self._layout, self._hash))}"
            )
        if attempt.status is Status.CANCELED:
            return Interrupted(f"run {short}: cancelled", hint=hint)
        tail = self._last_lines(self._layout.attempt(self._hash, attempt.number) / LOGS / "rank-0" / "stderr.log")
        words = f"run {short}, attempt {attempt.number}: {attempt.reason}{tail and chr(10) + tail}"
        if attempt.status is Status.TIMED_OUT:
            return TimedOut(words, hint=hint)
        return (ScriptFailed if attempt.phase in ("run", "collect") else InfrastructureError)(words, hint=hint)

    def _last_lines(self, log: Path) -> str:
        try:
            text = log.read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in text.splitlines()[-_LAST_LINES:])

    def _repr_html_(self) -> str:
        """What a notebook shows: a small table, with a link to the page."""
        from repro_est.api.display import run_html
        from repro_est.portal.facts import collect_facts

        return run_html(collect_facts(self._hash, self.workspace.store), self.get_portal_url())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (other.id, other.workspace) == (self.id, self.workspace)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Run({self.id}, {self.get_status()})"


def _of_the_script(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Run, *arguments: object, **keywords: object) -> NoReturn:
        raise UsageError(
            f"Run.{name}: a run that was pinned by its hash is written by its script, and by nobody else",
            hint=f"call it in the script: Run.get_context().{name}(...)",
        )

    refuse.__doc__ = "Refused: it belongs into the script."
    return refuse


for _name in (
    "child_run", "complete", "create_children", "fail", "flush", "get_secret", "get_secrets", "log",
    "log_accuracy_table", "log_confusion_matrix", "log_image", "log_list", "log_predictions", "log_residuals",
    "log_row", "log_table", "start", "upload_file", "upload_files", "upload_folder",
):  # fmt: skip
    setattr(Run, _name, _of_the_script(_name))


def _git_properties(attempt: AttemptRecord | None) -> dict[str, str]:
    """Git facts under the names that Azure ML and MLflow gave them."""
    git = attempt.facts.get("git") if attempt else None
    if not isinstance(git, dict):
        return {}
    found = {
        "azureml.git.repository_uri": git.get("remote"),
        "mlflow.source.git.repoURL": git.get("remote"),
        "azureml.git.branch": git.get("branch"),
        "mlflow.source.git.branch": git.get("branch"),
        "azureml.git.commit": git.get("commit"),
        "mlflow.source.git.commit": git.get("commit"),
        "azureml.git.dirty": str(git.get("dirty")),
    }
    return {key: value for key, value in found.items() if value}

"""`Experiment`: a name under which runs are asked for and found again; no part of what identifies a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from repro_est.api.estimator import Estimator
from repro_est.api.run import Run
from repro_est.api.scriptrunconfig import ScriptRunConfig
from repro_est.api.submission import STATUSES, submit
from repro_est.api.workspace import Workspace, workspace_or_default
from repro_est.errors import UsageError
from repro_est.store.index import Index, RunRow
from repro_est.store.notes import EXPERIMENT, TAG, read_notes, write_notes
from repro_est.store.runs import Runs

if TYPE_CHECKING:
    from repro_est.api.interactive import InteractiveRun

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}"


class Experiment:
    """A named group of runs.

    Args:
        workspace: the project; or the name, when there is no second argument.
        name: letters, digits, `_` and `-`.

    Example:
        run = Experiment("digits").submit(estimator)
        run.wait_for_completion(show_output=True)
    """

    def __init__(self, workspace: Workspace | str | None = None, name: str | None = None, **azures: Any) -> None:
        if isinstance(workspace, str):
            if name is not None:
                raise UsageError(f"Experiment: got {workspace!r}, expected a Workspace before the name {name!r}")
            workspace, name = None, workspace
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise UsageError(f"Experiment: got the name {name!r}, expected letters, digits, `_` and `-`")
        self.workspace = workspace_or_default(workspace)
        self.name = name

    @staticmethod
    def list(workspace: Workspace | None = None, experiment_name: str | None = None) -> list[Experiment]:
        """Returns the experiments that have runs, by name."""
        workspace = workspace_or_default(workspace)
        names = {name for row in Index(workspace.store.layout).rows() for name in _experiments(workspace, row)}
        return [Experiment(workspace, name) for name in sorted(names) if experiment_name in (None, name)]

    def submit(
        self,
        config: Estimator | ScriptRunConfig,
        tags: Mapping[str, str] | None = None,
        *,
        script_params: Mapping[str, Any] | None = None,
        inputs: Any = None,
        relock: bool = False,
    ) -> Run:
        """Pins everything and returns the run: the one that is there, or one that begins in a process of its own.

        The process goes on when this one ends. What cannot be pinned is an error here. Recipes whose runs are inputs
        of this one are run first, and waited for: the run has no hash before.

        Args:
            config: an `Estimator` or `ScriptRunConfig`; it is not changed.
            script_params: laid over those of the estimator.
            relock: make the lock anew when it no longer satisfies the estimator.

        Raises:
            ReproError: it cannot be planned; a declared secret is not set.
        """
        from repro_est import engine
        from repro_est.api.silence import Silence
        from repro_est.launch.process import secret_values

        estimator = config.estimator if isinstance(config, ScriptRunConfig) else config
        if not isinstance(estimator, Estimator):
            raise UsageError(f"Experiment.submit: got {config!r}, expected an Estimator or a ScriptRunConfig")
        if script_params or inputs:
            estimator = estimator.with_(script_params=script_params, inputs=inputs)
        estimator = estimator.with_(experiment_name=self.name, tags=dict(tags or {}))
        workspace = self.workspace
        store = workspace.store
        prepared = engine.prepare(estimator.recipe, workspace.project, store, Silence(), relock=relock, run_needed=True)
        plan = prepared.plan
        Runs(store.layout).write_plan(plan.hash, plan.to_json())
        notes: list[tuple[str, str, str | None]] = [(EXPERIMENT, self.name, None)]
        write_notes(store.layout, plan.hash, [*notes, *((TAG, key, value) for key, value in (tags or {}).items())])
        if engine.hit(plan, store, Silence()) is None:
            secret_values(plan.secrets)
            source = estimator.recipe.estimator.source_directory
            submit(plan.hash, store.layout, project=workspace.root, target=plan.recorded.target, source=source)
            return Run(workspace, plan.hash, experiment=self)
        engine.run(plan, store, Silence(), workspace.project)  # a hit, whose models it registers
        return Run(workspace, plan.hash, experiment=self, cached=True)

    def start_logging(self, outputs: Any = None, snapshot_directory: Any = None, **azures: Any) -> InteractiveRun:
        """Returns a new run of this process: it logs into `./logs/offline/`, and has no hash: nothing was pinned."""
        from repro_est.api.interactive import InteractiveRun

        return InteractiveRun.of(self)

    def get_runs(
        self,
        type: str | None = None,  # noqa: A002 -- Azure ML's name
        tags: str | Mapping[str, str] | None = None,
        properties: str | Mapping[str, str] | None = None,
        status: str | None = None,
        include_children: bool = False,
    ) -> Iterator[Run]:
        """Yields the runs of the experiment, newest first.

        Args:
            tags, properties: a key, or keys with their values.
            status: one of Azure ML's words, "Completed".

        Raises:
            UsageError: a status that is none.
        """
        if status is not None and status not in STATUSES:
            raise UsageError(f"get_runs: got the status {status!r}, expected one of {', '.join(STATUSES)}")
        for row in Index(self.workspace.store.layout).rows():
            if self.name not in _experiments(self.workspace, row):
                continue
            run = Run(self.workspace, row.run_hash, experiment=self)
            if _matches(run.get_tags(), tags) and _matches(run.get_properties(), properties):
                fits = status is None or run.get_status() == status
                yield from [run] if fits else []
                yield from run.get_children(recursive=True) if fits and include_children else ()

    def archive(self) -> None:
        """Refused: runs are kept by their hash, and an experiment is only a name of them."""
        raise UsageError("Experiment.archive: an experiment is only a name; runs are removed by `repro gc`")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and (other.name, other.workspace) == (self.name, self.workspace)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Experiment({self.name!r})"


def _experiments(workspace: Workspace, row: RunRow) -> list[str]:
    """The experiments a run was asked for in: by its recipe, or in Python."""
    layout = workspace.store.layout
    recorded = Runs(layout).plan(row.run_hash).get("recorded", {}).get("experiment_name", "")
    return [*([recorded] if recorded else []), *read_notes(layout, row.run_hash).experiments]


def _matches(have: Mapping[str, str], wanted: str | Mapping[str, str] | None) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return wanted in have
    return all(have.get(key) == value for key, value in wanted.items())

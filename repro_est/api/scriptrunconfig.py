"""`ScriptRunConfig`: Azure ML's later spelling of the same thing as an `Estimator`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from repro_est.api.distributed import DistributedConfiguration
from repro_est.api.docker import DockerConfiguration
from repro_est.api.environment import Environment
from repro_est.api.estimator import Estimator, Planned
from repro_est.api.workspace import Workspace
from repro_est.errors import UsageError


class ScriptRunConfig:
    """What to run, with plain arguments in place of parameters.

    Args:
        source_directory: taken as the snapshot.
        script: Python file or notebook in it.
        arguments: words of the command line; a dataset becomes its path.
        compute_target: "local" by default.
        environment: an `Environment`.
        distributed_job_config: `MpiConfiguration`, `PyTorchConfiguration`, `TensorflowConfiguration`.
        keywords: any other parameter of `Estimator`.

    Raises:
        RecipeError, UsageError: something is wrong; all of it is said at once.
    """

    def __init__(
        self,
        source_directory: str | os.PathLike[str] | None = ".",
        script: str | None = None,
        arguments: Sequence[Any] | None = None,
        run_config: Any = None,
        _telemetry_values: Any = None,
        compute_target: Any = None,
        environment: Environment | None = None,
        distributed_job_config: DistributedConfiguration | None = None,
        resume_from: Any = None,
        max_run_duration_seconds: float | None = None,
        command: Sequence[str] | str | None = None,
        docker_runtime_config: DockerConfiguration | None = None,
        **keywords: Any,
    ) -> None:
        if command is not None:
            raise UsageError(
                "ScriptRunConfig: command: got a command, expected script= and arguments=",
                hint="a run starts a Python file; a small one can start whatever it likes",
            )
        beside = [name for name, value in (("environment", environment), ("compute_target", compute_target)) if value]
        if run_config is not None and beside:
            raise UsageError(f"ScriptRunConfig: got run_config and {' and '.join(beside)}, expected one or the other")
        said = run_config.to_estimator() if run_config is not None else {}
        self.estimator = Estimator(
            source_directory,
            **{
                "entry_script": script,
                "arguments": arguments,
                "compute_target": compute_target,
                "environment_definition": environment,
                "distributed_training": distributed_job_config,
                "resume_from": resume_from,
                "max_run_duration_seconds": max_run_duration_seconds,
                "docker": docker_runtime_config,
                **{key: value for key, value in said.items() if value is not None},
                **keywords,
            },
        )

    def plan(self, workspace: Workspace | None = None, *, relock: bool = False) -> Planned:
        """Says what would be run; see `Estimator.plan`."""
        return self.estimator.plan(workspace, relock=relock)

    def to_recipe(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns the recipe as TOML text; see `Estimator.to_recipe`."""
        return self.estimator.to_recipe(path)

    def __repr__(self) -> str:
        return f"ScriptRunConfig({self.estimator.source_directory!r}, script={self.estimator.entry_script!r})"

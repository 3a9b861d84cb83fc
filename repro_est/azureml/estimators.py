"""Estimators and `ScriptRunConfig` of old code: those of `repro_est`, with clusters looked up in the inventory.

What they run may `import azureml.core` (`[compat] azureml`). Each set of packages has a lock of its own: `NAME.lock` of
the first estimator for NAME.py that a program makes, `NAME-2.lock` of one that asks for other packages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro_est.api import estimator as plain
from repro_est.api.condadependencies import requirement_name
from repro_est.api.docker import DockerConfiguration
from repro_est.api.environment import Environment
from repro_est.api.scriptrunconfig import ScriptRunConfig as PlainConfig
from repro_est.azureml.compute import ComputeTarget, target_of
from repro_est.azureml.notes import note
from repro_est.azureml.runconfig import RunConfiguration
from repro_est.errors import UsageError

_PACKAGES = (
    "conda_packages", "pip_packages", "conda_dependencies_file", "conda_dependencies_file_path",
    "pip_requirements_file", "pip_requirements_file_path", "custom_docker_image", "custom_docker_base_image",
    "framework_version",
)  # fmt: skip
_IMAGES = ("custom_docker_image", "custom_docker_base_image")
_requests: dict[str, list[str]] = {}


class Old:
    """What old code says, said to `repro_est`."""

    def __init__(self, source_directory: Any = ".", **keywords: Any) -> None:
        super().__init__(source_directory, **adapted(keywords))  # type: ignore[call-arg]


class Estimator(Old, plain.Estimator):
    """`repro_est.Estimator`."""


class ScriptRunConfig(PlainConfig):
    """`repro_est.ScriptRunConfig`, which may still be changed by its `run_config` until it is submitted.

    Args:
        run_config: everything else in one object, in place of the arguments that say the same.
    """

    def __init__(
        self,
        source_directory: str | os.PathLike[str] | None = ".",
        script: str | None = None,
        arguments: Sequence[Any] | None = None,
        run_config: RunConfiguration | None = None,
        _telemetry_values: object = None,
        compute_target: Any = None,
        environment: Environment | None = None,
        distributed_job_config: Any = None,
        resume_from: Any = None,
        max_run_duration_seconds: float | None = None,
        command: Sequence[str] | str | None = None,
        docker_runtime_config: DockerConfiguration | None = None,
    ) -> None:
        beside = {"environment": environment, "compute_target": compute_target}
        if run_config is not None and any(beside.values()):
            said = " and ".join(name for name, value in beside.items() if value)
            raise UsageError(f"ScriptRunConfig: got run_config and {said}, expected one or the other")
        if command is not None:
            PlainConfig(command=command)  # refuses it
        self.source_directory = source_directory
        self.script, self.arguments = script, list(arguments or ())
        self.run_config = run_config or RunConfiguration()
        if compute_target is not None:
            self.run_config.target = compute_target
        if environment is not None:
            self.run_config.environment = environment
        if distributed_job_config is not None:
            self.run_config.distributed = distributed_job_config
        if docker_runtime_config is not None:
            self.run_config.docker = docker_runtime_config
        if max_run_duration_seconds is not None:
            self.run_config.max_run_duration_seconds = max_run_duration_seconds
        self._resume_from = resume_from
        self.estimator  # noqa: B018 -- what is wrong is said now

    @property
    def estimator(self) -> plain.Estimator:  # type: ignore[override]
        """The estimator that says what this says now."""
        said = self.run_config.to_estimator()
        return Estimator(
            self.source_directory,
            **{
                **said,
                "entry_script": self.script or said.get("entry_script"),
                "arguments": self.arguments or said.get("arguments"),
                "resume_from": self._resume_from,
            },
        )

    def __repr__(self) -> str:
        return f"ScriptRunConfig({str(self.source_directory)!r}, script={self.script!r})"


def adapted(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keywords of an estimator of old code as `repro_est` takes them."""
    found = dict(keywords)
    for name in ("vm_size", "vm_priority"):
        if found.pop(name, None) is not None:
            note(f"{name}: no machine is made; the run goes where compute_target says, or to this one")
    if found.get("user_managed") and not any(found.get(name) for name in _IMAGES):
        raise user_managed()
    for name in ("pip_packages", "conda_packages"):
        if isinstance(found.get(name), list | tuple):
            found[name] = [item for item in found[name] if not _is_of_azure(item)]
    environment = found.get("environment_definition")
    if isinstance(environment, Environment):
        check_user_managed(environment)
        for dropped in environment.dropped:
            _is_of_azure(dropped)
    found["compute_target"] = _target(found.get("compute_target"))
    found.setdefault("name", _name(found))
    return {"compat_azureml": True, **found}


def _is_of_azure(requirement: Any) -> bool:
    """Whether a package is a part of Azure's SDK, which is said."""
    name = requirement_name(requirement) if isinstance(requirement, str) else ""
    if name != "azureml" and not name.startswith("azureml-"):
        return False
    note(f"package `{name}`: is left out; `import azureml.core` works in the run without it")
    return True


def check_user_managed(environment: Environment) -> None:
    """Refuses an environment that is whatever a machine has.

    Raises:
        UsageError: it is one.
    """
    docker = environment.docker
    if environment.python.user_managed_dependencies and not (docker.base_image or docker.base_dockerfile):
        raise user_managed()


def user_managed() -> UsageError:
    return UsageError(
        "user_managed: a Python that happens to be on a machine has no lock, so no run can be repeated on it",
        hint="list what the script imports, in pip_packages or conda_packages; or name an image that has it",
    )


def _target(target: Any) -> str | None:
    """Returns the target, None for one of no name of its own: this machine, or Docker where an image is named."""
    name = target.target if isinstance(target, ComputeTarget) else getattr(target, "name", target)
    found = target_of(name) if isinstance(name, str) else name
    return None if found == "local" else found


def _name(keywords: Mapping[str, Any]) -> str | None:
    """Returns the name of the recipe, which is that of its lock."""
    script = keywords.get("entry_script")
    if not isinstance(script, str):
        return None
    stem, environment = Path(script).stem, keywords.get("environment_definition")
    said = environment.to_recipe() if isinstance(environment, Environment) else None
    request = repr(([(key, keywords.get(key)) for key in _PACKAGES], said))
    known = _requests.setdefault(stem, [])
    if request not in known:
        known.append(request)
    number = known.index(request) + 1
    return stem if number == 1 else f"{stem}-{number}"

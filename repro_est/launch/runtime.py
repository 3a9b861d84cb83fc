"""Where a run executes: as a process with the environment's prefix, or in a container with its image.

The run hash is the same for both (docs/decisions/0013): the same packages, script, inputs and variables. What differs,
the interpreter's build or the base image, is recorded with the attempt.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from repro_est.environment.prefix import Prefix, realise
from repro_est.errors import InfrastructureError, UsageError
from repro_est.images.image import PREFIX, Image
from repro_est.launch.container import VARIABLES
from repro_est.launch.process import Launch, OnOutput, Outcome, closed_environment, run_process
from repro_est.launch.sandbox import (
    HOME,
    MODULES_INSIDE,
    TEMPORARY,
    WORK,
    NoSandbox,
    Sandbox,
    absence,
    announce,
    container_paths,
    enclose,
    own_paths,
    required,
)
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.platforms import current_platform
from repro_est.project import Project
from repro_est.store.store import Store
from repro_est.targets.local import require
from repro_est.targets.stage import Workplace

_FROM_OUTSIDE = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "PATH", "HOME")


class Runtime(Protocol):
    """One way of executing a plan on this machine."""

    def facts(self) -> Mapping[str, Any]:
        """What is recorded of it with the attempt."""

    def run(self, place: Workplace, logs: Path, secrets: Mapping[str, str], on_output: OnOutput) -> Outcome:
        """Executes the script in a staged workplace.

        Args:
            logs: directory for stdout.log and stderr.log.
            secrets: values by name.
        """


def open_runtime(plan: Plan, lock: Lock, store: Store, observer: Observer, project: Project) -> Runtime:
    """Returns the runtime of the plan's target, its environment ready.

    Raises:
        ReproError: the target has no GPU and one is asked for; the environment cannot be made.
    """
    if plan.recorded.target != "docker":
        if lock.image is not None:
            raise UsageError(
                f"the recipe names the base image {lock.image.name}, and a process on this machine has none",
                hint="repro run RECIPE -t docker",
            )
        require(use_gpu=plan.use_gpu)
        return _Process(plan, realise(lock, store, observer), store, observer)
    from repro_est.images.containers import reap, require_gpu
    from repro_est.images.daemon import connect
    from repro_est.images.obtain import environment_image

    client = connect()
    reap(client, store)
    if plan.use_gpu:
        require_gpu(client)
    image, python = environment_image(lock, current_platform(), project, store, observer, client)
    return _Container(plan, image, python, store)


class _Process:
    """Runs the script in a sandbox, or without one where there is none (`launch.sandbox`)."""

    def __init__(self, plan: Plan, prefix: Prefix, store: Store, observer: Observer) -> None:
        self._plan, self._prefix, self._store, self._observer = plan, prefix, store, observer
        why = absence()
        self._settle(_without(why) if why else Sandbox("bubblewrap", plan.network))

    def _settle(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        if self._plan.recorded.sandbox_required:
            required(sandbox)

    def facts(self) -> Mapping[str, Any]:
        return {"interpreter": dict(self._prefix.interpreter), "sandbox": self._sandbox.to_json()}

    def run(self, place: Workplace, logs: Path, secrets: Mapping[str, str], on_output: OnOutput) -> Outcome:
        announce(self._sandbox, self._store, self._observer)
        if self._sandbox.kind != "none":
            try:
                outcome = run_process(self._launch(place, logs, secrets, enclosed=True), on_output=on_output)
                return dataclasses.replace(outcome, read_only="enforced" if place.read_only else "no inputs")
            except NoSandbox as reason:
                self._settle(_without(str(reason)))
                announce(self._sandbox, self._store, self._observer)
        outcome = run_process(self._launch(place, logs, secrets, enclosed=False), on_output=on_output)
        return outcome if place.read_only else dataclasses.replace(outcome, read_only="no inputs")

    def _launch(self, place: Workplace, logs: Path, secrets: Mapping[str, str], *, enclosed: bool) -> Launch:
        plan, prefix = self._plan, self._prefix
        enclosure, seen = None, own_paths(place)
        if enclosed:
            logs.mkdir(parents=True, exist_ok=True)
            enclosure, seen = enclose(
                place,
                logs,
                prefix=prefix.path,
                interpreter=Path(prefix.interpreter["path"]),
                store=self._store.layout.root,
                writable=frozenset(item.name for item in plan.recorded.inputs if item.copy),
                network=plan.network,
                use_gpu=plan.use_gpu,
            )
        environment = closed_environment(
            prefix=prefix.path,
            home=Path(seen.home),
            temporary=Path(seen.temporary),
            modules=Path(seen.modules),
            use_gpu=plan.use_gpu,
            declared=plan.environment_variables,
            secrets=secrets,
            facts=run_facts(plan, seen.work, seen.inputs),
        )
        read_only = () if enclosed else (*place.read_only, prefix.path)  # root, whom modes do not stop, would change it
        return Launch(
            command=plan.command(str(prefix.python), seen.inputs),
            cwd=Path(seen.work),
            environment=environment,
            log_directory=logs,
            timeout_seconds=plan.recorded.timeout_seconds,
            read_only=read_only,
            secrets=tuple(secrets.values()),
            enclosure=enclosure,
        )


def _without(why: str) -> Sandbox:
    return Sandbox("none", network=True, why=why)


class _Container:
    """Runs `launch.container`, which owns the container, under the same supervisor as any script.

    So time limits, cancelling, logs and the masking of secrets are the same code for both. Values of variables go
    through the environment of that process, never through its arguments.
    """

    def __init__(self, plan: Plan, image: Image, python: str, store: Store) -> None:
        self._plan, self._image, self._python, self._store = plan, image, python, store

    def facts(self) -> Mapping[str, Any]:
        image = self._image
        facts = {"base": image.base, "origin": image.origin, "platform": image.platform}
        sandbox = Sandbox("container", self._plan.network)
        return {"image": {"id": f"sha256:{image.image_id}", **facts}, "sandbox": sandbox.to_json()}

    def run(self, place: Workplace, logs: Path, secrets: Mapping[str, str], on_output: OnOutput) -> Outcome:
        plan = self._plan
        inputs = container_paths(place).inputs
        environment = closed_environment(
            prefix=Path(PREFIX),
            home=Path(HOME),
            temporary=Path(TEMPORARY),
            modules=Path(MODULES_INSIDE),
            use_gpu=plan.use_gpu,
            declared=plan.environment_variables,
            secrets=secrets,
            facts={**run_facts(plan, WORK, inputs), "LOGNAME": "repro", "PATH": self._image.search_path},
        )
        report = place.home.parent / "docker-failed"
        writable = {item.name for item in plan.recorded.inputs if item.copy}
        specification = {
            "image": f"sha256:{self._image.image_id}",
            "command": list(plan.command(self._python, inputs)),
            "mounts": [
                [str(place.source), WORK, "ro"],
                [str(place.outputs), f"{WORK}/outputs", "rw"],
                [str(place.logs), f"{WORK}/logs", "rw"],
                [str(place.home), HOME, "rw"],
                [str(place.temporary), TEMPORARY, "rw"],
                [str(place.modules), MODULES_INSIDE, "ro"],
                *(
                    [os.path.realpath(path), inputs[name], "rw" if name in writable else "ro"]
                    for name, path in place.input_paths.items()
                ),
            ],
            "user": f"{os.getuid()}:{os.getgid()}",
            "network": plan.network,
            "use_gpu": plan.use_gpu,
            "limits": dict(plan.recorded.limits),
            "report": str(report),
            "labels": {"repro.run": plan.hash, "repro.store": str(self._store.layout.root)},
        }
        outside = {name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ}
        launch = Launch(
            command=(sys.executable, "-I", "-m", "repro_est.launch.container", json.dumps(specification)),
            cwd=place.home.parent,
            environment={**outside, VARIABLES: json.dumps(environment)},
            log_directory=logs,
            timeout_seconds=plan.recorded.timeout_seconds,
            secrets=tuple(secrets.values()),
        )
        try:
            outcome = run_process(launch, on_output=on_output)
        finally:
            from repro_est.images.containers import remove_containers

            remove_containers(plan.hash, self._store)
        if report.exists() and not outcome.canceled and not outcome.timed_out:
            raise InfrastructureError(report.read_text("utf-8"), hint="docker info, and run again")
        return dataclasses.replace(outcome, read_only="enforced" if place.read_only else "no inputs")


def run_facts(plan: Plan, work: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell the script about its run."""
    return {
        "REPRO_RUN": plan.hash,
        "REPRO_OUTPUTS": f"{work}/outputs",
        "REPRO_LOGS": f"{work}/logs",
        **({"REPRO_SECRETS": ",".join(plan.secrets)} if plan.secrets else {}),
        "MLFLOW_TRACKING_URI": "repro:",
        "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow 3 tells its makers what a script does
        **{f"REPRO_INPUT_{name}": path for name, path in inputs.items()},
        **(_azureml_facts(plan, inputs) if plan.compat_azureml else {}),
    }


def _azureml_facts(plan: Plan, inputs: Mapping[str, str]) -> dict[str, str]:
    """What old scripts read: each input under its own name, and the run's id."""
    resumed = {"AZUREML_DATAREFERENCE_MODEL_LOCATION": inputs["resume_from"]} if "resume_from" in inputs else {}
    return {**inputs, **resumed, "AZUREML_RUN_ID": plan.hash}

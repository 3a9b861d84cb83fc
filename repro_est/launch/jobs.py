"""Which kind of job executes a plan: by its target and its number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from repro_est.errors import UsageError
from repro_est.hosts.inventory import TargetSpec, find_inventory, this_machine
from repro_est.launch.attached import Attached
from repro_est.launch.gang import Gang
from repro_est.launch.handle import Handle
from repro_est.launch.job import Here, Job
from repro_est.launch.sandbox import of_hosts, required
from repro_est.launch.slurm import JOB, Batch, NewBatch
from repro_est.launch.wishes import Wishes
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.project import Project
from repro_est.store.store import Store

HERE = ("local", "docker")
"""The targets that need no inventory."""


def target_of(name: str, project: Project, store: Store) -> TargetSpec:
    """Returns a target by name: this machine, or one of the inventory.

    Raises:
        UsageError: there is no such target, or no inventory.
    """
    if name in HERE:
        runtime = "docker" if name == "docker" else "process"
        return this_machine(name, runtime=runtime, store=store.layout.directory("hosts"))
    inventory = find_inventory(project)
    if inventory is None:
        raise UsageError(
            f"target {name}: there is no inventory, the targets without one are {' and '.join(HERE)}",
            hint="write inventory.toml beside repro.toml (docs/hosts.md)",
        )
    return inventory.target(name)


def open_job(
    plan: Plan,
    lock: Lock,
    store: Store,
    observer: Observer,
    project: Project,
    secrets: Mapping[str, str],
    wishes: Wishes,
    *,
    attempt: Path,
    work: Path,
) -> Job:
    """Returns the job that executes a plan.

    Raises:
        UsageError: its target cannot.
        InfrastructureError: it must run in a sandbox, and there is none.
    """
    target = target_of(plan.recorded.target, project, store)
    if target.is_local and plan.layout.is_single:
        if wishes.detach:
            raise UsageError(
                f"--detach: a single process on target {target.name} ends with its client",
                hint="use a target of the inventory, or run it in the background of your shell",
            )
        return Here(plan, lock, store, observer, project, secrets, attempt=attempt, work=work)
    if plan.recorded.sandbox_required:
        required(of_hosts(plan, target))
    if target.scheduler:
        return NewBatch(plan, lock, target, store, observer, project, secrets, wishes, attempt=attempt, work=work)
    return Gang(plan, lock, target, store, observer, project, secrets, wishes, attempt=attempt, work=work)


def resumed_job(
    plan: Plan, handle: Handle, observer: Observer, wishes: Wishes, *, attempt: Path, work: Path, cancel: bool
) -> Job:
    """Returns the job of an attempt that was left at its hosts, or at a scheduler.

    Args:
        cancel: it is to end.
    """
    kind = Batch if JOB in handle.facts else Attached
    return kind(plan, observer, wishes, attempt=attempt, work=work, handle=handle, cancel=cancel)

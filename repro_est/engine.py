"""The story: recipe, lock, snapshot, plan; then the run that has this hash already, or one execution of it.

    recipe = load(recipe.toml)                 strict; all errors at once
    lock   = locked(recipe)                    offline while the lock satisfies the recipe
    tree   = snapshot(source_directory)        copied as it is hashed; the working tree is never read again
    plan   = make_plan(recipe, lock, tree, inputs)
    result = hit(plan.hash), or fetch it from a remote, or execute: lease, environment, stage, launch, collect, commit

Everything a person sees goes through an `Observer`; nothing here prints.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro_est.digest import RunHash, TreeHash
from repro_est.environment.key import environment_document
from repro_est.errors import (
    Detached,
    HostsFailed,
    InfrastructureError,
    InputError,
    Interrupted,
    LockError,
    NeedsRun,
    RecipeError,
    UsageError,
    VerificationError,
)
from repro_est.files import write_atomic
from repro_est.inputs import pin_inputs
from repro_est.inside.history import read_run
from repro_est.lock.lockfile import dumps, loads
from repro_est.lock.satisfy import unsatisfied
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.outputs import LOGS, missing_outputs
from repro_est.plan import Plan, PlannedModel, load_plan, make_plan
from repro_est.platforms import current_platform
from repro_est.project import CONFIG_NAME, Project
from repro_est.recipe.notebook import is_notebook
from repro_est.recipe.values import Recipe
from repro_est.registration import Labels, register_output
from repro_est.snapshot import Listing, Snapshot, list_source, snapshot
from repro_est.store.freshness import holding
from repro_est.store.models import Model
from repro_est.store.records import Result
from repro_est.store.runs import Runs
from repro_est.store.store import Store

if TYPE_CHECKING:
    from repro_est.launch.wishes import Wishes
    from repro_est.share.remotes import Remotes

_CANCEL_SECONDS = 60.0
"""How long a client that executes a run has to end it, before another one does."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A completed run.

    Args:
        cached: True when nothing was executed.
        models: what the run registered.
    """

    plan: Plan
    result: Result
    directory: Path
    cached: bool
    models: tuple[Model, ...] = ()

    @property
    def outputs(self) -> Path:
        return self.directory / "outputs"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan and the things of the recipe that the plan does not carry.

    Args:
        needed: the same of each recipe whose run is an input of this one.
    """

    plan: Plan
    recipe: Recipe
    snapshot: Snapshot
    lock: Lock = field(repr=False)
    needed: tuple[Prepared, ...] = ()


def prepare(
    recipe: Recipe,
    project: Project,
    store: Store,
    observer: Observer,
    *,
    relock: bool = False,
    run_needed: bool = False,
) -> Prepared:
    """Pins everything the recipe depends on and returns its plan.

    Args:
        relock: make a lock anew where it no longer satisfies its recipe.
        run_needed: run first the recipes whose runs are inputs, where those are not there yet.

    Raises:
        LockError: a lock is stale, or cannot be made.
        SourceError, InputError: the source or an input cannot be pinned; a run that is needed is not there.
        ScriptFailed: one that was needed failed.
    """
    with holding(store.layout) if recipe.needed else contextlib.nullcontext() as hold:
        preparation = _Preparation(project, store, observer, relock=relock, run_needed=run_needed, hold=hold)
        return preparation.of(recipe)


class _Preparation:
    """Prepares a recipe and those it needs, each once.

    Args:
        hold: keeps a snapshot while what comes before its run may take days.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        observer: Observer,
        *,
        relock: bool,
        run_needed: bool,
        hold: Callable[[TreeHash], None] | None,
    ) -> None:
        self._project, self._store, self._observer = project, store, observer
        self._relock, self._run_needed, self._hold = relock, run_needed, hold
        self._needed: dict[Path, Prepared] = {}

    def of(self, recipe: Recipe) -> Prepared:
        store, observer = self._store, self._observer
        lock = locked(recipe, store, observer, relock=self._relock)
        _check_notebook(recipe, lock)
        source = take_snapshot(recipe, self._project, store)
        for warning in source.warnings:
            observer.event("warning", message=warning)
        if self._hold is not None:
            self._hold(source.hash)
        inputs = pin_inputs(recipe.inputs, lock, store, Runs(store.layout), self._run_of)
        if self._hold is not None:
            store.has_tree(source.hash)
        plan = make_plan(
            recipe,
            environment=environment_document(lock, current_platform()),
            source=source.hash,
            inputs=inputs,
            lock=dumps(lock).decode(),
            conda_lock=lock.conda.text if lock.conda else "",
        )
        observer.event("planned", run_hash=plan.hash, name=recipe.name, source=source.hash)
        return Prepared(plan, recipe, source, lock, tuple(self._needed[item.path] for item in recipe.needed))

    def _run_of(self, name: str, recipe: Recipe) -> RunHash:
        """Returns the run of a recipe that is an input of another one: the one that is there, or a new one."""
        known = self._needed.get(recipe.path)
        if known is not None:
            return known.plan.hash
        self._observer.event("needed", recipe=str(recipe.path), input=name)
        prepared = self.of(recipe)
        plan = prepared.plan
        shown = os.path.relpath(recipe.path)
        if self._run_needed:
            source = recipe.estimator.source_directory
            try:
                finished = run(plan, self._store, self._observer, self._project, source_directory=source)
            except Detached as left:
                message = f"inputs.{name}: run {plan.hash[:12]} of {shown} comes first, and goes on at its hosts"
                raise NeedsRun(message, hint=left.hint) from None
            self._observer.event("ready", run_hash=plan.hash, name=recipe.name, cached=finished.cached)
        elif hit(plan, self._store, self._observer) is None:
            raise NeedsRun(f"inputs.{name}: needs run {plan.hash} of {shown} first", hint=f"repro run {shown}")
        self._needed[recipe.path] = prepared
        return plan.hash


def _check_notebook(recipe: Recipe, lock: Lock) -> None:
    """Raises RecipeError when the entry script is a notebook and the lock has nothing to execute it with."""
    if is_notebook(recipe.estimator.entry_script):
        from repro_est.recipe.check import notebook_problem

        problem = notebook_problem(recipe, lock)
        if problem is not None:
            raise RecipeError((problem,))


def take_snapshot(recipe: Recipe, project: Project, store: Store) -> Snapshot:
    """Copies the source directory into the store, without the files that only tell `repro` what to do."""
    return snapshot(
        recipe.estimator.source_directory,
        store,
        exclude=left_out(recipe, project),
        max_bytes=project.max_snapshot_bytes,
        max_files=project.max_snapshot_files,
    )


def source_listing(recipe: Recipe, project: Project) -> Listing:
    """Says what a snapshot would hold and leave out."""
    return list_source(recipe.estimator.source_directory, exclude=left_out(recipe, project))


def left_out(recipe: Recipe, project: Project) -> tuple[Path, ...]:
    """The files that only tell `repro` what to do, and the store: never part of a snapshot."""
    told = [
        path for item in recipe.with_needed for path in (*item.files, item.lock_path, item.conda_lock_path)
    ]  # those of what it needs too, so that only what that run wrote counts
    return (*told, project.root / CONFIG_NAME, project.store)


def locked(recipe: Recipe, store: Store, observer: Observer, *, relock: bool = False) -> Lock:
    """Returns the recipe's lock, made now when there is none.

    Raises:
        LockError: the lock is there and does not satisfy the recipe, and `relock` was not asked for.
    """
    path = recipe.lock_path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return write_lock(recipe, None, store, observer)
    lock = loads(data, path)
    reasons = unsatisfied(recipe, lock)
    if not reasons:
        return lock
    if not relock:
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise LockError(
            f"{path}: does not satisfy {recipe.path.name}\n{listed}",
            hint=f"repro lock {recipe.path}   (or `--relock` to do it as part of the run)"
            if recipe.files
            else "relock=True makes it anew",  # said in Python, in no file
        )
    return write_lock(recipe, lock, store, observer)


def write_lock(
    recipe: Recipe,
    previous: Lock | None,
    store: Store,
    observer: Observer,
    *,
    update: tuple[str, ...] = (),
    as_of: str | None = None,
    conda: Path | None = None,
) -> Lock:
    """Resolves the recipe and writes its lock.

    Args:
        previous: the lock so far; its versions are kept where they still fit.
        update: packages to bring up to date.
        as_of: nothing newer than this date is taken.
        conda: a conda program that solves conda packages in place of rattler.
    """
    from repro_est.images.pin import pinned_image
    from repro_est.lock.resolve import resolve
    from repro_est.targets.stage import lock_url_inputs

    observer.event("locking", recipe=str(recipe.path))
    started = time.monotonic()
    image = pinned_image(recipe, previous.image if previous else None, observer, update=update)
    lock = resolve(
        recipe,
        previous=previous,
        update=update,
        as_of=as_of,
        conda=conda,
        image=image,
        on_warning=lambda message: observer.event("warning", message=message),
    )
    lock = lock_url_inputs(recipe, lock, store)
    data = dumps(lock)
    if lock.conda is not None and recipe.environment.conda_lock_file is None:
        write_atomic(recipe.conda_lock_path, lock.conda.text.encode())
    if not recipe.lock_path.exists() or recipe.lock_path.read_bytes() != data:
        write_atomic(recipe.lock_path, data)
    observer.event(
        "locked",
        lock=str(recipe.lock_path),
        packages=len(lock.packages) + len({item.name for item in lock.conda.packages} if lock.conda else ()),
        python=lock.python,
        seconds=time.monotonic() - started,
    )
    return lock


def hit(plan: Plan, store: Store, observer: Observer) -> Result | None:
    """Returns the accepted result of this plan, if it is there, whole, and has what the recipe requires."""
    runs = Runs(store.layout)
    result = runs.hit(plan.hash, on_quarantine=lambda reason: observer.event("quarantined", reason=reason))
    if result is None or not plan.recorded.required:
        return result
    missing = missing_outputs(plan.recorded.required, store.read_tree(result.outputs))
    if missing:
        observer.event(
            "warning", message=f"run {plan.hash[:12]}: has no {', '.join(missing)}, which the recipe requires"
        )
        return None
    return result


@dataclass(frozen=True, slots=True)
class Hit:
    """A run that is there already, in the store or in a remote.

    Args:
        where: `store`, or the name of the remote.
        attempt: of the store; None when it is elsewhere.
    """

    where: str
    finished: str
    metrics: Mapping[str, float | str]
    attempt: int | None = None
    signer: str = ""


def look(plan: Plan, store: Store, observer: Observer, project: Project) -> Hit | None:
    """Says where `run` would find this plan, fetching no file."""
    result = hit(plan, store, observer)
    if result is not None:
        return Hit("store", result.finished, result.metrics, result.attempt)
    if not project.remotes:
        return None
    from repro_est.share.fetch import fetch_tree
    from repro_est.share.remotes import Remotes

    remotes = Remotes(project, store, observer)
    try:
        found = remotes.look(plan)
        if found is None or missing_outputs(plan.recorded.required, fetch_tree(found, "outputs", store)):
            return None
        said, signer = found.statement, found.statement.signer
        return Hit(found.spec.name, said.finished, said.metrics, signer=signer.name if signer else "")
    finally:
        remotes.close()


def run(
    plan: Plan,
    store: Store,
    observer: Observer,
    project: Project,
    *,
    force: bool = False,
    commit: bool = True,
    source_directory: Path | None = None,
    wishes: Wishes | None = None,
    attach: bool = False,
) -> Finished:
    """Returns the run of `plan`: the one that is there, the one its hosts have, or a new one.

    Args:
        force: execute even when there is a result; the new one is accepted in its place.
        commit: False keeps the attempt but accepts no result (`--no-cache`).
        source_directory: where git facts are read, when the plan was made from a working tree.
        wishes: hosts, and whether to leave when it has started (`launch.wishes`).
        attach: an attempt that is at its hosts comes before a result that is here.

    Raises:
        Detached: it goes on at its hosts.
        ScriptFailed: the script failed; the attempt and its partial outputs are kept.
        Interrupted: cancelled; likewise.
        ReproError: an environment, an input or the store failed.
    """
    if not attach and not force and commit and (result := hit(plan, store, observer)):
        return _finished(plan, result, store, cached=True)
    import dataclasses

    from repro_est.attempt import resume_attempt
    from repro_est.launch.wishes import Wishes
    from repro_est.store.leases import Leases

    waited, wishes = False, dataclasses.replace(wishes or Wishes(), commit=commit)

    def on_wait(owner: object) -> None:
        nonlocal waited
        waited = True
        observer.event("waiting", owner=str(owner), run_hash=plan.hash)

    with Leases(store.layout).hold(f"run-{plan.hash}", on_wait=on_wait), _shared(project, store, observer) as remotes:
        there = Runs(store.layout).at_hosts(plan.hash)
        # Whoever held the lease may just have finished this very run: then it is ours too, --force or not.
        wanted = commit and (waited or not force) and (not attach or there is None)
        if wanted and (result := hit(plan, store, observer)):
            return _finished(plan, result, store, cached=True)
        if wanted and there is None and (result := _fetched(plan, store, observer, remotes)):
            return _finished(plan, result, store, cached=True, asked=True)
        if there is not None:  # it was left running: the same hash is never computed twice
            result, commit = resume_attempt(plan, store, observer, there, wishes=wishes)
            return _told(_finished(plan, result, store, cached=False, register=commit), remotes if commit else None)
        with _single_flight(plan, remotes if wanted else None) as held:
            if held and (result := _fetched(plan, store, observer, remotes)):  # made while we waited
                return _finished(plan, result, store, cached=True, asked=True)
            result = _performed(
                plan, store, observer, project, commit=commit, source_directory=source_directory, wishes=wishes
            )
            return _told(_finished(plan, result, store, cached=False, register=commit), remotes if commit else None)


def _told(finished: Finished, remotes: Remotes | None) -> Finished:
    """Tells the remotes of a new run."""
    if remotes is not None:
        remotes.push_after_success(finished.plan.hash)
    return finished


def _single_flight(plan: Plan, remotes: Remotes | None) -> contextlib.AbstractContextManager[bool]:
    """Waits until nobody else executes the run; gives whether somebody may have."""
    return contextlib.nullcontext(False) if remotes is None else remotes.single_flight(plan.hash)


@contextlib.contextmanager
def _shared(project: Project, store: Store, observer: Observer) -> Iterator[Remotes | None]:
    """The remotes of the project, None when it has none."""
    if not project.remotes:
        yield None
        return
    from repro_est.share.remotes import Remotes

    remotes = Remotes(project, store, observer)
    try:
        yield remotes
    finally:
        remotes.close()


def _fetched(plan: Plan, store: Store, observer: Observer, remotes: Remotes | None) -> Result | None:
    """Returns the run from a remote, if one has it, it can be believed, and it has what the recipe requires."""
    if remotes is None or remotes.fetch(plan.hash, plan) is None:
        return None
    return hit(plan, store, observer)


def cancel(run: RunHash, store: Store, observer: Observer) -> bool:
    """Ends a run, wherever it is, and keeps what it has written; False when it had ended before.

    Raises:
        UsageError: it is not running, or is executed by a process that is not ours to end.
    """
    runs = Runs(store.layout)
    if runs.is_executed(run):
        _interrupt(run, store)
        return True
    if runs.at_hosts(run) is None:
        raise UsageError(f"run {run[:12]}: is not running", hint="repro ps")
    try:
        _cancel_at_hosts(plan_of(run, store), store, observer)
    except Interrupted as done:
        observer.event("message", message=done.message)
        return True
    return False


def _interrupt(run: RunHash, store: Store) -> None:
    """Has the client that executes a run end it, as Ctrl-C there would."""
    import signal
    import socket

    from repro_est.store.leases import Leases

    leases, name = Leases(store.layout), f"run-{run}"
    owner = leases.owner(name)
    if owner.host != socket.gethostname() or owner.pid == os.getpid():
        raise UsageError(
            f"run {run[:12]}: is executed by {owner}, on another machine", hint=f"repro cancel {run[:12]}   there"
        )
    try:
        os.kill(owner.pid, signal.SIGINT)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise UsageError(f"run {run[:12]}: is executed by {owner}, which is not yours to end") from None
    until = time.monotonic() + _CANCEL_SECONDS
    while leases.is_held(name):
        if time.monotonic() > until:
            raise InfrastructureError(f"run {run[:12]}: {owner} does not end it", hint=f"kill {owner.pid}")
        time.sleep(0.05)


def _cancel_at_hosts(plan: Plan, store: Store, observer: Observer) -> None:
    from repro_est.attempt import resume_attempt
    from repro_est.launch.wishes import Wishes
    from repro_est.store.leases import Leases

    with Leases(store.layout).hold(f"run-{plan.hash}", timeout=_CANCEL_SECONDS):
        there = Runs(store.layout).at_hosts(plan.hash)
        if there is not None:  # else somebody was faster
            resume_attempt(plan, store, observer, there, wishes=Wishes(), cancel=True)


def forget(run: RunHash, store: Store) -> None:
    """Takes a run at hosts for lost, whatever they do: they are gone for good.

    Raises:
        UsageError: no attempt of it is at hosts.
    """
    from repro_est.launch.handle import remove_handle
    from repro_est.store.leases import Leases
    from repro_est.store.sweep import settle

    with Leases(store.layout).hold(f"run-{run}", timeout=_CANCEL_SECONDS):
        there = Runs(store.layout).at_hosts(run)
        if there is None:
            raise UsageError(f"run {run[:12]}: is not at any hosts", hint="repro ps")
        remove_handle(store.layout.attempt(run, there))
        settle(store.layout, run, [there])


def _performed(
    plan: Plan,
    store: Store,
    observer: Observer,
    project: Project,
    *,
    commit: bool,
    source_directory: Path | None,
    wishes: Wishes,
) -> Result:
    """Executes a plan; again, if a host or the network failed and the recipe allows it."""
    from repro_est.attempt import perform_attempt
    from repro_est.hosts.host import HostError

    for left in reversed(range(plan.recorded.retries + 1)):
        try:
            return perform_attempt(
                plan, store, observer, project, commit=commit, source_directory=source_directory, wishes=wishes
            )
        except (HostsFailed, HostError) as error:
            if not left:
                raise
            observer.event("retrying", left=left, reason=error.message)
    raise AssertionError("unreachable")


def plan_of(run: RunHash, store: Store) -> Plan:
    """Returns the plan that was stored with a run.

    Raises:
        VerificationError: there is none, or it is not the plan of that hash.
    """
    content = Runs(store.layout).plan(run)
    return load_plan(content, run)


def _finished(
    plan: Plan, result: Result, store: Store, *, cached: bool, register: bool = True, asked: bool = False
) -> Finished:
    """Returns a run that has ended well, its models registered.

    Args:
        asked: it is new here, though not executed: what its script asked to register is registered too.
    """
    directory = store.layout.run(plan.hash)
    models: list[Model] = []
    if register:
        models += [_register(plan.hash, store, item.path, item.name, _labels(item)) for item in plan.recorded.models]
    if register and (asked or not cached):  # else what the script asked for was registered when it had ended
        wanted = read_run(str(directory / LOGS)).models
        models += [_register(plan.hash, store, item["path"], item["name"], _asked_labels(item)) for item in wanted]
    return Finished(plan, result, directory, cached, tuple(models))


def _register(run: RunHash, store: Store, path: str, name: str, labels: Labels) -> Model:
    """Registers an output; the same bytes are the same version, so a hit adds nothing."""
    try:
        return register_output(store, run, path, name, labels)
    except InputError as error:
        raise VerificationError(f"models.{name}: {error.message}") from None


def _labels(model: PlannedModel) -> Labels:
    return Labels(model.description, model.tags)


def _asked_labels(model: Mapping[str, Any]) -> Labels:
    """What a script says of a model with `run.register_model`."""
    return Labels(
        model["description"],
        model["tags"],
        model["properties"],
        model["framework"] or "",
        model["framework_version"] or "",
    )

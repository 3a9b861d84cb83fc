"""The story: recipe, lock, snapshot, plan; then the run that has this hash already, or one execution of it.

    recipe = load(recipe.toml)                 strict; all errors at once
    lock   = locked(recipe)                    offline while the lock satisfies the recipe
    tree   = snapshot(source_directory)        copied as it is hashed; the working tree is never read again
    plan   = make_plan(recipe, lock, tree, inputs)
    result = hit(plan.hash), or execute: lease, environment, stage, launch, collect, commit

Everything a person sees goes through an `Observer`; nothing here prints.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from repro_est.digest import RunHash, canonical, sha256_hex
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import Interrupted, LockError, ReproError, ScriptFailed, VerificationError
from repro_est.files import write_atomic
from repro_est.inputs import pin_inputs
from repro_est.lock.lockfile import dumps, loads
from repro_est.lock.satisfy import unsatisfied
from repro_est.lock.values import Lock
from repro_est.outputs import missing_outputs
from repro_est.plan import Plan, load_plan, make_plan
from repro_est.platforms import current_platform
from repro_est.project import CONFIG_NAME, Project
from repro_est.recipe.values import Recipe
from repro_est.snapshot import Listing, Snapshot, list_source, snapshot
from repro_est.store.models import Model, Models
from repro_est.store.runs import AttemptRecord, Result, Runs, Status
from repro_est.store.store import Store

if TYPE_CHECKING:
    from repro_est.environment.prefix import Prefix
    from repro_est.launch.process import Launch, Outcome
    from repro_est.targets.collect import Collected
    from repro_est.targets.stage import Workplace


class Observer(Protocol):
    """Whoever wants to know what happens: the terminal, a JSON stream, a test."""

    def event(self, kind: str, **facts: Any) -> None:
        """Something happened; `kind` is one of the words documented in docs/events.md."""

    def output(self, stream: str, data: bytes) -> None:
        """The script wrote `data` to `stdout` or `stderr`."""


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
    """A plan and the things of the recipe that the plan does not carry."""

    plan: Plan
    recipe: Recipe
    snapshot: Snapshot
    lock: Lock = field(repr=False)


def prepare(
    recipe: Recipe,
    project: Project,
    store: Store,
    observer: Observer,
    *,
    relock: bool = False,
    as_of: str | None = None,
) -> Prepared:
    """Pins everything the recipe depends on and returns its plan.

    Args:
        relock: make the lock anew where it no longer satisfies the recipe.

    Raises:
        LockError: the lock is stale, or cannot be made.
        SourceError, InputError: the source or an input cannot be pinned.
    """
    lock = locked(recipe, store, observer, relock=relock, as_of=as_of)
    source = take_snapshot(recipe, project, store)
    for warning in source.warnings:
        observer.event("warning", message=warning)
    inputs = pin_inputs(recipe.inputs, lock, store, Runs(store.layout))
    plan = make_plan(
        recipe,
        environment=environment_document(lock, current_platform()),
        source=source.hash,
        inputs=inputs,
        lock=dumps(lock).decode(),
    )
    observer.event("planned", run_hash=plan.hash, name=recipe.name, source=source.hash)
    return Prepared(plan, recipe, source, lock)


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
    return (*recipe.files, recipe.lock_path, project.root / CONFIG_NAME, project.store)


def locked(recipe: Recipe, store: Store, observer: Observer, *, relock: bool = False, as_of: str | None = None) -> Lock:
    """Returns the recipe's lock, made now when there is none.

    Raises:
        LockError: the lock is there and does not satisfy the recipe, and `relock` was not asked for.
    """
    path = recipe.lock_path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return write_lock(recipe, None, store, observer, as_of=as_of)
    lock = loads(data, path)
    reasons = unsatisfied(recipe, lock)
    if not reasons:
        return lock
    if not relock:
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise LockError(
            f"{path}: does not satisfy {recipe.path.name}\n{listed}",
            hint=f"repro lock {recipe.path}   (or `--relock` to do it as part of the run)",
        )
    return write_lock(recipe, lock, store, observer, as_of=as_of)


def write_lock(
    recipe: Recipe,
    previous: Lock | None,
    store: Store,
    observer: Observer,
    *,
    update: tuple[str, ...] = (),
    as_of: str | None = None,
) -> Lock:
    """Resolves the recipe and writes its lock.

    Args:
        previous: the lock so far; its versions are kept where they still fit.
        update: packages to bring up to date.
        as_of: nothing newer than this date is taken.
    """
    from repro_est.lock.resolve import resolve
    from repro_est.targets.stage import lock_url_inputs

    observer.event("locking", recipe=str(recipe.path))
    started = time.monotonic()
    lock = resolve(recipe, previous=previous, update=update, as_of=as_of)
    lock = lock_url_inputs(recipe, lock, store)
    data = dumps(lock)
    if not recipe.lock_path.exists() or recipe.lock_path.read_bytes() != data:
        write_atomic(recipe.lock_path, data)
    observer.event(
        "locked",
        lock=str(recipe.lock_path),
        packages=len(lock.packages),
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


def run(
    plan: Plan,
    store: Store,
    observer: Observer,
    *,
    force: bool = False,
    commit: bool = True,
    source_directory: Path | None = None,
) -> Finished:
    """Returns the run of `plan`: the one that is there, or a new one.

    Args:
        force: execute even when there is a result; the new one is accepted in its place.
        commit: False keeps the attempt but accepts no result (`--no-cache`).
        source_directory: where git facts are read, when the plan was made from a working tree.

    Raises:
        ScriptFailed: the script failed; the attempt and its partial outputs are kept.
        Interrupted: cancelled; likewise.
        ReproError: an environment, an input or the store failed.
    """
    if not force and commit and (result := hit(plan, store, observer)):
        return _finished(plan, result, store, cached=True)
    from repro_est.store.leases import Leases

    waited = False

    def on_wait(owner: object) -> None:
        nonlocal waited
        waited = True
        observer.event("waiting", owner=str(owner), run_hash=plan.hash)

    with Leases(store.layout).hold(f"run-{plan.hash}", on_wait=on_wait):
        # Whoever held the lease may just have finished this very run: then it is ours too, --force or not.
        if commit and (waited or not force) and (result := hit(plan, store, observer)):
            return _finished(plan, result, store, cached=True)
        result = _attempt(plan, store, observer, commit=commit, source_directory=source_directory)
    return _finished(plan, result, store, cached=False, register=commit)


def plan_of(run: RunHash, store: Store) -> Plan:
    """Returns the plan that was stored with a run.

    Raises:
        VerificationError: there is none, or it is not the plan of that hash.
    """
    content = Runs(store.layout).plan(run)
    return load_plan(content, run)


def _finished(plan: Plan, result: Result, store: Store, *, cached: bool, register: bool = True) -> Finished:
    directory = store.layout.run(plan.hash)
    models = tuple(_registered(plan, result, store)) if register and plan.recorded.models else ()
    return Finished(plan, result, directory, cached, models)


def _registered(plan: Plan, result: Result, store: Store) -> Iterator[Model]:
    """Registers the recipe's models; the same bytes are the same version, so a hit adds nothing."""
    registry = Models(store.layout)
    outputs = store.read_tree(result.outputs)
    for request in plan.recorded.models:
        tree = outputs.below(request.path.removeprefix("outputs/"))
        if tree is None:
            raise VerificationError(f"models.{request.name}: {request.path} is not among the run's outputs")
        store.write_tree(tree)
        yield registry.register(
            Model(
                request.name, 0, plan.hash, request.path, tree.hash, result.finished, request.description, request.tags
            )
        )


def _attempt(plan: Plan, store: Store, observer: Observer, *, commit: bool, source_directory: Path | None) -> Result:
    """Executes the plan once and accepts the result if every promise was kept."""
    from repro_est.launch.process import secret_values
    from repro_est.store.scratch import claimed_directory
    from repro_est.targets.facts import machine_facts

    secrets = secret_values(plan.secrets)
    runs = Runs(store.layout)
    runs.write_plan(plan.hash, plan.to_json())
    number, directory = runs.begin(plan.hash)
    recorder = _Recorder(plan, runs, number, facts={"machine": machine_facts(), **_source_facts(source_directory)})
    recorder.write(Status.RUNNING)
    observer.event("attempt", run_hash=plan.hash, number=number, directory=str(directory))
    with claimed_directory(store.layout, "work") as work, recorder.failing():
        return _Execution(plan, store, observer, recorder, secrets, work, directory).perform(commit=commit)


class _Execution:
    """One attempt on its way through the phases; each phase is one method."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        observer: Observer,
        recorder: _Recorder,
        secrets: Mapping[str, str],
        work: Path,
        directory: Path,
    ) -> None:
        self.plan, self.store, self.observer, self.recorder = plan, store, observer, recorder
        self.secrets, self.work, self.directory = secrets, work, directory

    def perform(self, *, commit: bool) -> Result:
        from repro_est.environment.prefix import realise
        from repro_est.launch.process import run_process
        from repro_est.targets.collect import collect
        from repro_est.targets.local import require
        from repro_est.targets.stage import stage

        plan, store, recorder = self.plan, self.store, self.recorder
        with recorder.phase("environment"):
            require(use_gpu=plan.use_gpu)
            lock = loads(plan.recorded.lock.encode(), Path(f"the lock of run {plan.hash[:12]}"))
            prefix = realise(lock, store, self.observer)
            recorder.add_fact("interpreter", dict(prefix.interpreter))
        with recorder.phase("stage"):
            place = stage(plan, store, self.work)
        with recorder.phase("run"):
            self.observer.event("running", entry_script=plan.entry_script, work=str(place.source))
            outcome = run_process(self._launch(prefix, place), on_output=self.observer.output)
            recorder.outcome(outcome)
        with recorder.phase("collect"):
            collected = collect(plan, store, place, self.directory, secrets=self.secrets)
            recorder.collected(collected)
        failure = self._failure(outcome, collected, lock)
        if failure:
            raise failure
        for warning in collected.warnings:
            self.observer.event("warning", message=warning)
        result = Result(
            run_hash=plan.hash,
            attempt=recorder.number,
            outputs=collected.outputs.hash,
            logs=collected.logs.hash,
            metrics=collected.metrics,
            finished=now(),
            environment=environment_key(plan.environment),
            plan_sha256=sha256_hex(canonical(plan.document)),
            platform=current_platform(),
        )
        recorder.write(Status.COMPLETED)
        if commit:
            Runs(store.layout).commit(plan.hash, result)
        return result

    def _launch(self, prefix: Prefix, place: Workplace) -> Launch:
        from repro_est.launch.process import Launch, closed_environment

        plan = self.plan
        environment = closed_environment(
            prefix=prefix.path,
            home=place.home,
            temporary=place.temporary,
            use_gpu=plan.use_gpu,
            declared=plan.environment_variables,
            secrets=self.secrets,
            facts={
                "REPRO_RUN": plan.hash,
                "REPRO_OUTPUTS": str(place.outputs),
                "REPRO_LOGS": str(place.logs),
                **{f"REPRO_INPUT_{name}": path for name, path in place.input_paths.items()},
            },
        )
        return Launch(
            command=(str(prefix.python), plan.entry_script, *plan.command_words(place.input_paths)),
            cwd=place.source,
            environment=environment,
            log_directory=self.directory / "logs" / "rank-0",
            timeout_seconds=plan.recorded.timeout_seconds,
            read_only=place.read_only,
            secrets=tuple(self.secrets.values()),
        )

    def _failure(self, outcome: Outcome, collected: Collected, lock: Lock) -> ReproError | None:
        """Returns what a person should read when the attempt is no success, else None."""
        from repro_est.launch.diagnosis import report

        recorder, logs = self.recorder, self.directory / "logs"
        if outcome.canceled:
            recorder.verdict(Status.CANCELED, "cancelled")
            return Interrupted(f"run {self.plan.hash[:12]}: cancelled", hint=f"repro logs {self.plan.hash[:12]}")
        if not outcome.succeeded:
            recorder.verdict(Status.TIMED_OUT if outcome.timed_out else Status.FAILED, outcome.words)
            text, hint = report(outcome, logs, timeout_seconds=self.plan.recorded.timeout_seconds)
            return ScriptFailed(f"run {self.plan.hash[:12]}, attempt {recorder.number}: {text}", hint=hint)
        if collected.problems:
            listed = "\n".join(f"  {problem}" for problem in collected.problems)
            recorder.verdict(Status.FAILED, "; ".join(collected.problems))
            return ScriptFailed(
                f"run {self.plan.hash[:12]}, attempt {recorder.number}: the script ended with 0, but\n{listed}",
                hint=f"partial outputs are kept in {self.directory / 'outputs'}",
            )
        return None


class _Recorder:
    """Keeps `attempt.json` true while an attempt goes through its phases."""

    def __init__(self, plan: Plan, runs: Runs, number: int, *, facts: dict[str, Any]) -> None:
        self.number = number
        self._plan, self._runs, self._facts = plan, runs, facts
        self._started, self._seconds = now(), dict[str, float]()
        self._phase, self._status, self._reason = "environment", Status.FAILED, ""
        self._exit_code: int | None = None
        self._signal: str | None = None
        self._outputs, self._logs = "", ""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase and remembers it as the one that failed if it does."""
        self._phase = name
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = round(time.monotonic() - started, 4)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Writes the record of an attempt that ended in any error."""
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if not self._reason:
                self._status = Status.CANCELED if interrupted else Status.FAILED
                self._reason = "cancelled" if interrupted else getattr(error, "message", None) or repr(error)
            with contextlib.suppress(OSError, ReproError):  # the first error is the one to tell
                self.write(self._status)
            raise

    def verdict(self, status: Status, reason: str) -> None:
        self._status, self._reason = status, reason

    def add_fact(self, name: str, value: Any) -> None:
        self._facts[name] = value

    def outcome(self, outcome: Outcome) -> None:
        self._exit_code, self._signal = outcome.exit_code, outcome.signal
        self._facts["process"] = outcome.facts()

    def collected(self, collected: Collected) -> None:
        self._outputs, self._logs = collected.outputs.hash, collected.logs.hash

    def write(self, status: Status) -> None:
        record = AttemptRecord(
            number=self.number,
            status=status,
            started=self._started,
            finished="" if status is Status.RUNNING else now(),
            exit_code=self._exit_code,
            signal=self._signal,
            phase=self._phase,
            reason=self._reason,
            outputs=self._outputs,
            logs=self._logs,
            facts=self._facts,
            seconds=self._seconds,
        )
        self._runs.write_attempt(self._plan.hash, record)


def now() -> str:
    """Returns the time as RFC 3339, UTC, to the millisecond."""
    import datetime

    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _source_facts(source_directory: Path | None) -> dict[str, Any]:
    if source_directory is None:
        return {}
    from repro_est.git import facts

    found = facts(source_directory)
    return {"git": found.to_json()} if found else {}

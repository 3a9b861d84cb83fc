"""One attempt on its way through the phases: environment, stage, run, collect, and then accepted or not.

`attempt.json` says at every moment how far it is; whatever ends it, the record says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from repro_est.console import counted, human_size
from repro_est.digest import canonical, sha256_hex
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import (
    Detached,
    HostsFailed,
    Interrupted,
    LostContact,
    NotCollected,
    ReproError,
    ScriptFailed,
    TimedOut,
    VerificationError,
)
from repro_est.files import remove_tree
from repro_est.git import facts
from repro_est.inside.history import History
from repro_est.launch.diagnosis import report
from repro_est.launch.handle import read_handle
from repro_est.launch.job import Job
from repro_est.launch.jobs import open_job, resumed_job, target_of
from repro_est.launch.process import Outcome, secret_values
from repro_est.launch.wishes import Wishes
from repro_est.lock.lockfile import loads
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.platforms import current_platform
from repro_est.project import Project
from repro_est.store.chain import moment
from repro_est.store.guard import writing
from repro_est.store.layout import LIVE
from repro_est.store.notes import PROPERTY, TAG, write_notes
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.sweep import settle
from repro_est.store.trees import Tree
from repro_est.targets.collect import Collected, collect
from repro_est.targets.facts import machine_facts

_RESERVE = "reserve"
_RESERVE_BYTES = 256 << 10
"""Space that is set free when the script has ended, so that a disk it filled has room for the story."""


def perform_attempt(
    plan: Plan,
    store: Store,
    observer: Observer,
    project: Project,
    *,
    commit: bool,
    source_directory: Path | None,
    wishes: Wishes,
) -> Result:
    """Executes the plan once and accepts the result if every promise was kept.

    Args:
        commit: False accepts nothing; the attempt stays.
        source_directory: where git facts are read, or None.

    Raises:
        ScriptFailed, Interrupted, ReproError: the attempt is no success; its record says why.
        Detached: it goes on at its hosts.
    """
    target_of(plan.recorded.target, project, store)  # a name that means nothing is no attempt
    secrets = secret_values(plan.secrets)
    runs = Runs(store.layout)
    runs.write_plan(plan.hash, plan.to_json())
    settle(store.layout, plan.hash, runs.numbers(plan.hash))  # we hold the lease: whoever was there before is dead
    number, directory = runs.begin(plan.hash)
    known = {"target": plan.recorded.target, "machine": machine_facts(), **_source_facts(source_directory, secrets)}
    recorder = _Recorder(plan, runs, number, facts=known)
    recorder.write(Status.RUNNING)
    observer.event("attempt", run_hash=plan.hash, number=number, directory=str(directory))

    def make(work: Path) -> Job:
        lock = _lock(plan)
        return open_job(plan, lock, store, observer, project, secrets, wishes, attempt=directory, work=work)

    return _Execution(plan, store, observer, recorder, secrets, directory).perform(make, commit=commit)


def resume_attempt(
    plan: Plan, store: Store, observer: Observer, number: int, *, wishes: Wishes, cancel: bool = False
) -> tuple[Result, bool]:
    """Goes on with an attempt that is at its hosts, to its end; returns its result, and whether that is accepted.

    Args:
        cancel: ends it.

    Raises: as `perform_attempt`.
    """
    runs = Runs(store.layout)
    directory = store.layout.attempt(plan.hash, number)
    handle = read_handle(directory)
    if handle is None:
        raise VerificationError(f"run {plan.hash[:12]}: attempt {number} does not say where it is")
    before = next(record for record in runs.recorded(plan.hash) if record.number == number)
    recorder = _Recorder(plan, runs, number, facts=dict(before.facts), before=before)
    observer.event("attached", run_hash=plan.hash, number=number, hosts=[item.spec.name for item in handle.members])
    secrets = {name: os.environ[name] for name in plan.secrets if os.environ.get(name)}  # logs are masked at the hosts

    def make(work: Path) -> Job:
        return resumed_job(plan, handle, observer, wishes, attempt=directory, work=work, cancel=cancel)

    execution = _Execution(plan, store, observer, recorder, secrets, directory)
    return execution.perform(make, commit=handle.commit), handle.commit


class _Execution:
    """One attempt on its way through the phases."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        observer: Observer,
        recorder: _Recorder,
        secrets: Mapping[str, str],
        directory: Path,
    ) -> None:
        self.plan, self.store, self.observer, self.recorder = plan, store, observer, recorder
        self.secrets, self.directory = secrets, directory

    def perform(self, make: Callable[[Path], Job], *, commit: bool) -> Result:
        """Takes a job through the phases.

        Args:
            make: returns it; gets a directory for what lives as long as this process.
        """
        # The record of a failure is written when the space of the work directory is free again.
        with self.recorder.failing(), claimed_directory(self.store.layout, "work") as work:
            self.work = work
            with writing(work):
                (work / _RESERVE).write_bytes(os.urandom(_RESERVE_BYTES))
            with self.recorder.phase("environment"):
                job = make(work)
            abandon = True
            try:
                result = self._perform(job, commit=commit)
                abandon = False
                return result
            except (Detached, LostContact, NotCollected, _Settled) as stop:
                abandon = False
                if isinstance(stop, _Settled):
                    raise stop.error from None
                raise
            finally:
                job.close(abandon=abandon)

    def _perform(self, job: Job, *, commit: bool) -> Result:
        plan, store, recorder = self.plan, self.store, self.recorder
        with recorder.phase("environment"):
            job.prepare()
            for name, value in job.facts().items():
                recorder.add_fact(name, value)
        with recorder.phase("stage"):
            job.stage()
        with recorder.phase("run"):
            outcome = job.run()
            for name, value in job.facts().items():
                recorder.add_fact(name, value)
            recorder.outcome(outcome)
        with recorder.phase("collect"):
            collected = self._collect(job, outcome)
        failure = self._failure(outcome, collected)
        if failure:
            recorder.settle()
            job.release()
            raise _Settled(failure)
        for warning in collected.warnings:
            self.observer.event("warning", message=warning)
        result = Result(
            run_hash=plan.hash,
            attempt=recorder.number,
            outputs=collected.outputs.hash,
            logs=collected.logs.hash,
            metrics=collected.metrics,
            finished=moment(),
            environment=environment_key(plan.environment),
            plan_sha256=sha256_hex(canonical(plan.document)),
            platform=current_platform(),
        )
        recorder.write(Status.COMPLETED)
        if commit:
            Runs(store.layout).commit(plan.hash, result)
        job.release()
        return result

    def _collect(self, job: Job, outcome: Outcome) -> Collected:
        """Takes what there is into the store; a script that failed has failed for its own reason, kept or not."""
        (self.work / _RESERVE).unlink(missing_ok=True)
        remove_tree(self.directory / LIVE)  # what somebody looked at meanwhile
        try:
            place, problems = job.gather()
            collected = collect(self.plan, self.store, place, self.directory, secrets=self.secrets)
            collected = dataclasses.replace(collected, problems=(*problems, *collected.problems))
        except (OSError, ReproError, KeyboardInterrupt) as error:
            why = error.message if isinstance(error, ReproError) else str(error) or "interrupted"
            if outcome.succeeded and job.survives:
                raise NotCollected(
                    f"run {self.plan.hash[:12]}: has completed at its hosts, and could not be brought here: {why}",
                    hint=f"mend that, then: repro attach {self.plan.hash[:12]}",
                ) from None
            if outcome.succeeded or isinstance(error, KeyboardInterrupt):
                raise
            self.observer.event("warning", message=f"partial outputs could not be kept: {why}")
            return Collected(Tree.of(()), Tree.of(()), {}, (), ())
        self.recorder.collected(collected)
        self._keep_notes(collected.history)
        return collected

    def _keep_notes(self, history: History) -> None:
        """Keeps the tags and properties the script gave its run."""
        notes = [(TAG, key, value) for key, value in history.tags.items()]
        notes += [(PROPERTY, key, value) for key, value in history.properties.items()]
        try:
            write_notes(self.store.layout, self.plan.hash, notes)
        except ReproError as error:  # an attempt before this one had set a property to something else
            self.observer.event("warning", message=error.message)

    def _failure(self, outcome: Outcome, collected: Collected) -> ReproError | None:
        """Returns what a person should read when the attempt is no success, else None."""
        recorder, logs, kept = self.recorder, self.directory / "logs", self._kept(collected)
        if outcome.canceled:
            recorder.verdict(Status.CANCELED, "cancelled", phase="run")
            return Interrupted(f"run {self.plan.hash[:12]}: cancelled{kept}", hint=f"repro logs {self.plan.hash[:12]}")
        if not outcome.succeeded:
            error = _ERRORS.get(outcome.cause, TimedOut if outcome.timed_out else ScriptFailed)
            recorder.verdict(Status(error.status), outcome.words, phase="run")
            text, hint = report(outcome, logs, timeout_seconds=self.plan.recorded.timeout_seconds)
            return error(f"run {self.plan.hash[:12]}, attempt {recorder.number}: {text}{kept}", hint=hint)
        if collected.history.end == ("canceled", None):
            recorder.verdict(Status.CANCELED, "the script cancelled its run", phase="run")
            return Interrupted(f"run {self.plan.hash[:12]}: the script cancelled it{kept}", hint=None)
        if collected.problems:
            listed = "\n".join(f"  {problem}" for problem in collected.problems)
            recorder.verdict(Status.FAILED, "; ".join(collected.problems), phase="collect")
            return ScriptFailed(
                f"run {self.plan.hash[:12]}, attempt {recorder.number}: the script ended with 0, but\n{listed}{kept}",
                hint=f"repro show {self.plan.hash[:12]}",
            )
        return None

    def _kept(self, collected: Collected) -> str:
        """Returns a line on what a failed attempt left, `""` when it left nothing."""
        count = len(list(collected.outputs.files()))
        if not count:
            return ""
        size = human_size(collected.outputs.size)
        return f"\npartial outputs: {counted(count, 'file')}, {size}, kept in {self.directory / 'outputs'}"


class _Settled(Exception):
    """An attempt whose end is known and written down: what is left is to say so."""

    def __init__(self, error: ReproError) -> None:
        super().__init__(error.message)
        self.error = error


_ERRORS: Mapping[str, type[ReproError]] = {
    "host_lost": HostsFailed,
    "launcher_failed": HostsFailed,
    "not_started": HostsFailed,
    "disagreement": VerificationError,
}
"""What a run on hosts that was not ended by its script is for a person (`hostside.verdicts`)."""


def _lock(plan: Plan) -> Lock:
    """Returns the recorded lock.

    Raises:
        VerificationError: it is not the environment that was hashed: a plan from disk may have been edited.
    """
    recorded = plan.recorded
    path = Path(f"the lock of run {plan.hash[:12]}")
    lock = loads(recorded.lock.encode(), path, lambda _: recorded.conda_lock.encode())
    document = environment_document(lock, current_platform())
    if document != plan.environment:
        raise VerificationError(
            f"run {plan.hash[:12]}: its lock is not the environment that was hashed\n"
            f"  expected {environment_key(plan.environment)}, got {environment_key(document)}",
            hint="repro verify",
        )
    return lock


class _Recorder:
    """Keeps `attempt.json` true while an attempt goes through its phases."""

    def __init__(
        self, plan: Plan, runs: Runs, number: int, *, facts: dict[str, Any], before: AttemptRecord | None = None
    ) -> None:
        self.number = number
        self._plan, self._runs, self._facts = plan, runs, facts
        self._started = before.started if before else moment()
        self._seconds = dict(before.seconds) if before else dict[str, float]()
        self._phase, self._status, self._reason = before.phase if before else "environment", Status.FAILED, ""
        self._exit_code: int | None = None
        self._signal: str | None = None
        self._outputs, self._logs = "", ""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase and keeps it in the record, for whoever looks on, as the one that failed if it does."""
        if name != self._phase:
            self._phase = name
            with contextlib.suppress(OSError, ReproError):  # a record that is late costs no attempt
                self.write(Status.RUNNING)
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = round(self._seconds.get(name, 0.0) + time.monotonic() - started, 4)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Writes the record of an attempt that ended in any error."""
        try:
            yield
        except (Detached, LostContact, NotCollected):  # it goes on: the record stays that of an attempt that runs
            raise
        except BaseException as error:
            if not self._reason and self._runs.is_at_hosts(self._plan.hash, self.number):
                raise  # whoever attached to it failed, not the attempt
            interrupted = isinstance(error, KeyboardInterrupt)
            if not self._reason:
                self._status = Status.CANCELED if interrupted else Status.FAILED
                self._reason = "cancelled" if interrupted else getattr(error, "message", None) or repr(error)
            with contextlib.suppress(OSError, ReproError):  # the first error is the one to tell
                self.write(self._status)
            raise

    def settle(self) -> None:
        """Writes what `verdict` said, before what the hosts have of it is given up."""
        self.write(self._status)

    def verdict(self, status: Status, reason: str, *, phase: str) -> None:
        self._status, self._reason, self._phase = status, reason, phase

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
            finished="" if status is Status.RUNNING else moment(),
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


def _source_facts(source_directory: Path | None, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Git facts, with the values of secrets masked in the patch of what was not committed."""
    found = facts(source_directory) if source_directory is not None else None
    if found is None:
        return {}
    patch = found.patch
    for value in secrets.values():
        patch = patch.replace(value, "***")
    return {"git": {**found.to_json(), "patch": patch}}

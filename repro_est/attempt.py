"""One attempt on its way through the phases: environment, stage, run, collect, and then accepted or not.

`attempt.json` says at every moment how far it is; whatever ends it, the record says so.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro_est.console import counted, human_size
from repro_est.digest import canonical, sha256_hex
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import Interrupted, ReproError, ScriptFailed, TimedOut, VerificationError
from repro_est.git import facts
from repro_est.launch.diagnosis import report
from repro_est.launch.process import Outcome, secret_values
from repro_est.launch.runtime import open_runtime
from repro_est.lock.lockfile import loads
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.platforms import current_platform
from repro_est.project import Project
from repro_est.store.guard import writing
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.sweep import settle
from repro_est.store.trees import Tree
from repro_est.targets.collect import Collected, collect
from repro_est.targets.facts import machine_facts
from repro_est.targets.stage import Workplace, stage

_RESERVE = "reserve"
_RESERVE_BYTES = 256 << 10
"""Space that is set free when the script has ended, so that a disk it filled has room for the story."""


def perform_attempt(
    plan: Plan, store: Store, observer: Observer, project: Project, *, commit: bool, source_directory: Path | None
) -> Result:
    """Executes the plan once and accepts the result if every promise was kept.

    Args:
        commit: False accepts nothing; the attempt stays.
        source_directory: where git facts are read, or None.

    Raises:
        ScriptFailed, Interrupted, ReproError: the attempt is no success; its record says why.
    """
    secrets = secret_values(plan.secrets)
    runs = Runs(store.layout)
    runs.write_plan(plan.hash, plan.to_json())
    settle(store.layout, plan.hash, runs.numbers(plan.hash))  # we hold the lease: whoever was there before is dead
    number, directory = runs.begin(plan.hash)
    known = {"target": plan.recorded.target, "machine": machine_facts(), **_source_facts(source_directory, secrets)}
    recorder = _Recorder(plan, runs, number, facts=known)
    recorder.write(Status.RUNNING)
    observer.event("attempt", run_hash=plan.hash, number=number, directory=str(directory))
    with recorder.failing(), claimed_directory(store.layout, "work") as work:  # the record once the space is free again
        with writing(work):
            (work / _RESERVE).write_bytes(os.urandom(_RESERVE_BYTES))
        execution = _Execution(plan, store, observer, recorder, secrets, work, directory, project)
        return execution.perform(commit=commit)


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
        project: Project,
    ) -> None:
        self.project = project
        self.plan, self.store, self.observer, self.recorder = plan, store, observer, recorder
        self.secrets, self.work, self.directory = secrets, work, directory

    def perform(self, *, commit: bool) -> Result:
        plan, store, recorder = self.plan, self.store, self.recorder
        with recorder.phase("environment"):
            lock = self._lock()
            self._check_environment(lock)
            runtime = open_runtime(plan, lock, store, self.observer, self.project)
            for name, value in runtime.facts().items():
                recorder.add_fact(name, value)
        with recorder.phase("stage"):
            place = stage(plan, store, self.work)
        with recorder.phase("run"):
            self.observer.event("running", entry_script=plan.entry_script, work=str(place.source))
            logs = self.directory / "logs" / "rank-0"
            outcome = runtime.run(place, logs, self.secrets, self.observer.output)
            recorder.outcome(outcome)
        with recorder.phase("collect"):
            collected = self._collect(place, outcome)
        failure = self._failure(outcome, collected)
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

    def _lock(self) -> Lock:
        recorded = self.plan.recorded
        path = Path(f"the lock of run {self.plan.hash[:12]}")
        return loads(recorded.lock.encode(), path, lambda _: recorded.conda_lock.encode())

    def _check_environment(self, lock: Lock) -> None:
        """The recorded lock must be the hashed environment: a plan from disk may have been edited, or be another's."""
        document = environment_document(lock, current_platform())
        if document != self.plan.environment:
            raise VerificationError(
                f"run {self.plan.hash[:12]}: its lock is not the environment that was hashed\n"
                f"  expected {environment_key(self.plan.environment)}, got {environment_key(document)}",
                hint="repro verify",
            )

    def _collect(self, place: Workplace, outcome: Outcome) -> Collected:
        """Takes what there is into the store; a script that failed has failed for its own reason, kept or not."""
        (self.work / _RESERVE).unlink(missing_ok=True)
        try:
            collected = collect(self.plan, self.store, place, self.directory, secrets=self.secrets)
        except (OSError, ReproError) as error:
            if outcome.succeeded:
                raise
            why = error.message if isinstance(error, ReproError) else str(error)
            self.observer.event("warning", message=f"partial outputs could not be kept: {why}")
            return Collected(Tree.of(()), Tree.of(()), {}, (), ())
        self.recorder.collected(collected)
        return collected

    def _failure(self, outcome: Outcome, collected: Collected) -> ReproError | None:
        """Returns what a person should read when the attempt is no success, else None."""
        recorder, logs, kept = self.recorder, self.directory / "logs", self._kept(collected)
        if outcome.canceled:
            recorder.verdict(Status.CANCELED, "cancelled", phase="run")
            return Interrupted(f"run {self.plan.hash[:12]}: cancelled{kept}", hint=f"repro logs {self.plan.hash[:12]}")
        if not outcome.succeeded:
            error = TimedOut if outcome.timed_out else ScriptFailed
            recorder.verdict(Status(error.status), outcome.words, phase="run")
            text, hint = report(outcome, logs, timeout_seconds=self.plan.recorded.timeout_seconds)
            return error(f"run {self.plan.hash[:12]}, attempt {recorder.number}: {text}{kept}", hint=hint)
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
        """Times a phase and keeps it in the record, for whoever looks on, as the one that failed if it does."""
        if name != self._phase:
            self._phase = name
            with contextlib.suppress(OSError, ReproError):  # a record that is late costs no attempt
                self.write(Status.RUNNING)
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


def _source_facts(source_directory: Path | None, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Git facts, with the values of secrets masked in the patch of what was not committed."""
    found = facts(source_directory) if source_directory is not None else None
    if found is None:
        return {}
    patch = found.patch
    for value in secrets.values():
        patch = patch.replace(value, "***")
    return {"git": {**found.to_json(), "patch": patch}}

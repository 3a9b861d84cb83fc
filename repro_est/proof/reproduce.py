"""Executing a run again to see whether the same comes out. The new attempt is kept, and never accepted."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable

from repro_est.digest import RunHash
from repro_est.errors import ScriptFailed, UsageError, VerificationError
from repro_est.plan import Plan
from repro_est.proof.compare import compare
from repro_est.proof.machines import facts_of
from repro_est.proof.verdicts import Side, Verdict, write_verdict
from repro_est.recipe.reproducible import Determinism, Reproducible
from repro_est.store.leases import user_name
from repro_est.store.records import AttemptRecord, Result
from repro_est.store.runs import Runs
from repro_est.store.store import Store


def promise_of(plan: Plan, wanted: Determinism | None = None, said: Reproducible | None = None) -> Reproducible:
    """Returns what executing a plan again is held against.

    Args:
        wanted: a class other than that of the recipe; its tolerances count for `tolerance` only.
        said: what the recipe says by now; the run keeps what it said when it was first asked for.

    Raises:
        UsageError: the recipe promises nothing, and nobody asks for more.
    """
    promise = plan.recorded.reproducible if said is None else said
    if wanted is None and promise.kind is Determinism.NONE:
        raise UsageError(
            f'run {plan.hash[:12]}: its recipe says class = "none", so executing it again has to give nothing',
            hint=f"repro check {plan.hash[:12]} --class bitwise",
        )
    if wanted is None or wanted is promise.kind:
        return promise
    if wanted is Determinism.TOLERANCE:
        return dataclasses.replace(promise, kind=wanted)
    return Reproducible(wanted, ignore=promise.ignore)


def accepted(run: RunHash, store: Store) -> Result:
    """Returns the result that others are compared with, whole.

    Raises:
        UsageError: there is none.
        VerificationError: it was changed, and is set aside.
    """
    runs, reasons = Runs(store.layout), list[str]()
    if runs.result(run) is None:
        raise UsageError(f"run {run[:12]}: has no result to compare with", hint=f"repro run {run[:12]}")
    result = runs.hit(run, on_quarantine=reasons.append)
    if result is None:
        raise VerificationError(f"run {run[:12]}: {'; '.join(reasons)}", hint=f"repro run {run[:12]}")
    return result


def reproduce(plan: Plan, promise: Reproducible, store: Store, execute: Callable[[Plan], Result]) -> Verdict:
    """Executes a plan again, compares, and keeps the verdict with the run.

    Args:
        execute: does so, and accepts no result.

    Raises:
        UsageError: there is no result to compare with.
        ScriptFailed: the script failed this time; that is kept as a verdict too.
        ReproError: it could not be executed, so nothing can be said.
    """
    expected = accepted(plan.hash, store)
    before = side_of(plan.hash, expected.attempt, store)
    try:
        result = execute(plan)
    except ScriptFailed as error:
        last = Runs(store.layout).attempts(plan.hash)[-1]
        failed = Verdict(plan.hash, promise, before, _of(last), *who_and_when(), failure=error.message.splitlines()[0])
        write_verdict(store.layout, failed)
        raise
    comparison = compare(expected, result, promise, store, metrics_file=plan.recorded.metrics)
    after = side_of(plan.hash, result.attempt, store)
    verdict = Verdict(plan.hash, promise, before, after, *who_and_when(), comparison)
    write_verdict(store.layout, verdict)
    return verdict


def side_of(run: RunHash, number: int, store: Store) -> Side:
    """Returns an attempt of this store as one side of a verdict."""
    record = next((item for item in Runs(store.layout).recorded(run) if item.number == number), None)
    return _of(record) if record else Side(number, "", "")


def _of(record: AttemptRecord) -> Side:
    return Side(record.number, record.outputs, record.finished, facts_of(record.facts))


def who_and_when() -> tuple[str, str]:
    """Returns who asks, and the time."""
    return user_name(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

"""What others have made of the same plan, held against what this store has.

A claim is a statement in a remote that somebody who is trusted has signed (`share`). Its manifest is compared by
SHA-256; only files that differ are fetched, each checked, to say how they differ. A claim about the execution that this
store has is no second opinion, and is not counted as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.proof.compare import compare_outputs, differing_files
from repro_est.proof.machines import facts_of
from repro_est.proof.reproduce import accepted, side_of, who_and_when
from repro_est.proof.verdicts import Side, Verdict, write_verdict
from repro_est.recipe.reproducible import Reproducible
from repro_est.store.records import AttemptRecord
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree

if TYPE_CHECKING:
    from repro_est.share.remotes import Remotes

Take = Callable[[Tree], None]
"""Brings the files of a part of the outputs into the store, checked."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says a plan gives.

    Args:
        source: where it is and who has signed it, in words.
        record: of the attempt.
        outputs: with a SHA-256 for each file.
    """

    source: str
    record: AttemptRecord
    outputs: Tree
    metrics: Mapping[str, float]
    take: Take

    def is_of(self, record: AttemptRecord) -> bool:
        """Whether it is about the same execution."""
        return (self.record.started, self.record.finished) == (record.started, record.finished)


def challenge(plan: Plan, claims: Iterator[Claim], promise: Reproducible, store: Store) -> list[Verdict]:
    """Compares the result of this store with each claim about another execution, and keeps the verdicts.

    Raises:
        UsageError: this store has no result.
        VerificationError, RemoteError: a file is not what was signed, or cannot be had.
    """
    expected = accepted(plan.hash, store)
    mine = store.read_tree(expected.outputs)
    own = side_of(plan.hash, expected.attempt, store)
    records = {item.number: item for item in Runs(store.layout).recorded(plan.hash)}
    verdicts: list[Verdict] = []
    for claim in claims:
        if expected.attempt in records and claim.is_of(records[expected.attempt]):
            continue
        wanted = [entry for entry in differing_files(mine, claim.outputs, promise) if not store.has_blob(entry)]
        if wanted:
            claim.take(Tree.of(wanted))
        comparison = compare_outputs(
            mine,
            claim.outputs,
            promise,
            store,
            metrics=(expected.metrics, claim.metrics),
            metrics_file=plan.recorded.metrics,
        )
        theirs = Side(0, claim.outputs.hash, claim.record.finished, facts_of(claim.record.facts), claim.source)
        verdict = Verdict(plan.hash, promise, own, theirs, *who_and_when(), comparison)
        write_verdict(store.layout, verdict)
        verdicts.append(verdict)
    return verdicts


def claims_of(plan: Plan, remotes: Remotes, store: Store, observer: Observer) -> Iterator[Claim]:
    """Yields what is said of a plan in the remotes of the project and can be believed.

    An entry that cannot be is told to the observer with the reason; a builder is heard once.
    """
    from repro_est.errors import RemoteError, VerificationError
    from repro_est.share.fetch import fetch_files, fetch_tree

    heard: set[str] = set()
    for found in remotes.find(plan.hash):
        statement = found.statement
        if statement.sha256 in heard:
            continue
        heard.add(statement.sha256)
        who = statement.signer.name if statement.signer else statement.builder
        try:
            outputs = fetch_tree(found, "outputs", store)
        except (VerificationError, RemoteError) as error:
            observer.event("warning", message=f"remote {found.spec.name}, signed by {who}: {error.message}")
            continue

        def take(part: Tree, found: Any = found, outputs: Tree = outputs) -> None:
            fetch_files(found, outputs, part, store, observer)

        record = AttemptRecord.from_json(dict(statement.attempt))
        metrics = statement.result(record.number).metrics
        yield Claim(f"remote {found.spec.name}, signed by {who}", record, outputs, metrics, take)

"""What executing a run again gave: `runs/<hash>/verdicts.jsonl`, a line of canonical JSON (RFC 8785) for each time.

    {"format": 1, "run_hash", "who", "when",
     "promise": {"class", "metrics", "files", "ignore"}    what it was held against
     "reproduced": true,                                   never said without a class and two machines
     "failure": "",                                        why it did not get to its end, else empty
     "expected": {"attempt", "outputs", "finished", "facts", "source"?}, "got": the same    facts: machine, image, ...
     "compared", "ignored": [path], "files": [...], "metrics": [...]}             as `proof.compare` says it

Appended to, never rewritten; a torn last line is skipped. It identifies nothing, and travels nowhere by itself.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repro_est.console import counted
from repro_est.digest import RunHash, canonical
from repro_est.errors import ReproError
from repro_est.proof.compare import Comparison
from repro_est.proof.machines import differing_facts, machine_in_words
from repro_est.recipe.reproducible import Determinism, Reproducible
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

VERDICT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two executions.

    Args:
        attempt: its number in this store.
        outputs: tree, `""` for none.
        finished: when.
        source: who has it, where that is not this store: `remote team, signed by ada`.
        facts: of the attempt: machine, hosts, image, interpreter.
    """

    attempt: int
    outputs: str
    finished: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "outputs": self.outputs,
            "finished": self.finished,
            **({"source": self.source} if self.source else {}),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of executing a run again.

    Args:
        promise: what its recipe says may be expected.
        comparison: None when there was nothing to compare.
        failure: why, in words; `""` when there was.
    """

    run_hash: RunHash
    promise: Reproducible
    expected: Side
    got: Side
    who: str
    when: str
    comparison: Comparison | None = None
    failure: str = ""

    @property
    def reproduced(self) -> bool:
        return self.promise.kind is not Determinism.NONE and self.comparison is not None and self.comparison.holds

    def to_json(self) -> dict[str, Any]:
        found = self.comparison
        return {
            "format": VERDICT_FORMAT,
            "run_hash": self.run_hash,
            "who": self.who,
            "when": self.when,
            "promise": self.promise.to_json(),
            "reproduced": self.reproduced,
            "failure": self.failure,
            "expected": self.expected.to_json(),
            "got": self.got.to_json(),
            "compared": found.compared if found else 0,
            "ignored": list(found.ignored) if found else [],
            "files": [item.to_json() for item in found.files] if found else [],
            "metrics": [item.to_json() for item in found.metrics] if found else [],
        }


def write_verdict(layout: Layout, verdict: Verdict) -> None:
    """Adds a verdict to its run."""
    path = layout.verdicts(verdict.run_hash)
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + canonical(verdict.to_json()) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_verdicts(layout: Layout, run: RunHash) -> list[dict[str, Any]]:
    """Returns the verdicts on a run, the oldest first; a line that is none is skipped."""
    try:
        lines = layout.verdicts(run).read_bytes().splitlines()
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            content = json.loads(line)
            if content["format"] == VERDICT_FORMAT and content["run_hash"] == run and in_words(content):
                found.append(content)
        except (ValueError, KeyError, TypeError, AttributeError, ReproError):
            continue
    return found


def in_words(verdict: Mapping[str, Any]) -> str:
    """Returns a verdict in one line: outcome, class, and the two machines."""
    kind = verdict["promise"]["class"]
    if verdict["failure"]:
        outcome = "not reproduced, it failed"
    elif verdict["reproduced"]:
        outcome = "reproduced"
    else:
        outside = [item for item in (*verdict["files"], *verdict["metrics"]) if not item["tolerated"]]
        outcome = f"not reproduced, {len(outside)} of {counted(verdict['compared'], 'output')} and metrics differ"
    one, two = verdict["expected"]["facts"], verdict["got"]["facts"]
    machines = f"on {machine_in_words(one)}"
    if differing_facts(one, two) or machine_in_words(one) != machine_in_words(two):
        machines += f", then on {machine_in_words(two)}"
    else:
        machines += ", twice"
    if source := verdict["got"].get("source"):
        machines += f"  ({source})"
    return f"{outcome}, {kind}  {machines}  {verdict['when']}"

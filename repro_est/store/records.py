"""The records of a run as values, and reading them: `plan.json`, `attempt.json`, `result.json`.

This module owns the formats; `runs` writes them in the order that makes them trustworthy, `index` lists them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash, TreeHash, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.store.layout import HANDLE, Layout

RESULT_FORMAT = 1
ATTEMPT_FORMAT = 1
_OPTIONAL = (str, type(None))
_ATTEMPT_TYPES: Mapping[str, Any] = {
    "number": int,
    "status": str,
    "started": str,
    "finished": str,
    "exit_code": (int, type(None)),
    "signal": _OPTIONAL,
    "phase": str,
    "reason": str,
    "outputs": str,
    "logs": str,
    "facts": dict,
    "seconds": dict,
}
_RESULT_TYPES: Mapping[str, Any] = {
    "run_hash": str,
    "attempt": int,
    "outputs": str,
    "logs": str,
    "metrics": dict,
    "finished": str,
    "environment": str,
    "plan_sha256": str,
    "platform": str,
}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Status(StrEnum):
    """The state of an attempt.

    RUNNING becomes exactly one of the others. COMPLETED: every promise was kept. FAILED: the script or a phase before
    it failed. TIMED_OUT: it took longer than it may. CANCELED: the user said so. LOST: the process that executed it
    died without a word; found out later. DETACHED is what RUNNING is called while its hosts own it and nobody here
    listens: it goes on, or has ended there and waits to be collected; it is never written down.
    """

    RUNNING = "running"
    DETACHED = "detached"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    LOST = "lost"

    @property
    def is_terminal(self) -> bool:
        return self not in (Status.RUNNING, Status.DETACHED)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One execution.

    Args:
        started, finished: RFC 3339, UTC; `finished` is `""` while it runs.
        signal: name of the signal that ended the script, `SIGKILL`, or None.
        phase: where it is, or failed: environment, stage, run or collect.
        reason: why it is not a success, in words.
        outputs, logs: trees of what was kept, `""` when nothing was.
        facts: recorded only: machine, process, git.
        seconds: time of each phase.
    """

    number: int
    status: Status
    started: str
    finished: str = ""
    exit_code: int | None = None
    signal: str | None = None
    phase: str = ""
    reason: str = ""
    outputs: str = ""
    logs: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def lost(self) -> AttemptRecord:
        """Returns this attempt as one whose process is gone."""
        return replace(self, status=Status.LOST, reason="the process that executed it died")

    def detached(self) -> AttemptRecord:
        """Returns this attempt as one that is at its hosts."""
        return replace(self, status=Status.DETACHED, reason="at its hosts; nobody here listens")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": ATTEMPT_FORMAT,
            "number": self.number,
            "status": self.status.value,
            "started": self.started,
            "finished": self.finished,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "phase": self.phase,
            "reason": self.reason,
            "outputs": self.outputs,
            "logs": self.logs,
            "facts": dict(self.facts),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> AttemptRecord:
        """Raises KeyError, TypeError or ValueError when it is not an attempt."""
        fields = _typed(content, ATTEMPT_FORMAT, _ATTEMPT_TYPES)
        return cls(**{**fields, "status": Status(fields["status"])})


@dataclass(frozen=True, slots=True)
class Result:
    """The commit record.

    Args:
        attempt: the accepted one.
        outputs, logs: trees.
        metrics: NaN and infinities allowed; the file spells them as strings.
        environment: key of the environment.
        plan_sha256: SHA-256 of the plan's canonical bytes, for whoever signs.

    The file also holds the XXH3-128 of all the rest of it, so that a number that was changed in it is noticed; one
    that was written before there was such a digest is taken as it is.
    """

    run_hash: RunHash
    attempt: int
    outputs: TreeHash
    logs: TreeHash
    metrics: Mapping[str, float]
    finished: str
    environment: str
    plan_sha256: str
    platform: str

    def to_json(self) -> dict[str, Any]:
        content = {
            "format": RESULT_FORMAT,
            "run_hash": self.run_hash,
            "attempt": self.attempt,
            "outputs": self.outputs,
            "logs": self.logs,
            "metrics": self.metrics_to_json(self.metrics),
            "finished": self.finished,
            "environment": self.environment,
            "plan_sha256": self.plan_sha256,
            "platform": self.platform,
        }
        return {**content, "xxh3": xxh3_hex(encode(content))}

    @staticmethod
    def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
        """Spells NaN and infinities as strings, which JSON has no numbers for."""
        return {name: value if math.isfinite(value) else _spelled(value) for name, value in metrics.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """Raises KeyError, TypeError or ValueError when it is not a result."""
        rest = {name: value for name, value in content.items() if name != "xxh3"}
        if "xxh3" in content and content["xxh3"] != xxh3_hex(encode(rest)):
            raise ValueError("it was changed, its digest is another one")
        fields = _typed(rest, RESULT_FORMAT, _RESULT_TYPES)
        for name in ("outputs", "logs"):
            if not re.fullmatch("[0-9a-f]{32}", fields[name]):
                raise ValueError(f"{name}: got {fields[name]!r}, expected the hash of a tree")
        metrics = {name: float(_SPECIAL.get(value, value)) for name, value in fields.pop("metrics").items()}
        return cls(metrics=metrics, **fields)


class Records:
    """Reads the records of one store's runs."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def plan(self, run: RunHash) -> dict[str, Any]:
        """Returns the content of `plan.json`.

        Raises:
            VerificationError: missing, or not JSON.
        """
        return _decode(self._layout.plan(run))

    def result(self, run: RunHash) -> Result | None:
        """Returns the accepted result, None when there is none.

        Raises:
            VerificationError: `result.json` is not a result of this run.
        """
        path = self._layout.result(run)
        if not path.exists():
            return None
        try:
            result = Result.from_json(_decode(path))
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationError(f"{path}: not a result: {error!r}", hint="repro verify --repair") from None
        if result.run_hash != run:
            raise VerificationError(f"{path}: is the result of run {result.run_hash}", hint="repro verify --repair")
        return result

    def attempts(self, run: RunHash) -> list[AttemptRecord]:
        """Returns the attempts of a run that have a record, oldest first.

        One that runs, but nobody executes here, is DETACHED if it is at hosts, else LOST.

        Whoever executes a run holds its lease until its attempt is settled. So an attempt that ran before the lease was
        seen free, and does so still, has nobody.
        """
        before = self.recorded(run)
        running = {item.number for item in before if not item.status.is_terminal}
        if not running or self.is_executed(run):
            return before
        return [
            self._unattended(run, item) if item.number in running and not item.status.is_terminal else item
            for item in self.recorded(run)
        ]

    def is_at_hosts(self, run: RunHash, number: int) -> bool:
        """Whether hosts own an attempt, which then survives whoever started it."""
        return (self._layout.attempt(run, number) / HANDLE).exists()

    def at_hosts(self, run: RunHash) -> int | None:
        """Returns the last attempt that is at hosts and not settled, None when there is none."""
        found = [
            item.number
            for item in self.recorded(run)
            if not item.status.is_terminal and self.is_at_hosts(run, item.number)
        ]
        return found[-1] if found else None

    def _unattended(self, run: RunHash, record: AttemptRecord) -> AttemptRecord:
        return record.detached() if self.is_at_hosts(run, record.number) else record.lost()

    def is_executed(self, run: RunHash) -> bool:
        """Whether some process executes the run now."""
        from repro_est.store.leases import Leases  # 5 ms, and a hit asks for none

        return Leases(self._layout).is_held(f"run-{run}")

    def recorded(self, run: RunHash) -> list[AttemptRecord]:
        """Returns the attempts of a run as their records say, oldest first."""
        found: list[AttemptRecord] = []
        for number in self.numbers(run):
            path = self._layout.attempt(run, number) / "attempt.json"
            try:
                found.append(AttemptRecord.from_json(_decode(path)))
            except (VerificationError, KeyError, TypeError, ValueError):
                continue  # an attempt that died before its first record
        return found

    def numbers(self, run: RunHash) -> list[int]:
        """Returns the attempts that were claimed, with a record or without, oldest first."""
        try:
            return sorted(int(name) for name in os.listdir(self._layout.attempts(run)) if name.isdecimal())
        except (FileNotFoundError, NotADirectoryError):
            return []


def encode(content: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a record file; a name that is not UTF-8 becomes an escape of JSON, which reads back."""
    return (
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "backslashreplace"
        )
        + b"\n"
    )


def _decode(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise VerificationError(f"{path}: missing", hint="repro verify") from None
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path}: not JSON: {error}", hint="repro verify") from None
    if not isinstance(content, dict):
        raise VerificationError(f"{path}: got a {type(content).__name__}, expected an object", hint="repro verify")
    return content


def _typed(content: Mapping[str, Any], version: int, types: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record, each of the type it must have.

    Raises:
        ValueError: another format, a field that is missing, unknown or of another type.
    """
    fields = dict(content)
    if fields.pop("format", None) != version:
        raise ValueError("another format")
    if fields.keys() != types.keys():
        raise ValueError(f"got the fields {sorted(fields)}, expected {sorted(types)}")
    for name, expected in types.items():
        if not isinstance(fields[name], expected) or isinstance(fields[name], bool):
            raise ValueError(f"{name}: got {fields[name]!r}")
    return fields


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")

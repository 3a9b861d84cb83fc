"""Runs on disk: plans, attempts, and the commit record that makes an attempt a result.

The life of a run. Its plan is written first and never changes. Each execution claims the next number of
`attempts/` by mkdir and keeps its `attempt.json` true: RUNNING, then one of the terminal states. Only a complete
success is committed: `attempt.json`, the views, and `result.json` last, by rename. So a crash leaves no result or a
whole one, and `result.json` is the only thing that makes a hit.

A result that turns out not to be whole is never served: `quarantine` sets `result.json` aside with the reason, the
attempts stay, and the run is executed again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash, TreeHash
from repro_est.errors import ReproError, UsageError, VerificationError
from repro_est.files import fsync_directory, write_atomic
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.store import Store

RESULT_FORMAT = 1
ATTEMPT_FORMAT = 1
_SHORTEST_PREFIX = 4
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Status(StrEnum):
    """The state of an attempt.

    RUNNING becomes exactly one of the others. COMPLETED: every promise was kept. FAILED: the script or a phase before
    it failed. TIMED_OUT: it took longer than it may. CANCELED: the user said so. LOST: the process that executed it
    died without a word; found out later.
    """

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    LOST = "lost"

    @property
    def is_terminal(self) -> bool:
        return self is not Status.RUNNING


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
        fields = dict(content)
        if fields.pop("format") != ATTEMPT_FORMAT:
            raise ValueError("another format")
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
        return {
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

    @staticmethod
    def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
        """Spells NaN and infinities as strings, which JSON has no numbers for."""
        return {name: value if math.isfinite(value) else _spelled(value) for name, value in metrics.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """Raises KeyError, TypeError or ValueError when it is not a result."""
        fields = dict(content)
        if fields.pop("format") != RESULT_FORMAT:
            raise ValueError("another format")
        metrics = {name: float(_SPECIAL.get(value, value)) for name, value in fields.pop("metrics").items()}
        return cls(metrics=metrics, **fields)


class Runs:
    """The runs of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._store = Store(layout)

    # ---- writing

    def write_plan(self, run: RunHash, content: Mapping[str, Any]) -> None:
        """Stores the plan of a run; a plan that is there stays."""
        path = self._layout.plan(run)
        if path.exists():
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _encode(content))

    def begin(self, run: RunHash) -> tuple[int, Path]:
        """Claims the next attempt; returns its number and its directory, which holds an empty `logs/`."""
        attempts = self._layout.attempts(run)
        with writing(attempts):
            attempts.mkdir(parents=True, exist_ok=True)
            number = max((int(name) for name in os.listdir(attempts) if name.isdecimal()), default=0) + 1
            while True:
                directory = self._layout.attempt(run, number)
                try:
                    directory.mkdir()
                    break
                except FileExistsError:
                    number += 1
            (directory / "logs").mkdir()
            fsync_directory(attempts)
        return number, directory

    def write_attempt(self, run: RunHash, record: AttemptRecord) -> None:
        """Replaces the record of an attempt, and tells the index."""
        path = self._layout.attempt(run, record.number) / "attempt.json"
        with writing(path):
            write_atomic(path, _encode(record.to_json()))
        self._index(run)

    def commit(self, run: RunHash, result: Result) -> None:
        """Accepts an attempt: the views first, `result.json` last."""
        directory = self._layout.run(run)
        with writing(directory):
            for name in ("outputs", "logs"):
                _replace_link(directory / name, f"attempts/{result.attempt}/{name}")
            fsync_directory(directory)
            write_atomic(self._layout.result(run), _encode(result.to_json()))
        self._index(run)

    def quarantine(self, run: RunHash, reason: str) -> None:
        """Sets a result aside; the run is then no hit, and its attempts stay."""
        place = self._layout.directory("quarantine") / f"{run}-{os.urandom(4).hex()}"
        with writing(place):
            place.mkdir(parents=True)
            write_atomic(place / "reason.json", _encode({"run": run, "reason": reason}))
            os.rename(self._layout.result(run), place / "result.json")
            fsync_directory(place)
        self._index(run)

    # ---- reading

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

    def hit(self, run: RunHash, *, on_quarantine: Callable[[str], None] | None = None) -> Result | None:
        """Returns the result if it is whole: every output is a blob of the right size. Reads no content.

        Args:
            on_quarantine: told why a result that is there could not be used; it was set aside.
        """
        try:
            result = self.result(run)
            if result is None:
                return None
            reason = self._defect(result)
        except (VerificationError, ReproError) as error:
            reason = error.message
        if reason is None:
            return result
        # Set aside by somebody else just now, or a store that cannot be written: no hit either way.
        with contextlib.suppress(FileNotFoundError, ReproError):
            self.quarantine(run, reason)
        if on_quarantine is not None:
            on_quarantine(reason)
        return None

    def attempts(self, run: RunHash) -> list[AttemptRecord]:
        """Returns the attempts of a run that have a record, oldest first."""
        try:
            numbers = sorted(int(name) for name in os.listdir(self._layout.attempts(run)) if name.isdecimal())
        except FileNotFoundError:
            return []
        found: list[AttemptRecord] = []
        for number in numbers:
            path = self._layout.attempt(run, number) / "attempt.json"
            try:
                found.append(AttemptRecord.from_json(_decode(path)))
            except (VerificationError, KeyError, TypeError, ValueError):
                continue  # an attempt that died before its first record
        return found

    def resolve(self, text: str) -> RunHash:
        """Returns the run a person means: a hash, a unique start of one, `@` the newest, `@2` the one before.

        Raises:
            UsageError: none or several; the candidates are named.
        """
        from repro_est.store.index import Index

        index = Index(self._layout)
        if text.startswith("@"):
            number = text[1:] or "1"
            if not number.isdecimal() or int(number) < 1:
                raise UsageError(f"{text}: got `{number}` after @, expected a number from 1", hint="repro ls")
            rows = index.rows(limit=int(number))
            if len(rows) < int(number):
                raise UsageError(f"{text}: there are only {len(rows)} runs", hint="repro run RECIPE")
            return rows[-1].run_hash
        if not re.fullmatch(r"[0-9a-f]{1,32}", text):
            raise UsageError(f"{text}: is no run, expected hex digits or `@`", hint="repro ls")
        if len(text) < _SHORTEST_PREFIX:
            raise UsageError(f"{text}: too short, expected at least {_SHORTEST_PREFIX} digits", hint="repro ls")
        found = index.starting_with(text, limit=6)
        if len(found) == 1:
            return found[0].run_hash
        if not found:
            raise UsageError(f"{text}: no run starts with it", hint="repro ls")
        listed = "\n".join(f"  {row.run_hash}  {row.name}  {row.started}" for row in found[:5])
        raise UsageError(f"{text}: several runs start with it\n{listed}", hint="give more digits")

    # ---- parts

    def _defect(self, result: Result) -> str | None:
        """Returns what is missing of a result, or None. One lstat for each file."""
        for tree in (result.outputs, result.logs):
            for entry in self._store.read_tree(tree).files():
                if not self._store.has_blob(entry):
                    return f"blob {entry.xxh3} of {entry.path} is missing or has another size"
        return None

    def _index(self, run: RunHash) -> None:
        from repro_est.store.index import Index

        Index(self._layout).update(run)


def _replace_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


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


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")

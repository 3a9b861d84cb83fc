"""Lineage: where the bytes a run was given came from, and where those it made went.

Upwards, the plans say it: each input has an origin, and one that is a run has inputs of its own. Downwards, the index
of the store knows which plan names which run (`store.index`), and the registry which models a run made. Every run is
read once, however many ways lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro_est.console import counted
from repro_est.digest import RunHash, sha256_hex
from repro_est.errors import ReproError
from repro_est.store.index import Index, Use
from repro_est.store.models import Model, Models
from repro_est.store.records import AttemptRecord
from repro_est.store.runs import Runs
from repro_est.store.store import Store

_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Source:
    """One input of a run.

    Args:
        input: its name.
        tree: its bytes.
        origin: as the plan has it, see `plan.PlannedInput`.
    """

    input: str
    tree: str
    origin: Mapping[str, Any]

    @property
    def run(self) -> RunHash | None:
        """The run that made it, None when no run did."""
        run = self.origin.get("run")
        return RunHash(run) if isinstance(run, str) and run else None

    def to_json(self) -> dict[str, Any]:
        return {"input": self.input, "tree": self.tree, "origin": dict(self.origin)}


@dataclass(frozen=True, slots=True)
class Maker:
    """A run of which something is an input.

    Args:
        status: `completed`, the state of its last attempt, `planned`, or `missing` when this store does not have it,
            `unreadable` when its plan makes no sense (`repro verify` says why).
        attempt: the accepted attempt, else the last one; 0 is none.
        started: when it began, RFC 3339, UTC.
        host: where it ran.
        python, platform: of its environment.
        packages: how many its lock has for that platform.
        lock: SHA-256 of the lock file's text.
        source: tree of its source.
        git: remote, branch, commit, dirty; empty without git.
    """

    run: RunHash
    name: str
    status: str
    recipe: str = ""
    attempt: int = 0
    started: str = ""
    host: str = ""
    python: str = ""
    platform: str = ""
    packages: int = 0
    lock: str = ""
    source: str = ""
    git: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Source, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "name": self.name,
            "status": self.status,
            "recipe": self.recipe,
            "attempt": self.attempt,
            "started": self.started,
            "host": self.host,
            "python": self.python,
            "platform": self.platform,
            "packages": self.packages,
            "lock_sha256": self.lock,
            "source": self.source,
            "git": dict(self.git),
            "inputs": [item.to_json() for item in self.inputs],
        }


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that leads to a run, and all that it led to.

    Args:
        makers: the run itself and every run above it, by hash.
        uses: inputs of other runs, further down too, that came from this run; the earliest first.
        models: what each of all these runs registered.
    """

    run: RunHash
    makers: Mapping[RunHash, Maker]
    uses: tuple[Use, ...]
    models: Mapping[RunHash, tuple[Model, ...]]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "runs": [maker.to_json() for maker in self.makers.values()],
            "used_by": [
                {
                    "run": use.user.run_hash,
                    "name": use.user.name,
                    "status": use.user.status.value,
                    "input": use.input,
                    "source": use.source,
                    "origin": dict(use.origin),
                }
                for use in self.uses
            ],
            "models": [
                {"model": model.name, "version": model.version, "run": run, "path": model.path}
                for run, models in self.models.items()
                for model in models
            ],
        }


def lineage(run: RunHash, store: Store) -> Lineage:
    """Returns what leads to a run, and what it led to."""
    found = makers([run], store)
    uses = tuple(Index(store.layout).users(run))
    wanted = {*found, *(use.user.run_hash for use in uses)}
    models: dict[RunHash, tuple[Model, ...]] = {}
    for model in Models(store.layout).all():
        if model.run in wanted:
            models[model.run] = (*models.get(model.run, ()), model)
    return Lineage(run, found, uses, models)


def makers(runs: Sequence[RunHash], store: Store) -> dict[RunHash, Maker]:
    """Returns these runs and every run above them, in the order in which they are met."""
    found: dict[RunHash, Maker] = {}
    waiting = list(reversed(runs))
    while waiting:
        run = waiting.pop()
        if run in found:
            continue
        found[run] = _maker(run, store)
        waiting += [item.run for item in reversed(found[run].inputs) if item.run is not None]
    return found


def in_words(origin: Mapping[str, Any]) -> str:
    """Returns where an input came from as one writes it in a recipe."""
    if "model" in origin:
        alias = f" (@{origin['alias']} then)" if origin.get("alias") else ""
        return f"model:{origin['model']}:{origin['version']}{alias}"
    if origin.get("run"):
        recipe = f" (recipe {origin['recipe']})" if origin.get("recipe") else ""
        return f"run:{str(origin['run'])[:12]}/{origin.get('path', '')}{recipe}"
    return str(origin.get("url") or origin.get("path") or "?")


def lines_above(run: RunHash, found: Mapping[RunHash, Maker], *, depth: int = 0) -> Iterator[str]:
    """Says what leads to a run, a line each, what is further up further in; a run is told in full once."""
    told: set[RunHash] = set()
    waiting: list[tuple[int, Source | RunHash]] = [(depth, run)]
    while waiting:
        level, item = waiting.pop()
        indent = _INDENT * level
        if isinstance(item, Source):
            yield f"{indent}{item.input}  {in_words(item.origin)}"
            if item.run is not None:
                waiting.append((level + 1, item.run))
            continue
        maker = found[item]
        if item in told:
            yield f"{indent}run {item[:12]}  {maker.name}  (above)"
            continue
        told.add(item)
        yield f"{indent}run {item[:12]}  {maker.name}  {maker.status}"
        for fact in _facts(maker):
            yield f"{indent}{_INDENT}{fact}"
        waiting += [(level + 1, source) for source in reversed(maker.inputs)]


def lines_below(found: Lineage) -> Iterator[str]:
    """Says what a run led to: models, and runs that used it, what is further down further in."""
    below: dict[RunHash, list[Use]] = {}
    for use in found.uses:
        below.setdefault(use.source, []).append(use)
    told: set[RunHash] = set()
    waiting: list[tuple[int, Use | RunHash]] = [(0, found.run)]
    while waiting:
        level, item = waiting.pop()
        indent = _INDENT * level
        if isinstance(item, Use):
            row = item.user
            again = "  (above)" if row.run_hash in told else ""
            yield (
                f"{indent}run {row.run_hash[:12]}  {row.name}  {row.status.value}"
                f"  as `{item.input}`, {in_words(item.origin)}{again}"
            )
            if not again:
                waiting.append((level + 1, row.run_hash))
            continue
        told.add(item)
        for model in found.models.get(item, ()):
            yield f"{indent}model {model.id}  {model.path}"
        waiting += [(level, use) for use in reversed(below.get(item, []))]


def _facts(maker: Maker) -> Iterator[str]:
    if maker.attempt:
        yield f"attempt {maker.attempt}  {maker.started}  on {maker.host or '?'}"
    if maker.recipe:
        yield f"recipe  {maker.recipe}"
    if maker.python:
        count = counted(maker.packages, "package")
        yield f"lock    Python {maker.python}, {count} for {maker.platform}, sha256 {maker.lock[:12]}"
    if maker.source:
        yield f"source  {maker.source[:12]}"
    if maker.git:
        dirty = ", with changes that were not committed" if maker.git.get("dirty") else ""
        place = " ".join(str(maker.git.get(name)) for name in ("remote", "branch") if maker.git.get(name))
        yield f"git     {str(maker.git.get('commit', ''))[:12]}{dirty}  {place}".rstrip()


def _maker(run: RunHash, store: Store) -> Maker:
    runs = Runs(store.layout)
    try:
        content = runs.plan(run)
        document, recorded = content["plan"], content["recorded"]
        environment, lock = document.get("environment", {}), recorded.get("lock", "")
        attempt, status = _attempt(run, runs)
        return Maker(
            run=run,
            name=recorded["name"],
            status=status,
            recipe=recorded.get("recipe", ""),
            attempt=attempt.number if attempt else 0,
            started=attempt.started if attempt else "",
            host=_host(attempt.facts) if attempt else "",
            python=environment.get("python", ""),
            platform=environment.get("platform", ""),
            packages=len(environment.get("packages", ())) + len(environment.get("conda", ())),
            lock=sha256_hex(lock.encode()) if lock else "",
            source=document.get("source", ""),
            git=_git(attempt.facts) if attempt else {},
            inputs=tuple(Source(item["name"], item["tree"], item["origin"]) for item in recorded.get("inputs", ())),
        )
    except (ReproError, KeyError, TypeError, AttributeError):
        return Maker(run, "?", "unreadable" if store.layout.plan(run).exists() else "missing")


def _attempt(run: RunHash, runs: Runs) -> tuple[AttemptRecord | None, str]:
    """Returns the attempt that made the result, else the last one, and the state of the run."""
    result, attempts = runs.result(run), runs.attempts(run)
    if result is not None:
        return next((item for item in attempts if item.number == result.attempt), None), "completed"
    return (attempts[-1], attempts[-1].status.value) if attempts else (None, "planned")


def _host(facts: Mapping[str, Any]) -> str:
    hosts, machine = facts.get("hosts"), facts.get("machine")
    if isinstance(hosts, list) and hosts:
        return ", ".join(str(host.get("host")) for host in hosts)
    return str(machine.get("hostname", "")) if isinstance(machine, dict) else ""


def _git(facts: Mapping[str, Any]) -> dict[str, Any]:
    git = facts.get("git")
    return {name: git.get(name) for name in ("remote", "branch", "commit", "dirty")} if isinstance(git, dict) else {}

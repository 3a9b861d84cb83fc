"""Show one run: status, metrics, outputs, attempts, and what identifies it.

repro show @
repro show 3f9c --json
repro show @ --identity       the hashed document, and what is only recorded
repro show @ --lineage        what led to it, and what it led to
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.cli.common import add_json, add_run, number, open_store, shown_path
from repro_est.console import Console, human_size, human_time, visible
from repro_est.digest import RunHash, TreeHash
from repro_est.explain import leaves
from repro_est.plan import Plan
from repro_est.proof.verdicts import in_words, read_verdicts
from repro_est.store.models import Models
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Tree


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--identity", action="store_true", help="every leaf that is hashed")
    parser.add_argument(
        "--lineage", action="store_true", help="the runs and models its inputs came from, and who used it"
    )
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.engine import plan_of

    console = Console()
    _, store = open_store()
    runs = Runs(store.layout)
    run = runs.resolve(arguments.run)
    if arguments.lineage:
        return _lineage(run, store, console, as_json=arguments.json)
    plan, result, attempts = plan_of(run, store), runs.result(run), runs.attempts(run)
    if arguments.json:
        console.json(_document(run, plan, result, attempts, store))
        return 0
    if arguments.identity:
        console.table(
            [[leaf, value] for leaf, value in sorted(leaves(plan.document).items())], header=("hashed", "value")
        )
        return 0
    _print(run, plan, result, attempts, store, console)
    return 0


def _lineage(run: RunHash, store: Store, console: Console, *, as_json: bool) -> int:
    from repro_est.lineage import lineage, lines_above, lines_below

    found = lineage(run, store)
    if as_json:
        console.json(found.to_json())
        return 0
    for line in lines_above(run, found.makers):
        console.out(visible(line))
    below = list(lines_below(found))
    if below:
        console.out("\nled to")
    for line in below:
        console.out(visible(f"  {line}"))
    return 0


def status_of(result: Result | None, attempts: list[AttemptRecord]) -> str:
    """Returns the state of a run: completed when a result was accepted, else that of the last attempt."""
    if result is not None:
        return "completed"
    return attempts[-1].status.value if attempts else "planned"


def _document(
    run: RunHash, plan: Plan, result: Result | None, attempts: list[AttemptRecord], store: Store
) -> dict[str, Any]:
    partial = _partial(run, attempts, store)
    return {
        "run_hash": run,
        "status": status_of(result, attempts),
        "name": plan.recorded.name,
        "metrics": Result.metrics_to_json(result.metrics) if result else {},
        "outputs": _files(store.read_tree(result.outputs)) if result else [],
        "outputs_path": str(store.layout.run(run) / "outputs") if result else None,
        "impurities": plan.impurities,
        "partial_outputs": _files(partial.tree) if partial else [],
        "partial_outputs_path": str(partial.path) if partial else None,
        "logs_path": str(_logs(run, result, attempts, store)),
        "result": result.to_json() if result else None,
        "models": [model.to_json() for model in Models(store.layout).all() if model.run == run],
        "attempts": [{**attempt.to_json(), "accepted": _is_accepted(attempt, result)} for attempt in attempts],
        "verdicts": read_verdicts(store.layout, run),
        "plan": plan.document,
        "recorded": plan.to_json()["recorded"],
    }


def _print(
    run: RunHash, plan: Plan, result: Result | None, attempts: list[AttemptRecord], store: Store, console: Console
) -> None:
    recorded = plan.recorded
    console.out(f"{console.style('run', 'bold', out=True)}      {run}  {status_of(result, attempts)}")
    console.out(f"recipe   {recorded.name}  ({recorded.recipe})")
    if recorded.description:
        console.out(f"about    {visible(recorded.description)}")
    if recorded.tags:
        console.out("tags     " + "  ".join(visible(f"{key}={value}") for key, value in recorded.tags.items()))
    for name, words in plan.impurities.items():
        console.out(f"impure   {name}: {words}")
    for name, value in (result.metrics if result else {}).items():
        console.out(f"metric   {visible(name)} = {number(value)}")
    if result:
        for entry in store.read_tree(result.outputs).entries:
            console.out(f"output   outputs/{visible(entry.path)}  {human_size(entry.size)}")
        console.out(f"outputs  {shown_path(store.layout.run(run) / 'outputs')}")
    if partial := _partial(run, attempts, store):
        for entry in partial.tree.entries:
            console.out(f"partial  outputs/{visible(entry.path)}  {human_size(entry.size)}")
        console.out(f"partial  {shown_path(partial.path)}  (attempt {attempts[-1].number}, no result)")
    for model in Models(store.layout).all():
        if model.run == run:
            console.out(f"model    {model.name} version {model.version}")
    for attempt in attempts:
        console.out(f"attempt  {_attempt_line(attempt, result)}")
    for verdict in read_verdicts(store.layout, run):
        console.out(f"checked  {visible(in_words(verdict))}")
    console.out(f"logs     {shown_path(_logs(run, result, attempts, store))}")
    console.out("")
    console.table(
        [[leaf, value] for leaf, value in sorted(leaves(plan.document).items()) if not leaf.startswith(_PACKAGES)],
        header=("hashed", "value"),
    )


_PACKAGES = ("environment.packages.", "environment.conda.", "environment.build.")
"""Leaves of which there are too many to show; `repro env show` lists them."""


class _Partial(NamedTuple):
    """What a failed attempt left, and where it can be looked at."""

    tree: Tree
    path: Path


def _partial(run: RunHash, attempts: list[AttemptRecord], store: Store) -> _Partial | None:
    """Returns what the last attempt left when it failed; None when that is nothing."""
    last = attempts[-1] if attempts else None
    if last is None or last.status is Status.COMPLETED or not last.outputs:
        return None
    tree = store.read_tree(TreeHash(last.outputs))
    return _Partial(tree, store.layout.attempt(run, last.number) / "outputs") if tree.entries else None


def _files(tree: Tree) -> list[dict[str, Any]]:
    return [
        {"path": f"outputs/{entry.path}", "size": entry.size, "xxh3": entry.xxh3, "sha256": entry.sha256}
        for entry in tree.files()
    ]


def _is_accepted(attempt: AttemptRecord, result: Result | None) -> bool:
    return result is not None and result.attempt == attempt.number


def _attempt_line(attempt: AttemptRecord, result: Result | None) -> str:
    took = human_time(sum(attempt.seconds.values()))
    machine, image = attempt.facts.get("machine", {}), attempt.facts.get("image", {})
    where = machine.get("hostname", "?") if isinstance(machine, dict) else "?"
    hosts = attempt.facts.get("hosts")
    if isinstance(hosts, list) and hosts:
        where = ", ".join(str(host.get("host")) for host in hosts)
    if isinstance(image, dict) and image:
        origin = "" if image.get("origin") == "built" else f" from {image.get('origin')}"
        where += f" in image {str(image.get('id')).removeprefix('sha256:')[:12]}{origin}"
    sandbox = attempt.facts.get("sandbox")
    if isinstance(sandbox, dict) and sandbox.get("kind") != "container":
        where += ", without a sandbox" if sandbox.get("kind") == "none" else ", in a sandbox"
    failure = f"  in phase {attempt.phase}: {attempt.reason}" if attempt.reason else ""
    status = attempt.status.value
    if attempt.status is Status.COMPLETED:
        status += ", accepted" if _is_accepted(attempt, result) else ", not accepted"
    return f"{attempt.number}  {status}  {attempt.started}  {took}  on {where}{failure}"


def _logs(run: RunHash, result: Result | None, attempts: list[AttemptRecord], store: Store) -> Path:
    if result is not None:
        return store.layout.run(run) / "logs"
    last = attempts[-1].number if attempts else 1
    return store.layout.attempt(run, last) / "logs"

"""Say what `repro run` would do, and why, without doing it.

Exit code 0: the run is there, in the store or a remote, and would be returned. 10: it would be executed.
A lock that is missing is made, since without it there is no hash. With `--json`, a plan that cannot be made is an
object with `error`, `hint` and `exit_code`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import TerminalObserver, add_json, add_recipe, metrics_line, open_store
from repro_est.console import Console
from repro_est.errors import ReproError

WOULD_RUN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--relock", action="store_true", help="make the lock anew when it no longer satisfies the recipe"
    )
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    try:
        return _plan(arguments, Console(quiet=arguments.json))
    except ReproError as error:
        if arguments.json:
            Console().json(error.to_json())
        raise


def _plan(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est import engine
    from repro_est.cli.why import difference_rows, explained
    from repro_est.environment.key import environment_key
    from repro_est.recipe.load import load

    project, store = open_store()
    observer = TerminalObserver(console)
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    plan = engine.prepare(recipe, project, store, observer, relock=arguments.relock).plan
    found = engine.look(plan, store, observer, project)
    if arguments.json:
        console.json(
            {
                "run_hash": plan.hash,
                "cached": found is not None,
                "cached_where": found.where if found else None,
                "environment": environment_key(plan.environment),
                "source": plan.source,
                "plan": plan.document,
            }
        )
        return 0 if found else WOULD_RUN
    if found:
        where = f"attempt {found.attempt}" if found.attempt else f"in remote {found.where}, signed by {found.signer}"
        console.out(f"run {plan.hash} is cached: {where}, finished {found.finished}")
        console.out(f"metrics  {metrics_line({name: float(value) for name, value in found.metrics.items()})}")
        return 0
    console.out(f"run {plan.hash} would be executed")
    near = explained(plan.hash, plan.document, plan.recorded.name, store)
    if near:
        run, differing = near
        console.out(f"\nnearest earlier run: {run}")
        console.table(difference_rows(differing), header=("differs", "then", "now"))
    return WOULD_RUN

"""Say what `repro run` would do, and why, without doing it.

Exit code 0: the run is there and would be returned. 10: it would be executed.
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
    result = engine.hit(plan, store, observer)
    if arguments.json:
        console.json(
            {
                "run_hash": plan.hash,
                "cached": result is not None,
                "cached_where": "store" if result else None,
                "environment": environment_key(plan.environment),
                "source": plan.source,
                "plan": plan.document,
            }
        )
        return 0 if result else WOULD_RUN
    if result:
        console.out(f"run {plan.hash} is cached: attempt {result.attempt}, finished {result.finished}")
        console.out(f"metrics  {metrics_line(result.metrics)}")
        return 0
    console.out(f"run {plan.hash} would be executed")
    near = explained(plan.hash, plan.document, plan.recorded.name, store)
    if near:
        run, found = near
        console.out(f"\nnearest earlier run: {run}")
        console.table(difference_rows(found), header=("differs", "then", "now"))
    return WOULD_RUN

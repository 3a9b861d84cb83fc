"""Follow a run that its hosts own, to its end, and keep its result here.

repro run recipe.toml -t lab --detach ; repro attach @
repro attach 3f9c --rank 3            show only what rank 3 writes

Ctrl-C ends the run; closing the terminal, or `kill` of this command, leaves it running.
"""

from __future__ import annotations

import argparse

from repro_est import engine
from repro_est.cli.common import TerminalObserver, add_run, open_store
from repro_est.cli.run import add_shown, shown_ranks
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.launch.wishes import Wishes
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_shown(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the path of the outputs")


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.cli.run import show

    project, store = open_store()
    runs = Runs(store.layout)
    plan = engine.plan_of(runs.resolve(arguments.run), store)
    observer = TerminalObserver(Console(quiet=arguments.quiet))
    if runs.at_hosts(plan.hash) is None and not runs.is_executed(plan.hash) and runs.result(plan.hash) is None:
        raise UsageError(f"run {plan.hash[:12]}: is not running", hint="repro ps")
    finished = engine.run(plan, store, observer, project, wishes=Wishes(shown=shown_ranks(arguments)), attach=True)
    show(finished, finished.outputs, quiet=arguments.quiet)
    return 0

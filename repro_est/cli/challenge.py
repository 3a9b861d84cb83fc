"""Compare a run with what others have made of the same plan: every signed result in the remotes of the project.

repro challenge @
repro challenge 3f9c --class bitwise --json

Files that differ are fetched, to say how. Exit code 0 when every other execution agrees as [reproducible] of the recipe
says, 4 when one does not, 2 when nobody else has executed it. Each verdict is kept with the run, as those of `check`.
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import TerminalObserver, add_json, add_run, open_store
from repro_est.console import Console
from repro_est.errors import UsageError, VerificationError
from repro_est.recipe.reproducible import Determinism


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--class",
        dest="determinism",
        choices=[str(kind) for kind in Determinism if kind is not Determinism.NONE],
        help="what the results are held against (default: what the recipe said)",
    )
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    import contextlib

    from repro_est import engine
    from repro_est.proof.challenge import challenge, claims_of
    from repro_est.proof.report import lines
    from repro_est.proof.reproduce import promise_of
    from repro_est.share.remotes import Remotes
    from repro_est.store.runs import Runs

    console = Console()
    project, store = open_store()
    plan = engine.plan_of(Runs(store.layout).resolve(arguments.run), store)
    promise = promise_of(plan, Determinism(arguments.determinism) if arguments.determinism else None)
    observer = TerminalObserver(Console(quiet=arguments.json))
    with contextlib.closing(Remotes(project, store, observer)) as remotes:
        if not remotes.all():
            raise UsageError("no remote to ask", hint='[remotes.team] url = "file:///mnt/team" in repro.toml')
        verdicts = challenge(plan, claims_of(plan, remotes, store, observer), promise, store)
    if arguments.json:
        console.json([verdict.to_json() for verdict in verdicts])
    for number, verdict in enumerate(() if arguments.json else verdicts):
        if number:
            console.out("")
        for line in lines(verdict.to_json()):
            console.out(line)
    if not verdicts:
        raise UsageError(
            f"run {plan.hash[:12]}: no remote has another execution of it by somebody who is trusted here",
            hint=f"repro check {plan.hash[:12]}   executes it again yourself",
        )
    return 0 if all(verdict.reproduced for verdict in verdicts) else VerificationError.exit_code

"""Pin everything a recipe depends on, into the lock beside it.

    repro lock recipes/digits.toml                     make it, keeping versions that still fit
    repro lock recipes/digits.toml --check             offline; exit code 3 when missing or stale
    repro lock recipes/digits.toml --update numpy      bring one package up to date
    repro lock recipes/digits.toml --as-of 2026-06-01  nothing newer than that date
    repro lock recipes/digits.toml --conda mamba       let a conda program solve the conda packages

A lock with merge conflicts is solved by `repro lock RECIPE`: it is made anew.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from repro_est.cli.common import TerminalObserver, add_json, add_recipe, open_store, shown_path
from repro_est.console import Console
from repro_est.errors import LockError


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--check", action="store_true", help="only say whether the lock satisfies the recipe; offline")
    parser.add_argument(
        "--update", action="append", default=[], metavar="NAME", help="bring this package up to date; may be repeated"
    )
    parser.add_argument("--upgrade", action="store_true", help="bring every package up to date")
    parser.add_argument("--as-of", metavar="DATE", help="take nothing newer: YYYY-MM-DD or RFC 3339")
    parser.add_argument("--conda", metavar="PATH", help="conda, mamba or micromamba that solves in place of rattler")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est import engine
    from repro_est.lock.lockfile import loads
    from repro_est.lock.satisfy import unsatisfied
    from repro_est.recipe.load import load

    console = Console(quiet=arguments.quiet or arguments.json)
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    path = recipe.lock_path
    previous = None
    if path.exists():
        try:
            previous = loads(path.read_bytes(), path)
        except LockError as error:
            if arguments.check:
                raise
            console.warning(f"{error.message}; made anew")
    if arguments.check:
        if previous is None:
            raise LockError(f"{shown_path(path)}: no lock", hint=f"repro lock {arguments.recipe}")
        reasons = unsatisfied(recipe, previous)
        if arguments.json:
            console.json({"lock": str(path), "satisfied": not reasons, "reasons": list(reasons)})
        if reasons:
            listed = "\n".join(f"  {reason}" for reason in reasons)
            raise LockError(
                f"{shown_path(path)}: does not satisfy the recipe\n{listed}", hint=f"repro lock {arguments.recipe}"
            )
        console.step("Checked", f"{shown_path(path)} satisfies {arguments.recipe}")
        return 0
    _, store = open_store()
    lock = engine.write_lock(
        recipe,
        None if arguments.upgrade else previous,
        store,
        TerminalObserver(console),
        update=tuple(arguments.update),
        as_of=arguments.as_of,
        conda=Path(shutil.which(arguments.conda) or arguments.conda) if arguments.conda else None,
    )
    if arguments.json:
        packages = {package.name: package.version for package in lock.packages}
        answer = {"lock": str(path), "python": lock.python, "packages": packages}
        if lock.conda is not None:
            answer |= {
                "conda_lock": str(recipe.conda_lock_path),
                "conda_packages": {package.name: package.version for package in lock.conda.packages},
            }
        console.json(answer)
    return 0

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
from repro_est.errors import LockError, ReproError, UsageError
from repro_est.lock.values import Lock
from repro_est.recipe.values import Recipe


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
    from repro_est.recipe.load import load

    console = Console(quiet=arguments.quiet or arguments.json)
    _check_options(arguments)
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    return _check(recipe, arguments, console) if arguments.check else _lock(recipe, arguments, console)


def _check_options(arguments: argparse.Namespace) -> None:
    from repro_est.recipe.forms import is_date

    making = {"--update": arguments.update, "--upgrade": arguments.upgrade, "--as-of": arguments.as_of}
    making["--conda"] = arguments.conda
    given = [option for option, value in making.items() if value]
    if arguments.check and given:
        raise UsageError(
            f"--check {given[0]}: --check only looks, expected no {given[0]}", hint="leave one of them out"
        )
    if arguments.as_of is not None and not is_date(arguments.as_of):
        raise UsageError(
            f"--as-of: got {arguments.as_of!r}, expected a date such as 2026-06-01 or 2026-06-01T12:00:00Z"
        )


def _check(recipe: Recipe, arguments: argparse.Namespace, console: Console) -> int:
    """Says whether the lock satisfies the recipe, and under `--json` in one object whatever the answer is."""
    from repro_est.lock.lockfile import loads
    from repro_est.lock.satisfy import unsatisfied

    path, hint = recipe.lock_path, f"repro lock {arguments.recipe}"
    try:
        if not path.exists():
            raise LockError(f"{shown_path(path)}: no lock", hint=hint)
        reasons = unsatisfied(recipe, loads(path.read_bytes(), path))
    except ReproError as error:
        if arguments.json:
            console.json({"lock": str(path), "satisfied": False, "reasons": [error.message]})
        raise
    if arguments.json:
        console.json({"lock": str(path), "satisfied": not reasons, "reasons": list(reasons)})
    if reasons:
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise LockError(f"{shown_path(path)}: does not satisfy the recipe\n{listed}", hint=hint)
    console.step("Checked", f"{shown_path(path)} satisfies {arguments.recipe}")
    return 0


def _lock(recipe: Recipe, arguments: argparse.Namespace, console: Console) -> int:
    from repro_est import engine

    _, store = open_store()
    lock = engine.write_lock(
        recipe,
        None if arguments.upgrade else _previous(recipe, console),
        store,
        TerminalObserver(console),
        update=tuple(arguments.update),
        as_of=arguments.as_of,
        conda=_program(arguments.conda) if arguments.conda else None,
    )
    if arguments.json:
        packages = {package.name: package.version for package in lock.packages}
        answer = {"lock": str(recipe.lock_path), "python": lock.python, "packages": packages}
        if lock.conda is not None:
            answer |= {
                "conda_lock": str(recipe.conda_lock_path),
                "conda_packages": {package.name: package.version for package in lock.conda.packages},
            }
        console.json(answer)
    return 0


def _program(name: str) -> Path:
    """Returns a program by its whole path: `Path("./conda")` is `conda`, which is looked for in PATH only."""
    found = shutil.which(name)
    return Path(found).absolute() if found else Path(name)


def _previous(recipe: Recipe, console: Console) -> Lock | None:
    """Returns the lock whose versions are kept; one that cannot be read is made anew."""
    from repro_est.lock.lockfile import loads

    if not recipe.lock_path.exists():
        return None
    try:
        return loads(recipe.lock_path.read_bytes(), recipe.lock_path)
    except LockError as error:
        console.warning(f"{error.message}; made anew")
        return None

"""Validate a recipe without running it, or execute a run again and compare.

repro check train.toml      the recipe, the lock and the source: syntax, imports against the lock, missing files, unused
                            inputs, files a snapshot cannot take; exit code 0 with warnings only, 2 with an error
repro check @               the run is executed again from its stored plan, every output and metric is compared as
                            [reproducible] of its recipe says; exit code 0 reproduced, 4 not; the verdict is kept
repro check 3f9c -t lab     the same on other machines; --class bitwise holds it against every byte
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from repro_est.cli.common import (
    TerminalObserver,
    add_json,
    add_overrides,
    names_a_run,
    open_store,
    shown_path,
    store_exists,
)
from repro_est.console import Console
from repro_est.errors import LockError, NeedsRun, RecipeError, ReproError, SourceError, UsageError, VerificationError
from repro_est.lock.values import Lock
from repro_est.recipe.check import Finding
from repro_est.recipe.reproducible import Determinism
from repro_est.recipe.values import Recipe


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a recipe file, or a run: its hash, a unique start of one, or `@`")
    add_overrides(parser)
    parser.add_argument("-t", "--target", help="of a run: where it is executed again (default: where it was)")
    parser.add_argument(
        "--class",
        dest="determinism",
        choices=[str(kind) for kind in Determinism if kind is not Determinism.NONE],
        help="of a run: what it is held against (default: what its recipe said)",
    )
    parser.add_argument(
        "--promise", metavar="RECIPE", help="of a run: take [reproducible] of this recipe, not what the run has kept"
    )
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    if names_a_run(Path(arguments.recipe)):
        return _execute_again(arguments)
    for option, value in (
        ("--target", arguments.target),
        ("--class", arguments.determinism),
        ("--promise", arguments.promise),
    ):
        if value is not None:
            raise UsageError(f"{arguments.recipe}: a recipe takes no {option}, which is for runs")
    console = Console()
    findings = list(_findings(arguments))
    errors = sum(finding.severity == "error" for finding in findings)
    if arguments.json:
        recipe = str(Path(arguments.recipe).resolve())
        console.json({"recipe": recipe, "ok": not errors, "findings": [finding.to_json() for finding in findings]})
        return UsageError.exit_code if errors else 0
    for finding in findings:
        console.out(str(finding))
    console.out(
        f"{arguments.recipe}: {errors} errors, {len(findings) - errors} warnings"
        if findings
        else f"{arguments.recipe}: ok"
    )
    return UsageError.exit_code if errors else 0


def _execute_again(arguments: argparse.Namespace) -> int:
    """Executes a run again and says what differs."""
    import dataclasses

    from repro_est import engine
    from repro_est.cli.common import check_store_exists
    from repro_est.plan import Plan
    from repro_est.proof.report import lines
    from repro_est.proof.reproduce import promise_of, reproduce
    from repro_est.recipe.load import load
    from repro_est.store.records import Result
    from repro_est.store.runs import Runs

    if arguments.overrides:
        raise UsageError(f"{arguments.recipe}: a stored run takes no --set", hint="name the recipe instead")
    check_store_exists()
    project, store = open_store()
    console = Console()
    observer = TerminalObserver(Console(quiet=arguments.json))
    plan = engine.plan_of(Runs(store.layout).resolve(arguments.recipe), store)
    wanted = Determinism(arguments.determinism) if arguments.determinism else None
    said = load(Path(arguments.promise)).reproducible if arguments.promise else None
    if arguments.target:
        plan = dataclasses.replace(plan, recorded=dataclasses.replace(plan.recorded, target=arguments.target))

    def again(plan: Plan) -> Result:
        return engine.run(plan, store, observer, project, force=True, commit=False).result

    verdict = reproduce(plan, promise_of(plan, wanted, said), store, again)
    if arguments.json:
        console.json(verdict.to_json())
    else:
        for line in lines(verdict.to_json()):
            console.out(line)
    return 0 if verdict.reproduced else VerificationError.exit_code


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    from repro_est.recipe.check import check
    from repro_est.recipe.load import load

    path = Path(arguments.recipe)
    try:
        recipe = load(path, tuple(arguments.overrides))
    except UsageError as error:
        yield from _of_error(error, path)
        return
    found: list[Finding] = []
    lock = _lock(recipe, found, hint=f"repro lock {arguments.recipe}")
    yield from check(recipe, lock)
    yield from found
    yield from _source(recipe)
    yield from _needed(recipe)


def _lock(recipe: Recipe, found: list[Finding], *, hint: str) -> Lock | None:
    """Returns the recipe's lock, None when there is none that can be read; adds what is wrong with it."""
    from repro_est.lock.lockfile import loads
    from repro_est.lock.requirements import requirements
    from repro_est.lock.satisfy import unsatisfied

    path = recipe.lock_path
    lock: Lock | None = None
    try:
        if path.exists():
            lock = loads(path.read_bytes(), path)
            found += [Finding("error", str(path), None, reason, hint) for reason in unsatisfied(recipe, lock)]
        else:
            found.append(Finding("warning", str(path), None, "no lock yet, imports were not checked", hint))
            requirements(recipe)  # so that what cannot be locked is said before anybody tries
    except (LockError, RecipeError) as error:
        found += _of_error(error, path)
    return lock


def _source(recipe: Recipe) -> Iterator[Finding]:
    """What would refuse the snapshot."""
    from repro_est.engine import source_listing
    from repro_est.project import find_project
    from repro_est.snapshot import check_limits

    source, project = recipe.estimator.source_directory, find_project()
    try:
        listing = source_listing(recipe, project)
        check_limits(
            listing.included, source, max_bytes=project.max_snapshot_bytes, max_files=project.max_snapshot_files
        )
    except SourceError as error:
        yield from _of_error(error, source)
        return
    hint = f"a line in {source / '.reproignore'} leaves it out"
    for problem in listing.problems:
        yield Finding("error", str(source), None, problem.removeprefix(f"{source}/"), hint)


def _needed(recipe: Recipe) -> Iterator[Finding]:
    """The runs of other recipes that have to be made before this one can be."""
    from repro_est.recipe.check import declared
    from repro_est.recipe.values import RecipeInput

    for item in recipe.inputs:
        if not isinstance(item.source, RecipeInput):
            continue
        needed = item.source.recipe
        try:
            what = _missing_run(needed)
        except ReproError as error:
            yield from _of_error(error, needed.path)
            continue
        if what is not None:
            file, line = declared(recipe, ("inputs", item.name))
            shown = shown_path(needed.path)
            message = f"needs {what} of {shown} first, which `repro run` makes"
            yield Finding("warning", str(file), line, message, f"repro run {shown}", f"inputs.{item.name}")


def _missing_run(needed: Recipe) -> str | None:
    """Returns the run of a recipe that is not there, None when it is; without a lock nobody knows its hash."""
    from repro_est import engine

    if not store_exists() or not all(item.lock_path.exists() for item in needed.with_needed):
        return "a run"
    project, store = open_store()
    observer = TerminalObserver(Console(quiet=True))
    try:
        plan = engine.prepare(needed, project, store, observer).plan
    except NeedsRun:  # what that needs comes before
        return "a run"
    return None if engine.hit(plan, store, observer) else f"run {plan.hash}"


def _of_error(error: ReproError, file: Path) -> Iterator[Finding]:
    if isinstance(error, RecipeError):
        yield from map(Finding.of, error.problems)
    else:
        yield Finding("error", str(file), None, error.message.removeprefix(f"{file}: "), error.hint)

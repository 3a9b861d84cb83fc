"""Run a recipe, or return the run that already has its hash.

repro run recipes/digits.toml
repro run recipes/digits.toml --set script_params.--regularization=0.1
repro run recipes/mpi-pi.toml -t lab   on the hosts of a target of the inventory; --dry-run shows which rank goes where
repro run recipes/mpi-pi.toml -t lab --detach ; repro attach @
repro run 3f9c2a                      execute (or return) a run of this store again, from its stored plan
path=$(repro run recipes/digits.toml -q)
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path

from repro_est import engine
from repro_est.cli.common import (
    TerminalObserver,
    add_json,
    add_overrides,
    metrics_line,
    names_a_run,
    open_store,
    shown_path,
)
from repro_est.cli.recall import note_path, write_note
from repro_est.cli.summary import summary
from repro_est.console import Console, human_size
from repro_est.engine import Finished, Prepared
from repro_est.errors import Detached, UsageError
from repro_est.launch.wishes import Wishes
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.project import CONFIG_NAME, Project
from repro_est.recipe.values import ModelInput, Recipe, RunInput
from repro_est.snapshot import input_cache, source_cache
from repro_est.store.checked import Checked
from repro_est.store.statcache import StatCache
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a recipe file, or the hash of a run in this store")
    add_overrides(parser)
    parser.add_argument(
        "-t", "--target", help="where to run: local, docker, or a target of the inventory; default: compute_target"
    )
    parser.add_argument("--hosts", metavar="NAME,...", help="only these hosts of the target")
    parser.add_argument("--dry-run", action="store_true", help="print which rank would run where, and stop")
    parser.add_argument(
        "--detach", action="store_true", help="leave when all ranks have started; `repro attach` returns"
    )
    add_shown(parser)
    parser.add_argument(
        "--relock", action="store_true", help="make the lock anew when it no longer satisfies the recipe"
    )
    parser.add_argument(
        "--force", action="store_true", help="execute even when the run is there; its new result replaces the old"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="execute, and neither use nor keep a result; the attempt stays"
    )
    parser.add_argument(
        "--facts-from", metavar="DIRECTORY", help="with a stored run: where git facts are read, to be recorded"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the path of the outputs")
    add_json(parser, "print events as JSON lines on stdout")
    parser.add_argument(
        "--depfile", metavar="FILE", help="write a make dependency file of everything the run depends on"
    )
    parser.add_argument(
        "--depfile-target", metavar="NAME", help="target named in the dependency file (default: the depfile without .d)"
    )


def add_shown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank", default="all", metavar="N,...|all", help="whose output to show, of several ranks (default: all)"
    )


def shown_ranks(arguments: argparse.Namespace) -> tuple[int, ...] | None:
    """Returns the ranks that `--rank` names, None for all."""
    if arguments.rank == "all":
        return None
    numbers = arguments.rank.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--rank {arguments.rank}: expected numbers with commas between, or `all`")
    return tuple(map(int, numbers))


def execute(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _execute(arguments, TerminalObserver(Console(quiet=True)))
    if not arguments.json:
        return _execute(arguments, TerminalObserver(Console(quiet=arguments.quiet)))
    from repro_est.cli.events import JsonObserver

    observer = JsonObserver()
    with observer.to_the_end():
        return _execute(arguments, observer)


def _execute(arguments: argparse.Namespace, observer: Observer) -> int:
    started_ns = time.time_ns()
    project, store = open_store()
    path = Path(arguments.recipe)
    if arguments.depfile and not Path(arguments.depfile).absolute().parent.is_dir():
        raise UsageError(f"--depfile {arguments.depfile}: no such directory", hint="mkdir -p it in the Makefile's rule")
    if names_a_run(path):
        if arguments.overrides or arguments.relock or arguments.depfile:
            raise UsageError(
                f"{path}: a stored run takes no --set, --relock or --depfile", hint="name the recipe instead"
            )
        from repro_est.store.runs import Runs

        plan = engine.plan_of(Runs(store.layout).resolve(str(path)), store)
        observer.event("planned", run_hash=plan.hash, name=plan.recorded.name, source=plan.source)
        prepared, source = None, Path(arguments.facts_from) if arguments.facts_from else None
    else:
        from repro_est.recipe.load import load

        recipe = load(path, tuple(arguments.overrides))
        prepared = engine.prepare(
            recipe, project, store, observer, relock=arguments.relock, run_needed=not arguments.dry_run
        )
        plan, source = prepared.plan, recipe.estimator.source_directory
    if arguments.target:
        plan = dataclasses.replace(plan, recorded=dataclasses.replace(plan.recorded, target=arguments.target))
    wishes = Wishes(
        hosts=tuple(arguments.hosts.split(",")) if arguments.hosts is not None else (),
        detach=arguments.detach,
        shown=shown_ranks(arguments),
    )
    _check_wishes(plan, wishes, project, store, arguments)
    if arguments.dry_run:
        return _dry_run(plan, wishes, project, store, arguments)
    try:
        finished = engine.run(
            plan,
            store,
            observer,
            project,
            force=arguments.force,
            commit=not arguments.no_cache,
            source_directory=source,
            wishes=wishes,
        )
    except Detached as left:
        return _left(left, plan, arguments, observer)
    _show(finished, plan, arguments, observer, store)
    if prepared is not None and arguments.depfile:
        from repro_est.cli.depfile import write_depfile

        write_depfile(prepared, store, Path(arguments.depfile), target=arguments.depfile_target)
    if prepared is not None:
        _note(prepared, finished, arguments, project, store, started_ns=started_ns)
    if project.keeping.quota is not None and not finished.cached:
        _check_quota(project.keeping.quota, store, observer)
    return 0


def _check_quota(quota: int, store: Store, observer: Observer) -> None:
    """Says so when the store has outgrown what it should not."""
    from repro_est.store.quota import size_of_store

    size = size_of_store(store.layout)
    if size > quota:
        message = f"the store has {human_size(size)}, its quota is {human_size(quota)}: repro gc --collect"
        observer.event("warning", message=message)


def _check_wishes(plan: Plan, wishes: Wishes, project: Project, store: Store, arguments: argparse.Namespace) -> None:
    """Refuses targets, hosts and ranks that there are not, also where the run is there already."""
    unknown = [rank for rank in wishes.shown or () if rank >= plan.layout.world_size]
    if unknown:
        raise UsageError(f"--rank {unknown[0]}: the run has {plan.layout.world_size} ranks, counted from 0")
    if arguments.hosts is not None or arguments.target not in (None, "local", "docker"):
        from repro_est.launch.crew import chosen
        from repro_est.launch.jobs import target_of

        chosen(target_of(plan.recorded.target, project, store), wishes)


def _dry_run(plan: Plan, wishes: Wishes, project: Project, store: Store, arguments: argparse.Namespace) -> int:
    from repro_est.launch.crew import placement_of
    from repro_est.launch.jobs import target_of

    console = Console()
    target = target_of(plan.recorded.target, project, store)
    rows = placement_of(plan, target, wishes).rows()
    if arguments.json:
        console.json([dict(row._asdict()) for row in rows])
    else:
        names = ("rank", "host", "node", "local rank", "devices", "address")
        console.table([[str(cell) for cell in row] for row in rows], header=names)
    return 0


def _left(left: Detached, plan: Plan, arguments: argparse.Namespace, observer: Observer) -> int:
    """Says that a run goes on without us, which is no error."""
    if arguments.json:
        observer.event("finished", run_hash=plan.hash, status=left.status, cached=False)
        return 0
    console = Console(quiet=arguments.quiet)
    console.step("Detached", left.message)
    console.info(f"\n{console.style('hint', 'cyan')}: {left.hint}")
    console.out(plan.hash if arguments.quiet else f"run      {plan.hash}  detached")
    return 0


def _show(finished: Finished, plan: Plan, arguments: argparse.Namespace, observer: Observer, store: Store) -> None:
    result = finished.result
    outputs = (
        finished.outputs
        if not arguments.no_cache
        else store.layout.attempt(result.run_hash, result.attempt) / "outputs"
    )
    if arguments.json:
        observer.event(
            "finished",
            run_hash=result.run_hash,
            status="completed",
            cached=finished.cached,
            metrics=dict(result.metrics),
            outputs=str(outputs),
            models=[f"{model.name}:{model.version}" for model in finished.models],
            **({"impurities": plan.impurities} if plan.impurities else {}),
        )
        return
    show(finished, outputs, quiet=arguments.quiet)
    if not arguments.quiet:
        for name, words in plan.impurities.items():
            Console().out(f"impure   {name}: {words}")


def show(finished: Finished, outputs: Path, *, quiet: bool) -> None:
    """Prints a run that has completed."""
    result, console = finished.result, Console()
    if quiet:
        console.out(str(outputs))
        return
    models = [f"{model.name} version {model.version}" for model in finished.models]
    state = "cached" if finished.cached else "completed"
    text = summary(
        result.run_hash,
        state,
        metrics_line(result.metrics),
        models,
        shown_path(outputs),
        colour=console.colour_out,
    )
    console.out(text.rstrip("\n"))


def _note(
    prepared: Prepared,
    finished: Finished,
    arguments: argparse.Namespace,
    project: Project,
    store: Store,
    *,
    started_ns: int,
) -> None:
    """Leaves a note by which the same command is answered from stat signatures alone (`cli.recall`)."""
    recipe, plan = prepared.recipe, prepared.plan
    moving = recipe.needed or any(_moves(item.source) for item in recipe.inputs)
    estimator = recipe.estimator
    dockerfile = estimator.image.dockerfile if estimator.image else None
    unwatched = (
        estimator.pip_requirements_file
        or estimator.conda_dependencies_file
        or estimator.environment_definition
        or dockerfile
    )
    if moving or unwatched or plan.impurities or prepared.snapshot.warnings or not finished.cached:
        return
    places = {str(name): str(file) for name, file in recipe.names}
    caches = [(str(recipe.estimator.source_directory), plan.source, _source_cache(recipe, project, store))]
    for item in plan.recorded.inputs:
        if set(item.origin) == {"path"}:
            name = str(item.origin["path"])
            places[name] = os.path.realpath(name)
            caches.append((places[name], item.tree, input_cache(Path(places[name]), store)))
    trees: list[object] = []
    for root, tree, cache in caches:
        content = cache.content()
        if content.get("tree") != tree or not all(known for known, _ in content["directories"].values()):
            return  # something was written just now, so its time stamp may stand still while it changes
        trees.append([root, content["directories"], content["entries"]])
    result = finished.result
    files = [*map(str, recipe.files), str(recipe.lock_path), str(project.root / CONFIG_NAME)]
    if prepared.lock.conda is not None:
        files.append(str(recipe.conda_lock_path))
    files.append(str(store.layout.result(plan.hash)))
    signatures = Checked(store.layout, plan.hash).signatures()
    blobs = [
        [found[0], entry.xxh3, signatures.get(found[0], "")]
        for tree in (result.outputs, result.logs)
        for entry in store.read_tree(tree).files()
        if (found := store.locate(entry))
    ]
    write_note(
        note_path(str(store.layout.root), arguments.recipe, arguments.overrides),
        files,
        {
            "places": places,
            "trees": trees,
            "blobs": blobs,
            "run_hash": plan.hash,
            "metrics": metrics_line(result.metrics),
            "models": [f"{model.name} version {model.version}" for model in finished.models],
            "outputs": str(finished.outputs),
        },
        started_ns=started_ns,
    )


def _moves(source: object) -> bool:
    """Whether what an input names may be something else the next time, though no file of the recipe changed."""
    match source:
        case RunInput(run):
            return run.startswith("@")
        case ModelInput(version=version):
            return version is None
        case _:
            return False


def _source_cache(recipe: Recipe, project: Project, store: Store) -> StatCache:
    return source_cache(recipe.estimator.source_directory, store, engine.left_out(recipe, project))

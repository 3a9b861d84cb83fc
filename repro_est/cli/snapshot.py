"""What the source directory contributes to a run, taken as a snapshot into the store.

repro snapshot recipes/digits.toml --list     every file with its size, every ignored one with the rule
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import add_json, add_recipe, open_store, shown_path
from repro_est.console import Console, counted, human_size
from repro_est.errors import SourceError
from repro_est.snapshot import Listing


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--list", action="store_true", help="list the files, and what is ignored and why; writes nothing"
    )
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est import engine
    from repro_est.recipe.load import load

    console = Console()
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    project, store = open_store()
    if arguments.list:
        return _list(engine.source_listing(recipe, project), console, as_json=arguments.json)
    source = engine.take_snapshot(recipe, project, store)
    for warning in source.warnings:
        console.warning(warning)
    if arguments.json:
        console.json(
            {
                "source": source.hash,
                "directory": str(recipe.estimator.source_directory),
                "files": source.files,
                "bytes": source.size,
            }
        )
        return 0
    shown = shown_path(recipe.estimator.source_directory)
    console.out(f"{source.hash}  {counted(source.files, 'file')}, {human_size(source.size)} of {shown}")
    return 0


def _list(listing: Listing, console: Console, *, as_json: bool) -> int:
    if as_json:
        console.json(
            {
                "included": [{"path": path, "size": size} for path, size in listing.included],
                "ignored": [{"path": path, "reason": reason} for path, reason in listing.ignored],
                "problems": list(listing.problems),
            }
        )
    else:
        _print(listing, console)
    if listing.problems:
        raise SourceError("\n".join(listing.problems))
    return 0


def _print(listing: Listing, console: Console) -> None:
    for path, size in listing.included:
        console.out(f"{human_size(size):>10}  {path}")
    for path, reason in listing.ignored:
        console.out(console.style(f"{'ignored':>10}  {path}  ({reason})", "dim", out=True))

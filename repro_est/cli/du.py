"""What takes the space of the store: by kind, by recipe, and by run.

repro du                   kinds, recipes, and the largest runs
repro du --runs 100        more of those
repro du --json            all of it

The exclusive size of a run is about what its removal would free; what it shares with others stays.
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console, human_size


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="so many runs (default: 10)")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.store.du import usage

    console = Console()
    project, store = open_store()
    found = usage(store.layout)
    quota = project.keeping.quota
    if arguments.json:
        console.json({**found.to_json(), "quota": quota})
        return 0
    kinds = sorted(found.kinds.items(), key=lambda item: -item[1].size)
    rows = [[kind, f"{tally.count:,}", human_size(tally.size)] for kind, tally in kinds if tally.count]
    rows.append(["all", "", human_size(found.size) + (f" of a quota of {human_size(quota)}" if quota else "")])
    console.table(rows, header=("kind", "count", "size"))
    if found.runs:
        console.out("")
        recipes = [[name, f"{count:,}", human_size(size)] for name, count, size in found.recipes()]
        console.table(recipes, header=("recipe", "runs", "only theirs"))
        console.out("")
        runs = [
            [item.run[:12], item.name, human_size(item.exclusive), human_size(item.shared)]
            for item in found.runs[: max(arguments.runs, 0)]
        ]
        console.table(runs, header=("run", "recipe", "only its own", "shared"))
    if found.unreferenced:
        console.info(f"\nno run or model refers to {human_size(found.unreferenced)} of blobs: repro gc")
    return 0

"""List runs, newest first.

repro ls                              the latest 20
repro ls --name digits --status failed
repro ls --sort accuracy --reverse    by a metric, largest first
repro ls --json -n 0                  all of them, for a program
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, metrics_line, open_store
from repro_est.console import Console
from repro_est.store.index import Index
from repro_est.store.records import Status


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="only runs of the recipe of this name")
    parser.add_argument("--status", choices=[status.value for status in Status], help="only runs in this state")
    parser.add_argument("--tag", metavar="KEY=VALUE", help="only runs with this tag")
    parser.add_argument(
        "--sort",
        default="time",
        metavar="time|METRIC",
        help="order: `time` (newest first) or a metric (smallest first)",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("-n", "--limit", type=int, default=20, help="how many (default 20; 0 is all)")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    _, store = open_store()
    rows = Index(store.layout).rows(
        name=arguments.name,
        status=Status(arguments.status) if arguments.status else None,
        tag=arguments.tag,
        sort=None if arguments.sort == "time" else arguments.sort,
        reverse=arguments.reverse,
        limit=arguments.limit or None,
    )
    if arguments.json:
        console.json([row.to_json() for row in rows])
        return 0
    if not rows:
        console.info("no runs yet: repro run RECIPE")
        return 0
    console.table(
        [
            [
                row.run_hash[:12],
                row.name,
                row.status.value,
                (row.finished or row.started)[:19].replace("T", " "),
                metrics_line(row.metrics, 4),
            ]
            for row in rows
        ],
        header=("run", "recipe", "status", "when (UTC)", "metrics"),
    )
    return 0

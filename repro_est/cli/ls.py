"""List runs, newest first.

repro ls                              the latest 20
repro ls --name digits --status failed
repro ls --sort accuracy --reverse    by a metric, largest first
repro ls --json -n 0                  all of them, for a program
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, metrics_line, open_store, store_exists
from repro_est.console import Console, visible
from repro_est.store.index import Index, RunRow
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
    parser.add_argument("-n", "--limit", type=_count, default=20, help="how many (default 20; 0 is all)")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    index = Index(open_store()[1].layout) if store_exists() else None
    rows = _rows(index, arguments) if index is not None else []
    if arguments.json:
        console.json([row.to_json() for row in rows])
    elif not rows:
        console.info(
            _why_nothing(index, arguments) if index is not None else "no store yet: repro run RECIPE makes one"
        )
    else:
        _print(rows, console)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got `{text}`, expected 0 or more")
    return int(text)


def _rows(index: Index, arguments: argparse.Namespace) -> list[RunRow]:
    return index.rows(
        name=arguments.name,
        status=Status(arguments.status) if arguments.status else None,
        tag=arguments.tag,
        sort=None if arguments.sort == "time" else arguments.sort,
        reverse=arguments.reverse,
        limit=arguments.limit or None,
    )


def _why_nothing(index: Index, arguments: argparse.Namespace) -> str:
    """Says which filter no run passes, with the nearest word that one does."""
    runs = index.rows()
    if not runs:
        return "no runs yet: repro run RECIPE"
    metrics = {name for row in runs for name in row.metrics}
    words: dict[str, tuple[str | None, set[str]]] = {
        "--name": (arguments.name, {row.name for row in runs}),
        "--status": (arguments.status, {row.status.value for row in runs}),
        "--tag": (
            arguments.tag,
            {word for row in runs for item in row.tags.items() for word in (item[0], "=".join(item))},
        ),
        "--sort": (arguments.sort if arguments.sort != "time" else None, metrics),
    }
    for option, (word, there) in words.items():
        if word is not None and word not in there:
            return f"no run with {option} {word}, of {len(runs)}{_nearest(word, there)}"
    given = " ".join(f"{option} {word}" for option, (word, _) in words.items() if word is not None)
    return f"no run with {given} together, of {len(runs)}"


def _nearest(word: str, there: set[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, there, n=1)
    listed = near or sorted(there)[:8]
    if not listed:
        return ""
    return f"\n\nhint: {'did you mean' if near else 'there are'} {', '.join(f'`{visible(item)}`' for item in listed)}"


def _print(rows: list[RunRow], console: Console) -> None:
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

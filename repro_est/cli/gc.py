"""Remove what crashed processes left behind: work directories, half-written files, trash.

Runs, models, environments and blobs stay. Safe beside running jobs.
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console, human_size


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.store.sweep import sweep

    console = Console()
    _, store = open_store()
    report = sweep(store.layout)
    if arguments.json:
        console.json(
            {"removed": [str(path) for path in report.removed], "bytes": report.size, "lost": list(report.lost)}
        )
        return 0
    for run in report.lost:
        console.out(f"{run}: its process is gone; marked as lost")
    console.out(f"removed {len(report.removed)} leftovers, {human_size(report.size)}")
    return 0

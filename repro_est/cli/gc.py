"""Remove what crashed processes left behind: work directories, half-written files, trash.

Runs, models, environments and blobs stay. Safe beside running jobs.
"""

from __future__ import annotations

import argparse
import os

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console, counted, human_size
from repro_est.errors import InfrastructureError
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.store.sweep import sweep

    console = Console()
    _, store = open_store()
    report = sweep(store.layout)
    containers = _containers(store)
    if arguments.json:
        answer = {"removed": [str(path) for path in report.removed], "bytes": report.size, "lost": list(report.lost)}
        console.json({**answer, "containers": containers})
        return 0
    for run in report.lost:
        console.out(f"{run}: its process is gone; marked as lost")
    for name in containers:
        console.out(f"{name}: its container was still there; removed")
    console.out(f"removed {counted(len(report.removed), 'leftover')}, {human_size(report.size)}")
    return 0


def _containers(store: Store) -> list[str]:
    """Removes containers of runs nobody executes, where this machine has a Docker daemon."""
    if "DOCKER_HOST" not in os.environ and not os.path.exists("/var/run/docker.sock"):
        return []
    from repro_est.images.containers import reap
    from repro_est.images.daemon import connect

    try:
        return reap(connect(), store)
    except InfrastructureError:
        return []

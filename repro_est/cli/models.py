"""List registered models, or the versions of one.

repro models
repro models digits --json
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.store.models import Models


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one model; default: all")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    _, store = open_store()
    registry = Models(store.layout)
    found = registry.versions(arguments.name) if arguments.name else registry.all()
    if arguments.name and not found:
        names = ", ".join(registry.names()) or "none"
        raise UsageError(f"`{arguments.name}` is not a registered model, registered ones: {names}")
    if arguments.json:
        console.json([model.to_json() for model in found])
        return 0
    if not found:
        console.info("no models yet: a recipe registers one with [models.NAME]")
        return 0
    rows = [[m.name, str(m.version), m.run[:12], m.path, m.tree[:12], m.created, m.description] for m in found]
    console.table(rows, header=("model", "version", "run", "path", "digest", "created", "description"))
    return 0

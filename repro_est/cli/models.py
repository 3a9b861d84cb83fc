"""List registered models, or the versions of one.

repro models
repro models digits --json
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, open_store, store_exists
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.store.models import Model, Models


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one model; default: all")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    registry = Models(open_store()[1].layout) if store_exists() else None
    found = _found(registry, arguments.name) if registry is not None else []
    if arguments.name and not found:
        names = ", ".join(registry.names() if registry is not None else ()) or "none"
        raise UsageError(f"`{arguments.name}` is not a registered model, registered ones: {names}")
    if arguments.json:
        console.json([model.to_json() for model in found])
        return 0
    if not found:
        console.info(
            f"no {'store' if registry is None else 'models'} yet: a recipe registers a model with [models.NAME]"
        )
        return 0
    console.table(_rows(found), header=("model", "version", "run", "path", "digest", "created", "description"))
    return 0


def _found(registry: Models, name: str | None) -> list[Model]:
    return registry.versions(name) if name else registry.all()


def _rows(models: list[Model]) -> list[list[str]]:
    return [[m.name, str(m.version), m.run[:12], m.path, m.tree[:12], m.created, m.description] for m in models]

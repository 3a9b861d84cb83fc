"""Show, build or enter the environment of a recipe.

repro env recipes/digits.toml                    key, packages, whether it is built
repro env recipes/digits.toml --build
repro env recipes/digits.toml --shell            a shell with its python first on PATH
repro env recipes/digits.toml -- python -V       one command in it
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from repro_est.cli.common import TerminalObserver, add_json, add_recipe, open_store, shown_path
from repro_est.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("command", nargs="*", help="a command to run in it, after `--`")
    parser.add_argument("--build", action="store_true", help="build it when it is not there")
    parser.add_argument("--shell", action="store_true", help="open $SHELL in it")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est import engine
    from repro_est.environment.key import environment_document, environment_key
    from repro_est.environment.prefix import realise
    from repro_est.platforms import current_platform
    from repro_est.recipe.load import load

    console = Console(quiet=arguments.json)
    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    _, store = open_store()
    observer = TerminalObserver(console)
    lock = engine.locked(recipe, store, observer)
    document = environment_document(lock, current_platform())
    key = environment_key(document)
    command = arguments.command
    if arguments.build or arguments.shell or command:
        prefix = realise(lock, store, observer)
        if arguments.shell or command:
            return _enter(prefix.path, command or [os.environ.get("SHELL", "/bin/sh")])
    path = store.layout.environment(key)
    packages = {name: version for name, version, *_ in (*document.get("conda", ()), *document["packages"])}
    if arguments.json:
        console.json(
            {"environment": key, "python": lock.python, "built": path.is_dir(), "path": str(path), "packages": packages}
        )
        return 0
    built = shown_path(path) if path.is_dir() else "not built"
    console.out(f"environment  {key}\npython       {lock.python}\npath         {built}\n")
    console.table([[name, version] for name, version in packages.items()], header=("package", "version"))
    return 0


def _enter(prefix: Path, command: list[str]) -> int:
    """Replaces this process by a command that finds the environment's programs first."""
    environment = {
        **os.environ,
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(prefix),
    }
    environment.pop("PYTHONHOME", None)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    os.execvpe(command[0], command, environment)

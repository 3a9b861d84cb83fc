"""Environments of recipes: built once, read-only, checked whenever they are used.

repro env show recipes/digits.toml               key, packages, whether it is built
repro env build recipes/digits.toml
repro env shell recipes/digits.toml              a shell that finds its programs first
repro env run recipes/digits.toml -- python -V   one command in it; its exit code is the command's
repro env ls                                     environments of this store
repro env verify                                 read every byte of all of them, or of a recipe's
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from repro_est.cli.common import (
    TerminalObserver,
    add_json,
    add_overrides,
    add_recipe,
    check_store_exists,
    open_store,
    shown_path,
    store_exists,
)
from repro_est.console import Console, counted
from repro_est.errors import UsageError, VerificationError
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = verbs.add_parser("show", help="key, packages, whether it is built")
    add_recipe(show)
    add_json(show)
    add_recipe(verbs.add_parser("build", help="build it when it is not there"))
    add_recipe(verbs.add_parser("shell", help="open $SHELL in it"))
    run = verbs.add_parser("run", help="run one command in it")
    add_recipe(run)
    run.add_argument("command", nargs="+", help="the command, after `--`")
    add_json(verbs.add_parser("ls", help="list environments of this store"))
    verify = verbs.add_parser("verify", help="read every byte, byte code and links included")
    verify.add_argument("recipe", nargs="?", help="whose environment (default: all of the store)")
    add_overrides(verify)
    add_json(verify)


def execute(arguments: argparse.Namespace) -> int:
    actions: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "show": _show,
        "build": _build,
        "shell": _shell,
        "run": _run,
        "ls": _ls,
        "verify": _verify,
    }
    return actions[arguments.action](arguments)


def _locked(arguments: argparse.Namespace, console: Console) -> tuple[Any, Store]:
    """Returns the lock of a recipe, made when there is none, and the store."""
    from repro_est import engine
    from repro_est.recipe.load import load

    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    _, store = open_store()
    return engine.locked(recipe, store, TerminalObserver(console)), store


def _realised(arguments: argparse.Namespace) -> Path:
    from repro_est.environment.prefix import realise

    console = Console()
    lock, store = _locked(arguments, console)
    return realise(lock, store, TerminalObserver(console)).path


def _show(arguments: argparse.Namespace) -> int:
    from repro_est.environment.key import environment_document, environment_key
    from repro_est.environment.prefix import present
    from repro_est.platforms import current_platform

    console = Console(quiet=arguments.json)
    lock, store = _locked(arguments, console)
    document = environment_document(lock, current_platform())
    key = environment_key(document)
    path, built = store.layout.environment(key), present(store.layout, key) is not None
    packages = _packages(document)
    if arguments.json:
        console.json(
            {"environment": key, "python": lock.python, "built": built, "path": str(path), "packages": packages}
        )
        return 0
    shown = shown_path(path) if built else "not built"
    console.out(f"environment  {key}\npython       {lock.python}\npath         {shown}\n")
    console.table([[name, version] for name, version in packages.items()], header=("package", "version"))
    return 0


def _build(arguments: argparse.Namespace) -> int:
    Console().out(shown_path(_realised(arguments)))
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    return _enter(_realised(arguments), [os.environ.get("SHELL", "/bin/sh")])


def _run(arguments: argparse.Namespace) -> int:
    return _enter(_realised(arguments), arguments.command)


def _enter(prefix: Path, command: list[str]) -> int:
    """Replaces this process by a command that finds the environment's programs first."""
    environment = {
        **os.environ,
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(prefix),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTHONHOME", None)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "no such program in the environment or on PATH" if missing else f"cannot be run: {error.strerror}"
        raise UsageError(f"{command[0]}: {what}", hint=f"ls {shown_path(prefix / 'bin')}") from None


def _ls(arguments: argparse.Namespace) -> int:
    rows = list(_built()) if store_exists() else []
    console = Console()
    if arguments.json:
        console.json(rows)
    elif rows:
        table = [[row["environment"], row["python"], str(row["packages"])] for row in rows]
        console.table(table, header=("environment", "python", "packages"))
    else:
        console.info("no environments yet: repro env build RECIPE")
    return 0


def _built() -> Iterator[dict[str, Any]]:
    from repro_est.environment.prefix import records

    _, store = open_store()
    for key, record in records(store.layout):
        yield {
            "environment": key,
            "python": record["interpreter"]["version"],
            "packages": len(_packages(record["environment"])),
            "path": str(store.layout.environment(key)),
        }


def _verify(arguments: argparse.Namespace) -> int:
    from repro_est.environment.key import environment_document, environment_key
    from repro_est.platforms import current_platform
    from repro_est.store.verify import verify_environments

    console = Console(quiet=arguments.json)
    keys = None
    if arguments.recipe:
        lock, store = _locked(arguments, console)
        keys = [environment_key(environment_document(lock, current_platform()))]
        if not store.layout.environment(keys[0]).is_dir():
            raise UsageError(f"environment {keys[0]}: is not built", hint=f"repro env build {arguments.recipe}")
    else:
        check_store_exists()
        _, store = open_store()
    report = verify_environments(store, keys)
    if arguments.json:
        bad = [{"environment": item.name, "message": item.message} for item in report.findings]
        console.json({"ok": not bad, "environments": report.environments, "findings": bad})
    elif report.findings:
        console.out("\n".join(map(str, report.findings)))
    if report.findings:
        raise VerificationError(
            f"{len(report.findings)} of {counted(report.environments, 'environment')} not as built",
            hint="repro verify --repair   sets them aside; a run does that with its own, and builds it anew",
        )
    console.step("Verified", counted(report.environments, "environment"))
    return 0


def _packages(document: Mapping[str, Any]) -> dict[str, str]:
    return {name: version for name, version, *_ in (*document.get("conda", ()), *document["packages"])}

"""The source directory and the entry script of a draft, and the script found where the old file names none."""

from __future__ import annotations

import ast
import os
from pathlib import Path, PurePosixPath
from typing import Any

from repro_est.migrate.draft import TODO, Draft, Place, Unknown
from repro_est.recipe.schema import keys_of

SOURCE = ("estimator", "source_directory")
ENTRY = ("estimator", "entry_script")
_USUAL = ("train.py", "main.py", "run.py")


def put_source(draft: Draft, source: Path, script: Any, place: Place, *, hint: str = "no such file yet") -> None:
    """Puts both.

    Args:
        script: relative to the source directory; None when the old file names none.
        hint: why the script may not be there.
    """
    _put(draft, source, script, place, hint)
    _put_compat(draft, source / str(draft.get(ENTRY)), place)


def _put(draft: Draft, source: Path, script: Any, place: Place, hint: str) -> None:
    relative = draft.relative(source)
    if relative != ".":
        draft.put(SOURCE, relative)
    if isinstance(script, Unknown):
        draft.put(ENTRY, TODO)
        draft.unknown(place, "entry script", script, ENTRY)
    elif script is None:
        _find(draft, source, place)
    else:
        name = PurePosixPath(os.path.normpath(str(script))).as_posix()
        draft.took(place, "entry script", ENTRY, name)
        if not os.path.isfile(source / name):  # False for a name no file can have
            draft.todo(place, f"entry script {name}", f"{hint}: {draft.shown(source / name)}", ENTRY)


def imported_modules(script: Path) -> set[str]:
    """Returns the top-level modules a script imports; none when it cannot be read."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def _put_compat(draft: Draft, script: Path, place: Place) -> None:
    """Gives a script that imports Azure ML's names those of repro, where this version has them."""
    if "azureml" in keys_of("compat") and "azureml" in imported_modules(script):
        draft.put(("compat", "azureml"), True)
        draft.changed(place, "import azureml", "the script gets repro's own names for it: [compat] azureml = true")


def _find(draft: Draft, source: Path, place: Place) -> None:
    scripts = sorted(path.name for path in source.glob("*.py"))
    usual = next((name for name in _USUAL if name in scripts), None)
    found = usual or (scripts[0] if len(scripts) == 1 else None)
    if found:
        draft.put(ENTRY, found)
        draft.changed(place, "entry script", f"none is named, so it is the one that is there: {found}")
    else:
        draft.put(ENTRY, TODO)
        draft.todo(place, "entry script", "none is named: say which, or repro import --script FILE", ENTRY)

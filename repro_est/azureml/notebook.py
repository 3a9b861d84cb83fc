"""Notebooks as programs: the code cells of an .ipynb, one after the other, as Python.

A notebook is executed in one namespace, and the value of a cell's last expression is printed, as Jupyter shows it. What
only IPython understands is known before the first cell runs: `%matplotlib` and autoreload say nothing here and are
skipped, `%%writefile` writes its file, everything else (`!pip install`, `%env`) is refused by cell and line.
"""

from __future__ import annotations

import ast
import json
import linecache
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from repro_est.errors import UsageError

_SKIPPED = ("matplotlib", "autoreload", "load_ext autoreload", "reload_ext autoreload", "config")
_ASSIGNED_SHELL = r"\s*[A-Za-z_][\w., ]*=\s*(?P<line>[!%].*)"
_VARIABLE = r"\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)"
_INSTALLS = r"[!%]\s*(sys\.executable|python\S*|\{sys\.executable\})?\s*(-m\s+)?(pip|conda|mamba)\b"


@dataclass(frozen=True, slots=True)
class Cell:
    """One code cell.

    Args:
        name: the notebook and the number of the cell, as a traceback shows it.
        body: its statements, but for the last one when that is an expression.
        last: that expression.
        writes: what `%%writefile` says, with the text to write, for a cell that is a file.
    """

    name: str
    body: CodeType | None = None
    last: CodeType | None = None
    writes: tuple[tuple[str, ...], str] | None = None

    def execute(self, namespace: dict[str, Any]) -> None:
        if self.writes is not None:
            _write(self.name, *self.writes, namespace)
        if self.body is not None:
            exec(self.body, namespace)  # noqa: S102 -- the user's own program
        if self.last is not None:
            value = eval(self.last, namespace)  # noqa: S307
            if value is not None:
                print(repr(value), flush=True)


def read_cells(path: Path) -> list[Cell]:
    """Returns the code cells of a notebook.

    Raises:
        UsageError: it is no notebook of format 3 or 4, or has cells that cannot be run; all of them are named.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        sources = [_text(cell) for cell in _cells(document) if cell["cell_type"] == "code"]
    except (UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: is no notebook: {error}", hint="expected the JSON of Jupyter") from None
    cells: list[Cell] = []
    problems: list[str] = []
    for number, source in enumerate(sources, 1):
        name = f"{path.name} cell {number}"
        try:
            cells.append(_cell(name, source))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return cells


def _cells(document: Any) -> list[Any]:
    if "cells" in document:
        return list(document["cells"])
    return [cell for sheet in document["worksheets"] for cell in sheet["cells"]]  # format 3


def _text(cell: dict[str, Any]) -> str:
    source = cell["source"] if "source" in cell else cell["input"]
    return source if isinstance(source, str) else "".join(source)


def _cell(name: str, source: str) -> Cell:
    first, _, rest = source.lstrip("\n").partition("\n")
    if first.startswith("%%writefile"):
        return Cell(name, writes=(tuple(shlex.split(first)[1:]), rest))
    try:
        tree = ast.parse(source, name)
    except SyntaxError:
        source = "".join(_without_magics(name, source))
        try:
            tree = ast.parse(source, name)
        except SyntaxError as error:
            raise UsageError(f"{name}, line {error.lineno}: {error.msg}") from None
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    shown = isinstance(last, ast.Expr) and not source.rstrip().endswith(";")
    if last is not None and not shown:
        tree.body.append(last)
    return Cell(
        name,
        compile(tree, name, "exec") if tree.body else None,
        compile(ast.Expression(last.value), name, "eval") if isinstance(last, ast.Expr) and shown else None,
    )


def _without_magics(name: str, source: str) -> Iterator[str]:
    """Yields the lines of a cell, those that mean nothing here left empty.

    Raises:
        UsageError: for a line that means something here.
    """
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        assigned = re.fullmatch(_ASSIGNED_SHELL, line.rstrip())
        text = assigned["line"] if assigned else line.strip()
        if not assigned and text.startswith("%") and text.lstrip("%").strip().startswith(_SKIPPED):
            yield re.sub(r"\S.*", "pass", line)
        elif text.startswith(("%", "!", "?")) or re.fullmatch(r"[\w.]+\?{1,2}", text):
            hint = "declare packages in pip_packages or conda_packages; they are locked"
            raise UsageError(
                f"{name}, line {number}: `{text}`: only IPython understands that, expected Python",
                hint=hint if re.match(_INSTALLS, text) else "write it in Python, or take the line out",
            )
        else:
            yield line


def _write(name: str, words: tuple[str, ...], text: str, namespace: dict[str, Any]) -> None:
    """Does what `%%writefile [-a] FILE` does."""
    files = [word for word in words if word not in ("-a", "--append")]
    if len(files) != 1:
        raise UsageError(f"{name}: got `%%writefile {' '.join(words)}`, expected `%%writefile [-a] FILE`")
    path = re.sub(_VARIABLE, lambda found: str(namespace.get(found[1] or found[2], found[0])), files[0])
    with open(path, "a" if len(files) < len(words) else "w", encoding="utf-8") as file:
        file.write(text if text.endswith("\n") else text + "\n")
    print(f"Wrote {path}", flush=True)

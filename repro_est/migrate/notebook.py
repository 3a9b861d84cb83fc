"""The Python in a script or a notebook, as one program, with the place of each of its lines.

Of a notebook the code cells are joined; what is for IPython only (`%magic`, `!command`, `name?`) is blanked, and a cell
of another language is left out. A cell that writes a file (`%%writefile`) is remembered by the file's name.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from repro_est.errors import UsageError
from repro_est.migrate.draft import Place
from repro_est.migrate.text import read_text

_PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture")
_FOR_IPYTHON = r"\s*(%|!|\?)|.*\?\s*$|\s*[A-Za-z_][\w, ]*=\s*(!|%[a-z])"


@dataclass(frozen=True, slots=True)
class Source:
    """A program.

    Args:
        places: of each line, the first one first.
        written: the files its cells write, as the cells name them.
        unread: of each cell that is no Python.
    """

    tree: ast.Module
    places: tuple[Place, ...]
    written: tuple[str, ...] = ()
    unread: tuple[Place, ...] = ()

    def place(self, line: int) -> Place:
        return self.places[line - 1] if 0 < line <= len(self.places) else Place(self.places[0].file)


def read_source(path: Path, shown: str) -> Source:
    """Reads a `.py` or an `.ipynb`.

    Raises:
        UsageError: it is no Python, or no notebook.
    """
    text = read_text(path, shown)
    if path.suffix == ".ipynb":
        return _notebook(text, shown)
    try:
        tree = _parsed(text)
    except SyntaxError as error:
        raise UsageError(f"{shown}:{error.lineno or 1}: is not valid Python: {error.msg}") from None
    return Source(tree, tuple(Place(shown, number) for number in range(1, text.count("\n") + 2)))


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "nested too deeply") from None


def _notebook(text: str, shown: str) -> Source:
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        texts = ["".join(cell["source"]) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{shown}: is no notebook of format 4: {str(error).splitlines()[0]}") from None
    body: list[ast.stmt] = []
    places: list[Place] = []
    written: list[str] = []
    unread: list[Place] = []
    for number, cell in enumerate(texts, 1):
        name = f"{shown} cell {number}"
        if match := re.match(r"\s*%%writefile\s+(?:-a\s+)?(\S+)", cell):
            written.append(match[1].strip("'\""))
        program = _without_magic(cell)
        try:
            tree = _parsed(program)
        except SyntaxError:
            unread.append(Place(name))
            continue
        for node in tree.body:
            ast.increment_lineno(node, len(places))
        body += tree.body
        places += [Place(name, line) for line in range(1, program.count("\n") + 2)]
    return Source(ast.Module(body, []), tuple(places) or (Place(shown),), tuple(written), tuple(unread))


def _without_magic(cell: str) -> str:
    if cell.lstrip().startswith("%%") and not cell.lstrip().startswith(_PYTHON_MAGICS):
        return ""
    lines = cell.split("\n")
    return "\n".join(_blanked(line) if re.match(_FOR_IPYTHON, line) else line for line in lines)


def _blanked(line: str) -> str:
    """Keeps a block that holds nothing else a block."""
    return f"{line[: len(line) - len(line.lstrip())]}pass"

"""A notebook as entry script: what is read of it before it runs, and the command that runs it.

papermill executes it inside the run's environment, which has to hold papermill and ipykernel. It starts, as a script
does, in the directory of the source, not in its own. `outputs/NAME.output.ipynb` is the notebook with what its cells
put out; it is written anew after every cell, so that a failing cell leaves all before it, and its own traceback.

A flag `--learning-rate` is the parameter `learning_rate`, set after the cell with the tag `parameters`; a bare flag is
True. papermill reads a word as a number, True, False or None where it looks like one.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("papermill", "ipykernel")
"""Packages an environment must hold."""

_ENDING = ".ipynb"
_FORMAT = 4
_PARAMETERS = "parameters"
_PYTHON_INSIDE = ("%%time", "%%timeit", "%%capture", "%%prun")
"""Magics of a whole cell that leave it Python."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with code; cells are counted from 1, those with text among them."""

    number: int
    source: str


@dataclass(frozen=True, slots=True)
class Notebook:
    """What is known of a notebook.

    Args:
        takes_parameters: a cell has the tag `parameters`.
    """

    cells: tuple[Cell, ...]
    takes_parameters: bool


def is_notebook(entry_script: str) -> bool:
    return entry_script.endswith(_ENDING)


def read_notebook(path: Path) -> Notebook:
    """Reads a notebook.

    Raises:
        ValueError: it is none that can be executed; the message says why.
        OSError: it cannot be read.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON, so no notebook: {error}") from None
    version = content.get("nbformat") if isinstance(content, dict) else None
    if version != _FORMAT:
        got = f"nbformat {version}" if version is not None else "JSON without nbformat"
        raise ValueError(f"got {got}, expected a notebook of nbformat {_FORMAT}: Jupyter saves it as one")
    try:
        language = content.get("metadata", {}).get("language_info", {}).get("name", "python")
        cells = [(number, cell) for number, cell in enumerate(content["cells"], 1) if cell["cell_type"] == "code"]
        code = tuple(Cell(number, "".join(cell["source"])) for number, cell in cells)
        tagged = any(_PARAMETERS in cell.get("metadata", {}).get("tags", ()) for _, cell in cells)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no notebook of nbformat {_FORMAT}: {error!r}") from None
    if language not in ("python", "ipython"):
        raise ValueError(f"is a notebook in {language}, expected Python")
    return Notebook(code, tagged)


def parameter_name(flag: str) -> str:
    """Returns the parameter a flag sets.

    Raises:
        ValueError: no variable can be called so.
    """
    name = flag.lstrip("-").replace("-", "_")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"sets no parameter of a notebook: `{name}` is no name of a variable")
    return name


def notebook_command(python: str, path: str, parameters: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """Returns the command line that executes a notebook.

    Args:
        path: of the notebook, relative to the source.
        parameters: flags, each with its one word, or none for a bare one.
    """
    stem = path.rsplit("/", 1)[-1].removesuffix(_ENDING)
    words = [python, "-m", "papermill", path, f"outputs/{stem}.output{_ENDING}"]
    words += ["-k", "python3", "--no-progress-bar", "--log-output"]
    for flag, values in parameters:
        words += ["-p", parameter_name(flag), *(values or ["True"])]
    return tuple(words)


def without_magics(source: str) -> str | None:
    """Returns the source of a cell as Python, line for line; None when it has no magics of IPython."""
    first, newline, rest = source.partition("\n")
    if first.startswith("%%"):
        return newline + (without_magics(rest) or rest) if first.split()[0] in _PYTHON_INSIDE else ""
    lines = [re.sub(r"^(\s*)(?:[%!?].*|.*\?\s*)$", r"\1pass", line) for line in source.split("\n")]
    lines = [re.sub(r"=\s*[%!].*$", "= None", line) for line in lines]
    changed = "\n".join(lines)
    return changed if changed != source else None

"""The payload of a prefix: the files that were installed, as a tree.

Left out are byte code, which is made of the rest; the record itself; and in a virtual environment what names the
interpreter of this machine.
"""

from __future__ import annotations

from pathlib import Path

from repro_est.errors import EnvironmentBuildError, SourceError
from repro_est.snapshot import tree_in_place
from repro_est.store.trees import Tree

RECORD = "env.json"
"""Written last into a prefix: its key, its document, what it stands on, the tree of its payload."""


def payload(path: Path, *, standalone: bool) -> Tree:
    """Returns the payload of a prefix.

    Args:
        standalone: it brings its own interpreter.
    """

    def left_out(name: str, is_directory: bool) -> bool:
        machine = not standalone and (name == "pyvenv.cfg" or name.startswith("bin/python"))
        byte_code = name.endswith(".pyc") or (is_directory and name.endswith("__pycache__"))
        return machine or byte_code or name == RECORD

    try:
        return tree_in_place(path, exclude=left_out, links_may_leave=True)
    except SourceError as error:
        raise EnvironmentBuildError(error.message) from None

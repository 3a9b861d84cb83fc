"""The payload of a prefix: the files that were installed, as a tree that is the same wherever it is built.

Left out of all there is in a prefix are byte code, which is made of the rest, and in a virtual environment what names
the interpreter of this machine.
"""

from __future__ import annotations

from repro_est.store.trees import Tree

RECORD = "env.json"
"""Written last into a prefix: its key, its document, what it stands on, the trees of its payload and of all of it."""


def payload(whole: Tree, *, standalone: bool) -> Tree:
    """Returns the payload of a prefix.

    Args:
        whole: all there is in it but the record.
        standalone: it brings its own interpreter.
    """

    def belongs(path: str) -> bool:
        machine = not standalone and (path == "pyvenv.cfg" or path.startswith("bin/python"))
        return not machine and not path.endswith(".pyc") and "__pycache__" not in path.split("/")

    return Tree.of(entry for entry in whole.entries if belongs(entry.path))

"""The payload of a prefix: the files that were installed, as a tree.

Left out are byte code, which is made of the rest; the record itself; and in a virtual environment what names the
interpreter of this machine.
"""

from __future__ import annotations

from pathlib import Path

from repro_est.errors import EnvironmentBuildError
from repro_est.scan import scan
from repro_est.store.blobs import digest_file
from repro_est.store.trees import Entry, Kind, Tree

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

    found, problems = scan(path, shown=str(path), exclude=left_out, links_may_leave=True)
    if problems:
        raise EnvironmentBuildError("\n".join(problems))
    entries: list[Entry] = []
    for item in found:
        if item.kind in (Kind.SYMLINK, Kind.DIRECTORY):
            entries.append(Entry(item.path, item.kind, target=item.target))
        else:
            content = digest_file(path / item.path, with_sha256=False)
            entries.append(Entry(item.path, item.kind, content.xxh3, content.size))
    return Tree.of(entries)

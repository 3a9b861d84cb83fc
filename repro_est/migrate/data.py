"""Datasets and datastores of a program, as inputs of a recipe.

Where the data is on this machine is known only if the program says so: a path of the machine, an address, or a
directory it uploaded itself. Else the input's path is left to the user, with what it was.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from repro_est.migrate.azure import put_input
from repro_est.migrate.draft import Draft, Place, Unknown
from repro_est.migrate.evaluate import Items, Program, Row, Thing
from repro_est.migrate.notebook import Source

_OUTPUTS = ("OutputFileDatasetConfig", "HDFSOutputDatasetConfig", "OutputTabularDatasetConfig", "OutputDatasetConfig")
_WRAPPERS = ("as_mount", "as_download", "as_hdfs", "as_named_input", "register", "DatasetConsumptionConfig")
_FROM_FILES = ("from_files", "from_delimited_files", "from_parquet_files", "from_json_lines_files")
_ORIGINS = (*_FROM_FILES, "get_by_name", "get_by_id", "path", "upload", "upload_directory", "DataReference")


class Data:
    """The data of one program."""

    def __init__(self, draft: Draft, program: Program, source: Source, base: Path) -> None:
        self._draft, self._base = draft, base
        self._uploads: dict[str, str] = {}
        self._registered: dict[str, Thing] = {}
        self._taken: dict[str, str] = {}
        for call in program.calls:
            if call.name in ("upload", "upload_directory") and isinstance(source_ := call.get("src_dir", 0), str):
                self._uploads[_target(call)] = source_
            elif call.name == "register" and isinstance(name := call.get("name", 1), str):
                self._registered[name] = call

    def word(self, value: Any, place: Place, *, name: str) -> Any:
        """Returns what a value is on the command line: itself, an input, or an Unknown.

        Args:
            name: of the input, where the program gives it none.
        """
        if isinstance(value, Row | tuple):
            words = [self.word(item, place, name=name) for item in value]
            return [*words, *(Unknown(thing.text) for thing in getattr(value, "more", ()))]
        if isinstance(value, Items):
            return Unknown(str(dict(value)))
        return self._thing(value, place, name) if isinstance(value, Thing) else value

    def _thing(self, thing: Thing, place: Place, name: str) -> Any:
        if output := _output(thing):
            self._draft.changed(place, thing.text, f'"outputs/{output}": what the script writes there is kept')
            return f"outputs/{output}"
        origin, named, copied, wrapped = _unwrapped(thing)
        if not wrapped and not (isinstance(origin, Thing) and origin.name in _ORIGINS):
            return Unknown(thing.text)
        was, path = self._origin(origin)
        key = self._name(named or name, was)
        shown = path if path is None or "://" in path else self._draft.relative(self._base / path)
        word = put_input(self._draft, key, place, thing.text, was=was, path=shown, copied=copied)
        if path and "://" not in path and not os.path.exists(self._base / path):
            missing = self._draft.shown(self._base / path)
            self._draft.todo(
                place, thing.text, f"no such file or directory: {missing}", ("inputs", word["input"], "path")
            )
        return word

    def _name(self, name: str, was: str) -> str:
        number, key = 1, name.replace("-", "_") or "data"
        while self._taken.get(key, was) != was:
            number += 1
            key = f"{name.replace('-', '_')}_{number}"
        self._taken[key] = was
        return key

    def _origin(self, origin: Any) -> tuple[str, str | None]:
        """What some data was at Azure, and its path or address where the program says it."""
        if not isinstance(origin, Thing):
            return repr(origin), origin if isinstance(origin, str) else None
        if origin.name == "path" and origin.called:
            return self._of_datastore(origin.args[0] if origin.args else "", origin.text)
        if origin.name == "DataReference":
            return self._of_datastore(origin.get("path_on_datastore", 2) or "", origin.text)
        if origin.name in ("upload", "upload_directory"):
            source = origin.get("src_dir", 0)
            return origin.text, source if isinstance(source, str) else None
        if origin.name in _FROM_FILES:
            return self._of_files(origin.get("path", 0), origin.text)
        known = self._registered.get(str(origin.get("name", 1))) if origin.name == "get_by_name" else None
        if known is not None and isinstance(known.owner, Thing):
            inner = _unwrapped(known.owner)[0]
            return self._origin(inner) if inner is not origin else (origin.text, None)
        if (not origin.called and "" in self._uploads) or origin.name in ("get_default_datastore", "Datastore"):
            return origin.text, self._uploads.get("")
        return origin.text, None

    def _of_files(self, path: Any, text: str) -> tuple[str, str | None]:
        if isinstance(path, Row) and len(path) == 1:
            path = path[0]
        if isinstance(path, tuple) and len(path) == 2:
            return self._of_datastore(path[1], text)
        if isinstance(path, Thing) and path.name == "path":
            return self._origin(path)
        if isinstance(path, str) and ("://" not in path or re.match("https?://", path)) and "*" not in path:
            return text, path
        return text, None

    def _of_datastore(self, remote: Any, text: str) -> tuple[str, str | None]:
        """Where a path of a datastore came from, when the program uploaded it."""
        if not isinstance(remote, str):
            return text, None
        remote = re.sub(r"(^|/)[^/]*[*?].*$", "", remote).strip("/")
        for target, source in self._uploads.items():
            if remote == target:
                return text, source
            if not target or remote.startswith(f"{target}/"):
                return text, f"{source.rstrip('/')}/{remote.removeprefix(target).strip('/')}"
        return text, None


def _unwrapped(thing: Thing) -> tuple[Any, str | None, bool, bool]:
    """Takes the ways of use off a dataset: what is below, its name, whether it is copied, whether there were any."""
    current: Any = thing
    name: str | None = None
    copied = wrapped = False
    while isinstance(current, Thing) and current.called and current.name in _WRAPPERS:
        wrapped = True
        copied = copied or current.name == "as_download"
        if current.name == "DatasetConsumptionConfig":
            given, below = current.get("name", 0), current.get("dataset", 1)
            copied = copied or current.get("mode", 2) == "download"
        else:
            given = current.get("name", 0) if current.name == "as_named_input" else None
            below = current.owner
        name = name or (given if isinstance(given, str) else None)
        current = below
    if isinstance(current, Thing) and current.name == "DataReference":
        given = current.get("data_reference_name", 1)
        name = name or (given if isinstance(given, str) else None)
        copied = copied or current.get("mode") == "download"
    return current, name, copied, wrapped


def _output(thing: Thing) -> str | None:
    """The name of an output dataset, None when it is none."""
    current: Any = thing
    while isinstance(current, Thing):
        if current.called and current.name in _OUTPUTS:
            name = current.get("name", 0) or current.variable
            return re.sub(r"[^A-Za-z0-9_.-]+", "_", name) if isinstance(name, str) else "data"
        current = current.owner if current.called else None
    return None


def _target(call: Thing) -> str:
    """The path an upload went to."""
    value = call.get("target_path", 1) if call.name == "upload" else call.get("target", 1)
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if isinstance(value, Thing) and value.name == "path" and value.args:
        value = value.args[0]
    return value.strip("/") if isinstance(value, str) else "" if value is None else "?"

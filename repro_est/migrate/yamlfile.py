"""A YAML file with the line and the very text of everything in it: `3.10` is a version, and not the number 3.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from repro_est.errors import UsageError
from repro_est.files import is_utf8
from repro_est.migrate.text import read_text

_Path = tuple[str | int, ...]


class YamlFile:
    """The table a YAML file holds.

    Args:
        shown: the file as the user named it.

    Raises:
        UsageError: not readable, not YAML, or no table; with the line.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self.path, self.shown = path, shown
        self._lines: dict[_Path, int] = {}
        self._texts: dict[_Path, str] = {}
        text = read_text(path, shown)
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            self._visit(node, (), set())
            content = loader.construct_document(node) if node is not None else {}
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{shown}:{mark.line + 1}" if mark else shown
            raise UsageError(f"{place}: not valid YAML: {error.problem or error.context}") from None
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise UsageError(f"{shown}:{line}: not valid YAML: holds the character {error.character:#x}") from None
        except (RecursionError, ValueError) as error:
            raise UsageError(f"{shown}: not valid YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(content, dict):
            raise UsageError(f"{shown}: got {_named(content)}, expected a table of keys")
        self.content: dict[Any, Any] = content

    def line(self, path: _Path) -> int | None:
        """Returns the 1-based line of a key or an item, or of the nearest thing around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    def text(self, path: _Path) -> str | None:
        """Returns a scalar as it is written."""
        return self._texts.get(path)

    def _visit(self, node: yaml.Node | None, path: _Path, seen: set[int]) -> None:
        if node is None or id(node) in seen:  # an anchor may hold itself
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    self._visit(key, (), seen)
                    below = (*path, key.value)
                    self._lines[below] = key.start_mark.line + 1
                    self._visit(value, below, seen)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._lines[(*path, number)] = item.start_mark.line + 1
                self._visit(item, (*path, number), seen)
        elif isinstance(node, yaml.ScalarNode):
            if not is_utf8(node.value):
                raise UsageError(f"{self.shown}:{node.start_mark.line + 1}: holds half a character: {node.value!r}")
            self._texts[path] = node.value


def as_rows(value: Any, place: object, what: str) -> list[Any]:
    """Returns a list, an empty one for nothing.

    Raises:
        UsageError: it is something else.
    """
    if value is None or isinstance(value, list):
        return value or []
    raise UsageError(f"{place}: {what}: got {_named(value)}, expected a list")


def as_table(value: Any, place: object, what: str) -> dict[Any, Any]:
    """Returns a table, an empty one for nothing.

    Raises:
        UsageError: it is something else.
    """
    if value is None or isinstance(value, dict):
        return value or {}
    raise UsageError(f"{place}: {what}: got {_named(value)}, expected a table of keys")


def _named(value: Any) -> str:
    kinds = {list: "a list", dict: "a table", type(None): "nothing"}
    return kinds.get(type(value)) or repr(value)

"""Writing a recipe: the TOML text of a document, in the order and the manner a person would write it.

`tomli.loads(write_recipe(document)) == document` for every document made of what TOML has, names that no schema knows
included; the order of `script_params`, which is hashed, is kept. Tables and keys that the schema knows come in its
order, the others after them as they were given. Whether the text is a recipe that loads is for `load` to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from repro_est.recipe.layers import Path_
from repro_est.recipe.schema import NAMED_TABLES, TABLES, Type, keys_of

_WIDTH = 100
_INDENT = "    "
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_BARE = r"[A-Za-z0-9_][A-Za-z0-9_-]*"  # TOML would take `--lr` too, which reads better in quotes


def write_recipe(document: Mapping[str, Any], comments: Mapping[Path_, str] | None = None) -> str:
    """Returns the text of a recipe.

    Args:
        document: tables as tomli reads them; a tuple is an array.
        comments: by the path of the key they stand above, such as `("estimator", "script_params", "--lr")`; `()` is
            the head of the file. A comment on a key that is not there stands at the end of the table it would be in.

    Raises:
        ValueError: a value that TOML cannot hold; the message says where and what.
    """
    blocks = list(_Writer(comments or {}).blocks(document))
    return "\n".join(blocks)


class _Writer:
    def __init__(self, comments: Mapping[Path_, str]) -> None:
        self._comments = comments

    def blocks(self, document: Mapping[str, Any]) -> Iterator[str]:
        """Yields one text for the head, the keys above all tables, and each table."""
        if head := self._comment(()):
            yield _text(head)
        yield from self._table((), document)

    def _table(self, path: Path_, table: Mapping[str, Any]) -> Iterator[str]:
        names = _ordered(path, table)
        below = [name for name in names if _has_header((*path, name), table[name])]
        beside = [name for name in names if name not in below]
        lines: list[str] = []
        for name in beside:
            lines += self._entry((*path, name), table[name])
        lines += self._comments_without_key(path, table)
        if path and (lines or not below or self._comment(path)):
            lines = [*self._comment(path), f"[{'.'.join(map(_key, path))}]", *lines]
        if lines:
            yield _text(lines)
        for name in below:
            yield from self._table((*path, name), table[name])

    def _entry(self, path: Path_, value: Any) -> Iterator[str]:
        for place in [path, *sorted(place for place in self._comments if len(place) > len(path))]:
            if place[: len(path)] == path:
                yield from self._comment(place)
        name = _key(path[-1])
        line = f"{name} = {_value(value, path)}"
        if isinstance(value, list | tuple) and value and len(line) > _WIDTH:
            yield f"{name} = ["
            for number, item in enumerate(value):
                yield f"{_INDENT}{_value(item, (*path, str(number)))},"
            yield "]"
        else:
            yield line

    def _comment(self, path: Path_) -> list[str]:
        text = self._comments.get(path, "")
        return [f"# {_visible(line)}".rstrip() for line in text.splitlines()]

    def _comments_without_key(self, path: Path_, table: Mapping[str, Any]) -> Iterator[str]:
        """Comments on what is not in this table, and has no table of its own further down."""
        for place in self._comments:
            if place[: len(path)] == path and len(place) > len(path) and place[len(path)] not in table:
                yield from self._comment(place)


def _ordered(path: Path_, table: Mapping[str, Any]) -> list[str]:
    """The names of a table: those of the schema in its order, then the others as they are."""
    known: Iterable[str] = ()
    if not path:
        known = [*keys_of(""), *TABLES]
    elif (len(path) == 1 and path[0] not in NAMED_TABLES) or (len(path) == 2 and path[0] in NAMED_TABLES):
        known = keys_of(path[0])
    first = [name for name in known if name in table]
    return first + [name for name in table if name not in first]


def _has_header(path: Path_, value: Any) -> bool:
    """Whether a value is written as a table with a header of its own."""
    if not isinstance(value, Mapping):
        return False
    if len(path) > 1 and _type_of(path[:-1]) is Type.PARAMS:
        return False
    kind = _type_of(path)
    if kind is None:
        return len(path) == 1 or path[0] in NAMED_TABLES or any(isinstance(item, Mapping) for item in value.values())
    if kind is Type.PARAMS or path[-1] == "environment_variables":
        return True
    return len(f"{_key(path[-1])} = {_value(value, path)}") > _WIDTH


def _type_of(path: Path_) -> Type | None:
    table = path[0] if len(path) > 1 else ""
    depth = {True: 3, False: 2}[table in NAMED_TABLES] if table else 1
    key = keys_of(table).get(path[-1]) if len(path) == depth else None
    return key.type if key else None


def _value(value: Any, path: Path_) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value, path)
        case int():
            return str(int(value))
        case float():
            return _float(value)
        case list() | tuple():
            return "[" + ", ".join(_value(item, (*path, str(number))) for number, item in enumerate(value)) + "]"
        case Mapping():
            pairs = [f"{_key(name)} = {_value(item, (*path, str(name)))}" for name, item in value.items()]
            return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    raise ValueError(f"{'.'.join(path)}: got {value!r} (a {type(value).__name__}), expected what TOML has a word for")


def _float(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return repr(float(value))


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"got a key {name!r} (a {type(name).__name__}), expected a string")
    return name if re.fullmatch(_BARE, name) else _string(name, (name,))


def _string(text: str, path: Path_) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = ".".join(path).encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"{shown}: got {text!r}, which is not UTF-8 and no TOML") from None
    return '"' + "".join(_ESCAPES.get(char) or _escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04X}" if ord(char) < 32 or ord(char) == 127 else char


def _visible(line: str) -> str:
    """A line of a comment, without the control characters that TOML allows in none."""
    return "".join(char if char == "\t" or char.isprintable() else repr(char)[1:-1] for char in line)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)

"""Which line of a TOML text a dotted key stands on. Only used to say where an error is.

tomli tells no positions, so this reads just enough of TOML's grammar (https://toml.io/en/v1.0.0): headers, keys,
and the strings and brackets that a value may hide further lines in. The text has been parsed by tomli before, so
nothing here has to refuse anything.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(#.*)?$")
_KEY_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.?)""")

Position = dict[tuple[str, ...], int]


def positions(text: str) -> Position:
    """Returns the 1-based line of every key and table header; the first one where a key stands twice."""
    found: Position = {}
    table: tuple[str, ...] = ()
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        header = _HEADER.match(line)
        if header and line.lstrip().startswith("["):
            table = _dotted(header.group(2))[0]
            found.setdefault(table, number + 1)
            number += 1
            continue
        parts, rest = _dotted(line)
        if parts and rest.startswith("="):
            for length in range(1, len(parts) + 1):
                found.setdefault(table + parts[:length], number + 1)
            number = _end_of_value(lines, number, rest[1:], found, table + parts)
        number += 1
    return found


def line_of(found: Position, key: tuple[str, ...]) -> int | None:
    """Returns the line of `key`, or of the nearest table around it; None when nothing of it is there."""
    while key:
        if key in found:
            return found[key]
        key = key[:-1]
    return None


def _dotted(text: str) -> tuple[tuple[str, ...], str]:
    """Reads a dotted key from the start of `text`; returns its parts and what follows."""
    parts: list[str] = []
    position = 0
    while match := _KEY_PART.match(text, position):
        double, single, bare, dot = match.groups()
        parts.append(next(part for part in (double, single, bare) if part is not None))
        position = match.end()
        if not dot:
            break
    return tuple(parts), text[position:].lstrip()


def _end_of_value(lines: list[str], number: int, rest: str, found: Position, key: tuple[str, ...]) -> int:
    """Returns the line on which a value ends; keys of an inline table count as standing on their own line."""
    depth = 0
    quote = ""
    text = rest
    while True:
        position = 0
        while position < len(text):
            if quote:
                end = _close(text, position, quote)
                if end < 0:
                    break
                position, quote = end, ""
                continue
            character = text[position]
            if character == "#":
                break
            if character in "\"'":
                triple = text[position : position + 3]
                quote = triple if triple == character * 3 else character
                position += len(quote)
                continue
            if character in "{," and depth + (character == "{") > 0:
                _note_inline(text[position + 1 :], number, found, key)
            depth += (character in "[{") - (character in "]}")
            position += 1
        if len(quote) == 1:
            quote = ""  # a basic string ends with its line
        if (depth <= 0 and not quote) or number + 1 >= len(lines):
            return number
        number += 1
        text = lines[number]


def _note_inline(text: str, number: int, found: Position, key: tuple[str, ...]) -> None:
    parts, rest = _dotted(text)
    if parts and rest.startswith("="):
        found.setdefault(key + parts, number + 1)


def _close(text: str, position: int, quote: str) -> int:
    """Returns the position after the end of a string, or -1 when it goes on in the next line."""
    while position < len(text):
        if text[position] == "\\" and quote[0] == '"':
            position += 2
        elif text.startswith(quote, position):
            return position + len(quote)
        else:
            position += 1
    return -1

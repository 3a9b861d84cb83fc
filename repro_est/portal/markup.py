"""HTML that cannot be broken by what is in it: text is escaped unless this module made it.

A `Markup` is text that is HTML already. Whatever else is put into an element, plain strings as well as strings cut
out of a `Markup`, is escaped, so that a forgotten call shows a tag and never makes one. Characters that no reader
sees, that turn the direction of text or that are no characters at all are spelled, `\\x1b`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from urllib.parse import quote

_VOID = {"br", "img", "meta"}
_SPACES = "\n\t"


class Markup(str):
    """Text that is HTML. Its methods return plain strings, which are escaped again where they are put."""

    __slots__ = ()


EMPTY = Markup("")


def escaped(text: object) -> Markup:
    """Returns a text as HTML; a `Markup` stays what it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(_spelled(str(text))))


def joined(parts: Iterable[object]) -> Markup:
    """Returns parts one after another."""
    return Markup("".join([escaped(part) for part in parts]))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Returns an element.

    Args:
        tag: a name, with classes after dots: `td.number`.
        children: text or `Markup`; None is left out.
        attributes: a trailing `_` is dropped, `_` inside becomes `-`; None leaves one out, True has no value.
    """
    name, *classes = tag.split(".")
    if classes:
        attributes = {"class": " ".join(classes), **attributes}
    opening = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{joined(child for child in children if child is not None)}</{name}>")


def link(path: str, text: object, **attributes: object) -> Markup:
    """Returns a link to a file below the page's directory; no name of a file makes it lead elsewhere."""
    return element("a", text, href="./" + quote(path, errors="surrogateescape"), **attributes)


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'


def _spelled(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in _SPACES
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )

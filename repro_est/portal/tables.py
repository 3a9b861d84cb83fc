"""Tables of a page: a head, rows, and what does not fit said in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repro_est.portal.markup import EMPTY, Markup, element
from repro_est.portal.words import shown


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, more: str = "") -> Markup:
    """Returns a table; a number is set to the right, and a column that is empty all the way down is left out.

    Args:
        rows: cells as values, or as markup.
        more: a line below the table, on what it leaves out.
    """
    rows = list(rows)
    places = [place for place in range(len(head)) if any(row[place] not in ("", None) for row in rows)]
    if not places:
        return EMPTY
    heads = [
        element("th.number" if any(_is_number(row[place]) for row in rows) else "th", head[place], scope="col")
        for place in places
    ]
    body = element("tbody", *(element("tr", *(_cell(row[place]) for place in places)) for row in rows))
    below = element("p.more", more) if more else None
    return element("div.scroll", element("table", element("thead", element("tr", *heads)), body), below)


def pairs(rows: Iterable[tuple[object, object]], *, look: str = "line") -> Markup:
    """Returns names with their values; what has none is left out.

    Args:
        look: `line` beside each other, `cells` as a table of several columns.
    """
    items = [
        element("div", element("dt", name), element("dd", value if isinstance(value, Markup) else shown(value)))
        for name, value in rows
        if value not in ("", None)
    ]
    return element(f"dl.{look}", *items) if items else EMPTY


def folded(title: object, *content: object, opened: bool = False) -> Markup:
    """Returns content that a click shows."""
    return element("details", element("summary", title), *content, open=True if opened else None)


def code(text: object) -> Markup:
    """Returns a hash or a name as it is typed."""
    return element("code", text)


def _cell(value: object) -> Markup:
    if isinstance(value, Markup):
        return element("td", value)
    return element("td.number" if _is_number(value) else "td", shown(value) if value is not None else "")


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)

"""Writes the tables of keys in docs/recipe.md from the schema: `python -m docs.keys`."""

from __future__ import annotations

import re
from pathlib import Path

from repro_est.recipe.schema import KEYS, LATER_TABLES, TABLES

PAGE = Path(__file__).parent / "recipe.md"
_TITLES = {"": "Top level", "inputs": "[inputs.NAME]", "models": "[models.NAME]"}


def tables() -> str:
    """Returns the Markdown of all tables."""
    parts: list[str] = []
    for table in ("", *TABLES):
        rows = [key for key in KEYS if key.table == table and key.later is None]
        parts.append(f"### {_TITLES.get(table, f'[{table}]')}\n\n| key | is | hash | |\n|---|---|---|---|")
        parts += [f"| `{key.name}` | {key.type} | {key.category} | {key.doc.replace('|', '&#124;')} |" for key in rows]
        parts.append("")
    later = sorted(
        {f"`{key.name}`" for key in KEYS if key.later is not None} | {f"`[{name}]`" for name in LATER_TABLES}
    )
    parts.append("Known and refused, with what to do instead or until then: " + ", ".join(later) + ".")
    return "\n".join(parts)


def page() -> str:
    """Returns the page with its tables made anew."""
    text = PAGE.read_text("utf-8")
    return re.sub(r"(<!-- keys:.*?-->\n).*?(\n<!-- end -->)", lambda m: m[1] + tables() + m[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

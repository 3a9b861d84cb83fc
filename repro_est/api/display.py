"""What a notebook shows of a run: a small table, of the state at the moment the cell was executed."""

from __future__ import annotations

from collections.abc import Iterable

from repro_est.console import counted, human_time
from repro_est.portal.facts import RunFacts
from repro_est.portal.markup import EMPTY, Markup, element
from repro_est.portal.words import short, shown, when

_MOST = 12
"""Metrics that are shown; the page has all."""


def run_html(facts: RunFacts, url: str = "") -> str:
    """Returns the table of a run as HTML.

    Args:
        url: where its page is, `""` when it has none.
    """
    attempt = facts.shown
    about: list[tuple[str, object]] = [
        ("Experiment", ", ".join(facts.experiments)),
        ("Run", element("code", short(facts.run_hash), title=facts.run_hash)),
        ("Name", facts.title),
        ("Status", facts.status.replace("_", " ")),
        ("Started", when(attempt.started) if attempt else ""),
        ("Took", human_time(facts.seconds) if facts.seconds is not None else ""),
        ("Page", element("a", "open", href=url, target="_blank", rel="noopener") if url else ""),
    ]
    reason = attempt.reason if attempt and facts.result is None else ""
    left = len(facts.metrics) - _MOST
    metrics = [(name, shown(value)) for name, value in list(facts.metrics.items())[:_MOST]]
    return element(
        "div.repro-run",
        _table((name, value) for name, value in about if value),
        element("p", reason) if reason else None,
        _table(metrics),
        element("p", f"and {counted(left, 'metric')} more") if left > 0 else None,
    )


def _table(rows: Iterable[tuple[str, object]]) -> Markup:
    body = [
        element("tr", element("th", name, style="text-align: left"), element("td", value, style="text-align: left"))
        for name, value in rows
    ]
    return element("table", element("tbody", *body)) if body else EMPTY

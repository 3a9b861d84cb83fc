"""The page of a run: one HTML file that opens anywhere, for years.

`page` is pure: the same facts are the same bytes. The file holds all it shows, needs no network and no script, and
forbids both to whatever a run might have smuggled in (Content-Security-Policy). `write_page` puts it beside the run in
the store, as `runs/<hash>/page.html`, whole or not at all; it may be written again at any time.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from repro_est.console import human_time
from repro_est.digest import RunHash
from repro_est.errors import ReproError
from repro_est.files import write_atomic
from repro_est.inside.history import as_float
from repro_est.portal import sections
from repro_est.portal.facts import RunFacts, collect_facts
from repro_est.portal.markup import EMPTY, Markup, element, escaped
from repro_est.portal.plot import spark, tick
from repro_est.portal.tables import code, pairs
from repro_est.portal.words import shown, when
from repro_est.store.guard import writing
from repro_est.store.records import AttemptRecord
from repro_est.store.store import Store

_TILES = 6
_MAX_LINKED = 20
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SECTIONS: tuple[tuple[str, Callable[[RunFacts], Markup]], ...] = (
    ("Parameters", sections.parameters),
    ("Metrics", sections.metrics),
    ("Evaluation", sections.shapes),
    ("Tables", sections.tables),
    ("Images", sections.images),
    ("Child runs", sections.children),
    ("Models", sections.models),
    ("Files", sections.files),
    ("Logs", sections.logs),
    ("Inputs and lineage", sections.lineage),
    ("Environment", sections.environment),
    ("Source", sections.source),
    ("Attempts", sections.attempts),
    ("Reproduce", sections.reproduce),
)


def page(facts: RunFacts) -> str:
    """Returns the page of a run as HTML."""
    found = [(title, content) for title, make in _SECTIONS if (content := make(facts))]
    body = [
        _header(facts),
        element("nav", *(element("a", title, href=f"#{_anchor(title)}") for title, _ in found)),
        element("main", *(_section(title, content) for title, content in found)),
        element("footer", f"run {facts.run_hash} · repro"),
    ]
    title = f"{facts.title} · {facts.run_hash[:12]}"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_style())),
    ]
    document = f"<!DOCTYPE html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"
    for secret in facts.secrets:
        document = document.replace(escaped(secret), "***")
    return document


def write_page(run: RunHash, store: Store, path: Path | None = None) -> Path:
    """Writes the page of a run, and those of the runs it links to that have none; returns where.

    Args:
        path: absolute; default: beside the run in the store.

    Raises:
        StoreError: the store cannot be written.
        VerificationError: the run's plan or result is not what it should be.
    """
    facts, home = collect_facts(run, store), store.layout.run(run)
    if path is not None:
        facts = facts.seen_from(os.path.relpath(home, path.parent) + "/")
    pages = set(facts.pages)
    for other in facts.linked[:_MAX_LINKED]:
        with contextlib.suppress(ReproError):  # a run that cannot be shown is no link
            if other not in pages:
                found = collect_facts(other, store)
                _write(store.layout.page(other), replace(found, pages=found.pages | {run}))
            pages.add(other)
    destination = path or store.layout.page(run)
    _write(destination, replace(facts, pages=frozenset(pages)))
    return destination


def _write(path: Path, facts: RunFacts) -> None:
    with writing(path):
        write_atomic(path, page(facts).encode("utf-8", "backslashreplace"))


def portal_url(run: RunHash, store: Store) -> str:
    """Writes the page of a run and returns its `file://` URL."""
    return write_page(run, store).as_uri()


def _header(facts: RunFacts) -> Markup:
    recorded, attempt = facts.plan.recorded, facts.shown
    tags = [element("span.tag", f"{key} {shown(value)}".strip()) for key, value in facts.tags.items()]
    about = pairs(
        [
            ("experiment", ", ".join(facts.experiments)),
            ("started", when(attempt.started) if attempt else ""),
            ("took", human_time(facts.seconds) if facts.seconds is not None else ""),
            ("on", ", ".join(_hosts(attempt)) if attempt else ""),
            ("target", recorded.target),
            ("Python", str(facts.plan.environment.get("python", ""))),
            ("recipe", recorded.recipe),
            *((name, shown(value)) for name, value in facts.properties.items()),
        ]
    )
    return element(
        "header",
        element("h1", facts.title, " ", element(f"span.status.{_mood(facts.status)}", _status_words(facts))),
        element("p.hash", code(facts.run_hash)),
        element("p.about", recorded.description) if recorded.description else None,
        element("p.tags", *tags) if tags else None,
        _failure(facts),
        about,
        _tiles(facts),
    )


def _hosts(attempt: AttemptRecord) -> list[str]:
    return [line.partition(",")[0] for line in sections.hardware(attempt)]


def _status_words(facts: RunFacts) -> str:
    return facts.status.replace("_", " ")


def _mood(status: str) -> str:
    """A class of the style: one colour for each way a run can be."""
    if status == "completed":
        return "good"
    return "bad" if status in ("failed", "timed_out", "lost") else "open"


def _failure(facts: RunFacts) -> Markup | None:
    attempt = facts.shown
    if facts.result is not None or attempt is None or not attempt.reason:
        return None
    return element("p.failure", f"Attempt {attempt.number}, phase {attempt.phase or 'unknown'}: {attempt.reason}")


def _tiles(facts: RunFacts) -> Markup:
    """The first numbers, large."""
    series = {item.name: item for item in facts.own.series}
    numbers = [
        (name, value)
        for name, value in facts.metrics.items()
        if isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(as_float(value))
    ]
    tiles = [
        element(
            "div.tile",
            element("span", name),
            element("b", tick(as_float(value))),
            spark(series[name]) if name in series else None,
        )
        for name, value in numbers[:_TILES]
    ]
    return element("div.tiles", *tiles) if tiles else EMPTY


def _section(title: str, content: Markup) -> Markup:
    return element("section", element("h2", title), content, id=_anchor(title))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _style() -> str:
    return Path(__file__).with_name("page.css").read_text("utf-8")

"""Aliases: names such as `production` that point at a version of a model, and how each of them moved.

`models/<name>/aliases.jsonl` is a chain (`store.chain`): what an alias points at is what its last line says, and
what it pointed at on some day is what its last line until then said. A line:

    {"alias", "version": N or null (taken away), "record": SHA-256 of the version's record or "", "why",
     "who", "when", "previous", "sha256"}

`record` binds a promotion to the record it meant: a version that was swapped since is found by `repro verify`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from repro_est.digest import Sha256
from repro_est.errors import UsageError, VerificationError
from repro_est.store.chain import Chain, Link
from repro_est.store.layout import Layout

LATEST = "latest"
"""The newest version of a model; no alias may have this name."""

_ALIAS = r"[a-zA-Z0-9][-._a-zA-Z0-9]{0,254}"


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One move of an alias.

    Args:
        version: what it points at from then on; None is nothing.
        record: SHA-256 of the record of that version, `""` for none.
        when: RFC 3339, UTC.
        sha256: of the line; the head of the history while it is the last one.
    """

    alias: str
    version: int | None
    record: str
    why: str
    who: str
    when: str
    sha256: Sha256

    def to_json(self) -> dict[str, Any]:
        return {
            "alias": self.alias,
            "version": self.version,
            "record": self.record,
            "why": self.why,
            "who": self.who,
            "when": self.when,
            "sha256": self.sha256,
        }


class Aliases:
    """The aliases of one model."""

    def __init__(self, layout: Layout, model: str) -> None:
        self._model = model
        self._path = layout.aliases(model)
        self._chain = Chain(layout, self._path)

    def history(self) -> list[AliasChange]:
        """Returns every move, oldest first.

        Raises:
            VerificationError: the history was tampered with; the line is named.
        """
        return [self._change(number, link) for number, link in enumerate(self._chain.links(), 1)]

    def current(self, at: datetime | None = None) -> dict[str, AliasChange]:
        """Returns the move that made each alias what it is, by name; of what it was at a time when `at` is given."""
        return _state([change for change in self.history() if at is None or datetime.fromisoformat(change.when) <= at])

    def head(self) -> Sha256:
        """Returns the digest that stands for the whole history until now."""
        return self._chain.head()

    def holds(self, head: str) -> bool:
        """Whether the history still has all that it had when `head` was its head."""
        return head == self._chain.genesis or any(change.sha256 == head for change in self.history())

    def point(self, alias: str, version: int | None, *, record: str = "", why: str = "") -> AliasChange | None:
        """Moves an alias, or takes it away; returns the move, None when the alias is there already.

        Args:
            version: None takes it away.

        Raises:
            UsageError: a name that no alias may have, or an alias to take away that there is not.
        """
        if not re.fullmatch(_ALIAS, alias) or alias.isdecimal() or alias == LATEST:
            expected = f"expected letters, digits, `-`, `_` and `.`, not a number and not `{LATEST}`"
            raise UsageError(f"{self._model}@{alias}: got {alias!r} as an alias, {expected}")

        def decide(links: Sequence[Link]) -> Mapping[str, Any] | None:
            now = _state([self._change(number, link) for number, link in enumerate(links, 1)])
            if version is None and alias not in now:
                there = ", ".join(sorted(now)) or "none"
                raise UsageError(f"model:{self._model}@{alias}: no such alias, `{self._model}` has: {there}")
            if alias in now and (now[alias].version, now[alias].record) == (version, record):
                return None
            return {"alias": alias, "version": version, "record": record, "why": why}

        link = self._chain.append(decide)
        return self._change(0, link) if link is not None else None

    def _change(self, number: int, link: Link) -> AliasChange:
        facts = link.facts
        try:
            return AliasChange(
                facts["alias"], facts["version"], facts["record"], facts["why"], link.who, link.when, link.sha256
            )
        except KeyError as error:
            raise VerificationError(
                f"{self._path}: line {number}: is no move of an alias: {error} is missing"
            ) from None


def parse_moment(text: str) -> datetime:
    """Returns the moment a person means: a date (its end, UTC), or a date and a time with its zone.

    Raises:
        UsageError: neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return moment.replace(tzinfo=UTC) + timedelta(days=1, microseconds=-1)
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"got {text!r}, expected a date such as 2026-11-25, or 2026-11-25T13:00:00Z")
    return moment


def _state(changes: Sequence[AliasChange]) -> dict[str, AliasChange]:
    state: dict[str, AliasChange] = {}
    for change in changes:
        if change.version is None:
            state.pop(change.alias, None)
        else:
            state[change.alias] = change
    return state

"""Which runs are kept, why, and in which order the others go: pure, from what `reach` has read.

A run is kept for good by a model, a pin, the tag `keep`, by being executed, by a use within the last day, or by being
an input of such a run. It is kept for now by a use within `keep_days`, by being one of the `keep_last` newest completed
runs of its recipe, or by being an input of one that is: those go, the least recently used first, when the store is
over its quota. No other run is kept.

Each run has a rank: 0 goes now, `KEEP` never, those in between go in their order. A run that made an input of another
one never goes before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from repro_est.digest import RunHash
from repro_est.project import Keeping
from repro_est.store.freshness import GRACE_SECONDS
from repro_est.store.reach import RunFacts

KEEP = 2**32 - 1
DAY_SECONDS = 24 * 3600.0


class Reason(NamedTuple):
    """Why a run is kept; `user` is the run whose input it made, when that is the reason."""

    words: str
    user: RunHash | None = None


class Roots:
    """What is kept of the runs of a store.

    Args:
        runs: all of them.
        named: runs that something outside of `runs/` names, with the reason: models, pins.
        is_busy: whether a run is executed on this machine now; asked only of those that nothing else keeps for good.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        runs: Mapping[RunHash, RunFacts],
        named: Mapping[RunHash, str],
        is_busy: Callable[[RunHash], bool],
        keeping: Keeping,
        *,
        now: float,
    ) -> None:
        self._runs, self._now = runs, now
        self.reasons: dict[RunHash, Reason] = {}
        self._keep(self._for_good(named))
        self._keep((run, "it is executed now") for run in runs if run not in self.reasons and is_busy(run))
        for_good = len(self.reasons)
        self._keep(self._for_now(keeping))
        self.ranks = self._ranked(list(self.reasons)[for_good:])

    def chain(self, run: RunHash) -> list[str]:
        """Returns why a run is kept, a line for each step; empty when it is not."""
        lines: list[str] = []
        at: RunHash | None = run
        while at is not None and (reason := self.reasons.get(at)) is not None:
            name = self._runs[at].name
            lines.append(f"run {at}{f' ({name})' if name else ''}: {reason.words}")
            at = reason.user
        return lines

    def _for_good(self, named: Mapping[RunHash, str]) -> Iterable[tuple[RunHash, str]]:
        for run, words in named.items():
            yield run, words
        for run, facts in self._runs.items():
            if not facts.readable:
                yield run, "its records cannot be read (`repro verify`)"
            elif facts.at_hosts:
                yield run, "it is at its hosts"
            elif facts.tagged:
                yield run, "it has the tag `keep`"
            elif self._now - facts.used < GRACE_SECONDS:
                yield run, "it was used within a day"

    def _for_now(self, keeping: Keeping) -> Iterable[tuple[RunHash, str]]:
        for run, facts in self._runs.items():
            if self._now - facts.used < keeping.keep_days * DAY_SECONDS:
                yield run, f"it was used within {keeping.keep_days} days"
        by_name: dict[str, list[RunFacts]] = defaultdict(list)
        for facts in self._runs.values():
            if facts.completed:
                by_name[facts.name].append(facts)
        for name, found in by_name.items():
            found.sort(key=lambda facts: (-facts.used, facts.run))
            for facts in found[: keeping.keep_last]:
                yield facts.run, f"it is one of the last {keeping.keep_last} of {name or 'its recipe'}"

    def _keep(self, runs: Iterable[tuple[RunHash, str]]) -> None:
        """Adds reasons, and what the runs they are for were made of."""
        added = [(run, Reason(words)) for run, words in runs]
        while added:
            run, reason = added.pop()
            if run in self.reasons or run not in self._runs:
                continue
            self.reasons[run] = reason
            added += [(source, Reason(f"it made an input of run {run[:12]}", run)) for source in self._sources(run)]

    def _ranked(self, soft: list[RunHash]) -> dict[RunHash, int]:
        ranks = dict.fromkeys(self.reasons, KEEP)
        soft.sort(key=lambda run: (self._runs[run].used, run))
        ranks.update({run: number for number, run in enumerate(soft, 1)})
        for run in reversed(soft):  # the highest first: what it was made of goes no earlier
            above = [run]
            while above:
                user = above.pop()
                for source in self._sources(user):
                    if ranks[source] < ranks[run]:
                        ranks[source] = ranks[run]
                        above.append(source)
        return ranks

    def _sources(self, run: RunHash) -> list[RunHash]:
        return [source for source in self._runs[run].sources if source in self._runs]


def users_first(runs: Iterable[RunHash], facts: Mapping[RunHash, RunFacts]) -> list[RunHash]:
    """Returns runs in an order in which none comes before one that it made an input of."""
    wanted, order, seen = set(runs), list[RunHash](), set[RunHash]()
    for start in sorted(wanted):
        path = [(start, iter(facts[start].sources))]
        if start in seen:
            continue
        seen.add(start)
        while path:
            run, sources = path[-1]
            following = next((item for item in sources if item in wanted and item not in seen), None)
            if following is None:
                order.append(run)
                path.pop()
            else:
                seen.add(following)
                path.append((following, iter(facts[following].sources)))
    return order[::-1]

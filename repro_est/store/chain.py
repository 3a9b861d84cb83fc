"""A chain: a file of JSON lines that only grows, in which every line seals the one before it.

A line is the canonical JSON (RFC 8785) of one object: what happened, and beside it

    who, when   user name; RFC 3339, UTC
    previous    `sha256` of the line before; in the first line the SHA-256 of the chain's own name
    sha256      SHA-256 of the canonical JSON of the line without this field

So a line that was changed, removed, inserted or moved is found by whoever reads the file, and named. What nobody can
see in the file alone is that its last lines were cut off, or that all of it was written anew; for that somebody keeps
a head, the `sha256` of a last line: a chain that does not hold it any more is another one.

Two writers at once write two lines: they hold a lease. A crash leaves the old file or the new one.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import Sha256, canonical, sha256_hex, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.files import printable, write_atomic
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

_SEALING = ("who", "when", "previous", "sha256")


@dataclass(frozen=True, slots=True)
class Link:
    """One line of a chain.

    Args:
        facts: what happened.
        when: RFC 3339, UTC.
        sha256: of the line; the head of the chain while it is the last one.
    """

    facts: Mapping[str, Any]
    who: str
    when: str
    sha256: Sha256


class Chain:
    """One chain of a store.

    Args:
        path: its file, which need not exist yet.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout = layout
        self._path = path
        self._name = str(path.relative_to(layout.root))

    @property
    def genesis(self) -> Sha256:
        """The head of the chain while it is empty."""
        return sha256_hex(self._name.encode())

    def links(self) -> list[Link]:
        """Returns all lines, oldest first.

        Raises:
            VerificationError: a line was changed, removed, inserted or moved; it is named.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        if not data.endswith(b"\n"):
            raise VerificationError(f"{self._path}: its end was cut off, expected a whole last line")
        links: list[Link] = []
        head = self.genesis
        for number, line in enumerate(data[:-1].split(b"\n"), 1):
            links.append(self._link(line, number, head))
            head = links[-1].sha256
        return links

    def head(self) -> Sha256:
        """Returns what to keep in order to notice later that lines were cut off."""
        links = self.links()
        return links[-1].sha256 if links else self.genesis

    def append(self, decide: Callable[[Sequence[Link]], Mapping[str, Any] | None]) -> Link | None:
        """Adds a line, unless there is nothing to add.

        Args:
            decide: told what is there, returns what happened, None for nothing; nobody else writes meanwhile.

        Raises:
            VerificationError: what is there was tampered with, so nothing is added to it.
        """
        from repro_est.store.leases import Leases, user_name

        with Leases(self._layout).hold(f"chain-{xxh3_hex(self._name.encode())}"), writing(self._path):
            links = self.links()
            facts = decide(links)
            if facts is None:
                return None
            line = {**facts, "who": printable(user_name()), "when": moment(), "previous": self._last(links)}
            sealed = {**line, "sha256": sha256_hex(canonical(line))}
            old = self._path.read_bytes() if links else b""
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, old + canonical(sealed) + b"\n", mode=0o444)
            return Link(facts, line["who"], line["when"], sealed["sha256"])

    def _last(self, links: Sequence[Link]) -> Sha256:
        return links[-1].sha256 if links else self.genesis

    def _link(self, line: bytes, number: int, head: Sha256) -> Link:
        where = f"{self._path}: line {number}"
        try:
            content = json.loads(line)
            rest = {name: value for name, value in content.items() if name != "sha256"}
            sealed, exact = sha256_hex(canonical(rest)), canonical(content) == line
            said, previous = content["sha256"], content["previous"]
            facts = {name: value for name, value in content.items() if name not in _SEALING}
            link = Link(facts, content["who"], content["when"], said)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise VerificationError(f"{where}: is no line of a chain: {error!r}") from None
        if said != sealed:
            raise VerificationError(f"{where}: was changed, expected sha256 {said}, got {sealed}")
        if not exact:
            raise VerificationError(f"{where}: was changed, it is not written as canonical JSON")
        if previous != head:
            before = f"line {number - 1}" if number > 1 else "the first line of this chain"
            raise VerificationError(
                f"{where}: does not follow {before}: expected previous {head}, got {previous}; "
                "a line was changed, removed or inserted here"
            )
        return link


def moment() -> str:
    """Returns the time now: RFC 3339, UTC, milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

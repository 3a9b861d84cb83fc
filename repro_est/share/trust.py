"""Whom a project believes: `trusted-keys.toml` beside `repro.toml`, committed, so that a change of it is reviewed.

    [keys.ada]
    public = "ed25519:..."
    added = "2026-11-25"

Nothing else makes a key trusted: no first use, no remote, no flag. Taking a key out makes what it signed untrusted
from then on; what was taken from a remote before stays in the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.files import write_atomic
from repro_est.share.keys import PublicKey

TRUSTED_NAME = "trusted-keys.toml"

_HEADER = (
    "# Whose results this project believes. Change it with `repro key trust` and `repro key distrust`, and commit it.\n"
)


@dataclass(frozen=True, slots=True)
class Trusted:
    """A key that is believed, and since when (a date)."""

    key: PublicKey
    added: str


class Trust:
    """The trusted keys of one project.

    Args:
        root: directory of the project.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / TRUSTED_NAME

    def entries(self) -> list[Trusted]:
        """Returns who is believed, by name.

        Raises:
            UsageError: the file is not what it should be; then nobody is believed.
        """
        import tomli

        try:
            document = tomli.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return []
        except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path}: not valid TOML: {error}") from None
        found = [self._entry(name, value) for name, value in self._table(document).items()]
        ids = {item.key.id: item.key.name for item in found}
        for item in found:
            if ids[item.key.id] != item.key.name:
                raise UsageError(f"{self.path}: keys.{item.key.name}: is the key of `{ids[item.key.id]}` as well")
        return sorted(found, key=lambda item: item.key.name)

    def believed(self, names: Sequence[str] | None = None) -> list[PublicKey]:
        """Returns the keys that are believed.

        Args:
            names: only these; None is all.

        Raises:
            UsageError: one of them is not in the file.
        """
        known = {item.key.name: item.key for item in self.entries()}
        for name in names or ():
            if name not in known:
                raise UsageError(
                    f"{self.path}: has no key `{name}`, which a remote names in `trust`",
                    hint=f"repro key trust {name} ed25519:...",
                )
        return [known[name] for name in known if names is None or name in names]

    def add(self, key: PublicKey) -> bool:
        """Believes a key from now on; False when it is there already.

        Raises:
            UsageError: the name stands for another key, or the key has another name.
        """
        entries = self.entries()
        for item in entries:
            if item.key == key:
                return False
            if item.key.name == key.name:
                raise UsageError(
                    f"{self.path}: `{key.name}` is another key, {item.key.text}", hint=f"repro key distrust {key.name}"
                )
            if item.key.raw == key.raw:
                raise UsageError(f"{self.path}: this is the key of `{item.key.name}`")
        self._write([*entries, Trusted(key, datetime.now(UTC).date().isoformat())])
        return True

    def remove(self, name: str) -> PublicKey:
        """Believes a key no longer; returns it.

        Raises:
            UsageError: there is none of that name.
        """
        entries = self.entries()
        gone = next((item.key for item in entries if item.key.name == name), None)
        if gone is None:
            raise UsageError(f"{self.path}: has no key `{name}`", hint="repro key list")
        self._write([item for item in entries if item.key != gone])
        return gone

    def _table(self, document: dict[str, Any]) -> dict[str, Any]:
        for table, value in document.items():
            if table != "keys" or not isinstance(value, dict):
                raise UsageError(f"{self.path}: unknown table `{table}`, expected only [keys.NAME]")
        keys: dict[str, Any] = document.get("keys", {})
        return keys

    def _entry(self, name: str, value: Any) -> Trusted:
        if (
            not isinstance(value, dict)
            or not isinstance(value.get("public"), str)
            or value.keys() - {"public", "added"}
        ):
            raise UsageError(f'{self.path}: keys.{name}: expected `public = "ed25519:..."` and `added`')
        with contextlib.suppress(UsageError):
            return Trusted(PublicKey.parse(name, value["public"]), str(value.get("added", "")))
        raise UsageError(f"{self.path}: keys.{name}: got {value['public']!r}, expected `ed25519:` and base64")

    def _write(self, entries: Sequence[Trusted]) -> None:
        lines = [_HEADER]
        for item in sorted(entries, key=lambda item: item.key.name):
            lines += [f'[keys."{item.key.name}"]', f'public = "{item.key.text}"', f'added = "{item.added}"', ""]
        write_atomic(self.path, "\n".join(lines).encode())

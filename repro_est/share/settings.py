"""The remotes of a project: the tables `[remotes.NAME]` of `repro.toml`, read into frozen values.

    [remotes.team]
    url = "file:///mnt/team"          # or ssh://[user@]host[:port]/path, or s3://bucket/prefix
    read_only = false
    push = "manual"                   # or "after-success", "never"
    priority = 0                      # the lowest is asked first
    trust = ["ada"]                   # names of trusted-keys.toml; default: all of them

No credential stands here: SSH has its agent and configuration, a bucket what its SDK finds in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from repro_est.digest import xxh3_hex
from repro_est.errors import UsageError
from repro_est.project import CONFIG_NAME, Project

_NAME = r"[A-Za-z0-9][-A-Za-z0-9_]{0,63}"
_KEYS: Mapping[str, type] = {"url": str, "read_only": bool, "push": str, "priority": int, "trust": list}
_SCHEMES = ("file", "ssh", "s3")


class When(StrEnum):
    """When a run is pushed to a remote without being asked: AFTER_SUCCESS of each run, or not (MANUAL, NEVER).

    NEVER also refuses `repro push`, as `read_only` does.
    """

    AFTER_SUCCESS = "after-success"
    MANUAL = "manual"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class RemoteSpec:
    """One remote as the project names it.

    Args:
        url: with `~` and a relative path of `file:` resolved.
        trust: names of those who are believed here; None is all whom the project trusts.
    """

    name: str
    url: str
    read_only: bool = False
    push: When = When.MANUAL
    priority: int = 0
    trust: tuple[str, ...] | None = None

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @property
    def id(self) -> str:
        """Stands for the place, whatever the project calls it."""
        return xxh3_hex(self.url.encode())[:16]

    @property
    def is_writable(self) -> bool:
        return not self.read_only and self.push is not When.NEVER


def remotes_of(project: Project) -> tuple[RemoteSpec, ...]:
    """Returns the remotes of a project in the order in which they are asked.

    Raises:
        UsageError: everything that is wrong with them, at once.
    """
    config, problems, found = project.root / CONFIG_NAME, list[str](), list[RemoteSpec]()
    for name, table in project.remotes.items():
        wrong = _problems(name, table)
        problems += [f"{config}: remotes.{name}{problem}" for problem in wrong]
        if not wrong:
            found.append(_spec(name, table, project.root))
    if problems:
        raise UsageError(
            "\n".join(problems), hint='url = "file:///mnt/team", "ssh://host/path" or "s3://bucket/prefix"'
        )
    return tuple(sorted(found, key=lambda spec: (spec.priority, spec.name)))


def _problems(name: str, table: Any) -> list[str]:
    if not re.fullmatch(_NAME, name):
        return [": expected a name of letters, digits, `-` and `_`"]
    if not isinstance(table, Mapping):
        return [f": got {table!r}, expected a table"]
    found = []
    for key, value in table.items():
        expected = _KEYS.get(key)
        if expected is None:
            found.append(f".{key}: unknown key, expected one of {', '.join(_KEYS)}")
        elif type(value) is not expected:
            found.append(f".{key}: got {value!r}, expected {expected.__name__}")
    if found:
        return found
    if table.get("push", When.MANUAL) not in list(When):
        found.append(f".push: got {table['push']!r}, expected one of {', '.join(When)}")
    if not all(isinstance(item, str) for item in table.get("trust", ())):
        found.append(f".trust: got {table['trust']!r}, expected a list of names")
    if "url" not in table:
        return [*found, ".url: missing"]
    return found + _url_problems(table["url"])


def _url_problems(url: str) -> list[str]:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        return [f".url: got {url!r}, expected file:, ssh: or s3:"]
    if parts.password is not None or (parts.scheme == "s3" and "@" in parts.netloc):
        return [".url: holds a password or key, which no file of a project may"]
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path.startswith("/")):
        return [f".url: got {url!r}, expected file:/// and an absolute path"]
    if parts.scheme == "ssh" and (not parts.hostname or not parts.path.strip("/")):
        return [f".url: got {url!r}, expected ssh://host/path"]
    if parts.scheme == "s3" and not parts.hostname:
        return [f".url: got {url!r}, expected s3://bucket/prefix"]
    return []


def _spec(name: str, table: Mapping[str, Any], root: Path) -> RemoteSpec:
    return RemoteSpec(
        name=name,
        url=table["url"].rstrip("/"),
        read_only=table.get("read_only", False),
        push=When(table.get("push", When.MANUAL)),
        priority=table.get("priority", 0),
        trust=tuple(table["trust"]) if "trust" in table else None,
    )

"""Where things are: the project around the current directory, its `repro.toml`, and its store.

The project is the nearest directory upwards with a `repro.toml`, else the one with a `.git`, else the
current directory. The store is `$REPRO_STORE`, else `[store] path` of `repro.toml`, else `cache/` in the
project.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError

CONFIG_NAME = "repro.toml"
STORE_VARIABLE = "REPRO_STORE"
_REPOSITORY = r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"

MAX_SNAPSHOT_BYTES = 300 * 1024 * 1024
"""Default soft limit of a source snapshot, the figure of Azure ML (bytes)."""
MAX_SNAPSHOT_FILES = 200_000
"""Default soft limit of a source snapshot (files)."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a cleaning of the store keeps: the table `[gc]`.

    Args:
        keep_days: runs, environments and fetched files that were used in so many days.
        keep_last: so many of the newest completed runs of each recipe.
        model_versions: so many of the newest versions of each model; None is all.
        quota: bytes the store should not exceed, or None.
    """

    keep_days: int = 30
    keep_last: int = 5
    model_versions: int | None = None
    quota: int | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """The settings of one project.

    Args:
        root: absolute directory that relative settings refer to.
        store: absolute directory of the store; it need not exist yet.
        max_snapshot_bytes: refuse a larger source snapshot.
        max_snapshot_files: refuse a snapshot of more files.
        base: absolute path of the root file system (a tar) that images stand on.
        base_sha256: what that tar must be.
        registry: repository where a team shares images of environments, `host:5000/team/env`, or None.
        inventory: absolute path of the hosts there are, or None for the place where it is by default.
        remotes: tables of the team's remotes by name, as they stand there (`share.settings`).
        keeping: what a cleaning of the store keeps.
    """

    root: Path
    store: Path
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES
    max_snapshot_files: int = MAX_SNAPSHOT_FILES
    base: Path | None = None
    base_sha256: str | None = None
    registry: str | None = None
    inventory: Path | None = None
    remotes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    keeping: Keeping = Keeping()


def find_project(start: Path | None = None) -> Project:
    """Returns the project around `start` (default: the current directory).

    Raises:
        UsageError: `repro.toml` is not valid, has a key that means nothing, or the store would be in a file.
    """
    start = (start or Path.cwd()).resolve()
    places = (start, *start.parents)
    config = next((place / CONFIG_NAME for place in places if (place / CONFIG_NAME).is_file()), None)
    if config is not None:
        return _configured(config)
    root = next((place for place in places if (place / ".git").exists()), start)
    return Project(root=root, store=_store_path(root, "cache"))


def _configured(config: Path) -> Project:
    import tomli

    try:
        document = tomli.loads(config.read_text("utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{config}: not valid TOML: {error}") from None
    known: dict[str, dict[str, type]] = {
        "store": {"path": str},
        "snapshot": {"max_bytes": int, "max_files": int},
        "images": {"base": str, "base_sha256": str, "registry": str},
        "hosts": {"inventory": str},
        "gc": {"keep_days": int, "keep_last": int, "model_versions": int, "quota": str},
    }
    problems: list[str] = []
    remotes = document.pop("remotes", {})
    if not isinstance(remotes, dict):
        problems.append(f"{config}: remotes: got {remotes!r}, expected tables [remotes.NAME]")
    for table, values in document.items():
        if table not in known or not isinstance(values, dict):
            problems.append(f"{config}: unknown table `{table}`, expected one of {', '.join((*known, 'remotes'))}")
            continue
        for key, value in values.items():
            expected = known[table].get(key)
            if expected is None:
                problems.append(f"{config}: {table}.{key}: unknown key, expected one of {', '.join(known[table])}")
            elif type(value) is not expected:
                problems.append(f"{config}: {table}.{key}: got {value!r}, expected {expected.__name__}")
            elif key == "registry" and not is_repository(str(value)):
                expectation = "expected a repository such as `host:5000/team/env`"
                problems.append(f"{config}: {table}.{key}: got {value!r}, {expectation}")
            elif table == "gc" and key == "quota" and parse_size(str(value)) is None:
                problems.append(f"{config}: {table}.{key}: got {value!r}, expected a size such as `200 GB`")
            elif table == "gc" and key != "quota" and value < (key == "model_versions"):
                least = int(key == "model_versions")
                problems.append(f"{config}: {table}.{key}: got {value}, expected at least {least}")
    if problems:
        raise UsageError("\n".join(problems))
    snapshot, images = document.get("snapshot", {}), document.get("images", {})
    inventory = document.get("hosts", {}).get("inventory")
    return Project(
        root=config.parent,
        store=_store_path(config.parent, document.get("store", {}).get("path", "cache")),
        max_snapshot_bytes=snapshot.get("max_bytes", MAX_SNAPSHOT_BYTES),
        max_snapshot_files=snapshot.get("max_files", MAX_SNAPSHOT_FILES),
        base=config.parent / images["base"] if "base" in images else None,
        base_sha256=images.get("base_sha256"),
        registry=images.get("registry"),
        inventory=config.parent / Path(inventory).expanduser() if inventory is not None else None,
        remotes=remotes,
        keeping=_keeping(document.get("gc", {})),
    )


def _keeping(table: Mapping[str, Any]) -> Keeping:
    values = dict(table)
    if "quota" in values:
        values["quota"] = parse_size(values["quota"])
    return Keeping(**values)


def parse_size(text: str) -> int | None:
    """Returns the bytes a person means by `200 GB`, `1.5 TB` or `512 MiB`; None when it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B\s*", text)
    if match is None:
        return None
    number, prefix, binary = match.groups()
    power = " kMGT".index(prefix.replace("K", "k") or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)


def is_repository(text: str) -> bool:
    """Whether a text names a repository of a registry, without a tag."""
    return re.fullmatch(_REPOSITORY, text) is not None


def _store_path(root: Path, default: str) -> Path:
    override = os.environ.get(STORE_VARIABLE)
    path = Path(override).expanduser().absolute() if override else root / default
    there = next((place for place in (path, *path.parents) if place.exists()), root)
    if not there.is_dir():
        source = STORE_VARIABLE if override else "[store] path"
        raise UsageError(
            f"{source}: got {override or default!r}, {there} is a file, expected a directory for the store",
            hint=f"set {STORE_VARIABLE} to a directory you can write to",
        )
    return path

"""The prefix of an environment: a read-only directory of installed packages, made once per key.

    envs/<key>/           a relocatable virtual environment without pip, or a conda prefix
    envs/<key>/env.json   written last: key, document, interpreter, tree of the payload, tree of all there is

How it is made: every artifact is fetched and checked against its SHA-256, and checked again right before use; uv makes
a virtual environment, or rattler links conda packages; wheels are copied on top, from where each was unpacked and
compiled once (`unpacked`), so that no file shares an inode with anything; sdists are built first, with the pinned
packages and nothing else; the write bits go; and a rename makes it visible. Two builders at once: one builds, the
other waits and uses it. A killed one leaves a directory in `tmp/` that `repro gc` removes.

Whenever a prefix is used, all of it, byte code and links included, is what was built: by stat signatures when nothing
moved since the last full check, else by reading it (`store.sealed`). One that was tampered with is set aside and built
again.

A virtual environment may be moved: nothing in it names its own path, only the base interpreter's; one with conda
packages names its own, and where it was moved it is made anew (docs/decisions/0008, 0011).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey, TreeHash
from repro_est.environment.builder import Builder
from repro_est.environment.key import environment_document, environment_key
from repro_est.environment.payload import RECORD
from repro_est.errors import EnvironmentBuildError, LockError, ReproError
from repro_est.lock.interpreters import Interpreter, find_interpreter
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.platforms import current_platform
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.quarantine import set_aside
from repro_est.store.sealed import differences, in_words, is_unchanged
from repro_est.store.store import Store


@dataclass(frozen=True, slots=True)
class Prefix:
    """A built environment.

    Args:
        interpreter: version and fingerprint of the base interpreter, recorded with every attempt.
        whole: tree of every file, link and directory in it but its record.
    """

    path: Path
    key: EnvironmentKey
    interpreter: Mapping[str, str]
    whole: TreeHash

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"


def realise(lock: Lock, store: Store, observer: Observer) -> Prefix:
    """Returns the prefix of a lock on this machine, building it when it is not there.

    Raises:
        VerificationError: an artifact is not what was locked.
        EnvironmentBuildError: no such interpreter, or an installation failed.
    """
    document = environment_document(lock, current_platform())
    key = environment_key(document)
    found = _in_use(store.layout, key)
    if found is not None and not defects(found, store):
        return found
    interpreter = None if lock.conda else _interpreter(lock.python)

    def on_wait(owner: object) -> None:
        observer.event("waiting", owner=str(owner), environment=key)

    with Leases(store.layout).hold(f"env-{key}", on_wait=on_wait):
        found = _in_use(store.layout, key)
        if found is not None:
            defect = defects(found, store)
            if not defect:
                return found
            reason = f"environment {key}: {in_words(defect)}"
            set_aside(store.layout, found.path, kind="environment", name=key, reason=reason)
            observer.event("quarantined", reason=reason)
        with writing(store.layout.environment(key)):
            Builder(lock, document, key, interpreter, store, observer).build()
    built = present(store.layout, key)
    if built is None:
        raise EnvironmentBuildError(f"environment {key}: was built and is not usable", hint="repro doctor")
    return built


def _in_use(layout: Layout, key: EnvironmentKey) -> Prefix | None:
    """As `present`, and no cleaning removes it now."""
    return present(layout, key) if renew_if_ours(layout, layout.environment(key)) else None


def present(layout: Layout, key: EnvironmentKey) -> Prefix | None:
    """Returns the prefix if it is whole and its interpreter is still the one it was made with."""
    path = layout.environment(key)
    try:
        record = _record(path)
        interpreter = record["interpreter"]
        whole = TreeHash(record["whole"])
        status = os.stat(interpreter["path"])
        stat = [status.st_size, status.st_mtime_ns]
        good = record["prefix"] == str(path.absolute()) if "prefix" in record else stat == interpreter["stat"]
    except (OSError, ValueError, KeyError):
        return None
    if not good:
        return None
    names = {name: interpreter[name] for name in ("path", "version", "sha256")}
    return Prefix(path, key, names, whole)


def records(layout: Layout) -> Iterator[tuple[EnvironmentKey, Mapping[str, Any]]]:
    """Every environment of the store with its record, by key; one whose record cannot be read is left out."""
    for path in sorted(layout.directory("envs").iterdir()):
        with contextlib.suppress(OSError, ValueError):
            yield EnvironmentKey(path.name), _record(path)


def defects(prefix: Prefix, store: Store) -> list[str]:
    """Returns what is not as it was built, read only if something moved since it was last read."""
    if is_unchanged(prefix.path, prefix.whole, store.layout):
        return []
    try:
        return differences(prefix.path, prefix.whole, store, except_for=RECORD)
    except ReproError as error:  # the list of what was built is gone
        return [error.message]


def _record(path: Path) -> dict[str, Any]:
    content = json.loads((path / RECORD).read_bytes())
    if not isinstance(content, dict) or not {"interpreter", "environment"} <= content.keys():
        raise ValueError("not the record of an environment")
    return content


def _interpreter(version: str) -> Interpreter:
    try:
        return find_interpreter(version)
    except LockError as error:
        raise EnvironmentBuildError(error.message, hint=error.hint) from None

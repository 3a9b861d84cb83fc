"""What is said of a run beside its plan: tags, properties, experiments; `runs/<hash>/notes.jsonl`.

JSON Lines, appended to, never rewritten; none of it identifies a run:

    {"kind": "tag", "key", "value", "who", "when"}    null takes the tag away
    {"kind": "property", ...}                         set once
    {"kind": "experiment", "key": NAME, ...}          the run was asked for in this experiment
    {"kind": "name", "key": "", "value", ...}         what people call it

The tags of its recipe come first, then these in the order of their lines. A torn last line is skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repro_est.digest import RunHash
from repro_est.errors import UsageError
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import Layout

TAG, PROPERTY, EXPERIMENT, NAME = "tag", "property", "experiment", "name"


@dataclass(slots=True)
class Notes:
    """The notes of one run, read.

    Args:
        tags: value by key; None where a tag of the recipe was taken away.
        experiments: in which it was asked for, the first one first.
        name: what people call it, `""` for nothing.
    """

    tags: dict[str, str | None] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)
    name: str = ""

    def over(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Returns the tags of a run whose recipe has these."""
        merged: dict[str, str | None] = {**tags, **self.tags}
        return {key: value for key, value in merged.items() if value is not None}

    def add(self, note: Mapping[str, Any]) -> None:
        match note.get("kind"), note.get("key"), note.get("value"):
            case ("tag", str(key), str() | None as value):
                self.tags[key] = value
            case ("property", str(key), str(value)):
                self.properties.setdefault(key, value)
            case ("experiment", str(key), _) if key not in self.experiments:
                self.experiments.append(key)
            case ("name", _, str(value)):
                self.name = value


def read_notes(layout: Layout, run: RunHash) -> Notes:
    """Returns what was said of a run so far."""
    try:
        data = layout.notes(run).read_bytes()
    except OSError:
        return Notes()
    return _parsed(data)


def write_notes(layout: Layout, run: RunHash, notes: Iterable[tuple[str, str, str | None]]) -> None:
    """Adds notes to a run: kind, key and value of each.

    Raises:
        UsageError: a property is set already, to another value.
    """
    notes = list(notes)
    if not notes:
        return
    path = layout.notes(run)
    with writing(path):
        renew_if_ours(layout, path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = path.read_bytes()
            _check_properties(run, _parsed(data).properties, notes)
            start = b"\n" if data and not data.endswith(b"\n") else b""
            os.write(descriptor, start + b"".join(_line(*note) for note in notes))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    from repro_est.store.index import Index  # which reads notes

    Index(layout).update(run)


def _check_properties(run: RunHash, known: Mapping[str, str], notes: Iterable[tuple[str, str, str | None]]) -> None:
    for kind, key, value in notes:
        if kind == PROPERTY and known.get(key, value) != value:
            raise UsageError(
                f"run {run[:12]}: property {key}: is {known[key]!r}, and properties never change; got {value!r}",
                hint="use a tag for what changes",
            )


def _parsed(data: bytes) -> Notes:
    notes = Notes()
    for line in data.splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if isinstance(note, dict):
            notes.add(note)
    return notes


def _line(kind: str, key: str, value: str | None) -> bytes:
    import datetime

    from repro_est.store.leases import user_name

    who = user_name()
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps({"kind": kind, "key": key, "value": value, "who": who, "when": when}).encode() + b"\n"

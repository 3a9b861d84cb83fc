"""A recipe in the making: the document, the comments that will stand in it, and a note on all that was read.

Every reader of this package fills one. What could not be known is a TODO comment in the recipe and a note of its own,
so that nothing of the old file is lost without a word. A value that looks like a secret is never put into a draft.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.recipe.layers import Path_
from repro_est.recipe.write import write_recipe

TODO = "TODO"
"""What stands where a value is needed and cannot be known."""

AZURE_SETTINGS = (".azureml", "aml_config")
"""Directories in which Azure ML keeps its files, below the source directory."""


class Kind(StrEnum):
    """What became of a piece of the old file."""

    TOOK = "took"
    CHANGED = "changed"
    DROPPED = "dropped"
    TODO = "todo"


class Place(NamedTuple):
    """Where a piece of the old file stands; a line of None is the file as a whole."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one piece, and why.

    Args:
        what: the piece, in the words of the old file.
        why: the key of the recipe it went to, or the reason.
    """

    kind: Kind
    place: Place
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.what}: {self.why}"

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "file": self.place.file,
            "line": self.place.line,
            "what": self.what,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known, its text in the old file, and why it is not."""

    text: str
    why: str = "is not known without running it"


class Draft:
    """One recipe in the making.

    Args:
        name: tells several drafts of one file apart: the variable, the entry point, the file's stem.
        file: the old file, as the user named it.
        directory: where the recipe will be; its paths are relative to it.
    """

    def __init__(self, name: str, file: str, directory: Path) -> None:
        self.name, self.file = name, file
        self.document: dict[str, Any] = {"estimator": {}}
        self.comments: dict[Path_, str] = {(): f"Made by `repro import` from {file}"}
        self.notes: list[Note] = []
        self._directory = directory

    def text(self) -> str:
        """Returns the recipe."""
        return write_recipe(self.document, self.comments)

    def sorted_notes(self) -> list[Note]:
        """Returns the notes by file and line, what is said of a file as a whole first."""
        files = list(dict.fromkeys([self.file, *(note.place.file for note in self.notes)]))
        return sorted(self.notes, key=lambda note: (files.index(note.place.file), note.place.line or 0))

    def count(self, kind: Kind) -> int:
        return sum(note.kind is kind for note in self.notes)

    # ---- what it holds

    def put(self, key: Path_, value: Any) -> None:
        table = self.document
        for name in key[:-1]:
            table = table.setdefault(name, {})
        table[key[-1]] = value

    def get(self, key: Path_) -> Any:
        value: Any = self.document
        for name in key:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def add(self, key: Path_, value: Any) -> None:
        """Adds to an array what is not in it yet."""
        values = self.get(key) or []
        if value not in values:
            self.put(key, [*values, value])

    def remark(self, key: Path_, text: str) -> None:
        """Adds a line of comment above a key."""
        self.comments[key] = "\n".join(filter(None, (self.comments.get(key), text)))

    def relative(self, path: Path) -> str:
        """Returns a path as the recipe names it."""
        return Path(os.path.relpath(os.path.abspath(path), self._directory)).as_posix()

    def shown(self, path: Path) -> str:
        """Returns a path as a message names it: from where the user is."""
        path = Path(os.path.abspath(path))
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

    # ---- what is said of the old file

    def took(self, place: Place, what: str, key: Path_, value: Any) -> None:
        """Puts a value under a key, as it was meant."""
        self.put(key, value)
        self._note(Kind.TOOK, place, what, ".".join(key))

    def changed(self, place: Place, what: str, why: str) -> None:
        self._note(Kind.CHANGED, place, what, why)

    def dropped(self, place: Place, what: str, why: str) -> None:
        self._note(Kind.DROPPED, place, what, why)

    def todo(self, place: Place, what: str, why: str, key: Path_, remark: str | None = None) -> None:
        """Leaves something to the user: a comment above the key, and a note."""
        self.remark(key, f"TODO: {remark or f'{what}: {why}'}")
        self._note(Kind.TODO, place, what, why)

    def unknown(self, place: Place, what: str, value: Unknown, key: Path_, more: str = "") -> None:
        """Leaves a value that is not known to the user."""
        name = key[-1] if re.fullmatch("[a-z_]+", key[-1], re.IGNORECASE) else f'"{key[-1]}"'
        self.todo(place, what, f"`{value.text}` {value.why}{more}", key, f"{name} = ...   was {value.text}")

    def _note(self, kind: Kind, place: Place, what: str, why: str) -> None:
        note = Note(kind, place, what, why)
        if note not in self.notes:
            self.notes.append(note)

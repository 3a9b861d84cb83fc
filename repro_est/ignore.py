"""Which files of a source directory are not part of a snapshot, and why.

The rule, weakest first; the last one that matches decides, as within one file:

    1  `.gitignore` of every directory, the deeper one over the higher one, with git's own semantics
    2  `.amlignore` in the root
    3  `.reproignore` in the root, where `!pattern` takes back what the others left out

and never, whatever the files say: version control directories, the store, `__pycache__`, `*.pyc`, `.venv`,
`.DS_Store`, the ignore files themselves, `outputs/` and `logs/` in the root (Azure ML's special folders, which
belong to runs), the recipe with its lock, and `repro.toml`. As in git, nothing below a directory that is left
out can be taken back.

An ignore file is UTF-8, and one of these files or a symlink to another one beside it; a pattern that means nothing
to git (`!` alone) means nothing here.

Unlike Azure ML, `.amlignore` adds to `.gitignore` instead of replacing it, nested `.gitignore` files count, and
nothing is ever written into the source directory.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repro_est.errors import SourceError
from repro_est.files import printable

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".amlignore", ".reproignore")
_ALWAYS_DIRECTORIES = {".git", ".hg", ".svn", "__pycache__", ".venv"}
_ALWAYS_NAMES = {".DS_Store", *IGNORE_FILES}
_SPECIAL_FOLDERS = {"outputs", "logs"}


class _Rules(NamedTuple):
    """One ignore file: where it stands and its compiled patterns."""

    shown: str
    prefix: str
    spec: GitIgnoreSpec
    lines: list[tuple[int, str]]


class Ignore:
    """Answers for one source directory.

    Args:
        root: absolute source directory.
        exclude: absolute paths that are left out whatever the rules say.
    """

    def __init__(self, root: Path, exclude: tuple[Path, ...] = ()) -> None:
        self._root = root
        self._excluded = {
            path.relative_to(root).as_posix() for path in exclude if path != root and path.is_relative_to(root)
        }
        self._nested: dict[str, _Rules | None] = {}
        self._top = [rules for name in (".reproignore", ".amlignore") if (rules := self._load("", name))]

    def excluded(self, path: str, is_directory: bool) -> bool:
        """Whether a path, whose parents are not excluded, is left out."""
        return self.reason(path, is_directory) is not None

    def reason(self, path: str, is_directory: bool) -> str | None:
        """Returns why a path is left out (`.gitignore:3 *.log`), or None."""
        parent, _, name = path.rpartition("/")
        if path in self._excluded:
            return "tells repro what to do, or is the store"
        if name in _ALWAYS_NAMES or (is_directory and name in _ALWAYS_DIRECTORIES) or name.endswith(".pyc"):
            return "never part of a snapshot"
        if is_directory and not parent and name in _SPECIAL_FOLDERS:
            return "special folder of a run"
        subject = f"{path}/" if is_directory else path
        for rules in self._rules_for(parent):
            result = rules.spec.check_file(subject[len(rules.prefix) :])
            if result.include is not None and result.index is not None:
                number, line = rules.lines[result.index]
                return f"{rules.shown}:{number} {line}" if result.include else None
        return None

    def _rules_for(self, directory: str) -> list[_Rules]:
        """The rules that speak about names in `directory`, strongest first."""
        found = list(self._top)
        while True:
            if directory not in self._nested:
                self._nested[directory] = self._load(directory, ".gitignore")
            rules = self._nested[directory]
            if rules is not None:
                found.append(rules)
            if not directory:
                return found
            directory = directory.rpartition("/")[0]

    def _load(self, directory: str, name: str) -> _Rules | None:
        shown = f"{directory}/{name}" if directory else name
        text = _read(self._root / shown)
        if text is None:
            return None
        from pathspec import GitIgnoreSpec  # 30 ms, and not needed while the stat cache answers

        lines = [
            (number, line)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip() and line[0] != "#" and _is_pattern(line)
        ]
        spec = GitIgnoreSpec.from_lines([line for _, line in lines])
        return _Rules(shown, f"{directory}/" if directory else "", spec, lines)


def _read(path: Path) -> str | None:
    """Returns an ignore file with plain line ends, or None where there is none.

    Raises:
        SourceError: it cannot be read, or is elsewhere, where a change of it would go unnoticed.
    """
    try:
        if path.is_symlink() and os.readlink(path) not in IGNORE_FILES:
            raise SourceError(
                f"{path}: symlink to {printable(os.readlink(path))}, expected a file (git does not follow it either)",
                hint="replace the symlink by a copy of the file",
            )
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _is_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore import GitIgnorePatternError

    try:
        GitIgnoreSpec.from_lines([line])
    except GitIgnorePatternError:
        return False
    return True

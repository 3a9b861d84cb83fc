"""The datasets a project has by name: `datasets.toml` in its root, to be committed.

    [NAME]
    path = "data/digits"      relative to the project where it is below it; or url and sha256
    kind = "tabular"          for delimited text

Everything that reads or writes this file goes through this module. It keeps where data is, not what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro_est.api.datastore import Source
from repro_est.errors import UsageError
from repro_est.files import write_atomic
from repro_est.recipe.write import write_recipe

FILE = "datasets.toml"

_KEYS = ("path", "url", "sha256", "kind")


@dataclass(frozen=True, slots=True)
class Entry:
    """One dataset.

    Args:
        source: local paths are absolute.
        tabular: whether it is delimited text.
    """

    source: Source
    tabular: bool = False

    def __str__(self) -> str:
        return repr(self.source.path or self.source.url)


def read_entries(root: Path) -> dict[str, Entry]:
    """Returns the datasets of a project by name, sorted.

    Raises:
        UsageError: the file is not valid.
    """
    import tomli

    file = root / FILE
    try:
        document = tomli.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None
    return {name: _entry(root, name, keys) for name, keys in sorted(document.items())}


def write_entries(root: Path, entries: Mapping[str, Entry]) -> None:
    """Writes the datasets of a project, in place of those that are there."""
    document = {name: _keys(root, entry) for name, entry in sorted(entries.items())}
    write_atomic(root / FILE, write_recipe(document).encode())


def _entry(root: Path, name: str, keys: object) -> Entry:
    if not isinstance(keys, Mapping) or not set(keys) <= set(_KEYS) or ("path" in keys) == ("url" in keys):
        raise UsageError(f"{root / FILE}: {name}: got {keys!r}, expected `path`, or `url` and `sha256`")
    source = Source(keys.get("path"), keys.get("url"), keys.get("sha256"))
    if source.is_local and source.path is not None:
        source = Source(str(root / source.path))
    return Entry(source, keys.get("kind") == "tabular")


def _keys(root: Path, entry: Entry) -> dict[str, str]:
    keys = entry.source.to_recipe()
    if entry.source.is_local and Path(keys["path"]).is_relative_to(root):
        keys["path"] = Path(keys["path"]).relative_to(root).as_posix()
    return {**keys, "kind": "tabular"} if entry.tabular else keys

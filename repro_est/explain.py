"""Which leaf differs: two plans compared, down to the parameter, the package, the file.

A plan's document becomes a flat mapping from leaf to text; two runs differ exactly where their leaves do.
`repro why` and `repro diff` both say it in these words:

    entry_script                       environment.python
    script_params.--regularization     environment.packages.numpy
    script_params (order)              environment_variables.OMP_NUM_THREADS
    arguments                          inputs.digits/images.csv.gz
    source/train.py                    secrets.HF_TOKEN
    layout.node_count                  use_gpu
    compat.azureml

Pure: trees and file contents are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro_est.digest import TreeHash
from repro_est.plan import Document
from repro_est.store.trees import Entry, Kind, Tree

ReadTree = Callable[[TreeHash], Tree | None]
"""Gives the manifest of a tree, or None when this store does not have it."""

_MAX_HUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One leaf that is not the same in two plans; None is absent."""

    leaf: str
    before: str | None
    after: str | None

    def to_json(self) -> dict[str, str | None]:
        return {"leaf": self.leaf, "before": self.before, "after": self.after}


def differences(before: Document, after: Document, read_tree: ReadTree) -> list[Difference]:
    """Returns every leaf that differs, in the order of the leaves' names.

    Trees that are equal are not read, so the cost is that of what changed.
    """
    old, new = leaves(before), leaves(after)
    found: list[Difference] = []
    for leaf in sorted(old.keys() | new.keys()):
        if old.get(leaf) == new.get(leaf):
            continue
        found += _tree_differences(leaf, old.get(leaf), new.get(leaf), read_tree) or [
            Difference(leaf, old.get(leaf), new.get(leaf))
        ]
    return found


def nearest(document: Document, candidates: Iterable[tuple[str, Document]]) -> str | None:
    """Returns the key of the candidate with the fewest differing leaves; the earliest of equals, None without any."""
    mine = leaves(document)

    def distance(candidate: tuple[str, Document]) -> int:
        theirs = leaves(candidate[1])
        return sum(1 for leaf in mine.keys() | theirs.keys() if mine.get(leaf) != theirs.get(leaf))

    best = min(candidates, key=distance, default=None)
    return best[0] if best else None


def leaves(document: Document) -> dict[str, str]:
    """Flattens a plan's document; trees stay one leaf each (`source`, `inputs.NAME`)."""
    flat: dict[str, str] = {}
    for key, value in document.items():
        match key:
            case "script_params":
                flat.update(_parameter_leaves(value))  # type: ignore[arg-type]
            case "arguments":
                flat[key] = _words(value)  # type: ignore[arg-type]
            case "secrets":
                flat.update({f"secrets.{name}": "declared" for name in value})  # type: ignore[union-attr]
            case "environment":
                flat.update(_environment_leaves(value))  # type: ignore[arg-type]
            case "inputs" | "environment_variables" | "layout" | "compat":
                flat.update({f"{key}.{name}": str(item) for name, item in value.items()})  # type: ignore[union-attr]
            case _:
                flat[key] = _scalar(value)
    return flat


def hunk(leaf: str, before: bytes | None, after: bytes | None) -> str:
    """Returns the unified diff of one source file, or a sentence when it is not text."""
    import difflib

    old, new = before or b"", after or b""
    if max(len(old), len(new)) > _MAX_HUNK_BYTES:
        return f"{leaf}: {len(old):,} -> {len(new):,} bytes, too long to show\n"
    try:
        old_lines, new_lines = (data.decode("utf-8").splitlines(keepends=True) for data in (old, new))
    except UnicodeDecodeError:
        return f"{leaf}: binary, {len(old):,} -> {len(new):,} bytes\n"
    lines = difflib.unified_diff(old_lines, new_lines, f"a/{leaf}", f"b/{leaf}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _tree_differences(leaf: str, before: str | None, after: str | None, read_tree: ReadTree) -> list[Difference]:
    if leaf != "source" and not leaf.startswith("inputs."):
        return []
    if before is None or after is None:
        return []
    old, new = read_tree(TreeHash(before)), read_tree(TreeHash(after))
    if old is None or new is None:
        return []
    return compare_trees(leaf, old, new)


def compare_trees(leaf: str, before: Tree, after: Tree) -> list[Difference]:
    """Returns one difference for each path that is not the same in two trees."""
    old, new = before.by_path(), after.by_path()
    return [
        Difference(f"{leaf}/{path}", describe(old.get(path)), describe(new.get(path)))
        for path in sorted(old.keys() | new.keys())
        if _identity(old.get(path)) != _identity(new.get(path))
    ]


def describe(entry: Entry | None) -> str | None:
    """Returns an entry in words: what it is and the start of its digest."""
    match entry:
        case None:
            return None
        case Entry(kind=Kind.SYMLINK):
            return f"-> {entry.target}"
        case Entry(kind=Kind.DIRECTORY):
            return "empty directory"
        case _:
            mode = ", executable" if entry.kind is Kind.EXECUTABLE else ""
            return f"{entry.xxh3[:12]} ({entry.size:,} bytes{mode})"


def _identity(entry: Entry | None) -> tuple[Any, ...] | None:
    return None if entry is None else (entry.kind, entry.xxh3, entry.size, entry.target)


def _parameter_leaves(parameters: Sequence[Any]) -> dict[str, str]:
    flat = {f"script_params.{name}": _words(words) for name, words in parameters}
    names = [name for name, _ in parameters]
    if names != sorted(names):  # a sorted order says nothing that the names do not say
        flat["script_params (order)"] = " ".join(names)
    return flat


def _environment_leaves(environment: Mapping[str, Any]) -> dict[str, str]:
    flat = {
        f"environment.{key}": _scalar(value)
        for key, value in environment.items()
        if key not in ("packages", "build", "conda")
    }
    for section in ("packages", "build", "conda"):
        for name, *facts in environment.get(section, ()):
            leaf = f"environment.{section}.{name}"
            text = " ".join(map(str, facts))
            flat[leaf] = f"{flat[leaf]}; {text}" if leaf in flat else text
    return flat


def _words(words: Sequence[Any]) -> str:
    return " ".join(f"{{input {word['input']}}}" if isinstance(word, Mapping) else repr(word) for word in words)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)

"""Copying a tree out of the store to where a person wants it: checked, whole or not at all.

Nothing that was at the destination is lost unless the copy stands in its place, and what somebody stands on is never
replaced.
"""

from __future__ import annotations

import os
from pathlib import Path

from repro_est.errors import UsageError
from repro_est.files import remove_tree
from repro_est.store.store import Store
from repro_est.store.trees import Tree


def check_out(tree: Tree, destination: Path, store: Store, *, force: bool, hint: str = "--force replaces it") -> None:
    """Copies a tree to `destination`, every byte checked against its digest.

    It is copied beside the destination, then what was there is renamed aside: that is removed last, when all went well.

    Args:
        force: replace a directory that is there, or put one in place of a file.
        hint: said when something is there and `force` is not given.

    Raises:
        UsageError: something is there that is not to be replaced.
        VerificationError: a blob is missing or was changed.
    """
    is_directory = destination.is_dir() and not destination.is_symlink()
    # A file replaces a file or a symlink, as cp does; a directory replaces nothing unasked.
    replaces = is_directory or (not tree.single_file and os.path.lexists(destination))
    if replaces:
        _check_replaceable(destination, store)
        if not force:
            what = "a directory" if is_directory else "a symlink" if destination.is_symlink() else "a file"
            raise UsageError(f"{destination}: is {what} that exists already", hint=hint)
    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination}: its directory does not exist")
    temporary, aside = (
        destination.absolute().with_name(f".{os.getpid()}.{os.urandom(4).hex()}.{end}") for end in ("part", "old")
    )
    try:
        if tree.single_file:
            entry = tree.entries[0]
            store.fetch_blob(entry, temporary, mode=0o755 if entry.kind == "x" else 0o644)
        else:
            store.materialise(tree, temporary)
        if replaces:
            os.rename(destination, aside)
        _place(temporary, destination, aside if replaces else None)
    finally:
        remove_tree(temporary)
    if replaces:
        remove_tree(aside)


def _place(temporary: Path, destination: Path, aside: Path | None) -> None:
    """Gives the copy its name; when that fails, what was set aside gets it back."""
    try:
        os.replace(temporary, destination)
    except BaseException:
        if aside is not None:
            os.rename(aside, destination)
        raise


def _check_replaceable(destination: Path, store: Store) -> None:
    """Refuses to replace what somebody stands on: the current directory or one around it, a mount point, the store.

    Raises:
        UsageError: it is one of these.
    """
    if destination.is_symlink():
        return  # only the link is replaced
    real, root = Path(os.path.realpath(destination)), Path(os.path.realpath(store.layout.root))
    reasons = {
        "is the current directory, or one around it": Path.cwd().is_relative_to(real),
        "is a mount point": os.path.ismount(real),
        "holds the store, or is a part of it": root.is_relative_to(real) or real.is_relative_to(root),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise UsageError(f"{destination}: {reason}, so it is not replaced", hint="name a new directory")

"""Recalling a hit: when nothing a run depends on moved since it was last found, the answer is known.

A note in `stat/` holds, for one recipe and its overrides, the stat signatures of the recipe's files, of the lock and
the settings, the place that each name of a recipe or input led to (one on the way may be a symlink), the fingerprints
of source and inputs, and the signatures of the stored outputs when they were last digested. If all of that is as it
was, the plan is the same plan and its result is there; otherwise, or when in any doubt, the command runs in full. The
note is a stat cache like the others: it saves reading, follows git's racy rule, and never decides what a hash is.

Kept apart from the rest because of what it does not import: a hit costs little more than a Python start-up.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from xxhash import xxh3_128_hexdigest

from repro_est import __version__
from repro_est.cli.summary import relative, summary
from repro_est.store.fingerprint import RACY_NS, RENEW_SECONDS, packed, unchanged

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from typing import Any

_NOTE = dict[str, object]
_SMALL = 1 << 16


def recall(words: list[str]) -> str | None:
    """Returns what `repro run` prints, or None when it has to be found out.

    Args:
        words: what comes after `repro run`; only a recipe, `-q` and `--set` can be recalled.
    """
    parsed = _parse(words)
    if parsed is None:
        return None
    recipe, overrides, quiet = parsed
    store = _store()
    try:
        with open(note_path(store, recipe, overrides), "rb") as file:
            note = _decode(file.read())
        same = _same_files(note["files"]) and _same_places(note["places"])
        if not (same and _same_blobs(store, note["blobs"]) and _same_trees(note["trees"])):
            return None
        if not _in_use(store, f"{store}/runs/{note['run_hash']}"):
            return None
        if quiet:
            return f"{note['outputs']}\n"
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        shown = relative(note["outputs"], os.getcwd())
        return summary(note["run_hash"], "cached", note["metrics"], note["models"], shown, colour=colour)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def note_path(store: str, recipe: str, overrides: list[str]) -> str:
    """Returns where the note of a recipe lies: its name depends on all that is not looked at again."""
    named = os.path.join(os.getcwd(), recipe)  # not abspath, which takes `link/../r.toml` for `r.toml`
    parts = (__version__, sys.version, named, os.path.expanduser("~"), *overrides)
    return f"{store}/stat/{xxh3_128_hexdigest(os.fsencode(chr(0).join(parts)))}.hit"


def write_note(path: str, files: list[str], note: _NOTE, *, started_ns: int) -> None:
    """Writes a note, unless one of the files is too young to be trusted.

    Args:
        files: whose signatures decide; one that is not there must stay so.
        note: `places`, `trees`, `blobs`, and what is printed.
        started_ns: when the command began, before it read any of them; what was written later is not what it read.
    """
    signatures = {file: _signature(file) for file in files}
    limit = started_ns - RACY_NS
    for file in files:
        try:
            status = os.stat(file)
        except FileNotFoundError:
            continue
        if max(status.st_mtime_ns, status.st_ctime_ns) > limit:
            return
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as out:
            out.write(_encode({**note, "files": signatures}))
        os.replace(temporary, path)
    except OSError:
        return  # a store that cannot be written: then nothing is recalled


def _encode(note: _NOTE) -> bytes:
    """A digest, so that a torn note is not read, and the note as marshal writes it: json takes 5 ms to import."""
    data = marshal.dumps(note)
    return xxh3_128_hexdigest(data).encode() + data


def _decode(data: bytes) -> dict[str, Any]:
    if xxh3_128_hexdigest(data[32:]) != data[:32].decode("ascii", "replace"):
        raise ValueError("not a note, or a torn one")
    note: dict[str, Any] = marshal.loads(data[32:])  # noqa: S302 -- whoever writes here owns the results too
    return note


def _parse(words: list[str]) -> tuple[str, list[str], bool] | None:
    recipe, overrides, quiet = "", [], False
    pending = iter(words)
    for word in pending:
        if word in ("-q", "--quiet"):
            quiet = True
        elif word == "--set":
            overrides.append(next(pending, ""))
        elif word.startswith("-") or recipe:
            return None
        else:
            recipe = word
    return (recipe, overrides, quiet) if recipe else None


def _store() -> str:
    """The store where it is by default; one that `repro.toml` puts elsewhere is found by the command in full."""
    override = os.environ.get("REPRO_STORE")
    if override:
        return os.path.abspath(os.path.expanduser(override))
    here = os.path.realpath(os.getcwd())
    for name in ("repro.toml", ".git"):
        place = here
        while True:
            if os.path.exists(f"{place}/{name}"):
                return f"{place}/cache"
            parent = os.path.dirname(place)
            if parent == place:
                break
            place = parent
    return f"{here}/cache"


def _in_use(store: str, run: str) -> bool:
    """Whether no cleaning removes a run that is about to be named."""
    if time.time() - os.stat(run).st_mtime < RENEW_SECONDS:
        return True
    from pathlib import Path  # once an hour

    from repro_est.store.freshness import renew_if_ours
    from repro_est.store.layout import Layout

    return renew_if_ours(Layout(Path(store)), run)


def _same_files(files: dict[str, str | None]) -> bool:
    return all(_signature(path) == signature for path, signature in files.items())


def _same_places(places: dict[str, str]) -> bool:
    return all(os.path.realpath(name) == place for name, place in places.items())


def _same_blobs(store: str, blobs: list[list[str]]) -> bool:
    return all(
        packed(os.lstat(f"{store}/{path}")).hex() == signature or _small_and_good(f"{store}/{path}", digest)
        for path, digest, signature in blobs
    )


def _small_and_good(path: str, digest: str) -> bool:
    """Whether a small file has its digest: logs are often alike, and each run's link to one moves its ctime."""
    with open(path, "rb") as file:
        data = file.read(_SMALL + 1)
    return len(data) <= _SMALL and xxh3_128_hexdigest(data) == digest


def _same_trees(trees: list[list[object]]) -> bool:
    return all(unchanged(root, directories, total) for root, directories, total in trees)  # type: ignore[arg-type]


def _signature(path: str) -> str | None:
    try:
        return packed(os.stat(path)).hex()
    except FileNotFoundError:
        return None

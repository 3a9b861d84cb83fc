"""What the hosts of a run have written, brought here: outputs and logs of every host in one directory each.

All ranks of a host share its working directory, as on Azure ML. Node 0's files are at the top; a file that another node
wrote is at the top too where no node before it has that path, so that shards of all ranks are together; the same
content at the same path is kept once; another content at the same path is kept as `rank-N/PATH`, N the first rank of
that node (docs/decisions/0018).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from repro_est.files import is_utf8, printable, sha256_file, write_all
from repro_est.hosts.session import Session
from repro_est.store.guard import writing

Taken = dict[str, tuple[str, str]]
"""Kind, and SHA-256 or link target, of what is here already, by path."""


def gather_tree(session: Session, token: str, path: str, destination: Path, *, rank: int, taken: Taken) -> list[str]:
    """Brings one directory of one node; returns what could not be kept, in words.

    Args:
        path: below the run's directory on the host, `source/outputs`.
        rank: the first one of the node.
        taken: what other nodes brought; added to.
    """
    root = path.rpartition("/")[2]
    listing = session.call("listing", token=token, path=path, digests=bool(taken))["entries"]
    if listing is None:
        return [] if taken else [f"{root}/: the script removed or replaced the directory"]
    problems: list[str] = []
    wanted: list[tuple[str, Path]] = []
    shown_as: dict[str, str] = {}
    directories = {parent for name in taken for parent in _parents(name)}
    for name, kind, value, _ in listing:
        if kind == "?" or not is_utf8(name):
            problems.append(f"{root}/{printable(name)}: is no regular file, or its name is not UTF-8")
            continue
        if taken.get(name) == (kind, value):
            continue
        shown = name if _is_free(name, taken, directories) else f"rank-{rank}/{name}"
        shown_as[name] = shown
        taken[shown] = (kind, value)
        directories.update(_parents(shown))
        if _place(kind, value, destination / shown):
            wanted.append((name, destination / shown))
    for name, digest in _fetch(session, token, path, wanted, problems).items():
        taken[shown_as[name]] = (taken[shown_as[name]][0], digest)
    return problems


def _is_free(name: str, taken: Taken, directories: set[str]) -> bool:
    """Whether a path is nobody's yet: neither a file, nor a directory of files, nor below a file."""
    return name not in taken and name not in directories and not any(parent in taken for parent in _parents(name))


def _parents(name: str) -> Iterator[str]:
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)


def _place(kind: str, value: str, target: Path) -> bool:
    """Makes what needs no content; returns whether it is a file, which is there empty then."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "d":
            target.mkdir(exist_ok=True)
        elif kind == "l":
            target.symlink_to(value)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if kind == "x" else 0o644))
            return True
    return False


def _fetch(
    session: Session, token: str, path: str, wanted: Sequence[tuple[str, Path]], problems: list[str]
) -> dict[str, str]:
    """Fills files that are there empty; returns the SHA-256 of each as it arrived."""
    hashers = [hashlib.sha256() for _ in wanted]
    opened: dict[int, int] = {}

    def take(number: int, data: bytes) -> None:
        if number not in opened:
            while opened:
                os.close(opened.popitem()[1])
            opened[number] = os.open(wanted[number][1], os.O_WRONLY)
        hashers[number].update(data)
        write_all(opened[number], data)

    try:
        with writing(wanted[0][1] if wanted else Path()):
            unreadable = session.fetch(token, path, [(name, 0) for name, _ in wanted], take)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    for number, reason in unreadable:
        problems.append(f"{path.rpartition('/')[2]}/{wanted[number][0]}: {reason}")
        wanted[number][1].unlink()
    return {name: hasher.hexdigest() for (name, _), hasher in zip(wanted, hashers, strict=True)}


def gather_logs(session: Session, token: str, logs: Path, directory_of: Callable[[str], str]) -> str:
    """Completes the logs of a host's ranks that arrived while they ran; returns its timeline.

    Each file is compared with the host's by SHA-256 afterwards, and fetched whole if it is another one.
    """
    listing = session.call("listing", token=token, path="ranks", digests=True)["entries"] or []
    files = [entry for entry in listing if entry[1] in "fx" and entry[0].endswith(".log") and entry[0].count("/") == 1]
    for whole in (False, True):
        wanted: list[tuple[str, int]] = []
        targets: list[Path] = []
        for name, _, digest, size in files:
            rank, _, stream = name.partition("/")
            target = logs / directory_of(rank) / stream
            target.parent.mkdir(parents=True, exist_ok=True)
            have = target.stat().st_size if target.exists() else -1
            if have == size and sha256_file(target) == digest:
                continue
            if whole or have > size:
                target.unlink(missing_ok=True)
                have = -1
            wanted.append((name, max(0, have)))
            targets.append(target)
            target.touch()
        _append(session, token, wanted, targets)
    chunks: tuple[list[bytes], list[bytes]] = ([], [])
    session.fetch(token, "", [("timeline", 0), ("node.log", 0)], lambda number, data: chunks[number].append(data))
    if chunks[1]:  # its daemon had trouble
        (logs / "hosts").mkdir(exist_ok=True)
        (logs / "hosts" / f"{session.name}.log").write_bytes(b"".join(chunks[1]))
    return b"".join(chunks[0]).decode("ascii", "replace")


def _append(session: Session, token: str, wanted: Sequence[tuple[str, int]], targets: Sequence[Path]) -> None:
    def take(number: int, data: bytes) -> None:
        with open(targets[number], "ab") as file:
            file.write(data)

    session.fetch(token, "ranks", wanted, take)

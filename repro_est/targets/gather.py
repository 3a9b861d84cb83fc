"""What the hosts of a run have written, brought here: outputs and logs of every host in one directory each.

All ranks of a host share its working directory, as on Azure ML. Node 0's files are at the top; a file that another node
wrote is at the top too where no node before it has that path, so that shards of all ranks are together; the same
content at the same path is kept once; another content at the same path is kept as `rank-N/PATH`, N the first rank of
that node (docs/decisions/0018). A script may write a `rank-N` of its own: then that is `rank-N-2/PATH`, and so on.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro_est.files import is_utf8, printable, sha256_file, write_all
from repro_est.hosts.host import HostError
from repro_est.hosts.session import Session
from repro_est.store.guard import writing


@dataclass(slots=True)
class Taken:
    """What is here already.

    Args:
        entries: kind, and SHA-256 or link target, by path.
        directories: those with something in them.
    """

    entries: dict[str, tuple[str, str]] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)

    def add(self, name: str, kind: str, value: str) -> None:
        self.entries[name] = (kind, value)
        self.directories.update(_parents(name))

    def has(self, name: str, kind: str, value: str) -> bool:
        """Whether the same is there at that path."""
        return self.entries.get(name) == (kind, value) or (kind == "d" and name in self.directories)

    def is_free(self, name: str) -> bool:
        """Whether a path can still be made: nothing is there, and nothing but directories on the way to it."""
        if name in self.entries or name in self.directories:
            return False
        return all(self.entries.get(parent, ("d", ""))[0] == "d" for parent in _parents(name))

    def place_for(self, name: str, rank: int) -> str:
        """Returns where another node's path is kept."""
        places = itertools.chain([name, f"rank-{rank}/{name}"], (f"rank-{rank}-{n}/{name}" for n in itertools.count(2)))
        return next(place for place in places if self.is_free(place))


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def gather_tree(session: Session, token: str, path: str, destination: Path, *, rank: int, taken: Taken) -> list[str]:
    """Brings one directory of one node; returns what could not be kept, in words.

    Args:
        path: below the run's directory on the host, `source/outputs`.
        rank: the first one of the node.
        taken: what other nodes brought; added to.
    """
    root = path.rpartition("/")[2]
    listing = session.call("listing", token=token, path=path, digests=bool(taken.entries))["entries"]
    if listing is None:
        return [] if taken.entries else [f"{root}/: the script removed or replaced the directory"]
    problems: list[str] = []
    wanted: list[tuple[str, Path]] = []
    shown_as: dict[str, tuple[str, str]] = {}
    for name, kind, value, _ in listing:
        if kind == "?" or not is_utf8(name):
            problems.append(f"{root}/{printable(name)}: is no regular file, or its name is not UTF-8")
            continue
        if not is_below(name):
            raise HostError(session.name, f"lists {name!r} below {path}")
        if taken.has(name, kind, value):
            continue
        shown = taken.place_for(name, rank)
        shown_as[name] = (shown, kind)
        taken.add(shown, kind, value)
        if _place(kind, value, destination / shown):
            wanted.append((name, destination / shown))
    for name, digest in _fetch(session, token, path, wanted, problems).items():
        taken.add(*shown_as[name], digest)
    return problems


def is_below(name: str) -> bool:
    """Whether a path that a host names stays below the directory it is of."""
    return all(part not in ("", ".", "..") for part in name.split("/"))


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
    """Fills files that are there empty; returns the SHA-256 of each as it arrived, `""` for one that did not."""
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
    digests = {name: hasher.hexdigest() for (name, _), hasher in zip(wanted, hashers, strict=True)}
    for number, reason in unreadable:
        digests[wanted[number][0]] = ""
        problems.append(f"{path.rpartition('/')[2]}/{wanted[number][0]}: {reason}")
        wanted[number][1].unlink()
    return digests


def gather_logs(
    session: Session, token: str, logs: Path, directory_of: Callable[[str], str], timelines: Sequence[str]
) -> str:
    """Completes the logs of a host's ranks that arrived while they ran; returns its timeline.

    Each file is compared with the host's by SHA-256 afterwards, and fetched whole if it is another one.

    Args:
        timelines: files of the run that say when which log grew.
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
    chunks: list[list[bytes]] = [[] for _ in ("node.log", *timelines)]
    files = [("node.log", 0), *((name, 0) for name in timelines)]
    session.fetch(token, "", files, lambda number, data: chunks[number].append(data))
    if chunks[0]:  # its daemon had trouble
        (logs / "hosts").mkdir(exist_ok=True)
        (logs / "hosts" / f"{session.name}.log").write_bytes(b"".join(chunks[0]))
    return b"".join(piece for part in chunks[1:] for piece in part).decode("ascii", "replace")


def _append(session: Session, token: str, wanted: Sequence[tuple[str, int]], targets: Sequence[Path]) -> None:
    def take(number: int, data: bytes) -> None:
        with open(targets[number], "ab") as file:
            file.write(data)

    session.fetch(token, "ranks", wanted, take)

"""Reading a capsule (`proof.capsule`): all of it is checked first, then its run is in the store as if made here.

    1  every member is written to a directory of ours, in the order of the tar, and held against the index: name, kind,
       size, SHA-256
    2  the records are read: the plan must have the hash of the run, result and attempt must be of this plan, every
       tree must be what it is named for and only hold what stays inside, every package must be in the lock
    3  blobs, trees and packages enter the store, the result last; a crash before leaves no result

Nothing is ever unpacked to a path that the capsule names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from repro_est.digest import RunHash, Sha256, TreeHash, canonical, sha256, sha256_hex
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import InputError, LockError, StoreError, UsageError, VerificationError
from repro_est.files import fsync, fsync_directory, nested, remove_tree, write_all
from repro_est.lock.lockfile import loads
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, load_plan
from repro_est.proof import capsule
from repro_est.proof.capsule import Index, check_path
from repro_est.proof.exported import IMPORTED
from repro_est.scan import symlink_problem
from repro_est.store.guard import writing
from repro_est.store.leases import Leases
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.trees import Kind, Tree, parse_manifest

if TYPE_CHECKING:
    from repro_est.share.keys import PublicKey

_CHUNK = 1 << 20
_LARGEST_ENVELOPE = 512 << 20
_RESERVE = 64 << 20
"""Space that has to be left on the disk."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A run that came in a capsule.

    Args:
        known: it was here before, with the same result.
        signer: name of the trusted key that signed it, `""` for none.
        inputs: names of the inputs whose bytes came too.
    """

    plan: Plan
    result: Result
    known: bool
    signer: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Received:
    """The members of a capsule, each as its index says.

    Args:
        files: path in the capsule to where it lies now.
        links: path to target.
    """

    index: Index
    signer: str
    files: Mapping[str, Path]
    links: Mapping[str, str]
    directories: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Read:
    """The records of a capsule, which belong together.

    Args:
        trees: by where their files are in the capsule: `source`, `outputs`, `logs`, `inputs/NAME`.
        packages: files of the lock, by SHA-256 and name.
    """

    plan: Plan
    content: Mapping[str, Any]
    result: Result
    attempt: AttemptRecord
    trees: Mapping[str, Tree]
    packages: Mapping[tuple[Sha256, str], Path] = field(default_factory=dict)


def import_capsule(path: Path, store: Store, trusted: Iterable[PublicKey], *, must_be_signed: bool = False) -> Imported:
    """Takes the run of a capsule into the store.

    Args:
        trusted: whose signatures are believed.
        must_be_signed: refuse a capsule that none of them has signed.

    Raises:
        UsageError: there is no such file.
        VerificationError: it is no capsule, or not a whole and true one; nothing of it is in the store then.
        StoreError: there is no room for it.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    with file, claimed_directory(store.layout, "tmp") as scratch:
        try:
            received = _receive(file, scratch, tuple(trusted))
            if must_be_signed and not received.signer:
                raise VerificationError(f"{capsule.INDEX}: is not signed, and --signed asks for it")
            read = _read(received)
        except (VerificationError, InputError, LockError) as error:
            raise VerificationError(f"{path}: {error.message}", hint=error.hint) from None
        except (tarfile.TarError, EOFError, UnicodeError) as error:
            raise VerificationError(f"{path}: is no capsule, or ends early: {error}") from None
        known, result = _install(read, received, store)
    return Imported(read.plan, result, known, received.signer, received.index.inputs)


# ---- 1: the members


def _receive(file: IO[bytes], scratch: Path, trusted: tuple[PublicKey, ...]) -> _Received:
    with tarfile.open(fileobj=file, mode="r|", encoding="utf-8", errors="strict") as archive:
        members = iter(archive)
        first = next(members, None)
        if first is None or first.name != capsule.INDEX:
            raise VerificationError(f"is no capsule: expected {capsule.INDEX} at its start")
        data = _small(archive, first, capsule.LARGEST_INDEX)
        index = Index.loads(data)
        _check_room(index, scratch)
        reception = _Reception(index, archive, scratch)
        signer = ""
        for number, member in enumerate(members):
            if number == 0 and member.name == capsule.ENVELOPE:
                signer = _signer(_small(archive, member, _LARGEST_ENVELOPE), data, trusted)
            else:
                reception.take(member)
        reception.check_whole()
    return _Received(index, signer, reception.files, reception.links, frozenset(reception.directories))


class _Reception:
    """Takes the members of a tar one after the other, each only as the index lists it."""

    def __init__(self, index: Index, archive: tarfile.TarFile, scratch: Path) -> None:
        self._index, self._archive, self._scratch = index, archive, scratch
        self._seen: set[str] = set()
        self.files: dict[str, Path] = {}
        self.links: dict[str, str] = {}
        self.directories: set[str] = set()

    def take(self, member: tarfile.TarInfo) -> None:
        path = self._checked_path(member)
        if member.issym():
            self.links[path] = member.linkname
        elif member.isdir():
            self.directories.add(path)
        elif _is_plain(member):
            self.files[path] = self._file(path, member)
        else:
            raise VerificationError(f"{path}: is neither a file, a directory nor a symlink")

    def check_whole(self) -> None:
        missing = sorted(self._index.files.keys() - self.files.keys())
        if missing:
            raise VerificationError(f"ends early: {missing[0]} and {len(missing) - 1} more are not in it")

    def _checked_path(self, member: tarfile.TarInfo) -> str:
        try:
            path = check_path(member.name)
        except ValueError as error:
            raise VerificationError(str(error)) from None
        if path in self._seen:
            raise VerificationError(f"{path}: is in it twice")
        self._seen.add(path)
        return path

    def _file(self, path: str, member: tarfile.TarInfo) -> Path:
        listed = self._index.files.get(path)
        if listed is None:
            raise VerificationError(f"{path}: is not listed in {capsule.INDEX}")
        if member.size != listed.size:
            raise VerificationError(f"{path}: got {member.size:,} bytes, expected {listed.size:,}")
        place = self._scratch / f"file-{len(self.files)}"
        hasher, left = sha256(), listed.size
        content = self._archive.extractfile(member)
        assert content is not None
        with writing(place):
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                while chunk := content.read(min(_CHUNK, left) if left else 1):
                    hasher.update(chunk)
                    write_all(descriptor, chunk)
                    left -= len(chunk)
            finally:
                os.close(descriptor)
        if left or hasher.hexdigest() != listed.sha256:
            raise VerificationError(f"{path}: got sha256 {hasher.hexdigest()}, expected {listed.sha256}")
        return place


def _small(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if not _is_plain(member) or member.size > most:
        raise VerificationError(f"{member.name}: is no file, or larger than {most >> 20} MiB")
    content = archive.extractfile(member)
    assert content is not None
    data = content.read()
    if len(data) != member.size:
        raise VerificationError(f"{member.name}: ends early")
    return data


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _signer(data: bytes, index: bytes, trusted: tuple[PublicKey, ...]) -> str:
    """Returns who has signed the index; `""` for nobody who is trusted here.

    Raises:
        VerificationError: the signature of somebody who is trusted is not good, or is of another capsule.
    """
    from repro_est.errors import UntrustedError
    from repro_est.share.keys import verify_by

    try:
        envelope = json.loads(data)
    except (ValueError, RecursionError):
        raise VerificationError(f"{capsule.ENVELOPE}: is not JSON") from None
    named = {item.get("keyid") for item in _signatures(envelope)}
    if not named & {key.id for key in trusted}:
        return ""
    try:
        payload, key = verify_by(envelope, trusted, capsule.PAYLOAD_TYPE)
    except UntrustedError as error:
        raise VerificationError(f"{capsule.ENVELOPE}: {error.message}") from None
    if payload != index:
        raise VerificationError(f"{capsule.ENVELOPE}: `{key.name}` has signed another capsule")
    return key.name


def _signatures(envelope: Any) -> list[dict[str, Any]]:
    found = envelope.get("signatures") if isinstance(envelope, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _check_room(index: Index, scratch: Path) -> None:
    free = shutil.disk_usage(scratch).free
    if index.size + _RESERVE > free:
        raise StoreError(
            f"the capsule holds {index.size:,} bytes, and the disk of the store has {free:,} left",
            hint="make room, or set REPRO_STORE to a directory on another disk",
        )


# ---- 2: what they say


def _read(received: _Received) -> _Read:
    run = received.index.run_hash
    content = _json(received, capsule.PLAN)
    plan = load_plan(content, run)
    try:
        result = Result.from_json(_json(received, capsule.RESULT))
        attempt = AttemptRecord.from_json(_json(received, capsule.ATTEMPT))
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"{capsule.RESULT}, {capsule.ATTEMPT}: no records of a run: {error!r}") from None
    _check_records(run, plan, result, attempt)
    trees = dict(_trees(received, plan, result))
    packages = _packages(received, plan)
    expected = {capsule.README, capsule.PLAN, capsule.RESULT, capsule.ATTEMPT, capsule.LOCK, capsule.CONDA_LOCK}
    expected |= {f"{capsule.TREES}/{tree.hash}" for tree in trees.values()}
    expected |= {f"{capsule.PACKAGES}/{sha256}/{name}" for sha256, name in packages}
    expected |= set(_checked_files(received, trees))
    surplus = sorted(received.files.keys() - expected)
    if surplus:
        raise VerificationError(f"{surplus[0]}: belongs to nothing in it")
    return _Read(plan, content, result, attempt, trees, packages)


def _check_records(run: RunHash, plan: Plan, result: Result, attempt: AttemptRecord) -> None:
    if result.run_hash != run:
        raise VerificationError(f"{capsule.RESULT}: is the result of run {result.run_hash}, expected {run}")
    if result.plan_sha256 != sha256_hex(canonical(plan.document)):
        raise VerificationError(f"{capsule.RESULT}: is the result of another plan: its sha256 is not that of the plan")
    if result.environment != environment_key(plan.environment):
        raise VerificationError(f"{capsule.RESULT}: was made in another environment than the plan says")
    if attempt.status is not Status.COMPLETED or (attempt.outputs, attempt.logs) != (result.outputs, result.logs):
        raise VerificationError(f"{capsule.ATTEMPT}: is not the attempt that made the result")


def _trees(received: _Received, plan: Plan, result: Result) -> Iterator[tuple[str, Tree]]:
    """The trees of the run; those of inputs may be missing, when not even their digests were known."""
    wanted = {capsule.SOURCE: plan.source, OUTPUTS: result.outputs, LOGS: result.logs}
    for top, hashed in wanted.items():
        yield top, _tree(received, hashed)
    inputs = {item.name: item.tree for item in plan.recorded.inputs}
    for name in received.index.inputs:
        if name not in inputs:
            raise VerificationError(f"{capsule.INDEX}: got an input {name!r}, which the plan does not have")
    for name, tree in inputs.items():
        if name in received.index.inputs or f"{capsule.TREES}/{tree}" in received.files:
            yield f"{capsule.INPUTS}/{name}", _tree(received, tree)


def _tree(received: _Received, name: TreeHash) -> Tree:
    tree = parse_manifest(_bytes(received, f"{capsule.TREES}/{name}"), name)
    paths = [entry.path for entry in tree.entries]
    if len(set(paths)) != len(paths):
        raise VerificationError(f"tree {name}: names a path twice")
    for inner, outer in nested(paths):
        raise VerificationError(f"tree {name}: {inner} is a file, and the directory of {outer}")
    if tree.single_file and (len(paths) != 1 or "/" in paths[0] or not tree.entries[0].is_file):
        raise VerificationError(f"tree {name}: is not one file, as it says")
    for entry in tree.entries:
        try:
            check_path(entry.path)
        except ValueError as error:
            raise VerificationError(f"tree {name}: {error}") from None
        if entry.is_file and entry.sha256 is None:
            raise VerificationError(f"tree {name}: {entry.path} has no sha256")
        if entry.kind is Kind.SYMLINK:
            problem = symlink_problem(entry.path, entry.target) if entry.target else "a symlink to nothing"
            if problem is not None:
                raise VerificationError(f"tree {name}: {entry.path}: {problem}")
    return tree


def _checked_files(received: _Received, trees: Mapping[str, Tree]) -> Iterator[str]:
    """Holds the members below each tree against its manifest, and yields the files."""
    links: dict[str, str] = {}
    directories: set[str] = set()
    for top, tree in trees.items():
        if not _has_bytes(received, top):
            continue
        for entry in tree.entries:
            path = f"{top}/{entry.path}"
            if entry.kind is Kind.SYMLINK:
                links[path] = entry.target
            elif entry.kind is Kind.DIRECTORY:
                directories.add(path)
            else:
                listed = received.index.files.get(path)
                if listed != (entry.sha256, entry.size):
                    raise VerificationError(f"{path}: is not the file that tree {tree.hash} names")
                yield path
    if links != received.links:
        odd = sorted(dict(links.items() ^ received.links.items()))
        raise VerificationError(f"{odd[0]}: is not the symlink that its tree has")
    if directories != received.directories:
        raise VerificationError(f"{min(directories ^ received.directories)}: is not a directory of its tree")


def _packages(received: _Received, plan: Plan) -> dict[tuple[Sha256, str], Path]:
    """The packages in it, each a file of the lock, which must be that of the plan."""
    recorded = plan.recorded
    platform = str(plan.environment["platform"])
    lock = loads(recorded.lock.encode(), Path(capsule.LOCK), lambda _: recorded.conda_lock.encode())
    if environment_document(lock, platform) != plan.environment:
        raise VerificationError(f"{capsule.PLAN}: its lock is not the environment that was hashed")
    if _bytes(received, capsule.LOCK) != recorded.lock.encode():
        raise VerificationError(f"{capsule.LOCK}: is not the lock of the plan")
    if capsule.CONDA_LOCK in received.files and _bytes(received, capsule.CONDA_LOCK) != recorded.conda_lock.encode():
        raise VerificationError(f"{capsule.CONDA_LOCK}: is not that of the plan")
    pinned = [built for package in lock.packages for built in package.build]
    known = {(file.sha256, file.filename) for package in (*lock.packages, *pinned) for file in package.artifacts}
    known |= {(item.sha256, item.filename) for item in lock.conda_packages(platform)}
    found: dict[tuple[Sha256, str], Path] = {}
    for path, place in received.files.items():
        top, _, rest = path.partition("/")
        if top != capsule.PACKAGES:
            continue
        digest, _, filename = rest.partition("/")
        if (digest, filename) not in known or received.index.files[path].sha256 != digest or "/" in filename:
            raise VerificationError(f"{path}: is no file of the lock")
        found[Sha256(digest), filename] = place
    return found


def _has_bytes(received: _Received, top: str) -> bool:
    kind, _, name = top.partition("/")
    return kind != capsule.INPUTS or name in received.index.inputs


def _bytes(received: _Received, path: str) -> bytes:
    place = received.files.get(path)
    if place is None:
        raise VerificationError(f"{path}: is not in it")
    if received.index.files[path].size > capsule.LARGEST_RECORD:
        raise VerificationError(f"{path}: larger than {capsule.LARGEST_RECORD >> 20} MiB")
    return place.read_bytes()


def _json(received: _Received, path: str) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(received, path))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise VerificationError(f"{path}: got a {type(content).__name__}, expected an object")
    return content


# ---- 3: into the store


def _install(read: _Read, received: _Received, store: Store) -> tuple[bool, Result]:
    run, runs = read.plan.hash, Runs(store.layout)
    with Leases(store.layout).hold(f"run-{run}"):
        there = runs.hit(run)
        if there is not None and there.outputs != read.result.outputs:
            raise VerificationError(
                f"run {run[:12]}: this store has another result of it, which stays\n"
                f"  expected outputs {there.outputs}, got {read.result.outputs}",
                hint=f"repro check {run[:12]}   says which of the two comes again",
            )
        _take_blobs(read, received, store)
        for tree in read.trees.values():
            store.write_tree(tree)
        for (digest, filename), place in read.packages.items():
            _take_package(place, store.layout.package(digest, filename))
        if there is not None:
            return True, there
        runs.write_plan(run, read.content)
        number, directory = runs.begin(run)
        facts = {**read.attempt.facts, IMPORTED: {"signed_by": received.signer}}
        for name, tree in ((OUTPUTS, read.trees[OUTPUTS]), (LOGS, read.trees[LOGS])):
            remove_tree(directory / name)
            store.view(tree, directory / name)
        runs.write_attempt(run, dataclasses.replace(read.attempt, number=number, facts=facts))
        result = dataclasses.replace(read.result, attempt=number)
        runs.commit(run, result)
        return False, result


def _take_blobs(read: _Read, received: _Received, store: Store) -> None:
    wanted = {
        received.files[f"{top}/{entry.path}"]: (f"{top}/{entry.path}", entry)
        for top, tree in read.trees.items()
        if _has_bytes(received, top)
        for entry in tree.files()
    }
    with store.batch() as batch:
        contents = batch.adopt(list(wanted))
        for (path, entry), content in zip(wanted.values(), contents, strict=True):
            if (content.xxh3, content.sha256, content.size) != (entry.xxh3, entry.sha256, entry.size):
                raise VerificationError(f"{path}: its xxh3 is {content.xxh3}, and its tree names {entry.xxh3}")
        batch.publish()


def _take_package(place: Path, destination: Path) -> None:
    if destination.exists():
        return
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(place, 0o444)
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(place, destination)
        fsync_directory(destination.parent)


def signer_in_words(imported: Imported) -> str:
    """Returns who vouches for it."""
    return f"signed by {imported.signer}" if imported.signer else "signed by nobody who is trusted here"

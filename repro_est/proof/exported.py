"""Writing a capsule (`proof.capsule`): every byte is read once more and held against its SHA-256 on the way."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from repro_est.digest import Sha256, canonical, sha256, sha256_hex
from repro_est.environment.artifacts import Artifacts
from repro_est.errors import InputError, UsageError, VerificationError
from repro_est.files import fsync, fsync_directory
from repro_est.observer import Observer
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.proof import capsule
from repro_est.proof.capsule import Index, Listed
from repro_est.proof.materials import Materials
from repro_est.store.records import encode
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

if TYPE_CHECKING:
    from repro_est.share.keys import Key

Opened = Callable[[], IO[bytes]]

IMPORTED = "imported"
"""The fact of an attempt that came in a capsule."""
_HOW_IT_CAME = (IMPORTED, "fetched")
"""Facts that a store adds to an attempt of others: a capsule says nothing of them, whoever exports."""

_README = """\
The run {run} ({name}), with all it takes to execute it again.

With repro:     repro capsule import FILE ; repro run {run}            what it gave
                repro run {run} --force      execute it again, without network
Without it:     source/ is what was executed, as plan.json says ("entry_script", "script_params"),
                in a Python {python} on {platform} with the wheels of packages/;
                inputs/ is what it was given, outputs/ and logs/ what it wrote.
Check it:       capsule.json has the SHA-256 of every file.
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """A capsule that was written.

    Args:
        sha256: of the file.
        left_out: what executing it again takes that is not in it, in words.
    """

    path: Path
    size: int
    sha256: Sha256
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _File:
    listed: Listed
    open: Opened
    executable: bool = False


def export(
    materials: Materials,
    store: Store,
    destination: Path,
    observer: Observer,
    *,
    inputs: bool = True,
    key: Key | None = None,
) -> Exported:
    """Writes the capsule of a run; whole, or nothing stands at `destination`.

    Args:
        inputs: with their bytes; else with their digests only.
        key: signs it.

    Raises:
        InputError: the bytes of an input are not there any more.
        VerificationError: something is not what it is named for.
        InfrastructureError: an artifact of the lock is not here and cannot be had.
    """
    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination}: no such directory", hint=f"mkdir -p {destination.parent}")
    contents = _Contents(materials, store, observer, inputs=inputs)
    files, links, directories = contents.files(), dict(contents.links()), set(contents.empty_directories())
    whole = tuple(sorted(item.planned.name for item in materials.inputs)) if inputs else ()
    index = Index(materials.plan.hash, whole, {path: item.listed for path, item in files.items()}).dumps()
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            summed = _Summed(file)
            stream: Any = summed  # of a file, tarfile asks for `write` only
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
                _add(archive, capsule.INDEX, len(index), io.BytesIO(index))
                if key is not None:
                    envelope = _envelope(key, index)
                    _add(archive, capsule.ENVELOPE, len(envelope), io.BytesIO(envelope))
                for path in sorted({*files, *links, *directories}):
                    if path in links:
                        _add_link(archive, path, links[path])
                    elif path in directories:
                        archive.addfile(_member(path, tarfile.DIRTYPE, 0o755))
                    else:
                        _add_file(archive, path, files[path])
            file.flush()
            fsync(file.fileno())
        os.replace(temporary, destination)
        fsync_directory(destination.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(destination, summed.size, summed.sha256(), tuple(contents.left_out()))


class _Contents:
    """What goes into a capsule."""

    def __init__(self, materials: Materials, store: Store, observer: Observer, *, inputs: bool) -> None:
        self._materials, self._store, self._observer, self._inputs = materials, store, observer, inputs
        if inputs:
            for item in materials.inputs:
                if item.tree is None:
                    raise InputError(
                        f"inputs.{item.planned.name}: its bytes are not here any more, or were changed",
                        hint="--without-inputs keeps its digest only",
                    )

    def files(self) -> dict[str, _File]:
        found = {path: _of_bytes(data) for path, data in self._records().items()}
        for top, tree, root in self._trees():
            found[f"{capsule.TREES}/{tree.hash}"] = _of_bytes(tree.manifest())
            if not self._has_bytes(top):
                continue
            for entry in tree.files():
                assert entry.sha256 is not None
                found[f"{top}/{entry.path}"] = _File(
                    Listed(entry.sha256, entry.size), self._opener(entry, tree, root), entry.kind is Kind.EXECUTABLE
                )
        for path in self._packages():
            sha256_of_it, filename = path.parts[-2:]
            listed = Listed(Sha256(sha256_of_it), path.stat().st_size)
            found[f"{capsule.PACKAGES}/{sha256_of_it}/{filename}"] = _File(listed, _opener_of(path))
        return found

    def links(self) -> Iterator[tuple[str, str]]:
        for top, entry in self._leaves(Kind.SYMLINK):
            yield f"{top}/{entry.path}", entry.target

    def empty_directories(self) -> Iterator[str]:
        for top, entry in self._leaves(Kind.DIRECTORY):
            yield f"{top}/{entry.path}"

    def left_out(self) -> Iterator[str]:
        materials = self._materials
        if materials.lock.conda is None and not materials.lock.user_managed:
            yield f"Python {materials.lock.python} itself"
        if materials.lock.image is not None:
            yield f"the base image {materials.lock.image.name}"
        if not self._inputs:
            yield from (f"the bytes of inputs.{item.planned.name}" for item in materials.inputs)
        yield from (f"the value of the secret {name}" for name in materials.plan.secrets)

    def _records(self) -> dict[str, bytes]:
        plan, recorded = self._materials.plan, self._materials.plan.recorded
        result = dataclasses.replace(self._materials.result, attempt=1)
        facts = {name: value for name, value in self._materials.attempt.facts.items() if name not in _HOW_IT_CAME}
        attempt = dataclasses.replace(self._materials.attempt, number=1, facts=facts)
        readme = _README.format(
            run=plan.hash, name=recorded.name, python=plan.environment["python"], platform=self._materials.platform
        )
        return {
            capsule.README: readme.encode(),
            capsule.PLAN: encode(plan.to_json()),
            capsule.RESULT: encode(result.to_json()),
            capsule.ATTEMPT: encode(_plain_numbers(attempt.to_json())),
            capsule.LOCK: recorded.lock.encode(),
            **({capsule.CONDA_LOCK: recorded.conda_lock.encode()} if recorded.conda_lock else {}),
        }

    def _trees(self) -> Iterator[tuple[str, Tree, Path | None]]:
        materials = self._materials
        yield capsule.SOURCE, materials.source, None
        yield OUTPUTS, materials.outputs, None
        yield LOGS, materials.logs, None
        for item in materials.inputs:
            if item.tree is not None:
                yield f"{capsule.INPUTS}/{item.planned.name}", item.tree, item.root

    def _leaves(self, kind: Kind) -> Iterator[tuple[str, Entry]]:
        for top, tree, _ in self._trees():
            if self._has_bytes(top):
                yield from ((top, entry) for entry in tree.entries if entry.kind is kind)

    def _has_bytes(self, top: str) -> bool:
        return self._inputs or not top.startswith(f"{capsule.INPUTS}/")

    def _packages(self) -> Iterator[Path]:
        """The files of the lock, fetched where they are not here, and checked."""
        artifacts = Artifacts(self._materials.lock, self._materials.platform, self._store, self._observer)
        artifacts.fetch()
        for _, artifact in self._materials.pip:
            yield self._store.layout.package(Sha256(artifact.sha256), artifact.filename)
        for item in self._materials.conda:
            yield artifacts.path(item)

    def _opener(self, entry: Entry, tree: Tree, root: Path | None) -> Opened:
        if root is not None:
            return _opener_of(root if tree.single_file else root / entry.path)
        blob = self._store.layout.blob(entry.xxh3)
        return _opener_of(blob) if blob.exists() else lambda: io.BytesIO(self._store.read_blob(entry))


class _Summed:
    """Writes through to a file, and knows its size and SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hasher, self.size = file, sha256(), 0

    def write(self, data: bytes) -> int:
        self._hasher.update(data)
        self.size += len(data)
        return self._file.write(data)

    def sha256(self) -> Sha256:
        return Sha256(self._hasher.hexdigest())


class _Checked:
    """Reads through a file, and knows the SHA-256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hasher = file, sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hasher.update(data)
        return data

    def sha256(self) -> Sha256:
        return Sha256(self._hasher.hexdigest())


def _add_file(archive: tarfile.TarFile, path: str, file: _File) -> None:
    with file.open() as content:
        checked = _Checked(content)
        try:
            _add(archive, path, file.listed.size, checked, mode=0o755 if file.executable else 0o644)
        except OSError as error:
            if error.errno is None:  # tarfile says so of a file that ends early
                raise VerificationError(f"{path}: changed while it was read") from None
            raise
    if checked.sha256() != file.listed.sha256:
        raise VerificationError(
            f"{path}: got sha256 {checked.sha256()}, expected {file.listed.sha256}", hint="repro verify"
        )


def _add(archive: tarfile.TarFile, path: str, size: int, content: Any, *, mode: int = 0o644) -> None:
    member = _member(path, tarfile.REGTYPE, mode)
    member.size = size
    archive.addfile(member, content)


def _add_link(archive: tarfile.TarFile, path: str, target: str) -> None:
    member = _member(path, tarfile.SYMTYPE, 0o777)
    member.linkname = target
    archive.addfile(member)


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.mtime = kind, mode, 0
    return member


def _envelope(key: Key, index: bytes) -> bytes:
    from repro_est.share.keys import sign

    return encode(sign(key, capsule.PAYLOAD_TYPE, index))


def _plain_numbers(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a record as canonical JSON has it: one that came signed says `0` where its maker wrote `0.0`."""
    plain: dict[str, Any] = json.loads(canonical(content))
    return plain


def _of_bytes(data: bytes) -> _File:
    return _File(Listed(sha256_hex(data), len(data)), lambda: io.BytesIO(data))


def _opener_of(path: Path) -> Opened:
    return lambda: open(path, "rb")

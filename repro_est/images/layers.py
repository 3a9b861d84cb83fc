"""Layers of images: uncompressed tars that are the same bytes wherever they are made, and made once.

A layer is a function of its packages and the path it is for. Names are sorted, every directory is listed, owner is 0,
times are 0, modes are 0755 and 0644 (OCI image spec, layer.md; PAX, POSIX.1-2001). Its name is the SHA-256 of the tar,
which OCI calls its diff ID. A note under the key of what it is made of says which layer that was, and which paths it
has with which contents, so that an image whose layers are all there unpacks nothing.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from repro_est.digest import Sha256, xxh3, xxh3_hex
from repro_est.digest import sha256 as new_sha256
from repro_est.files import copy_file, fsync, sha256_file, sync_filesystem, write_atomic
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.scratch import claimed_directory

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Args:
        name: for people: a package, `base`, or how many small packages it holds.
        diff_id: SHA-256 of the uncompressed tar, 64 hex digits.
        size: of the tar, bytes; None for a layer of a base image that only a daemon has.
        built: it was made just now.
    """

    name: str
    diff_id: Sha256
    size: int | None
    built: bool = False


class Layers:
    """The layers of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def find(self, key: Sha256, name: str) -> Layer | None:
        """Returns the layer that was made for a key, if it is still there."""
        note = self._note(key)
        try:
            there = note is not None and self._layout.layer(note[0]).stat().st_size == note[1]
            there = there and note is not None and renew_if_ours(self._layout, self._layout.layer(note[0]))
        except OSError:
            return None
        return Layer(name, note[0], note[1]) if note is not None and there else None

    def paths(self, key: Sha256) -> Mapping[str, str]:
        """Returns the paths of the layer of a key, each with what tells contents apart."""
        note = self._note(key)
        return note[2] if note else {}

    def make(self, key: Sha256, name: str, entries: Mapping[str, Path], *, open_to_all: Collection[str] = ()) -> Layer:
        """Makes a layer.

        Args:
            entries: path in the image (relative, POSIX) to the file, symlink or empty directory that will be there.
            open_to_all: directories any user may write to, with the mode of /tmp.
        """
        with writing(self._layout.directory("layers")), claimed_directory(self._layout, "tmp") as scratch:
            self._layout.directory("layers").mkdir(exist_ok=True)
            temporary = scratch / "layer.tar"
            contents: dict[str, str] = {}
            with open(temporary, "wb") as file:
                writer = _Hashing(file)
                _write(writer, entries, contents, open_to_all)
                file.flush()
                fsync(file.fileno())
            diff_id = Sha256(writer.hasher.hexdigest())
            os.chmod(temporary, 0o444)
            os.replace(temporary, self._layout.layer(diff_id))
            self._write_note(key, Layer(name, diff_id, writer.size), contents)
        return Layer(name, diff_id, writer.size, built=True)

    def take(self, key: Sha256, name: str, tar: Path) -> Layer:
        """Takes a tar that somebody else made."""
        with writing(self._layout.directory("layers")), claimed_directory(self._layout, "tmp") as scratch:
            self._layout.directory("layers").mkdir(exist_ok=True)
            temporary = scratch / "layer.tar"
            copy_file(tar, temporary, mode=0o444)
            diff_id, size = sha256_file(temporary), temporary.stat().st_size
            sync_filesystem(temporary)
            os.replace(temporary, self._layout.layer(diff_id))
            self._write_note(key, Layer(name, diff_id, size), {})
        return Layer(name, diff_id, size)

    def keep(self, stream: BinaryIO, wanted: Collection[Sha256]) -> Sha256 | None:
        """Keeps a tar whose diff ID is one of those wanted; returns it, or None for anything else."""
        with writing(self._layout.directory("layers")), claimed_directory(self._layout, "tmp") as scratch:
            self._layout.directory("layers").mkdir(exist_ok=True)
            temporary = scratch / "layer.tar"
            with open(temporary, "wb") as file:
                writer = _Hashing(file)
                while chunk := stream.read(_CHUNK):
                    writer.write(chunk)
                file.flush()
                fsync(file.fileno())
            diff_id = Sha256(writer.hasher.hexdigest())
            if diff_id not in wanted:
                return None
            os.chmod(temporary, 0o444)
            os.replace(temporary, self._layout.layer(diff_id))
            return diff_id

    def _write_note(self, key: Sha256, layer: Layer, contents: Mapping[str, str]) -> None:
        note = {"diff_id": layer.diff_id, "size": layer.size, "name": layer.name, "paths": contents}
        text = json.dumps(note, sort_keys=True).encode()
        write_atomic(self._layout.layer_note(key), xxh3_hex(text).encode() + b"\n" + text)

    def _note(self, key: Sha256) -> tuple[Sha256, int, Mapping[str, str]] | None:
        try:
            digest, _, text = self._layout.layer_note(key).read_bytes().partition(b"\n")
            if digest.decode("ascii", "replace") != xxh3_hex(text):  # torn, or changed
                return None
            note = json.loads(text)
            return Sha256(note["diff_id"]), int(note["size"]), note["paths"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


class _Hashing:
    """Writes on, digests and counts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hasher, self.size = file, new_sha256(), 0

    def write(self, data: bytes) -> int:
        self.hasher.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def _write(file: _Hashing, entries: Mapping[str, Path], contents: dict[str, str], open_to_all: Collection[str]) -> None:
    names = sorted({*entries, *_parents(entries)}, key=lambda name: name.split("/"))
    with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as archive:  # type: ignore[arg-type]
        for name in names:
            member = tarfile.TarInfo(name)
            path = entries.get(name)
            status = path.lstat() if path is not None else None
            if path is None or status is None or stat.S_ISDIR(status.st_mode):
                member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name in open_to_all else 0o755
                archive.addfile(member)
            elif stat.S_ISLNK(status.st_mode):
                member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
                contents[name] = f"-> {member.linkname}"
                archive.addfile(member)
            else:
                member.size, member.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                with open(path, "rb") as source:
                    reader = _Reading(source)
                    archive.addfile(member, reader)
                contents[name] = f"{reader.hasher.hexdigest()} {member.mode:o}"


class _Reading:
    """Reads on, and digests."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hasher = file, xxh3()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.hasher.update(data)
        return data


def _parents(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in names:
        while (name := name.rpartition("/")[0]) and name not in found:
            found.add(name)
    return found

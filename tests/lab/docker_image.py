"""Images for tests, made by hand and loaded: whatever layers, architecture and variables a test wants."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient


def layer(files: Mapping[str, bytes]) -> bytes:
    """Returns a tar of some files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str) -> bytes:
    """Returns a tar of one symlink."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        archive.addfile(member)
    return buffer.getvalue()


def forge(config: Mapping[str, Any], layers: Sequence[bytes], name: str) -> bytes:
    """Returns what `docker load` takes: a configuration with these layers in place of its own."""
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    content = {**config, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{n}.tar" for n in range(len(layers))]}]
    # Keys sorted and no spaces: what RFC 8785 makes of a configuration without numbers, so that only layers differ.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    files = {f"{number}.tar": data for number, data in enumerate(layers)}
    return layer({**files, "config.json": text.encode(), "manifest.json": json.dumps(manifest).encode()})


def load(
    client: DockerClient,
    name: str,
    base: Path,
    *more: bytes,
    variables: Mapping[str, str] | None = None,
    architecture: str = "amd64",
) -> str:
    """Loads an image on a root file system and returns its ID; one named for the open registry is pushed there too."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in (variables or {}).items()],
            "Entrypoint": ["/nothing/there"],
            "User": "nobody",
        },
    }
    (image,) = client.images.load(forge(config, [base.read_bytes(), *more], name))
    if ":5000/" in name:
        answer = client.images.push(name)
        assert "error" not in answer, answer
    return str(image.id)

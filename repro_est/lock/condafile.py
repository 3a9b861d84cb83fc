"""The conda-lock file, `<recipe>.conda-lock.yml`: conda-lock's own format, version 1, which its own writer writes.

conda-lock, mamba and micromamba install it as it is. Here it holds every package of the environment, conda's and
pip's; the rest is in `<recipe>.lock`, which names this file by its SHA-256. It is written with conda-lock's models, so
that its format stays theirs, and read with a plain YAML reader, which is ten times faster and imports nothing of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from repro_est.digest import canonical, sha256_hex
from repro_est.errors import LockError
from repro_est.lock.values import Artifact, CondaPackage, Package
from repro_est.recipe.forms import NETRC, credential

_VERSION = 1
_HEX_DIGITS = {"sha256": 64, "md5": 32}
_ARCHIVES = (".conda", ".tar.bz2")


def dumps(
    conda: Sequence[CondaPackage],
    pip: Sequence[Package],
    *,
    channels: Sequence[str],
    platforms: Sequence[str],
    asked: Mapping[str, Any],
) -> bytes:
    """Returns the bytes of a conda-lock file.

    Args:
        channels: URLs without credentials.
        asked: what was solved for; its digest is the file's `content_hash`.
    """
    from conda_lock.lockfile import write_conda_lock_file
    from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency, Lockfile, LockMeta
    from conda_lock.models.channel import Channel

    locked = [
        LockedDependency(
            name=package.name,
            version=package.version,
            manager="conda",
            platform=package.platform,
            dependencies={name: rest for name, _, rest in (text.partition(" ") for text in package.depends)},
            url=package.url,
            hash=HashModel(md5=package.md5, sha256=package.sha256),
            build=package.build,
            categories={"main"},
        )
        for package in conda
    ]
    locked += [
        LockedDependency(
            name=package.name,
            version=package.version,
            manager="pip",
            platform=platform,
            dependencies={},
            url=artifact.url,
            hash=HashModel(sha256=artifact.sha256),
            categories={"main"},
        )
        for package in pip
        for artifact in package.artifacts
        for platform in artifact.platforms
    ]
    digest = sha256_hex(canonical(asked))
    metadata = LockMeta(
        content_hash=dict.fromkeys(platforms, digest),
        channels=[Channel.from_string(channel) for channel in channels],
        platforms=list(platforms),
        sources=[],
    )
    with tempfile.TemporaryDirectory(prefix="repro-lock-") as directory:
        path = Path(directory) / "conda-lock.yml"
        content = Lockfile(package=locked, metadata=metadata)
        write_conda_lock_file(content, path, metadata_choices=None, include_help_text=False)
        return (
            b"# Made by `repro lock`; commit it. conda-lock, mamba and micromamba install it too.\n" + path.read_bytes()
        )


def loads(data: bytes, path: Path) -> tuple[tuple[CondaPackage, ...], tuple[Package, ...], tuple[str, ...]]:
    """Reads a conda-lock file: conda packages, pip packages, platforms.

    Args:
        path: named in messages.

    Raises:
        LockError: it is not one, is of another version, or has an entry that cannot be verified.
    """
    import yaml

    try:
        content = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 -- a safe one
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LockError(f"{path}: is no conda-lock file: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        got = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise LockError(f"{path}: is no conda-lock file of version {_VERSION}, got {got!r}")
    try:
        for item in content["package"]:
            _no_credential(str(item["url"]).partition("#")[0], f"package {item['name']}", path)
        rows = [item for item in content["package"] if item.get("category", "main") == "main"]
        conda = tuple(_conda(item, path) for item in rows if item["manager"] == "conda")
        pip = tuple(_pip([item for item in rows if item["manager"] == "pip"], path))
        platforms = tuple(sorted(str(name) for name in content["metadata"]["platforms"]))
        channels = [item["url"] if isinstance(item, dict) else item for item in content["metadata"].get("channels", ())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LockError(f"{path}: is no conda-lock file: {error!r}") from None
    for channel in channels:
        _no_credential(str(channel), "metadata.channels", path)
    return conda, pip, platforms


def _no_credential(url: str, where: str, path: Path) -> None:
    if held := credential(url):
        raise LockError(f"{path}: {where}: {held}; repro keeps none in files", hint=NETRC)


def _conda(item: Mapping[str, Any], path: Path) -> CondaPackage:
    filename = unquote(str(item["url"]).rsplit("/", 1)[-1])
    stem = next((filename.removesuffix(ending) for ending in _ARCHIVES if filename.endswith(ending)), None)
    if stem is None or not item["hash"].get("sha256"):
        raise LockError(f"{path}: {item['name']}: has no sha256, or is no conda package: {filename}")
    return CondaPackage(
        name=str(item["name"]),
        version=str(item["version"]),
        build=str(item.get("build") or stem.rsplit("-", 2)[2]),
        filename=filename,
        sha256=_digest(item, "sha256", path),
        md5=_digest(item, "md5", path) if item["hash"].get("md5") is not None else "",
        url=str(item["url"]),
        platform=str(item["platform"]),
        depends=tuple(sorted(f"{name} {rest}".strip() for name, rest in (item.get("dependencies") or {}).items())),
    )


def _digest(item: Mapping[str, Any], kind: str, path: Path) -> str:
    digest, length = str(item["hash"][kind]).lower(), _HEX_DIGITS[kind]
    if not re.fullmatch(rf"[0-9a-f]{{{length}}}", digest):
        raise LockError(f"{path}: {item['name']}: {kind}: got {digest!r}, expected {length} hex digits")
    return digest


def _pip(items: Sequence[Mapping[str, Any]], path: Path) -> Iterator[Package]:
    """Joins the entries of one package: conda-lock has one for each platform."""
    joined: dict[tuple[str, str], dict[tuple[str, str, str], list[str]]] = {}
    for item in items:
        url = str(item["url"])
        filename = unquote(url.split("#")[0].rsplit("/", 1)[-1])
        if not item["hash"].get("sha256") or not filename.endswith(".whl"):
            raise LockError(
                f"{path}: pip package {item['name']}: got {filename}, expected a wheel with its sha256",
                hint="an environment with conda packages takes wheels only",
            )
        files = joined.setdefault((str(item["name"]), str(item["version"])), {})
        files.setdefault((filename, _digest(item, "sha256", path), url), []).append(str(item["platform"]))
    for (name, version), files in sorted(joined.items()):
        artifacts = (
            Artifact(filename, sha256, None, url, tuple(sorted(platforms)))
            for (filename, sha256, url), platforms in sorted(files.items())
        )
        yield Package(name, version, "", "", tuple(artifacts))

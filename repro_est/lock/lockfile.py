"""The lock file: `<recipe>.lock`, TOML, written only here.

Design goals. One fact per line and everything sorted, so that a diff says what changed and two people merge
what they can. The same lock is the same bytes. No secrets: URLs are stored without user, password and query.
A file of a newer format is refused, and so is an unknown key; a file with merge conflicts is not read at all but
made anew by `repro lock`.

Format 1:

    format = 1
    python = "3.11.7"                       exact CPython version
    as_of = "2026-06-01"                    only when the resolver was held to a date
    platforms = [...]
    requirements = [...]                    what was asked, as the recipe writes it

    [conda]                                 only with conda packages; there are then no [[package]]
    file, sha256                            the conda-lock file, which has all packages, conda's and pip's
    packages, channels, virtual_packages    what was asked of conda
    [image]                                 only where the recipe names a base image
    name                                    as the recipe says it
    digest?                                 of the manifest, by which it is pulled; absent: no registry has it
    image_ids                               "platform=sha256:...", what is hashed
    context?                                only for a Dockerfile: the tree it was built of. Building again gives
                                            another image: this one is pinned, not reproducible
    python?                                 of the image, only with user_managed
    [[input]]                               a URL input
    name, url, sha256, size, tree

    [[package]]
    name, version, marker?, index?
    [[package.artifact]]                    the file for some platforms
    filename, sha256, size?, url, platforms
    [[package.build]]                       what an sdist is built with; as [[package]]
    [[package.build.artifact]]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from repro_est.digest import sha256_hex
from repro_est.errors import LockError
from repro_est.lock.values import LOCK_FORMAT, Artifact, CondaLock, Lock, LockedImage, LockedInput, Package

_HEADER = "# Made by `repro lock`; commit it. After a merge conflict, run `repro lock` on the recipe.\n"


def dumps(lock: Lock) -> bytes:
    """Returns the bytes of the lock file."""
    lines = [_HEADER, f"format = {LOCK_FORMAT}", _fact("python", lock.python)]
    if lock.as_of:
        lines.append(_fact("as_of", lock.as_of))
    lines += [_array("platforms", lock.platforms), _array("requirements", lock.requirements)]
    if lock.conda is not None:
        lines += _conda(lock.conda)
    if lock.image is not None:
        lines += _image(lock.image)
    for item in sorted(lock.inputs, key=lambda item: item.name):
        lines += ["\n[[input]]", _fact("name", item.name), _fact("url", public_url(item.url))]
        lines += [_fact("sha256", item.sha256), f"size = {item.size}", _fact("tree", item.tree)]
    for package in _sorted(lock.packages) if lock.conda is None else ():
        lines += _package(package, "package")
    return ("\n".join(lines) + "\n").encode("utf-8")


def loads(data: bytes, path: Path, read: Callable[[str], bytes] | None = None) -> Lock:
    """Reads a lock file, and the conda-lock file it names.

    Args:
        path: named in messages.
        read: returns the conda-lock file; by default it lies where the lock says, seen from `path`.

    Raises:
        LockError: not a lock, a newer format, or an unsolved merge conflict.
    """
    import tomli

    if b"\n<<<<<<<" in data or data.startswith(b"<<<<<<<"):
        raise LockError(f"{path}: holds an unsolved merge conflict", hint=f"repro lock {path.with_suffix('.toml')}")
    try:
        document = tomli.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise LockError(f"{path}: not a lock: {error}", hint=f"repro lock {path.with_suffix('.toml')}") from None
    number = document.pop("format", None)
    if number != LOCK_FORMAT:
        raise LockError(f"{path}: got lock format {number!r}, this version reads {LOCK_FORMAT}", hint="upgrade repro")
    try:
        return Lock(
            python=document.pop("python"),
            as_of=document.pop("as_of", ""),
            platforms=tuple(document.pop("platforms")),
            requirements=tuple(document.pop("requirements")),
            inputs=tuple(LockedInput(**item) for item in document.pop("input", ())),
            image=_read_image(document.pop("image")) if "image" in document else None,
            **(
                _read_conda(document.pop("conda"), path, read)
                if "conda" in document
                else {"packages": tuple(map(_read_package, document.pop("package", ())))}
            ),
            **document,
        )
    except (KeyError, TypeError) as error:
        raise LockError(f"{path}: not a lock: {error}", hint=f"repro lock {path.with_suffix('.toml')}") from None


def public_url(url: str) -> str:
    """Returns a URL without user, password, query and fragment: what may stand in a file."""
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _sorted(packages: Iterable[Package]) -> list[Package]:
    return sorted(packages, key=lambda package: (package.name, package.version))


def _package(package: Package, table: str) -> list[str]:
    lines = [f"\n[[{table}]]", _fact("name", package.name), _fact("version", package.version)]
    if package.marker:
        lines.append(_fact("marker", package.marker))
    if package.index:
        lines.append(_fact("index", public_url(package.index)))
    for artifact in sorted(package.artifacts, key=lambda artifact: artifact.filename):
        lines += [f"\n[[{table}.artifact]]", _fact("filename", artifact.filename), _fact("sha256", artifact.sha256)]
        if artifact.size is not None:
            lines.append(f"size = {artifact.size}")
        lines += [_fact("url", public_url(artifact.url)), _array("platforms", artifact.platforms)]
    for build in _sorted(package.build):
        lines += _package(build, f"{table}.build")
    return lines


def _fact(name: str, value: str) -> str:
    return f"{name} = {_string(value)}"


def _array(name: str, values: Sequence[str]) -> str:
    if not values:
        return f"{name} = []"
    return f"{name} = [\n" + "".join(f"    {_string(value)},\n" for value in values) + "]"


def _string(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _image(image: LockedImage) -> list[str]:
    facts = {"digest": image.digest, "context": image.context, "python": image.python}
    lines = ["\n[image]"]
    if image.context:
        lines.append("# built of a Dockerfile: not reproducible bit for bit; this very image is what was locked")
    lines += [_fact("name", image.name), *(_fact(name, value) for name, value in facts.items() if value)]
    return [*lines, _array("image_ids", [f"{platform}={image_id}" for platform, image_id in image.image_ids])]


def _read_image(table: dict[str, Any]) -> LockedImage:
    pairs = (text.partition("=") for text in table.pop("image_ids"))
    return LockedImage(digest=table.pop("digest", ""), image_ids=tuple((p, i) for p, _, i in pairs), **table)


def _conda(conda: CondaLock) -> list[str]:
    lines = ["\n[conda]", _fact("file", conda.file), _fact("sha256", conda.sha256)]
    lines += [_array("channels", conda.channels), _array("packages", conda.specs)]
    return [*lines, _array("virtual_packages", [f"{name}={value}" for name, value in conda.virtual_packages])]


def _read_conda(table: dict[str, Any], path: Path, read: Callable[[str], bytes] | None) -> dict[str, Any]:
    """Returns the fields of a lock that a conda-lock file gives."""
    from repro_est.lock.condafile import loads as loads_conda

    name, sha256 = str(table.pop("file")), table.pop("sha256")
    place = path.parent / name
    try:
        data = read(name) if read else place.read_bytes()
    except OSError as error:
        hint = f"repro lock {path.with_suffix('.toml')}"
        raise LockError(f"{place}: cannot be read: {error.strerror}; {path.name} needs it", hint=hint) from None
    if sha256_hex(data) != sha256:
        raise LockError(
            f"{place}: was changed since {path.name} was made\n"
            f"  expected sha256 {sha256}\n  got      sha256 {sha256_hex(data)}",
            hint=f"repro lock {path.with_suffix('.toml')}",
        )
    packages, pip, _ = loads_conda(data, place)
    virtual = tuple((item[0], item[2]) for item in (text.partition("=") for text in table.pop("virtual_packages")))
    channels, specs = tuple(table.pop("channels")), tuple(table.pop("packages"))
    conda = CondaLock(name, sha256, specs, channels, virtual, packages, data.decode("utf-8"), **table)
    return {"conda": conda, "packages": pip}


def _read_package(item: dict[str, Any]) -> Package:
    artifacts = tuple(_read_artifact(artifact) for artifact in item.pop("artifact", ()))
    build = tuple(_read_package(package) for package in item.pop("build", ()))
    return Package(marker=item.pop("marker", ""), index=item.pop("index", ""), artifacts=artifacts, build=build, **item)


def _read_artifact(item: dict[str, Any]) -> Artifact:
    return Artifact(size=item.pop("size", None), platforms=tuple(item.pop("platforms")), **item)

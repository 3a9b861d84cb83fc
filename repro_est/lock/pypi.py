"""The pip part of a lock: one uv resolution, then for each platform its one file.

uv's answer is a pylock.toml (PEP 751). Without conda it is universal: one set of versions for all platforms, with
markers, which are evaluated with the exact Python version; the best wheel is picked by its tags; an sdist is the last
resort, and then what it is built with is locked too. With conda it is for one platform, on top of given packages.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomli

from repro_est.errors import LockError
from repro_est.files import sha256_file
from repro_est.lock.fetch import fetch
from repro_est.lock.interpreters import Interpreter
from repro_est.lock.lockfile import public_url
from repro_est.lock.requirements import CONSTRAINT
from repro_est.lock.uv import run_uv
from repro_est.lock.values import Artifact, Package
from repro_est.lock.wheels import UV_PLATFORMS, best_wheel, needed
from repro_est.recipe.values import EnvironmentRequest

_DEFAULT_BUILD = ("setuptools>=40.8.0", "wheel")  # PEP 518: what an sdist without pyproject.toml is built with


class Solver:
    """One way of asking uv: index settings, Python, platforms and date.

    Args:
        provided: distributions that are there already, with their versions; `platforms` is then a single one.
    """

    def __init__(
        self,
        request: EnvironmentRequest,
        interpreter: Interpreter,
        platforms: tuple[str, ...],
        date: str,
        provided: Mapping[str, str] | None = None,
    ) -> None:
        self._request, self._interpreter, self._platforms, self._date = request, interpreter, platforms, date
        self._provided = provided

    def solve(
        self,
        asked: Sequence[str],
        keep: Sequence[Package],
        update: Sequence[str],
        *,
        what: str,
        wheels_only: bool = False,
    ) -> tuple[Package, ...]:
        with tempfile.TemporaryDirectory(prefix="repro-lock-") as name:
            directory = Path(name)
            document = self._compile(directory, asked, keep, update, what, wheels_only=wheels_only)
            items = [item for item in document.get("packages", ()) if item["name"] not in (self._provided or {})]
            packages = [self._package(item, directory) for item in items]
        kept = [package for package in packages if package.artifacts]
        return tuple(sorted(kept, key=lambda package: (package.name, package.version)))

    def _compile(
        self,
        directory: Path,
        asked: Sequence[str],
        keep: Sequence[Package],
        update: Sequence[str],
        what: str,
        *,
        wheels_only: bool,
    ) -> dict[str, Any]:
        (directory / "asked.txt").write_text("".join(f"{line}\n" for line in asked if not line.startswith(CONSTRAINT)))
        limits = [line.removeprefix(CONSTRAINT) for line in asked if line.startswith(CONSTRAINT)]
        limits += [_provided(directory, name, version) for name, version in sorted((self._provided or {}).items())]
        (directory / "limits.txt").write_text("".join(f"{line}\n" for line in limits))
        output = directory / "pylock.toml"
        if keep:
            output.write_text(_preferences(keep, self._interpreter.version))
        arguments = ["pip", "compile", "--quiet", "--format", "pylock.toml", "--no-header"]
        arguments += (
            ["--universal"] if self._provided is None else ["--python-platform", UV_PLATFORMS[self._platforms[0]]]
        )
        arguments += ["--python", str(self._interpreter.path), "--python-version", self._interpreter.version]
        arguments += ["--constraints", str(directory / "limits.txt"), "--output-file", str(output), *self._index()]
        arguments += [word for name in update for word in ("--upgrade-package", name)]
        if self._date:
            arguments += ["--exclude-newer", self._date if "T" in self._date else f"{self._date}T23:59:59Z"]
        if wheels_only:
            arguments += ["--only-binary", ":all:"]
        run_uv([*arguments, str(directory / "asked.txt")], what=what)
        return tomli.loads(output.read_text("utf-8"))

    def _index(self) -> Iterator[str]:
        request = self._request
        if request.index_url:
            yield from ("--default-index", request.index_url)
        for url in request.extra_index_urls:
            yield from ("--index", url)
        for link in request.find_links:
            yield from ("--find-links", link)

    def _package(self, item: Mapping[str, Any], directory: Path) -> Package:
        name, version, marker = item["name"], item.get("version", "0"), item.get("marker", "")
        wheels = {_filename(wheel): wheel for wheel in item.get("wheels", ())}
        sdist = item.get("sdist")
        chosen: dict[str, list[str]] = {}
        for platform in self._platforms:
            if not needed(marker, platform, self._interpreter.version):
                continue
            filename = best_wheel(wheels, platform, self._interpreter.version)
            if filename is None and sdist is None:
                raise LockError(
                    f"{name} {version}: has no wheel for {platform} with Python {self._interpreter.version}, "
                    "and no sdist",
                    hint="allow another version of it, or take the platform out of [environment] platforms",
                )
            chosen.setdefault(filename or _filename(sdist or {}), []).append(platform)
        files = {**wheels, **({_filename(sdist): sdist} if sdist else {})}
        artifacts = tuple(
            _artifact(files[filename], platforms, directory) for filename, platforms in sorted(chosen.items())
        )
        built = next((artifact for artifact in artifacts if not artifact.is_wheel), None)
        build = self._build_requirements(name, version, built, directory) if built else ()
        return Package(name, version, _platform_marker(marker), public_url(item.get("index", "")), artifacts, build)

    def _build_requirements(self, name: str, version: str, sdist: Artifact, directory: Path) -> tuple[Package, ...]:
        path = directory / sdist.filename
        fetch(sdist.url, sdist.sha256, path, what=f"{name} {version}")
        return self.solve(_declared_build(path), (), (), what=f"what {name} {version} is built with", wheels_only=True)


def _provided(directory: Path, name: str, version: str) -> str:
    """Makes a wheel that stands for a package that is there already; returns the constraint that picks it."""
    module = name.replace("-", "_")
    path, info = directory / f"{module}-{version}-py3-none-any.whl", f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name} @ {path.as_uri()}"


def _declared_build(sdist: Path) -> list[str]:
    """Returns `build-system.requires` of an sdist, or setuptools where it declares nothing."""
    text = _member(sdist, "pyproject.toml")
    try:
        system = tomli.loads(text.decode("utf-8")).get("build-system", {}) if text else {}
    except (UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise LockError(f"{sdist.name}: its pyproject.toml is not valid: {error}") from None
    asked = system.get("requires") or list(_DEFAULT_BUILD)
    if str(system.get("build-backend", "setuptools")).startswith("setuptools"):
        asked = [*asked, "wheel"]  # setuptools before 70.1 needs it and does not always say so
    return sorted(set(asked))


def _member(sdist: Path, name: str) -> bytes | None:
    """Reads one file from the top directory of an archive; nothing is unpacked."""
    if sdist.suffix == ".zip":
        with zipfile.ZipFile(sdist) as archive:
            found = next(
                (item for item in archive.namelist() if item.count("/") == 1 and item.endswith(f"/{name}")), None
            )
            return archive.read(found) if found else None
    with tarfile.open(sdist) as archive:
        for member in archive:
            if member.name.count("/") == 1 and member.name.endswith(f"/{name}") and member.isfile():
                file = archive.extractfile(member)
                return file.read() if file else None
    return None


def _preferences(packages: Sequence[Package], python: str) -> str:
    """A pylock.toml that names the versions to keep; uv prefers what its output file holds."""
    lines = ['lock-version = "1.0"', 'created-by = "repro"', f'requires-python = ">={python}"']
    for package in packages:
        lines += ["", "[[packages]]", f'name = "{package.name}"', f'version = "{package.version}"']
        if package.marker:
            lines.append(f"marker = {_quoted(package.marker)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _platform_marker(marker: str) -> str:
    """Drops a marker that only speaks of Python, whose version is exact here; uv words those differently each time."""
    return marker if re.search(r"sys_platform|platform_|os_name|implementation", marker) else ""


def _filename(item: Mapping[str, Any]) -> str:
    if "name" in item:
        return str(item["name"])
    location = item.get("url") or item.get("path") or ""
    return unquote(urlsplit(location).path.rsplit("/", 1)[-1])


def _artifact(item: Mapping[str, Any], platforms: list[str], directory: Path) -> Artifact:
    url = item.get("url")
    if url is None:
        url = (directory / item["path"]).resolve().as_uri()
    sha256, size = item.get("hashes", {}).get("sha256"), item.get("size")
    if sha256 is None:
        sha256, size = _hash_local(url)
    return Artifact(_filename(item), sha256, size, public_url(url), tuple(platforms))


def _hash_local(url: str) -> tuple[str, int]:
    """Hashes a file no index gave a hash for; one that is not on this machine cannot be locked."""
    if not url.startswith("file://"):
        raise LockError(f"{public_url(url)}: its index gives no sha256, so it cannot be locked")
    path = Path(unquote(urlsplit(url).path))
    return sha256_file(path), path.stat().st_size

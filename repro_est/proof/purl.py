"""Package URLs (https://github.com/package-url/purl-spec): one name for a package of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from repro_est.lock.values import Artifact, CondaPackage, Package


def pypi(package: Package, artifact: Artifact) -> str:
    """Returns the URL of a file of a Python package."""
    name = package.name.lower().replace("_", "-")
    return _purl("pypi", name, package.version, {"file_name": artifact.filename})


def conda(package: CondaPackage) -> str:
    """Returns the URL of a conda package."""
    kind = "conda" if package.filename.endswith(".conda") else "tar.bz2"
    channel = package.url.rsplit("/", 3)[-3] if package.url.count("/") >= 3 else ""
    qualifiers = {"build": package.build, "channel": channel, "subdir": package.subdir, "type": kind}
    return _purl("conda", package.name, package.version, qualifiers)


def python(version: str) -> str:
    """Returns the URL of CPython itself."""
    return _purl("generic", "python", version, {})


def _purl(kind: str, name: str, version: str, qualifiers: Mapping[str, str]) -> str:
    listed = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{_quoted(name)}@{_quoted(version)}" + (f"?{listed}" if listed else "")


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~:")

"""The environment document and its key: what a run executes in, as data.

    {"python": "3.11.7", "platform": "linux-64",
     "packages": [[name, version, filename, sha256], ...],       sorted
     "build":    [[name, version, filename, sha256], ...],       only where an sdist is built
     "conda":    [[name, version, filename, sha256], ...],       only with conda packages, python among them
     "image":    "sha256:...",                                   only where the recipe names a base image: its ID
     "user_managed": true}                                       only where that image's Python is used as it is

The key is XXH3-128 of it under `repro:environment:1`. No URL and no index is in it: the same files from a mirror are
the same environment. The build of the interpreter is not in it either (docs/decisions/0001): it is recorded with
every attempt, and a prefix is made anew when it moved.
"""

from __future__ import annotations

from typing import Any

from repro_est.digest import EnvironmentKey, identify
from repro_est.errors import LockError
from repro_est.lock.values import Lock, Package
from repro_est.plan import Document

ENVIRONMENT_TAG = "repro:environment:1"


def environment_document(lock: Lock, platform: str) -> dict[str, Any]:
    """Returns what identifies the environment of a lock on one platform.

    Raises:
        LockError: the lock was not made for the platform.
    """
    if platform not in lock.platforms:
        raise LockError(
            f"the lock has no packages for {platform}, only for {', '.join(lock.platforms)}",
            hint="add it to [environment] platforms and run `repro lock`",
        )
    packages = [package for package in lock.packages if package.artifact(platform)]
    build = [pinned for package in packages if _is_built(package, platform) for pinned in package.build]
    document: dict[str, Any] = {"python": lock.python, "platform": platform, "packages": _rows(packages, platform)}
    if build:
        document["build"] = _rows(build, platform)
    if lock.conda is not None:
        rows = {(item.name, item.version, item.filename, item.sha256) for item in lock.conda_packages(platform)}
        document["conda"] = [list(row) for row in sorted(rows)]
    if lock.image is not None:
        image_id = lock.image.image_id(platform)
        if image_id is None:
            raise LockError(f"the lock has no base image for {platform}", hint="run `repro lock` on such a machine")
        document["image"] = image_id
        if lock.user_managed:
            document["user_managed"] = True
    return document


def environment_key(document: Document) -> EnvironmentKey:
    """Returns the key of an environment document."""
    return EnvironmentKey(identify(ENVIRONMENT_TAG, document))


def _is_built(package: Package, platform: str) -> bool:
    artifact = package.artifact(platform)
    return artifact is not None and not artifact.is_wheel


def _rows(packages: list[Package], platform: str) -> list[list[str]]:
    rows = {
        (package.name, package.version, artifact.filename, artifact.sha256)
        for package in packages
        if (artifact := package.artifact(platform))
    }
    return [list(row) for row in sorted(rows)]

"""The locked files of an environment, fetched into the store and verified.

Nothing is installed, linked or put into an image that was not read and held against its SHA-256 right before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from repro_est.digest import Sha256
from repro_est.errors import EnvironmentBuildError
from repro_est.files import sha256_file
from repro_est.lock.fetch import check_md5, fetch
from repro_est.lock.values import Artifact, CondaPackage, Lock, Package
from repro_est.observer import Observer
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.quarantine import set_aside
from repro_est.store.store import Store

_PARALLEL_FETCHES = 8


class _Wanted(NamedTuple):
    what: str
    url: str
    path: Path
    sha256: str
    size: int
    md5: str = ""


class Artifacts:
    """The files of a lock for one platform.

    Args:
        packages: those the platform needs, by name.
        conda: likewise.
    """

    def __init__(self, lock: Lock, platform: str, store: Store, observer: Observer) -> None:
        self._platform, self._layout, self._observer = platform, store.layout, observer
        self.packages = tuple(package for package in lock.packages if package.artifact(platform))
        self.conda = lock.conda_packages(platform)

    def artifact(self, package: Package) -> Artifact:
        artifact = package.artifact(self._platform)
        if artifact is None:
            raise EnvironmentBuildError(f"{package.name} {package.version}: has no file for {self._platform}")
        return artifact

    def path(self, package: Package | CondaPackage) -> Path:
        """Where the file of a package lies in the store."""
        file = package if isinstance(package, CondaPackage) else self.artifact(package)
        return self._layout.package(Sha256(file.sha256), file.filename)

    def fetch(self, check: Collection[Package | CondaPackage] | None = None) -> bool:
        """Fetches what is missing and checks what is there, also what sdists are built with.

        A stored file that is not what was locked is set aside and fetched again.

        Args:
            check: those about to be used; the others need only be there. None is all.

        Returns:
            Whether a stored file was set aside.

        Raises:
            VerificationError: what an address serves is not what was locked.
            InfrastructureError: a file cannot be had.
        """
        pinned = [item for package in self.packages if not self.artifact(package).is_wheel for item in package.build]
        asked: list[Package | CondaPackage] = [*self.packages, *pinned, *self.conda]
        wanted = list({item.path: item for item in map(self._wanted, asked)}.values())
        used = None if check is None else {self.path(package) for package in check}

        def arrived(count: int) -> None:
            self._observer.event("progress", bytes=count)

        def get(item: _Wanted) -> None:
            with writing(self._layout.root):
                fetch(item.url, item.sha256, item.path, what=item.what, on_bytes=arrived)

        with ThreadPoolExecutor(_PARALLEL_FETCHES) as pool:
            wanted = [item for item in wanted if used is None or item.path in used or not item.path.exists()]
            for item in wanted:
                renew_if_ours(self._layout, item.path)
            stored = list(pool.map(_stored, wanted))
            for item, got in zip(wanted, stored, strict=True):
                if got is not None and got != item.sha256:
                    self._set_aside(item, got)
            missing = [item for item, got in zip(wanted, stored, strict=True) if got != item.sha256]
            if missing:
                self._observer.event("fetching", count=len(missing), bytes=sum(item.size for item in missing))
            list(pool.map(get, missing))
            list(pool.map(_check_md5, wanted))
            return any(got not in (None, item.sha256) for item, got in zip(wanted, stored, strict=True))

    def _set_aside(self, item: _Wanted, got: Sha256) -> None:
        reason = f"{item.what}: {item.path.name} was changed since it was fetched; its sha256 is {got}"
        with contextlib.suppress(FileNotFoundError):  # somebody else just did
            set_aside(self._layout, item.path, kind="package", name=item.path.name, reason=reason)
        self._observer.event("quarantined", reason=reason)

    def _wanted(self, package: Package | CondaPackage) -> _Wanted:
        what = f"{package.name} {package.version}"
        if isinstance(package, CondaPackage):
            return _Wanted(what, package.url, self.path(package), package.sha256, 0, package.md5)
        file = self.artifact(package)
        return _Wanted(what, file.url, self.path(package), file.sha256, file.size or 0)


def _stored(item: _Wanted) -> Sha256 | None:
    """Returns the SHA-256 of what is stored for a file, None when nothing is."""
    try:
        return sha256_file(item.path)
    except FileNotFoundError:
        return None


def _check_md5(item: _Wanted) -> None:
    if item.md5:
        check_md5(item.path, item.md5, what=item.what)

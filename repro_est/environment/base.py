"""The base of an image: what is below the packages, a root file system with a C library.

A tar is taken as one layer, named by its SHA-256. Which one is the project's choice (`[images] base` in repro.toml).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro_est.digest import Sha256
from repro_est.errors import UsageError, VerificationError
from repro_est.files import sha256_file
from repro_est.project import Project


@dataclass(frozen=True, slots=True)
class Base:
    """A root file system as a tar.

    Args:
        name: for people: its SHA-256.
    """

    tar: Path
    sha256: Sha256

    @property
    def name(self) -> str:
        return f"sha256:{self.sha256}"

    def layers(self) -> tuple[tuple[str, Path, Sha256], ...]:
        """Name, tar and diff ID of each layer, from the bottom."""
        return (("base", self.tar, self.sha256),)


def project_base(project: Project) -> Base:
    """Returns the base the project names.

    Raises:
        UsageError: it names none, or a file that is not there.
        VerificationError: the file is not the one it pins.
    """
    if project.base is None:
        raise UsageError(
            "no base image: an image needs a root file system with a C library below its packages",
            hint='repro.toml: [images] base = "rootfs.tar", and base_sha256 to pin it; see docs/images.md',
        )
    if not project.base.is_file():
        raise UsageError(
            f"[images] base: no such file: {project.base}", hint="`make lab-up` makes the one of this project"
        )
    sha256 = sha256_file(project.base)
    if project.base_sha256 is not None and sha256 != project.base_sha256:
        raise VerificationError(
            f"[images] base: {project.base} was changed\n"
            f"  expected sha256 {project.base_sha256}\n  got      sha256 {sha256}",
            hint="get the right file, or change base_sha256 if the change is meant",
        )
    return Base(project.base, Sha256(sha256))

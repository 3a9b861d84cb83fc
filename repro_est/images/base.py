"""The base of an image: what is below the packages, a root file system with a C library.

Either a tar, which is the project's choice (`[images] base` in repro.toml) and becomes one layer, named by its SHA-256;
or an image of a Docker daemon, which a recipe names (`custom_docker_image`, `dockerfile`) and its lock pins. The layers
of such an image stay in the daemon; they come into the store only when somebody wants all of an image in one file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from repro_est.digest import Sha256, canonical, sha256_hex
from repro_est.errors import InfrastructureError, LockError, UsageError, VerificationError
from repro_est.images.daemon import Inspected, connect, inspect, pull
from repro_est.images.layers import Layer, Layers
from repro_est.lock.values import LockedImage
from repro_est.project import Project
from repro_est.snapshot import digest_input
from repro_est.store.store import Store

_NOTE = "repro:base:1"


class Base(Protocol):
    """What an image stands on."""

    @property
    def name(self) -> str:
        """Its identity: `tar sha256:...` or `image sha256:...`."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Environment variables it sets."""

    def layers(self) -> tuple[Layer, ...]:
        """Its layers, from the bottom."""


class TarBase:
    """A root file system as a tar, taken into the store as one layer.

    Its SHA-256 is remembered under the XXH3 of its content, which a stat cache knows without reading it.
    """

    def __init__(self, tar: Path, store: Store) -> None:
        self._layers, self._tar = Layers(store.layout), tar
        key = Sha256(sha256_hex(canonical([_NOTE, digest_input(tar, store).tree.hash])))
        self._layer = self._layers.find(key, "base") or self._layers.take(key, "base", _checked(tar))

    @property
    def sha256(self) -> Sha256:
        return self._layer.diff_id

    @property
    def name(self) -> str:
        return f"tar sha256:{self.sha256}"

    @property
    def variables(self) -> Mapping[str, str]:
        return {}

    def layers(self) -> tuple[Layer, ...]:
        return (self._layer,)


def _checked(tar: Path) -> Path:
    """Returns the tar, read to its end.

    Raises:
        UsageError: it is cut short, compressed, empty, or no tar.
    """
    try:
        with tarfile.open(tar, "r:") as archive:
            count = sum(1 for _ in archive)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"[images] base: {tar} is no tar: {error}", hint="an uncompressed, whole one") from None
    if not count:
        raise UsageError(f"[images] base: {tar} is an empty tar, expected a root file system")
    return tar


class ImageBase:
    """An image of the Docker daemon, the one a lock pins."""

    def __init__(self, found: Inspected, store: Store) -> None:
        self._found, self._layout = found, store.layout

    @property
    def name(self) -> str:
        return f"image sha256:{self._found.image_id}"

    @property
    def variables(self) -> Mapping[str, str]:
        return self._found.variables

    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer("base", diff_id, None) for diff_id in self._found.diff_ids)


def project_base(project: Project, store: Store) -> TarBase:
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
    base = TarBase(project.base, store)
    if project.base_sha256 is not None and base.sha256 != project.base_sha256:
        raise VerificationError(
            f"[images] base: {project.base} was changed\n"
            f"  expected sha256 {project.base_sha256}\n  got      sha256 {base.sha256}",
            hint="get the right file, or change base_sha256 if the change is meant",
        )
    return base


def locked_base(image: LockedImage, platform: str) -> Inspected:
    """Returns the base image a lock pins, as the daemon has it, pulled by its digest where it is missing.

    Raises:
        LockError: the lock has none for the platform.
        InfrastructureError: no daemon, or neither it nor a registry has the image any more.
        VerificationError: what the registry serves under that digest is another image.
    """
    wanted = image.image_id(platform)
    if wanted is None:
        raise LockError(f"the lock has no base image for {platform}", hint="run `repro lock` on such a machine")
    client = connect()
    found = inspect(client, wanted)
    if found is not None:
        return found
    key = "dockerfile" if image.context else "custom_docker_image"
    hint = f"repro lock RECIPE --update {key}   takes the one of today, as another environment"
    what = f"base image {image.name} ({wanted[:19]})"
    if not image.digest:
        raise InfrastructureError(f"{what}: this daemon does not have it, and it is in no registry", hint=hint)
    if not pull(client, image.repository, image.digest, platform=platform):
        raise InfrastructureError(f"{what}: its registry has no {image.digest[:19]} any more", hint=hint)
    pulled = inspect(client, f"{image.repository}@{image.digest}")
    if pulled is None or f"sha256:{pulled.image_id}" != wanted:
        got = f"sha256:{pulled.image_id}" if pulled else "nothing"
        raise VerificationError(f"{what}: was changed\n  expected {wanted}\n  got      {got}", hint=hint)
    return pulled


def open_base(image: LockedImage | None, platform: str, project: Project, store: Store) -> Base:
    """Returns the base an environment stands on: the one its lock pins, else the project's.

    Raises:
        ReproError: as `project_base` and `locked_base` say.
    """
    return ImageBase(locked_base(image, platform), store) if image else project_base(project, store)

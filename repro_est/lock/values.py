"""A lock as frozen values: every package a run may use, by SHA-256, for every platform asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

LOCK_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of an index.

    Args:
        filename: as the index names it; a wheel or an sdist.
        sha256: 64 hex digits; what is installed is this, whatever the URL serves.
        size: bytes, or None when the index does not say.
        url: where it was seen, without credentials; never part of an identity.
        platforms: the platforms this artifact is the choice for.
    """

    filename: str
    sha256: str
    size: int | None
    url: str
    platforms: tuple[str, ...]

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


@dataclass(frozen=True, slots=True)
class Package:
    """One locked package.

    Args:
        name: normalised (PEP 503).
        version: PEP 440.
        marker: environment marker under which it is needed, `""` when always.
        index: URL of the index it came from, without credentials; `""` when it was a plain file.
        artifacts: at most one for each platform.
        build: for an sdist, the pinned packages it is built with (their `build` is empty).
    """

    name: str
    version: str
    marker: str
    index: str
    artifacts: tuple[Artifact, ...]
    build: tuple[Package, ...] = ()

    def artifact(self, platform: str) -> Artifact | None:
        """The file installed on `platform`, or None when the package is not needed there."""
        return next((artifact for artifact in self.artifacts if platform in artifact.platforms), None)


@dataclass(frozen=True, slots=True)
class CondaPackage:
    """One conda package on one platform.

    Args:
        platform: the platform it is for; a noarch package is listed for each.
        depends: MatchSpecs of other packages, without virtual ones.
    """

    name: str
    version: str
    build: str
    filename: str
    sha256: str
    md5: str
    url: str
    platform: str
    depends: tuple[str, ...] = ()

    @property
    def subdir(self) -> str:
        """The directory of its channel: a platform, or `noarch`."""
        return self.url.rsplit("/", 2)[-2]


@dataclass(frozen=True, slots=True)
class CondaLock:
    """The conda part of a lock.

    Args:
        file: path of the conda-lock file, relative to the lock.
        sha256: of that file.
        specs, channels, virtual_packages: what was asked, as `CondaRequest` has it.
        packages: by platform and name.
        text: the conda-lock file, whole.
    """

    file: str
    sha256: str
    specs: tuple[str, ...]
    channels: tuple[str, ...]
    virtual_packages: tuple[tuple[str, str], ...]
    packages: tuple[CondaPackage, ...]
    text: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class LockedImage:
    """The base image a recipe names, pinned.

    Args:
        name: as the recipe says it: `REGISTRY/NAME:TAG`, or the path of a Dockerfile.
        digest: `sha256:...` of its manifest (or index of manifests) in the registry, by which it is pulled; `""` when
            no registry has it, as for an image that was built of a Dockerfile.
        image_ids: sorted `(platform, "sha256:...")`: the images themselves, whoever compressed them.
        context: tree of what it was built of; `""` for an image that was pulled.
        python: version of its Python when the recipe is `user_managed`, else `""`.
    """

    name: str
    digest: str
    image_ids: tuple[tuple[str, str], ...]
    context: str = ""
    python: str = ""

    def image_id(self, platform: str) -> str | None:
        return dict(self.image_ids).get(platform)

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        name = self.name.partition("@")[0]
        return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


@dataclass(frozen=True, slots=True)
class LockedInput:
    """A fetched input: `[inputs.NAME]` with a URL.

    Args:
        tree: hash of the single-file tree it becomes; so a plan needs no download.
    """

    name: str
    url: str
    sha256: str
    size: int
    tree: str


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole lock.

    Args:
        python: exact version, `3.11.7`.
        platforms: sorted conda-style names.
        requirements: the recipe's requirements this lock answers, normalised and sorted.
        as_of: the date the resolver was held to, `""` for none.
        packages: sorted by name and version.
        inputs: sorted by name.
        conda: None when there are no conda packages; else `packages` are the wheels on top of it.
        image: the base image the recipe names, or None.
    """

    python: str
    platforms: tuple[str, ...]
    requirements: tuple[str, ...]
    as_of: str
    packages: tuple[Package, ...]
    inputs: tuple[LockedInput, ...] = ()
    conda: CondaLock | None = None
    image: LockedImage | None = None

    @property
    def user_managed(self) -> bool:
        """Whether the base image is the environment, as it is."""
        return self.image is not None and bool(self.image.python)

    def conda_packages(self, platform: str) -> tuple[CondaPackage, ...]:
        """The conda packages of one platform, by name."""
        return tuple(item for item in self.conda.packages if item.platform == platform) if self.conda else ()

"""The Docker daemon, through its SDK: what it has, loading an image with the layers it lacks, pushing and pulling.

The SDK takes 0.2 s to import, so it is imported where a daemon is asked for something. Credentials for registries are
Docker's own affair (`docker login`, its credential store); none passes through here.
"""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from repro_est.digest import Sha256
from repro_est.errors import EnvironmentBuildError, InfrastructureError, VerificationError
from repro_est.images.archive import archive
from repro_est.images.image import ARCHITECTURES, Image, variables, whole
from repro_est.images.layers import Layers
from repro_est.store.store import Store

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "repro-env"
"""What images of environments are called in a daemon: `repro-env:<tag>`."""
BASES = "repro-base"
"""What images built of a Dockerfile are called, so that no `docker image prune` takes them: `repro-base:<id>`."""

_TIMEOUT_SECONDS = 600
_DENIED = r"unauthorized|denied|authentication required|no basic auth"
_ABSENT = r"not found|manifest unknown|no such image|name unknown"


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image as a daemon describes it.

    Args:
        image_id: 64 hex digits.
        platform: `linux-64`, or `os/architecture` for one repro makes no environments for.
        diff_ids: of its layers, from the bottom.
        config: its part of that name in the OCI image configuration: variables, command, labels.
    """

    image_id: Sha256
    platform: str
    diff_ids: tuple[Sha256, ...]
    config: Mapping[str, Any]

    @property
    def variables(self) -> dict[str, str]:
        return variables(self.config)


def connect() -> DockerClient:
    """Returns a client of the daemon that `DOCKER_HOST` names, or the one of this machine.

    Raises:
        InfrastructureError: there is none.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_TIMEOUT_SECONDS)
        client.ping()
    except (DockerException, OSError) as error:
        hint = "install and start Docker, or use the target `local`, which needs none"
        if "permission denied" in str(error).lower():
            hint = "add your user to the group `docker`, or set DOCKER_HOST"
        raise InfrastructureError(f"no Docker daemon answers: {_short(error)}", hint=hint) from None
    return client


def inspect(client: DockerClient, reference: str) -> Inspected | None:
    """Returns an image the daemon has, by ID or name; None when it has none."""
    with asking("inspecting an image"):
        found = _ours(client, reference)
    if found is None:
        return None
    attributes = found.attrs
    diff_ids = tuple(Sha256(str(item).removeprefix("sha256:")) for item in attributes["RootFS"].get("Layers") or ())
    platforms = {(name, "linux"): platform for platform, name in ARCHITECTURES.items()}
    kind = (str(attributes["Architecture"]), str(attributes["Os"]))
    image_id = Sha256(str(found.id).removeprefix("sha256:"))
    return Inspected(image_id, platforms.get(kind, f"{kind[1]}/{kind[0]}"), diff_ids, attributes.get("Config") or {})


def history(client: DockerClient, image_id: Sha256) -> list[str]:
    """Returns what made each layer of an image, from the bottom, in the words of its configuration."""
    with asking("reading the history of an image"):
        return [str(item["CreatedBy"]) for item in reversed(client.api.history(f"sha256:{image_id}"))]


def is_loaded(client: DockerClient, image_id: Sha256) -> bool:
    """Whether the daemon has exactly this image."""
    with asking("looking for an image"):
        return _ours(client, f"sha256:{image_id}") is not None


def load(client: DockerClient, image: Image, store: Store, *, name: str | None = None) -> int:
    """Loads an image into the daemon; returns how many bytes of layers were sent.

    What the daemon has of it already is left out first; a daemon that cannot do that gets everything.

    Args:
        name: what to call it, `NAME:TAG`; default: as an image of an environment.

    Raises:
        InfrastructureError: it did not take it.
    """
    from docker.errors import APIError, DockerException, ImageLoadError

    name = name or f"{REPOSITORY}:{image.tag}"
    if is_loaded(client, image.image_id):
        _name(client, image.image_id, name)
        return 0
    present = _present(client, image)
    for without in ([present] if present else []) + [set[Sha256]()]:
        sent = image if without else complete(client, image, store)
        if any(not store.layout.layer(item.diff_id).exists() for item in sent.layers if item.diff_id not in without):
            continue  # a base of which this daemon has a part only
        try:
            loaded = client.images.load(archive(sent, store, tag=name, without=without))
        except (ImageLoadError, APIError) as error:
            if without and not _is_full(error):
                continue
            raise InfrastructureError(f"docker did not load the image: {_short(error)}", hint=_space(error)) from None
        except (DockerException, OSError) as error:
            raise InfrastructureError(
                f"the Docker daemon went away while it loaded: {_short(error)}", hint="docker info"
            ) from None
        got = {item.id for item in loaded}
        if f"sha256:{image.image_id}" in got:
            return sum(layer.size or 0 for layer in sent.layers if layer.diff_id not in without)
        if not without:
            raise InfrastructureError(
                f"docker loaded {', '.join(map(str, got)) or 'nothing'}, expected sha256:{image.image_id}"
            )
    raise AssertionError("unreachable")


def complete(client: DockerClient, image: Image, store: Store) -> Image:
    """Returns the image with all of its layers in the store; those of a base image come out of the daemon.

    Raises:
        InfrastructureError: the daemon does not have the base.
    """
    made = whole(image, store)
    if made is not None:
        return made
    kind, _, base = image.base.partition(" ")
    source = base if kind == "image" else f"sha256:{image.image_id}"
    wanted = {item.diff_id for item in image.layers if not store.layout.layer(item.diff_id).exists()}
    with asking(f"reading {source[:19]}"):
        found = _ours(client, source)
        if found is None:
            raise InfrastructureError(f"the Docker daemon has no image {source}", hint="build the image again")
        _keep_layers(found.save(), wanted, Layers(store.layout))
    made = whole(image, store)
    if made is None:
        raise InfrastructureError(f"the Docker daemon gave not all layers of {source}", hint="docker info")
    return made


def push(client: DockerClient, image: Image, repository: str) -> str:
    """Pushes a loaded image as `repository:<tag>`; returns the digest of its manifest.

    Raises:
        InfrastructureError: the registry refused, or did not answer.
    """
    _name(client, image.image_id, f"{repository}:{image.tag}")
    what = f"push to {repository}"
    with asking(what):
        for line in client.api.push(repository, tag=image.tag, stream=True, decode=True):
            if "error" in line:
                _refused(what, str(line["error"]))
            if digest := (line.get("aux") or {}).get("Digest"):
                return str(digest)
    raise InfrastructureError(f"{what}: the registry named no digest")


def pull(client: DockerClient, repository: str, tag: str, *, platform: str | None = None) -> bool:
    """Pulls `repository:tag`, or `repository@digest`; returns whether the registry has it.

    Args:
        platform: the one to take where there are several.

    Raises:
        InfrastructureError: the registry refused, or did not answer.
        VerificationError: what it sent is not what its digest says.
    """
    what = f"pull of {repository}{'@' if ':' in tag else ':'}{tag}"
    wanted = f"linux/{ARCHITECTURES[platform]}" if platform else None
    try:
        with asking(what):
            # The SDK's own `images.pull` hides an error in the middle of the stream.
            for line in client.api.pull(repository, tag=tag, platform=wanted, stream=True, decode=True):
                if "error" in line:
                    _refused(what, str(line["error"]))
    except _Absent:
        return False
    return True


def resolve(client: DockerClient, name: str) -> str | None:
    """Returns the digest a registry has for `NAME:TAG` now, None when it has none.

    Raises:
        InfrastructureError: the registry refused, or did not answer.
    """
    try:
        with asking(f"asking for {name}"):
            return str(client.api.inspect_distribution(name)["Descriptor"]["digest"])
    except _Absent:
        return None


def build_dockerfile(client: DockerClient, path: Path) -> Sha256:
    """Builds an image of a Dockerfile, or of a directory with one, by `docker build`; returns its ID.

    Raises:
        EnvironmentBuildError: it cannot be built, and the last that was said.
    """
    from docker.errors import BuildError, DockerException

    context: dict[str, Any] = {"path": str(path)} if path.is_dir() else {"fileobj": io.BytesIO(path.read_bytes())}
    try:
        image, _ = client.images.build(**context, rm=True, forcerm=True)
    except BuildError as error:
        said = [str(line.get("stream") or "").rstrip() for line in error.build_log if isinstance(line, dict)]
        plain = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in said if line]
        shown = "\n".join(f"  | {line}" for line in plain[-12:])
        raise EnvironmentBuildError(f"{path}: docker build failed: {error.msg}\n{shown}") from None
    except (DockerException, OSError, TypeError) as error:
        raise EnvironmentBuildError(f"{path}: docker build failed: {_short(error)}") from None
    image_id = Sha256(str(image.id).removeprefix("sha256:"))
    _name(client, image_id, f"{BASES}:{image_id[:32]}")
    return image_id


class _Absent(InfrastructureError):
    """A registry or daemon does not have what it was asked for."""


class Denied(InfrastructureError):
    """A registry wants credentials, or other ones."""


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns the errors of the SDK into ours."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        if error.status_code == 404 and re.search(_ABSENT, _short(error).lower()):
            raise _Absent(f"{what}: {_short(error)}") from None
        _refused(what, _short(error))
    except (DockerException, OSError) as error:
        raise InfrastructureError(f"{what}: {_short(error)}", hint="docker info") from None


def _refused(what: str, text: str) -> NoReturn:
    lowered = text.lower()
    if re.search(_DENIED, lowered):
        raise Denied(f"{what}: {text}", hint="docker login REGISTRY, as the user who runs repro")
    if re.search(_ABSENT, lowered):
        raise _Absent(f"{what}: {text}")
    if "verification" in lowered or "digest" in lowered:
        raise VerificationError(f"{what}: {text}", hint="do not use it; ask who runs the registry")
    raise InfrastructureError(f"{what}: {text}", hint="is the registry up?")


def _ours(client: DockerClient, reference: str) -> Any:
    from docker.errors import ImageNotFound

    try:
        return client.images.get(reference)
    except ImageNotFound:
        return None


def _name(client: DockerClient, image_id: Sha256, name: str) -> None:
    repository, _, tag = name.rpartition(":")
    with asking(f"naming image {image_id[:12]}"):
        found = _ours(client, f"sha256:{image_id}")
        if found is not None and name not in found.tags:
            found.tag(repository, tag)


def _present(client: DockerClient, image: Image) -> set[Sha256]:
    """The layers of the longest start of this image that some image in the daemon has too.

    A daemon knows a layer by the chain below it, so only a common start counts.
    """
    wanted = [f"sha256:{layer.diff_id}" for layer in image.layers]
    kind, _, base = image.base.partition(" ")
    best = 0
    with contextlib.suppress(Exception):  # an optimisation: without it everything is sent
        others = [*client.images.list(REPOSITORY), *([_ours(client, base)] if kind == "image" else [])]
        for other in others:
            there = (other.attrs.get("RootFS") or {}).get("Layers") or [] if other else []
            same = next(
                (i for i, (a, b) in enumerate(zip(wanted, there, strict=False)) if a != b), min(len(wanted), len(there))
            )
            best = max(best, same)
    return {layer.diff_id for layer in image.layers[:best]}


def _keep_layers(chunks: Iterable[bytes], wanted: Collection[Sha256], layers: Layers) -> None:
    """Takes the wanted layers out of what `docker save` writes. Engines name its files differently, so all are read."""
    with tarfile.open(fileobj=_Stream(chunks), mode="r|") as saved:  # type: ignore[call-overload]
        for member in saved:
            named = member.name.endswith("/layer.tar") or member.name.startswith("blobs/sha256/")
            if named and member.isfile() and (content := saved.extractfile(member)) is not None:
                layers.keep(content, wanted)


class _Stream:
    """Chunks, read as a file is."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing > 0:
            self._rest = self._rest or next(self._chunks, b"")
            if not self._rest:
                break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _is_full(error: Exception) -> bool:
    return "no space left" in _short(error).lower()


def _space(error: Exception) -> str:
    return "free space on the daemon's disk: docker image prune" if _is_full(error) else "docker info"


def _short(error: Exception) -> str:
    text = str(getattr(error, "explanation", None) or error)
    return text.splitlines()[0][:300] if text else type(error).__name__

"""The Docker daemon, through its SDK: loading an image with the layers it lacks, pushing and pulling.

The SDK takes 0.2 s to import, so it is imported where a daemon is asked for something.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from repro_est.digest import Sha256
from repro_est.environment.archive import archive
from repro_est.environment.image import Image
from repro_est.errors import InfrastructureError
from repro_est.store.leases import Leases
from repro_est.store.store import Store

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "repro-env"
"""What images of environments are called in a daemon: `repro-env:<environment key>`."""


def connect() -> DockerClient:
    """Returns a client of the daemon that `DOCKER_HOST` names, or the one of this machine.

    Raises:
        InfrastructureError: there is none.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (DockerException, OSError) as error:
        raise InfrastructureError(
            f"no Docker daemon answers: {_short(error)}",
            hint="install and start Docker, or use the target `local`, which needs none",
        ) from None
    return client


def is_loaded(client: DockerClient, image: Image) -> bool:
    """Whether the daemon has exactly this image."""
    from docker.errors import ImageNotFound

    try:
        return bool(client.images.get(f"sha256:{image.image_id}").id == f"sha256:{image.image_id}")
    except ImageNotFound:
        return False


def load(client: DockerClient, image: Image, store: Store) -> int:
    """Loads an image into the daemon; returns how many bytes of layers were sent.

    What the daemon has of another image of ours is left out first; a daemon that cannot do that gets everything.

    Raises:
        InfrastructureError: it did not take it.
    """
    from docker.errors import APIError, ImageLoadError

    if is_loaded(client, image):
        return 0
    tag = f"{REPOSITORY}:{image.environment}"
    present = _present(client, image, store)
    for without in ([present] if present else []) + [set[Sha256]()]:
        try:
            loaded = client.images.load(archive(image, store, tag=tag, without=without))
        except (ImageLoadError, APIError) as error:
            if without:
                continue
            raise InfrastructureError(f"docker did not load the image: {_short(error)}", hint="docker info") from None
        except OSError as error:
            raise InfrastructureError(f"the Docker daemon went away while it loaded: {_short(error)}") from None
        got = {item.id for item in loaded}
        if f"sha256:{image.image_id}" in got:
            return sum(layer.size for layer in image.layers if layer.diff_id not in without)
        if not without:
            raise InfrastructureError(
                f"docker loaded {', '.join(map(str, got)) or 'nothing'}, expected {image.image_id}"
            )
    raise AssertionError("unreachable")


def push(client: DockerClient, image: Image, repository: str) -> str:
    """Pushes a loaded image as `repository:<environment key>`; returns the digest of its manifest.

    Raises:
        InfrastructureError: the registry refused, or did not answer.
    """
    tag = str(image.environment)
    client.images.get(f"sha256:{image.image_id}").tag(repository, tag)
    for line in _stream(client.api.push, repository, tag=tag, what=f"push to {repository}"):
        if digest := (line.get("aux") or {}).get("Digest"):
            return str(digest)
    raise InfrastructureError(f"push to {repository}: the registry named no digest")


def pull(client: DockerClient, repository: str, tag: str) -> str:
    """Pulls `repository:tag`; returns the ID of the image.

    Raises:
        InfrastructureError: it is not there, or the registry did not answer.
    """
    for _ in _stream(client.api.pull, repository, tag=tag, what=f"pull of {repository}:{tag}"):
        pass
    return str(client.images.get(f"{repository}:{tag}").id).removeprefix("sha256:")


def _stream(call: Any, repository: str, *, tag: str, what: str) -> Any:
    """Yields the lines of a push or pull. The SDK hides errors in the middle of it; here they are raised."""
    from docker.errors import APIError

    try:
        for line in call(repository, tag=tag, stream=True, decode=True):
            if "error" in line:
                raise InfrastructureError(f"{what}: {line['error']}", hint="docker login, if it asks for credentials")
            yield line
    except (APIError, OSError) as error:
        raise InfrastructureError(f"{what}: {_short(error)}", hint="is the registry up?") from None


def _present(client: DockerClient, image: Image, store: Store) -> set[Sha256]:
    """The layers of the longest start of this image that some image in the daemon has too.

    A daemon knows a layer by the chain below it, so only a common start counts.
    """
    wanted = [f"sha256:{layer.diff_id}" for layer in image.layers]
    best = 0
    with contextlib.suppress(Exception):  # an optimisation: without it everything is sent
        for other in client.images.list(REPOSITORY):
            there = (other.attrs.get("RootFS") or {}).get("Layers") or []
            same = next(
                (i for i, (a, b) in enumerate(zip(wanted, there, strict=False)) if a != b), min(len(wanted), len(there))
            )
            best = max(best, same)
    return {layer.diff_id for layer in image.layers[:best]}


def _short(error: Exception) -> str:
    text = str(getattr(error, "explanation", None) or error)
    return text.splitlines()[0][:300] if text else type(error).__name__


def require_gpu(client: DockerClient) -> None:
    """Checks that the daemon can give a container a GPU.

    Raises:
        InfrastructureError: it cannot.
    """
    info = client.info()
    if "nvidia" not in (info.get("Runtimes") or {}) and not info.get("CDISpecDirs"):
        raise InfrastructureError(
            "use_gpu = true, and the Docker daemon has no NVIDIA runtime and no CDI devices",
            hint="install the NVIDIA container toolkit on that machine, or use_gpu = false",
        )


def reap(client: DockerClient, store: Store) -> list[str]:
    """Removes containers of runs of this store that nobody executes any more; returns their runs."""
    from docker.errors import APIError

    removed: list[str] = []
    leases = Leases(store.layout)
    for container in client.containers.list(all=True, filters={"label": f"repro.store={store.layout.root}"}):
        run = container.labels.get("repro.run", "")
        if not leases.is_held(f"run-{run}"):
            with contextlib.suppress(APIError):  # somebody else was faster
                container.remove(force=True, v=True)
                removed.append(run)
    return removed


def remove_containers(run: str, store: Store) -> None:
    """Removes what is left of a run's container, as a killed client leaves it."""
    with contextlib.suppress(Exception):  # the daemon may be gone; the next run reaps
        labels = [f"repro.store={store.layout.root}", f"repro.run={run}"]
        for container in connect().containers.list(all=True, filters={"label": labels}):
            container.remove(force=True, v=True)

"""Pinning the base image a recipe names: a tag is resolved once, and from then on it is that image.

    custom_docker_image   the registry says which digest the tag has now; it is pulled by that digest. An image no
                          registry has is taken from the daemon, and pinned by its ID alone
    dockerfile            built by `docker build`; the ID of what came out is pinned. Building again gives another
                          image, so nobody builds again until the Dockerfile changes

What is hashed is the image ID of each platform: the digest of its configuration, which names every layer by content.
The digest of a manifest also depends on who compressed the layers (docs/decisions/0015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro_est.errors import InfrastructureError, LockError
from repro_est.images.containers import ask
from repro_est.images.daemon import Denied, Inspected, build_dockerfile, connect, inspect, pull, resolve
from repro_est.images.image import ARCHITECTURES
from repro_est.lock.resolve import IMAGE_KEYS, locked_platforms
from repro_est.lock.values import LockedImage
from repro_est.observer import Observer
from repro_est.recipe.values import ImageRequest, Recipe
from repro_est.snapshot import tree_in_place

if TYPE_CHECKING:
    from docker import DockerClient

_VERSION = "import sys; print('.'.join(map(str, sys.version_info[:3])))"


def pinned_image(
    recipe: Recipe, previous: LockedImage | None, observer: Observer, *, update: tuple[str, ...] = ()
) -> LockedImage | None:
    """Returns the recipe's base image, pinned; None when it names none.

    Args:
        previous: the one of the last lock, kept while the recipe asks for the same.
        update: names that are brought up to date, such as `custom_docker_image`.

    Raises:
        LockError: there is no such image, or not for every platform, or it has no Python and needs one.
        InfrastructureError: no daemon, or a registry that does not answer.
    """
    request, platforms = recipe.estimator.image, locked_platforms(recipe)
    if request is None:
        return None
    strange = [platform for platform in platforms if platform not in ARCHITECTURES]
    if strange:
        raise LockError(
            f"a base image is for {' or '.join(ARCHITECTURES)}, and the recipe is locked for {', '.join(strange)}",
            hint='[environment] platforms = ["linux-64"]',
        )
    context = tree_in_place(request.dockerfile).hash if request.dockerfile else ""
    if previous is not None and not set(update) & set(IMAGE_KEYS):
        same = (previous.name, previous.context, bool(previous.python)) == (
            request.shown, context, request.user_managed,
        )  # fmt: skip
        if same and all(previous.image_id(platform) for platform in platforms):
            return previous
    client = connect()
    observer.event("message", message=f"Resolving the base image {request.shown}")
    found = _built(client, request, platforms) if request.dockerfile else _named(client, request, platforms, observer)
    digest, images = found
    python = _python(client, images[platforms[0]], request) if request.user_managed else ""
    ids = tuple((platform, f"sha256:{images[platform].image_id}") for platform in platforms)
    return LockedImage(request.shown, digest, ids, context, python)


_Found = tuple[str, dict[str, Inspected]]


def _built(client: DockerClient, request: ImageRequest, platforms: tuple[str, ...]) -> _Found:
    assert request.dockerfile is not None
    image_id = build_dockerfile(client, request.dockerfile)
    found = inspect(client, f"sha256:{image_id}")
    assert found is not None
    return "", {platform: _fitting(found, platform, request) for platform in platforms}


def _named(client: DockerClient, request: ImageRequest, platforms: tuple[str, ...], observer: Observer) -> _Found:
    repository = LockedImage(request.name, "", ()).repository
    pinned = request.name.partition("@")[2]
    try:
        digest = pinned or resolve(client, request.name)
    except Denied:
        raise
    except InfrastructureError as error:
        local = inspect(client, request.name)
        if local is None:
            raise
        message = f"{error.message}; taken from this daemon, which has it, by its ID alone: nobody else can pull it"
        observer.event("warning", message=message)
        digest = None
    if digest is None:
        local = inspect(client, request.name)
        if local is None:
            raise LockError(
                f"custom_docker_image: no registry and no daemon has {request.name}", hint="check its name and tag"
            )
        return "", {platform: _fitting(local, platform, request) for platform in platforms}
    images: dict[str, Inspected] = {}
    for platform in platforms:
        if not pull(client, repository, digest, platform=platform):
            raise LockError(f"custom_docker_image: the registry has no {request.name} for {platform}")
        found = inspect(client, f"{repository}@{digest}")
        if found is None:
            raise InfrastructureError(f"{request.name}: was pulled and is gone", hint="docker info")
        images[platform] = _fitting(found, platform, request)
    return digest, images


def _fitting(found: Inspected, platform: str, request: ImageRequest) -> Inspected:
    if found.platform != platform:
        raise LockError(
            f"base image {request.shown}: is for {found.platform}, expected {platform}",
            hint="name an image of that platform, or change [environment] platforms",
        )
    return found


def _python(client: DockerClient, image: Inspected, request: ImageRequest) -> str:
    version = ask(client, image.image_id, ("python", "-c", _VERSION))
    if not version:
        raise LockError(
            f"base image {request.shown}: user_managed = true, and it has no `python` on its PATH",
            hint='leave user_managed out and write conda_packages = ["python=3.11"]: the environment brings its own',
        )
    return version

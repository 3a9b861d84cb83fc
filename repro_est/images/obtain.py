"""The image of an environment in a daemon, by the shortest way: there already, in the store, in the registry, or made.

    [images] registry = "host:5000/team/env"      in repro.toml: asked before an image is made, told of it afterwards

What comes from a registry is believed only so far: the daemon checks every layer against the manifest, and here the
whole configuration is made again from what the daemon says (RFC 8785), must have the image's ID, and must be what this
lock and this base would give, but for the content of the packages' layers. That is proved by making it from verified
packages (`repro image verify R`), and is said until then: the attempt's facts keep where the image came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro_est.digest import Sha256, canonical, sha256_hex
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import InfrastructureError, VerificationError
from repro_est.images.base import Base, locked_base, open_base
from repro_est.images.builder import EPOCH, build_image, configuration
from repro_est.images.daemon import history, inspect, is_loaded, load, pull, push
from repro_est.images.image import ARCHITECTURES, PREFIX, Image, find_image, image_tag, whole, write_image
from repro_est.images.layers import Layer
from repro_est.lock.values import Lock, LockedImage
from repro_est.observer import Observer
from repro_est.project import Project
from repro_est.store.store import Store

if TYPE_CHECKING:
    from docker import DockerClient

_MADE = "repro: "


def environment_image(
    lock: Lock, platform: str, project: Project, store: Store, observer: Observer, client: DockerClient | None = None
) -> tuple[Image, str]:
    """Returns the image a run of this lock executes in, and the interpreter in it.

    Args:
        client: the daemon it is loaded into; without one it is made, and loaded nowhere.

    Raises:
        ReproError: it cannot be made, pulled or loaded.
    """
    if lock.image is not None and lock.user_managed:
        return _bare(lock, lock.image, platform), "python"
    base = open_base(lock.image, platform, project, store)
    if client is None:
        return build_image(lock, platform, base, store, observer), f"{PREFIX}/bin/python"
    return obtain(client, lock, platform, base, project.registry, store, observer), f"{PREFIX}/bin/python"


def _bare(lock: Lock, locked: LockedImage, platform: str) -> Image:
    """The base image itself, with nothing of ours on top."""
    found = locked_base(locked, platform)
    config = {
        "architecture": ARCHITECTURES[platform],
        "os": "linux",
        "created": EPOCH,
        "config": dict(found.config),
    }
    layers = tuple(Layer("base", diff_id, None) for diff_id in found.diff_ids)
    key = environment_key(environment_document(lock, platform))
    return Image(found.image_id, key, platform, f"image sha256:{found.image_id}", layers, config, locked.name)


def obtain(
    client: DockerClient, lock: Lock, platform: str, base: Base, registry: str | None, store: Store, observer: Observer
) -> Image:
    """Returns the image of a lock's environment, loaded into the daemon.

    Args:
        registry: repository of a team's images, or None.

    Raises:
        VerificationError: the registry's image is not the one of this environment.
        ReproError: it cannot be made or loaded.
    """
    key = environment_key(environment_document(lock, platform))
    known = find_image(key, base.name, store)
    if known is not None and is_loaded(client, known.image_id):
        return known
    absent = False
    if registry and (known is None or whole(known, store) is None):
        try:
            pulled = pull_image(client, lock, platform, base, registry, store)
        except InfrastructureError as error:
            observer.event("warning", message=f"{error.message}; the image is made here")
        else:
            if pulled is not None:
                observer.event("message", message=f"Pulled image {pulled.image_id[:12]} from {registry}")
                return pulled
            absent = True
    image = build_image(lock, platform, base, store, observer)
    load(client, image, store)
    if registry and absent:
        try:
            push(client, image, registry)
            observer.event("message", message=f"Pushed image {image.image_id[:12]} to {registry}")
        except InfrastructureError as error:
            observer.event("warning", message=f"{error.message}; the image was made and is not shared")
    return image


def pull_image(
    client: DockerClient, lock: Lock, platform: str, base: Base, repository: str, store: Store
) -> Image | None:
    """Pulls the image of an environment and holds it against what it must be; None when the registry has none.

    Raises:
        VerificationError: it is another image.
        InfrastructureError: the registry refused, or did not answer.
    """
    document = environment_document(lock, platform)
    key = environment_key(document)
    tag = image_tag(key, base.name)
    if not pull(client, repository, tag):
        return None
    found = inspect(client, f"{repository}:{tag}")
    if found is None:
        raise InfrastructureError(f"{repository}:{tag}: was pulled and is gone", hint="docker info")
    names = [text.removeprefix(_MADE) for text in history(client, found.image_id)]
    layers = tuple(Layer(name, diff_id, None) for name, diff_id in zip(names, found.diff_ids, strict=False))
    config = configuration(document, layers, platform, base.variables)
    image = Image(found.image_id, key, platform, base.name, layers, config, repository)
    known = find_image(key, base.name, store)
    expected = known.image_id if known is not None else Sha256(sha256_hex(canonical(config)))
    bottom = base.layers()
    if found.image_id != expected or [item.diff_id for item in layers[: len(bottom)]] != [b.diff_id for b in bottom]:
        raise VerificationError(
            f"{repository}:{tag} is another image\n  expected {expected}\n  got      {found.image_id}",
            hint="somebody pushed something else under this name; `repro image push` puts the right one there",
        )
    if known is not None:
        return known
    write_image(image, store)
    return image

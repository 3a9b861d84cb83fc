"""An image of an environment as a value, and the records of those this store knows.

    images/<image id>.json     {format, image_id, environment, platform, base, origin, layers, config, xxh3}
    images/<tag>               a link to one of them

The ID of an image is the SHA-256 of its configuration, which is canonical JSON (RFC 8785) of nothing but the packages
and the base. (The digest of a manifest also depends on who compressed the layers, so it identifies nothing here.)
Its tag, `<environment key>-<12 digits of its base and of the way it is built>`, is what it is called in a daemon and in
a registry, and by which it is found before anything is built.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey, Sha256, canonical, sha256_hex, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.files import sha256_file, write_atomic
from repro_est.images.layers import Layer
from repro_est.store.freshness import renew_if_ours
from repro_est.store.guard import writing
from repro_est.store.store import Store

PREFIX = "/opt/env"
"""Where the environment is in every image."""

BUILT = "built"
"""Origin of an image that was made here of verified packages; any other is the name of a repository."""

BUILD_FORMAT = 2
"""Changes whenever the same packages and base become another image."""

ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
"""What OCI calls the platforms images are made for."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of an image that sets none."""

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Image:
    """An image of an environment.

    Args:
        image_id: SHA-256 of the configuration, 64 hex digits.
        environment: key of the environment it holds.
        base: what stands at the bottom: `tar sha256:...`, or `image sha256:...`, the ID of another image.
        layers: from the bottom; those a base image brought may be in a daemon only.
        config: OCI image configuration (image-spec, config.md).
        origin: `built`, or the repository it was pulled from.
    """

    image_id: Sha256
    environment: EnvironmentKey
    platform: str
    base: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    origin: str = BUILT

    @property
    def tag(self) -> str:
        return image_tag(self.environment, self.base)

    @property
    def config_bytes(self) -> bytes:
        return canonical(self.config)

    @property
    def size(self) -> int:
        """Bytes of the layers, uncompressed, as far as they are known here."""
        return sum(layer.size or 0 for layer in self.layers)

    @property
    def search_path(self) -> str:
        """PATH in the image; Docker's own where it sets none."""
        return variables(self.config["config"]).get("PATH") or SEARCH_PATH

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "image_id": self.image_id,
            "environment": self.environment,
            "platform": self.platform,
            "base": self.base,
            "origin": self.origin,
            "layers": [{"name": item.name, "diff_id": item.diff_id, "size": item.size} for item in self.layers],
            "config": self.config,
        }


def image_tag(environment: EnvironmentKey, base: str) -> str:
    """Returns the tag of the image of an environment on a base."""
    return f"{environment}-{sha256_hex(canonical([BUILD_FORMAT, PREFIX, base]))[:12]}"


def variables(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the environment variables in the `config` of an image configuration."""
    pairs = (text.partition("=") for text in config.get("Env") or ())
    return {name: value for name, _, value in pairs}


def write_image(image: Image, store: Store) -> None:
    """Keeps the record of an image, and that its tag means it."""
    path = store.layout.image(image.image_id)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        content = image.to_json()
        data = json.dumps({**content, "xxh3": _digest(content)}, indent=1, sort_keys=True).encode() + b"\n"
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)
        link = store.layout.image_link(image.tag)
        if not link.exists() or os.readlink(link) != path.name:
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            temporary.symlink_to(path.name)
            os.replace(temporary, link)


def find_image(environment: EnvironmentKey, base: str, store: Store) -> Image | None:
    """Returns the image of an environment on a base that this store knows; a broken record is none."""
    link = store.layout.image_link(image_tag(environment, base))
    try:
        image_id = Sha256(Path(os.readlink(link)).stem)
    except OSError:
        return None
    renew_if_ours(store.layout, store.layout.image(image_id))
    with contextlib.suppress(VerificationError):  # it is made or pulled again
        return load_image(image_id, store)
    return None


def images(store: Store, on_broken: Callable[[str], None]) -> list[Image]:
    """Returns the images of this store, by environment.

    Args:
        on_broken: told of each record that cannot be used.
    """
    found: list[Image] = []
    for path in store.layout.directory("images").glob("*.json"):
        try:
            found.append(load_image(Sha256(path.stem), store))
        except VerificationError as error:
            on_broken(error.message)
    return sorted(found, key=lambda image: (image.environment, image.image_id))


def load_image(image_id: Sha256, store: Store) -> Image:
    """Reads the record of an image.

    Raises:
        VerificationError: it is not the image it is named for.
    """
    path = store.layout.image(image_id)
    try:
        content = json.loads(path.read_bytes())
        layers = tuple(Layer(item["name"], Sha256(item["diff_id"]), item["size"]) for item in content["layers"])
        image = Image(
            Sha256(content["image_id"]), EnvironmentKey(content["environment"]), content["platform"],
            content["base"], layers, content["config"], content["origin"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{path}: is no record of an image: {error}") from None
    listed = [f"sha256:{layer.diff_id}" for layer in image.layers]
    same = sha256_hex(image.config_bytes) == image_id and listed == image.config["rootfs"]["diff_ids"]
    if not same or content.get("xxh3") != _digest(image.to_json()):
        raise VerificationError(
            f"{path}: was changed, it is not the record of image {image_id[:12]}", hint=f"rm {path}"
        )
    return image


def _digest(content: Mapping[str, Any]) -> str:
    """What binds all of a record together; a configuration binds only itself."""
    return xxh3_hex(canonical({name: value for name, value in content.items() if name != "xxh3"}))


def whole(image: Image, store: Store) -> Image | None:
    """Returns the image with the size of every layer when all of them are in the store, else None."""
    layers: list[Layer] = []
    for layer in image.layers:
        try:
            layers.append(replace(layer, size=store.layout.layer(layer.diff_id).stat().st_size))
        except FileNotFoundError:
            return None
    return replace(image, layers=tuple(layers))


def verify_image(image: Image, store: Store) -> list[str]:
    """Reads every layer that is in the store; returns what is wrong, a sentence each."""
    problems: list[str] = []
    for layer in image.layers:
        path = store.layout.layer(layer.diff_id)
        if not path.exists():
            if layer.size is not None:
                problems.append(f"layer {layer.name}: is not in the store")
        elif (got := sha256_file(path)) != layer.diff_id:
            problems.append(f"layer {layer.name}: was changed, expected sha256 {layer.diff_id}, got {got}")
    return problems

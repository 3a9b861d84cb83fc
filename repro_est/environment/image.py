"""The image of an environment: a base, and the packages at `/opt/env`, as an OCI image that has one ID everywhere.

No daemon and no `docker build`. Layers, from the bottom: the base; each large package, the largest first; all small
packages together. So a change of one package changes one layer, and images of a team share the rest. The source
of a run is never in it: it is mounted, so code changes need no image. Byte code is not in it either: it would double
the layers, and a run does not write any.

The ID of an image is the SHA-256 of its configuration, which is canonical JSON (RFC 8785) of nothing but the packages
and the base. (The digest of a manifest also depends on who compressed the layers, so it identifies nothing here.)

    images/<image id>.json     {format, image_id, environment, platform, base, layers, config}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey, Sha256, canonical, sha256_hex
from repro_est.environment.artifacts import Artifacts
from repro_est.environment.base import Base
from repro_est.environment.key import environment_document, environment_key
from repro_est.environment.layers import Layer, Layers
from repro_est.environment.wheels import unpack
from repro_est.errors import EnvironmentBuildError, UsageError, VerificationError
from repro_est.files import sha256_file, write_atomic
from repro_est.lock.values import CondaPackage, Lock, Package
from repro_est.observer import Observer
from repro_est.store.guard import writing
from repro_est.store.leases import Leases
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store

PREFIX = "/opt/env"
"""Where the environment is in every image."""

MAX_LAYERS = 100
"""Docker takes 125; the rest is left for layers of others on top."""

_FORMAT = 1
_LAYER_FORMAT = "repro:layer:1"
_LARGE = 1 << 20  # bytes of the package file: it then has a layer of its own
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose layers are in the store.

    Args:
        image_id: SHA-256 of the configuration, 64 hex digits.
        environment: key of the environment it holds.
        base: what stands at the bottom, for people.
        config: OCI image configuration.
    """

    image_id: Sha256
    environment: EnvironmentKey
    platform: str
    base: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    @property
    def config_bytes(self) -> bytes:
        return canonical(self.config)

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(layer.size for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "image_id": self.image_id,
            "environment": self.environment,
            "platform": self.platform,
            "base": self.base,
            "layers": [{"name": item.name, "diff_id": item.diff_id, "size": item.size} for item in self.layers],
            "config": self.config,
        }


def build_image(lock: Lock, platform: str, base: Base, store: Store, observer: Observer) -> Image:
    """Builds the image of a lock; layers that are there already are not made again.

    Raises:
        UsageError: the environment has no Python of its own, or is not one for Linux.
        EnvironmentBuildError: a package is broken, or two own one path.
        VerificationError: a package is not what was locked.
    """
    if lock.conda is None:
        raise UsageError(
            "an image needs a Python that is locked, and this environment takes the machine's",
            hint='conda_packages = ["python=3.11", ...]',
        )
    if platform not in _ARCHITECTURES:
        raise UsageError(f"images are for {' and '.join(_ARCHITECTURES)}, got {platform}")
    document = environment_document(lock, platform)
    key = environment_key(document)
    with Leases(store.layout).hold(f"image-{key}"):
        builder = _Builder(lock, platform, store, observer)
        layers = (*(Layers(store.layout).take(*item) for item in base.layers()), *builder.layers(len(base.layers())))
        config = _configuration(document, layers, platform)
        image = Image(Sha256(sha256_hex(canonical(config))), key, platform, base.name, layers, config)
        path = store.layout.image(image.image_id)
        if not path.exists():
            with writing(path):
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, json.dumps(image.to_json(), indent=1, sort_keys=True).encode() + b"\n")
    return image


def images(store: Store) -> list[Image]:
    """Returns the images that were built, by environment."""
    found = [load_image(Sha256(path.stem), store) for path in store.layout.directory("images").glob("*.json")]
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
            content["base"], layers, content["config"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{path}: is no record of an image: {error}") from None
    listed = [f"sha256:{layer.diff_id}" for layer in image.layers]
    if sha256_hex(image.config_bytes) != image_id or listed != image.config["rootfs"]["diff_ids"]:
        raise VerificationError(f"{path}: was changed, it is not image {image_id[:12]}", hint="build it again")
    return image


def verify_image(image: Image, store: Store) -> list[str]:
    """Reads every layer; returns what is wrong, a sentence each."""
    problems: list[str] = []
    for layer in image.layers:
        path = store.layout.layer(layer.diff_id)
        if not path.exists():
            problems.append(f"layer {layer.name}: is not in the store")
        elif (got := sha256_file(path)) != layer.diff_id:
            problems.append(f"layer {layer.name}: was changed, expected sha256 {layer.diff_id}, got {got}")
    return problems


class _Builder:
    """Makes the layers of the packages, the missing ones only."""

    def __init__(self, lock: Lock, platform: str, store: Store, observer: Observer) -> None:
        self._python = ".".join(lock.python.split(".")[:2])
        self._version = lock.python
        self._store, self._observer = store, observer
        self._layers = Layers(store.layout)
        self._artifacts = Artifacts(lock, platform, store, observer)

    def layers(self, taken: int) -> tuple[Layer, ...]:
        """Returns the layers above the base, which has `taken`."""
        self._artifacts.fetch()
        groups = [(self._key(group), _name(group), group) for group in self._groups(MAX_LAYERS - taken)]
        found = {key: self._layers.find(key, name) for key, name, _ in groups}
        missing = [(key, name, group) for key, name, group in groups if found[key] is None]
        if missing:
            self._observer.event("message", message=f"Making {len(missing)} of {len(groups)} layers")
            with claimed_directory(self._store.layout, "tmp") as scratch:
                trees = self._unpacked([package for _, _, group in missing for package in group], scratch)
                for key, name, group in missing:
                    found[key] = self._layers.make(key, name, _together([trees[_label(item)] for item in group]))
        self._check_owners([(key, name) for key, name, _ in groups])
        return tuple(layer for key, _, _ in groups if (layer := found[key]) is not None)

    def _groups(self, room: int) -> list[list[Package | CondaPackage]]:
        """Which packages share a layer: large ones have their own while there is room, the others are together.

        The largest are at the bottom: a daemon knows a layer by all that is below it, so what is above a change is
        sent again.
        """
        ordered: list[Package | CondaPackage] = [*self._artifacts.conda, *self._artifacts.packages]
        size = {id(package): self._artifacts.path(package).stat().st_size for package in ordered}
        large = [package for package in ordered if size[id(package)] >= _LARGE]
        largest = sorted(large, key=lambda package: (-size[id(package)], package.name))[: room - 1]
        own = {id(package) for package in largest}
        small = [package for package in ordered if id(package) not in own]
        return [[package] for package in largest] + ([small] if small else [])

    def _key(self, group: Sequence[Package | CondaPackage]) -> Sha256:
        rows = []
        for package in group:
            file = package if isinstance(package, CondaPackage) else self._artifacts.artifact(package)
            rows.append([type(package).__name__, package.name, package.version, file.filename, file.sha256])
        return Sha256(sha256_hex(canonical([_LAYER_FORMAT, PREFIX, self._python, rows])))

    def _unpacked(self, packages: Sequence[Package | CondaPackage], scratch: Path) -> dict[str, dict[str, Path]]:
        """Unpacks packages; returns path in the image to file for each."""
        from repro_est.lock.conda import link, owned_files

        trees: dict[str, dict[str, Path]] = {}
        conda = [package for package in packages if isinstance(package, CondaPackage)]
        if conda:
            # A package without architecture is laid out for the Python it is linked beside.
            python = [item for item in self._artifacts.conda if item.name == "python" and item not in conda]
            stage = scratch / "conda"
            stage.mkdir()
            beside = [*conda, *python]
            link(beside, {item.sha256: self._artifacts.path(item) for item in beside}, stage, PREFIX, scratch)
            for name, files in owned_files(stage).items():
                trees[f"conda {name}"] = {_inside(path): stage / path for path in files}
        for number, package in enumerate(package for package in packages if isinstance(package, Package)):
            stage = scratch / f"wheel-{number}"
            stage.mkdir()
            unpack(self._artifacts.path(package), stage, final=PREFIX, python=self._version)
            trees[_label(package)] = {
                _inside(os.path.relpath(os.path.join(place, name), stage)): Path(place, name)
                for place, _, names in os.walk(stage)
                for name in names
            }
        return trees

    def _check_owners(self, groups: Sequence[tuple[Sha256, str]]) -> None:
        """Refuses paths that are in two layers with different contents: the order of layers would decide."""
        trees = [self._layers.paths(key) for key, _ in groups]
        owner: dict[str, int] = {}
        for number, tree in enumerate(trees):
            for path, content in tree.items():
                other = owner.setdefault(path, number)
                if other != number and trees[other][path] != content:
                    names = f"{groups[other][1]} and {groups[number][1]}"
                    raise EnvironmentBuildError(f"two packages own /{path}: {names}", hint="drop one of them")


def _together(trees: Sequence[Mapping[str, Path]]) -> dict[str, Path]:
    """Joins the files of packages that share a layer.

    Raises:
        EnvironmentBuildError: a path is in two of them.
    """
    joined: dict[str, Path] = {}
    for tree in trees:
        for path, file in tree.items():
            if path in joined:
                raise EnvironmentBuildError(f"two packages own /{path}", hint="drop one of them")
            joined[path] = file
    return joined


def _label(package: Package | CondaPackage) -> str:
    """What tells a package from all others of one environment."""
    return f"{'conda' if isinstance(package, CondaPackage) else 'pip'} {package.name}"


def _inside(path: str) -> str:
    return f"{PREFIX[1:]}/{path}"


def _name(group: Sequence[Package | CondaPackage]) -> str:
    return f"{group[0].name} {group[0].version}" if len(group) == 1 else f"{len(group)} small packages"


def _configuration(document: Mapping[str, Any], layers: Sequence[Layer], platform: str) -> dict[str, Any]:
    """The image configuration (OCI image spec, config.md)."""
    components = [
        {"type": kind, "name": name, "version": version, "sha256": sha256}
        for kind, section in (("conda", "conda"), ("pypi", "packages"))
        for name, version, _, sha256 in document.get(section, ())
    ]
    return {
        "architecture": _ARCHITECTURES[platform],
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "Cmd": ["python"],
            "Env": [
                f"PATH={PREFIX}/bin:{_SEARCH}",
                "LANG=C.UTF-8",
                "PYTHONDONTWRITEBYTECODE=1",
                "PYTHONNOUSERSITE=1",
            ],
            "Labels": {
                "repro.environment": environment_key(document),
                "repro.sbom": json.dumps(components, sort_keys=True, separators=(",", ":")),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [{"created": _EPOCH, "created_by": f"repro: {layer.name}"} for layer in layers],
    }

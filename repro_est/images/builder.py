"""Making the image of an environment: a base, and the packages at `/opt/env`, bit for bit the same everywhere.

No daemon and no `docker build`. Layers, from the bottom: the base's; Python; each large package, the largest first; all
small packages together. So a change of one package changes one layer, and images of a team share the rest. The source
of a run is never in it: it is mounted, so code changes need no image. Byte code is not in it either: it would double
the layers, and a run does not write any.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repro_est.digest import Sha256, canonical, sha256_hex
from repro_est.environment.artifacts import Artifacts
from repro_est.environment.key import environment_document, environment_key
from repro_est.environment.wheels import unpack
from repro_est.errors import EnvironmentBuildError, UsageError, VerificationError
from repro_est.files import nested, same_file
from repro_est.images.base import Base
from repro_est.images.image import ARCHITECTURES, BUILT, PREFIX, SEARCH_PATH, Image, find_image, write_image
from repro_est.images.layers import Layer, Layers
from repro_est.lock.values import CondaPackage, Lock, Package
from repro_est.observer import Observer
from repro_est.store.guard import writing
from repro_est.store.leases import Leases
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store

MAX_LAYERS = 100
"""Of an image of ours; the rest of what Docker takes is left for layers of others on top."""
DOCKERS_LIMIT = 125
"""Layers of one image that Docker takes."""

_LAYER_FORMAT = "repro:layer:1"
_LARGE = 1 << 20  # bytes of the package file: it then has a layer of its own
EPOCH = "1970-01-01T00:00:00Z"


def build_image(
    lock: Lock, platform: str, base: Base, store: Store, observer: Observer, *, anew: bool = False
) -> Image:
    """Builds the image of a lock; layers that are there already are not made again.

    Args:
        anew: make every layer of packages again, whatever is there: a proof that the image is what they make.

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
    if platform not in ARCHITECTURES:
        raise UsageError(f"images are for {' and '.join(ARCHITECTURES)}, got {platform}")
    document = environment_document(lock, platform)
    key = environment_key(document)

    def on_wait(owner: object) -> None:
        observer.event("waiting", owner=str(owner), environment=key)

    with Leases(store.layout).hold(f"image-{key}", on_wait=on_wait):
        bottom = base.layers()
        if len(bottom) >= DOCKERS_LIMIT:
            raise UsageError(
                f"the base image has {len(bottom)} layers, and Docker takes {DOCKERS_LIMIT} in all",
                hint="squash it: docker export of a container of it, and docker import",
            )
        room = max(MAX_LAYERS - len(bottom), 1)
        layers = (*bottom, *_Builder(lock, platform, store, observer).layers(room, anew=anew))
        config = configuration(document, layers, platform, base.variables)
        image = Image(Sha256(sha256_hex(canonical(config))), key, platform, base.name, layers, config)
        known = find_image(key, base.name, store)
        if known is not None and known.image_id != image.image_id:
            which = "made here before" if known.origin == BUILT else f"pulled from {known.origin}"
            if known.origin == BUILT and anew:
                write_image(image, store)  # of what was just made of verified packages there is no doubt
            raise VerificationError(
                f"image {image.tag}: the one {which} is not what its packages make\n"
                f"  expected {image.image_id}\n  got      {known.image_id}",
                hint=f"do not use it; `rm {store.layout.image(known.image_id)}` forgets it here",
            )
        write_image(image, store)
    return image


class _Builder:
    """Makes the layers of the packages, the missing ones only."""

    def __init__(self, lock: Lock, platform: str, store: Store, observer: Observer) -> None:
        self._python = ".".join(lock.python.split(".")[:2])
        self._version = lock.python
        self._store, self._observer = store, observer
        self._layers = Layers(store.layout)
        self._artifacts = Artifacts(lock, platform, store, observer)

    def layers(self, room: int, *, anew: bool) -> tuple[Layer, ...]:
        """Returns the layers above the base, at most `room`."""
        self._artifacts.fetch(check=())
        changed = True
        while changed:  # sizes decide who shares a layer, and a file that was set aside may have had another
            groups = [(self._key(group), _name(group), group) for group in self._groups(room)]
            found = {key: None if anew else self._layers.find(key, name) for key, name, _ in groups}
            missing = [(key, name, group) for key, name, group in groups if found[key] is None]
            changed = self._artifacts.fetch(check=[package for _, _, group in missing for package in group])
        if missing:
            self._observer.event("message", message=f"Making {len(missing)} of {len(groups)} layers")
            with contextlib.ExitStack() as stack:
                scratch = stack.enter_context(claimed_directory(self._store.layout, "tmp"))
                pool = stack.enter_context(ThreadPoolExecutor(_workers()))
                trees = self._unpacked([package for _, _, group in missing for package in group], scratch, pool)

                def make(item: tuple[Sha256, str, Sequence[Package | CondaPackage]]) -> Layer:
                    key, name, group = item
                    labels = map(_label, group)
                    return self._layers.make(key, name, _together({label: trees[label] for label in labels}))

                found |= {item[0]: layer for item, layer in zip(missing, pool.map(make, missing), strict=True)}
                # Removing what was unpacked takes as long as loading does, so the two go on side by side.
                threading.Thread(target=stack.pop_all().close).start()
        self._check_owners([(key, name) for key, name, _ in groups])
        return tuple(layer for key, _, _ in groups if (layer := found[key]) is not None)

    def _groups(self, room: int) -> list[list[Package | CondaPackage]]:
        """Which packages share a layer: large ones have their own while there is room, the others are together.

        A daemon knows a layer by all that is below it, so what is above a change is sent again. At the bottom is
        Python, which most environments of a team share, then the largest.
        """
        ordered: list[Package | CondaPackage] = [*self._artifacts.conda, *self._artifacts.packages]
        size = {id(package): self._artifacts.path(package).stat().st_size for package in ordered}
        large = [package for package in ordered if size[id(package)] >= _LARGE]
        largest = sorted(large, key=lambda package: (package.name != "python", -size[id(package)], package.name))
        largest = largest[: room - 1]
        own = {id(package) for package in largest}
        small = [package for package in ordered if id(package) not in own]
        return [[package] for package in largest] + ([small] if small else [])

    def _key(self, group: Sequence[Package | CondaPackage]) -> Sha256:
        rows = []
        for package in group:
            file = package if isinstance(package, CondaPackage) else self._artifacts.artifact(package)
            rows.append([type(package).__name__, package.name, package.version, file.filename, file.sha256])
        return Sha256(sha256_hex(canonical([_LAYER_FORMAT, PREFIX, self._python, rows])))

    def _unpacked(
        self, packages: Sequence[Package | CondaPackage], scratch: Path, pool: ThreadPoolExecutor
    ) -> dict[str, dict[str, Path]]:
        """Unpacks packages; returns path in the image to file for each."""
        linked = pool.submit(self._linked, [item for item in packages if isinstance(item, CondaPackage)], scratch)
        wheels = [item for item in packages if isinstance(item, Package)]
        unpacked = pool.map(lambda package: self._wheel(package, scratch), wheels)
        return {**dict(zip(map(_label, wheels), unpacked, strict=True)), **linked.result()}

    def _linked(self, packages: list[CondaPackage], scratch: Path) -> dict[str, dict[str, Path]]:
        from repro_est.lock.conda import link, owned_files

        if not packages:
            return {}
        # A package without architecture is laid out for the Python it is linked beside.
        python = next((item for item in self._artifacts.conda if item.name == "python" and item not in packages), None)
        stage = scratch / "conda"
        files = {item.sha256: self._artifacts.path(item) for item in packages}
        with writing(self._store.layout.root):
            stage.mkdir()
            link(packages, files, stage, PREFIX, scratch, beside=python)
        return {
            f"conda {name}": {_inside(path): stage / path for path in paths}
            for name, paths in owned_files(stage).items()
        }

    def _wheel(self, package: Package, scratch: Path) -> dict[str, Path]:
        stage = scratch / f"wheel-{package.name}"
        with writing(self._store.layout.root):
            stage.mkdir()
            unpack(self._artifacts.path(package), stage, final=PREFIX, python=self._version)
        return {
            _inside(os.path.relpath(os.path.join(place, name), stage)): Path(place, name)
            for place, _, names in os.walk(stage)
            for name in names
        }

    def _check_owners(self, groups: Sequence[tuple[Sha256, str]]) -> None:
        """Refuses paths that are in two layers with different contents: the order of layers would decide."""
        trees = [self._layers.paths(key) for key, _ in groups]
        owner: dict[str, int] = {}
        for number, tree in enumerate(trees):
            for path, content in tree.items():
                other = owner.setdefault(path, number)
                if other != number and trees[other][path] != content:
                    raise _two_own(path, groups[other][1], groups[number][1])
        _check_nested({path: groups[number][1] for path, number in owner.items()})


def _workers() -> int:
    return max(2, os.cpu_count() or 1)


def _together(trees: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
    """Joins the files of packages that share a layer; the same content from two of them is one file.

    Raises:
        EnvironmentBuildError: two have different contents for one path.
    """
    joined: dict[str, Path] = {}
    owner: dict[str, str] = {}
    for name, tree in trees.items():
        for path, file in tree.items():
            if path in joined and not same_file(joined[path], file):
                raise _two_own(path, owner[path], name)
            joined.setdefault(path, file)
            owner.setdefault(path, name)
    _check_nested(owner)
    return joined


def _check_nested(owner: Mapping[str, str]) -> None:
    """Refuses a path that is a file or a link in one package and a directory in another."""
    for path, below in nested(owner):
        raise _two_own(path, owner[path], owner[below])


def _two_own(path: str, one: str, other: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(f"two packages own /{path}: {one} and {other}", hint="drop one of them")


def _label(package: Package | CondaPackage) -> str:
    """What tells a package from all others of one environment."""
    return f"{'conda' if isinstance(package, CondaPackage) else 'pip'} {package.name}"


def _inside(path: str) -> str:
    return f"{PREFIX[1:]}/{path}"


def _name(group: Sequence[Package | CondaPackage]) -> str:
    return f"{group[0].name} {group[0].version}" if len(group) == 1 else f"{len(group)} small packages"


def configuration(
    document: Mapping[str, Any], layers: Sequence[Layer], platform: str, below: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the image configuration (OCI image spec, config.md).

    Args:
        document: of the environment.
        below: variables of the base image, which go on; its user, entry point and labels do not.
    """
    components = [
        {"type": kind, "name": name, "version": version, "sha256": sha256}
        for kind, section in (("conda", "conda"), ("pypi", "packages"))
        for name, version, _, sha256 in document.get(section, ())
    ]
    ours = {
        "PATH": f"{PREFIX}/bin:{below.get('PATH') or SEARCH_PATH}",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }
    return {
        "architecture": ARCHITECTURES[platform],
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Cmd": ["python"],
            "Env": [f"{name}={value}" for name, value in sorted({**below, **ours}.items())],
            "Labels": {
                "repro.environment": environment_key(document),
                "repro.sbom": json.dumps(components, sort_keys=True, separators=(",", ":")),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [{"created": EPOCH, "created_by": f"repro: {layer.name}"} for layer in layers],
    }

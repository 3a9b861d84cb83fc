"""An image that needs nothing else: environment, source and inputs of a plan, and the command that runs it.

    docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/outputs:/work/outputs" NAME

On top of the image of the environment come one layer for the source, one for the modules of `repro`, and one for each
input; the command, the variables and the working directory are in its configuration. Names of secrets are no part of
it, nor is any value: they are given with `-e NAME`. The same plan and base make the same image, bit for bit, as
everywhere in `images`.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Collection, Mapping
from pathlib import Path

from repro_est.digest import Sha256, canonical, sha256_hex
from repro_est.errors import UsageError
from repro_est.images.builder import DOCKERS_LIMIT
from repro_est.images.image import Image, variables
from repro_est.images.layers import Layer, Layers
from repro_est.launch.process import closed_environment
from repro_est.launch.runtime import run_facts
from repro_est.launch.sandbox import HOME, MODULES_INSIDE, TEMPORARY, WORK, container_paths
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.targets.parcel import parcel
from repro_est.targets.stage import Workplace, stage

_LAYER_FORMAT = "repro:layer:1"


def standalone(plan: Plan, image: Image, python: str, store: Store, *, with_inputs: bool = True) -> Image:
    """Returns an image of a plan on top of the image of its environment.

    Args:
        python: path of the interpreter in it.
        with_inputs: False leaves the inputs out; they are then mounted where `/inputs/NAME` is expected.

    Raises:
        InputError: an input is not what was planned.
        UsageError: Docker would refuse it for its many layers.
    """
    layers = Layers(store.layout)
    with claimed_directory(store.layout, "work") as root:
        place = stage(plan, store, root)
        paths = container_paths(place).inputs
        own = _below(place.source, WORK) | {HOME[1:]: place.home}
        writable = {HOME[1:], f"{WORK[1:]}/{OUTPUTS}", f"{WORK[1:]}/{LOGS}"}  # by whatever user it is run as
        made = [_layer(layers, "source", [WORK, plan.source], own, writable)]
        inputs = {
            f"input {item.name}": ([paths[item.name], item.tree], _input(place, item.name, paths[item.name]))
            for item in (plan.recorded.inputs if with_inputs else ())
        }
        modules = parcel(azureml=plan.compat_azureml)
        made_of_modules = [MODULES_INSIDE, *(word for item in modules.items() for word in item)]
        made.append(_layer(layers, "modules", made_of_modules, _below(place.modules, MODULES_INSIDE)))
        if len(image.layers) + len(made) + len(inputs) > DOCKERS_LIMIT:
            made_of = [word for words, _ in inputs.values() for word in words]
            inputs = {"inputs": (made_of, dict(ChainMap(*(files for _, files in inputs.values()))))}
        made += [_layer(layers, name, words, files) for name, (words, files) in inputs.items()]
    if len(image.layers) + len(made) > DOCKERS_LIMIT:
        raise UsageError(
            f"the image has {len(image.layers)} layers below, and Docker takes {DOCKERS_LIMIT} in all",
            hint="squash the base image: docker export of a container of it, and docker import",
        )
    below = image.config["config"]
    environment = closed_environment(
        prefix=Path(python).parent.parent,
        home=Path(HOME),
        temporary=Path(TEMPORARY),
        modules=Path(MODULES_INSIDE),
        use_gpu=plan.use_gpu,
        declared=plan.environment_variables,
        secrets={},
        facts={**run_facts(plan, WORK, paths), "PATH": image.search_path},
    )
    together = (*image.layers, *made)
    config = {
        **image.config,
        "config": {
            "Cmd": list(plan.command(python, paths)),
            "Env": [f"{name}={value}" for name, value in sorted({**variables(below), **environment}.items())],
            "Labels": {**(below.get("Labels") or {}), "repro.run": plan.hash, "repro.source": plan.source},
            "WorkingDir": WORK,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in together]},
        "history": [{"created": image.config["created"], "created_by": f"repro: {layer.name}"} for layer in together],
    }
    image_id = Sha256(sha256_hex(canonical(config)))
    return Image(image_id, image.environment, image.platform, image.base, together, config, image.origin)


def _layer(
    layers: Layers, name: str, made_of: list[str], entries: Mapping[str, Path], open_to_all: Collection[str] = ()
) -> Layer:
    key = Sha256(sha256_hex(canonical([_LAYER_FORMAT, name, *made_of])))
    return layers.find(key, name) or layers.make(key, name, entries, open_to_all=open_to_all)


def _input(place: Workplace, name: str, path: str) -> dict[str, Path]:
    """The files of an input by where they are in the image."""
    real = Path(os.path.realpath(place.input_paths[name]))
    return {path[1:]: real} if real.is_file() else _below(real, path)


def _below(root: Path, where: str) -> dict[str, Path]:
    """Everything below a directory, empty directories included, by where it is in the image."""
    found: dict[str, Path] = {where[1:]: root}
    for directory, names, files in os.walk(root):
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        empty = [name for name in names if name not in links and not os.listdir(os.path.join(directory, name))]
        for name in (*files, *links, *empty):
            path = Path(directory, name)
            found[f"{where[1:]}/{path.relative_to(root).as_posix()}"] = path
    return found

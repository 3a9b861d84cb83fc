"""Images of environments: the same packages and base give the same image ID on every machine.

repro image build recipes/conda-digits.toml               make it, and load it where a Docker daemon answers
repro image build R --tarball image.tar                   an OCI layout that docker load takes too; needs no daemon
repro image ls                                            images of this store
repro image inspect R                                     layers, packages, configuration
repro image verify R                                      read every layer, make all of them anew, and compare
repro image push R --to REPOSITORY                        as REPOSITORY:<tag>; default: [images] registry
repro image pull R --from REPOSITORY                      and check that it is the image of this recipe
repro image export R --tag NAME:TAG                       environment, source, inputs and command, into the daemon
repro image export R --tarball run.tar                    the same as a file: docker load -i run.tar
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from repro_est.cli.common import TerminalObserver, add_json, add_recipe, open_store
from repro_est.console import Console, human_size
from repro_est.errors import InfrastructureError, UsageError, VerificationError
from repro_est.images.base import Base
from repro_est.images.image import Image
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.project import Project, is_repository
from repro_est.recipe.values import Recipe, is_image_name
from repro_est.store.store import Store

_NAME_IT = 'name it with --to or --from, or in repro.toml: [images] registry = "host:5000/team/env"'


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = verbs.add_parser("build", help="make the image of a recipe's environment")
    add_recipe(build)
    build.add_argument("--tarball", metavar="FILE", help="write an OCI layout in place of loading it into a daemon")
    build.add_argument("--no-load", action="store_true", help="do not load it into the Docker daemon")
    add_json(build)
    add_json(verbs.add_parser("ls", help="list images of this store"))
    for name, text in (("inspect", "layers, packages and configuration"), ("verify", "read every layer")):
        one = verbs.add_parser(name, help=text)
        add_recipe(one)
        add_json(one)
    for name, word in (("push", "--to"), ("pull", "--from")):
        one = verbs.add_parser(name, help=f"{name} it {word[2:]} a registry" + (", and check it" * (name == "pull")))
        add_recipe(one)
        one.add_argument(
            word, dest="repository", metavar="REPOSITORY", help="without a tag; default: [images] registry"
        )
        add_json(one)
    export = verbs.add_parser("export", help="make an image that runs by itself: source, inputs and command in it")
    add_recipe(export)
    export.add_argument("--tag", metavar="NAME:TAG", help="what to call it; default: repro-run:<run hash>")
    export.add_argument("--tarball", metavar="FILE", help="write it to a file in place of loading it into the daemon")
    export.add_argument("--without-inputs", action="store_true", help="leave inputs out; mount them at /inputs/NAME")
    add_json(export)


def execute(arguments: argparse.Namespace) -> int:
    actions: Mapping[str, Callable[[argparse.Namespace, Console], int]] = {
        "build": _build,
        "ls": _ls,
        "inspect": _inspect,
        "verify": _verify,
        "push": _push,
        "pull": _pull,
        "export": _export,
    }
    return actions[arguments.action](arguments, Console(quiet=arguments.json))


class _Wanted(NamedTuple):
    """A recipe with its lock, and where its image would be made."""

    recipe: Recipe
    lock: Lock
    platform: str
    project: Project
    store: Store
    observer: Observer

    def base(self) -> Base:
        from repro_est.images.base import open_base

        return open_base(self.lock.image, self.platform, self.project, self.store)

    def image(self, *, anew: bool = False) -> Image:
        """The image of the environment, what is missing made now; `anew`: all layers of packages."""
        from repro_est.images.builder import build_image

        if self.lock.user_managed:
            raise UsageError(
                "user_managed = true takes the base image as it is, so there is no image to make",
                hint="`repro image export` makes one with the source in it",
            )
        return build_image(self.lock, self.platform, self.base(), self.store, self.observer, anew=anew)


def _wanted(arguments: argparse.Namespace, console: Console) -> _Wanted:
    from repro_est import engine
    from repro_est.platforms import current_platform
    from repro_est.recipe.load import load

    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    project, store = open_store()
    observer = TerminalObserver(console)
    lock = engine.locked(recipe, store, observer)
    return _Wanted(recipe, lock, current_platform(), project, store, observer)


def _build(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.images.daemon import REPOSITORY, connect, load

    ahead = ThreadPoolExecutor(1).submit(connect) if not (arguments.tarball or arguments.no_load) else None
    wanted = _wanted(arguments, console)
    image, store = wanted.image(), wanted.store
    loaded: bool | None = None
    if arguments.tarball:
        _write(Path(arguments.tarball), image, f"{REPOSITORY}:{image.tag}", store)
    elif ahead is not None:
        try:
            client = ahead.result()  # importing the SDK takes as long as making a small layer
        except InfrastructureError as error:
            loaded = False
            console.warning(f"not loaded: {error.message}")
        else:
            sent = load(client, image, store)
            loaded = True
            console.step("Loaded", f"{REPOSITORY}:{image.tag} ({human_size(sent)} sent)")
    if arguments.json:
        console.json(
            {
                "image_id": f"sha256:{image.image_id}",
                "environment": image.environment,
                "tag": image.tag,
                "layers": len(image.layers),
                "built_layers": sum(layer.built for layer in image.layers),
                "bytes": image.size,
                "base": image.base,
                "loaded": loaded,
            }
        )
        return 0
    console.out(f"image        sha256:{image.image_id}\nenvironment  {image.environment}\nbase         {image.base}")
    built = sum(layer.built for layer in image.layers)
    console.out(f"layers       {len(image.layers)}, {built} made now, {human_size(image.size)}")
    return 0


def _write(path: Path, image: Image, name: str, store: Store) -> None:
    """Writes an image to a file; what only a daemon has of it is taken from there."""
    from repro_est.images.archive import archive
    from repro_est.images.daemon import complete, connect
    from repro_est.images.image import whole

    image = whole(image, store) or complete(connect(), image, store)
    _check_layers(image, store)  # a daemon checks what it loads; a file goes to who knows where
    in_place = path.exists() and not path.is_file()  # a device or a pipe is written to, never replaced
    written = path if in_place else path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(written, "wb") as file:
            for part in archive(image, store, tag=name):
                file.write(part)
        if not in_place:
            os.replace(written, path)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if not in_place:
            written.unlink(missing_ok=True)


def _ls(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.images.image import images

    _, store = open_store()
    found = images(store, on_broken=console.warning)
    if arguments.json:
        console.json([{key: value for key, value in image.to_json().items() if key != "config"} for image in found])
        return 0
    rows = [
        [image.image_id[:12], image.environment[:12], str(len(image.layers)), human_size(image.size), image.base[:25]]
        for image in found
    ]
    console.table(rows, header=("image", "environment", "layers", "size", "base"))
    return 0


def _inspect(arguments: argparse.Namespace, console: Console) -> int:
    image = _wanted(arguments, console).image()
    if arguments.json:
        console.json({**image.to_json(), "tag": image.tag})
        return 0
    console.out(f"image        sha256:{image.image_id}\nenvironment  {image.environment}\nbase         {image.base}\n")
    rows = [[item.name, human_size(item.size) if item.size else "-", item.diff_id[:12]] for item in image.layers]
    console.table(rows, header=("layer", "size", "diff id"))
    return 0


def _check_layers(image: Image, store: Store) -> None:
    from repro_est.images.image import verify_image

    problems = verify_image(image, store)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise VerificationError(
            f"image {image.image_id[:12]}\n{listed}", hint="repro verify --repair   sets them aside; then build again"
        )


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    wanted = _wanted(arguments, console)
    try:
        _check_layers(wanted.image(), wanted.store)  # of the layers that are there
        image = wanted.image(anew=True)
    except VerificationError as error:
        if arguments.json:
            console.json({"ok": False, "problems": [error.message]})
        raise
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}", "ok": True, "problems": []})
    console.step("Verified", f"image {image.image_id[:12]}: {len(image.layers)} layers, {human_size(image.size)}")
    return 0


def _repository(arguments: argparse.Namespace) -> str:
    given: str | None = arguments.repository or open_store()[0].registry
    if given is None:
        raise UsageError("no REPOSITORY given", hint=_NAME_IT)
    if not is_repository(given):
        raise UsageError(f"got {given!r}, expected a repository without a tag, such as `host:5000/team/env`")
    return given


def _push(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.images.daemon import connect, load, push

    repository = _repository(arguments)
    wanted = _wanted(arguments, console)
    image, client = wanted.image(), connect()
    load(client, image, wanted.store)
    digest = push(client, image, repository)
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}", "digest": digest, "tag": image.tag})
    console.step("Pushed", f"{repository}:{image.tag} {digest}")
    return 0


def _pull(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.images.daemon import connect
    from repro_est.images.obtain import pull_image

    repository = _repository(arguments)
    wanted = _wanted(arguments, console)
    image = pull_image(connect(), wanted.lock, wanted.platform, wanted.base(), repository, wanted.store)
    if image is None:
        raise InfrastructureError(
            f"{repository}: has no image of this environment",
            hint=f"repro image push {arguments.recipe} --to {repository}",
        )
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}"})
    console.step("Pulled", f"{repository}:{image.tag}, an image of this environment")
    return 0


def _export(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est import engine
    from repro_est.images.daemon import connect, load
    from repro_est.images.obtain import environment_image
    from repro_est.launch.standalone import standalone

    if arguments.tag and not is_image_name(arguments.tag):
        raise UsageError(f"--tag: got {arguments.tag!r}, expected a name such as `team/run:1`")
    wanted = _wanted(arguments, console)
    plan = engine.prepare(wanted.recipe, wanted.project, wanted.store, wanted.observer).plan
    below, python = environment_image(wanted.lock, wanted.platform, wanted.project, wanted.store, wanted.observer)
    image = standalone(plan, below, python, wanted.store, with_inputs=not arguments.without_inputs)
    name = arguments.tag or f"repro-run:{plan.hash}"
    name = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    if arguments.tarball:
        _write(Path(arguments.tarball), image, name, wanted.store)
    else:
        load(connect(), image, wanted.store, name=name)
    where = arguments.tarball or name
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}", "run_hash": plan.hash, "name": name, "written": where})
        return 0
    console.step("Exported", f"{where}, image {image.image_id[:12]}")
    console.out(f'docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/outputs:/work/outputs" {name}')
    return 0

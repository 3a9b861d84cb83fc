"""Images of environments: the same packages and base give the same image ID on every machine.

repro image build recipes/conda-digits.toml               make it, and load it where a Docker daemon answers
repro image build R --tarball image.tar                   an OCI layout that docker load takes too; needs no daemon
repro image ls                                            images of this store
repro image inspect R                                     layers, packages, configuration
repro image verify R                                      read every layer
repro image push R REPOSITORY                             as REPOSITORY:<environment key>
repro image pull R REPOSITORY                             and check that it is the image this recipe builds
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro_est.cli.common import TerminalObserver, add_json, add_recipe, open_store
from repro_est.console import Console, human_size
from repro_est.errors import InfrastructureError, VerificationError


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = verbs.add_parser("build", help="make the image of a recipe's environment")
    add_recipe(build)
    build.add_argument("--tarball", metavar="FILE", help="write an OCI layout; no daemon is asked for anything")
    build.add_argument("--no-load", action="store_true", help="do not load it into the Docker daemon")
    add_json(build)
    add_json(verbs.add_parser("ls", help="list images of this store"))
    for name, text in (("inspect", "layers, packages and configuration"), ("verify", "read every layer")):
        one = verbs.add_parser(name, help=text)
        add_recipe(one)
        add_json(one)
    for name, text in (("push", "push it to a registry"), ("pull", "pull it from a registry, and check it")):
        one = verbs.add_parser(name, help=text)
        add_recipe(one)
        one.add_argument("repository", metavar="REPOSITORY", help="without a tag")
        add_json(one)


def execute(arguments: argparse.Namespace) -> int:
    actions: Mapping[str, Callable[[argparse.Namespace, Console], int]] = {
        "build": _build,
        "ls": _ls,
        "inspect": _inspect,
        "verify": _verify,
        "push": _push,
        "pull": _pull,
    }
    return actions[arguments.action](arguments, Console(quiet=arguments.json))


def _made(arguments: argparse.Namespace, console: Console) -> tuple[Any, Any]:
    """Returns the image of a recipe and the store, building what is missing."""
    from repro_est import engine
    from repro_est.environment.base import project_base
    from repro_est.environment.image import build_image
    from repro_est.platforms import current_platform
    from repro_est.recipe.load import load

    recipe = load(Path(arguments.recipe), tuple(arguments.overrides))
    project, store = open_store()
    observer = TerminalObserver(console)
    lock = engine.locked(recipe, store, observer)
    return build_image(lock, current_platform(), project_base(project), store, observer), store


def _build(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.environment.archive import archive
    from repro_est.environment.daemon import REPOSITORY, connect, load

    image, store = _made(arguments, console)
    loaded: bool | None = None
    if arguments.tarball:
        _write(Path(arguments.tarball), archive(image, store, tag=f"{REPOSITORY}:{image.environment}"))
    elif not arguments.no_load:
        try:
            sent = load(connect(), image, store)
            loaded = True
            console.step("Loaded", f"{REPOSITORY}:{image.environment} ({human_size(sent)} sent)")
        except InfrastructureError as error:
            loaded = False
            console.warning(f"not loaded: {error.message}")
    if arguments.json:
        console.json(
            {
                "image_id": f"sha256:{image.image_id}",
                "environment": image.environment,
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


def _write(path: Path, parts: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _ls(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.environment.image import images

    _, store = open_store()
    found = images(store)
    if arguments.json:
        console.json([{key: value for key, value in image.to_json().items() if key != "config"} for image in found])
        return 0
    rows = [
        [image.image_id[:12], image.environment[:12], str(len(image.layers)), human_size(image.size), image.base[:19]]
        for image in found
    ]
    console.table(rows, header=("image", "environment", "layers", "size", "base"))
    return 0


def _inspect(arguments: argparse.Namespace, console: Console) -> int:
    image, _ = _made(arguments, console)
    if arguments.json:
        console.json(image.to_json())
        return 0
    console.out(f"image        sha256:{image.image_id}\nenvironment  {image.environment}\nbase         {image.base}\n")
    rows = [[layer.name, human_size(layer.size), layer.diff_id[:12]] for layer in image.layers]
    console.table(rows, header=("layer", "size", "diff id"))
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.environment.image import verify_image

    image, store = _made(arguments, console)
    problems = verify_image(image, store)
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}", "ok": not problems, "problems": problems})
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise VerificationError(
            f"image {image.image_id[:12]}\n{listed}", hint="repro verify --repair, then build again"
        )
    console.step("Verified", f"image {image.image_id[:12]}: {len(image.layers)} layers, {human_size(image.size)}")
    return 0


def _push(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.environment.daemon import connect, load, push

    image, store = _made(arguments, console)
    client = connect()
    load(client, image, store)
    digest = push(client, image, arguments.repository)
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}", "digest": digest})
    console.step("Pushed", f"{arguments.repository}:{image.environment} {digest}")
    return 0


def _pull(arguments: argparse.Namespace, console: Console) -> int:
    from repro_est.environment.daemon import connect, pull

    image, _ = _made(arguments, console)
    got = pull(connect(), arguments.repository, str(image.environment))
    if got != image.image_id:
        raise VerificationError(
            f"{arguments.repository}:{image.environment} is another image\n"
            f"  expected {image.image_id}\n  got      {got}",
            hint="somebody pushed something else under this name, or the bases differ",
        )
    if arguments.json:
        console.json({"image_id": f"sha256:{image.image_id}"})
    console.step("Pulled", f"{arguments.repository}:{image.environment}, the image this recipe builds")
    return 0

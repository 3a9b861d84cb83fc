"""From a recipe to its lock: conda's part where there is one, and pip's.

Nothing of the machine decides but the Python version of a recipe that names none and has no conda packages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from packaging.utils import canonicalize_name

from repro_est.errors import LockError
from repro_est.lock.condarequest import conda_request
from repro_est.lock.interpreters import Interpreter, find_interpreter, fits
from repro_est.lock.pypi import Solver
from repro_est.lock.requirements import requirements
from repro_est.lock.values import Lock, LockedImage, Package
from repro_est.platforms import PLATFORMS, current_platform
from repro_est.recipe.values import Recipe

IMAGE_KEYS = ("custom_docker_image", "dockerfile")
"""What `--update` takes besides names of packages."""


def resolve(
    recipe: Recipe,
    *,
    previous: Lock | None = None,
    update: tuple[str, ...] = (),
    as_of: str | None = None,
    conda: Path | None = None,
    image: LockedImage | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Lock:
    """Resolves a recipe.

    Args:
        previous: its versions are kept where they still fit.
        update: packages of `previous` that are brought up to date.
        as_of: overrides the recipe's date.
        conda: a conda program that solves the conda part in place of rattler.
        image: the recipe's base image, pinned already.

    Raises:
        LockError: there is no answer, and why.
        InfrastructureError: the index cannot be reached.
    """
    asked = requirements(recipe)
    request = recipe.environment
    date = as_of or request.as_of or ""
    platforms = locked_platforms(recipe)
    known = {item.name for item in previous.packages} if previous else set()
    known |= (
        {canonicalize_name(item.name) for item in previous.conda.packages} if previous and previous.conda else set()
    )
    unknown = {canonicalize_name(name) for name in update if name not in IMAGE_KEYS} - known
    if unknown:
        raise LockError(f"--update {', '.join(sorted(unknown))}: not in the lock")
    inputs = previous.inputs if previous else ()
    if image is not None and image.python:  # user_managed: nothing is installed
        return Lock(image.python, platforms, (), "", (), inputs, image=image)
    wanted = conda_request(recipe)
    if wanted is not None:
        from repro_est.lock.layered import resolve_layered

        lock = resolve_layered(
            recipe,
            wanted,
            asked,
            platforms,
            previous=previous,
            update=update,
            as_of=date,
            conda=conda,
            on_warning=on_warning,
        )
        return dataclasses.replace(lock, image=image)
    if conda is not None:
        raise LockError(f"--conda: {recipe.path.name} has no conda packages")
    interpreter = _interpreter(request.python, previous)
    packages: tuple[Package, ...] = ()
    if asked:
        solver = Solver(request, interpreter, platforms, date)
        packages = solver.solve(asked, previous.packages if previous else (), update, what=recipe.path.name)
    return Lock(
        python=interpreter.version,
        platforms=platforms,
        requirements=asked,
        as_of=date,
        packages=packages,
        inputs=inputs,
    )


def locked_platforms(recipe: Recipe) -> tuple[str, ...]:
    """Returns the platforms a recipe is locked for, sorted; without any it is the one of this machine."""
    return tuple(sorted(recipe.environment.platforms or (_supported(current_platform()),)))


def _supported(platform: str) -> str:
    if platform not in PLATFORMS:
        raise LockError(f"platform {platform}: repro locks for {', '.join(PLATFORMS)}")
    return platform


def _interpreter(asked: str | None, previous: Lock | None) -> Interpreter:
    """The interpreter of the last lock while it fits and is here, so that locking again changes nothing."""
    if previous is not None and (asked is None or fits(asked, previous.python)):
        try:
            return find_interpreter(previous.python)
        except LockError:
            pass  # another machine's: take what this one has
    return find_interpreter(asked)

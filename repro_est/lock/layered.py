"""Locks with conda packages: conda first, pip on top of what conda gives.

Each platform is solved by itself: conda's packages, then pip's with conda's as given. uv is told of each package conda
installs as of a wheel that needs nothing, pinned to that version: so nothing is installed twice, and a requirement
conda's version does not meet is a conflict at lock time, in uv's words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from repro_est.digest import sha256_hex
from repro_est.errors import LockError
from repro_est.lock.conda import channel_urls, solve, spec_name
from repro_est.lock.condafile import dumps, loads
from repro_est.lock.condarequest import CondaRequest
from repro_est.lock.condasolver import solve_by_program
from repro_est.lock.interpreters import Interpreter, running
from repro_est.lock.lockfile import public_url
from repro_est.lock.pypi import Solver
from repro_est.lock.values import CondaLock, CondaPackage, Lock, Package
from repro_est.recipe.values import Recipe

_DISTRIBUTIONS = {
    "importlib_metadata": "importlib-metadata",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "opencv": "opencv-python",
    "py-opencv": "opencv-python",
    "py-xgboost": "xgboost",
    "pytables": "tables",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "ruamel.yaml": "ruamel-yaml",
    "tensorflow-base": "tensorflow",
}
"""Conda's name of what an index has under another name, as far as they matter; the rest are the same."""


def resolve_layered(
    recipe: Recipe,
    request: CondaRequest,
    requirements: tuple[str, ...],
    platforms: tuple[str, ...],
    *,
    previous: Lock | None,
    update: tuple[str, ...],
    as_of: str,
    conda: Path | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Lock:
    """Resolves a recipe that has conda packages, or takes its conda-lock file.

    Args:
        conda: a conda, mamba or micromamba program that solves in place of rattler.

    Raises:
        LockError: there is no answer, and why.
        InfrastructureError: a channel or the index cannot be reached.
    """
    if request.file is not None:
        return _taken(recipe, request.file, platforms, previous)
    kept = previous.conda.packages if previous and previous.conda else ()
    updated = {canonicalize_name(name) for name in update}
    packages: list[CondaPackage] = []
    for platform in platforms:
        keep = [item for item in kept if item.platform == platform and canonicalize_name(item.name) not in updated]
        packages += (
            solve_by_program(conda, request, platform)
            if conda
            else solve(request, platform, keep=keep, as_of=as_of, on_warning=on_warning)
        )
    python = _python(packages)
    pip: list[Package] = []
    for platform in platforms if requirements else ():
        provided = dict(_provided([item for item in packages if item.platform == platform]))
        solver = Solver(recipe.environment, Interpreter(running().path, python), (platform,), as_of, provided)
        before = previous.packages if previous else ()
        pip += solver.solve(
            requirements, before, update, what=f"{recipe.path.name}, pip on top of conda", wheels_only=True
        )
    channels = [public_url(url) for url in channel_urls(request)]
    asked: dict[str, Any] = {
        "channels": list(request.channels),
        "conda": list(request.specs),
        "pip": list(requirements),
        "virtual_packages": [list(item) for item in request.virtual_packages],
    }
    text = dumps(packages, pip, channels=channels, platforms=platforms, asked=asked)
    path = recipe.conda_lock_path
    conda_packages, pip_packages, _ = loads(text, path)
    lock = CondaLock(
        file=path.name,
        sha256=sha256_hex(text),
        specs=request.specs,
        channels=request.channels,
        virtual_packages=request.virtual_packages,
        packages=conda_packages,
        text=text.decode("utf-8"),
    )
    inputs = previous.inputs if previous else ()
    return Lock(python, platforms, requirements, as_of, pip_packages, inputs, lock)


def _taken(recipe: Recipe, file: Path, wanted: tuple[str, ...], previous: Lock | None) -> Lock:
    """A conda-lock file somebody else made, as it is; it must have packages for the platforms of the recipe."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise LockError(f"{file}: cannot be read: {error.strerror}") from None
    packages, pip, platforms = loads(text, file)
    there = sorted({package.platform for package in packages})
    missing = [platform for platform in wanted if platform not in there]
    if missing:
        raise LockError(
            f"{file}: got packages for {', '.join(there) or 'no platform'}, expected {', '.join(missing)}",
            hint=f"conda-lock lock --platform {missing[0]}   locks for it; or change [environment] platforms",
        )
    name = os.path.relpath(file, recipe.path.parent)
    conda = CondaLock(name, sha256_hex(text), (), (), (), packages, text.decode("utf-8"))
    return Lock(_python(packages), platforms, (), "", pip, previous.inputs if previous else (), conda)


def _python(packages: Sequence[CondaPackage]) -> str:
    versions = sorted({package.version for package in packages if package.name == "python"})
    if len(versions) != 1:
        got = " and ".join(versions) or "none"
        raise LockError(
            f"conda: got Python {got}, expected one version for all platforms",
            hint='conda_packages = ["python=3.11.9", ...]',
        )
    return versions[0]


def _provided(packages: Sequence[CondaPackage]) -> list[tuple[str, str]]:
    """The distributions conda installs into its Python, with versions pip would understand."""
    found: list[tuple[str, str]] = []
    for package in packages:
        if not any(spec_name(text) in ("python", "python_abi") for text in package.depends):
            continue
        try:
            version = str(Version(package.version))
        except InvalidVersion:
            continue
        found.append((canonicalize_name(_DISTRIBUTIONS.get(package.name, package.name)), version))
    return found

"""Does a lock still answer its recipe? Offline, in microseconds when nothing changed.

The check is by satisfiability, not by a hash of the request: a bound that was loosened and still holds the locked
version needs no new lock. The plain comparison comes first, so that a hit imports no parser.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from repro_est.lock.condarequest import conda_request
from repro_est.lock.requirements import CONSTRAINT, requirements
from repro_est.lock.values import CondaLock, Lock
from repro_est.platforms import current_platform
from repro_est.recipe.values import Recipe, UrlInput
from repro_est.snapshot import tree_in_place


def unsatisfied(recipe: Recipe, lock: Lock) -> tuple[str, ...]:
    """Returns why the lock does not satisfy the recipe, a sentence each; empty when it does."""
    reasons: list[str] = []
    asked = requirements(recipe)
    if asked != lock.requirements:
        reasons += _compare(asked, lock)
    python = recipe.environment.python
    if python and not _python_fits(python, lock.python):
        reasons.append(f"python: the recipe asks for {python}, the lock has {lock.python}")
    wanted = recipe.environment.platforms or (current_platform(),)
    missing = [platform for platform in wanted if platform not in lock.platforms]
    if missing:
        reasons.append(f"platforms: {', '.join(missing)} not in the lock, which has {', '.join(lock.platforms)}")
    if recipe.environment.as_of and recipe.environment.as_of != lock.as_of:
        reasons.append(f"as_of: the recipe says {recipe.environment.as_of}, the lock {lock.as_of or 'nothing'}")
    return (*reasons, *_image(recipe, lock), *_conda(recipe, lock), *_inputs(recipe, lock))


def _image(recipe: Recipe, lock: Lock) -> Iterator[str]:
    request, image = recipe.estimator.image, lock.image
    if request is None or image is None:
        if request is not None:
            yield f"base image {request.shown}: not in the lock"
        if image is not None:
            yield f"base image {image.name}: in the lock, not in the recipe any more"
        return
    if request.shown != image.name:
        yield f"base image: the recipe names {request.shown}, the lock has {image.name}"
    elif request.dockerfile is not None and tree_in_place(request.dockerfile).hash != image.context:
        yield f"dockerfile: {request.shown} is not what the locked base image was built of"
    if request.user_managed != bool(image.python):
        yield f"user_managed: the recipe says {str(request.user_managed).lower()}, the lock otherwise"


def _conda(recipe: Recipe, lock: Lock) -> Iterator[str]:
    request, conda = conda_request(recipe), lock.conda
    if request is None or conda is None:
        if request is not None:
            yield "conda packages: in the recipe, not in the lock"
        if conda is not None:
            yield "conda packages: in the lock, not in the recipe any more"
        return
    if request.file is not None:
        if os.path.normpath(recipe.path.parent / conda.file) != os.path.normpath(request.file):
            yield f"conda_lock_file: the recipe names {request.file.name}, the lock {conda.file}"
        return
    if conda.file != recipe.conda_lock_path.name:
        yield f"conda_lock_file: the lock takes {conda.file}, the recipe has packages"
    if request.channels != conda.channels:
        yield f"channels: the recipe has {', '.join(request.channels)}, the lock {', '.join(conda.channels)}"
    if request.virtual_packages != conda.virtual_packages:
        yield "virtual_packages: the recipe has others than the lock"
    if request.specs != conda.specs:
        yield from _compare_specs(request.specs, conda)


def _compare_specs(specs: tuple[str, ...], conda: CondaLock) -> Iterator[str]:
    from repro_est.lock.conda import satisfies, spec_name

    new, old = {spec_name(spec): spec for spec in specs}, {spec_name(spec) for spec in conda.specs}
    for name in sorted(old - new.keys()):
        yield f"conda {name}: in the lock, not asked for any more"
    for name in sorted(new.keys() - old):
        yield f"conda {new[name]}: not in the lock"
    for spec in specs:
        for package in conda.packages:
            if package.name == spec_name(spec) and not satisfies(package, spec):
                yield f"conda {spec}: the lock has {package.version} for {package.platform}"


def _inputs(recipe: Recipe, lock: Lock) -> Iterator[str]:
    locked = {item.name: item for item in lock.inputs}
    for item in recipe.inputs:
        if isinstance(item.source, UrlInput):
            known = locked.get(item.name)
            if known is None:
                yield f"inputs.{item.name}: not in the lock"
            elif (known.url.partition("?")[0], known.sha256) != (item.source.url.partition("?")[0], item.source.sha256):
                yield f"inputs.{item.name}: the lock has another address or sha256"


def _python_fits(asked: str, locked: str) -> bool:
    if locked == asked or locked.startswith(asked + "."):
        return True
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return locked in SpecifierSet(asked)
    except InvalidSpecifier:
        return False


def _compare(asked: tuple[str, ...], lock: Lock) -> Iterator[str]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    def parsed(lines: tuple[str, ...]) -> dict[tuple[str, frozenset[str], str, bool], list[Requirement]]:
        found: dict[tuple[str, frozenset[str], str, bool], list[Requirement]] = {}
        for line in lines:
            requirement = Requirement(line.removeprefix(CONSTRAINT))
            name = canonicalize_name(requirement.name)
            key = (name, frozenset(requirement.extras), str(requirement.marker or ""), line.startswith(CONSTRAINT))
            found.setdefault(key, []).append(requirement)
        return found

    try:
        new, old = parsed(asked), parsed(lock.requirements)
    except InvalidRequirement as error:
        yield f"requirements: {error}"
        return
    versions: dict[str, list[str]] = {}
    for package in lock.packages:
        versions.setdefault(package.name, []).append(package.version)
    for key in sorted(new.keys() - old.keys(), key=str):
        yield f"{new[key][0]}: not in the lock"
    for key in sorted(old.keys() - new.keys(), key=str):
        yield f"{old[key][0]}: in the lock, not asked for any more"
    for key in sorted(new.keys() & old.keys(), key=str):
        for requirement in new[key]:
            for version in versions.get(key[0], []):
                if not requirement.specifier.contains(version, prereleases=True):
                    yield f"{requirement}: the lock has {version}"

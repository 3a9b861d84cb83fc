"""What a recipe asks of conda: packages, channels, virtual packages; from the recipe and its environment file.

An environment file is conda's own (`name`, `channels`, `dependencies` with an optional `pip` list); its pip list joins
the recipe's pip packages. Channels keep the words of the recipe, so that a lock is the same in every clone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.errors import Problem, RecipeError
from repro_est.recipe.forms import NETRC, credential
from repro_est.recipe.values import Recipe

DEFAULT_CHANNELS = ("conda-forge",)
_KEYS = ("name", "channels", "dependencies", "platforms", "prefix")


@dataclass(frozen=True, slots=True)
class CondaRequest:
    """What is to be solved.

    Args:
        specs: MatchSpecs, sorted.
        channels: in order of priority: URLs, names, or paths relative to `directory`.
        virtual_packages: what the target has, such as `("__cuda", "12.4")`, on top of the platform's defaults.
        file: a conda-lock file to take as it is, in place of solving.
    """

    specs: tuple[str, ...]
    channels: tuple[str, ...]
    virtual_packages: tuple[tuple[str, str], ...]
    directory: Path
    file: Path | None = None


def conda_request(recipe: Recipe) -> CondaRequest | None:
    """Returns what a recipe asks of conda, None when it asks nothing.

    Raises:
        RecipeError: the environment file is not one.
    """
    estimator, environment = recipe.estimator, recipe.environment
    if environment.conda_lock_file is not None:
        return CondaRequest((), (), (), environment.channel_directory, environment.conda_lock_file)
    file = estimator.conda_dependencies_file
    # On top of a base image the environment brings its own Python, as the base may have none.
    brings_python = estimator.image is not None and not estimator.image.user_managed
    if not estimator.conda_packages and file is None and not brings_python:
        return None
    channels, specs, _ = read_conda_file(file) if file else ((), (), ())
    asked = {spec.strip() for spec in (*estimator.conda_packages, *specs)}
    return CondaRequest(
        specs=tuple(sorted({*asked, *_python(environment.python, asked)})),
        channels=environment.channels or channels or DEFAULT_CHANNELS,
        virtual_packages=environment.virtual_packages,
        directory=environment.channel_directory if environment.channels or not file else file.parent,
    )


def pip_of_environment_file(recipe: Recipe) -> tuple[str, ...]:
    """Returns the pip list of the recipe's environment file."""
    file = recipe.estimator.conda_dependencies_file
    return read_conda_file(file)[2] if file else ()


def _python(asked: str | None, specs: set[str]) -> tuple[str, ...]:
    """`[environment] python` as a spec; a recipe that names none gets the minor version that runs `repro`."""
    if asked is not None:
        return (f"python {asked}" if any(sign in asked for sign in "<>=!~*") else f"python {asked}.*",)
    if any(
        spec == "python" or spec.startswith(("python ", "python=", "python<", "python>", "python~")) for spec in specs
    ):
        return ()
    import sys

    return (f"python {sys.version_info.major}.{sys.version_info.minor}.*",)


def read_conda_file(file: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Returns channels, specs and pip requirements of an environment file.

    Raises:
        RecipeError: it is none, or holds a credential.
    """
    import yaml

    try:
        content: Any = yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(file, f"cannot be read: {error}") from None
    return conda_content(content, file)


def conda_content(content: Any, file: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Returns the same of what such a file says.

    Args:
        file: named in messages.

    Raises:
        RecipeError: it is not what one says, or holds a credential.
    """
    if not isinstance(content, Mapping):
        raise _wrong(file, "is no conda environment file, expected `channels:` and `dependencies:`")
    unknown = sorted(str(key) for key in content if key not in _KEYS)
    if unknown:
        raise _wrong(file, f"got {', '.join(unknown)}, expected only {', '.join(_KEYS)}")
    specs: list[str] = []
    pip: list[str] = []
    for item in content.get("dependencies") or ():
        if isinstance(item, str):
            specs.append(item)
        elif isinstance(item, Mapping) and list(item) == ["pip"] and isinstance(item["pip"], list):
            pip += [str(line) for line in item["pip"]]
        else:
            raise _wrong(file, f"dependencies: got {item!r}, expected a spec, or `pip:` with a list")
    channels = tuple(str(item) for item in content.get("channels") or ())
    for key, texts in (("channels", channels), ("dependencies", specs)):
        if held := next(filter(None, map(credential, texts)), None):
            raise _wrong(file, f"{held}; repro keeps none in files", key=key, hint=NETRC)
    return channels, tuple(specs), tuple(pip)


def _wrong(file: Path, message: str, *, key: str = "", hint: str | None = None) -> RecipeError:
    return RecipeError((Problem(str(file), None, key, message, hint),))

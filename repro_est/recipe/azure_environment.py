"""`environment_definition`: an environment of Azure ML, or a conda environment file, as keys of a recipe.

    DIRECTORY/azureml_environment.json     what Environment.save_to_directory writes, with what stands beside it:
    DIRECTORY/conda_dependencies.yml       the packages, where the JSON does not hold them
    DIRECTORY/BaseDockerfile               the Dockerfile
    FILE.json                              the same JSON alone
    FILE.yml                               a conda environment file

`python` among the conda packages is the Python version, and conda packages are asked for only where there are others.
What has no meaning here is left out while it is at Azure ML's default (its image, `azureml-*` packages, Spark); what is
not is a problem. All problems are said at once. Nothing is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from repro_est.errors import Problem, RecipeError
from repro_est.lock.condarequest import conda_content, read_conda_file
from repro_est.recipe.forms import credential, is_python

Tables = dict[str, dict[str, Any]]
"""Keys by the table they are in."""

_FILE, _CONDA_FILE, _DOCKERFILE = "azureml_environment.json", "conda_dependencies.yml", "BaseDockerfile"
_DEFAULT_IMAGE = r"[^/]+/azureml/(base|(openmpi|intelmpi)[\d.]+-ubuntu[\d.]+)(:.*)?"
_DEFAULT_VARIABLE = ("EXAMPLE_ENV_VAR", "EXAMPLE_VALUE")
_INDEX_OPTIONS = {
    "-i": "index_url",
    "--index-url": "index_url",
    "--extra-index-url": "extra_index_urls",
    "-f": "find_links",
    "--find-links": "find_links",
}

_MEANT = {
    "": ("name", "version", "assetId", "environmentVariables", "python", "docker"),
    "python": ("userManagedDependencies", "interpreterPath", "condaDependencies", "condaDependenciesFile"),
    "docker": ("enabled", "baseImage", "baseDockerfile", "baseImageRegistry", "shmSize"),
}
"""The keys that are read, or only name the environment."""

_DEFAULTS: dict[str, tuple[object, ...]] = {
    "spark.precachePackages": (True,),
    "spark.repositories": (["https://mmlspark.azureedge.net/maven"],),
    "spark.packages": ([{"group": "com.microsoft.ml.spark", "artifact": "mmlspark_2.11", "version": "0.12"}],),
    "docker.sharedVolumes": (True,),
    "docker.gpuSupport": (True,),
    "docker.platform.os": ("Linux",),
    "docker.platform.architecture": ("amd64",),
}
"""Azure ML's defaults of keys without meaning, where they are not empty."""


def keys_of_environment(path: Path) -> Tables:
    """Returns the keys of `[estimator]` and `[environment]` that a definition stands for; paths in it are absolute.

    Args:
        path: a directory or a file that is there.

    Raises:
        RecipeError: it is no environment, or says what cannot be done here.
    """
    if path.is_dir():
        if not (path / _FILE).is_file():
            raise RecipeError((Problem(str(path), None, "", f"is a directory without an {_FILE}"),))
        path /= _FILE
    if path.suffix == ".json":
        return _Reader(path).tables()
    if path.suffix in (".yml", ".yaml"):
        reader = _Reader(path)
        return reader.finished(reader.packages(*read_conda_file(path)))
    message = (
        "is no environment, expected a directory that Azure ML saved, its JSON, or a conda environment file (.yml)"
    )
    raise RecipeError((Problem(str(path), None, "", message),))


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[Problem] = []

    def tables(self) -> Tables:
        content = self._content()
        python, docker = (self._object(content, key) for key in ("python", "docker"))
        for place, table in (("", content), ("python", python), ("docker", docker)):
            for key, value in table.items():
                if key not in _MEANT[place]:
                    self._check_default(f"{place}.{key}".lstrip("."), value)
        managed = python.get("userManagedDependencies") or False
        packages = self.packages(*self._dependencies(python))
        if managed:
            if any(packages["estimator"].values()):
                message = "is true, and there are packages: expected one of the two"
                self._problem("python.userManagedDependencies", message)
            packages = {"estimator": {"user_managed": True}, "environment": {}}
        if python.get("interpreterPath") not in (None, "", "python"):
            message = f"got {python['interpreterPath']!r}, expected python: repro finds or brings the interpreter"
            self._problem("python.interpreterPath", message, "python=VERSION among the packages")
        estimator = {**packages["estimator"], **self._image(docker), **self._variables(content)}
        return self.finished({"estimator": estimator, "environment": packages["environment"]})

    def finished(self, tables: Tables) -> Tables:
        """Returns tables without what says nothing.

        Raises:
            RecipeError: there were problems.
        """
        if self._problems:
            raise RecipeError(tuple(self._problems))
        return {table: {key: value for key, value in keys.items() if value} for table, keys in tables.items()}

    def packages(self, channels: tuple[str, ...], specs: tuple[str, ...], pip: tuple[str, ...]) -> Tables:
        """Returns what conda channels, conda specs and pip lines ask for."""
        environment: dict[str, Any] = {}
        conda, requirements = [], []
        for spec in specs:
            name = re.split(r"[\s=<>!~\[]", spec.strip().rpartition("::")[2], maxsplit=1)[0].lower()
            if name == "python":
                environment["python"] = self._python(spec)
            elif name != "pip" and not _is_of_azure(name):
                conda.append(spec)
        for line in map(str.strip, pip):
            option = re.fullmatch(r"(--?[a-z-]+)[ =]\s*(\S+)", line)
            if option and option[1] in _INDEX_OPTIONS:
                self._add_index(environment, _INDEX_OPTIONS[option[1]], option[2])
            elif not _is_of_azure(line.lower()):
                requirements.append(line)
        environment["channels"] = list(channels) if conda else []
        return {"estimator": {"conda_packages": conda, "pip_packages": requirements}, "environment": environment}

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_bytes())
        except OSError as error:
            self._fail(f"cannot be read: {error.strerror}")
        except (ValueError, RecursionError) as error:
            self._fail(f"not valid JSON: {error}")
        if not isinstance(content, dict):
            self._fail(f"got {type(content).__name__}, expected an object with `python` and `docker`")
        return content

    def _object(self, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = content.get(key) or {}
        if isinstance(value, Mapping):
            return value
        self._problem(key, f"got {value!r}, expected an object")
        return {}

    def _text(self, table: Mapping[str, Any], place: str, key: str) -> str:
        value = table.get(key) or ""
        if isinstance(value, str):
            return value
        self._problem(f"{place}.{key}", f"got {value!r}, expected a string")
        return ""

    def _check_default(self, place: str, value: Any) -> None:
        """Refuses a key without meaning here that says something."""
        if value in _DEFAULTS.get(place, ()) or not value:
            return
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._check_default(f"{place}.{key}", item)
            return
        self._problem(place, f"got {value!r}, which has no meaning here; leave it out")

    def _dependencies(self, python: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        inline, named = python.get("condaDependencies"), self._text(python, "python", "condaDependenciesFile")
        file = self._path.parent / (named or _CONDA_FILE)
        try:
            if inline:
                return conda_content(inline, self._path)
            if named or file.is_file():
                return read_conda_file(file)
        except RecipeError as error:
            self._problems += error.problems
        return (), (), ()

    def _python(self, spec: str) -> str | None:
        """The version or specifier of a conda spec of `python`; conda's `=3.8` and `3.8.*` are the version 3.8."""
        rest = re.sub(r"^.*?python", "", spec, count=1).strip()
        exact = re.fullmatch(r"(?:==?)?\s*([0-9.]+?)(?:\.\*)?", rest)
        version = exact[1] if exact else rest
        if version and not is_python(version):
            self._problem("python", f"got {spec!r}, expected a version such as `python=3.11`, without a build")
        return version or None

    def _add_index(self, environment: dict[str, Any], key: str, value: str) -> None:
        if held := credential(value):
            self._problem("pip", f"{key}: {held}; repro keeps none in files")
        elif key == "index_url":
            environment[key] = value
        else:
            environment.setdefault(key, []).append(value)

    def _image(self, docker: Mapping[str, Any]) -> dict[str, Any]:
        registry = self._object(docker, "baseImageRegistry")
        if registry.get("username") or registry.get("password"):
            message = "holds a user name or password; repro keeps none in files"
            self._problem("docker.baseImageRegistry", message, "docker login")
        image, dockerfile, shm_size = (
            self._text(docker, "docker", key) for key in ("baseImage", "baseDockerfile", "shmSize")
        )
        found: dict[str, Any] = {"use_docker": docker.get("enabled"), "shm_size": shm_size}
        if image and not is_default_image(image):
            found["custom_docker_image"] = image
            if registry.get("address"):
                found["image_registry_details"] = {"address": registry["address"]}
        beside = self._path.parent / _DOCKERFILE
        if self._path.name == _FILE and beside.is_file():
            found["dockerfile"] = str(beside)
        elif re.search(r"^\s*FROM\s", dockerfile, re.MULTILINE | re.IGNORECASE):
            message = "holds the text of a Dockerfile, and a recipe names a file"
            self._problem("docker.baseDockerfile", message, f"write it into {_DOCKERFILE} beside {_FILE}")
        elif dockerfile:
            found["dockerfile"] = str(self._path.parent / dockerfile)
        return found

    def _variables(self, content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        variables = self._object(content, "environmentVariables")
        for name, value in variables.items():
            if not isinstance(value, str):
                self._problem(f"environmentVariables.{name}", f"got {value!r}, expected a string")
        return {"environment_variables": dict(item for item in variables.items() if item != _DEFAULT_VARIABLE)}

    def _problem(self, key: str, message: str, hint: str | None = None) -> None:
        self._problems.append(Problem(str(self._path), None, key, message, hint))

    def _fail(self, message: str) -> NoReturn:
        raise RecipeError((Problem(str(self._path), None, "", message),))


def _is_of_azure(name: str) -> bool:
    return re.match(r"azureml(?![a-z0-9])", name) is not None


def is_default_image(name: str) -> bool:
    """Whether an image is one that Azure ML put into every environment, which nobody asked for."""
    return re.fullmatch(_DEFAULT_IMAGE, name) is not None

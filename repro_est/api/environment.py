"""`Environment`: what a run executes in, as Azure ML's class says it.

It starts empty: no packages, no image, no variables but those that are asked for. What it says becomes keys of a
recipe (`to_recipe`), and is locked there; the value itself pins nothing.

    <project>/environments/NAME/azureml_environment.json   a registered environment, in Azure ML's own file names
    <project>/environments/NAME/conda_dependencies.yml
    <project>/environments/NAME/BaseDockerfile             when the environment has the text of one
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from repro_est.api.condadependencies import CondaDependencies, requirement_lines
from repro_est.api.docker import ContainerRegistry, DockerConfiguration, DockerSection
from repro_est.api.home import Home, root_of
from repro_est.api.settings import Settings, wrong
from repro_est.errors import UsageError
from repro_est.files import write_atomic
from repro_est.recipe.azure_environment import is_default_image

__all__ = [
    "CondaDependencies",
    "ContainerRegistry",
    "DockerConfiguration",
    "DockerSection",
    "Environment",
    "PythonSection",
]

DIRECTORY = "environments"
"""Where a project keeps registered environments."""

_FILE, _CONDA_FILE, _DOCKERFILE = "azureml_environment.json", "conda_dependencies.yml", "BaseDockerfile"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_AZURES_VARIABLE = "EXAMPLE_ENV_VAR"


class PythonSection(Settings):
    """The Python of an environment.

    Args:
        conda_dependencies: packages and version.
        user_managed_dependencies: the image's own Python runs the script, and nothing is installed on top.
        interpreter_path: "python"; repro finds or brings the interpreter.
    """

    conda_dependencies: CondaDependencies
    user_managed_dependencies: bool
    interpreter_path: str
    conda_dependencies_file: str | None

    def __init__(
        self,
        *,
        conda_dependencies: CondaDependencies | None = None,
        user_managed_dependencies: bool = False,
        interpreter_path: str = "python",
        conda_dependencies_file: str | PathLike[str] | None = None,
    ) -> None:
        self.conda_dependencies = conda_dependencies or CondaDependencies()
        self.user_managed_dependencies = user_managed_dependencies
        self.interpreter_path = interpreter_path
        self.conda_dependencies_file = conda_dependencies_file  # type: ignore[assignment]

    def _checked(self, name: str, value: Any) -> Any:
        match name:
            case "conda_dependencies":
                if not isinstance(value, CondaDependencies):
                    raise wrong(self, name, value, "CondaDependencies")
            case "user_managed_dependencies":
                if not isinstance(value, bool):
                    raise wrong(self, name, value, "True or False")
            case "interpreter_path":
                if value not in (None, "python"):
                    hint = (
                        "python_version of CondaDependencies says which one; a whole Python of yours goes into an image"
                    )
                    raise wrong(self, name, value, "'python', as repro finds or brings the interpreter", hint)
                return "python"
            case "conda_dependencies_file":
                if value is not None:
                    self.conda_dependencies = CondaDependencies(value)
                    return str(value)
        return value


class Environment(Settings):
    """What a run executes in.

    Args:
        name: letters, digits, `.`, `_` and `-`.

    Example:
        environment = Environment.from_pip_requirements("digits", "requirements.txt")
        environment.environment_variables["OMP_NUM_THREADS"] = "1"
    """

    name: str
    version: str | None
    python: PythonSection
    docker: DockerSection
    environment_variables: dict[str, str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = None
        self.python = PythonSection()
        self.docker = DockerSection()
        self.environment_variables = {}

    def _checked(self, name: str, value: Any) -> Any:
        match name:
            case "name":
                if not isinstance(value, str) or not re.fullmatch(_NAME, value):
                    raise wrong(self, name, value, "letters, digits, `.`, `_` and `-`")
            case "python" | "docker":
                kind = PythonSection if name == "python" else DockerSection
                if not isinstance(value, kind):
                    raise wrong(self, name, value, f"a {kind.__name__}")
            case "environment_variables":
                return _variables(value)
        return value

    # ---- makers

    @classmethod
    def from_conda_specification(cls, name: str, file_path: str | PathLike[str]) -> Environment:
        """Returns an environment with the packages of a conda environment file."""
        made = cls(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        return made

    @classmethod
    def from_pip_requirements(
        cls, name: str, file_path: str | PathLike[str], pip_version: str | None = None
    ) -> Environment:
        """Returns an environment with the packages of a requirements file and of those it names by `-r`.

        Args:
            pip_version: of the pip that would install them; says nothing here.
        """
        made = cls(name)
        for line in requirement_lines(Path(file_path)):
            made.python.conda_dependencies.add_pip_package(line)
        return made

    @classmethod
    def from_docker_image(
        cls,
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: str | PathLike[str] | None = None,
        pip_requirements: str | PathLike[str] | None = None,
    ) -> Environment:
        """Returns an environment in an image; without a file of packages the image's own Python is used."""
        made = cls._with_packages(name, conda_specification, pip_requirements)
        made.docker.base_image = image
        made.docker.base_image_registry = container_registry or ContainerRegistry()
        return made

    @classmethod
    def from_dockerfile(
        cls,
        name: str,
        dockerfile: str | PathLike[str],
        conda_specification: str | PathLike[str] | None = None,
        pip_requirements: str | PathLike[str] | None = None,
    ) -> Environment:
        """Returns an environment in the image that a Dockerfile makes.

        Args:
            dockerfile: its text, its path, or a directory with one.
        """
        made = cls._with_packages(name, conda_specification, pip_requirements)
        made.docker.base_dockerfile = str(dockerfile)
        return made

    @classmethod
    def _with_packages(
        cls, name: str, conda: str | PathLike[str] | None, pip: str | PathLike[str] | None
    ) -> Environment:
        if conda is not None and pip is not None:
            raise UsageError("Environment: got conda_specification and pip_requirements, expected one of the two")
        if conda is not None:
            return cls.from_conda_specification(name, conda)
        if pip is not None:
            return cls.from_pip_requirements(name, pip)
        made = cls(name)
        made.python.user_managed_dependencies = True
        return made

    @staticmethod
    def from_existing_conda_environment(name: str, conda_environment_name: str) -> NoReturn:
        """Refused: what is installed on a machine has no lock; export it."""
        _refuse(
            "from_existing_conda_environment: an environment of this machine has no lock",
            f"conda env export --no-builds --name {conda_environment_name} --file environment.yml, "
            f'then Environment.from_conda_specification("{name}", "environment.yml")',
        )

    @staticmethod
    def add_private_pip_wheel(workspace: object, file_path: str, exist_ok: bool = False) -> NoReturn:
        """Refused: wheels are taken from indexes and directories."""
        _refuse(
            "add_private_pip_wheel: wheels are taken from indexes and directories",
            'add_pip_package("--find-links DIRECTORY") for the directory it is in, then its name and version',
        )

    def build(self, workspace: object = None, **options: object) -> NoReturn:
        """Refused: `repro env` builds what a recipe says."""
        _refuse("build: an environment is built for the recipe that uses it", "repro env --help")

    build_local = build

    # ---- what it says

    def to_recipe(self) -> dict[str, dict[str, Any]]:
        """Returns tables of a recipe, as TOML has them; what says nothing is left out.

        The text of a Dockerfile is put into the project, `environments/NAME/BaseDockerfile`, for a recipe names a file.

        Raises:
            UsageError: what it says does not go together.
        """
        packages = self.python.conda_dependencies.to_recipe()
        if self.python.user_managed_dependencies and any(packages.values()):
            got = f"user_managed_dependencies = True and {self.python.conda_dependencies!r}"
            raise UsageError(f"Environment {self.name!r}: got {got}, expected one of the two")
        if self.docker.base_image and self.docker.base_dockerfile:
            raise UsageError(f"Environment {self.name!r}: got base_image and base_dockerfile, expected one of the two")
        estimator = {**packages["estimator"], **self._image()}
        if self.python.user_managed_dependencies:
            estimator["user_managed"] = True
        container = self.docker.to_recipe()
        estimator |= container.get("estimator", {})
        variables = {**estimator.get("environment_variables", {}), **_variables(self.environment_variables)}
        if variables:
            estimator["environment_variables"] = variables
        tables = {"estimator": estimator, "environment": packages["environment"], "docker": container.get("docker", {})}
        return {table: keys for table, keys in tables.items() if keys}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Packages it was asked for that have no meaning here, such as `azureml-defaults`."""
        return tuple(self.python.conda_dependencies.dropped)

    def _image(self) -> dict[str, Any]:
        dockerfile, registry = self.docker.base_dockerfile, self.docker.base_image_registry.to_recipe()
        if dockerfile:
            if not _is_text(dockerfile):
                return {"dockerfile": dockerfile}
            file = root_of(None) / DIRECTORY / self.name / _DOCKERFILE
            _write(file, dockerfile)
            return {"dockerfile": str(file)}
        image = {"custom_docker_image": self.docker.base_image} if self.docker.base_image else {}
        return {**image, **({"image_registry_details": registry} if image and registry else {})}

    def clone(self, new_name: str) -> Environment:
        """Returns an environment that says the same under another name, and shares nothing."""
        made = _from_document(self._document(), self.python.conda_dependencies.copy(), self.name)
        made.name, made.version = new_name, None
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Environment):
            return NotImplemented
        mine, others = self.python.conda_dependencies, other.python.conda_dependencies
        return self._document() == other._document() and mine == others

    __hash__ = None  # it changes

    # ---- files

    def save_to_directory(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Writes the environment into a directory, with Azure ML's file names.

        Raises:
            UsageError: the directory is there, and it is not to be overwritten.
        """
        directory = Path(path)
        if directory.exists() and not overwrite:
            raise UsageError(f"save_to_directory: {directory}: is there already", hint="overwrite=True")
        document = self._document()
        text = self.docker.base_dockerfile
        if text and _is_text(text):
            document["docker"]["baseDockerfile"] = None
            _write(directory / _DOCKERFILE, text)
        else:
            (directory / _DOCKERFILE).unlink(missing_ok=True)
        _write(directory / _CONDA_FILE, self.python.conda_dependencies.serialize_to_string())
        _write(directory / _FILE, json.dumps(document, indent=4, ensure_ascii=False) + "\n")

    @classmethod
    def load_from_directory(cls, path: str | PathLike[str]) -> Environment:
        """Returns the environment that a directory holds, one that Azure ML's SDK wrote too.

        Raises:
            UsageError: the directory holds none.
        """
        directory = Path(path)
        file, conda, dockerfile = (directory / name for name in (_FILE, _CONDA_FILE, _DOCKERFILE))
        try:
            document = json.loads(file.read_bytes())
        except OSError as error:
            raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{file}: not valid JSON: {error}") from None
        if not isinstance(document, dict):
            raise UsageError(f"{file}: got {type(document).__name__}, expected an object")
        packages = CondaDependencies(conda) if conda.is_file() else CondaDependencies()
        made = _from_document(document, packages, str(file))
        if dockerfile.is_file():
            made.docker.base_dockerfile = dockerfile.read_text("utf-8")
        return made

    def register(self, workspace: Home | None = None) -> Environment:
        """Writes the environment into the project, as `environments/NAME/`, and returns it as it is there.

        One that says something else gets the next version and takes the place of the last; git has the older ones.
        """
        directory = root_of(workspace) / DIRECTORY / self.name
        last = Environment.load_from_directory(directory) if (directory / _FILE).is_file() else None
        made = self.clone(self.name)
        made.version = last.version if last else "1"
        if last is not None and made != last:
            made.version = str(int(last.version or "0") + 1)
        made.save_to_directory(directory, overwrite=True)
        return made

    @classmethod
    def get(
        cls, workspace: Home | None, name: str, version: str | int | None = None, label: str | None = None
    ) -> Environment:
        """Returns a registered environment.

        Raises:
            UsageError: there is none of this name, or not in this version.
        """
        known = cls.list(workspace)
        if name not in known:
            curated = name.startswith("AzureML-")
            hint = (
                "a curated environment is Azure's own; write down its packages" if curated else "Environment.register"
            )
            there = ", ".join(known) or "none"
            raise UsageError(f"environment {name!r}: is not registered in this project, there are: {there}", hint=hint)
        found = known[name]
        if version is not None and str(version) != found.version:
            raise UsageError(
                f"environment {name!r}: got version {version}, and the project has version {found.version}",
                hint=f"git log {DIRECTORY}/{name}",
            )
        return found

    @staticmethod
    def list(workspace: Home | None = None) -> dict[str, Environment]:
        """Returns the registered environments by name."""
        directories = sorted((root_of(workspace) / DIRECTORY).glob(f"*/{_FILE}"))
        return {file.parent.name: Environment.load_from_directory(file.parent) for file in directories}

    def _document(self) -> dict[str, Any]:
        """The content of `azureml_environment.json`, with Azure ML's keys."""
        docker = self.docker
        return {
            "name": self.name,
            "version": self.version,
            "environmentVariables": dict(self.environment_variables),
            "python": {
                "userManagedDependencies": self.python.user_managed_dependencies,
                "interpreterPath": self.python.interpreter_path,
                "condaDependenciesFile": None,
            },
            "docker": {
                "enabled": docker.enabled,
                "baseImage": docker.base_image,
                "baseDockerfile": docker.base_dockerfile,
                "shmSize": docker.shm_size,
                "arguments": list(docker.arguments),
                "baseImageRegistry": {"address": docker.base_image_registry.address},
            },
        }


def _from_document(document: Mapping[str, Any], packages: CondaDependencies, where: str) -> Environment:
    """Returns the environment of an `azureml_environment.json`; what Azure ML keeps there for other uses is left."""
    try:
        made = Environment(document["name"])
        python, docker = document.get("python") or {}, document.get("docker") or {}
        variables = dict(document.get("environmentVariables") or {})
        if variables.get(_AZURES_VARIABLE) == "EXAMPLE_VALUE":
            del variables[_AZURES_VARIABLE]
        made.environment_variables = variables
        made.version = document.get("version")
        registry = docker.get("baseImageRegistry") or {}
        made.docker = DockerSection(
            enabled=bool(docker.get("enabled")),
            base_image=None if is_default_image(docker.get("baseImage") or "") else docker.get("baseImage"),
            base_dockerfile=docker.get("baseDockerfile"),
            base_image_registry=ContainerRegistry(*(registry.get(key) for key in ("address", "username", "password"))),
            shm_size=docker.get("shmSize"),
            arguments=docker.get("arguments") or (),
        )
        made.python = PythonSection(
            conda_dependencies=packages,
            user_managed_dependencies=bool(python.get("userManagedDependencies")),
            interpreter_path=python.get("interpreterPath") or "python",
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{where}: is no environment: {error!r}") from None
    return made


def _variables(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"Environment: environment_variables: got {value!r}, expected a dictionary of strings")
    for name, content in value.items():
        if not isinstance(name, str) or not isinstance(content, str):
            message = f"got {content!r} ({type(content).__name__}), expected a string"
            raise UsageError(f"Environment: environment_variables: {name}: {message}", hint=f'"{content}"')
    return dict(value)


def _is_text(dockerfile: str) -> bool:
    """Whether this is the text of a Dockerfile, and no path: a text has a line that says FROM what."""
    return re.search(r"^\s*FROM\s", dockerfile, re.MULTILINE | re.IGNORECASE) is not None


def _write(file: Path, text: str) -> None:
    data = text.encode()
    if file.is_file() and file.read_bytes() == data:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, data)


def _refuse(message: str, hint: str) -> NoReturn:
    raise UsageError(f"Environment.{message}", hint=hint)

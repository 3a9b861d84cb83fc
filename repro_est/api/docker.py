"""How a run's container is said in Python: the image of an environment, and what the container may use.

Of `docker run`'s own arguments those are taken that the recipe has keys for; any other is refused by name, as repro
starts containers itself. Credentials of registries are refused: Docker keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from repro_est.api.settings import Settings, wrong
from repro_est.errors import UsageError

_LOGIN = "docker login"
_KEYS = {
    "--shm-size": ("estimator", "shm_size"),
    "--memory": ("docker", "memory"),
    "-m": ("docker", "memory"),
    "--cpus": ("docker", "cpus"),
    "--env": ("estimator", "environment_variables"),
    "-e": ("estimator", "environment_variables"),
}
_WITHOUT_MEANING = ("--rm", "--init")


class ContainerRegistry(Settings):
    """A registry by its address; `docker login` is where its user name and password belong.

    Args:
        address: `host:5000`, or None for Docker's own.
    """

    address: str | None
    username: None
    password: None

    def __init__(self, address: str | None = None, username: None = None, password: None = None) -> None:
        self.address, self.username, self.password = address, username, password

    def _checked(self, name: str, value: Any) -> Any:
        if name != "address" and value:
            raise UsageError(f"ContainerRegistry: {name}: repro keeps no credentials", hint=_LOGIN)
        if name == "address" and not (value is None or isinstance(value, str)):
            raise wrong(self, name, value, "a string such as 'host:5000'")
        return value or None

    def to_recipe(self) -> dict[str, str]:
        """Returns `image_registry_details`; empty when nothing was said."""
        return {"address": self.address} if self.address else {}


class DockerSection(Settings):
    """The image of an environment.

    Args:
        enabled: run in a container though no image is named.
        base_image: `NAME:TAG` or `NAME@sha256:...`.
        base_dockerfile: text of a Dockerfile, a file, or a directory with one, in place of an image.
        shared_volumes: of Windows; says nothing here.
        shm_size: of /dev/shm, "2g".
        arguments: of `docker run`, as far as recipes have keys for them.
    """

    enabled: bool
    base_image: str | None
    base_dockerfile: str | None
    base_image_registry: ContainerRegistry
    shared_volumes: bool
    shm_size: str | None
    arguments: list[str]

    def __init__(
        self,
        *,
        enabled: bool = False,
        base_image: str | None = None,
        base_dockerfile: str | None = None,
        base_image_registry: ContainerRegistry | None = None,
        shm_size: str | None = None,
        arguments: Iterable[str] = (),
    ) -> None:
        self.enabled = enabled
        self.base_image = base_image
        self.base_dockerfile = base_dockerfile
        self.base_image_registry = base_image_registry or ContainerRegistry()
        self.shared_volumes = True
        self.shm_size = shm_size
        self.arguments = arguments  # type: ignore[assignment]  # a list once it is checked

    def _checked(self, name: str, value: Any) -> Any:
        return _checked(self, name, value)

    def to_recipe(self) -> dict[str, dict[str, Any]]:
        """Returns keys of `[estimator]` and `[docker]`, without the image's own; what says nothing is left out."""
        return _container(self.enabled, self.shm_size, self.arguments)


class DockerConfiguration(Settings):
    """Whether a run is in a container, and what that may use.

    Args:
        use_docker: run in a container.
        shared_volumes: of Windows; says nothing here.
        arguments: of `docker run`, as far as recipes have keys for them.
        shm_size: of /dev/shm, "2g".
    """

    use_docker: bool
    shared_volumes: bool
    arguments: list[str]
    shm_size: str | None

    def __init__(
        self,
        use_docker: bool = False,
        shared_volumes: bool = True,
        arguments: Iterable[str] | None = None,
        shm_size: str | None = None,
    ) -> None:
        self.use_docker, self.shared_volumes = use_docker, shared_volumes
        self.arguments = arguments  # type: ignore[assignment]  # a list once it is checked
        self.shm_size = shm_size

    def _checked(self, name: str, value: Any) -> Any:
        return _checked(self, name, value)

    def to_recipe(self) -> dict[str, dict[str, Any]]:
        """Returns keys of `[estimator]` and `[docker]`, as TOML has them; what says nothing is left out."""
        return _container(self.use_docker, self.shm_size, self.arguments)


def _checked(section: DockerSection | DockerConfiguration, name: str, value: Any) -> Any:
    match name:
        case "enabled" | "use_docker" | "shared_volumes":
            if not isinstance(value, bool):
                raise wrong(section, name, value, "True or False")
        case "base_image_registry":
            if not isinstance(value, ContainerRegistry):
                raise wrong(section, name, value, "a ContainerRegistry")
        case "arguments":
            words = [] if value is None else [value] if isinstance(value, str) else list(value)
            if isinstance(value, str) or not all(isinstance(word, str) for word in words):
                raise wrong(section, name, value, "a list of strings")
            _container(False, None, words)
            return words
        case _:
            if value is not None and not (isinstance(value, str) and value):
                raise wrong(section, name, value, "a string, or None")
    return value


def _container(use_docker: bool, shm_size: str | None, arguments: Iterable[str]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {"estimator": {}, "docker": {}}
    if use_docker:
        tables["estimator"]["use_docker"] = True
    for option, value in _options(arguments):
        table, key = _KEYS[option]
        if key == "environment_variables":
            name, equals, content = value.partition("=")
            if not equals:
                raise UsageError(
                    f"docker: arguments: got `{option} {value}`, expected NAME=VALUE",
                    hint=f"a variable of yours that is secret goes into secrets: {value}",
                )
            tables[table].setdefault(key, {})[name] = content
        else:
            tables[table][key] = _number(option, value) if key == "cpus" else value
    if shm_size is not None:
        tables["estimator"]["shm_size"] = shm_size
    return {table: keys for table, keys in tables.items() if keys}


def _options(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields options with their values, from `--name=value`, `--name value` and the two as words."""
    words = iter([part for argument in arguments for part in argument.split()])
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option in _WITHOUT_MEANING:
            continue
        if option not in _KEYS:
            raise UsageError(
                f"docker: arguments: got `{word}`, expected one of {', '.join(_KEYS)}",
                hint="repro starts containers itself; what else they need belongs into the image",
            )
        value = value if equals else next(words, "")
        if not value:
            raise UsageError(f"docker: arguments: got `{word}` without a value")
        yield option, value


def _number(option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"docker: arguments: {option}: got {value!r}, expected a number such as 1.5") from None

"""`CondaDependencies`: a conda environment file as an object, with Azure ML's methods.

It starts empty, and nothing is put in that was not asked for. Packages that have no meaning here (`azureml-*`, and
conda's own `pip`, as repro installs what pip would) are kept apart in `dropped`, so that whoever uses the value can
say so. `python` among the conda packages is the Python version. What could not be locked is refused when it is added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.files import write_atomic
from repro_est.lock.requirements import refusal
from repro_est.recipe.forms import NETRC, credential, is_python, without_addresses

_WHAT = "CondaDependencies"
_KEYS = ("name", "channels", "dependencies", "platforms", "prefix")
_INDEX_OPTIONS = {
    "-i": "index_url",
    "--index-url": "index_url",
    "--extra-index-url": "extra_index_urls",
    "-f": "find_links",
    "--find-links": "find_links",
}
_OPTIONS = {"index_url": "--index-url", "extra_index_urls": "--extra-index-url", "find_links": "--find-links"}


class CondaDependencies:
    """Packages, channels and the Python version of an environment.

    Args:
        conda_dependencies_file_path: a conda environment file to start from.
        name: what the file calls the environment; says nothing here.

    Raises:
        UsageError: the file is no conda environment file, or asks for what cannot be locked.

    Example:
        packages = CondaDependencies.create(python_version="3.11", pip_packages=["scikit-learn==1.7.*"])
        packages.add_channel("conda-forge")
    """

    def __init__(self, conda_dependencies_file_path: str | PathLike[str] | None = None, *, name: str = "repro") -> None:
        self.name = name
        self.dropped: list[str] = []
        self._python: str | None = None
        self._channels: list[str] = []
        self._conda: list[str] = []
        self._pip: list[str] = []
        self._options: dict[str, list[str]] = {}
        if conda_dependencies_file_path is not None:
            self._read(Path(conda_dependencies_file_path))

    @classmethod
    def create(
        cls,
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Returns the dependencies that these lists say; the lists are not kept.

        Args:
            pip_indexurl: simple index to take pip packages from.
            pip_packages: requirements (PEP 508).
            conda_packages: conda specs.
            python_version: "3.11", "3.11.7" or a specifier.
            pin_sdk_version: of Azure ML's SDK, which is not installed here; says nothing.
        """
        made = cls()
        if pip_indexurl is not None:
            made.set_pip_index_url(pip_indexurl)
        for spec in _texts(conda_packages, "conda_packages"):
            made.add_conda_package(spec)
        for requirement in _texts(pip_packages, "pip_packages"):
            made.add_pip_package(requirement)
        if python_version is not None:
            made.set_python_version(python_version)
        return made

    # ---- what there is

    @property
    def python_version(self) -> str | None:
        """Version or specifier, None when nothing was said."""
        return self._python

    @property
    def conda_channels(self) -> tuple[str, ...]:
        return tuple(self._channels)

    @property
    def conda_packages(self) -> tuple[str, ...]:
        """Conda specs other than `python`."""
        return tuple(self._conda)

    @property
    def pip_packages(self) -> tuple[str, ...]:
        return tuple(self._pip)

    @property
    def pip_options(self) -> tuple[str, ...]:
        """`--index-url ...` and the like, a line each."""
        return tuple(f"{_OPTIONS[key]} {value}" for key, values in self._options.items() for value in values)

    # ---- changes

    def add_conda_package(self, conda_package: str) -> None:
        """Adds a spec such as `numpy=2.1`; one of the same package is replaced, and `python` sets the version."""
        spec = _text(conda_package, "conda package")
        name = spec_name(spec)
        _no_credential("conda package", spec)
        if name == "python":
            self._python = _python_of(spec)
        elif _is_of_azure(name) or name == "pip":
            self._drop(spec)
        else:
            _put(self._conda, spec, spec_name)

    def add_pip_package(self, pip_package: str) -> None:
        """Adds a requirement, or an index option; a requirement of the same package is replaced."""
        line = _text(pip_package, "pip package")
        option = re.fullmatch(r"(--?[a-z-]+)[ =]\s*(\S+)", line)
        if option and option[1] in _INDEX_OPTIONS:
            self._add_option(_INDEX_OPTIONS[option[1]], option[2])
        elif _is_of_azure(requirement_name(line)):
            self._drop(line)
        elif problem := refusal(line):
            constrains = re.match(r"(-c|--constraint)[ =]", line)
            raise UsageError(
                f"{_WHAT}: pip package {without_addresses(line)!r}: {problem}",
                hint="constraints are for Estimator(pip_requirements_file=...)" if constrains else None,
            )
        else:
            _put(self._pip, line, requirement_name)

    def add_channel(self, channel: str) -> None:
        """Adds a conda channel below those there are."""
        text = _text(channel, "channel")
        _no_credential("channel", text)
        if text not in self._channels:
            self._channels.append(text)

    def set_python_version(self, version: str) -> None:
        """Sets the Python: "3.11", "3.11.7" or a specifier such as ">=3.11,<3.13"."""
        text = version.strip() if isinstance(version, str) else ""  # 3.10 as a number is 3.1
        if not is_python(text):
            raise UsageError(
                f'{_WHAT}: python_version: got {version!r}, expected a version or specifier such as "3.11"'
            )
        self._python = text

    def set_pip_index_url(self, index_url: str) -> None:
        """Sets the index that pip packages are taken from."""
        value = index_url.strip().removeprefix("--index-url").strip(" =")
        _no_credential("index_url", value)
        self._options["index_url"] = [value]

    def set_pip_option(self, pip_option: str) -> None:
        """Adds an index option: `--extra-index-url URL`, `--find-links URL`."""
        self.add_pip_package(pip_option)

    def set_pip_requirements(self, pip_requirements: Iterable[str]) -> None:
        """Replaces all pip packages."""
        wanted = _texts(pip_requirements, "pip_requirements")
        self._pip.clear()
        for line in wanted:
            self.add_pip_package(line)

    def remove_conda_package(self, conda_package: str) -> None:
        """Removes the spec of a package; one that is not there is fine."""
        name = spec_name(conda_package)
        if name == "python":
            self._python = None
        self._conda[:] = [spec for spec in self._conda if spec_name(spec) != name]

    def remove_pip_package(self, pip_package: str) -> None:
        """Removes the requirement of a package; one that is not there is fine."""
        self._pip[:] = [line for line in self._pip if requirement_name(line) != requirement_name(pip_package)]

    def remove_pip_option(self, pip_option: str) -> None:
        """Removes every option of this name, such as `--extra-index-url`."""
        self._options.pop(_INDEX_OPTIONS.get(re.split(r"[ =]", pip_option.strip())[0], ""), None)

    def remove_channel(self, channel: str) -> None:
        """Removes a channel; one that is not there is fine."""
        self._channels[:] = [known for known in self._channels if known != channel]

    # ---- files

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of a conda environment file."""
        python = [f"python{_conda_version(self._python)}"] if self._python else []
        pip = [*self.pip_options, *self._pip]
        document: dict[str, Any] = {"name": self.name}
        if self._channels:
            document["channels"] = list(self._channels)
        document["dependencies"] = [*python, *self._conda, *([{"pip": pip}] if pip else [])]
        return document

    def serialize_to_string(self) -> str:
        """Returns the text of a conda environment file."""
        import yaml

        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=1000)

    def save(self, path: str | PathLike[str] = "conda_dependencies.yml") -> str:
        """Writes a conda environment file, and returns its path.

        Args:
            path: a file, or a directory that gets a `conda_dependencies.yml`.
        """
        file = Path(path)
        if file.is_dir():
            file /= "conda_dependencies.yml"
        write_atomic(file, self.serialize_to_string().encode())
        return str(file)

    def save_to_file(self, base_directory: str | PathLike[str], conda_file_path: str | None = None) -> str:
        """Writes a conda environment file below a directory, and returns its name there."""
        name = conda_file_path or "conda_dependencies.yml"
        self.save(Path(base_directory, name))
        return name

    def to_recipe(self) -> dict[str, dict[str, Any]]:
        """Returns keys of `[estimator]` and `[environment]`, as TOML has them; what says nothing is left out."""
        estimator: dict[str, Any] = {"conda_packages": list(self._conda), "pip_packages": list(self._pip)}
        index = self._options.get("index_url")
        environment = {
            "python": self._python,
            "channels": list(self._channels) if self._conda else [],
            "index_url": index[-1] if index else None,
            **{key: list(self._options.get(key, ())) for key in ("extra_index_urls", "find_links")},
        }
        tables: dict[str, dict[str, Any]] = {"estimator": estimator, "environment": environment}
        return {table: {key: value for key, value in keys.items() if value} for table, keys in tables.items()}

    def copy(self) -> CondaDependencies:
        """Returns dependencies that say the same and share nothing."""
        made = CondaDependencies(name=self.name)
        made.dropped, made._python = list(self.dropped), self._python
        made._channels, made._conda, made._pip = list(self._channels), list(self._conda), list(self._pip)
        made._options = {key: list(values) for key, values in self._options.items()}
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CondaDependencies) and self.to_recipe() == other.to_recipe()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        said = {"python_version": self._python, "conda_packages": self._conda, "pip_packages": self._pip}
        return f"{_WHAT}({', '.join(f'{key}={value!r}' for key, value in said.items() if value)})"

    # ---- reading

    def _read(self, file: Path) -> None:
        for channel, spec, line in _content(file):
            try:
                if channel:
                    self.add_channel(channel)
                elif spec:
                    self.add_conda_package(spec)
                else:
                    self.add_pip_package(line)
            except UsageError as error:
                raise UsageError(f"{file}: {error.message.removeprefix(f'{_WHAT}: ')}", hint=error.hint) from None

    def _add_option(self, key: str, value: str) -> None:
        _no_credential(key, value)
        values = self._options.setdefault(key, [])
        if key == "index_url":
            values.clear()
        if value not in values:
            values.append(value)

    def _drop(self, text: str) -> None:
        if text not in self.dropped:
            self.dropped.append(text)


def _content(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yields a channel, a conda spec or a pip line at a time, the two others empty."""
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{file}: is no conda environment file, expected `channels:` and `dependencies:`")
    unknown = sorted(str(key) for key in content if key not in _KEYS)
    if unknown:
        raise UsageError(f"{file}: got {', '.join(unknown)}, expected only {', '.join(_KEYS)}")
    for channel in content.get("channels") or ():
        yield str(channel), "", ""
    for item in content.get("dependencies") or ():
        if isinstance(item, str):
            yield "", item, ""
        elif isinstance(item, Mapping) and list(item) == ["pip"] and isinstance(item["pip"], list | None):
            yield from (("", "", str(line)) for line in item["pip"] or ())
        else:
            raise UsageError(f"{file}: dependencies: got {item!r}, expected a spec, or `pip:` with a list")


def _texts(values: Iterable[str] | None, name: str) -> list[str]:
    if isinstance(values, str):
        raise UsageError(f"{_WHAT}: {name}: got {values!r}, expected a list of strings", hint=f"[{values!r}]")
    return list(values or ())


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{_WHAT}: {what}: got {value!r}, expected a string")
    return value.strip()


def _no_credential(what: str, text: str) -> None:
    if held := credential(text):
        raise UsageError(f"{_WHAT}: {what}: {held}; repro keeps none in files", hint=NETRC)


def _put(items: list[str], text: str, name_of: Any) -> None:
    """Puts a package where one of its name stands, else at the end."""
    for number, known in enumerate(items):
        if name_of(known) == name_of(text):
            items[number] = text
            return
    items.append(text)


def spec_name(spec: str) -> str:
    """Returns the package that a conda spec is of."""
    return re.split(r"[\s=<>!~\[]", spec.strip().rpartition("::")[2], maxsplit=1)[0].lower()


def requirement_name(line: str) -> str:
    """Returns the package that a requirement is of, in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;@(]", line.strip(), maxsplit=1)[0]).lower()


def _is_of_azure(name: str) -> bool:
    return name == "azureml" or name.startswith("azureml-")


def _python_of(spec: str) -> str | None:
    """The version or specifier of a conda spec of `python`; conda's `=3.8` and `3.8.*` are the version 3.8."""
    rest = re.sub(r"^.*?python", "", spec, count=1).strip()
    if not rest:
        return None
    exact = re.fullmatch(r"(?:==?)?\s*([0-9.]+?)(?:\.\*)?", rest)
    version = exact[1] if exact else rest
    if not is_python(version):
        raise UsageError(f"{_WHAT}: got {spec!r}, expected a version such as `python=3.11`, without a build")
    return version


def _conda_version(python: str) -> str:
    return python if re.match(r"[<>=!~]", python) else f"={python}"


def requirement_lines(file: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yields the lines of a requirements file, and of those it names by `-r`; without comments.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None
    for raw in text.replace("\\\n", " ").splitlines():
        line = " ".join(re.sub(r"(^|\s)#.*$", "", raw).split())
        nested = re.fullmatch(r"(?:-r|--requirement)[ =]?\s*(\S.*)", line)
        if nested and file not in above:
            yield from requirement_lines(file.parent / nested[1], (*above, file))
        elif line and not nested:
            yield line

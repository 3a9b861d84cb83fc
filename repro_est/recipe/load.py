"""Reading a recipe: TOML files, laid over each other by `extends` and `--set`, into frozen values.

Strict: an unknown key, a wrong type, a missing file is an error with file, line, key, what was got and expected,
and the nearest name. Everything wrong with a recipe is said at once. A path is relative to the file that wrote it
(one given by `--set`: to the recipe).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from repro_est.errors import Problem, RecipeError
from repro_est.layout import Layout
from repro_est.recipe.arguments import parameter, word
from repro_est.recipe.distributed import read_layout
from repro_est.recipe.forms import NETRC, credential, is_date, is_python, looks_secret, without_addresses
from repro_est.recipe.layers import Layer, Path_, document_layers, override_layer, recipe_layers
from repro_est.recipe.notebook import is_notebook, parameter_name, read_notebook
from repro_est.recipe.reproducible import Determinism, Reproducible, Tolerance
from repro_est.recipe.schema import LATER_TABLES, TABLES, Key, Type, keys_of
from repro_est.recipe.values import (
    EnvironmentRequest,
    Estimator,
    ImageRequest,
    Input,
    InputMode,
    InputReference,
    Limits,
    ModelInput,
    ModelRequest,
    Outputs,
    Parameter,
    PathInput,
    Recipe,
    RecipeInput,
    RunInput,
    UrlInput,
    Word,
    is_image_name,
)
from repro_est.store.models import MODEL_NAME, parse_reference

TARGET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a target may be called."""

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_DEFINED = (
    "pip_packages",
    "pip_requirements_file",
    "conda_packages",
    "conda_dependencies_file",
    "custom_docker_image",
    "image_registry_details",
    "dockerfile",
    "user_managed",
)
"""What `environment_definition` stands for; Azure ML refuses these beside it too."""
_RESUME, _RESUME_FLAG = "resume_from", "--resume-from"
"""The input and the flag that `resume_from` becomes."""
_HEX64 = r"[0-9a-f]{64}"


def load(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe, and the recipes whose runs are its inputs.

    Args:
        path: the recipe file.
        overrides: `KEY=VALUE` as given to `--set`.

    Raises:
        RecipeError: with every problem found.
        UsageError: an override that is not `KEY=VALUE`, or no such file.
    """
    return _load(path, overrides, (), {})


def load_document(document: Mapping[str, Any], path: Path, *, is_file: bool = False) -> Recipe:
    """Reads a recipe that was made by a program, as if it stood in a file.

    Args:
        document: tables as tomli reads them.
        path: absolute; its directory is where relative paths start, its name the recipe's.
        is_file: the document is that of this file, which is no part of a snapshot then.

    Raises: as `load`.
    """
    layers = [*document_layers(document, path, is_file=is_file), override_layer(path.parent, ())]
    return _Reader(layers, path=path).recipe()


def _load(path: Path, overrides: tuple[str, ...], above: tuple[Path, ...], known: dict[Path, Recipe]) -> Recipe:
    """Reads a recipe.

    Args:
        above: the recipes that need this one, the first first.
        known: those that were read already.
    """
    layers = recipe_layers(path)
    layers.append(override_layer(layers[-1].directory, overrides))
    return _Reader(layers, above, known).recipe()


class _Reader:
    """Lays the layers over each other, checks every key, and builds the values; collects problems on the way."""

    def __init__(
        self,
        layers: list[Layer],
        above: tuple[Path, ...] = (),
        known: dict[Path, Recipe] | None = None,
        path: Path | None = None,
    ) -> None:
        self._layers, self._stands_at = layers, path
        self._above, self._known = above, known if known is not None else {}
        self._problems: list[Problem] = []
        self._origin: dict[Path_, Layer] = {}
        self._document: dict[str, Any] = {}
        for layer in layers:
            self._merge(self._document, layer.document, (), layer)

    def recipe(self) -> Recipe:
        self._check_names()
        self._definition = self._defined_environment()
        top = self._values("", ())
        estimator = self._estimator()
        environment = self._environment()
        limits = self._limits()
        outputs = self._outputs()
        reproducible = self._reproducible()
        inputs = tuple(self._inputs())
        resumed = self._resumed()
        if resumed is not None:
            inputs = (*inputs, resumed)
            flag = Parameter(_RESUME_FLAG, (InputReference(_RESUME),))
            estimator = dataclasses.replace(estimator, script_params=(*estimator.script_params, flag))
        models = tuple(self._models())
        secrets = tuple(top["secrets"])
        compat = self._values("compat", ("compat",))
        sandbox = self._values("sandbox", ("sandbox",))
        self._check_references(estimator, [*self._document.get("inputs", {}), *([_RESUME] if resumed else [])])
        if environment.conda_lock_file and (estimator.asks_for_packages or environment.channels):
            message = "is taken as it is, so no packages and channels can be asked for beside it"
            self._problem(("environment", "conda_lock_file"), message)
        if is_notebook(estimator.entry_script):
            self._check_notebook(estimator)
        self._check_secrets(estimator, secrets)
        if self._problems:
            raise RecipeError(tuple(sorted(self._problems, key=lambda item: (item.file, item.line or 0, item.key))))
        files = tuple(layer.file for layer in reversed(self._layers) if layer.file is not None)
        return Recipe(
            path=self._stands_at or files[0],
            files=files,
            estimator=estimator,
            environment=environment,
            limits=limits,
            inputs=inputs,
            outputs=outputs,
            reproducible=reproducible,
            models=models,
            secrets=secrets,
            salt=top["salt"],
            experiment_name=top["experiment_name"],
            description=top["description"],
            tags=tuple(top["tags"].items()),
            names=tuple((name, layer.file) for layer in self._layers if layer.file for name in layer.names),
            compat_azureml=compat["azureml"],
            sandbox_required=sandbox["required"],
        )

    # ---- layers

    def _merge(self, into: dict[str, Any], table: Mapping[str, Any], prefix: Path_, layer: Layer) -> None:
        for name, value in table.items():
            key = (*prefix, name)
            self._origin[key] = layer
            old = into.get(name)
            if isinstance(value, dict) and not (set(value) == {"input"} and "script_params" in prefix):
                into[name] = old if isinstance(old, dict) else {}
                self._merge(into[name], value, key, layer)
            else:
                into[name] = value

    def _problem(self, key: Path_, message: str, hint: str | None = None) -> None:
        probe = key
        while probe and probe not in self._origin:
            probe = probe[:-1]
        layer = self._origin.get(probe, self._layers[-2])
        dotted = ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in key)
        self._problems.append(Problem(layer.shown, layer.line(key), dotted, message, hint))

    def _directory(self, key: Path_) -> Path:
        return self._origin[key].directory if key in self._origin else self._layers[-1].directory

    def _defined_environment(self) -> Path | None:
        """Lays `environment_definition` below the rest: what it says is as if the recipe said it."""
        place = ("estimator", "environment_definition")
        given = self._document.get("estimator", {})
        text = given.get("environment_definition")
        if not isinstance(text, str):  # its type is checked with its table
            return None
        path = self._file(place, text, directory=True)
        for name in _DEFINED:
            if given.get(name):
                self._problem(("estimator", name), "goes without environment_definition, which stands for it")
        if path is None:
            return None
        from repro_est.recipe.azure_environment import keys_of_environment

        try:
            tables = keys_of_environment(path)
        except RecipeError as error:
            self._problems += error.problems
            return path
        layer = Layer(str(path), path if path.is_dir() else path.parent, "", tables)
        for table, keys in tables.items():
            own = self._document.setdefault(table, {})
            new = {name: value for name, value in keys.items() if name not in own}
            variables = own.get("environment_variables")
            if isinstance(variables, dict):
                own["environment_variables"] = {**keys.get("environment_variables", {}), **variables}
            own |= new
            self._origin.update(dict.fromkeys(((table, name) for name in new), layer))
        return path

    # ---- keys and types

    def _check_names(self) -> None:
        allowed = {**keys_of(""), **dict.fromkeys(TABLES)}
        for name, value in self._document.items():
            if name in TABLES and not isinstance(value, dict):
                self._problem((name,), f"got {_shown(value)}, expected a table: [{name}]")
                self._document[name] = {}
            elif name in LATER_TABLES:
                self._problem((name,), LATER_TABLES[name])
            elif name not in allowed:
                home = next((table for table in TABLES if name in keys_of(table)), None)
                hint = f"it belongs into [{home}]" if home else _nearest(name, [*allowed, *LATER_TABLES])
                self._problem((name,), "unknown key", hint)
        if "estimator" not in self._document:
            self._problem(("estimator",), "missing, expected a table [estimator] with an entry_script")

    def _values(self, table: str, place: Path_) -> dict[str, Any]:
        """Returns every key of a table, checked, defaults filled in."""
        given = self._document
        for part in place:
            given = given.get(part, {})
        keys = keys_of(table)
        for name in given:
            if place and name not in keys:
                self._problem((*place, name), "unknown key", _nearest(name, list(keys)))
        values: dict[str, Any] = {}
        for key in keys.values():
            values[key.name] = key.default
            if key.name in given:
                self._value((*place, key.name), key, given[key.name], values)
            elif key.required and place and (place[0] in self._document):
                self._problem((*place, key.name), f"missing, expected {key.type}")
        return values

    def _value(self, place: Path_, key: Key, value: Any, values: dict[str, Any]) -> None:
        problem = _type_problem(key.type, value)
        if key.later is not None:
            if problem or value not in (key.default, list(key.default) if key.default == () else key.default):
                self._problem(place, key.later)
        elif problem:
            self._problem(place, problem)
        elif key.choices and value not in key.choices:
            hint = _nearest(value, list(key.choices))
            listed = " or ".join(f'"{choice}"' for choice in key.choices)
            self._problem(place, f"got {_shown(value)}, expected {listed}", hint)
        elif key.least is not None and key.most is not None and not key.least <= value <= key.most:
            self._problem(place, f"got {value}, expected {key.least:,} to {key.most:,}")
        else:
            values[key.name] = value

    # ---- tables

    def _estimator(self) -> Estimator:
        place = ("estimator",)
        values = self._values("estimator", place)
        base = self._directory(("estimator", "source_directory"))
        source = Path(os.path.normpath(base / values["source_directory"]))
        entry = values["entry_script"] or ""
        if not source.is_dir():
            what = "is not a directory" if source.exists() else "no such directory"
            self._problem((*place, "source_directory"), f"got {values['source_directory']!r}, {what}: {source}")
        elif values["entry_script"] is not None:
            entry = self._entry_script(source, entry)
        for name in ("max_run_duration_seconds", "heartbeat_seconds"):
            if values[name] is not None and not 0 < values[name] < 10**9:
                self._problem((*place, name), f"got {values[name]}, expected more than 0")
        variables = values["environment_variables"]
        for name in variables:
            if not re.fullmatch(_VARIABLE, name):
                self._problem((*place, "environment_variables", name), "is not a name of an environment variable")
            elif "\0" in variables[name]:
                self._problem((*place, "environment_variables", name), "holds a NUL character")
        self._check_packages((*place, "pip_packages"), values["pip_packages"])
        self._no_credential((*place, "conda_packages"), values["conda_packages"], NETRC)
        requirements, conda_file = values["pip_requirements_file"], values["conda_dependencies_file"]
        image = self._image(values)
        return Estimator(
            source_directory=source,
            entry_script=entry,
            script_params=tuple(self._parameters(values["script_params"])),
            arguments=tuple(self._words((*place, "arguments"), values["arguments"])),
            compute_target=self._target(values, image),
            pip_packages=tuple(values["pip_packages"]),
            pip_requirements_file=self._file((*place, "pip_requirements_file"), requirements) if requirements else None,
            conda_packages=tuple(values["conda_packages"]),
            conda_dependencies_file=self._file((*place, "conda_dependencies_file"), conda_file) if conda_file else None,
            environment_definition=self._definition,
            image=image,
            use_gpu=values["use_gpu"],
            environment_variables=tuple(sorted(variables.items())),
            max_run_duration_seconds=values["max_run_duration_seconds"],
            layout=self._layout(values),
            retries=values["retries"],
            heartbeat_seconds=values["heartbeat_seconds"],
        )

    def _layout(self, values: Mapping[str, Any]) -> Layout:
        def on_problem(key: Path_, message: str, hint: str | None) -> None:
            self._problem(("estimator", *key), message, hint)

        given = self._document.get("estimator", {})
        return read_layout(values, given, on_problem)

    def _image(self, values: Mapping[str, Any]) -> ImageRequest | None:
        """Reads the keys that name a base image."""
        place = ("estimator",)
        name, dockerfile, details = (
            values["custom_docker_image"],
            values["dockerfile"],
            values["image_registry_details"],
        )
        user_managed: bool = values["user_managed"]
        for key in details:
            if key in ("username", "password"):
                message = "repro keeps no credentials in files"
                self._problem((*place, "image_registry_details", key), message, "docker login")
            elif key != "address":
                self._problem((*place, "image_registry_details", key), "unknown key, expected `address`")
        if name == "":
            self._problem((*place, "custom_docker_image"), "got '', expected an image such as `team/base:2026`")
        if dockerfile == "":
            self._problem((*place, "dockerfile"), "got '', expected a Dockerfile, or a directory with one")
        if name and dockerfile:
            self._problem((*place, "dockerfile"), "goes without custom_docker_image: expected one of the two")
        if details and not name:
            self._problem((*place, "image_registry_details"), "goes with custom_docker_image")
        if not name and not dockerfile:
            if user_managed:
                self._problem((*place, "user_managed"), "needs custom_docker_image or dockerfile, whose Python is used")
            return None
        packages = ("pip_packages", "pip_requirements_file", "conda_packages", "conda_dependencies_file")
        for key in packages if user_managed else ():
            if values[key]:
                self._problem((*place, key), "goes without user_managed = true, which takes the image as it is")
        if dockerfile:
            path = self._file((*place, "dockerfile"), dockerfile, directory=True)
            if path is not None and path.is_dir() and not (path / "Dockerfile").is_file():
                self._problem((*place, "dockerfile"), f"got {dockerfile!r}, a directory without a Dockerfile in it")
            return ImageRequest("", path, dockerfile, user_managed)
        address = details.get("address", "").rstrip("/")
        full = f"{address}/{name}" if address else name
        if "@" in name and "sha256:" not in name:
            message = "holds a user name or password; repro keeps none in files"
            self._problem((*place, "custom_docker_image"), message, "docker login")
        elif not is_image_name(full):
            message = f"got {full!r}, expected an image such as `team/base:2026` or `team/base@sha256:...`"
            self._problem((*place, "custom_docker_image"), message)
        return ImageRequest(full, None, full, user_managed)

    def _target(self, values: Mapping[str, Any], image: ImageRequest | None) -> str:
        """The target a recipe names; without one, a base image or Azure ML's `use_docker` means docker.

        Any other name may be a target of the inventory, which is not read here.
        """
        target: str = values["compute_target"]
        place = ("estimator", "compute_target")
        if not re.fullmatch(TARGET_NAME, target):
            message = f'got {target!r}, expected "local", "docker" or the name of a target of the inventory'
            self._problem(place, message)
        if target != "local" or (image is None and not values["use_docker"]):
            return target
        if "compute_target" in self._document["estimator"]:
            reason = "a base image needs a container" if image else "use_docker = true says otherwise"
            self._problem(place, f'got "{target}", and {reason}: "docker"')
        return "docker"

    def _entry_script(self, source: Path, entry: str) -> str:
        place = ("estimator", "entry_script")
        path = Path(os.path.normpath(source / entry))
        if not entry:
            self._problem(place, "got '', expected a Python file or a notebook in the source directory")
        elif not path.is_relative_to(source) or path == source:
            self._problem(place, f"got {entry!r}, which is outside of the source directory {source}")
        elif not path.resolve().is_relative_to(source.resolve()):
            self._problem(place, f"got {entry!r}, a symlink that leaves the source directory {source}")
        elif not path.is_file():
            names = [str(file.relative_to(source)) for file in _some_files(source)]
            self._problem(place, f"got {entry!r}, no such file in {source}", _nearest(entry, names))
        elif is_notebook(path.name):
            try:
                read_notebook(path)
            except OSError as error:
                self._problem(place, f"got {entry!r}, which cannot be read: {error.strerror}")
            except ValueError as error:
                self._problem(place, f"got {entry!r}: {error}")
        elif path.suffix != ".py":
            self._problem(place, f"got {entry!r}, expected a Python file or a notebook")
        return PurePosixPath(os.path.relpath(path, source)).as_posix()

    def _check_packages(self, place: Path_, packages: list[str]) -> None:
        from repro_est.lock.requirements import refusal

        for text in packages:
            problem = refusal(text.strip())
            if problem:
                self._problem(place, f"{without_addresses(text)!r}: {problem}")

    def _parameters(self, params: Mapping[str, Any]) -> Iterator[Parameter]:
        for name, value in params.items():
            place = ("estimator", "script_params", name)
            if not name or "\0" in name:
                self._problem(place, "got an empty flag, expected a name such as `--lr`")
                continue
            try:
                made = parameter(name, value)
            except ValueError as error:
                self._problem(place, str(error))
                continue
            if made is not None:
                yield made

    def _words(self, place: Path_, values: list[Any]) -> Iterator[Word]:
        for number, value in enumerate(values, 1):
            try:
                yield word(value)
            except ValueError as error:
                self._problem(place, f"word {number}: {error}")

    def _environment(self) -> EnvironmentRequest:
        from repro_est.platforms import PLATFORMS

        place = ("environment",)
        values = self._values("environment", place)
        for platform in values["platforms"]:
            if platform not in PLATFORMS:
                hint = _nearest(platform, list(PLATFORMS))
                self._problem((*place, "platforms"), f"got {platform!r}, expected some of {', '.join(PLATFORMS)}", hint)
        python, as_of = values["python"], values["as_of"]
        if python is not None and not is_python(python):
            self._problem((*place, "python"), f'got {python!r}, expected a version or specifier such as "3.11"')
        if as_of is not None and not is_date(as_of):
            self._problem((*place, "as_of"), f'got {as_of!r}, expected a date such as "2026-06-01"')
        for key in ("index_url", "extra_index_urls", "find_links", "channels"):
            urls = values[key] if isinstance(values[key], list | tuple) else [values[key]] if values[key] else []
            hint = NETRC if key == "channels" else f"{NETRC} or UV_INDEX_* variables"
            self._no_credential((*place, key), urls, hint)
        for name in values["virtual_packages"]:
            if not re.fullmatch(r"__[a-z0-9_]+", name):
                self._problem(
                    (*place, "virtual_packages", name), "is no virtual package, expected `__cuda` or the like"
                )
        given = values["conda_lock_file"]
        directory = self._directory((*place, "find_links"))
        links = tuple(link if "://" in link else os.path.normpath(directory / link) for link in values["find_links"])
        return EnvironmentRequest(
            python=python,
            platforms=tuple(sorted(set(values["platforms"]))),
            index_url=values["index_url"],
            extra_index_urls=tuple(values["extra_index_urls"]),
            find_links=links,
            as_of=as_of,
            channels=tuple(values["channels"]),
            channel_directory=Path(self._directory((*place, "channels"))),
            virtual_packages=tuple(sorted(values["virtual_packages"].items())),
            conda_lock_file=self._file((*place, "conda_lock_file"), given) if given else None,
            network=values["network"],
        )

    def _no_credential(self, place: Path_, texts: Iterable[str], hint: str) -> None:
        held = next(filter(None, map(credential, texts)), None)
        if held:
            self._problem(place, f"{held}; repro keeps none in files", hint)

    def _limits(self) -> Limits:
        values = self._values("docker", ("docker",))
        shm_size = self._document.get("estimator", {}).get("shm_size")  # its type was checked with its table
        if values["cpus"] is not None and not 0 < values["cpus"] < 10**6:
            self._problem(("docker", "cpus"), f"got {values['cpus']}, expected more than 0")
        return Limits(
            memory=self._size(("docker", "memory"), values["memory"]),
            cpus=values["cpus"],
            shm_size=self._size(("estimator", "shm_size"), shm_size),
        )

    def _size(self, place: Path_, text: object) -> int | None:
        """Reads a size as Docker writes them: a number and `b`, `k`, `m` or `g`."""
        if not isinstance(text, str):
            return None
        match = re.fullmatch(r"([1-9][0-9]*)([bkmg]?)", text.lower())
        if match is None:
            self._problem(place, f'got {text!r}, expected a size such as "2g"')
            return None
        return int(match[1]) * {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2]]

    def _inputs(self) -> Iterator[Input]:
        for name in self._named("inputs"):
            place = ("inputs", name)
            values = self._values("inputs", place)
            if not re.fullmatch(_NAME, name):
                self._problem(place, "is no name for an input, expected letters, digits, `_` and `-`")
            source = self._input_source(place, values)
            if source is not None:
                yield Input(name, source, InputMode(values["mode"]))

    def _input_source(
        self, place: Path_, values: dict[str, Any]
    ) -> PathInput | UrlInput | RunInput | ModelInput | RecipeInput | None:
        path, url, sha256 = values["path"], values["url"], values["sha256"]
        if (path is None) == (url is None):
            self._problem(place, "expected either `path`, or `url` with `sha256`")
            return None
        if url is not None:
            return self._url(place, url, sha256)
        if sha256 is not None:
            self._problem((*place, "sha256"), "goes with `url`; the content of a path is hashed anyway")
        return self._path((*place, "path"), path)

    def _path(self, place: Path_, path: str) -> PathInput | RunInput | ModelInput | RecipeInput | None:
        """Reads what a `path` may be: of this machine, of a run, of a model, of a recipe."""
        kind, _, rest = path.partition(":")
        if kind == "run":
            run, _, inside = rest.partition("/")
            if not re.fullmatch(r"@\d*|[0-9a-f]{4,32}", run) or not inside:
                self._problem(place, f"got {path!r}, expected `run:HASH/outputs/...`")
                return None
            return RunInput(run, inside)
        if kind == "model":
            named = parse_reference(rest)
            if named is None or (named.version is None and not named.alias):
                message = f"got {path!r}, expected `model:NAME:VERSION` with a number, or `model:NAME@ALIAS`"
                self._problem(place, message)
                return None
            return ModelInput(*named)
        if kind == "recipe":
            return self._recipe(place, path)
        found = self._file(place, path, directory=True)
        return PathInput(found) if found else None

    def _recipe(self, place: Path_, text: str) -> RecipeInput | None:
        """Reads `recipe:FILE.toml/outputs/...`, and that recipe; what is wrong with it is wrong with this one."""
        match = re.fullmatch(r"recipe:(.+?\.toml)/((?:outputs|logs)(?:/.*)?)", text)
        if match is None:
            self._problem(place, f"got {text!r}, expected `recipe:FILE.toml/outputs/...`")
            return None
        path = self._file(place, match[1])
        if path is None:
            return None
        file, own = Path(os.path.realpath(path)), self._layers[-2].file
        chain = (*self._above, *([own] if own is not None else []))
        if file in chain:
            names = " -> ".join(str(item) for item in (*chain[chain.index(file) :], file))
            self._problem(place, f"goes in a circle: {names}")
            return None
        try:
            if file not in self._known:
                self._known[file] = _load(Path(os.path.relpath(path)), (), chain, self._known)
        except RecipeError as error:
            self._problems += [problem for problem in error.problems if problem not in self._problems]
            return None
        return RecipeInput(self._known[file], match[2])

    def _resumed(self) -> Input | None:
        """Reads `resume_from`, an input with a flag of its own: Azure ML's way to go on from a checkpoint."""
        place = ("estimator", _RESUME)
        given = self._document.get("estimator", {})
        path = given.get(_RESUME)
        if not isinstance(path, str):  # its type was checked with its table
            return None
        if not path:
            self._problem(place, "got '', expected a path, `run:HASH/outputs/...` or the like")
            return None
        params = given.get("script_params")
        if isinstance(params, dict) and _RESUME_FLAG in params:
            message = f"goes without {_RESUME}, which adds this flag: expected one of the two"
            self._problem(("estimator", "script_params", _RESUME_FLAG), message)
        if _RESUME in self._document.get("inputs", {}):
            message = f"goes without estimator.{_RESUME}, which is the input of this name: expected one of the two"
            self._problem(("inputs", _RESUME), message)
        source = self._path(place, path)
        return Input(_RESUME, source) if source is not None else None

    def _url(self, place: Path_, url: str, sha256: str | None) -> UrlInput | None:
        if not re.match(r"https?://[^/]", url):
            self._problem((*place, "url"), f"got {url!r}, expected an http or https address")
        elif held := credential("/".join(url.split("/")[:3])):  # a query is not kept, and `/t/` means nothing here
            self._problem((*place, "url"), held, NETRC)
        elif sha256 is None:
            self._problem(place, "`url` needs `sha256`, so that the same bytes are had every time")
        elif not re.fullmatch(_HEX64, sha256.lower()):
            self._problem((*place, "sha256"), f"got {sha256!r}, expected 64 hex digits")
        else:
            return UrlInput(url, sha256.lower())
        return None

    def _outputs(self) -> Outputs:
        values = self._values("outputs", ("outputs",))
        for pattern in values["required"]:
            if not _may_name_an_output(pattern):
                self._problem(("outputs", "required"), f"got {pattern!r}, expected a path or glob below `outputs/`")
        metrics = values["metrics"]
        if metrics.startswith("/") or os.path.normpath(metrics).split("/")[0] in ("", ".", ".."):
            self._problem(("outputs", "metrics"), f"got {metrics!r}, expected a file such as `outputs/metrics.json`")
        return Outputs(tuple(values["required"]), metrics)

    def _reproducible(self) -> Reproducible:
        place = ("reproducible",)
        values = self._values("reproducible", place)
        for key in ("files", "ignore"):
            for pattern in values[key]:
                if not _may_name_an_output(pattern) and not (key == "ignore" and pattern.startswith("metrics/")):
                    self._problem((*place, key), f"got {pattern!r}, expected a path or glob below `outputs/`")
        kind = Determinism(values["class"])
        named = self._document.get("reproducible", {}).get("class", kind)
        for key in ("metrics", "files"):
            if values[key] and named in tuple(Determinism) and kind is not Determinism.TOLERANCE:
                self._problem((*place, key), 'goes with class = "tolerance"')
        metrics, files = (tuple(self._tolerances((*place, key), values[key])) for key in ("metrics", "files"))
        return Reproducible(kind, metrics, files, tuple(values["ignore"]))

    def _tolerances(self, place: Path_, values: Mapping[str, Any]) -> Iterator[tuple[str, Tolerance]]:
        for name, value in values.items():
            try:
                yield name, Tolerance.read(value)
            except ValueError as error:
                self._problem((*place, name), f"got {_shown(value)}, {error}")

    def _models(self) -> Iterator[ModelRequest]:
        for name in self._named("models"):
            place = ("models", name)
            values = self._values("models", place)
            if not re.fullmatch(MODEL_NAME, name):
                self._problem(place, "is no name for a model, expected letters, digits, `-`, `_` and `.`")
            path = values["path"]
            if path is None:
                continue
            parts = PurePosixPath(path).parts
            if len(parts) < 2 or parts[0] != "outputs" or ".." in parts:
                self._problem((*place, "path"), f"got {path!r}, expected a path below `outputs/`")
            yield ModelRequest(
                name, PurePosixPath(path).as_posix(), values["description"], tuple(values["tags"].items())
            )

    def _named(self, table: str) -> list[str]:
        """The names of a table of tables; a plain value among them is a problem."""
        names: list[str] = []
        for name, value in self._document.get(table, {}).items():
            if isinstance(value, dict):
                names.append(name)
            else:
                self._problem((table, name), f"got {_shown(value)}, expected a table: [{table}.{name}]")
        return names

    def _file(self, place: Path_, text: str, *, directory: bool = False) -> Path | None:
        path = Path(os.path.normpath(self._directory(place) / Path(text).expanduser()))
        if path.is_file() or (directory and path.is_dir()):
            return path
        try:
            near = _nearest(path.name, os.listdir(path.parent))
        except OSError:
            near = None
        self._problem(place, f"got {text!r}, no such file: {path}", near)
        return None

    # ---- what holds between keys

    def _check_references(self, estimator: Estimator, declared: list[str]) -> None:
        places = [(("estimator", "script_params", param.name), param.words) for param in estimator.script_params]
        for place, words in [*places, (("estimator", "arguments"), estimator.arguments)]:
            for item in words:
                if isinstance(item, InputReference) and item.name not in declared:
                    hint = _nearest(item.name, declared) or f"declare it: [inputs.{item.name}]"
                    self._problem(place, f"got an input {item.name!r} that is not declared", hint)

    def _check_notebook(self, estimator: Estimator) -> None:
        """What a notebook cannot be given: papermill sets variables, one value each, in one process."""
        place = ("estimator",)
        if estimator.arguments:
            message = "goes without a notebook, which has no command line"
            self._problem((*place, "arguments"), message, "script_params: each sets a parameter")
        names: dict[str, str] = {}
        for param in estimator.script_params:
            key = (*place, "script_params", param.name)
            if len(param.words) > 1:
                got = f"got {len(param.words)} values, and a parameter of a notebook takes one"
                self._problem(key, got, "one string, which the notebook splits")
            try:
                name = parameter_name(param.name)
            except ValueError as error:
                self._problem(key, str(error))
                continue
            if name in names:
                self._problem(key, f"sets the parameter `{name}`, as {names[name]} does")
            names[name] = param.name
        if estimator.layout.world_size > 1:
            message = f"a notebook is one process, and the recipe asks for {estimator.layout.world_size}"
            self._problem((*place, "entry_script"), message)

    def _check_secrets(self, estimator: Estimator, secrets: tuple[str, ...]) -> None:
        for name in secrets:
            if not re.fullmatch(_VARIABLE, name):
                self._problem(("secrets",), f"got {name!r}, expected the name of an environment variable")
        hint = 'write secrets = ["NAME"]: the script gets the variable, and no file of repro its value'
        for param in estimator.script_params:
            if param.words and looks_secret(param.name.lstrip("-")):
                self._problem(("estimator", "script_params", param.name), "looks like a secret with its value", hint)
        for name, value in estimator.environment_variables:
            place = ("estimator", "environment_variables", name)
            if name in secrets:
                self._problem(place, "is declared in `secrets` too, expected one of the two")
            elif value and looks_secret(name):
                self._problem(place, "looks like a secret with its value", hint)


def _may_name_an_output(pattern: str) -> bool:
    """Whether a path below `outputs/` can match: what stands before the first wildcard decides."""
    path = pattern.removesuffix("/")
    start = re.split(r"[*?\[]", path, maxsplit=1)[0]
    is_glob = start != path
    below = start.startswith("outputs/") or (is_glob and "outputs/".startswith(start))
    return os.path.normpath(path) == path and (below or path == "outputs")


def _type_problem(expected: Type, value: Any) -> str | None:
    """Returns `got ..., expected ...`, or None when the value is of the type."""
    match expected:
        case Type.STRING:
            fine = isinstance(value, str)
        case Type.BOOLEAN:
            fine = isinstance(value, bool)
        case Type.INTEGER:
            fine = isinstance(value, int) and not isinstance(value, bool)
        case Type.NUMBER:
            fine = isinstance(value, int | float) and not isinstance(value, bool)
        case Type.STRINGS:
            fine = isinstance(value, list) and all(isinstance(item, str) for item in value)
        case Type.STRING_OR_STRINGS:
            fine = isinstance(value, str) or (isinstance(value, list) and all(isinstance(i, str) for i in value))
        case Type.STRING_TABLE:
            fine = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        case Type.PARAMS:
            fine = isinstance(value, dict)
        case Type.TOLERANCES:
            fine = isinstance(value, dict)
        case Type.WORDS:
            fine = isinstance(value, list)
        case Type.BACKEND:
            fine = isinstance(value, str | dict)
        case Type.ANY:
            fine = True
    return None if fine else f"got {_shown(value)}, expected {expected}"


def _shown(value: Any) -> str:
    """A TOML value as a person would write it, with its type, cut short."""
    kind = {str: "string", bool: "boolean", int: "integer", float: "float", list: "array", dict: "table"}
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({kind.get(type(value), type(value).__name__)})"


def _nearest(name: str, names: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None


def _some_files(source: Path, limit: int = 2000) -> Iterator[Path]:
    count = 0
    for directory, names, files in os.walk(source):
        names[:] = [name for name in names if not name.startswith(".")]
        for file in files:
            yield Path(directory, file)
            count += 1
            if count >= limit:
                return

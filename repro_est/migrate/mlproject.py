"""MLflow's `MLproject`: an entry point's command template with its parameters' defaults, and the environment.

`python train.py --alpha {alpha}` becomes entry_script and script_params. A parameter of type `path` becomes an input.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.migrate import azure
from repro_est.migrate.azure import Section, put_input
from repro_est.migrate.command import CommandLine, split_command
from repro_est.migrate.draft import Draft, Place, Unknown
from repro_est.migrate.entry import put_source
from repro_est.migrate.packages import Packages, put_variables
from repro_est.migrate.words import put_words
from repro_est.migrate.yamlfile import YamlFile

_KEYS = ("name", "entry_points", "conda_env", "python_env", "docker_env")
_USER_MANAGED = ("estimator", "user_managed")


def read_mlproject(file: YamlFile, draft: Draft, entry_point: str) -> None:
    """Fills a draft from one entry point.

    Raises:
        UsageError: no such entry point, or it runs no Python script.
    """
    top = Section(file.content, lambda path: Place(file.shown, file.line(path)))
    base = file.path.absolute().parent
    if top.get("name"):
        draft.took(top.place("name"), "name", ("experiment_name",), str(top.get("name")))
    line, place = _command(top, draft, entry_point, base, file)
    put_source(draft, base, line.script, place)
    put_words(draft, line.words)
    put_variables(draft, line.variables, lambda _: place)
    for change in line.changes:
        draft.changed(place, "command", change)
    _environment(top, draft, base)
    for name in top.names():
        if azure.plain(name) not in map(azure.plain, _KEYS):
            draft.dropped(top.place(name), name, "unknown key of an MLproject")


def _command(top: Section, draft: Draft, entry_point: str, base: Path, file: YamlFile) -> tuple[CommandLine, Place]:
    points = top.section("entry_points")
    if entry_point not in points.content:
        if entry_point.endswith(".py") and os.path.isfile(base / entry_point):  # MLflow runs a file of this name
            return CommandLine(entry_point, ()), points.place()
        near = difflib.get_close_matches(entry_point, points.names(), n=1)
        known = ", ".join(f"`{name}`" for name in points.names()) or "none"
        hint = f"--entry-point {near[0] if near else points.names()[0]}" if points.names() else None
        raise UsageError(f"{points.place()}: no entry point `{entry_point}`, expected one of: {known}", hint=hint)
    point = points.section(entry_point)
    command, place = point.get("command"), point.place("command")
    if not isinstance(command, str):
        raise UsageError(f"{point.place()}: entry point `{entry_point}`: got no command, expected a text")
    parameters = point.section("parameters")
    values: dict[str, Any] = {}
    for name in parameters.names():
        if f"{{{name}}}" in command:
            values[name] = _parameter(name, parameters, draft, base, file)
        else:
            draft.dropped(parameters.place(name), f"parameter {name}", "is not in the command")
    return split_command(command.strip(), place, values), place


def _parameter(name: str, parameters: Section, draft: Draft, base: Path, file: YamlFile) -> Any:
    """The value of a parameter: its default, as a number where it is one; an input for a path."""
    given, place = parameters.content[name], parameters.place(name)
    table = given if isinstance(given, dict) else {"type": given}
    default = table.get("default")
    if table.get("type") == "path":
        path = None if default is None else str(default)
        if path is not None and "://" not in path:
            path = draft.relative(base / path)
        return put_input(draft, name, place, f"parameter {name}", was="a path given at the start", path=path)
    if default is None:
        return Unknown(f"{{{name}}}", "is a parameter without a default")
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    return default if is_number else file.text((*parameters.path, name, "default")) or str(default)


def _environment(top: Section, draft: Draft, base: Path) -> None:
    conda, python, docker = (top.get(key) for key in ("conda_env", "python_env", "docker_env"))
    packages = Packages(draft, base)
    for key, value in (("conda_env", conda), ("python_env", python)):
        if value is None:
            continue
        path = base / str(value)
        file = YamlFile(path, draft.shown(path))
        (packages.conda_file if key == "conda_env" else packages.python_file)(file)
        draft.changed(top.place(key), key, f"the packages of {value} are in the recipe now; the file is not read")
    packages.finish()
    if docker is not None:
        _docker(top.section("docker_env"), draft)
    if conda is None and python is None and docker is None:
        draft.todo(top.place(), "environment", "no packages are named", ("estimator", "pip_packages"))


def _docker(docker: Section, draft: Draft) -> None:
    image = docker.get("image")
    if image is not None and azure.put_image(draft, image, docker.place("image"), "docker_env image"):
        draft.put(_USER_MANAGED, True)
        draft.changed(docker.place("image"), "docker_env", "MLflow uses the image's own Python: user_managed = true")
    if docker.get("volumes"):
        draft.dropped(docker.place("volumes"), "volumes", "name what the script reads in [inputs.NAME]")
    for item in docker.rows("environment"):
        if isinstance(item, list) and len(item) == 2:
            put_variables(draft, {item[0]: item[1]}, lambda _: docker.place("environment"))
        elif isinstance(item, str):
            draft.add(("secrets",), item)
            why = "taken from the one who runs it: its name is in `secrets`, its value in no file"
            draft.changed(docker.place("environment"), item, why)

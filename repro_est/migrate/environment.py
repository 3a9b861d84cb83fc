"""Azure ML's `Environment` and `RunConfiguration` objects of a program, as the tables their files would hold.

An object is what it was made with, what was set on it (`env.docker.base_image = ...`), and what was called on it
(`conda.add_pip_package(...)`). What happened in one branch only is an Unknown.
"""

from __future__ import annotations

from typing import Any

from repro_est.migrate.draft import Unknown
from repro_est.migrate.evaluate import Items, Row, Thing

Lines = dict[tuple[str | int, ...], int]
_Path = tuple[str | int, ...]

_SECTIONS = (
    "Environment",
    "RunConfiguration",
    "DockerSection",
    "PythonSection",
    "ContainerRegistry",
    "DockerConfiguration",
    "MpiConfiguration",
    "PyTorchConfiguration",
    "TensorflowConfiguration",
)
"""Classes that are tables of what they are made with."""


def environment_table(thing: Thing) -> tuple[dict[str, Any], Lines]:
    """Returns the nested table of an object, and the line of what is in it."""
    lines: Lines = {}
    value = _object(thing, (), lines)
    if isinstance(value, Unknown):
        return {"python": {"conda_dependencies": value}}, {("python",): thing.line}
    return value, lines


def _object(thing: Thing, path: _Path, lines: Lines) -> Any:
    """A table for what is known to be one, else an Unknown."""
    lines.setdefault(path, thing.line)
    if _is_conda(thing):
        return _conda(thing, path, lines)
    table: dict[str, Any] = {}
    if thing.called:
        if thing.name == "clone" and isinstance(thing.owner, Thing):
            made = _object(thing.owner, path, lines)
        elif thing.name.startswith("from_"):
            made = _made(thing)
        elif thing.name in _SECTIONS:
            made = {name: _plain(value) for name, value in thing.kwargs.items() if name != "name"}
        else:
            made = None
        if not isinstance(made, dict):
            return made or Unknown(thing.text)
        table = made
    for name, value in thing.attributes.items():
        below = (*path, name)
        if not isinstance(value, Thing):
            known = value
        elif value.called or not _is_child(value, thing):
            known = _object(value, below, lines) if value.called else Unknown(value.text)
        elif _is_used(value):
            known = _object(value, below, lines)
        else:
            continue  # only looked at
        lines[below] = thing.lines.get(name, getattr(value, "line", thing.line))
        table[name] = _merged(table.get(name), _items(known, below, lines) if isinstance(known, Items) else known)
    if thing.items:
        table |= _items(thing.items, path, lines)
    return table


def _is_child(value: Thing, owner: Thing) -> bool:
    """Whether a value came to be by reading `owner.name`, not by setting it."""
    return not value.called and value.owner is owner


def _is_used(thing: Thing) -> bool:
    inside = [value for value in thing.attributes.values() if isinstance(value, Thing) and _is_child(value, thing)]
    set_here = len(inside) < len(thing.attributes)
    return set_here or bool(thing.items) or _is_conda(thing) or any(map(_is_used, inside))


def _merged(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def _items(items: Items, path: _Path, lines: Lines) -> dict[str, Any]:
    for name, line in items.lines.items():
        lines[(*path, str(name))] = line
    return {str(name): _plain(value) for name, value in items.items()}


def _made(thing: Thing) -> dict[str, Any] | None:
    """What `Environment.from_...` makes, None where that is not known."""
    file = _plain(thing.get("file_path", 1))
    conda, pip = _plain(thing.get("conda_specification", 3)), _plain(thing.get("pip_requirements", 4))
    match thing.name:
        case "from_conda_specification":
            return {"python": {"conda_dependencies_file": file}}
        case "from_pip_requirements":
            return {"python": {"pip_requirements_file": file}}
        case "from_docker_image":
            table: dict[str, Any] = {"docker": {"base_image": _plain(thing.get("image", 1))}}
        case "from_dockerfile":
            table = {"docker": {"base_dockerfile": _plain(thing.get("dockerfile", 1))}}
            conda, pip = _plain(thing.get("conda_specification", 2)), _plain(thing.get("pip_requirements", 3))
        case _:
            return None
    files = {"conda_dependencies_file": conda, "pip_requirements_file": pip}
    table["python"] = {name: value for name, value in files.items() if value is not None}
    return table


def _is_conda(thing: Thing) -> bool:
    if thing.called:
        is_create = (
            thing.name == "create" and isinstance(thing.owner, Thing) and thing.owner.name == "CondaDependencies"
        )
        return thing.name == "CondaDependencies" or is_create
    return thing.name == "conda_dependencies" and bool(thing.calls)


def _conda(thing: Thing, path: _Path, lines: Lines) -> Any:
    """The content of a conda environment file, for a `CondaDependencies`."""
    if thing.called and thing.name == "CondaDependencies":
        file = thing.get("conda_dependencies_file_path", 0)
        if file is not None and not thing.calls:
            return Unknown(thing.text) if isinstance(file, Thing) else {"file": file}
    specs: list[tuple[Any, int]] = []
    pip: list[tuple[Any, int]] = []
    channels: list[tuple[Any, int]] = []
    if (version := thing.get("python_version")) is not None:
        specs.append((_spec("python=", version), thing.line_of("python_version")))
    if (index := thing.get("pip_indexurl")) is not None:
        pip.append((_spec("--index-url ", index), thing.line_of("pip_indexurl")))
    for name, taken in (("conda_packages", specs), ("pip_packages", pip)):
        taken += _listed(thing.get(name), thing.line_of(name))
    for call in thing.calls:
        value = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
        if call.block != thing.block:
            value = Unknown(call.text, "is called in one branch only")
        match call.name:
            case "add_pip_package":
                pip.append((_plain(value), call.line))
            case "add_conda_package":
                specs.append((_plain(value), call.line))
            case "add_channel":
                channels.append((_plain(value), call.line))
            case "set_python_version":
                specs = [item for item in specs if not str(item[0]).startswith("python=")]
                specs.append((_spec("python=", value), call.line))
            case "set_pip_requirements":
                pip = _listed(value, call.line)
            case "set_pip_option" | "set_pip_index_url":
                pip.append((_plain(value), call.line))
            case "remove_pip_package":
                pip = [item for item in pip if item[0] != value]
            case "remove_conda_package":
                specs = [item for item in specs if item[0] != value]
            case "add_tensorflow_pip_package":
                pip.append((_tensorflow(call), call.line))
            case name if name.startswith(("add_", "set_")):
                pip.append((Unknown(call.text), call.line))
    for number, (_, line) in enumerate(specs):
        lines[(*path, "dependencies", number)] = line
    for number, (_, line) in enumerate(pip):
        lines[(*path, "dependencies", len(specs), "pip", number)] = line
    for number, (_, line) in enumerate(channels):
        lines[(*path, "channels", number)] = line
    content = {"dependencies": [*(spec for spec, _ in specs), {"pip": [line for line, _ in pip]}]}
    return content | ({"channels": [channel for channel, _ in channels]} if channels else {})


def _listed(value: Any, line: int) -> list[tuple[Any, int]]:
    if isinstance(value, Row):
        lines = [*value.lines, *[line] * len(value)]
        known = [(_plain(item), lines[number]) for number, item in enumerate(value)]
        return known + [(Unknown(thing.text), thing.line) for thing in value.more]
    return [] if value is None else [(_plain(value), line)]


def _spec(start: str, value: Any) -> Any:
    value = _plain(value)
    return value if isinstance(value, Unknown) else f"{start}{value}"


def _tensorflow(call: Thing) -> Any:
    core, version = _plain(call.get("core_type", 0)) or "cpu", _plain(call.get("version", 1))
    if isinstance(core, Unknown) or isinstance(version, Unknown):
        return Unknown(call.text)
    return ("tensorflow-gpu" if core == "gpu" else "tensorflow") + (f"=={version}" if version else "")


def _plain(value: Any) -> Any:
    return Unknown(value.text) if isinstance(value, Thing) else value

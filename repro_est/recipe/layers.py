"""The TOML texts a recipe is made of: the file, what it extends, and `--set`, each with where its paths start.

The base comes first, `--set` last; `load` lays them over each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli

from repro_est.errors import Problem, RecipeError, UsageError
from repro_est.files import is_utf8, printable
from repro_est.recipe.schema import TABLES, Type, keys_of

_OPEN_TABLES = (
    "script_params", "environment_variables", "tags", "virtual_packages", "image_registry_details", "metrics", "files",
)  # fmt: skip

Path_ = tuple[str, ...]
"""A key, by the tables it is in."""


class Layer:
    """One TOML text and where relative paths in it start.

    Args:
        file: without symlinks; None when the text is not from a file.
        name: the absolute name it was asked for by.
    """

    def __init__(
        self,
        shown: str,
        directory: Path,
        text: str,
        document: dict[str, Any],
        file: Path | None = None,
        name: Path | None = None,
    ) -> None:
        self.shown, self.directory, self.text, self.document, self.file = shown, directory, text, document, file
        self.names = [name] if name else []

    def line(self, key: Path_) -> int | None:
        if self.file is None:
            return None
        from repro_est.recipe.locate import line_of, positions

        return line_of(positions(self.text), key)


def recipe_layers(path: Path) -> list[Layer]:
    """The recipe and what it extends, the base first."""
    ordered: list[Layer] = []
    _add_layer(path, (), ordered)
    return ordered


def document_layers(document: Mapping[str, Any], path: Path, *, is_file: bool) -> list[Layer]:
    """The layers of a recipe that was made by a program, and of the files it extends.

    Args:
        path: absolute; where it would stand, and does if `is_file`.
    """
    ordered: list[Layer] = []
    shown = os.path.relpath(path) if is_file else f"Estimator {path.stem}"
    layer = Layer(shown, path.parent, "", dict(document), path if is_file else None, path if is_file else None)
    _add_bases(layer, path, (), ordered)
    ordered.append(layer)
    return ordered


def _add_layer(path: Path, above: tuple[Path, ...], ordered: list[Layer]) -> None:
    file = Path(os.path.realpath(path))  # before it is read, so that the text is that of this file, whatever moves
    if not is_utf8(f"{path}{file}"):
        raise UsageError(
            f"{printable(str(file))}: got a path that is not UTF-8, which no record can name",
            hint="rename the file or the directory it is in",
        )
    layer = _read(path, file)
    if file in above:
        chain = " -> ".join(str(item) for item in (*above, file))
        raise RecipeError((Problem(str(path), layer.line(("extends",)), "extends", f"goes in a circle: {chain}"),))
    _add_bases(layer, path, (*above, file), ordered)
    known = next((item for item in ordered if item.file == file), None)
    if known is None:
        ordered.append(layer)
    else:
        known.names += layer.names


def _add_bases(layer: Layer, path: Path, above: tuple[Path, ...], ordered: list[Layer]) -> None:
    bases = layer.document.get("extends", [])
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else []:
        if isinstance(base, str):
            if not (layer.directory / base).is_file():
                problem = Problem(str(path), layer.line(("extends",)), "extends", f"got {base!r}, no such file")
                raise RecipeError((problem,))
            _add_layer(Path(os.path.relpath(layer.directory / base)), above, ordered)


def _read(path: Path, file: Path) -> Layer:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such recipe", hint=_nearest_recipe(path)) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    shown = str(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError((Problem(shown, line, "", f"not UTF-8 at byte {error.start + 1:,}"),)) from None
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at line ")
        line = int(place.split(",")[0]) if place[:1].isdigit() else text.count("\n") + 1
        column = place.removesuffix(")").partition("column ")[2]
        where = f" in column {column}" if column else ""
        raise RecipeError((Problem(shown, line, "", f"not valid TOML: {what[:1].lower()}{what[1:]}{where}"),)) from None
    except RecursionError:
        raise RecipeError((Problem(shown, None, "", "not valid TOML: nested too deeply"),)) from None
    return Layer(shown, file.parent, text, document, file, path.absolute())


def _nearest_recipe(path: Path) -> str | None:
    import difflib

    try:
        names = [name for name in os.listdir(path.parent) if name.endswith(".toml")]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return str(path.with_name(near[0])) if near else None


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one document laid over another: tables merge, all else replaces."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and set(value) != {"input"}:
            result[name] = merged(old, value)
        else:
            result[name] = value
    return result


def override_layer(directory: Path, overrides: tuple[str, ...]) -> Layer:
    document: dict[str, Any] = {}
    for override in overrides:
        if not is_utf8(override):
            raise UsageError(f"--set {printable(override)}: got bytes that are not UTF-8, expected text")
        dotted, equals, text = override.partition("=")
        if dotted.strip() == "extends":
            raise UsageError(
                f"--set {override}: `extends` is read before anything is set", hint="write it into a recipe of its own"
            )
        while equals and dotted.count('"') % 2:  # an equals sign inside a quoted key
            more, equals, text = text.partition("=")
            dotted = f"{dotted}={more}"
        if not equals or not dotted.strip():
            raise UsageError(f"--set {override}: expected KEY=VALUE", hint="--set script_params.--lr=0.1")
        place = document
        *tables, name = _override_key(dotted.strip())
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {override}: an earlier --set gave this table a plain value")
        place[name] = text if _is_text((*tables, name)) else _override_value(text)
    return Layer("--set", directory, "", document)


def _override_key(dotted: str) -> Path_:
    first, _, rest = dotted.partition(".")
    if first in keys_of(""):
        table: Path_ = ()
        name, rest = first, rest
    elif first in TABLES:
        table = (first,)
        name, _, rest = rest.partition(".")
    else:
        table = ("estimator",)
        name = first
    if not rest:
        return (*table, name)
    if name in _OPEN_TABLES:  # what follows is one key, dots, dashes and all
        return (*table, name, rest.strip('"'))
    return (*table, name, *rest.split("."))


def _is_text(key: Path_) -> bool:
    """Whether a key holds a string, so that `--set salt=1` needs no quotes within quotes."""
    if len(key) >= 2 and key[-2] in ("environment_variables", "tags", "virtual_packages"):
        return True
    known = keys_of(key[0] if len(key) > 1 else "").get(key[-1])
    return known is not None and known.type is Type.STRING


def _override_value(text: str) -> Any:
    try:
        parsed = tomli.loads(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text

"""The JSON Schema of recipes (draft 2020-12), made from the table in `schema`."""

from __future__ import annotations

from typing import Any

from repro_est.layout import Backend
from repro_est.recipe.schema import BACKEND_KEYS, LATER_TABLES, NAMED_TABLES, TABLES, Key, Type, keys_of

_WORD = {
    "anyOf": [
        {"type": ["string", "number"]},
        {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        },
    ]
}

_TOLERANCE = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {
            "type": "object",
            "properties": {name: {"type": "number", "minimum": 0} for name in ("rtol", "atol")},
            "minProperties": 1,
            "additionalProperties": False,
        },
    ]
}

_STRINGS = {"type": "array", "items": {"type": "string"}}


def _backend_table(backend: Backend) -> dict[str, Any]:
    """Returns the shape of a table of `distributed_training`."""
    shapes: dict[str, Any] = {name: {"type": "integer", "minimum": 1} for name in BACKEND_KEYS[backend]}
    special: dict[str, Any] = {
        "parameter_server_count": {"type": "integer", "minimum": 0},
        "communication_backend": {"type": "string"},
    }
    shapes |= {name: shape for name, shape in special.items() if name in shapes}
    return {
        "type": "object",
        "properties": {"type": {"const": str(backend)}, **shapes},
        "required": ["type"],
        "additionalProperties": False,
    }


_SHAPES: dict[Type, dict[str, Any]] = {
    Type.STRING: {"type": "string"},
    Type.BOOLEAN: {"type": "boolean"},
    Type.INTEGER: {"type": "integer"},
    Type.NUMBER: {"type": "number"},
    Type.STRINGS: _STRINGS,
    Type.STRING_OR_STRINGS: {"anyOf": [{"type": "string"}, _STRINGS]},
    Type.STRING_TABLE: {"type": "object", "additionalProperties": {"type": "string"}},
    Type.PARAMS: {
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "boolean"}, *_WORD["anyOf"], {"type": "array", "items": _WORD}]},
    },
    Type.WORDS: {"type": "array", "items": _WORD},
    Type.BACKEND: {
        "anyOf": [{"enum": [str(backend) for backend in Backend]}, *(_backend_table(backend) for backend in Backend)]
    },
    Type.TOLERANCES: {"type": "object", "additionalProperties": _TOLERANCE},
    Type.ANY: {},
}


def json_schema() -> dict[str, Any]:
    """Returns the schema document; what a later version builds is left out, so that an editor refuses it too."""
    top = _table("")
    for table in TABLES:
        shape = _table(table)
        top["properties"][table] = {"type": "object", "additionalProperties": shape} if table in NAMED_TABLES else shape
    required = top["properties"]["estimator"].pop("required")  # what a recipe extends may have it
    whole = {"required": ["estimator"], "properties": {"estimator": {"required": required}}}
    top["anyOf"] = [whole, {"required": ["extends"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "repro recipe",
        "description": f"Not built yet, and refused: {', '.join(f'[{name}]' for name in LATER_TABLES)}",
        **top,
    }


def _table(table: str) -> dict[str, Any]:
    keys = [key for key in keys_of(table).values() if key.later is None or key.type is Type.INTEGER]
    shape: dict[str, Any] = {
        "type": "object",
        "properties": {key.name: _key(key) for key in keys},
        "additionalProperties": False,
    }
    required = [key.name for key in keys if key.required]
    return {**shape, "required": required} if required else shape


def _key(key: Key) -> dict[str, Any]:
    shape = {"description": f"{key.doc} ({key.category})", **_SHAPES[key.type]}
    if key.later is not None:
        return {**shape, "const": key.default}
    if key.choices:
        shape["enum"] = [str(choice) for choice in key.choices]
    if key.least is not None:
        shape["minimum"] = key.least
    if key.most is not None:
        shape["maximum"] = key.most
    if key.default is not None and key.default != ():
        shape["default"] = key.default
    return shape

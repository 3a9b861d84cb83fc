"""Writing a recipe: what is written is read back as it was, and reads as a person would have written it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from repro_est.recipe.schema import KEYS, NAMED_TABLES, TABLES
from repro_est.recipe.write import write_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
known = st.sampled_from([key.name for key in KEYS])
tables = st.dictionaries(known | texts, values, max_size=6)
documents = st.dictionaries(st.sampled_from(TABLES), tables | st.dictionaries(texts, tables, max_size=2), max_size=4)
documents = st.tuples(documents, st.dictionaries(known | texts, values, max_size=3)).map(lambda two: two[0] | two[1])
paths = st.lists(st.sampled_from([*TABLES, *[key.name for key in KEYS]]) | texts, max_size=4).map(tuple)


@given(documents, st.dictionaries(paths, texts, max_size=5))
def test_a_document_is_read_back_as_it_was_written_whatever_the_comments(
    document: dict[str, Any], comments: dict[tuple[str, ...], str]
) -> None:
    assert tomli.loads(write_recipe(document, comments)) == document


@given(documents, st.dictionaries(paths, st.text("abc", min_size=1), max_size=5))
def test_no_comment_is_lost(document: dict[str, Any], comments: dict[tuple[str, ...], str]) -> None:
    lines = write_recipe(document, comments).splitlines()

    for text in comments.values():
        assert f"# {text}" in lines


@given(st.dictionaries(texts, scalars | st.lists(scalars), min_size=2))
def test_flags_keep_their_order(params: dict[str, Any]) -> None:
    text = write_recipe({"estimator": {"script_params": params}})

    assert list(tomli.loads(text)["estimator"]["script_params"]) == list(params)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_the_same_when_written_anew(path: Path) -> None:
    document = tomli.loads(path.read_text())

    assert tomli.loads(write_recipe(document)) == document


def test_tables_and_keys_come_in_the_order_of_the_schema() -> None:
    names: dict[str, list[str]] = {"": []}
    for key in KEYS:
        names.setdefault(key.table, []).append(key.name)
    document: dict[str, Any] = dict.fromkeys(reversed(names[""]), "x")
    for table in reversed(TABLES):
        filled: dict[str, Any] = dict.fromkeys(reversed(names[table]), "x")
        document[table] = {"a": filled} if table in NAMED_TABLES else filled

    written = tomli.loads(write_recipe(document))

    assert list(written) == [*names[""], *TABLES]
    for table in TABLES:
        assert list(written[table]["a"] if table in NAMED_TABLES else written[table]) == names[table]


def test_a_recipe_reads_as_a_person_would_have_written_it() -> None:
    document = {
        "inputs": {"digits": {"path": "data/digits"}},
        "estimator": {
            "script_params": {"--data": {"input": "digits"}, "--lr": 0.1, "--verbose": "", "--layers": (64, 32)},
            "environment_variables": {"MODE": 'say "hi"\n'},
            "pip_packages": [f"package-number-{number}==1.0" for number in range(5)],
            "distributed_training": {"type": "mpi", "process_count_per_node": 2},
            "entry_script": "train.py",
        },
        "tags": {"team": "vision"},
    }
    comments = {
        (): "Made from train.runconfig",
        ("estimator", "entry_script"): "TODO: which one?",
        ("estimator", "script_params", "--lr"): "TODO: a value\nthat was not known",
        ("estimator", "script_params", "--gone"): 'TODO: "--gone" = ...',
    }

    assert (
        write_recipe(document, comments)
        == """\
# Made from train.runconfig

tags = { team = "vision" }

[estimator]
# TODO: which one?
entry_script = "train.py"
pip_packages = [
    "package-number-0==1.0",
    "package-number-1==1.0",
    "package-number-2==1.0",
    "package-number-3==1.0",
    "package-number-4==1.0",
]
distributed_training = { type = "mpi", process_count_per_node = 2 }

[estimator.script_params]
"--data" = { input = "digits" }
# TODO: a value
# that was not known
"--lr" = 0.1
"--verbose" = ""
"--layers" = [64, 32]
# TODO: "--gone" = ...

[estimator.environment_variables]
MODE = "say \\"hi\\"\\n"

[inputs.digits]
path = "data/digits"
"""
    )


class _Word(StrEnum):
    MPI = "mpi"


def test_not_a_number_and_the_infinities_have_their_words() -> None:
    written = write_recipe({"salt": _Word.MPI, "tags": {"a": float("nan"), "b": float("inf"), "c": -float("inf")}})

    assert written == 'salt = "mpi"\ntags = { a = nan, b = inf, c = -inf }\n'


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"estimator": {"use_gpu": None}}, "estimator.use_gpu: got None (a NoneType), expected what TOML has"),
        ({"estimator": {"script_params": {"--a": [1, {2}]}}}, "estimator.script_params.--a.1: got {2} (a set)"),
        ({"salt": "\ud800"}, r"salt: got '\\ud800', which is not UTF-8"),
        ({"tags": {1: "a"}}, "got a key 1 (a int), expected a string"),
    ],
)
def test_what_toml_cannot_hold_is_refused_with_its_place(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{")):
        write_recipe(document)

"""`repro check`: what would go wrong is found without running anything, and said in one JSON document."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workshop


def errors(workshop: Workshop, recipe: str, *words: str) -> list[dict[str, Any]]:
    """The errors of `repro check --json`, which exits with 2 exactly when there are some."""
    done = workshop.repro("check", recipe, "--json", *words)
    found = [item for item in done.json["findings"] if item["severity"] == "error"]
    assert (done.code, done.json["ok"]) == ((2, False) if found else (0, True)), done.err
    return found


def spoil(source: Path, how: str) -> None:
    match how:
        case "named pipe":
            os.mkfifo(source / "pipe")
        case "leaves the tree":
            (source / "away").symlink_to("../../elsewhere")
        case "is not UTF-8":
            Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9")).write_text("")
        case "collides with":
            (source / "readme").write_text("")
            (source / "README").write_text("")
        case "expected a file":
            (source / ".gitignore").symlink_to("../elsewhere")


@pytest.mark.parametrize("how", ["named pipe", "leaves the tree", "is not UTF-8", "collides with", "expected a file"])
def test_a_source_that_cannot_be_taken_is_an_error(workshop: Workshop, how: str) -> None:
    recipe = workshop.recipe("print(1)\n")
    assert errors(workshop, recipe) == []
    spoil(workshop.root / "job", how)
    (error,) = errors(workshop, recipe)
    assert how in error["message"]
    assert error["file"].startswith(str(workshop.root / "job"))
    text = workshop.repro("check", recipe)
    assert (text.code, how in text.out) == (2, True)
    listed = workshop.repro("snapshot", recipe, "--list")
    assert (listed.code, how in listed.err) == (2, True)


def test_a_source_that_is_too_large_is_an_error(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    workshop.write("repro.toml", "[snapshot]\nmax_bytes = 5\n")
    (error,) = errors(workshop, recipe)
    assert "expected at most 200,000 files and 5 bytes" in error["message"]


def test_what_a_snapshot_refuses_is_listed_beside_what_it_takes(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    spoil(workshop.root / "job", "named pipe")
    done = workshop.repro("snapshot", recipe, "--list", "--json")
    assert done.code == 2
    assert [item["path"] for item in done.json["included"]] == ["train.py"]
    assert "named pipe" in done.json["problems"][0]


def test_a_recipe_that_cannot_be_read_is_answered_with_findings(workshop: Workshop) -> None:
    workshop.write("bad.toml", 'salt = 3\n[estimator]\nentry_scrpt = "x.py"\n')
    found = errors(workshop, "bad.toml")
    assert [(Path(item["file"]).name, item["line"], item["key"]) for item in found] == [
        ("bad.toml", 1, "salt"),
        ("bad.toml", 2, "estimator.entry_script"),
        ("bad.toml", 3, "estimator.entry_scrpt"),
    ]
    assert found[0]["message"] == "got 3 (integer), expected a string"
    workshop.write("bad.toml", "[estimator\n")
    assert [(item["line"], item["key"]) for item in errors(workshop, "bad.toml")] == [(1, "")]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nothing.toml"], "no such recipe"), (["job.toml", "--set", "salt"], "--set salt: expected KEY=VALUE")],
)
def test_what_is_wrong_with_the_command_is_a_finding_too(workshop: Workshop, words: list[str], message: str) -> None:
    workshop.recipe("print(1)\n")
    assert [item["message"] for item in errors(workshop, *words)] == [message]


def test_a_lock_that_cannot_be_read_is_a_finding(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    workshop.write("job.lock", "<<<<<<< ours\n")
    (error,) = errors(workshop, recipe)
    assert "merge conflict" in error["message"]
    assert error["file"] == str(workshop.root / "job.lock")


def test_a_line_that_cannot_be_locked_is_found_without_a_lock(workshop: Workshop) -> None:
    workshop.write("req.txt", "numpy\nscipy ==\n")
    recipe = workshop.recipe("print(1)\n", estimator='pip_requirements_file = "req.txt"')
    (error,) = errors(workshop, recipe)
    assert (Path(error["file"]).name, error["line"]) == ("req.txt", 2)


def test_an_unused_input_is_named_with_the_line_that_declares_it(workshop: Workshop) -> None:
    workshop.write("base.toml", '\n\n[inputs.b]\npath = "data"\n')
    workshop.write("data/x", "")
    recipe = workshop.recipe("print(1)\n", 'inputs.a.path = "data"\n')
    workshop.write(recipe, 'extends = "base.toml"\n' + (workshop.root / recipe).read_text())
    workshop.write(recipe, (workshop.root / recipe).read_text().replace("inputs.a.path", "[inputs.a]\npath"))
    findings = workshop.repro("check", recipe, "--json", "--set", "inputs.c.path=data").json["findings"]
    unused = {item["key"]: (Path(item["file"]).name, item["line"]) for item in findings if item["key"]}
    assert unused == {"inputs.a": ("job.toml", 6), "inputs.b": ("base.toml", 3), "inputs.c": ("job.toml", None)}

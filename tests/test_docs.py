"""Docs, help and the shape of the code stay true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.keys import PAGE, page
from repro_est import __version__
from repro_est.cli.command import VERBS, full_parser, top_help
from repro_est.cli.main import main

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "repro_est").rglob("*.py"))


def test_the_reference_lists_the_keys_of_the_schema() -> None:
    assert page() == PAGE.read_text("utf-8"), "run `python -m docs.keys`"


def test_every_verb_has_a_module_help_and_an_example_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([verb.name, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: repro {verb.name}")
        assert verb.name in top_help()
    files = {path.stem for path in (ROOT / "repro_est" / "cli").glob("*.py")}
    assert files - {"__init__", "main", "command", "common", "events", "depfile", "recall", "summary"} == {
        verb.module.rpartition(".")[2] for verb in VERBS
    }
    assert full_parser()


def test_the_readme_names_only_verbs_and_options_that_exist() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "make.md").read_text()
    for verb in re.findall(r"^\t?repro (\w+)", text, re.MULTILINE):
        assert verb in {item.name for item in VERBS} | {"VERB"}
    for link in re.findall(r"\]\((docs/[^)]+)\)", text):
        assert (ROOT / link).exists()


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"repro {__version__}\n"


def test_a_module_imports_only_from_floors_below() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse((ROOT / "repro_est/hostside/supervisor.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_a_hit_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "t.py").write_text("")
    (tmp_path / "r.toml").write_text('[estimator]\nsource_directory = "s"\nentry_script = "t.py"\n')
    (tmp_path / "repro.toml").write_text("")
    command = [sys.executable, "-m", "repro_est", "run", "r.toml", "-q"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    import time

    time.sleep(2.2)  # until the stat cache trusts what was written
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:]], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {
        "pathspec",
        "packaging",
        "requests",
        "sqlite3",
        "subprocess",
        "uv",
        "asyncio",
        "concurrent.futures",
        "_hashlib",
    }
    assert not imported & heavy
    assert "repro_est.launch.process" not in imported

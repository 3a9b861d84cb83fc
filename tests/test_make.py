"""Dependency files, read by a real make: the rule of docs/make.md runs again exactly when something changed."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repro_est import engine
from repro_est.cli.common import TerminalObserver, open_store
from repro_est.cli.depfile import dependencies_of
from repro_est.console import Console
from repro_est.recipe.load import load
from repro_est.recipe.values import ImageRequest
from tests.conftest import Workshop, missing

SCRIPT = "import os; open('outputs/model.joblib', 'w').write('x')\n"
PAGE = Path(__file__).parent.parent / "docs" / "make.md"


class Made:
    """A project whose Makefile holds the documented rule."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.root = workshop, workshop.root
        match = re.search(r"```make\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        assert match
        rule = match[1].replace("recipes/digits.toml", "job.toml").replace("$$(repro ", "$$($(repro) ")
        workshop.write("Makefile", f"repro = {sys.executable} -m repro_est\n{rule}")

    def make(self) -> bool:
        """Whether the rule was run."""
        done = subprocess.run(["make", "model.joblib"], cwd=self.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "ircular" not in done.stderr
        return "up to date" not in done.stdout

    def settle(self) -> None:
        """Makes everything, and waits until whatever happens next has a later time."""
        self.make()
        assert not self.make(), "a second make says up to date"
        time.sleep(0.02)


@pytest.fixture
def made(workshop: Workshop) -> Made:
    if shutil.which("make") is None:
        missing("no make on PATH")
    workshop.write("data/deep/a.csv", "1\n")
    workshop.write("job/only-ignored/x.log", "")
    workshop.write("job/.gitignore", "*.log\nskipped/\n")
    workshop.write("job/skipped/x.py", "")
    workshop.write("req.txt", "-r more.txt\n")
    workshop.write("more.txt", "# nothing yet\n")
    workshop.recipe(SCRIPT, '[inputs.d]\npath = "data"\n', estimator='pip_requirements_file = "req.txt"')
    made = Made(workshop)
    assert made.make()
    assert not made.make()
    return made


def touched(root: Path, name: str) -> None:
    os.utime(root / name)


CHANGES: dict[str, Callable[[Path], object]] = {
    "file of the source": lambda root: (root / "job/train.py").write_text(SCRIPT + "#\n"),
    "new file in the source": lambda root: (root / "job/new.py").write_text(""),
    "new file beside ignored ones": lambda root: (root / "job/only-ignored/new.py").write_text(""),
    "new directory in the source": lambda root: (root / "job/pkg").mkdir(),
    "new file in an input": lambda root: (root / "data/deep/b.csv").write_text("2\n"),
    "removed file of an input": lambda root: (root / "data/deep/a.csv").unlink(),
    "ignore file": lambda root: touched(root, "job/.gitignore"),
    "nested requirements": lambda root: touched(root, "more.txt"),
    "settings": lambda root: touched(root, "repro.toml"),
    "lock": lambda root: touched(root, "job.lock"),
}


def test_make_runs_the_rule_for_every_change_once(made: Made) -> None:
    for name, change in CHANGES.items():
        time.sleep(0.02)
        change(made.root)
        assert made.make(), name
        assert not made.make(), name


def test_make_does_not_run_the_rule_for_what_is_ignored(made: Made) -> None:
    time.sleep(0.02)
    made.workshop.write("job/skipped/y.py", "")
    made.workshop.write("job/only-ignored/x.log", "more")
    assert not made.make()


def test_a_target_in_the_source_directory_is_up_to_date_after_a_cached_run(workshop: Workshop) -> None:
    workshop.write("train.py", SCRIPT)
    workshop.write(".reproignore", "/model.joblib\n/.model.d\n/Makefile\n")
    workshop.write("job.toml", '[estimator]\nentry_script = "train.py"\n')
    made = Made(workshop)
    assert made.make()
    assert not made.make()
    time.sleep(0.02)
    touched(workshop.root, "train.py")  # the run is a hit, and the target older than its directory
    assert made.make()
    assert not made.make()


NAMES = [
    "a b", "a#b", "a:b", "50%", "a*b", "a?b", "a[1]", "~x", "a\\b", "a\\ b", "a$b", "year=2024", "a'b", 'a"b', "ü", "{b}", "-x", "a (1).csv",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_make_understands_every_name(workshop: Workshop, name: str) -> None:
    file = workshop.write(f"data/{name}", "1\n")
    workshop.recipe(SCRIPT, '[inputs.d]\npath = "data"\n')
    made = Made(workshop)
    made.settle()
    file.write_text("2\n")
    assert made.make()
    assert not made.make()
    file.unlink()
    assert made.make(), "a deleted file does no harm"
    assert not made.make()


@pytest.mark.parametrize("name", ["a\nb", "a;b", "a\tb", "end\\", "a(1)"])
def test_a_name_that_no_rule_can_hold_makes_the_rule_run_always(workshop: Workshop, name: str) -> None:
    workshop.write(f"data/{name}", "1\n")
    workshop.recipe(SCRIPT, '[inputs.d]\npath = "data"\n')
    made = Made(workshop)
    assert made.make()
    assert made.make()


def test_a_base_image_depends_on_its_whole_context(workshop: Workshop) -> None:
    workshop.write("image/Dockerfile", "FROM scratch\n")
    workshop.write("image/deep/added.txt", "")
    path = workshop.root / workshop.recipe(SCRIPT)
    assert workshop.repro("lock", path.name).code == 0
    project, store = open_store()
    prepared = engine.prepare(load(path), project, store, TerminalObserver(Console(quiet=True)))
    image = ImageRequest("", workshop.root / "image", "image", user_managed=False)
    estimator = dataclasses.replace(prepared.recipe.estimator, image=image)
    prepared = dataclasses.replace(prepared, recipe=dataclasses.replace(prepared.recipe, estimator=estimator))
    found = {str(item.relative_to(workshop.root)) for item in dependencies_of(prepared, store)}
    assert {"image", "image/Dockerfile", "image/deep", "image/deep/added.txt"} <= found


def test_a_symlink_to_nothing_does_not_make_the_rule_run_always(workshop: Workshop) -> None:
    workshop.write("data/x", "1\n")
    (workshop.root / "data/link").symlink_to("nothing")
    workshop.recipe(SCRIPT, '[inputs.d]\npath = "data"\n')
    made = Made(workshop)
    made.settle()
    (workshop.root / "data/link").unlink()
    assert made.make()

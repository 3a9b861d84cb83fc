"""What a program reads: one valid JSON document on stdout, also when something is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Done, Workshop

SCRIPT = "import sys; open('outputs/metrics.json', 'w').write(sys.argv[1])\n"


def strictly(done: Done) -> Any:
    """Reads stdout as JSON without the words Python adds to it."""
    return json.loads(done.out, parse_constant=pytest.fail)


@pytest.fixture
def odd(workshop: Workshop) -> Workshop:
    recipe = workshop.recipe(SCRIPT)
    for text in ('{"n": NaN, "up": Infinity, "down": -Infinity, "fine": 1}', '{"n": 1}'):
        workshop.run(recipe, "--set", f"arguments=['{text}']")
    return workshop


def test_numbers_json_has_no_word_for_are_strings(odd: Workshop) -> None:
    metrics = strictly(odd.repro("diff", "@2", "@1", "--json"))["metrics"]
    assert metrics["n"] == {"a": "NaN", "b": 1.0}
    assert (metrics["up"]["a"], metrics["down"]["a"]) == ("Infinity", "-Infinity")
    assert strictly(odd.repro("show", "@2", "--json"))["metrics"]["n"] == "NaN"
    assert strictly(odd.repro("ls", "--json"))[1]["metrics"]["down"] == "-Infinity"


def test_lock_check_answers_with_an_object_whatever_is_wrong(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    missing = workshop.repro("lock", recipe, "--check", "--json")
    assert (missing.code, "no lock" in missing.err) == (3, True)
    assert strictly(missing) == {
        "lock": str(workshop.root / "job.lock"), "satisfied": False, "reasons": ["job.lock: no lock"],
    }  # fmt: skip
    workshop.write("job.lock", "<<<<<<< ours\n")
    broken = workshop.repro("lock", recipe, "--check", "--json")
    assert (broken.code, strictly(broken)["satisfied"]) == (3, False)
    (workshop.root / "job.lock").unlink()
    assert workshop.repro("lock", recipe).code == 0
    assert strictly(workshop.repro("lock", recipe, "--check", "--json"))["reasons"] == []
    stale = workshop.repro("lock", recipe, "--check", "--json", "--set", "pip_packages=['new']")
    assert (stale.code, strictly(stale)["reasons"]) == (3, ["new: not in the lock"])


def test_a_plan_that_cannot_be_made_is_an_object_that_says_why(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    assert workshop.repro("lock", recipe).code == 0
    stale = workshop.repro("plan", recipe, "--json", "--set", "pip_packages=['new']")
    assert (stale.code, "does not satisfy" in stale.err) == (3, True)
    answer = strictly(stale)
    assert (answer["exit_code"], "new: not in the lock" in answer["error"]) == (3, True)
    assert answer["hint"].startswith("repro lock")
    missing = workshop.repro("plan", "nothing.toml", "--json")
    assert (missing.code, strictly(missing)["error"]) == (2, "nothing.toml: no such recipe")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--as-of", "yesterday"], "--as-of: got 'yesterday', expected a date such as 2026-06-01"),
        (["--as-of", "2026-02-30"], "--as-of: got '2026-02-30', expected a date"),
        (["--check", "--update", "numpy"], "--check only looks, expected no --update"),
        (["--check", "--upgrade"], "--check only looks, expected no --upgrade"),
        (["--check", "--as-of", "2026-01-01"], "--check only looks, expected no --as-of"),
    ],
)
def test_lock_refuses_options_that_mean_nothing(workshop: Workshop, words: list[str], message: str) -> None:
    recipe = workshop.recipe("print(1)\n")
    assert workshop.repro("lock", recipe).code == 0
    done = workshop.repro("lock", recipe, *words)
    assert (done.code, message in done.err) == (2, True), done.err

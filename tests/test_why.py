"""`repro why RUN RECIPE`: what a recipe would change against a run, without executing anything."""

from __future__ import annotations

import pytest

from tests.conftest import Workshop


@pytest.fixture
def trained(workshop: Workshop) -> tuple[Workshop, str, str]:
    """A project, the recipe in it, and the run of that recipe; another run is newer."""
    recipe = workshop.recipe("print(1)\n", estimator='script_params = {"--lr" = 0.1}')
    run = str(workshop.run(recipe)["run_hash"])
    workshop.run(recipe, "--set", "salt=other")
    return workshop, recipe, run


def test_a_recipe_is_held_against_a_run(trained: tuple[Workshop, str, str]) -> None:
    workshop, recipe, run = trained
    workshop.write("job/train.py", "print(2)\n")
    done = workshop.repro("why", run[:8], recipe, "--set", "script_params.--lr=0.2")
    assert done.code == 0, done.err
    assert "compared with " + run[:12] in done.out
    assert "+print(2)" in done.out
    answer = workshop.repro("why", run, recipe, "--json", "--set", "script_params.--lr=0.2").json
    assert [item["leaf"] for item in answer["differences"]] == ["script_params.--lr", "source/train.py"]
    assert (answer["differences"][0]["before"], answer["differences"][0]["after"]) == ("'0.1'", "'0.2'")
    plan = workshop.repro("plan", recipe, "--json", "--set", "script_params.--lr=0.2").json
    assert (answer["run"], answer["compared_with"]) == (plan["run_hash"], run)
    assert len(workshop.repro("ls", "--json").json) == 2, "nothing was executed"


def test_a_recipe_that_changes_nothing_is_said_to(trained: tuple[Workshop, str, str]) -> None:
    workshop, recipe, run = trained
    assert "nothing that identifies them differs" in workshop.repro("why", run, recipe).out


def test_no_lock_is_made_for_a_question(trained: tuple[Workshop, str, str]) -> None:
    workshop, recipe, run = trained
    (workshop.root / "job.lock").unlink()
    done = workshop.repro("why", run, recipe)
    assert (done.code, "job.lock: no lock" in done.err, "repro lock job.toml" in done.err) == (3, True, True)
    assert not (workshop.root / "job.lock").exists()


def test_two_runs_are_compared_and_take_no_overrides(trained: tuple[Workshop, str, str]) -> None:
    workshop, _, run = trained
    answer = workshop.repro("why", "@", run, "--json").json
    assert (answer["compared_with"], [item["leaf"] for item in answer["differences"]]) == (run, ["salt"])
    assert workshop.repro("why", "@", run, "--set", "salt=x").code == 2
    assert "no such recipe" in workshop.repro("why", "@", "nothing.toml").err

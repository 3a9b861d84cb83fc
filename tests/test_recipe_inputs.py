"""Inputs that are runs: of another recipe, which is run first, and of a checkpoint to go on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro_est.recipe.load import load
from tests.conftest import Done, Workshop

PREP = "import pathlib\npathlib.Path('outputs/data.csv').write_text('1,2\\n')\nprint('prepared')\n"
TRAIN = "import os\nprint('trained on', open(os.environ['REPRO_INPUT_data']).read())\n"
INPUT = '[inputs.data]\npath = "recipe:prep.toml/outputs/data.csv"\n'


@pytest.fixture
def chain(workshop: Workshop) -> Workshop:
    """`job.toml` takes what `prep.toml` writes."""
    workshop.recipe(PREP, name="prep")
    workshop.recipe(TRAIN, INPUT)
    return workshop


def events(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def executed(workshop: Workshop, recipe: str = "job.toml") -> list[str]:
    """The run hashes that running a recipe executes."""
    done = workshop.repro("run", recipe, "--json")
    assert done.code == 0, done.err
    return [item["run_hash"] for item in events(done) if item["event"] == "attempt"]


def runs(workshop: Workshop) -> int:
    return len(workshop.repro("ls", "--json").json)


def test_the_run_that_is_an_input_is_made_first_and_then_found(chain: Workshop) -> None:
    done = chain.repro("run", "job.toml", "--json")
    assert done.code == 0, done.err
    told = events(done)
    assert [item["event"] for item in told if item["event"] in ("needed", "attempt", "ready", "finished")] == [
        "needed", "attempt", "ready", "attempt", "finished",
    ]  # fmt: skip
    assert "trained on 1,2" in "".join(item["text"] for item in told if item["event"] == "output")
    prep = chain.repro("plan", "prep.toml", "--json").json
    assert prep["cached"], "its run is one like any other"
    (planned,) = json.loads(next((chain.root / "cache/runs").glob(f"{told[-1]['run_hash']}/plan.json")).read_text())[
        "recorded"
    ]["inputs"]
    assert planned["origin"] == {
        "run": prep["run_hash"],
        "path": "outputs/data.csv",
        "recipe": str(chain.root / "prep.toml"),
    }
    assert executed(chain) == []


def test_what_happens_to_it_is_shown(chain: Workshop) -> None:
    first, again = chain.repro("run", "job.toml"), chain.repro("run", "job.toml")
    assert "prep.toml, for inputs.data" in first.err
    assert "prepared" in first.err
    assert "of prep, cached" in again.err


def test_an_edit_that_changes_no_output_stops_there(chain: Workshop) -> None:
    executed(chain)
    chain.write("prep/train.py", PREP + "# another comment\n")
    assert len(executed(chain)) == 1, "prep alone"
    chain.write("prep/train.py", PREP.replace("1,2", "1,3"))
    assert len(executed(chain)) == 2, "prep, and what depends on it"


def test_recipes_that_share_a_directory_do_not_stand_in_its_snapshot(workshop: Workshop) -> None:
    workshop.write("prep.py", PREP)
    workshop.write("train.py", TRAIN)
    workshop.write("prep.toml", '[estimator]\nentry_script = "prep.py"\n')
    workshop.write("job.toml", f'[estimator]\nentry_script = "train.py"\n{INPUT}')
    workshop.write(".reproignore", "cache/\nrepro.toml\n")
    executed(workshop)
    hash_of_job = workshop.repro("plan", "job.toml", "--json").json["run_hash"]
    workshop.write("prep.toml", '[estimator]\nentry_script = "prep.py"\nsource_directory = "."\n')
    assert workshop.repro("plan", "job.toml", "--json").json["run_hash"] == hash_of_job


@pytest.mark.parametrize("verb", [["plan"], ["plan", "--json"], ["why", "@"]])
def test_whoever_only_asks_executes_nothing_and_names_the_run_that_is_needed(chain: Workshop, verb: list[str]) -> None:
    executed(chain)
    chain.write("prep/train.py", PREP.replace("1,2", "1,4"))
    before = runs(chain)
    needed = chain.repro("plan", "prep.toml", "--json").json["run_hash"]
    done = chain.repro(verb[0], *verb[1:2], "job.toml") if verb[0] == "plan" else chain.repro(*verb, "job.toml")
    message = f"inputs.data: needs run {needed} of prep.toml first"
    assert done.code == 2
    assert message in done.err
    assert "hint: repro run prep.toml" in done.err
    if "--json" in verb:
        assert done.json == {"error": message, "hint": "repro run prep.toml", "exit_code": 2}
    assert runs(chain) == before


def test_a_question_makes_no_lock_of_what_is_needed_either(chain: Workshop) -> None:
    executed(chain)
    (chain.root / "prep.lock").unlink()
    done = chain.repro("why", "@", "job.toml")
    assert (done.code, "prep.lock: no lock" in done.err, "repro lock prep.toml" in done.err) == (3, True, True)


def test_check_says_what_has_to_be_run_first(chain: Workshop) -> None:
    def said() -> list[tuple[str, str, int | None, str]]:
        found = chain.repro("check", "job.toml", "--json").json["findings"]
        return [(i["severity"], i["key"], i["line"], i["message"]) for i in found if "needs" in i["message"]]

    unlocked = ("warning", "inputs.data", 5, "needs a run of prep.toml first, which `repro run` makes")
    assert said() == [unlocked]
    assert not (chain.root / "prep.lock").exists()
    chain.repro("lock", "prep.toml")
    needed = chain.repro("plan", "prep.toml", "--json").json["run_hash"]
    assert said() == [("warning", "inputs.data", 5, f"needs run {needed} of prep.toml first, which `repro run` makes")]
    executed(chain)
    assert said() == []


def test_check_sees_a_stale_lock_and_a_missing_run_further_up(chain: Workshop) -> None:
    deepest = INPUT.replace("prep.toml", "job.toml").replace("data.csv", "")
    chain.recipe("print(1)\n", deepest, name="last")
    for name in ("last", "job", "prep"):
        chain.repro("lock", f"{name}.toml")
    (finding,) = [i for i in chain.repro("check", "last.toml", "--json").json["findings"] if "needs" in i["message"]]
    assert finding["message"] == "needs a run of job.toml first, which `repro run` makes"
    chain.recipe(PREP, name="prep", estimator='pip_packages = ["six"]')
    done = chain.repro("check", "job.toml", "--json")
    assert done.code == 2
    assert "does not satisfy prep.toml" in done.out


def test_a_dry_run_executes_nothing(chain: Workshop) -> None:
    done = chain.repro("run", "job.toml", "--dry-run")
    assert (done.code, "of prep.toml first" in done.err) == (2, True)
    assert runs(chain) == 0


def test_two_inputs_of_one_recipe_are_prepared_once(chain: Workshop) -> None:
    chain.recipe(TRAIN, INPUT + '[inputs.log]\npath = "recipe:prep.toml/logs"\n')
    told = events(chain.repro("run", "job.toml", "--json"))
    assert [item["event"] for item in told].count("needed") == 1
    assert [item["event"] for item in told].count("attempt") == 2


def test_a_recipe_that_two_others_need_is_prepared_once(chain: Workshop) -> None:
    for name in ("left", "right"):
        chain.recipe(
            "import shutil,os\nshutil.copy(os.environ['REPRO_INPUT_data'], 'outputs/data.csv')\n"
            f"open('outputs/{name}','w')\n", INPUT, name=name,
        )  # fmt: skip
    both = "".join(f'[inputs.{name}]\npath = "recipe:{name}.toml/outputs"\n' for name in ("left", "right"))
    chain.recipe("print(1)\n", both)
    done = chain.repro("run", "job.toml", "--json")
    assert done.code == 0, done.err
    told = [Path(item["recipe"]).stem for item in events(done) if item["event"] == "needed"]
    assert told == ["left", "prep", "right"]


def test_a_circle_of_recipes_is_refused_with_the_chain_before_anything_runs(chain: Workshop) -> None:
    chain.recipe("print(1)\n", '[inputs.x]\npath = "recipe:job.toml/outputs"\n', name="prep")
    done = chain.repro("run", "job.toml")
    place = chain.root
    assert done.code == 2
    assert (
        f"prep.toml:6: inputs.x.path: goes in a circle: {place}/job.toml -> {place}/prep.toml -> {place}/job.toml"
        in (done.err)
    )
    assert not (chain.root / "cache/runs").exists() or runs(chain) == 0


def test_what_is_wrong_with_a_needed_recipe_is_said_with_its_file(chain: Workshop) -> None:
    chain.write("prep.toml", '[estimator]\nentry_script = "gone.py"\nsource_directory = "prep"\n')
    done = chain.repro("run", "job.toml", "--set", "salt=3", "--set", "node_count=0")
    assert "prep.toml:2: estimator.entry_script: got 'gone.py', no such file" in done.err
    assert "--set: estimator.node_count" in done.err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("recipe:prep.toml", "expected `recipe:FILE.toml/outputs/...`"),
        ("recipe:prep.toml/data.csv", "expected `recipe:FILE.toml/outputs/...`"),
        ("recipe:perp.toml/outputs", "no such file: "),
    ],
)
def test_a_path_that_names_no_output_of_a_recipe_is_refused(chain: Workshop, path: str, message: str) -> None:
    done = chain.repro("run", "job.toml", "--set", f"inputs.data.path={path}")
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_file_that_the_run_did_not_write_is_named_with_those_it_did(chain: Workshop) -> None:
    done = chain.repro("run", "job.toml", "--set", "inputs.data.path=recipe:prep.toml/outputs/dat.csv")
    assert (done.code, "no such file, outputs/ holds: data.csv" in done.err) == (2, True), done.err


def test_a_needed_run_that_fails_is_the_failure(chain: Workshop) -> None:
    chain.write("prep/train.py", "raise SystemExit(3)\n")
    done = chain.repro("run", "job.toml", "--json")
    last = events(done)[-1]
    assert (done.code, last["event"], last["status"]) == (1, "finished", "failed")
    assert runs(chain) == 1


def test_a_recipe_with_such_an_input_is_never_answered_from_a_note(chain: Workshop) -> None:
    for _ in range(3):
        executed(chain)
        chain.repro("run", "job.toml", "-q")
    chain.write("prep/train.py", PREP.replace("1,2", "1,5"))
    done = chain.repro("run", "job.toml")
    assert "trained on 1,5" in done.err


def test_make_is_told_of_everything_the_needed_run_depends_on(chain: Workshop) -> None:
    done = chain.repro("run", "job.toml", "--depfile", "job.d")
    assert done.code == 0, done.err
    text = (chain.root / "job.d").read_text()
    for name in ("prep.toml", "prep.lock", "prep/train.py", "job/train.py"):
        assert f"\n{name}:" in text


# ---- resume_from

CHECKPOINTS = "import os\nos.mkdir('outputs/checkpoints')\nopen('outputs/checkpoints/1.txt','w').write('step 1')\n"
RESUME = (
    "import argparse,os\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\n"
    "parser.add_argument('--resume-from')\narguments = parser.parse_args()\n"
    "print('goes on from', open(os.path.join(arguments.resume_from, '1.txt')).read(), arguments.lr)\n"
)


def test_a_run_goes_on_from_the_outputs_of_an_earlier_one(workshop: Workshop) -> None:
    earlier = workshop.run(workshop.recipe(CHECKPOINTS, name="first"))["run_hash"]
    origin = f'resume_from = "run:{earlier[:10]}/outputs/checkpoints"\nscript_params = {{"--lr" = 0.1}}'
    recipe = workshop.recipe(RESUME, estimator=origin)
    done = workshop.repro("run", recipe)
    assert "goes on from step 1 0.1" in done.err
    plan = workshop.repro("plan", recipe, "--json").json["plan"]
    assert plan["script_params"] == [["--lr", ["0.1"]], ["--resume-from", [{"input": "resume_from"}]]]
    assert list(plan["inputs"]) == ["resume_from"]
    assert workshop.repro("check", recipe).code == 0


def test_the_hash_moves_with_the_checkpoint_not_with_its_place(workshop: Workshop) -> None:
    for name, text in (("one", "step 1"), ("same", "step 1"), ("other", "step 2")):
        workshop.write(f"{name}/1.txt", text)
    recipe = workshop.recipe(RESUME)
    one, same, other = (
        workshop.repro("plan", recipe, "--json", "--set", f"resume_from={name}").json["run_hash"]
        for name in ("one", "same", "other")
    )
    assert one == same
    assert one != other


def test_a_checkpoint_can_come_from_a_recipe(workshop: Workshop) -> None:
    workshop.recipe(CHECKPOINTS, name="first")
    recipe = workshop.recipe(RESUME, estimator='resume_from = "recipe:first.toml/outputs/checkpoints"')
    assert len(executed(workshop, recipe)) == 2


@pytest.mark.parametrize(
    ("estimator", "more", "message"),
    [
        ('resume_from = ""', "", "estimator.resume_from: got ''"),
        ('resume_from = "gone"', "", "estimator.resume_from: got 'gone', no such file"),
        ('resume_from = "run:x"', "", "estimator.resume_from: got 'run:x', expected `run:HASH/outputs/...`"),
        (
            'resume_from = "job"\nscript_params = {"--resume-from" = "x"}',
            "",
            "estimator.script_params.--resume-from: goes without resume_from, which adds this flag",
        ),
        ('resume_from = "job"', '[inputs.resume_from]\npath = "job"', "inputs.resume_from: goes without estimator."),
    ],
)
def test_what_cannot_be_resumed_from_is_refused(workshop: Workshop, estimator: str, more: str, message: str) -> None:
    done = workshop.repro("plan", workshop.recipe(RESUME, more, estimator=estimator))
    assert (done.code, message in done.err) == (2, True), done.err


def test_the_shipped_example_needs_the_run_of_the_recipe_beside_it() -> None:
    recipe = load(Path(__file__).parent.parent / "recipes" / "ridge-clean.toml")
    assert [item.name for item in recipe.with_needed] == ["ridge-clean", "clean"]
    assert recipe.needed[0].estimator.entry_script == "clean.py"

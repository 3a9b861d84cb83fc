"""Lineage: from a run up to all it was made of, and down to all that was made of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import pytest

from repro_est.digest import RunHash, identify
from repro_est.lineage import lineage, lines_above, lines_below, makers
from repro_est.registration import register_file
from repro_est.store.index import Index
from repro_est.store.records import AttemptRecord, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from tests.conftest import Workshop

PREPARES = "open('outputs/data.csv', 'w').write('1,2')\n"
TRAINS = "import sys; open('outputs/model.bin', 'w').write(open(sys.argv[1]).read() + ' learned')\n"
TESTS = "import sys; open('outputs/report', 'w').write(open(sys.argv[1]).read())\n"
GIVEN = 'arguments = [{input = "x"}]'


@pytest.fixture
def chain(workshop: Workshop) -> Workshop:
    """Three runs: prep, train on what it made, and test of the model by its alias."""
    workshop.write("raw.csv", "0")
    workshop.run(workshop.recipe(PREPARES, '[inputs.raw]\npath = "raw.csv"\n', name="prep"))
    hashes = [workshop.repro("show", "@", "--json").json["run_hash"]]
    workshop.run(
        workshop.recipe(
            TRAINS,
            f'[inputs.x]\npath = "run:{hashes[0]}/outputs/data.csv"\n[models.net]\npath = "outputs/model.bin"\n',
            name="train",
            estimator=GIVEN,
        )
    )
    workshop.repro("model", "promote", "net", "1", "--as", "production")
    workshop.run(workshop.recipe(TESTS, '[inputs.x]\npath = "model:net@production"\n', name="test", estimator=GIVEN))
    return workshop


def named(workshop: Workshop) -> dict[str, str]:
    return {item["name"]: item["run_hash"] for item in workshop.repro("ls", "--json", "-n", "0").json}


def test_a_lineage_goes_both_ways(chain: Workshop) -> None:
    hashes = named(chain)
    found = lineage(RunHash(hashes["train"]), chain.store)
    assert [(maker.name, maker.status) for maker in found.makers.values()] == [
        ("train", "completed"),
        ("prep", "completed"),
    ]
    assert [(use.user.name, use.input, use.origin["alias"]) for use in found.uses] == [("test", "x", "production")]
    assert [model.id for model in found.models[RunHash(hashes["train"])]] == ["net:1"]


def test_a_lineage_goes_on_through_every_run(chain: Workshop) -> None:
    hashes = named(chain)
    top = lineage(RunHash(hashes["prep"]), chain.store)
    assert [(use.source, use.user.name) for use in top.uses] == [(hashes["prep"], "train"), (hashes["train"], "test")]
    bottom = lineage(RunHash(hashes["test"]), chain.store)
    assert [maker.name for maker in bottom.makers.values()] == ["test", "train", "prep"]
    assert bottom.uses == ()


def test_show_prints_a_lineage_as_a_tree(chain: Workshop) -> None:
    hashes = {name: run[:12] for name, run in named(chain).items()}
    lines = chain.repro("show", hashes["train"], "--lineage").out.splitlines()
    facts = ("attempt", "recipe", "lock", "source", "git")
    assert [line for line in lines if not line.strip().startswith(facts)] == [
        f"run {hashes['train']}  train  completed",
        f"  x  run:{hashes['prep']}/outputs/data.csv",
        f"    run {hashes['prep']}  prep  completed",
        f"      raw  {chain.root / 'raw.csv'}",
        "",
        "led to",
        "  model net:1  outputs/model.bin",
        f"  run {hashes['test']}  test  completed  as `x`, model:net:1 (@production then)",
    ]
    content = chain.repro("show", hashes["train"], "--lineage", "--json").json
    assert [item["name"] for item in content["runs"]] == ["train", "prep"]
    assert [(item["name"], item["input"]) for item in content["used_by"]] == [("test", "x")]
    assert [(item["model"], item["version"]) for item in content["models"]] == [("net", 1)]


def test_a_trace_of_a_model_leads_to_lock_source_and_inputs(chain: Workshop) -> None:
    hashes = named(chain)
    (content,) = chain.repro("model", "trace", "net@production", "--json").json
    assert (content["name"], content["version"], content["aliases"]) == ("net", 1, ["production"])
    train, prep = content["runs"]
    assert (train["run"], train["attempt"], prep["run"]) == (hashes["train"], 1, hashes["prep"])
    plan = chain.repro("show", hashes["train"], "--json").json
    assert train["source"] == plan["plan"]["source"]
    assert (train["python"], train["packages"]) == (plan["plan"]["environment"]["python"], 0)
    assert len(train["lock_sha256"]) == 64
    assert [item["origin"] for item in prep["inputs"]] == [{"path": str(chain.root / "raw.csv")}]
    text = chain.repro("model", "trace", "net").out
    assert text.startswith("model net:1  @production  outputs/model.bin  of attempt 1  digest ")
    assert "0 packages for " in text
    assert text.splitlines()[-1] == f"        raw  {chain.root / 'raw.csv'}"


def test_a_trace_says_what_git_said(chain: Workshop) -> None:
    subprocess.run(["git", "init", "-q"], cwd=chain.root, check=True)
    subprocess.run(["git", "add", "train"], cwd=chain.root, check=True)
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "c"], cwd=chain.root, check=True
    )
    chain.run("train.toml", "--force")
    chain.repro("model", "register", "other", named(chain)["train"], "outputs/model.bin")
    (content,) = chain.repro("model", "trace", "other", "--json").json
    assert (content["attempt"], content["runs"][0]["attempt"]) == (2, 2)
    assert len(content["runs"][0]["git"]["commit"]) == 40
    assert "\n    git     " in chain.repro("model", "trace", "other").out


def test_a_model_of_no_run_has_a_trace_of_its_own(workshop: Workshop) -> None:
    register_file(workshop.store, workshop.write("mine.bin", "mine"), "mine")
    (content,) = workshop.repro("model", "trace", "mine", "--json").json
    assert (content["run"], content["runs"]) == ("", [])
    assert workshop.repro("model", "trace", "mine").out.startswith("model mine:1  mine.bin")


def test_a_run_that_is_gone_is_named_as_missing(chain: Workshop) -> None:
    hashes = named(chain)
    shutil.rmtree(chain.store.layout.run(RunHash(hashes["prep"])))
    found = makers([RunHash(hashes["test"])], chain.store)
    assert [maker.status for maker in found.values()] == ["completed", "completed", "missing"]
    assert f"run {hashes['prep'][:12]}  ?  missing" in "\n".join(lines_above(RunHash(hashes["test"]), found))


# ---- in a store of any size


def planned(store: Store, number: int, inputs: dict[str, str], *, lock: str = "") -> RunHash:
    """Writes a run that has failed, with runs as its inputs."""
    document = {"format": 1, "n": number, "source": "0" * 32, "environment": {}}
    run = RunHash(identify("repro:plan:1", document))
    recorded: dict[str, Any] = {
        "name": f"job{number}",
        "tags": {},
        "lock": lock,
        "inputs": [
            {"name": name, "tree": "1" * 32, "origin": {"run": source, "path": "outputs"}, "copy": False}
            for name, source in inputs.items()
        ],
    }
    runs = Runs(store.layout)
    runs.write_plan(run, {"format": 1, "plan": document, "recorded": recorded})
    attempt, _ = runs.begin(run)
    started = f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
    runs.write_attempt(run, AttemptRecord(attempt, Status.FAILED, started, started))
    return run


def test_a_run_that_is_met_twice_is_told_once(store: Store) -> None:
    top = planned(store, 0, {})
    left, right = planned(store, 1, {"a": top}), planned(store, 2, {"a": top})
    bottom = planned(store, 3, {"l": left, "r": right})
    found = lineage(bottom, store)
    assert [maker.name for maker in found.makers.values()] == ["job3", "job1", "job0", "job2"]
    above = [line.strip() for line in lines_above(bottom, found.makers) if line.strip().startswith("run ")]
    assert above[-1] == f"run {top[:12]}  job0  (above)"
    below = list(lines_below(lineage(top, store)))
    assert below == [
        f"run {left[:12]}  job1  failed  as `a`, run:{top[:12]}/outputs",
        f"  run {bottom[:12]}  job3  failed  as `l`, run:{left[:12]}/outputs",
        f"run {right[:12]}  job2  failed  as `a`, run:{top[:12]}/outputs",
        f"  run {bottom[:12]}  job3  failed  as `r`, run:{right[:12]}/outputs  (above)",
    ]


def test_a_long_chain_is_no_deep_recursion(store: Store) -> None:
    run = planned(store, 0, {})
    first = run
    for number in range(1, 1500):
        run = planned(store, number, {"a": run})
    found = lineage(run, store)
    assert len(found.makers) == 1500
    assert len(list(lines_above(run, found.makers))) > 1500
    assert len(list(lines_below(lineage(first, store)))) == 1499


def test_users_are_found_in_a_list_made_anew(store: Store) -> None:
    top = planned(store, 0, {})
    planned(store, 1, {"a": top})
    Index(store.layout).rebuild()
    assert [use.user.name for use in Index(store.layout).users(top)] == ["job1"]
    shutil.rmtree(store.layout.run(Index(store.layout).users(top)[0].user.run_hash))
    assert Index(store.layout).users(top) == []


def test_an_origin_that_makes_no_sense_is_passed_over(store: Store) -> None:
    document = {"format": 1, "n": 1, "source": "0" * 32, "environment": {}}
    run = RunHash(identify("repro:plan:1", document))
    inputs = [{"origin": {"run": 7}}, {"origin": []}, "x", {"name": "y"}]
    Runs(store.layout).write_plan(run, {"format": 1, "plan": document, "recorded": {"name": "odd", "inputs": inputs}})
    assert Index(store.layout).users(run) == []
    assert makers([run], store)[run].status == "unreadable"


def test_a_lineage_among_thousands_of_runs_is_quick(store: Store) -> None:
    top = planned(store, 0, {})
    for number in range(1, 1000):
        planned(store, number, {"a": top} if number % 10 == 0 else {}, lock="x" * 50_000)
    Index(store.layout).rows(limit=1)
    started = time.monotonic()
    assert len(lineage(top, store).uses) == 99
    assert time.monotonic() - started < 1.0

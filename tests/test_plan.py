"""The run hash: what moves it, what does not, and how a difference is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.digest import RunHash, TreeHash, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.explain import Difference, differences, hunk, leaves, nearest
from repro_est.plan import Plan, PlannedInput, load_plan, make_plan
from repro_est.recipe.schema import KEYS, Category
from repro_est.recipe.values import Estimator, InputReference, Limits, ModelRequest, Outputs, Parameter, Recipe
from repro_est.store.trees import Entry, Kind, Tree

ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "linux-64",
    "packages": [["numpy", "2.1.0", "numpy-2.1.0.whl", "a" * 64], ["scipy", "1.0", "scipy-1.0.whl", "b" * 64]],
}
RECIPE = Recipe(
    path=Path("/somewhere/job.toml"),
    files=(Path("/somewhere/job.toml"),),
    estimator=Estimator(
        source_directory=Path("/somewhere"),
        entry_script="train.py",
        script_params=(Parameter("--data", (InputReference("d"),)), Parameter("--lr", ("0.1",)), Parameter("--v", ())),
        arguments=("x", ""),
        environment_variables=(("A", "1"),),
    ),
    secrets=("HF_TOKEN",),
)
SOURCE = TreeHash("1" * 32)
INPUT = PlannedInput("d", TreeHash("2" * 32), {"path": "/data"})


def plan(recipe: Recipe = RECIPE, **parts: Any) -> Plan:
    values = {"environment": ENVIRONMENT, "source": SOURCE, "inputs": (INPUT,), "lock": "lock text", **parts}
    return make_plan(recipe, **values)


def estimator(**changes: Any) -> Recipe:
    return dataclasses.replace(RECIPE, estimator=dataclasses.replace(RECIPE.estimator, **changes))


def test_a_plan_keeps_its_published_run_hash() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "plan.json").read_text())
    assert plan().document == golden["document"]
    assert plan().hash == golden["run_hash"]


HASHED_CHANGES: dict[str, tuple[Plan, str]] = {
    "entry_script": (plan(estimator(entry_script="other.py")), "entry_script"),
    "script_params": (
        plan(
            estimator(
                script_params=(*RECIPE.estimator.script_params[:1], Parameter("--lr", ("0.2",)), Parameter("--v", ()))
            )
        ),
        "script_params.--lr",
    ),
    "arguments": (plan(estimator(arguments=("x",))), "arguments"),
    "network": (
        plan(dataclasses.replace(RECIPE, environment=dataclasses.replace(RECIPE.environment, network=True))),
        "network",
    ),
    "use_gpu": (plan(estimator(use_gpu=True)), "use_gpu"),
    "environment_variables": (plan(estimator(environment_variables=(("A", "2"),))), "environment_variables.A"),
    "secrets": (plan(dataclasses.replace(RECIPE, secrets=())), "secrets.HF_TOKEN"),
    "salt": (plan(dataclasses.replace(RECIPE, salt="x")), "salt"),
    "source_directory": (plan(source=TreeHash("3" * 32)), "source"),
    "path": (plan(inputs=(dataclasses.replace(INPUT, tree=TreeHash("4" * 32)),)), "inputs.d"),
    "python": (plan(environment={**ENVIRONMENT, "python": "3.12.1"}), "environment.python"),
    "platforms": (plan(environment={**ENVIRONMENT, "platform": "osx-arm64"}), "environment.platform"),
    "pip_packages": (
        plan(environment={**ENVIRONMENT, "packages": ENVIRONMENT["packages"][1:]}),
        "environment.packages.numpy",
    ),
    "conda_packages": (
        plan(environment={**ENVIRONMENT, "conda": [["zlib", "1.3", "zlib-1.3-0.conda", "0" * 64]]}),
        "environment.conda.zlib",
    ),
    "custom_docker_image": (plan(environment={**ENVIRONMENT, "image": f"sha256:{'0' * 64}"}), "environment.image"),
    "user_managed": (plan(environment={**ENVIRONMENT, "user_managed": True}), "environment.user_managed"),
}
RECORDED_CHANGES: dict[str, Plan] = {
    "description": plan(dataclasses.replace(RECIPE, description="words")),
    "experiment_name": plan(dataclasses.replace(RECIPE, experiment_name="e")),
    "tags": plan(dataclasses.replace(RECIPE, tags=(("a", "b"),))),
    "compute_target": plan(estimator(compute_target="elsewhere")),
    "use_docker": plan(estimator(compute_target="docker")),
    "max_run_duration_seconds": plan(estimator(max_run_duration_seconds=5)),
    "shm_size": plan(dataclasses.replace(RECIPE, limits=Limits(shm_size=1 << 30))),
    "memory": plan(dataclasses.replace(RECIPE, limits=Limits(memory=1 << 30))),
    "cpus": plan(dataclasses.replace(RECIPE, limits=Limits(cpus=1.5))),
    "required": plan(dataclasses.replace(RECIPE, outputs=Outputs(required=("outputs/x",)))),
    "metrics": plan(dataclasses.replace(RECIPE, outputs=Outputs(metrics="outputs/m.json"))),
    "mode": plan(inputs=(dataclasses.replace(INPUT, copy=True),)),
    "models": plan(dataclasses.replace(RECIPE, models=(ModelRequest("m", "outputs/x"),))),
}
COVERED_ELSEWHERE = {
    "extends": "what it merges is what is hashed",
    "pip_requirements_file": "as pip_packages, through the lock",
    "conda_dependencies_file": "as conda_packages and pip_packages, through the lock",
    "conda_lock_file": "as conda_packages and pip_packages",
    "dockerfile": "as custom_docker_image, by the ID of what was built",
    "image_registry_details": "says where custom_docker_image is",
    "channels": "never in the environment document",
    "virtual_packages": "acts through the versions it leads to",
    "index_url": "never in the environment document",
    "extra_index_urls": "never in the environment document",
    "find_links": "never in the environment document",
    "as_of": "acts through the versions it leads to",
    "url": "as path",
    "sha256": "as path",
}


@pytest.mark.parametrize("key", HASHED_CHANGES)
def test_a_hashed_key_moves_the_hash_and_why_names_exactly_its_leaf(key: str) -> None:
    changed, leaf = HASHED_CHANGES[key]
    assert changed.hash != plan().hash
    assert [item.leaf for item in differences(plan().document, changed.document, lambda _: None)] == [leaf]


@pytest.mark.parametrize("key", RECORDED_CHANGES)
def test_a_recorded_key_does_not_move_the_hash(key: str) -> None:
    assert RECORDED_CHANGES[key].hash == plan().hash


def test_every_key_of_the_schema_that_works_is_covered_above() -> None:
    covered = {*HASHED_CHANGES, *RECORDED_CHANGES, *COVERED_ELSEWHERE}
    working = {key.name for key in KEYS if key.later is None}
    assert working <= covered, working - covered
    hashed = {key.name for key in KEYS if key.later is None and key.category is Category.HASHED}
    assert hashed - set(COVERED_ELSEWHERE) <= set(HASHED_CHANGES)


def test_where_the_recipe_lies_and_who_reads_it_does_not_matter() -> None:
    moved = dataclasses.replace(
        RECIPE,
        path=Path("/elsewhere/renamed.toml"),
        estimator=dataclasses.replace(RECIPE.estimator, source_directory=Path("/elsewhere")),
    )
    assert plan(moved, lock="another text").hash == plan().hash


def test_the_order_of_flags_matters_and_that_of_variables_does_not() -> None:
    swapped = tuple(reversed(RECIPE.estimator.script_params))
    found = differences(plan().document, plan(estimator(script_params=swapped)).document, lambda _: None)
    assert [item.leaf for item in found] == ["script_params (order)"]
    both = (("A", "1"), ("B", "2"))
    assert plan(estimator(environment_variables=both)).hash == plan(estimator(environment_variables=both[::-1])).hash


@given(
    st.dictionaries(st.sampled_from("ABCDEF"), st.text(max_size=3)),
    st.dictionaries(st.sampled_from("ABCDEF"), st.text(max_size=3)),
)
def test_two_plans_have_one_hash_exactly_when_no_leaf_differs(one: dict[str, str], two: dict[str, str]) -> None:
    first = plan(estimator(environment_variables=tuple(one.items())))
    second = plan(estimator(environment_variables=tuple(two.items())))
    found = differences(first.document, second.document, lambda _: None)
    assert (first.hash == second.hash) == (not found)
    expected = {f"environment_variables.{name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert {item.leaf for item in found} == expected


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
hashed_values = st.one_of(
    st.tuples(st.just("entry_script"), words),
    st.tuples(st.just("arguments"), st.lists(words, max_size=3).map(tuple)),
    st.tuples(st.just("use_gpu"), st.booleans()),
    st.tuples(
        st.just("script_params"),
        st.dictionaries(words, st.lists(words, max_size=2).map(tuple), max_size=3).map(
            lambda params: tuple(Parameter(name, values) for name, values in params.items())
        ),
    ),
    st.tuples(
        st.just("environment_variables"), st.dictionaries(words, words, max_size=2).map(lambda d: tuple(d.items()))
    ),
    st.tuples(st.just("salt"), words),
    st.tuples(st.just("secrets"), st.sets(words.filter(bool), max_size=2).map(lambda names: tuple(sorted(names)))),
)


@given(hashed_values)
def test_any_other_value_of_a_hashed_field_moves_the_hash(mutation: tuple[str, Any]) -> None:
    name, value = mutation
    if name in ("salt", "secrets"):
        before, changed = getattr(RECIPE, name), dataclasses.replace(RECIPE, **{name: value})
    else:
        before, changed = getattr(RECIPE.estimator, name), estimator(**{name: value})
    same = before == value or (name == "environment_variables" and dict(before) == dict(value))
    assert (plan(changed).hash == plan().hash) == same


@given(words, words, st.floats(min_value=1), st.dictionaries(words, words))
def test_no_value_of_a_recorded_field_moves_the_hash(
    text: str, more: str, seconds: float, tags: dict[str, str]
) -> None:
    changed = dataclasses.replace(
        estimator(max_run_duration_seconds=seconds, compute_target=text),
        description=text,
        experiment_name=more,
        tags=tuple(tags.items()),
        outputs=Outputs(required=(text,), metrics=more),
    )
    assert plan(changed).hash == plan().hash


def test_a_field_at_its_default_is_left_out() -> None:
    bare = make_plan(
        dataclasses.replace(RECIPE, estimator=Estimator(Path("/x"), "train.py"), secrets=()),
        environment=ENVIRONMENT, source=SOURCE, inputs=(), lock="",
    )  # fmt: skip
    assert set(bare.document) == {"format", "entry_script", "source", "environment"}


def test_the_command_line_is_rendered_from_the_structure() -> None:
    assert plan().command_words({"d": "/work/inputs/d"}) == ["--data", "/work/inputs/d", "--lr", "0.1", "--v", "x", ""]


def test_a_stored_plan_reads_back_and_a_changed_one_is_refused() -> None:
    content = json.loads(json.dumps(plan().to_json()))
    assert load_plan(content, plan().hash) == plan()
    content["recorded"]["inputs"][0]["tree"] = "9" * 32
    with pytest.raises(VerificationError, match="inputs are not the hashed ones"):
        load_plan(content, plan().hash)
    content["plan"]["salt"] = "evil"
    with pytest.raises(VerificationError, match="was changed"):
        load_plan(content, plan().hash)
    with pytest.raises(VerificationError, match="not a plan"):
        load_plan({"format": 1}, RunHash("0" * 32))


def test_a_changed_source_file_is_named_with_its_path() -> None:
    old = Tree.of([Entry("train.py", Kind.FILE, xxh3_hex(b"a"), 1), Entry("same.py", Kind.FILE, xxh3_hex(b"s"), 1)])
    new = Tree.of(
        [
            Entry("train.py", Kind.EXECUTABLE, xxh3_hex(b"b"), 1),
            *old.entries[:1],
            Entry("new.py", Kind.FILE, xxh3_hex(b"n"), 1),
        ]
    )
    trees = {old.hash: old, new.hash: new}
    found = differences(plan(source=old.hash).document, plan(source=new.hash).document, trees.get)
    assert [item.leaf for item in found] == ["source/new.py", "source/train.py"]
    assert found[0].before is None
    assert "executable" in str(found[1].after)


def test_the_nearest_run_has_the_fewest_differing_leaves() -> None:
    far = plan(estimator(entry_script="other.py", arguments=(), use_gpu=True)).document
    near = plan(estimator(use_gpu=True)).document
    assert nearest(plan().document, [("far", far), ("near", near)]) == "near"
    assert nearest(plan().document, []) is None
    assert Difference("a", None, "b").to_json() == {"leaf": "a", "before": None, "after": "b"}


def test_hunks_are_unified_diffs_and_binaries_are_said_to_be_so() -> None:
    assert hunk("a.py", b"x = 1\n", b"x = 2\n").splitlines()[-2:] == ["-x = 1", "+x = 2"]
    assert "No newline" in hunk("a.py", None, b"x")
    assert "binary" in hunk("a.bin", b"\xff\x00", b"\xfe")
    assert leaves(plan().document)["script_params.--data"] == "{input d}"

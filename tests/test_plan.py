"""The run hash: what moves it, what does not, and how a difference is named."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import repro_est.environment.key as key_module
import repro_est.plan as plan_module
from repro_est.digest import RunHash, TreeHash, xxh3_hex
from repro_est.errors import VerificationError
from repro_est.explain import Difference, differences, hunk, leaves, nearest
from repro_est.layout import Backend, Binding, Layout
from repro_est.plan import Plan, PlannedInput, Recorded, load_plan, make_plan
from repro_est.recipe.reproducible import Determinism, Reproducible, Tolerance
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
    "node_count": (plan(estimator(layout=Layout(node_count=2))), "layout.node_count"),
    "process_count_per_node": (
        plan(estimator(layout=Layout(process_count_per_node=2))),
        "layout.process_count_per_node",
    ),
    "distributed_training": (plan(estimator(layout=Layout(backend=Backend.MPI))), "layout.backend"),
    "distributed_backend": (plan(estimator(layout=Layout(backend=Backend.TORCH))), "layout.backend"),
    "gpus_per_process": (plan(estimator(layout=Layout(gpus_per_process=2))), "layout.gpus_per_process"),
    "gpu_binding": (plan(estimator(layout=Layout(gpu_binding=Binding.RANK))), "layout.gpu_binding"),
    "environment_variables": (plan(estimator(environment_variables=(("A", "2"),))), "environment_variables.A"),
    "secrets": (plan(dataclasses.replace(RECIPE, secrets=())), "secrets.HF_TOKEN"),
    "salt": (plan(dataclasses.replace(RECIPE, salt="x")), "salt"),
    "azureml": (plan(dataclasses.replace(RECIPE, compat_azureml=True)), "compat.azureml"),
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
    "retries": plan(estimator(retries=3)),
    "heartbeat_seconds": plan(estimator(heartbeat_seconds=2.5)),
    "shm_size": plan(dataclasses.replace(RECIPE, limits=Limits(shm_size=1 << 30))),
    "memory": plan(dataclasses.replace(RECIPE, limits=Limits(memory=1 << 30))),
    "cpus": plan(dataclasses.replace(RECIPE, limits=Limits(cpus=1.5))),
    "required": plan(dataclasses.replace(RECIPE, outputs=Outputs(required=("outputs/x",)))),
    "sandbox": plan(dataclasses.replace(RECIPE, sandbox_required=True)),
    "metrics": plan(dataclasses.replace(RECIPE, outputs=Outputs(metrics="outputs/m.json"))),
    **{
        key: plan(dataclasses.replace(RECIPE, reproducible=promise))
        for key, promise in {
            "class": Reproducible(Determinism.NONE),
            "files": Reproducible(Determinism.TOLERANCE, files=(("outputs/w.npy", Tolerance(rtol=1e-6)),)),
            "ignore": Reproducible(ignore=("outputs/*.log",)),
        }.items()
    },
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
    "environment_definition": "stands for other keys",
    "resume_from": "as path, and by the flag it adds",
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


class Parts(NamedTuple):
    """What `make_plan` is given."""

    recipe: Recipe
    environment: dict[str, Any]
    source: TreeHash
    inputs: tuple[PlannedInput, ...]
    lock: str = "lock text"
    conda_lock: str = ""

    @property
    def plan(self) -> Plan:
        return make_plan(**self._asdict())

    def of_recipe(self, **changes: Any) -> Parts:
        return self._replace(recipe=dataclasses.replace(self.recipe, **changes))

    def of_estimator(self, **changes: Any) -> Parts:
        return self.of_recipe(estimator=dataclasses.replace(self.recipe.estimator, **changes))

    def of_environment(self, **changes: Any) -> Parts:
        return self._replace(environment={**self.environment, **changes})

    def of_input(self, **changes: Any) -> Parts:
        return self._replace(inputs=(dataclasses.replace(self.inputs[0], **changes),))


LAYOUT = Layout(3, 2, Backend.TENSORFLOW, 2, Binding.RANK, 1)
FULL = Parts(
    dataclasses.replace(
        RECIPE,
        estimator=dataclasses.replace(RECIPE.estimator, use_gpu=True, layout=LAYOUT),
        environment=dataclasses.replace(RECIPE.environment, network=True),
        salt="salt",
        compat_azureml=True,
    ),
    {
        **ENVIRONMENT,
        "build": [["setuptools", "70.0", "setuptools-70.0.whl", "c" * 64]],
        "conda": [["zlib", "1.3", "zlib-1.3-0.conda", "d" * 64]],
        "image": f"sha256:{'e' * 64}",
        "user_managed": True,
    },
    SOURCE,
    (INPUT,),
)
"""A plan in which no field is at its default."""

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
names = st.from_regex("[a-z]{1,5}", fullmatch=True)
digests = st.from_regex("[0-9a-f]{32}", fullmatch=True).map(TreeHash)
packages = st.tuples(
    st.from_regex(r"[0-9]\.[0-9]{1,3}", fullmatch=True),
    st.from_regex(r"[a-z_0-9.-]{1,90}", fullmatch=True),
    st.from_regex("[0-9a-f]{64}", fullmatch=True),
)
Mutation = st.SearchStrategy[tuple[Parts, str]]
"""A changed plan, and the one leaf in which it differs."""


def other(strategy: st.SearchStrategy[Any], than: object) -> st.SearchStrategy[Any]:
    return strategy.filter(lambda value: value != than)


def package_mutations(section: str) -> Mutation:
    """Another version, file or digest of a package; a package more; a package less."""
    rows = FULL.environment[section]
    name, *facts = rows[0]
    leaf = f"environment.{section}."
    changed = other(packages, tuple(facts)).map(
        lambda new: (FULL.of_environment(**{section: [[name, *new], *rows[1:]]}), leaf + name)
    )
    added = st.tuples(names, packages).map(
        lambda new: (FULL.of_environment(**{section: [*rows, [f"z-{new[0]}", *new[1]]]}), f"{leaf}z-{new[0]}")
    )
    return st.one_of(changed, added, st.just((FULL.of_environment(**{section: rows[1:]}), leaf + name)))


def parameter_mutations() -> Mutation:
    """Other words of a flag, a flag more, the flags in another order."""
    flags = RECIPE.estimator.script_params
    several = st.lists(words, max_size=2).map(tuple)
    changed = other(several, flags[1].words).map(
        lambda new: (
            FULL.of_estimator(script_params=(flags[0], Parameter("--lr", new), flags[2])), "script_params.--lr",
        )
    )  # fmt: skip
    added = st.tuples(words, several).map(
        lambda new: (
            FULL.of_estimator(script_params=(*flags, Parameter(f"--z{new[0]}", new[1]))), f"script_params.--z{new[0]}",
        )
    )  # fmt: skip
    moved = other(st.permutations(flags), list(flags)).map(
        lambda new: (FULL.of_estimator(script_params=tuple(new)), "script_params (order)")
    )
    return st.one_of(changed, added, moved)


def variable_mutations() -> Mutation:
    changed = other(words, "1").map(
        lambda new: (FULL.of_estimator(environment_variables=(("A", new),)), "environment_variables.A")
    )
    added = st.tuples(names, words).map(
        lambda new: (FULL.of_estimator(environment_variables=(("A", "1"), new)), f"environment_variables.{new[0]}")
    )
    return changed | added


def layout_mutations() -> Mutation:
    others: dict[str, st.SearchStrategy[Any]] = {
        "node_count": st.integers(1, 10_000),
        "process_count_per_node": st.integers(1, 10_000),
        "backend": st.sampled_from(Backend),
        "gpus_per_process": st.integers(1, 10_000),
        "gpu_binding": st.sampled_from(Binding),
        "parameter_servers": st.integers(0, 10_000),
    }
    assert set(others) == {field.name for field in dataclasses.fields(Layout)}

    def mutated(name: str, value: object) -> tuple[Parts, str]:
        return FULL.of_estimator(layout=dataclasses.replace(LAYOUT, **{name: value})), f"layout.{name}"

    return st.one_of(
        other(values, getattr(LAYOUT, name)).map(lambda new, name=name: mutated(name, new))
        for name, values in others.items()
    )


HASHED_FIELDS: dict[str, Mutation] = {
    "entry_script": other(words, "train.py").map(lambda new: (FULL.of_estimator(entry_script=new), "entry_script")),
    "script_params": parameter_mutations(),
    "arguments": other(st.lists(words, max_size=3).map(tuple), ("x", "")).map(
        lambda new: (FULL.of_estimator(arguments=new), "arguments")
    ),
    "source": other(digests, SOURCE).map(lambda new: (FULL._replace(source=new), "source")),
    "inputs": other(digests, INPUT.tree).map(lambda new: (FULL.of_input(tree=new), "inputs.d"))
    | st.tuples(names, digests).map(
        lambda new: (FULL._replace(inputs=(INPUT, PlannedInput(f"z{new[0]}", new[1], {}))), f"inputs.z{new[0]}")
    ),
    "environment_variables": variable_mutations(),
    "secrets": names.map(lambda new: (FULL.of_recipe(secrets=("HF_TOKEN", new)), f"secrets.{new}"))
    | st.just((FULL.of_recipe(secrets=()), "secrets.HF_TOKEN")),
    "use_gpu": st.just((FULL.of_estimator(use_gpu=False), "use_gpu")),
    "layout": layout_mutations(),
    "network": st.just(
        (FULL.of_recipe(environment=dataclasses.replace(FULL.recipe.environment, network=False)), "network")
    ),
    "salt": other(words, "salt").map(lambda new: (FULL.of_recipe(salt=new), "salt")),
    "compat": st.just((FULL.of_recipe(compat_azureml=False), "compat.azureml")),
    "environment.python": other(words, "3.11.7").map(
        lambda new: (FULL.of_environment(python=new), "environment.python")
    ),
    "environment.platform": other(words, "linux-64").map(
        lambda new: (FULL.of_environment(platform=new), "environment.platform")
    ),
    "environment.image": other(words, None).map(lambda new: (FULL.of_environment(image=new), "environment.image")),
    "environment.user_managed": st.just((FULL.of_environment(user_managed=False), "environment.user_managed")),
    "environment.packages": package_mutations("packages"),
    "environment.build": package_mutations("build"),
    "environment.conda": package_mutations("conda"),
}
models = st.builds(ModelRequest, name=words, path=words, description=words)
limits = st.builds(Limits, memory=st.integers(1), cpus=st.floats(0.1, 64), shm_size=st.integers(1))
RECORDED_FIELDS: dict[str, st.SearchStrategy[Parts]] = {
    "name": names.map(lambda new: FULL.of_recipe(path=Path(f"/somewhere/z{new}.toml"))),
    "recipe": names.map(lambda new: FULL.of_recipe(path=Path(f"/{new}/job.toml"), files=(Path(f"/{new}/x.toml"),))),
    "lock": other(words, FULL.lock).map(lambda new: FULL._replace(lock=new)),
    "conda_lock": other(words, "").map(lambda new: FULL._replace(conda_lock=new)),
    "target": other(words, "local").map(lambda new: FULL.of_estimator(compute_target=new)),
    "experiment_name": other(words, "").map(lambda new: FULL.of_recipe(experiment_name=new)),
    "description": other(words, "").map(lambda new: FULL.of_recipe(description=new)),
    "tags": st.dictionaries(words, words, min_size=1).map(lambda new: FULL.of_recipe(tags=tuple(new.items()))),
    "required": st.lists(words, min_size=1).map(lambda new: FULL.of_recipe(outputs=Outputs(required=tuple(new)))),
    "metrics": other(words, "").map(lambda new: FULL.of_recipe(outputs=Outputs(metrics=new))),
    "reproducible": other(st.sampled_from(Determinism), Determinism.BITWISE).map(
        lambda new: FULL.of_recipe(reproducible=Reproducible(new))
    ),
    "timeout_seconds": st.floats(min_value=1).map(lambda new: FULL.of_estimator(max_run_duration_seconds=new)),
    "retries": st.integers(1, 10).map(lambda new: FULL.of_estimator(retries=new)),
    "heartbeat_seconds": st.floats(min_value=1).map(lambda new: FULL.of_estimator(heartbeat_seconds=new)),
    "sandbox_required": st.just(FULL.of_recipe(sandbox_required=True)),
    "limits": limits.map(lambda new: FULL.of_recipe(limits=new)),
    "inputs": st.just(FULL.of_input(copy=True)) | names.map(lambda new: FULL.of_input(origin={"path": f"/{new}"})),
    "models": st.lists(models, min_size=1).map(lambda new: FULL.of_recipe(models=tuple(new))),
}


def test_every_field_of_the_plan_is_mutated_below() -> None:
    document = FULL.plan.document
    fields = {*document, *(f"environment.{key}" for key in FULL.plan.environment)} - {"format", "environment"}
    assert set(HASHED_FIELDS) == fields
    assert set(RECORDED_FIELDS) == {field.name for field in dataclasses.fields(Recorded)}
    described = set(re.findall(r"^    (\w+)\??  ", plan_module.__doc__ or "", re.MULTILINE))
    assert described == set(document), "the documented document is the one in which no field is at its default"
    described = set(re.findall(r'"(\w+)": ', key_module.__doc__ or ""))
    assert described == set(FULL.plan.environment)


@pytest.mark.parametrize("field", HASHED_FIELDS)
@given(data=st.data())
def test_any_other_value_of_a_hashed_field_moves_the_hash_and_why_names_exactly_its_leaf(
    field: str, data: st.DataObject
) -> None:
    changed, leaf = data.draw(HASHED_FIELDS[field])
    assert changed.plan.hash != FULL.plan.hash
    found = differences(FULL.plan.document, changed.plan.document, lambda _: None)
    assert [item.leaf for item in found] == [leaf]


def test_a_long_file_name_is_told_apart_by_its_end() -> None:
    one, two = (
        FULL.of_environment(packages=[["numpy", "1", "numpy-1" + "x" * 80 + end, "a" * 64]]) for end in (".whl", ".zip")
    )
    found = differences(one.plan.document, two.plan.document, lambda _: None)
    assert [item.leaf for item in found] == ["environment.packages.numpy"]


@pytest.mark.parametrize("field", RECORDED_FIELDS)
@given(data=st.data())
def test_no_value_of_a_recorded_field_moves_the_hash(field: str, data: st.DataObject) -> None:
    changed = data.draw(RECORDED_FIELDS[field])
    assert getattr(changed.plan.recorded, field) != getattr(FULL.plan.recorded, field), "it was changed"
    assert changed.plan.hash == FULL.plan.hash
    assert differences(FULL.plan.document, changed.plan.document, lambda _: None) == []


def test_a_field_at_its_default_is_left_out() -> None:
    bare = make_plan(
        dataclasses.replace(RECIPE, estimator=Estimator(Path("/x"), "train.py"), secrets=()),
        environment=ENVIRONMENT, source=SOURCE, inputs=(), lock="",
    )  # fmt: skip
    assert set(bare.document) == {"format", "entry_script", "source", "environment"}


def test_layouts_keep_their_published_run_hashes() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "layouts.json").read_text())
    layouts = {
        "mpi 3 x 2": estimator(layout=Layout(3, 2, Backend.MPI)),
        "tensorflow 4, 1 ps": estimator(layout=Layout(4, 1, Backend.TENSORFLOW, parameter_servers=1)),
        "torch 2 x 4, 2 GPUs each, bound": estimator(
            use_gpu=True, layout=Layout(2, 4, Backend.TORCH, gpus_per_process=2, gpu_binding=Binding.RANK)
        ),
    }
    found = {name: plan(recipe) for name, recipe in layouts.items()}
    assert {name: {"layout": p.document["layout"], "run_hash": p.hash} for name, p in found.items()} == golden
    assert {name: p.layout for name, p in found.items()} == {n: r.estimator.layout for n, r in layouts.items()}


def test_one_gpu_for_the_one_process_is_the_default_and_not_written() -> None:
    assert plan(estimator(use_gpu=True)).hash == plan(estimator(use_gpu=True, layout=Layout(gpus_per_process=1))).hash
    assert plan(estimator(use_gpu=True)).layout == Layout(gpus_per_process=1)
    assert plan().layout == Layout()


def test_the_command_line_is_rendered_from_the_structure() -> None:
    command = plan().command("/env/bin/python", {"d": "/work/inputs/d"})
    assert command == ("/env/bin/python", "train.py", "--data", "/work/inputs/d", "--lr", "0.1", "--v", "x", "")


def test_a_notebook_is_executed_by_papermill_with_flags_as_parameters() -> None:
    notebook = plan(estimator(entry_script="nb/a.ipynb", arguments=()))
    assert notebook.command("python", {"d": "/inputs/d"}) == (
        "python", "-m", "papermill", "nb/a.ipynb", "outputs/a.output.ipynb", "-k", "python3", "--no-progress-bar",
        "--log-output", "-p", "data", "/inputs/d", "-p", "lr", "0.1", "-p", "v", "True",
    )  # fmt: skip


def test_a_stored_plan_reads_back_and_a_changed_one_is_refused() -> None:
    content = json.loads(json.dumps(plan().to_json()))
    assert load_plan(content, plan().hash) == plan()
    assert not {"retries", "heartbeat_seconds"} & set(content["recorded"]), "so that older records read the same"
    full = FULL.of_estimator(retries=1, heartbeat_seconds=9.5).plan
    assert load_plan(json.loads(json.dumps(full.to_json())), full.hash) == full
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

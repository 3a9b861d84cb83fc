"""`Estimator`, `Experiment` and `Run` in Python: the same hash as the recipe, and everything a run is asked for."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import repro_est
from repro_est.api.dataset import Dataset
from repro_est.api.distributed import MpiConfiguration
from repro_est.api.environment import Environment
from repro_est.api.estimator import Estimator
from repro_est.api.experiment import Experiment
from repro_est.api.run import Run
from repro_est.api.scriptrunconfig import ScriptRunConfig
from repro_est.api.workspace import Workspace
from repro_est.errors import (
    InfrastructureError,
    InputError,
    Interrupted,
    RecipeError,
    ReproError,
    ScriptFailed,
    TimedOut,
    UsageError,
)
from tests.conftest import PackageIndex, Workshop

REPOSITORY = Path(__file__).parent.parent

LOGS = "from repro_est import Run\nrun = Run.get_context()\n"


@pytest.fixture
def job(workshop: Workshop) -> Workshop:
    """A project with a source directory `job`."""
    workshop.write("job/train.py", LOGS + "run.log('accuracy', 0.5)\nopen('outputs/model.pkl', 'w').write('m')\n")
    return workshop


def submitted(script: str, workshop: Workshop, **keywords: Any) -> Run:
    workshop.write("job/train.py", LOGS + script)
    return Experiment("tests").submit(Estimator("job", entry_script="train.py", **keywords))


# ---- one hash


def test_a_recipe_and_the_same_thing_in_python_are_one_run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("REPRO_STORE", str(workshop.root / "cache"))
    said = workshop.repro("plan", "recipes/digits.toml", "--json").json
    digits = Dataset.File.from_files("recipes/data/digits").as_named_input("digits")
    written = Estimator(
        "digits",
        entry_script="train.py",
        script_params={"--data-folder": digits.as_mount(), "--regularization": 0.5},
        pip_packages=["scikit-learn>=1.5", "matplotlib>=3.9", "joblib>=1.4", "numpy>=2"],
        name="digits",
        directory="recipes",
    )
    read = Estimator.from_recipe("recipes/digits.toml")
    assert read.plan().to_json() == said
    assert written.plan().run_hash == said["run_hash"]
    assert Estimator.from_recipe("recipes/digits.toml", ["script_params.--regularization=0.1"]).plan() != read.plan()


@pytest.mark.parametrize("recipe", sorted(path.name for path in (REPOSITORY / "recipes").glob("*.toml")))
def test_every_shipped_recipe_goes_through_python_and_back(recipe: str, tmp_path: Path) -> None:
    path = REPOSITORY / "recipes" / recipe
    read = Estimator.from_recipe(path)
    again = tmp_path / recipe
    again.write_text(read.to_recipe())
    import tomli

    assert tomli.loads(again.read_text()) == tomli.loads(path.read_text())


def test_a_recipe_that_extends_another_stays_one(job: Workshop) -> None:
    job.write("base.toml", '[estimator]\nsource_directory = "job"\nentry_script = "train.py"\n')
    job.write("more.toml", 'extends = "base.toml"\nsalt = "x"\n')
    assert (
        Estimator.from_recipe("more.toml").plan().run_hash == job.repro("plan", "more.toml", "--json").json["run_hash"]
    )


def test_the_plan_says_whether_it_is_there(job: Workshop) -> None:
    estimator = Estimator("job", entry_script="train.py")
    assert not estimator.plan().cached
    Experiment("tests").submit(estimator).wait_for_completion()
    assert estimator.plan().cached_where == "store"


def test_a_scriptrunconfig_is_the_same_run_as_arguments(job: Workshop) -> None:
    config = ScriptRunConfig("job", script="train.py", arguments=["--lr", 0.1], environment=Environment("plain"))
    assert (
        config.estimator.plan().run_hash
        == Estimator("job", entry_script="train.py", arguments=["--lr", 0.1]).plan().run_hash
    )


def test_no_argument_is_changed(job: Workshop) -> None:
    (job.root / "data").mkdir()
    (job.root / "data/x").write_text("x")
    arguments: dict[str, Any] = {
        "script_params": {"--a": [1, 2], "--data": Dataset.File.from_files("data").as_named_input("d").as_mount()},
        "environment_variables": {"A": "b"},
        "inputs": [],
        "models": {"m": {"path": "outputs/m"}},
        "environment": {"find_links": ["."]},
        "tags": {"a": "b"},
    }
    before = copy.deepcopy(arguments)
    estimator = Estimator("job", entry_script="train.py", **arguments)
    estimator.with_(script_params={"--a": 3})
    Experiment("tests").submit(estimator, script_params={"--b": 4}, tags={"x": "y"})
    assert arguments == before
    assert "--b" not in estimator.to_recipe()


def test_other_parameters_are_laid_over_and_keep_their_place(job: Workshop) -> None:
    estimator = Estimator("job", entry_script="train.py", script_params={"--v": "", "--lr": 0.1, "--x": 1})
    changed = estimator.with_(script_params={"--lr": 0.5}).plan().document["script_params"]
    assert changed == [["--v", []], ["--lr", ["0.5"]], ["--x", ["1"]]]


# ---- what is wrong is said when it is made


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"entry_script": "tarin.py"}, "did you mean `train.py`"),
        ({"node_count": 2}, "distributed_training"),
        (
            {"environment_definition": Environment("e"), "pip_packages": ["x"]},
            "environment_definition and pip_packages",
        ),
        ({"environment_definition": "AzureML-Minimal"}, "expected an Environment"),
        ({"script_params": {"--flag": True}}, "bare flag"),
        ({"script_params": {"--x": object()}}, "script_params.--x"),
        ({"pip_package": ["x"]}, "did you mean `pip_packages`"),
        ({"pip_packages": "numpy"}, "expected a list"),
        ({"vm_size": "STANDARD_NC6"}, "compute_target"),
        ({"custom_docker_image": "a", "custom_docker_base_image": "b"}, "old name"),
        ({"custom_docker_image": "team/base:1", "use_docker": False}, "needs a container"),
        ({"image_registry_details": {"address": "r:5000", "username": "u", "password": "p"}}, "docker login"),
        ({"compute_target": 7}, "expected a name"),
        ({"inputs": ["data"]}, "as_named_input"),
        ({"inputs": {"d": "nowhere"}}, "no such file"),
        ({"max_run_duration_seconds": -1}, "more than 0"),
        ({"models": {"m": "model.pkl"}}, "below `outputs/`"),
        ({"resume_from": 7}, "run:HASH/outputs"),
        ({"framework_version": "1.4"}, "no such parameter"),
    ],
)
def test_what_is_wrong_is_said_at_construction(job: Workshop, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        Estimator("job", **{"entry_script": "train.py", **keywords})


def test_everything_wrong_is_said_at_once(job: Workshop) -> None:
    with pytest.raises(RecipeError) as error:
        Estimator("job", entry_script="train.py", node_count=0, gpu_binding="x", inputs={"a": "nowhere"})
    assert len(error.value.problems) == 3


# ---- a run, from outside


def test_a_run_is_asked_for_followed_and_looked_at(job: Workshop) -> None:
    run = submitted(
        textwrap.dedent(
            """
            for step in range(3):
                run.log("loss", 1 / (step + 1), step=step)
            run.log("accuracy", 0.97)
            run.tag("kind", "test")
            run.add_properties({"author": "me"})
            print("hello from the script")
            open("outputs/model.pkl", "w").write("m")
            with run.child_run("fold") as child:
                child.log("accuracy", 0.5)
            """
        ),
        job,
        tags={"team": "a"},
    )
    out = io.StringIO()
    details = run.wait_for_completion(show_output=True, stream=out)
    assert "hello from the script" in out.getvalue()
    assert (run.status, run.get_status(), details["status"], details["runId"]) == (
        "Completed",
        "Completed",
        "Completed",
        run.id,
    )
    assert run.get_metrics() == {"loss": [1.0, 0.5, 1 / 3], "accuracy": 0.97}
    assert [(step, value) for step, value, _ in run.get_series("loss")] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert run.tags == {"team": "a", "kind": "test"}
    assert run.properties == {"author": "me"}
    [child] = run.get_children()
    assert (child.name, child.get_metrics(), child.parent, child.get_status()) == (
        "fold",
        {"accuracy": 0.5},
        run,
        "Completed",
    )
    assert run.get_metrics(recursive=True)[child.id] == {"accuracy": 0.5}
    assert {"outputs/model.pkl", "logs/rank-0/stdout.log", "logs/rank-0/run.jsonl"} <= set(run.get_file_names())
    assert details["properties"]["ContentSnapshotId"] == run.get_snapshot_id()
    assert run.experiment.name == "tests"
    assert Run.get(None, run.id[:12]) == run


def test_a_run_that_is_there_is_returned_at_once(job: Workshop) -> None:
    estimator = Estimator("job", entry_script="train.py", models={"m": "outputs/model.pkl"})
    first = Experiment("tests").submit(estimator)
    first.wait_for_completion()
    second = Experiment("others").submit(estimator)
    assert second.cached
    assert (second.id, second.get_status(), second.number) == (first.id, "Completed", 1)
    assert [run.id for run in Experiment("others").get_runs()] == [first.id]


def test_the_run_goes_on_when_whoever_asked_dies(job: Workshop) -> None:
    job.write("job/train.py", LOGS + "import time\ntime.sleep(1.5)\nrun.log('done', 1)\n")
    script = (
        "from repro_est import Estimator, Experiment\nimport os\n"
        "print(Experiment('tests').submit(Estimator('job', entry_script='train.py')).id, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=job.root)
    assert done.returncode == -signal.SIGKILL
    run = Run(None, done.stdout.strip())
    assert run.wait_for_completion()["status"] == "Completed"
    assert run.get_metrics() == {"done": 1}


def test_metrics_and_files_can_be_read_while_it_runs(job: Workshop) -> None:
    run = submitted("import time\nopen('outputs/part', 'w').write('1')\nrun.log('a', 1)\ntime.sleep(60)\n", job)
    try:
        until = time.monotonic() + 30
        while not run.get_metrics() and time.monotonic() < until:
            time.sleep(0.05)
        assert run.get_status() == "Running"
        assert run.get_metrics() == {"a": 1}
        assert "outputs/part" in run.get_file_names()
        run.download_file("outputs/part", str(job.root / "part"))
        assert (job.root / "part").read_text() == "1"
    finally:
        run.cancel()
    assert run.get_status() == "Canceled"
    with pytest.raises(Interrupted):
        run.wait_for_completion()
    assert run.wait_for_completion(raise_on_error=False)["status"] == "Canceled"
    with pytest.raises(UsageError, match="not running"):
        run.cancel()


@pytest.mark.parametrize(
    ("script", "keywords", "error", "words"),
    [
        ("raise ValueError('diverged')", {}, ScriptFailed, "ValueError: diverged"),
        ("run.fail('no good')", {}, ScriptFailed, "no good"),
        ("import time; time.sleep(60)", {"max_run_duration_seconds": 1}, TimedOut, "longer than it may"),
        ("pass", {"outputs": ["outputs/x"]}, ScriptFailed, "not written"),
        ("pass", {"compute_target": "nowhere"}, InfrastructureError, "no inventory"),
    ],
)
def test_waiting_raises_for_whatever_is_no_success(
    job: Workshop, script: str, keywords: dict[str, Any], error: type[ReproError], words: str
) -> None:
    run = submitted(script + "\n", job, **keywords)
    with pytest.raises(error, match=words):
        run.wait_for_completion()
    assert run.get_status() == "Failed"
    assert run.wait_for_completion(raise_on_error=False)["status"] == "Failed"


def test_asking_twice_at_once_executes_once(job: Workshop) -> None:
    job.write("job/train.py", "import time; time.sleep(1)")
    estimator = Estimator("job", entry_script="train.py")
    runs = [Experiment("tests").submit(estimator) for _ in range(3)]
    for run in runs:
        run.wait_for_completion()
    assert len({run.id for run in runs}) == 1
    assert runs[0].number == 1


def test_a_secret_that_is_not_set_is_said_at_once(job: Workshop) -> None:
    with pytest.raises(UsageError, match="NOT_THERE"):
        submitted("pass\n", job, secrets=["NOT_THERE"])


def test_files_are_copied_checked_and_stay_inside(job: Workshop) -> None:
    run = submitted(
        "import os\nos.makedirs('outputs/a')\nopen('outputs/a/b', 'w').write('1')\nopen('outputs/c', 'w').write('2')\n",
        job,
    )
    run.wait_for_completion()
    target = job.root / "down"
    assert run.download_file("a/b", target / "x") == str(target / "x")
    assert run.download_files("outputs/a", target, append_prefix=False) == [str(target / "b")]
    assert run.download_files("outputs", target) == [str(target / "outputs/a/b"), str(target / "outputs/c")]
    for name in ("../c", "/etc/passwd", "outputs/../../x"):
        with pytest.raises(InputError, match="inside of the run"):
            run.download_file(name)
    with pytest.raises(InputError, match="did you mean `outputs/c`"):
        run.download_file("outputs/cc")
    blob = job.store.layout.run(run.id) / "outputs/c"  # type: ignore[arg-type]
    path = Path(os.path.realpath(blob))
    os.chmod(path, 0o644)
    path.write_text("3")
    with pytest.raises(ReproError):
        run.download_file("c", target / "bad")


def test_tags_change_and_properties_do_not(job: Workshop) -> None:
    run = submitted("run.add_properties({'a': '1'})\n", job, tags={"of": "recipe"})
    run.wait_for_completion()
    run.set_tags({"x": "1", "y": "2"})
    run.tag("x", "3")
    run.remove_tags(["y", "of"])
    assert run.get_tags() == {"x": "3"}
    assert job.repro("ls", "--tag", "x=3", "--json").json[0]["run_hash"] == run.id
    assert job.repro("ls", "--tag", "of", "--json").json == []
    run.add_properties({"b": "2"})
    with pytest.raises(UsageError, match="never change"):
        run.add_properties({"a": "2"})
    assert run.get_properties() == {"a": "1", "b": "2"}
    run.display_name = "the good one"
    assert Run(None, run.id).display_name == "the good one"


def test_a_model_is_registered_from_outside_and_from_inside(job: Workshop) -> None:
    run = submitted(
        "open('outputs/model.pkl', 'w').write('m')\n"
        "run.register_model('inside', 'outputs/model.pkl', tags={'a': 'b'}, model_framework='Custom')\n",
        job,
    )
    run.wait_for_completion()
    model = run.register_model("outside", "model.pkl", tags={"x": "y"})
    assert (model.name, model.version, model.run_id, dict(model.tags)) == ("outside", 1, run.id, {"x": "y"})
    assert run.register_model("outside", "outputs/model.pkl").version == 1
    assert set(Workspace().models) == {"inside", "outside"}
    with pytest.raises(InputError, match=r"outputs/model\.pkl"):
        run.register_model("other", "outputs/modle.pkl")


def test_the_environment_of_a_run_says_its_packages(job: Workshop, index: PackageIndex) -> None:
    index.wheel("tiny", "2.0")
    run = submitted("import tiny\n", job, pip_packages=["tiny"], environment={"index_url": index.url})
    run.wait_for_completion()
    assert run.get_environment().packages == {"tiny": "2.0"}


def test_the_source_of_a_run_can_be_had_again(job: Workshop) -> None:
    run = submitted("pass\n", job)
    run.wait_for_completion()
    job.write("job/train.py", "changed")
    where = run.restore_snapshot(path=job.root / "then")
    assert Path(where, "train.py").read_text() == LOGS + "pass\n"


def test_runs_of_an_experiment_are_found_by_tag_and_status(job: Workshop) -> None:
    good = submitted("pass\n", job, tags={"kind": "good"})
    bad = submitted("raise SystemExit(3)\n", job)
    good.wait_for_completion()
    bad.wait_for_completion(raise_on_error=False)
    experiment = Experiment(Workspace(), "tests")
    assert {run.id for run in experiment.get_runs()} == {good.id, bad.id}
    assert [run.id for run in experiment.get_runs(tags={"kind": "good"})] == [good.id]
    assert [run.id for run in experiment.get_runs(status="Failed")] == [bad.id]
    assert [item.name for item in Experiment.list()] == ["tests"]
    with pytest.raises(UsageError, match="name"):
        Experiment("no/name")


def test_a_run_takes_nothing_from_outside(job: Workshop) -> None:
    run = submitted("pass\n", job)
    run.wait_for_completion()
    for call in (lambda: run.log("a", 1), lambda: run.upload_file("a", "b")):
        with pytest.raises(UsageError, match="in the script"):
            call()


def test_mpi_of_one_machine_is_asked_for_in_python(job: Workshop) -> None:
    estimator = Estimator(
        "job", entry_script="train.py", distributed_training=MpiConfiguration(process_count_per_node=2)
    )
    assert estimator.plan().document["layout"] == {"backend": "mpi", "process_count_per_node": 2}


# ---- the package


def test_every_public_name_is_there_and_listed() -> None:
    for name in repro_est.__all__:
        assert getattr(repro_est, name) is not None
    assert set(repro_est.__all__) <= set(dir(repro_est))
    with pytest.raises(AttributeError):
        repro_est.NoSuchThing  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    script = "import sys, repro_est; print(json.dumps(sorted(n for n in sys.modules if n.startswith('repro_est'))))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json, {script[7:]}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["repro_est"]


def test_a_script_without_repro_has_the_same_run(tmp_path: Path) -> None:
    script = "from repro_est import Run\nrun = Run.get_context()\nrun.log('m', 1)\nprint(run.get_metrics(), type(run).__module__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "{'m': 1} repro_est.inside.run\n"


def test_a_notebook_shows_a_table_with_a_link_to_the_page(job: Workshop) -> None:
    run = submitted("run.log('accuracy', 0.5)\n", job)
    run.wait_for_completion()
    shown = run._repr_html_()
    assert "accuracy" in shown
    assert run.get_portal_url() in shown
    assert Path(run.get_portal_url().removeprefix("file://")).is_file()


def test_a_stale_lock_is_made_anew_when_asked_to(job: Workshop, index: PackageIndex) -> None:
    index.wheel("tiny", "1.0")
    index.wheel("other", "1.0")
    settings = {"index_url": index.url}
    Estimator("job", entry_script="train.py", pip_packages=["tiny"], environment=settings).plan()
    changed = Estimator("job", entry_script="train.py", pip_packages=["other"], environment=settings)
    with pytest.raises(ReproError, match="relock=True"):
        changed.plan()
    changed.plan(relock=True)
    Experiment("tests").submit(changed).wait_for_completion()


def test_waiting_for_a_run_that_was_removed_is_an_error(job: Workshop) -> None:
    run = submitted("pass\n", job)
    run.wait_for_completion()
    shutil.rmtree(job.store.layout.run(run._hash))
    with pytest.raises(InfrastructureError, match="was removed"):
        run.wait_for_completion()


def test_words_that_mean_nothing_are_no_empty_answers(job: Workshop) -> None:
    with pytest.raises(UsageError, match="expected one of NotStarted"):
        list(Experiment("tests").get_runs(status="completed"))
    for keywords in ({"outputs": "outputs/x"}, {"secrets": "TOKEN"}, {"script_params": [1]}, {"models": {"a": 1}}):
        with pytest.raises(UsageError, match="expected a"):
            Estimator("job", entry_script="train.py", **keywords)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="run hash"):
        Run(None, 5)  # type: ignore[arg-type]

"""What a script records of its run: `Run.log` and its kin, kept through kill -9, read back as Azure ML would."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from repro_est.inside.history import Growing, History, read, read_run
from repro_est.inside.record import Record
from repro_est.inside.run import Context, Run, RunError
from repro_est.targets.parcel import parcel, unpack
from tests.conftest import Workshop


def run_in(directory: Path, **variables: str) -> Run:
    """A run whose files are below a directory."""
    for name in ("outputs", "logs"):
        (directory / name).mkdir(exist_ok=True)
    own = {"REPRO_RUN": "ab" * 16, "REPRO_OUTPUTS": str(directory / "outputs"), "REPRO_LOGS": str(directory / "logs")}
    return Run(Context({**own, **variables}))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path)


def history(tmp_path: Path, child: str = "") -> History:
    return read_run(str(tmp_path / "logs"), child)


def test_a_record_can_be_read_on_as_it_grows(run: Run, tmp_path: Path) -> None:
    growing = Growing(str(tmp_path / "logs" / "rank-0" / "run.jsonl"))
    assert growing.look().metrics == {}
    for value in range(3):
        run.log("m", value)
        assert growing.look().view() == run.get_metrics()


def test_steps_that_are_always_0_are_counted(run: Run, tmp_path: Path) -> None:
    for name, steps in (("none", [None, None]), ("zero", [0, 0]), ("some", [0, 5])):
        for step in steps:
            run.log(name, 1, step=step)
    found = {name: [step for step, _, _ in history(tmp_path).series(name)] for name in ("none", "zero", "some")}
    assert found == {"none": [0, 1], "zero": [0, 1], "some": [0, 5]}


# ---- metrics


def test_a_value_logged_once_is_a_value_and_several_are_a_list(run: Run) -> None:
    run.log("once", 1)
    for value in (1.5, 2.5):
        run.log("twice", value)
    assert run.get_metrics() == {"once": 1, "twice": [1.5, 2.5]}
    assert run.get_metrics("once") == {"once": 1}


def test_nan_and_infinity_are_kept(run: Run) -> None:
    for value in (math.nan, math.inf, -math.inf):
        run.log("m", value)
    found = run.get_metrics()["m"]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("value", [True, None, "text", 10**30, -0.0, 5e-324, "\ud800 lone", 'q"\n'])
def test_every_scalar_comes_back_as_it_was(run: Run, value: object) -> None:
    run.log("m", value)
    assert run.get_metrics() == {"m": value}


def test_scalars_of_numpy_become_plain_numbers(run: Run) -> None:
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.array(2.5)):
        run.log("m", value)
    run.log_list("l", numpy.arange(3))
    assert run.get_metrics() == {"m": [0.5, 3, True, 2.5], "l": [0, 1, 2]}
    with pytest.raises(TypeError, match=r"m: got array.*ndarray.*log_list"):
        run.log("m", numpy.arange(3))


@pytest.mark.parametrize("value", [[1], (1,), {"a": 1}, range(3), object(), 1j, b"bytes"])
def test_anything_else_in_log_is_an_error_that_names_it(run: Run, value: object) -> None:
    with pytest.raises(TypeError, match=r"bad: got .*expected a number"):
        run.log("bad", value)
    assert run.get_metrics() == {}


def test_a_step_is_an_integer(run: Run) -> None:
    run.log("loss", 1.0, step=10)
    with pytest.raises(TypeError, match="step"):
        run.log("loss", 1.0, step=1.5)  # type: ignore[arg-type]


def test_rows_make_a_table_of_columns(run: Run) -> None:
    run.log_row("single", x=1, y=2)
    for x in range(3):
        run.log_row("several", x=x, y=x * x)
    run.log_table("table", {"a": [1, 2], "b": ["x", "y"]})
    assert run.get_metrics() == {
        "single": {"x": 1, "y": 2},
        "several": {"x": [0, 1, 2], "y": [0, 1, 4]},
        "table": {"a": [1, 2], "b": ["x", "y"]},
    }


def test_columns_of_several_lengths_and_lists_in_cells_are_errors(run: Run) -> None:
    with pytest.raises(ValueError, match="several lengths"):
        run.log_table("t", {"a": [1], "b": [1, 2]})
    with pytest.raises(TypeError, match=r"r\.x"):
        run.log_row("r", x=[1])
    with pytest.raises(ValueError, match="no columns"):
        run.log_row("r")


def test_a_confusion_matrix_is_kept_with_its_type(run: Run) -> None:
    content = {
        "schema_type": "confusion_matrix",
        "schema_version": "v1",
        "data": {"class_labels": ["a"], "matrix": [[1]]},
    }
    run.log_confusion_matrix("cm", json.dumps(content))
    assert run.get_metrics() == {"cm": content}
    with pytest.raises(ValueError, match="schema_type"):
        run.log_residuals("r", content)


def test_a_picture_is_kept_in_outputs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    run.log_image("my plot", path=str(tmp_path / "a.png"))
    run.log_image("my plot", path=str(tmp_path / "a.png"))
    assert run.get_metrics() == {"my plot": ["outputs/images/my_plot-1.png", "outputs/images/my_plot-2.png"]}
    with pytest.raises(ValueError, match="either"):
        run.log_image("x")


# ---- its end, tags, properties


def test_nothing_can_be_logged_after_the_end(run: Run) -> None:
    run.complete()
    for call in (lambda: run.log("m", 1), lambda: run.tag("a", "b"), lambda: run.log_list("m", [1]), run.complete):
        with pytest.raises(RunError, match="has ended"):
            call()


def test_a_property_is_set_once_and_a_tag_again_and_again(run: Run, tmp_path: Path) -> None:
    run.tag("state", "1")
    run.set_tags({"state": "2", "other": "x"})
    run.remove_tags(["other"])
    run.add_properties({"author": "me"})
    with pytest.raises(ValueError, match="never changes"):
        run.add_properties({"author": "you"})
    found = history(tmp_path)
    assert (found.tags, found.properties) == ({"state": "2"}, {"author": "me"})
    assert run.get_tags() == {"state": "2"}


def test_children_have_records_of_their_own(run: Run, tmp_path: Path) -> None:
    with run.child_run("fold") as child:
        child.log("accuracy", 0.5)
        with child.child_run() as grandchild:
            grandchild.log("accuracy", 0.25)
    with pytest.raises(ZeroDivisionError), run.child_run() as failing:
        raise ZeroDivisionError("no")
    assert [(item.id, item.name) for item in run.get_children(recursive=True)] == [
        (f"{run.id}/1", "fold"),
        (f"{run.id}/1/1", ""),
        (f"{run.id}/2", ""),
    ]
    assert history(tmp_path, "1").scalars() == {"accuracy": 0.5}
    assert history(tmp_path, "1.1").end == ("completed", None)
    assert history(tmp_path, "2").end == ("failed", "ZeroDivisionError: no")
    assert failing.get_status() == "Failed"
    assert run.get_metrics(recursive=True)[f"{run.id}/1"] == {"accuracy": 0.5, f"{run.id}/1/1": {"accuracy": 0.25}}


def test_children_begun_by_several_processes_share_no_record(run: Run, tmp_path: Path) -> None:
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(25):
                run.child_run().log("m", 1)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    children = [child.id for child in run.get_children()]
    assert len(children) == len(set(children)) == 100
    assert all(child.get_metrics() == {"m": 1} for child in run.get_children())


def test_create_children_makes_one_for_each_value_of_a_tag(run: Run, tmp_path: Path) -> None:
    children = run.create_children(tag_key="lr", tag_values=[str(n) for n in range(101)])
    assert len(children) == 101
    assert history(tmp_path, "101").tags == {"lr": "100"}


# ---- files, models, inputs, secrets


def test_uploads_stay_inside_of_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert run.upload_file("model.pkl", str(tmp_path / "f")) == "outputs/model.pkl"
    with open(tmp_path / "f", "rb") as stream:
        assert run.upload_file("logs/l.txt", stream) == "logs/l.txt"
    (tmp_path / "outputs" / "away").symlink_to("/tmp")
    for name in ("../x", "/etc/x", "outputs/../../x", "a/../../x", "", "outputs", "outputs/away/x", "x\0y"):
        with pytest.raises(ValueError, match="got the name"):
            run.upload_file(name, str(tmp_path / "f"))
    assert set(run.get_file_names()) == {"outputs/model.pkl", "logs/l.txt"}


def test_a_folder_is_uploaded_whole(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("x")
    assert run.upload_folder("data", str(tmp_path / "d")) == ["outputs/data/e/f"]
    with pytest.raises(NotADirectoryError):
        run.upload_folder("data", str(tmp_path / "nowhere"))


def test_a_wrong_model_path_lists_the_candidates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "outputs/model.pkl").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"candidates: outputs/model\.pkl"):
        run.register_model("m", "outputs/modle.pkl")
    with pytest.raises(ValueError, match="model name"):
        run.register_model("-bad", "outputs/model.pkl")
    run.register_model(
        "m", "outputs/model.pkl", tags={"a": "b"}, model_framework="sklearn", model_framework_version="1"
    )
    assert [model["path"] for model in history(tmp_path).models] == ["outputs/model.pkl"]


def test_inputs_and_secrets_are_those_that_were_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    run = run_in(tmp_path, REPRO_INPUT_digits="/inputs/digits", REPRO_SECRETS="TOKEN,OTHER")
    assert run.input_datasets["digits"] == "/inputs/digits"
    with pytest.raises(KeyError, match="the run's inputs are: digits"):
        run.input_datasets["digit"]
    assert run.get_secret("TOKEN") == "hunter2"
    with pytest.raises(KeyError, match="not declared"):
        run.get_secret("HOME")


# ---- who writes


def test_only_rank_0_writes_unless_told(tmp_path: Path) -> None:
    other = run_in(tmp_path, REPRO_RANK="3")
    other.log("m", 3)
    other.upload_file("x", __file__)
    assert list((tmp_path / "logs").iterdir()) == []
    assert list((tmp_path / "outputs").iterdir()) == []
    with pytest.raises(TypeError):
        other.log("m", [1])
    other._context.writes = True
    other.log("m", 3)
    run_in(tmp_path).log("m", 0)
    assert history(tmp_path).view() == {"m": [0, 3]}


def test_what_was_logged_survives_kill_9(tmp_path: Path) -> None:
    unpack(tmp_path / "modules", azureml=False)
    script = "import os\nfrom repro_est import Run\nfor i in range(1000): Run.get_context().log('i', i)\nos.kill(os.getpid(), 9)"
    variables = {"REPRO_RUN": "x", "REPRO_OUTPUTS": str(tmp_path), "REPRO_LOGS": str(tmp_path / "logs")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**variables, "PYTHONPATH": str(tmp_path / "modules")}
    )
    assert done.returncode == -signal.SIGKILL
    assert history(tmp_path).view() == {"i": list(range(1000))}


def test_processes_that_log_at_once_lose_nothing(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "run.jsonl"))
    record.scalar("first", 1, None)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            for step in range(500):
                record.scalar(f"m{number}", step, step)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found = read(record.path).view()
    assert all(found[f"m{number}"] == list(range(500)) for number in range(4))


def test_torn_and_unknown_lines_are_skipped(tmp_path: Path) -> None:
    lines = [
        '["m","a",1,null,0.0]',
        '["later","x",1]',
        "",
        '["m","a",',
        "{}",
        "7",
        '["m","a",2,null,0.0]',
        "[" * 100_000 + "]" * 100_000,
        '["m","a",3',
    ]
    (tmp_path / "run.jsonl").write_text("\n".join(lines))
    assert read(str(tmp_path / "run.jsonl")).view() == {"a": [1, 2]}


@pytest.mark.parametrize(
    "line",
    [
        '["m",["x"],1,0,1.0]', '["m","x",1]', '["list","x",5,0,1.0]', '["row","x",5,0,1.0]', '["object","x","t",5,0,1.0]',
        '["image","x",5,0,1.0]', '["tag",["x"],1,1.0]', '["param",{},1,1.0]', '["child",1,"n",1.0]', '["model",5,1.0]',
        '["model",{"name":"x"},1.0]', '[["m"],"x",1,0,1.0]',
    ],
)  # fmt: skip
def test_a_line_that_is_not_what_its_kind_must_be_is_skipped(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.jsonl").write_text(f'["m","a",1,null,0.0]\n{line}\n')
    history = read(str(tmp_path / "run.jsonl"))
    assert (history.view(), history.models, history.params, history.tags) == ({"a": 1}, [], {}, {})


def test_a_full_disk_is_an_error_and_what_was_logged_stays(small_disk: Callable[[int], Path]) -> None:
    record = Record(str(small_disk(1 << 20) / "logs" / "run.jsonl"))

    def log_for_ever() -> None:
        for number in itertools.count():
            record.scalar("m" * 500, number, None)

    with pytest.raises(OSError, match="No space left"):
        log_for_ever()
    kept = read(record.path).view()["m" * 500]
    assert kept == list(range(len(kept)))
    assert len(kept) > 100


# ---- in a run


def test_outside_of_a_run_it_is_the_same_object(tmp_path: Path) -> None:
    unpack(tmp_path / "modules", azureml=False)
    script = textwrap.dedent(
        """
        from repro_est import Run
        run = Run.get_context()
        assert run is Run.get_context()
        run.log("m", 1, step=2)
        run.tag("a", "b")
        print(run.get_metrics(), run.input_datasets, run.experiment.name)
        try:
            Run.get_context(allow_offline=False)
        except RuntimeError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "modules")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("{'m': 1} {}")
    assert "repro run RECIPE" in done.stdout
    assert len(list(tmp_path.glob("logs/offline/offline-*/run.jsonl"))) == 1


def test_logged_metrics_are_metrics_of_the_run(workshop: Workshop) -> None:
    recipe = workshop.recipe(
        "from repro_est import Run\nrun = Run.get_context()\nfor i in range(3): run.log('loss', 1 / (i + 1), step=i)\n"
        "run.log('note', 'text')\nopen('outputs/metrics.json', 'w').write('{\"accuracy\": 0.5}')\n"
    )
    assert workshop.repro("run", recipe).code == 0
    assert workshop.repro("show", "@", "--json").json["metrics"] == {"accuracy": 0.5, "loss": 1 / 3}


def test_run_fail_makes_a_failure_whatever_the_exit_code(workshop: Workshop) -> None:
    recipe = workshop.recipe("from repro_est import Run\nRun.get_context().fail('diverged', error_code=7)\n")
    done = workshop.repro("run", recipe)
    assert done.code == 1
    assert "it called run.fail: 7: diverged" in done.err


def test_a_script_that_logs_numbers_does_not_wait_for_json(tmp_path: Path) -> None:
    unpack(tmp_path / "modules", azureml=False)
    code = (
        "import sys; from repro_est import Run; Run.get_context().log('a', 1.5, step=1); print('json' in sys.modules)"
    )
    variables = {"PYTHONPATH": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\x7f", "Größe", "\u2028", "", "a b/c.d"])
def test_any_text_can_be_a_name(run: Run, name: str) -> None:
    run.log(name, 1)
    run.log_list("l", [name])
    assert run.get_metrics() == {name: 1, "l": [name]}


@pytest.mark.parametrize("size", [1, 40, 1 << 20])
def test_a_record_is_read_the_same_in_pieces_of_any_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for value in range(100):
        run.log("m", value)
        run.log_list("l", ["x" * value])
    with open(tmp_path / "logs/rank-0/run.jsonl", "a") as file:
        file.write('["m","m",100')  # being written
    monkeypatch.setattr("repro_est.inside.history._PIECE", size)
    found = run.get_metrics()
    assert found["m"] == list(range(100))
    assert found["l"] == ["x" * value for value in range(100)]


def test_what_repro_brings_comes_after_a_recipes_own_python_path(workshop: Workshop) -> None:
    workshop.write("job/lib/mine.py", "X = 1\n")
    recipe = workshop.recipe(
        "import mine, os\nfrom repro_est import Run\nprint(os.environ['PYTHONPATH'])",
        estimator='environment_variables = { PYTHONPATH = "lib" }',
    )
    done = workshop.repro("run", recipe)
    assert done.code == 0, done.err
    assert "lib:/" in done.err


def test_everything_that_is_sent_along_is_standard_library_only() -> None:
    import ast

    for name, text in parcel(azureml=True).items():
        if not name.endswith(".py") or name.startswith("repro_est/inside/mlflow_"):  # MLflow loads them
            continue
        for node in ast.walk(ast.parse(text, feature_version=(3, 8))):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for imported in names:
                top = imported.partition(".")[0]
                assert top in sys.stdlib_module_names or top in ("repro_est", "azureml"), f"{name}: {imported}"
                assert top != "repro_est" or imported == "repro_est" or imported.startswith("repro_est.inside"), name


def test_a_script_that_empties_its_logs_goes_on_recording(run: Run, tmp_path: Path) -> None:
    run.log("before", 1)
    shutil.rmtree(tmp_path / "logs")
    run.log("after", 2)
    run.tag("kind", "x")
    assert (run.get_metrics(), history(tmp_path).tags) == ({"after": 2}, {"kind": "x"})


def test_nobody_writes_over_the_record_of_a_run(run: Run) -> None:
    run.log("m", 1)
    for name in ("logs/rank-0/run.jsonl", "logs/rank-0/stdout.log", "logs/./rank-7/x"):
        with pytest.raises(ValueError, match="written by repro"):
            run.upload_file(name, __file__)
    assert run.get_metrics() == {"m": 1}


def test_a_folder_that_holds_the_outputs_is_kept_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    kept = run.upload_folder("outputs/f", str(tmp_path))
    assert "outputs/f/f" in kept
    assert not list((tmp_path / "outputs/f").rglob("outputs/f/f"))


def test_a_name_that_is_no_text_is_refused(run: Run) -> None:
    for name in ("a\ud800", 7, None):
        with pytest.raises((TypeError, ValueError), match="as a name"):
            run.log(name, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cm: got 'x'.*expected JSON"):
        run.log_confusion_matrix("cm", "x")


def test_what_is_for_outside_says_so(run: Run) -> None:
    assert not hasattr(run, "nonsense")
    with pytest.raises(AttributeError, match=r"wait_for_completion: is for outside of the run: repro_est\.Run"):
        run.wait_for_completion()


def test_run_cancel_makes_a_cancelled_run(workshop: Workshop) -> None:
    recipe = workshop.recipe("from repro_est import Run\nRun.get_context().cancel()\n")
    assert workshop.repro("run", recipe).code == 130
    assert workshop.repro("show", "@", "--json").json["status"] == "canceled"

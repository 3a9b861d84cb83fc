"""MLflow in runs: scripts that know nothing of `repro`, MLflow 3 and 2 in locked environments, all of it real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from repro_est.inside.history import History, read_run
from tests.conftest import Workshop

pytestmark = [pytest.mark.network, pytest.mark.xdist_group("mlflow")]

PACKAGES = {
    "MLflow 3": ["mlflow-skinny>=3.4,<4", "pandas", "scikit-learn", "skops"],
    "MLflow 2": ["mlflow-skinny>=2.22,<3", "pandas", "scikit-learn<1.7"],
}


class Trained:
    """A run that has ended: what `repro show` says of it, its record, its outputs."""

    def __init__(self, shown: dict[str, Any]) -> None:
        self.shown = shown
        self.outputs = Path(shown["outputs_path"])
        self._logs = str(Path(shown["logs_path"]))

    def record(self, child: str = "") -> History:
        return read_run(self._logs, child)

    @property
    def files(self) -> set[str]:
        return {path.relative_to(self.outputs).as_posix() for path in self.outputs.rglob("*") if path.is_file()}


class School:
    """A project whose scripts have one version of MLflow."""

    def __init__(self, workshop: Workshop, packages: list[str], lock: Path) -> None:
        self.workshop = workshop
        self._packages, self._lock = packages, lock

    def train(self, script: str, estimator: str = "") -> Trained:
        """Runs a script that must succeed."""
        name = self.workshop.recipe(script, estimator=f"pip_packages = {json.dumps(self._packages)}\n{estimator}")
        lock = self.workshop.root / "job.lock"
        if self._lock.exists():
            shutil.copy(self._lock, lock)
        done = self.workshop.repro("run", name)
        assert done.code == 0, done.err
        shutil.copy(lock, self._lock)
        return Trained(self.workshop.repro("show", "@", "--json").json)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store and the locks of these tests: each environment is made once."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(params=list(PACKAGES))
def school(request: pytest.FixtureRequest, workshop: Workshop, shared: Path, monkeypatch: pytest.MonkeyPatch) -> School:
    monkeypatch.setenv("REPRO_STORE", str(shared / "store"))
    return School(workshop, PACKAGES[request.param], shared / f"{request.param}.lock")


def test_what_a_script_logs_is_of_the_run(school: School) -> None:
    trained = school.train(
        "import mlflow, os\n"
        "mlflow.log_metric('auto', 1)\n"
        "mlflow.log_metrics({'nan': float('nan'), 'inf': float('inf')}, step=3)\n"
        "for i in range(3): mlflow.log_metric('loss', 1 / (i + 1), step=10 * i)\n"
        "mlflow.log_param('rate', 0.5)\n"
        "mlflow.log_params({'depth': 3, 'rate': 0.5})\n"
        "mlflow.set_tags({'stage': 'dev', 'gone': 1})\n"
        "mlflow.delete_tag('gone')\n"
        "run = mlflow.active_run()\n"
        "assert run.info.run_id == os.environ['REPRO_RUN']\n"
        "found = mlflow.get_run(run.info.run_id)\n"
        "assert found.data.metrics['loss'] == 1 / 3 and found.data.params == {'rate': '0.5', 'depth': '3'}\n"
        "assert found.data.tags['stage'] == 'dev' and found.info.status == 'RUNNING'\n"
        "assert len(mlflow.search_runs()) == 1\n"
        "assert os.environ['MLFLOW_DISABLE_TELEMETRY'] == 'true'\n"
    )
    assert trained.shown["metrics"]["loss"] == 1 / 3
    record = trained.record()
    assert [event[2:4] for event in record.metrics["loss"]] == [[1.0, 0], [1 / 2, 10], [1 / 3, 20]]
    assert record.view("inf") == {"inf": float("inf")}
    assert record.params == {"rate": "0.5", "depth": "3"}
    assert record.tags["stage"] == "dev"
    assert "gone" not in record.tags


def test_batches_keep_their_steps_and_times(school: School) -> None:
    trained = school.train(
        "import mlflow\n"
        "from mlflow.entities import Metric, Param, RunTag\n"
        "client = mlflow.MlflowClient()\n"
        "with mlflow.start_run() as run:\n"
        "    points = [Metric('loss', i / 2, 1000 * i + 1, i) for i in range(2500)]\n"
        "    client.log_batch(run.info.run_id, points[:900], [Param('a', 'b')], [RunTag('c', 'd')])\n"
        "    for start in range(900, 2500, 800): client.log_batch(run.info.run_id, points[start:start + 800])\n"
        "    mlflow.log_metric('later', 1, synchronous=False).wait()\n"
        "    history = client.get_metric_history(run.info.run_id, 'loss')\n"
        "    assert [(m.value, m.timestamp, m.step) for m in history] == [(m.value, m.timestamp, m.step) for m in points]\n"
    )
    assert trained.record().series("loss")[2:4] == [(2, 1.0, 2.001), (3, 1.5, 3.001)]
    assert (trained.record().params, trained.record().tags["c"]) == ({"a": "b"}, "d")
    assert trained.shown["metrics"] == {"loss": 2499 / 2, "later": 1.0}


def test_artifacts_are_outputs(school: School) -> None:
    trained = school.train(
        "import mlflow, os\n"
        "mlflow.log_text('hello', 'notes/a.txt')\n"
        "mlflow.log_dict({'a': 1}, 'd.json')\n"
        "mlflow.log_artifact(__file__, 'code')\n"
        "os.makedirs('made/deep'); open('made/deep/b.txt', 'w').write('b')\n"
        "mlflow.log_artifacts('made', 'all')\n"
        "open('outputs/own.txt', 'w').write('own')\n"
        "mlflow.log_artifact('outputs/own.txt')\n"
        "mlflow.log_artifacts('outputs')\n"
        "run = mlflow.active_run().info.run_id\n"
        "path = mlflow.artifacts.download_artifacts(run_id=run, artifact_path='notes/a.txt')\n"
        "assert open(path).read() == 'hello'\n"
        "assert mlflow.get_artifact_uri() == 'file://' + os.environ['REPRO_OUTPUTS']\n"
    )
    assert trained.files == {"notes/a.txt", "d.json", "code/train.py", "all/deep/b.txt", "own.txt"}
    assert (trained.outputs / "own.txt").read_text() == "own"


def test_nested_and_later_runs_are_children(school: School) -> None:
    trained = school.train(
        "import mlflow, os, subprocess, sys\n"
        "mlflow.set_experiment('folds')\n"
        "with mlflow.start_run(run_name='parent') as parent:\n"
        "    mlflow.log_metric('m', 0)\n"
        "    with mlflow.start_run(run_name='fold', nested=True):\n"
        "        mlflow.log_metric('m', 1)\n"
        "        mlflow.log_text('x', 'x.txt')\n"
        "        with mlflow.start_run(nested=True): mlflow.log_metric('m', 2)\n"
        "    other = 'import mlflow\\nwith mlflow.start_run(): mlflow.log_metric(\"m\", 3)'\n"
        "    subprocess.run([sys.executable, '-c', other], check=True)\n"
        "try:\n"
        "    with mlflow.start_run(): mlflow.log_metric('m', 4); 1 / 0\n"
        "except ZeroDivisionError: pass\n"
        "with mlflow.start_run(run_id=parent.info.run_id): mlflow.log_metric('again', 1)\n"
        "runs = mlflow.search_runs(filter_string='metrics.m < 3', order_by=['metrics.m'])\n"
        "assert list(runs['metrics.m']) == [0, 1, 2], runs\n"
        "own = os.environ['REPRO_RUN']\n"
        "assert list(runs['run_id']) == [own, own + '-1', own + '-1-1']\n"
        "assert mlflow.get_run(own + '-1-1').data.tags['mlflow.parentRunId'] == own + '-1'\n"
    )
    assert trained.shown["metrics"] == {"m": 0.0, "again": 1.0}
    children = {"1": 1, "1.1": 2, "2": 3, "3": 4}
    assert {child: trained.record(child).view()["m"] for child in children} == children
    assert trained.record().children == [("1", "fold"), ("2", ""), ("3", "")]
    assert [trained.record(child).end for child in children] == [
        ("completed", None), ("completed", None), ("completed", None), ("failed", None),
    ]  # fmt: skip
    assert trained.record().end is None
    assert (trained.record().tags["mlflow.runName"], trained.record().tags["mlflow.experiment"]) == ("parent", "folds")
    assert trained.files == {"children/1/x.txt"}


def test_autolog_and_models_of_scikit_learn_are_kept(school: School) -> None:
    trained = school.train(
        "import mlflow\n"
        "from sklearn.datasets import load_iris\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "x, y = load_iris(return_X_y=True, as_frame=True)\n"
        "mlflow.sklearn.autolog()\n"
        "with mlflow.start_run() as run:\n"
        "    model = LogisticRegression(max_iter=500).fit(x, y)\n"
        "    mlflow.log_metric('mine', 1)\n"
        "    info = mlflow.sklearn.log_model(model, 'clf', registered_model_name='iris')\n"
        "    assert mlflow.sklearn.load_model(info.model_uri).score(x, y) > 0.9\n"
        "    assert mlflow.sklearn.load_model(f'runs:/{run.info.run_id}/clf').score(x, y) > 0.9\n"
        "    again = mlflow.register_model(info.model_uri, 'flowers', tags={'kind': 'iris'})\n"
        "    print('version', again.version)\n"
        "    if hasattr(mlflow, 'search_logged_models'): assert len(mlflow.search_logged_models(output_format='list')) == 2\n"
    )
    record = trained.record()
    assert trained.shown["metrics"]["training_accuracy_score"] > 0.9
    assert record.params["max_iter"] == "500"
    assert json.loads(record.tags["mlflow.input.dataset"])["source_type"] == "code"
    assert record.view("mine") == {"mine": 1.0}  # log_model of MLflow 3 tells all metrics again
    assert {"clf/MLmodel", "model/MLmodel", "estimator.html"} <= trained.files
    assert [(model["name"], model["path"], model["tags"]) for model in record.models] == [
        ("iris", "outputs/clf", {}),
        ("flowers", "outputs/clf", {"kind": "iris"}),
    ]
    assert {"iris", "flowers"} <= {model["name"] for model in school.workshop.repro("models", "--json").json}


def test_a_parameter_that_changes_and_what_has_no_meaning_are_refused(school: School) -> None:
    trained = school.train(
        "import mlflow, json, os\n"
        "from mlflow.exceptions import MlflowException\n"
        "client, own = mlflow.MlflowClient(), os.environ['REPRO_RUN']\n"
        "client.create_registered_model('m')\n"
        "mlflow.log_param('a', 1)\n"
        "def said(call):\n"
        "    try: call()\n"
        "    except MlflowException as error: return str(error)\n"
        "calls = dict(\n"
        "    param=lambda: mlflow.log_param('a', 2), delete=lambda: client.delete_run(own),\n"
        "    other=lambda: client.get_run('0' * 32), traces=lambda: client.search_traces(['0']),\n"
        "    version=lambda: client.get_model_version('iris', '1'),\n"
        "    alias=lambda: client.set_registered_model_alias('m', 'a', '1'),\n"
        "    load=lambda: mlflow.pyfunc.load_model('models:/iris/1'),\n"
        "    nothing=lambda: client.create_model_version('m', 'runs:/' + own + '/no'),\n"
        "    name=lambda: client.create_registered_model('no/name'), experiment=lambda: client.get_experiment('77'),\n"
        ")\n"
        "json.dump({name: said(call) for name, call in calls.items()}, open('outputs/said.json', 'w'))\n"
    )
    said = json.loads((trained.outputs / "said.json").read_text())
    expected = {
        "param": "got '2', is '1' already",
        "delete": "`delete_run` has no meaning in a run of repro\n\nhint: leave it out",
        "other": "hint: use files of another run as an input of the recipe",
        "traces": "hint: keep what matters by log_metric",
        "version": 'path = "model:NAME@ALIAS"',
        "alias": "`repro model promote`",
        "load": 'path = "model:NAME@ALIAS"',
        "nothing": "hint: log it first",
        "name": "expected letters, digits",
        "experiment": "hint: mlflow.set_experiment(NAME)",
    }
    assert {name: text for name, text in expected.items() if text not in said[name]} == {}
    assert trained.record().params == {"a": "1"}


def test_of_several_ranks_only_the_first_writes_to_the_run(school: School) -> None:
    trained = school.train(
        "import os, subprocess, sys\n"
        "code = '''\n"
        "import mlflow, os\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_metric('rank', int(os.environ['REPRO_RANK']))\n"
        "    mlflow.log_text('x', 'rank-' + os.environ['REPRO_RANK'])\n"
        "    with mlflow.start_run(nested=True): mlflow.log_metric('child', 1)\n"
        "    found = mlflow.get_run(os.environ['REPRO_RUN'])\n"
        "    assert found.data.metrics == {'rank': int(os.environ['REPRO_RANK'])}\n"
        "'''\n"
        "for rank in '10': subprocess.run([sys.executable, '-c', code], env={**os.environ, 'REPRO_RANK': rank}, check=True)\n"
    )
    assert trained.shown["metrics"] == {"rank": 0.0}
    assert trained.record().children == [("1", "")]
    assert trained.files == {"rank-0"}


def test_a_recipe_can_name_another_tracking_server(school: School) -> None:
    trained = school.train(
        "import mlflow\nmlflow.log_metric('m', 1)\nassert mlflow.get_tracking_uri() == 'file:outputs/mlruns'\n",
        'environment_variables = { MLFLOW_TRACKING_URI = "file:outputs/mlruns", MLFLOW_ALLOW_FILE_STORE = "true" }\n',
    )
    assert trained.shown["metrics"] == {}
    assert any(name.endswith("metrics/m") for name in trained.files)

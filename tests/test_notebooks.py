"""Notebooks as entry scripts: what is refused before they run, and real ones executed by a real papermill."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repro_est.recipe.notebook import parameter_name, read_notebook, without_magics
from tests.conftest import PackageIndex, Workshop
from tests.lab.conda_package import Channel

PAPERMILL = 'pip_packages = ["papermill", "ipykernel"]\n'
PARAMETERS = "# defaults\nlr = 0.1\nverbose = False\ndata = ''"


def notebook(*cells: str, tagged: int | None = 0, **more: Any) -> str:
    """The JSON of a notebook with some cells, the one of the number `tagged` for parameters."""
    return json.dumps(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "somebodys-env", "display_name": "x", "language": "python"}},
            "cells": [
                {"cell_type": "markdown", "id": "text", "metadata": {}, "source": ["# A notebook"]},
                *(
                    {
                        "cell_type": "code",
                        "id": f"cell-{number}",
                        "execution_count": None,
                        "metadata": {"tags": ["parameters"]} if number == tagged else {},
                        "outputs": [],
                        "source": text.splitlines(keepends=True),
                    }
                    for number, text in enumerate(cells)
                ),
            ],
            **more,
        }
    )


def recipe(workshop: Workshop, text: str, estimator: str = "", more: str = "") -> str:
    workshop.write("job/explore.ipynb", text)
    lines = f'[estimator]\nsource_directory = "job"\nentry_script = "explore.ipynb"\n{estimator}\n{more}'
    workshop.write("job.toml", lines)
    return "job.toml"


def findings(workshop: Workshop, name: str) -> list[tuple[str, str, str | None]]:
    found = workshop.repro("check", name, "--json").json["findings"]
    return [(item["severity"], item["message"], item["hint"]) for item in found]


@pytest.fixture
def papermill(index: PackageIndex) -> str:
    """An index with packages of the right names, enough for whatever executes nothing."""
    for name in ("papermill", "ipykernel"):
        index.wheel(name)
    return f'[environment]\nindex_url = "{index.url}"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got 'explore.ipynb': is not valid JSON, so no notebook"),
        ("[]", "got JSON without nbformat, expected a notebook of nbformat 4"),
        ('{"nbformat": 3, "worksheets": []}', "got nbformat 3, expected a notebook of nbformat 4: Jupyter saves it as"),
        ('{"nbformat": 4}', "is no notebook of nbformat 4: KeyError('cells')"),
        ('{"nbformat": 4, "cells": [3]}', "is no notebook of nbformat 4"),
        (notebook("x", metadata={"language_info": {"name": "R"}}), "is a notebook in R, expected Python"),
    ],
)
def test_what_is_no_notebook_is_refused_with_its_line(workshop: Workshop, text: str, message: str) -> None:
    done = workshop.repro("plan", recipe(workshop, text))
    assert done.code == 2
    assert "job.toml:3: estimator.entry_script: " in done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ('arguments = ["x"]', "estimator.arguments: goes without a notebook, which has no command line"),
        (
            'script_params = {"--sizes" = [1, 2]}',
            "estimator.script_params.--sizes: got 2 values, and a parameter of a notebook takes one",
        ),
        ('script_params = {"--1st" = 1}', "sets no parameter of a notebook: `1st` is no name of a variable"),
        ('script_params = {"--lambda" = 1}', "`lambda` is no name of a variable"),
        ('script_params = {"--n-x" = 1, "--n_x" = 2}', "--n_x: sets the parameter `n_x`, as --n-x does"),
        ("process_count_per_node = 2", "estimator.entry_script: a notebook is one process, and the recipe asks for 2"),
    ],
)
def test_what_a_notebook_cannot_be_given_is_refused(workshop: Workshop, estimator: str, message: str) -> None:
    done = workshop.repro("plan", recipe(workshop, notebook(PARAMETERS), estimator))
    assert (done.code, message in done.err) == (2, True), done.err


def test_the_lock_must_hold_what_executes_it(workshop: Workshop) -> None:
    name = recipe(workshop, notebook(PARAMETERS))
    for verb in ("plan", "run"):
        done = workshop.repro(verb, name)
        assert done.code == 2
        assert "job.toml:3: estimator.entry_script: is a notebook, and the lock has no papermill and no ipykernel" in (
            done.err
        )
    assert ("error", "is a notebook, and the lock has no papermill and no ipykernel",
            'pip_packages = [..., "papermill", "ipykernel"] in job.toml') in findings(workshop, name)  # fmt: skip


def test_parameters_without_a_cell_for_them_are_pointed_out(workshop: Workshop, papermill: str) -> None:
    params = PAPERMILL + 'script_params = {"--lr" = 0.5}'
    name = recipe(workshop, notebook(PARAMETERS, tagged=None), params, papermill)
    workshop.repro("lock", name)
    ((severity, message, _),) = findings(workshop, name)
    assert (severity, "has no cell with the tag `parameters`" in message) == ("warning", True)
    recipe(workshop, notebook(PARAMETERS), params, papermill)
    assert findings(workshop, name) == []


def test_what_its_cells_import_is_held_against_the_lock(workshop: Workshop, papermill: str) -> None:
    workshop.write("job/helper.py", "import pandas\n")
    workshop.write("job/nb/beside.py", "import scipy\n")
    text = notebook(PARAMETERS, "%matplotlib inline\n!ls\nimport os, helper\nimport numpy", "import azureml.core")
    name = recipe(workshop, text, PAPERMILL, papermill)
    workshop.repro("lock", name)
    assert [(severity, message) for severity, message, _ in findings(workshop, name)] == [
        ("error", "cell 4, line 1: imports `azureml.core`, which the environment does not have"),
        ("error", "cell 3, line 4: imports `numpy`, and the lock has no package `numpy`"),
        ("error", "imports `pandas`, and the lock has no package `pandas`"),
    ]


def test_a_cell_that_is_no_python_is_named(workshop: Workshop, papermill: str) -> None:
    text = notebook("%%bash\nls | wc", "print(1)\nx = = 1", "await thing()", "x = !ls\nprint?\n", "%%time\nimport os")
    name = recipe(workshop, text, PAPERMILL, papermill)
    workshop.repro("lock", name)
    assert findings(workshop, name) == [("error", "cell 3, line 2: is not valid Python: invalid syntax", None)]


def test_magics_are_left_out_line_for_line() -> None:
    assert without_magics("import a\n") is None
    assert (
        without_magics("%matplotlib inline\nif x:\n    !ls\nfiles = !ls\na?")
        == "pass\nif x:\n    pass\nfiles = None\npass"
    )
    assert without_magics("%%time\nimport a") == "\nimport a"
    assert without_magics("%%html\n<b>") == ""


def test_a_flag_names_a_parameter() -> None:
    assert parameter_name("--learning-rate") == "learning_rate"
    assert parameter_name("-n") == "n"
    assert parameter_name("plain") == "plain"


def test_a_source_that_is_one_string_reads_as_lines_do(tmp_path: Path) -> None:
    content = json.loads(notebook("a = 1\nb = 2"))
    content["cells"][1]["source"] = "a = 1\nb = 2"
    (tmp_path / "x.ipynb").write_text(json.dumps(content))
    assert [(cell.number, cell.source) for cell in read_notebook(tmp_path / "x.ipynb").cells] == [(2, "a = 1\nb = 2")]


# ---- with a real papermill

REPORT = """import json, os, sys
import helper
print("cell sees", type(lr).__name__, lr, verbose, open(data).read())
print("it runs in", sys.prefix, "at home in", os.path.expanduser("~"))
json.dump({"lr": lr}, open("outputs/metrics.json", "w"))
from repro_est import Run
Run.get_context().log("loss", 0.25)
helper.NAME"""


@pytest.mark.network
def test_a_notebook_is_executed_in_its_environment(workshop: Workshop) -> None:
    workshop.write("data.txt", "some data")
    workshop.write("job/helper.py", "NAME = 'the helper'\n")
    workshop.write("job/nb/explore.ipynb", notebook(PARAMETERS, REPORT))
    workshop.write(
        "job.toml",
        '[estimator]\nsource_directory = "job"\nentry_script = "nb/explore.ipynb"\n' + PAPERMILL +
        'script_params = {"--lr" = 0.5, "--verbose" = true, "--data" = {input = "data"}}\n'
        '[inputs.data]\npath = "data.txt"\n[outputs]\nrequired = ["outputs/explore.output.ipynb"]\n',
    )  # fmt: skip
    done = workshop.repro("run", "job.toml")
    assert done.code == 0, done.err
    assert "cell sees float 0.5 True some data" in done.err
    assert f"it runs in {workshop.root}/cache/envs/" in done.err
    assert re.search(rf"at home in (/home/repro|{workshop.root}/cache/)", done.err)
    assert "lr 0.5" in done.out
    (record,) = workshop.root.glob("cache/runs/*/logs/rank-0/run.jsonl")
    assert '"loss",0.25' in record.read_text().replace(" ", "")
    output = json.loads((next(workshop.root.glob("cache/runs/*/outputs")) / "explore.output.ipynb").read_text())
    assert "'the helper'" in json.dumps(output)
    assert workshop.run("job.toml")["cached"]

    workshop.write("job/nb/explore.ipynb", notebook(PARAMETERS, "print('before')", "1 / 0", "print('never')"))
    failed = workshop.repro("run", "job.toml", "--json")
    last = json.loads(failed.out.splitlines()[-1])
    assert (failed.code, last["status"]) == (1, "failed")
    log = workshop.repro("logs", "@")
    assert "ZeroDivisionError: division by zero" in log.out + log.err
    kept = workshop.root / f"cache/runs/{last['run_hash']}/attempts/1/outputs/explore.output.ipynb"
    cells = json.loads(kept.read_text())["cells"]
    told = json.dumps(cells)
    assert "before" in told
    assert "ZeroDivisionError" in told
    assert [cell["outputs"] for cell in cells if cell["source"] == ["print('never')"]] == [[]]


@pytest.mark.network
@pytest.mark.xdist_group("docker")
def test_a_container_executes_it_without_a_network(workshop: Workshop, channel: Channel, docker: object) -> None:
    where = f'conda_packages = ["python"]\n{PAPERMILL}compute_target = "docker"\nscript_params = {{"--lr" = 0.5}}\n'
    text = notebook(PARAMETERS, "import sys, os\nprint('seen', lr, sys.prefix, os.path.expanduser('~'))")
    name = recipe(workshop, text, where, f'[environment]\nchannels = ["{channel.root}"]\n')
    done = workshop.repro("run", name)
    assert done.code == 0, done.err
    assert "seen 0.5 /opt/env /home/repro" in done.err
    assert (next(workshop.root.glob("cache/runs/*/outputs")) / "explore.output.ipynb").is_file()

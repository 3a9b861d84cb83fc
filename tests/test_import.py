"""`repro import`: old files become recipes that load, and of what was in them nothing is lost without a word."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from repro_est.errors import UsageError
from repro_est.migrate.draft import Draft, Kind, Place
from repro_est.migrate.source import Wishes, read_drafts
from repro_est.migrate.words import Word, put_words
from repro_est.recipe.arguments import parameter, word
from tests.conftest import Workshop

GOLDEN = Path(__file__).parent / "golden" / "import"
CASES = {
    "runconfig-1.0": ("aml_config/train.runconfig",),
    "runconfig-1.6x": (".azureml/gpu.runconfig",),
    "conda": ("environment.yml",),
    "mlproject": ("MLproject",),
    "mlproject-docker": ("MLproject",),
    "notebook": ("train.ipynb",),
    "mpi-estimator": ("submit.py",),
    "script-run-config": ("submit.py",),
    "presets": ("submit.py", "--name", "torch"),
    "requirements": ("requirements.txt",),
}


def settle(workshop: Workshop, case: str) -> None:
    """Copies a case's old files into the project."""
    shutil.copytree(GOLDEN / case, workshop.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("expected.*"))


# ---- the files people have


@pytest.mark.parametrize("case", CASES)
def test_an_old_file_becomes_the_recipe_and_the_report_it_always_became(workshop: Workshop, case: str) -> None:
    settle(workshop, case)

    done = workshop.repro("import", *CASES[case], "-o", "job.toml")

    assert done.code == 0
    assert done.out == ""
    text, report = (workshop.root / "job.toml").read_text(), done.err
    if "REPRO_GOLDEN" in os.environ:
        (GOLDEN / case / "expected.toml").write_text(text)
        (GOLDEN / case / "expected.txt").write_text(report)
    assert text == (GOLDEN / case / "expected.toml").read_text()
    assert report == (GOLDEN / case / "expected.txt").read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_recipe_loads_once_every_todo_that_needs_a_file_has_one(workshop: Workshop, case: str) -> None:
    settle(workshop, case)
    assert workshop.repro("import", *CASES[case], "-o", "job.toml").code == 0

    text = (workshop.root / "job.toml").read_text()
    workshop.write("data/here.csv", "1,2\n")
    workshop.write("scripts/train.py", "print('trains')\n")
    text = text.replace('path = "TODO"', 'path = "data"').replace('sha256 = "TODO"', f'sha256 = "{"0" * 64}"')
    workshop.write("job.toml", text)

    done = workshop.repro("check", "job.toml", "--json")
    assert [item for item in done.json["findings"] if item["severity"] == "error"] == []
    assert done.code == 0


@pytest.mark.parametrize("case", CASES)
def test_every_todo_of_the_report_is_a_todo_of_the_recipe(workshop: Workshop, case: str) -> None:
    settle(workshop, case)

    document = workshop.repro("import", *CASES[case], "--json").json

    recipe = document["recipes"][0]
    todo = [note for note in recipe["notes"] if note["kind"] == "todo"]
    assert recipe["text"].count("# TODO: ") == len(todo) == recipe["warnings"] == document["warnings"]
    assert all(note["file"] and note["what"] and note["why"] for note in recipe["notes"])


def test_no_secret_of_an_old_file_is_in_the_recipe_or_the_report(workshop: Workshop) -> None:
    for case in ("runconfig-1.0", "runconfig-1.6x"):
        settle(workshop, case)
        done = workshop.repro("import", *CASES[case])
        assert "do-not-copy-me" not in done.out + done.err
    workshop.write("train.py", "")
    workshop.write(
        "submit.py",
        "from azureml.train.estimator import Estimator\n"
        "Estimator('.', entry_script='train.py', script_params={'--api-key': 'do-not-copy-me', '--max-tokens': 5},\n"
        "  environment_variables={'MY_TOKEN': 'do-not-copy-me'}, pip_packages=['--index-url https://u:do-not-copy-me@x'])\n",
    )

    done = workshop.repro("import", "submit.py")

    assert "do-not-copy-me" not in done.out + done.err
    recipe = tomli.loads(done.out)
    assert recipe["secrets"] == ["API_KEY", "MY_TOKEN"]
    assert recipe["estimator"]["script_params"] == {"--max-tokens": 5}


# ---- words


words = st.lists(
    st.sampled_from(["--a", "--b", "-c", "--a=1", "x", "", "-1", "0.5"]) | st.integers() | st.floats(allow_nan=False)
)


@given(words)
def test_the_script_gets_the_words_it_always_got_in_the_same_order(given_words: list[Any]) -> None:
    draft = Draft("job", "old", Path("/"))

    put_words(draft, [Word(item, Place("old", 1)) for item in given_words])

    estimator = draft.document["estimator"]
    got: list[Any] = []
    for name, value in estimator.get("script_params", {}).items():
        made = parameter(name, value)
        assert made is not None
        got += [made.name, *made.words]
    got += [word(item) for item in estimator.get("arguments", ())]
    assert got == [word(item) for item in given_words]


def test_params_follow_the_rules_of_azure_ml(tmp_path: Path) -> None:
    params = (
        "{'--flag': '', '--none': None, '--yes': True, '--list': [1, 'a', False], '--nested': [[1, 2]], '--x': 1e-5}"
    )

    draft = one(tmp_path, f"Estimator('.', entry_script='t.py', script_params={params})")

    assert draft.document["estimator"]["script_params"] == {
        "--flag": "",
        "--none": "",
        "--yes": "True",
        "--list": [1, "a", "False"],
        "--nested": ["[1, 2]"],
        "--x": 1e-5,
    }


# ---- Python, read and never run


def one(tmp_path: Path, program: str, **wishes: Any) -> Draft:
    """Reads a program with one estimator in it."""
    (tmp_path / "t.py").write_text("")
    path = tmp_path / "submit.py"
    path.write_text(program)
    (draft,) = read_drafts(path, Wishes(tmp_path, **wishes))
    return draft


def params_of(tmp_path: Path, before: str, value: str) -> Any:
    program = f"{before}\nest = Estimator('.', entry_script='t.py', script_params={{'--x': {value}}})\n"
    return one(tmp_path, program).document["estimator"].get("script_params", {}).get("--x", "not known")


@pytest.mark.parametrize(
    ("before", "value", "expected"),
    [
        ("n = 3", "n", 3),
        ("n: int = 3", "-n", -3),
        ("a, b = 1, 2", "b", 2),
        ("a = 'x'", "f'{a}-{1 + 1:03d}'", "x-002"),
        ("a = 'x'", "'%s/%d' % (a, 2)", "x/2"),
        ("a = 'x'", "'{}.{k}'.format(a, k=1)", "x.1"),
        ("import os", "os.path.join('a', 'b')", "a/b"),
        ("from os import path as p", "p.join('a', 'b')", "a/b"),
        ("from os.path import join", "join('a', 'b')", "a/b"),
        ("from pathlib import Path\nroot = Path('a')", "str(root / 'b' / 'c.txt')", "a/b/c.txt"),
        ("c = {'lr': [0.1, 0.2]}", "c['lr'][1]", 0.2),
        ("c = dict(lr=1)\nc.update(lr=2)", "c['lr']", 2),
        ("c = {'lr': 1}\nc |= {'lr': 3}", "c.get('lr', 5)", 3),
        ("c = [1]\nc.append(2)\nc += [3]", "c", [1, 2, 3]),
        ("debug = False\nn = 1 if debug else 2", "n", 2),
        ("debug = True\nif debug:\n    n = 1\nelse:\n    n = 2", "n", 1),
        ("if unknown:\n    n = 1\nelse:\n    n = 1", "n", 1),
        ("with open('x') as f:\n    n = 4", "n", 4),
        ("try:\n    n = 4\nexcept ValueError:\n    n = 5", "n", 4),
        ("if __name__ == '__main__':\n    n = 6", "n", 6),
        ("n = 0\nn += 2", "n", 2),
    ],
)
def test_what_is_made_of_constants_is_followed(tmp_path: Path, before: str, value: str, expected: Any) -> None:
    assert params_of(tmp_path, before, value) == expected


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ("n = 1\nn += 'x'", "n"),
        ("import sys", "sys.argv[1]"),
        ("import os", "os.environ['HOME']"),
        ("", "undefined"),
        ("if unknown:\n    n = 1\nelse:\n    n = 2", "n"),
        ("n = 1\nif unknown:\n    n = 2", "n"),
        ("n = 1\nfor i in range(3):\n    n += 1", "n"),
        ("n = 1\nwhile True:\n    n = 2", "n"),
        ("c = [1]\nif unknown:\n    c.append(2)", "c"),
        ("c = [1]\nfor i in range(3):\n    c.append(i)", "c"),
        ("c = {'a': 1}\nc.update(unknown)", "c['a']"),
        ("c = [1]\nc.sort()", "c"),
        ("", "'a' * 10**9"),
        ("", "10 ** 10 ** 10"),
        ("", "f'{1:999999999}'"),
        ("", "'{:>999999999}'.format(1)"),
        ("", "'%999999999d' % 1"),
        ("a = 'x' * 100000\na += a\na += a\na += a", "a"),
        ("def f(n):\n    return n", "f(1)"),
        ("", "lambda: 1"),
        ("", "[i for i in range(3)]"),
        ("n = 1 / 0", "n"),
    ],
)
def test_what_depends_on_anything_else_is_left_to_the_user(tmp_path: Path, before: str, value: str) -> None:
    assert params_of(tmp_path, before, value) == "not known"
    draft = one(tmp_path, f"{before}\nest = Estimator('.', entry_script='t.py', script_params={{'--x': {value}}})\n")
    assert draft.count(Kind.TODO) == 1
    assert '# TODO: "--x" = ...   was ' in draft.text()


def test_a_program_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    one(
        tmp_path,
        f"open({str(mark)!r}, 'w').write('x')\nimport os\nos.system('touch {mark}')\n"
        f"est = Estimator(str(open({str(mark)!r}, 'w')), entry_script='t.py')\n",
    )

    assert not mark.exists()


def test_an_estimator_made_in_a_function_is_found_with_its_arguments_not_known(tmp_path: Path) -> None:
    draft = one(
        tmp_path,
        "ROUNDS = 3\n"
        "def make(rate, *, folder='.'):\n"
        "    return Estimator(folder, entry_script='t.py', script_params={'--rounds': ROUNDS, '--rate': rate})\n",
    )

    assert draft.document["estimator"]["script_params"] == {"--rounds": 3}
    assert "was rate, an argument of make" in draft.text()


def test_what_was_passed_is_what_counts_not_what_it_became_later(tmp_path: Path) -> None:
    path = tmp_path / "submit.py"
    (tmp_path / "t.py").write_text("")
    path.write_text(
        "params = {'--lr': 1}\n"
        "est = Estimator('.', entry_script='t.py', script_params=params)\n"
        "params['--lr'] = 2\n"
        "est = Estimator('.', entry_script='t.py', script_params=params)\n"
    )

    drafts = read_drafts(path, Wishes(tmp_path))

    assert [draft.name for draft in drafts] == ["est", "est-2"]
    assert [draft.document["estimator"]["script_params"]["--lr"] for draft in drafts] == [1, 2]


def test_a_class_of_another_library_is_not_taken_for_azure_mls(tmp_path: Path) -> None:
    path = tmp_path / "submit.py"
    path.write_text("from sagemaker.tensorflow import TensorFlow\nTensorFlow(entry_point='t.py')\n")

    with pytest.raises(UsageError, match="found no call of Azure ML's, expected one of: Estimator"):
        read_drafts(path, Wishes(tmp_path))


def test_a_run_configuration_is_what_was_set_on_it(tmp_path: Path) -> None:
    draft = one(
        tmp_path,
        "from azureml.core import ScriptRunConfig\n"
        "from azureml.core.runconfig import RunConfiguration\n"
        "from azureml.core.conda_dependencies import CondaDependencies\n"
        "rc = RunConfiguration()\n"
        "rc.target = 'cluster'\n"
        "rc.framework = 'Python'\n"
        "rc.communicator = 'IntelMpi'\n"
        "rc.node_count = 2\n"
        "rc.mpi.process_count_per_node = 4\n"
        "rc.environment.docker.enabled = True\n"
        "rc.environment.docker.base_image = 'team/base:1'\n"
        "rc.environment.docker.shm_size = '1g'\n"
        "rc.environment.python.user_managed_dependencies = False\n"
        "rc.environment.python.conda_dependencies = CondaDependencies.create(conda_packages=['numpy'])\n"
        "rc.environment.python.conda_dependencies.add_pip_package('pandas')\n"
        "src = ScriptRunConfig(source_directory='.', script='t.py', run_config=rc)\n",
    )

    assert draft.document["estimator"] == {
        "entry_script": "t.py",
        "custom_docker_image": "team/base:1",
        "shm_size": "1g",
        "conda_packages": ["numpy"],
        "pip_packages": ["pandas"],
        "node_count": 2,
        "distributed_training": {"type": "mpi", "process_count_per_node": 4},
    }


@pytest.mark.parametrize(
    ("environment", "estimator"),
    [
        ("Environment.from_pip_requirements('e', 'r.txt')", {"pip_requirements_file": "r.txt"}),
        ("Environment.from_conda_specification('e', 'c.yml')", {"conda_dependencies_file": "c.yml"}),
        (
            "Environment.from_docker_image('e', 'team/base:1', pip_requirements='r.txt')",
            {"custom_docker_image": "team/base:1", "pip_requirements_file": "r.txt"},
        ),
        ("Environment.from_dockerfile('e', 'Dockerfile')", {"dockerfile": "Dockerfile"}),
        (
            "Environment.from_docker_image('e', 'team/base:1').clone('f')",
            {"custom_docker_image": "team/base:1"},
        ),
    ],
)
def test_an_environment_is_what_it_was_made_from(tmp_path: Path, environment: str, estimator: dict[str, Any]) -> None:
    (tmp_path / "r.txt").write_text("numpy>=2\n")
    (tmp_path / "c.yml").write_text("dependencies: [numpy]\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")

    draft = one(tmp_path, f"ScriptRunConfig('.', 't.py', environment={environment})")

    assert draft.document["estimator"] == {"entry_script": "t.py", **estimator}
    assert draft.count(Kind.TODO) == 0


@pytest.mark.parametrize("environment", ["Environment.get(ws, 'AzureML-Tutorial')", "ws.environments['x']", "make()"])
def test_an_environment_that_only_azure_has_is_left_to_the_user(tmp_path: Path, environment: str) -> None:
    draft = one(tmp_path, f"src = ScriptRunConfig('.', 't.py', environment={environment})")

    assert draft.count(Kind.TODO) == 1
    assert "packages are not known" in draft.text()


@pytest.mark.parametrize(
    ("training", "estimator"),
    [
        ("distributed_training=Mpi(process_count_per_node=2), node_count=2", {"node_count": 2, "distributed_training": {"type": "mpi", "process_count_per_node": 2}}),
        ("distributed_backend='mpi', node_count=2", {"node_count": 2, "distributed_training": "mpi"}),
        ("distributed_training=ParameterServer(worker_count=3)", {"distributed_training": {"type": "tensorflow", "worker_count": 3, "parameter_server_count": 1}}),
        ("distributed_training=PyTorchConfiguration(node_count=2)", {"use_gpu": True, "node_count": 2, "distributed_training": {"type": "torch", "communication_backend": "nccl"}}),
        ("distributed_training=PyTorchConfiguration('Gloo', 4)", {"distributed_training": {"type": "torch", "process_count": 4, "communication_backend": "gloo"}}),
    ],
)  # fmt: skip
def test_processes_keep_their_number_and_what_joins_them(
    tmp_path: Path, training: str, estimator: dict[str, Any]
) -> None:
    draft = one(tmp_path, f"Estimator('.', entry_script='t.py', {training})")

    assert draft.document["estimator"] == {"entry_script": "t.py", **estimator}


def test_a_script_that_imports_azure_ml_gets_its_names(workshop: Workshop) -> None:
    workshop.write("train.py", "from azureml.core.run import Run\n")
    workshop.write("requirements.txt", "")

    done = workshop.repro("import", "requirements.txt", "-o", "job.toml")

    assert "changed: import azureml: the script gets repro's own names for it: [compat] azureml = true" in done.err
    assert tomli.loads((workshop.root / "job.toml").read_text())["compat"] == {"azureml": True}
    assert workshop.repro("check", "job.toml").code == 0


def test_a_sweep_and_a_pipeline_are_named_as_not_taken(tmp_path: Path) -> None:
    draft = one(
        tmp_path,
        "from azureml.train.hyperdrive import HyperDriveConfig\n"
        "est = Estimator('.', entry_script='t.py', unheard_of=1)\n"
        "HyperDriveConfig(estimator=est)\n",
    )

    said = [str(note) for note in draft.sorted_notes() if note.kind is Kind.DROPPED]
    assert any("submit.py:2: dropped: unheard_of: unknown parameter of Azure ML" in line for line in said)
    assert any("submit.py:3: dropped: HyperDriveConfig: a sweep" in line for line in said)


# ---- the verb


def test_an_imported_recipe_runs_with_the_words_the_script_always_got(workshop: Workshop) -> None:
    workshop.write("code/train.py", "import sys, json\njson.dump(sys.argv[1:], open('outputs/words.json', 'w'))\n")
    workshop.write("data/a.csv", "1\n")
    workshop.write(
        "submit.py",
        "from azureml.core import Dataset\nfrom azureml.train.estimator import Estimator\n"
        "data = Dataset.File.from_files('data')\n"
        "params = {'--data': data.as_named_input('d').as_mount(), '--lr': 0.5, '--v': '', '--l': [1, 2], '--on': True}\n"
        "est = Estimator('code', entry_script='train.py', script_params=params, compute_target='cluster')\n",
    )

    assert workshop.repro("import", "submit.py", "-o", "recipes/job.toml").code == 0
    workshop.run("recipes/job.toml")

    assert workshop.repro("get", "@", "outputs/words.json", "words.json").code == 0
    words = json.loads((workshop.root / "words.json").read_text())
    assert words[0] == "--data"
    assert words[2:] == ["--lr", "0.5", "--v", "--l", "1", "2", "--on", "True"]


SEVERAL = "a = Estimator('.', entry_script='t.py')\nb = Estimator('.', entry_script='t.py', use_gpu=True)\n"


def test_several_estimators_make_one_file_each(workshop: Workshop) -> None:
    workshop.write("submit.py", SEVERAL)
    workshop.write("t.py", "")

    done = workshop.repro("import", "submit.py", "-o", "made/")

    assert done.code == 0
    assert sorted(path.name for path in (workshop.root / "made").iterdir()) == ["a.toml", "b.toml"]
    recipe = tomli.loads((workshop.root / "made/b.toml").read_text())
    assert recipe["estimator"] == {"source_directory": "..", "entry_script": "t.py", "use_gpu": True}
    assert workshop.repro("check", "made/b.toml").code == 0


def test_several_estimators_do_not_go_into_one_file(workshop: Workshop) -> None:
    workshop.write("submit.py", SEVERAL)

    done = workshop.repro("import", "submit.py", "-o", "one.toml")

    assert done.code == 2
    assert "submit.py: has 2 estimators, expected one for one recipe: `a`, `b`" in done.err
    assert "hint: --name a, or -o DIRECTORY/ for all of them" in done.err
    assert workshop.repro("import", "submit.py", "--name", "b").code == 0
    assert len(workshop.repro("import", "submit.py", "--json").json["recipes"]) == 2
    missing = workshop.repro("import", "submit.py", "--name", "c")
    assert "no estimator `c`, expected one of: `a`, `b`" in missing.err


def test_a_recipe_is_written_over_only_when_told(workshop: Workshop) -> None:
    workshop.write("submit.py", SEVERAL)
    workshop.write("b.toml", "mine")

    refused = workshop.repro("import", "submit.py", "-o", ".")
    assert refused.code == 2
    assert "b.toml: is there already" in refused.err
    assert (workshop.root / "b.toml").read_text() == "mine"
    assert not (workshop.root / "a.toml").exists()

    assert workshop.repro("import", "submit.py", "-o", ".", "--force").code == 0
    assert "use_gpu = true" in (workshop.root / "b.toml").read_text()


def test_without_an_output_the_recipe_is_on_stdout_and_the_report_on_stderr(workshop: Workshop) -> None:
    workshop.write("requirements.txt", "numpy>=2\n")
    workshop.write("fit.py", "")

    done = workshop.repro("import", "requirements.txt", "--script", "fit.py")

    assert tomli.loads(done.out)["estimator"] == {"entry_script": "fit.py", "pip_requirements_file": "requirements.txt"}
    assert "requirements.txt: took: entry script: estimator.entry_script" in done.err


def test_the_report_as_json_names_file_line_and_reason(workshop: Workshop) -> None:
    workshop.write("environment.yml", "dependencies:\n  - python=3.12\n")
    workshop.write("train.py", "")

    document = json.loads(workshop.repro("import", "environment.yml", "-o", "job.toml", "--json").out)

    recipe = document["recipes"][0]
    assert recipe["path"] == str(workshop.root / "job.toml")
    assert recipe["notes"][-1] == {
        "kind": "took",
        "file": "environment.yml",
        "line": 2,
        "what": "python=3.12",
        "why": "environment.python",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "missing.py: no such file"),
        ("a.docx", "x", "a.docx: got a file of an unknown kind, expected a .runconfig, a .py"),
        ("a.py", "def f(:\n", "a.py:1: is not valid Python:"),
        ("a.py", "x = 1\n", "a.py: found no call of Azure ML's"),
        ("a.py", "x = " + "(" * 400 + ")" * 400, "a.py:1: is not valid Python:"),
        ("a.py", "x = " + "-" * 20_000 + "1", "a.py"),
        ("a.ipynb", "[]", "a.ipynb: is no notebook of format 4"),
        ("a.ipynb", '{"cells": 3}', "a.ipynb: is no notebook of format 4"),
        ("a.runconfig", "script: [\n", "a.runconfig:2: not valid YAML:"),
        ("a.runconfig", "a: !!python/object/apply:os.system [x]", "a.runconfig:1: not valid YAML: could not determine"),
        ("a.runconfig", "- 1\n", "a.runconfig: got a list, expected a table of keys"),
        ("a.runconfig", b"script: \xff", "a.runconfig:1: not UTF-8 at byte 9"),
        ("a.runconfig", "\nframework: PySpark\n", "a.runconfig:2: framework: got 'PySpark'"),
        ("a.yml", "a: &x [*x]\n", "a.yml: got a, expected a .runconfig"),
        ("a.yml", "$schema: x\ncommand: y\n", "a.yml: got a job of Azure ML's CLI v2"),
        ("a.yml", "version: 1\npackage: []\nmetadata: {}\n", "a.yml: is a conda-lock file"),
        ("a.runconfig", '\nscript: "\\ud800"\n', "a.runconfig:2: holds half a character"),
        ("a.runconfig", "arguments: 3\n", "a.runconfig:1: arguments: got 3, expected a list"),
        ("a.runconfig", "environment: [1]\n", "a.runconfig:1: environment: got a list, expected a table of keys"),
        ("environment.yml", "dependencies: x\n", "environment.yml:1: dependencies: got 'x', expected a list"),
        ("MLproject", "entry_points: {main: {}}", "MLproject:1: entry point `main`: got no command"),
        ("MLproject", "name: x", "no entry point `main`, expected one of: none"),
        *[
            ("MLproject", f"entry_points:\n  main:\n    command: {command!r}\n", f"MLproject:3: command: {message}")
            for command, message in [
                ("python a.py | tee log", "got `|`, which needs a shell"),
                ("python a.py > log", "got `>`, which needs a shell"),
                ("python a.py $HOME", "got a variable of the shell"),
                ("bash a.sh", "got 'bash a.sh', which is no Python script: `bash`"),
                ("python -m a.b", "got `python -m`, a module, expected a Python file"),
                ("python -c 1", "got `python -c`, a program text, expected a Python file"),
                ("python", "got nothing after `python`, expected a Python file"),
                ("python a.py {x}", "got a parameter 'x' that is not declared"),
                ("python a.py 'x", 'got "python a.py \'x", no closing quotation'),
            ]
        ],
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_with_its_place(
    workshop: Workshop, name: str, text: str | bytes | None, message: str
) -> None:
    if text is not None:
        workshop.write(name, text)

    done = workshop.repro("import", name)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    *("script", "arguments", "command", "target", "framework", "communicator", "nodeCount", "environment", "python"),
    *("environmentVariables", "mpi", "pytorch", "tensorflow", "docker", "dataReferences", "data", "outputData"),
    *("condaDependencies", "dependencies", "channels", "baseImage", "history", "amlCompute", "entry_points", "main"),
    *("parameters", "conda_env", "docker_env", "maxRunDurationSeconds"),
]


@given(st.sampled_from(["x.runconfig", "environment.yml", "MLproject"]), st.recursive(
    wild, lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=6), max_leaves=8))  # fmt: skip
def test_whatever_a_file_holds_the_answer_is_a_recipe_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: Any
) -> None:
    directory = tmp_path_factory.getbasetemp() / "wild"
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(json.dumps(content, ensure_ascii=False))

    try:
        (draft,) = read_drafts(directory / name, Wishes(directory))
    except UsageError:
        return
    tomli.loads(draft.text())

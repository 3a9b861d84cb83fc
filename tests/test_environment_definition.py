"""`environment_definition`: an environment of Azure ML stands for the keys that say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro_est.api.environment import CondaDependencies, Environment
from repro_est.errors import RecipeError
from repro_est.recipe.azure_environment import keys_of_environment
from repro_est.recipe.load import load
from tests.conftest import PackageIndex, Workshop

CONDA = {
    "name": "project_environment",
    "channels": ["conda-forge"],
    "dependencies": ["python=3.11", "pip", {"pip": ["azureml-defaults", "joblib>=1.4", "six"]}],
}
AZURES: dict[str, Any] = {
    "databricks": {"eggLibraries": [], "jarLibraries": [], "mavenLibraries": [], "pypiLibraries": []},
    "docker": {
        "arguments": [],
        "baseDockerfile": None,
        "baseImage": "azure.example/azureml/openmpi4.1.0-ubuntu20.04:20220708.v1",
        "baseImageRegistry": {"address": None, "password": None, "registryIdentity": None, "username": None},
        "enabled": False,
        "platform": {"architecture": "amd64", "os": "Linux"},
        "sharedVolumes": True,
        "shmSize": "2g",
    },
    "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE", "OMP_NUM_THREADS": "1"},
    "inferencingStackVersion": None,
    "name": "digits",
    "python": {
        "baseCondaEnvironment": None,
        "condaDependencies": CONDA,
        "condaDependenciesFile": None,
        "interpreterPath": "python",
        "userManagedDependencies": False,
    },
    "r": None,
    "spark": {"packages": [], "precachePackages": True, "repositories": []},
    "version": "3",
}
"""As the SDK writes it, with its defaults."""


def azures(**changes: Any) -> dict[str, Any]:
    """The JSON with some keys changed, `python__x` for a key of a table."""
    content = json.loads(json.dumps(AZURES))
    for key, value in changes.items():
        table, _, name = key.partition("__")
        if name:
            content[table][name] = value
        else:
            content[table] = value
    return content


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory to save environments in."""
    (tmp_path / "env").mkdir()
    return tmp_path / "env"


def write(saved: Path, content: object) -> Path:
    (saved / "azureml_environment.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return saved


def refused(path: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        keys_of_environment(path)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


def test_what_azure_ml_saved_becomes_the_keys_that_say_the_same(saved: Path) -> None:
    expected = {
        "estimator": {
            "pip_packages": ["joblib>=1.4", "six"],
            "environment_variables": {"OMP_NUM_THREADS": "1"},
            "shm_size": "2g",
        },
        "environment": {"python": "3.11"},
    }
    assert keys_of_environment(write(saved, AZURES)) == expected
    assert keys_of_environment(saved / "azureml_environment.json") == expected


def test_packages_may_stand_beside_the_json(saved: Path) -> None:
    write(saved, azures(python__condaDependencies=None))
    (saved / "conda_dependencies.yml").write_text("dependencies:\n- python=3.12\n- scipy\nchannels: [./here]\n")
    assert keys_of_environment(saved)["estimator"]["conda_packages"] == ["scipy"]
    assert keys_of_environment(saved)["environment"] == {"python": "3.12", "channels": ["./here"]}


def test_a_conda_environment_file_is_read_alone(saved: Path) -> None:
    (saved / "env.yml").write_text(
        "dependencies:\n- python>=3.11\n- pip:\n  - --index-url https://x/simple\n  - --find-links wheels\n  - six\n"
    )
    assert keys_of_environment(saved / "env.yml") == {
        "estimator": {"pip_packages": ["six"]},
        "environment": {"python": ">=3.11", "index_url": "https://x/simple", "find_links": ["wheels"]},
    }


def test_an_image_of_ones_own_is_kept_and_its_python_used_if_asked_for(saved: Path) -> None:
    registry = {"address": "host:5000", "username": None, "password": None}
    content = azures(docker__baseImage="team/base:1", docker__baseImageRegistry=registry, docker__enabled=True)
    found = keys_of_environment(write(saved, content))["estimator"]
    assert (found["custom_docker_image"], found["image_registry_details"]) == ("team/base:1", {"address": "host:5000"})
    assert found["use_docker"]
    empty = {"dependencies": ["python=3.8.13", {"pip": ["azureml-defaults"]}]}
    content = azures(docker__baseImage="a:1", python__userManagedDependencies=True, python__condaDependencies=empty)
    tables = keys_of_environment(write(saved, content))
    assert tables["estimator"]["user_managed"]
    assert tables["environment"] == {}


def test_a_dockerfile_stands_beside_the_json(saved: Path) -> None:
    (saved / "BaseDockerfile").write_text("FROM scratch\n")
    found = keys_of_environment(write(saved, azures(docker__baseImage=None)))
    assert found["estimator"]["dockerfile"] == str(saved / "BaseDockerfile")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inferencingStackVersion": "latest"}, "inferencingStackVersion: got 'latest', which has no meaning here"),
        ({"spark": {"packages": [{"group": "x"}]}}, "spark.packages: got [{'group': 'x'}], which has no meaning here"),
        ({"extra": 1}, "extra: got 1, which has no meaning here"),
        ({"docker__arguments": ["--privileged"]}, "docker.arguments: got ['--privileged'], which has no meaning"),
        ({"docker__platform": {"os": "Windows"}}, "docker.platform.os: got 'Windows', which has no meaning here"),
        ({"docker__baseImageRegistry": {"password": "x"}}, "docker.baseImageRegistry: holds a user name or password"),
        ({"docker__baseDockerfile": "FROM x\n"}, "docker.baseDockerfile: holds the text of a Dockerfile"),
        ({"docker__baseImage": 3}, "docker.baseImage: got 3, expected a string"),
        ({"python__interpreterPath": "/opt/python"}, "python.interpreterPath: got '/opt/python', expected python"),
        ({"python__userManagedDependencies": True}, "python.userManagedDependencies: is true, and there are packages"),
        ({"python__condaDependencies": {"dependencies": ["python=3.6.2=h02fb82a_12"]}}, "python: got 'python=3.6.2=h0"),
        ({"python__condaDependencies": {"x": 1}}, ": got x, expected only name, channels"),
        ({"python": 3}, "python: got 3, expected an object"),
        ({"environmentVariables": {"A": 1}}, "environmentVariables.A: got 1, expected a string"),
    ],
)
def test_what_it_says_and_cannot_be_done_is_a_problem(saved: Path, changes: dict[str, Any], problem: str) -> None:
    (said,) = refused(write(saved, azures(**changes)))
    assert said.startswith(problem)


def test_the_older_sdks_defaults_say_nothing(saved: Path) -> None:
    spark = {
        "packages": [{"group": "com.microsoft.ml.spark", "artifact": "mmlspark_2.11", "version": "0.12"}],
        "precachePackages": True,
        "repositories": ["https://mmlspark.azureedge.net/maven"],
    }
    content = azures(spark=spark, docker__baseImage="azure.example/azureml/base:intelmpi2018.3-ubuntu16.04")
    assert "custom_docker_image" not in keys_of_environment(write(saved, content))["estimator"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "not valid JSON"), ("[]", "got list, expected an object"), ("\xff", "not valid JSON")],
)
def test_what_is_no_environment_is_refused(saved: Path, content: str, problem: str) -> None:
    assert problem in refused(write(saved, content))[0]


def test_a_directory_or_file_of_another_kind_is_refused(saved: Path) -> None:
    assert refused(saved) == [": is a directory without an azureml_environment.json"]
    (saved / "env.txt").write_text("")
    assert "is no environment, expected a directory that Azure ML saved" in refused(saved / "env.txt")[0]


def test_a_recipe_with_a_definition_is_the_recipe_that_says_the_same(workshop: Workshop, index: PackageIndex) -> None:
    index.wheel("six")
    content = azures(python__condaDependencies={"dependencies": [{"pip": ["azureml-defaults", "six"]}]})
    (workshop.root / "env").mkdir()
    write(workshop.root / "env", content)
    more = f'[environment]\nindex_url = "{index.url}"\n'
    recipe = workshop.recipe("import six\n", more, estimator='environment_definition = "env"')
    defined = workshop.repro("plan", recipe, "--json").json
    assert workshop.repro("check", recipe, "--json").json["findings"] == []
    said = 'pip_packages = ["six"]\nenvironment_variables = {OMP_NUM_THREADS = "1"}'
    assert workshop.repro("plan", workshop.recipe("import six\n", more, estimator=said), "--json").json == defined
    assert [row[0] for row in defined["plan"]["environment"]["packages"]] == ["six"]


def test_what_the_recipe_says_itself_of_other_things_comes_first(workshop: Workshop) -> None:
    (workshop.root / "env").mkdir()
    write(workshop.root / "env", AZURES)
    own = 'environment_definition = "env"\nshm_size = "1g"\nenvironment_variables = {OMP_NUM_THREADS = "4", A = "b"}'
    recipe = load(Path(workshop.recipe("", '[environment]\npython = "3.12"\n', estimator=own)))
    assert recipe.environment.python == "3.12"
    assert recipe.limits.shm_size == 1 << 30
    assert recipe.estimator.environment_variables == (("A", "b"), ("OMP_NUM_THREADS", "4"))
    assert recipe.estimator.environment_definition == workshop.root / "env"


def test_keys_it_stands_for_are_refused_beside_it_each_by_name(workshop: Workshop) -> None:
    (workshop.root / "env").mkdir()
    write(workshop.root / "env", AZURES)
    beside = (
        'pip_packages = ["x"]\nconda_packages = ["x"]\npip_requirements_file = "r.txt"\ndockerfile = "."\n'
        'conda_dependencies_file = "e.yml"\ncustom_docker_image = "a:1"\nimage_registry_details = {address = "h"}\n'
        "user_managed = true"
    )
    recipe = workshop.recipe("", estimator=f'environment_definition = "env"\n{beside}')
    done = workshop.repro("check", recipe, "--json")
    told = {
        (item["key"], item["line"])
        for item in done.json["findings"]
        if item["message"] == "goes without environment_definition, which stands for it"
    }
    names = [line.split(" = ")[0] for line in beside.splitlines()]
    assert told == {(f"estimator.{name}", number) for number, name in enumerate(names, 5)}


def test_a_problem_of_a_definition_is_said_with_its_file(workshop: Workshop) -> None:
    workshop.write("env.yml", "dependencies:\n- pip:\n  - git+https://x/y\n")
    done = workshop.repro("plan", workshop.recipe("", estimator='environment_definition = "env.yml"'))
    assert f"{workshop.root}/env.yml: estimator.pip_packages: 'git+https://...': a direct address" in done.err
    done = workshop.repro("plan", workshop.recipe("", estimator='environment_definition = "gone.yml"'))
    assert "job.toml:4: estimator.environment_definition: got 'gone.yml', no such file" in done.err


def test_a_change_of_the_definition_is_seen_at_once(workshop: Workshop) -> None:
    recipe = workshop.recipe("import os\nprint(os.environ['A'])\n", estimator='environment_definition = "env.json"')
    for value in ("1", "2"):
        workshop.write("env.json", json.dumps({"environmentVariables": {"A": value}}))
        for _ in range(2):
            done = workshop.repro("run", recipe)
            assert done.code == 0, done.err
        workshop.repro("run", recipe, "-q")
        assert workshop.repro("logs", "@").out.strip().endswith(value)


def test_framework_version_says_what_to_write_instead(workshop: Workshop) -> None:
    done = workshop.repro("plan", workshop.recipe("", estimator='framework_version = "2.13"'))
    assert 'pip_packages = ["torch==2.13.*"]' in done.err


@pytest.mark.parametrize("case", ["packages", "conda", "image", "dockerfile", "variables"])
def test_a_directory_means_in_a_recipe_what_it_means_in_python(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repro.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    made = Environment("digits")
    match case:
        case "packages":
            packages = ["joblib>=1.4", "azureml-defaults", "--index-url https://x/simple"]
            made.python.conda_dependencies = CondaDependencies.create(python_version="3.11", pip_packages=packages)
        case "conda":
            made.python.conda_dependencies = CondaDependencies.create(
                conda_packages=["python>=3.11", "scipy=1.*", "pip"]
            )
            made.python.conda_dependencies.add_channel("conda-forge")
        case "image":
            made.docker.base_image, made.docker.shm_size, made.docker.enabled = "team/base:1", "1g", True
            made.docker.base_image_registry.address = "host:5000"
            made.python.user_managed_dependencies = True
        case "dockerfile":
            made.docker.base_dockerfile = "FROM scratch\n"
        case "variables":
            made.environment_variables = {"A": "1"}
    made.save_to_directory(tmp_path / "env")
    said = Environment.load_from_directory(tmp_path / "env").to_recipe()
    found = keys_of_environment(tmp_path / "env")
    if case == "dockerfile":
        texts = [Path(tables["estimator"].pop("dockerfile")).read_text() for tables in (said, found)]
        assert texts == ["FROM scratch\n"] * 2
    assert {table: keys for table, keys in found.items() if keys} == {t: keys for t, keys in said.items() if keys}

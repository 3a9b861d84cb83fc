"""The values of the Python API: what they refuse, and what they say in a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.api.condadependencies import CondaDependencies
from repro_est.api.dataset import (
    Consumed,
    DataPath,
    DataReference,
    Dataset,
    DatasetConsumptionConfig,
    Datastore,
    FileDataset,
    OutputFileDatasetConfig,
    TabularDataset,
)
from repro_est.api.datastore import Source
from repro_est.api.distributed import (
    DistributedConfiguration,
    Gloo,
    Mpi,
    MpiConfiguration,
    Nccl,
    ParameterServer,
    PyTorchConfiguration,
    TensorflowConfiguration,
)
from repro_est.api.docker import ContainerRegistry, DockerConfiguration
from repro_est.api.environment import Environment
from repro_est.api.estimator import Estimator
from repro_est.api.registereddata import Entry, read_entries, write_entries
from repro_est.errors import InputError, UsageError
from repro_est.layout import Backend, Layout
from repro_est.project import Project, find_project
from repro_est.recipe.load import load
from repro_est.recipe.values import Recipe
from repro_est.recipe.write import write_recipe


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repro.toml").write_text("")
    (tmp_path / "train.py").write_text("")
    return find_project()


def recipe_of(tables: dict[str, Any]) -> Recipe:
    """What the loader makes of the keys of a value, the way a file would say them."""
    document = {**tables, "estimator": {"entry_script": "train.py", **tables.get("estimator", {})}}
    Path("job.toml").write_text(write_recipe(document))
    return load(Path("job.toml"))


def layout_of(configuration: DistributedConfiguration, **keys: Any) -> Layout:
    return recipe_of({"estimator": {**keys, **configuration.to_recipe()}}).estimator.layout


def refused(function: Any, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UsageError) as caught:
        function(*arguments, **keywords)
    return str(caught.value)


# ---- what joins processes


def test_each_configuration_is_the_layout_it_names() -> None:
    assert layout_of(MpiConfiguration(2, 3)) == Layout(3, 2, Backend.MPI)
    assert layout_of(MpiConfiguration()) == Layout(1, 1, Backend.MPI)
    assert layout_of(PyTorchConfiguration(process_count=4, node_count=2)) == Layout(2, 2, Backend.TORCH)
    assert layout_of(PyTorchConfiguration(node_count=2)) == Layout(2, 1, Backend.TORCH)
    assert layout_of(PyTorchConfiguration("Gloo", 2)) == Layout(1, 2, Backend.TORCH)
    assert layout_of(TensorflowConfiguration(3, 1)) == Layout(4, 1, Backend.TENSORFLOW, parameter_servers=1)
    assert layout_of(TensorflowConfiguration(2, 0)) == Layout(2, 1, Backend.TENSORFLOW)


def test_older_configurations_take_the_nodes_of_the_estimator() -> None:
    assert layout_of(Mpi(2), node_count=3) == Layout(3, 2, Backend.MPI)
    assert layout_of(Gloo(), node_count=2) == Layout(2, 1, Backend.TORCH)
    assert layout_of(Nccl(), node_count=2, use_gpu=True) == Layout(2, 1, Backend.TORCH, gpus_per_process=1)
    assert layout_of(ParameterServer()) == Layout(2, 1, Backend.TENSORFLOW, parameter_servers=1)


def test_a_configuration_that_names_no_nodes_leaves_them_to_the_estimator() -> None:
    assert layout_of(MpiConfiguration(2), node_count=3) == Layout(3, 2, Backend.MPI)


def test_nodes_that_disagree_are_refused() -> None:
    assert "got 3, and node_count = 2 says otherwise" in refused(layout_of, MpiConfiguration(1, 3), node_count=2)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_a_count_is_checked_at_construction_and_when_it_is_set(count: Any) -> None:
    expected = f"MpiConfiguration: node_count: got {count!r}, expected an integer of at least 1"
    assert refused(MpiConfiguration, node_count=count) == expected
    assert refused(setattr, MpiConfiguration(), "node_count", count) == expected


def test_a_setting_may_be_changed() -> None:
    mpi = MpiConfiguration()
    mpi.process_count_per_node = 2
    assert mpi == MpiConfiguration(2)
    assert layout_of(mpi) == Layout(1, 2, Backend.MPI)


def test_a_misspelt_setting_is_refused_with_the_nearest() -> None:
    message = refused(setattr, MpiConfiguration(), "process_count_per_nodes", 2)
    assert "process_count_per_nodes: no such setting, there are: process_count_per_node, node_count" in message
    assert "did you mean `process_count_per_node`?" in message


def test_a_communicator_is_nccl_or_gloo_in_any_case() -> None:
    assert PyTorchConfiguration("gloo") == PyTorchConfiguration("Gloo")
    message = refused(PyTorchConfiguration, "mpi")
    assert message.startswith("PyTorchConfiguration: communication_backend: got 'mpi', expected 'Nccl' or 'Gloo'")
    assert "hint: MpiConfiguration is for MPI" in message


def test_a_configuration_shows_what_it_says() -> None:
    assert repr(PyTorchConfiguration("gloo", 4)) == (
        "PyTorchConfiguration(communication_backend='Gloo', process_count=4, node_count=1)"
    )
    assert Gloo() == Gloo()
    assert Gloo() != Nccl()


# ---- packages


def test_dependencies_start_empty() -> None:
    assert CondaDependencies().to_recipe() == {"estimator": {}, "environment": {}}


def test_lists_of_the_caller_are_never_changed() -> None:
    pip, conda = ["azureml-defaults", "numpy"], ["python=3.8", "scipy"]
    made = CondaDependencies.create(pip_packages=pip, conda_packages=conda)
    made.add_pip_package("pandas")
    assert (pip, conda) == (["azureml-defaults", "numpy"], ["python=3.8", "scipy"])


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("python=3.8", "3.8"),
        ("python=3.6.2", "3.6.2"),
        ("python==3.8.13", "3.8.13"),
        ("python 3.8.*", "3.8"),
        ("python=3.8.*", "3.8"),
        ("python>=3.8,<3.11", ">=3.8,<3.11"),
        ("python !=3.8.*", "!=3.8.*"),
        ("conda-forge::python=3.9", "3.9"),
        ("python", None),
    ],
)
def test_python_among_conda_packages_is_the_version(spec: str, version: str | None) -> None:
    made = CondaDependencies.create(conda_packages=[spec])
    assert (made.python_version, made.conda_packages) == (version, ())


def test_a_version_as_a_number_is_refused() -> None:
    assert "python_version: got 3.1, expected a version" in refused(CondaDependencies.create, python_version=3.10)


def test_a_build_of_python_is_refused() -> None:
    assert "got 'python=3.6.2=0', expected a version" in refused(
        CondaDependencies.create, conda_packages=["python=3.6.2=0"]
    )


def test_what_has_no_meaning_here_is_dropped_and_named() -> None:
    made = CondaDependencies.create(
        pip_packages=["azureml-defaults", "azureml_core==1.0", "AzureML-SDK[notebooks]", "azure-storage-blob"],
        conda_packages=["pip=20.1"],
    )
    assert made.pip_packages == ("azure-storage-blob",)
    assert made.dropped == ["pip=20.1", "azureml-defaults", "azureml_core==1.0", "AzureML-SDK[notebooks]"]


def test_a_package_named_again_replaces_itself() -> None:
    made = CondaDependencies.create(pip_packages=["scikit_learn==1.5", "numpy"], conda_packages=["mkl=2024"])
    made.add_pip_package("Scikit-Learn==1.7")
    made.add_conda_package("mkl=2025")
    assert made.pip_packages == ("Scikit-Learn==1.7", "numpy")
    assert made.conda_packages == ("mkl=2025",)


def test_packages_channels_and_options_can_be_removed() -> None:
    made = CondaDependencies.create(pip_packages=["numpy==2.0"], conda_packages=["python=3.11", "mkl=2024"])
    made.add_channel("conda-forge")
    made.set_pip_option("--extra-index-url https://pypi.example.org/simple")
    made.remove_pip_package("NumPy")
    made.remove_conda_package("mkl")
    made.remove_conda_package("python")
    made.remove_channel("conda-forge")
    made.remove_pip_option("--extra-index-url")
    made.remove_pip_package("not-there")
    assert made == CondaDependencies()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e .", "an editable install has no version"),
        ("git+https://github.com/a/b", "a direct address"),
        ("./wheels/a.whl", "a local path"),
        ("numpy=>1", "not a requirement"),
    ],
)
def test_what_cannot_be_locked_is_refused_when_it_is_added(line: str, reason: str) -> None:
    assert reason in refused(CondaDependencies.create, pip_packages=[line])


def test_a_string_in_place_of_a_list_is_refused() -> None:
    assert "pip_packages: got 'numpy', expected a list of strings" in refused(
        CondaDependencies.create, pip_packages="numpy"
    )


def test_credentials_are_refused_wherever_they_stand() -> None:
    address = "https://me:word@pypi.example.org/simple"
    made = CondaDependencies()
    for add in (made.add_channel, made.set_pip_index_url):
        assert "holds a user name or password; repro keeps none in files" in refused(add, address)
    assert "holds a user name" in refused(made.add_pip_package, f"--extra-index-url {address}")


def test_index_options_become_keys_of_the_environment() -> None:
    made = CondaDependencies.create(pip_indexurl="https://pypi.example.org/simple", pip_packages=["numpy"])
    made.add_pip_package("--extra-index-url=https://more.example.org/simple")
    made.add_pip_package("-f wheels")
    assert recipe_of(made.to_recipe()).environment.index_url == "https://pypi.example.org/simple"
    assert made.to_recipe()["environment"] == {
        "index_url": "https://pypi.example.org/simple",
        "extra_index_urls": ["https://more.example.org/simple"],
        "find_links": ["wheels"],
    }


def test_dependencies_read_back_from_the_file_they_wrote(tmp_path: Path) -> None:
    made = CondaDependencies.create(
        pip_indexurl="https://pypi.example.org/simple",
        pip_packages=["numpy>=2,<3"],
        conda_packages=["mkl=2024.*"],
        python_version=">=3.11,<3.13",
    )
    made.add_channel("conda-forge")
    assert made.save_to_file(tmp_path) == "conda_dependencies.yml"
    assert CondaDependencies(tmp_path / "conda_dependencies.yml") == made
    made.set_python_version("3.11")
    assert CondaDependencies(made.save(tmp_path / "env.yml")).python_version == "3.11"


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "env.yml"
    for text, reason in {
        "dependencies: [": "not valid YAML",
        "- numpy": "is no conda environment file",
        "variables: {A: b}": "got variables, expected only",
        "dependencies: [{pip: [{a: b}]}]": "pip package",
        "dependencies: [3]": "got 3, expected a spec",
    }.items():
        file.write_text(text)
        assert refused(CondaDependencies, file).startswith(f"{file}: ")
        assert reason in refused(CondaDependencies, file)
    assert "No such file" in refused(CondaDependencies, tmp_path / "none.yml")


# ---- environments


def test_an_environment_starts_empty() -> None:
    assert Environment("plain").to_recipe() == {}
    assert Environment("plain").environment_variables == {}


def test_an_environment_of_a_conda_file_is_what_the_recipe_would_say() -> None:
    Path("env.yml").write_text(
        "name: project\nchannels: [conda-forge]\n"
        "dependencies: [python=3.11, mkl, {pip: [azureml-defaults, scikit-learn==1.7.*]}]\n"
    )
    environment = Environment.from_conda_specification("project", "env.yml")
    environment.environment_variables["OMP_NUM_THREADS"] = "1"
    assert environment.to_recipe() == {
        "estimator": {
            "conda_packages": ["mkl"],
            "pip_packages": ["scikit-learn==1.7.*"],
            "environment_variables": {"OMP_NUM_THREADS": "1"},
        },
        "environment": {"python": "3.11", "channels": ["conda-forge"]},
    }
    assert environment.dropped == ("azureml-defaults",)
    assert recipe_of(environment.to_recipe()).environment.python == "3.11"


def test_an_estimator_takes_an_environment_in_place_of_its_own_keywords() -> None:
    dependencies = CondaDependencies.create(pip_packages=["scikit-learn==1.7.*"], python_version="3.11")
    environment = Environment("project")
    environment.python.conda_dependencies = dependencies
    environment.environment_variables = {"OMP_NUM_THREADS": "1"}
    said = Estimator(entry_script="train.py", environment_definition=environment)
    assert said.to_recipe() == (
        Estimator(
            entry_script="train.py",
            pip_packages=["scikit-learn==1.7.*"],
            python="3.11",
            environment_variables={"OMP_NUM_THREADS": "1"},
        ).to_recipe()
    )


def test_a_requirements_file_is_read_with_those_it_names() -> None:
    Path("more.txt").write_text("pandas  # tables\n")
    Path("requirements.txt").write_text("-r more.txt\nnumpy==2.0 \\\n  ; python_version > '3'\n\n# nothing\n")
    environment = Environment.from_pip_requirements("project", "requirements.txt")
    assert environment.to_recipe()["estimator"]["pip_packages"] == ["pandas", "numpy==2.0 ; python_version > '3'"]


def test_constraints_are_left_to_files_of_the_recipe() -> None:
    Path("requirements.txt").write_text("-c limits.txt\nnumpy\n")
    assert "hint: constraints are for Estimator(pip_requirements_file=...)" in refused(
        Environment.from_pip_requirements, "project", "requirements.txt"
    )


def test_an_image_without_packages_is_used_as_it_is() -> None:
    environment = Environment.from_docker_image(
        "image", "team/base:2026", container_registry=ContainerRegistry("host:5000")
    )
    image = recipe_of(environment.to_recipe()).estimator.image
    assert image is not None
    assert (image.name, image.user_managed) == ("host:5000/team/base:2026", True)


def test_an_image_may_have_packages_on_top() -> None:
    Path("requirements.txt").write_text("numpy\n")
    environment = Environment.from_docker_image("image", "team/base:2026", pip_requirements="requirements.txt")
    assert environment.to_recipe() == {
        "estimator": {"pip_packages": ["numpy"], "custom_docker_image": "team/base:2026"}
    }


def test_the_text_of_a_dockerfile_becomes_a_file_of_the_project(project: Project) -> None:
    environment = Environment.from_dockerfile("mine", "FROM team/base:2026\nRUN true\n")
    file = project.root / "environments" / "mine" / "BaseDockerfile"
    assert environment.to_recipe() == {"estimator": {"dockerfile": str(file), "user_managed": True}}
    assert file.read_text() == "FROM team/base:2026\nRUN true\n"


def test_a_dockerfile_by_path_stays_where_it_is() -> None:
    Path("Dockerfile").write_text("FROM team/base:2026\n")
    environment = Environment("mine")
    environment.docker.base_dockerfile = "./Dockerfile"
    assert environment.to_recipe() == {"estimator": {"dockerfile": "./Dockerfile"}}
    assert recipe_of(environment.to_recipe()).estimator.image is not None


def test_arguments_of_docker_become_keys_of_the_recipe() -> None:
    docker = DockerConfiguration(True, arguments=["--rm", "--memory=8g", "--cpus", "2", "-e A=b"], shm_size="4g")
    assert docker.to_recipe() == {
        "estimator": {"use_docker": True, "environment_variables": {"A": "b"}, "shm_size": "4g"},
        "docker": {"memory": "8g", "cpus": 2.0},
    }
    assert recipe_of(docker.to_recipe()).limits.shm_size == 4 << 30
    environment = Environment("mine")
    environment.docker.enabled = True
    environment.docker.arguments.append("--shm-size=8g")
    environment.environment_variables = {"A": "c"}
    assert environment.to_recipe()["estimator"]["shm_size"] == "8g"


def test_a_setting_of_docker_is_checked_when_it_is_set() -> None:
    assert "use_docker: got 'yes', expected True or False" in refused(DockerConfiguration, "yes")
    assert "arguments: got '--rm', expected a list of strings" in refused(DockerConfiguration, arguments="--rm")
    assert "got `--memory` without a value" in refused(DockerConfiguration, arguments=["--memory"])
    assert "--cpus: got 'two', expected a number" in refused(DockerConfiguration, arguments=["--cpus=two"])
    assert "got `-e TOKEN`, expected NAME=VALUE" in refused(DockerConfiguration, arguments=["-e", "TOKEN"])
    assert "base_image: got '', expected a string, or None" in refused(Environment.from_docker_image, "mine", "")


def test_other_arguments_of_docker_are_refused_by_name() -> None:
    assert "docker: arguments: got `--privileged`, expected one of" in refused(
        DockerConfiguration, arguments=["--privileged"]
    )


def test_credentials_of_a_registry_are_refused() -> None:
    for message in (
        refused(ContainerRegistry, "host:5000", "me"),
        refused(setattr, Environment("mine").docker.base_image_registry, "password", "word"),
    ):
        assert "repro keeps no credentials" in message
        assert "hint: docker login" in message
        assert "word: " not in message.replace("password: ", "")


def test_what_does_not_go_together_is_refused() -> None:
    environment = Environment("mine")
    environment.python.user_managed_dependencies = True
    environment.python.conda_dependencies.add_pip_package("numpy")
    assert "user_managed_dependencies = True and CondaDependencies(pip_packages=['numpy'])" in refused(
        environment.to_recipe
    )
    environment = Environment("mine")
    environment.docker.base_image, environment.docker.base_dockerfile = "a:1", "FROM a:1"
    assert "got base_image and base_dockerfile" in refused(environment.to_recipe)


def test_what_azure_has_and_repro_has_not_says_what_to_do() -> None:
    assert "conda env export" in refused(Environment.from_existing_conda_environment, "mine", "base")
    assert "--find-links" in refused(Environment.add_private_pip_wheel, None, "a.whl")
    assert "repro env" in refused(Environment("mine").build, None)
    assert "as repro finds or brings the interpreter" in refused(
        setattr, Environment("mine").python, "interpreter_path", "/usr/bin/python3"
    )
    assert "no such setting" in refused(setattr, Environment("mine").docker, "base_imge", "a:1")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", 3])
def test_a_name_that_is_no_directory_name_is_refused(name: Any) -> None:
    assert "expected letters, digits, `.`, `_` and `-`" in refused(Environment, name)


def test_a_variable_is_a_string() -> None:
    environment = Environment("mine")
    assert "environment_variables: A: got 1 (int), expected a string" in refused(
        setattr, environment, "environment_variables", {"A": 1}
    )
    environment.environment_variables["A"] = 1  # type: ignore[assignment]
    assert "got 1 (int)" in refused(environment.to_recipe)


def full() -> Environment:
    environment = Environment("full")
    environment.python.conda_dependencies = CondaDependencies.create(
        pip_packages=["numpy"], conda_packages=["mkl"], python_version="3.11"
    )
    environment.docker.base_image = "team/base:2026"
    environment.docker.base_image_registry.address = "host:5000"
    environment.docker.shm_size = "2g"
    environment.environment_variables = {"A": "b"}
    return environment


def test_a_clone_says_the_same_and_shares_nothing() -> None:
    environment = full()
    clone = environment.clone("other")
    assert clone.to_recipe() == environment.to_recipe()
    clone.python.conda_dependencies.add_pip_package("pandas")
    clone.environment_variables["A"] = "c"
    clone.docker.base_image_registry.address = None
    assert environment == full()
    assert clone != environment


def test_an_environment_loads_back_from_the_directory_it_saved(tmp_path: Path) -> None:
    full().save_to_directory(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "azureml_environment.json",
        "conda_dependencies.yml",
    ]
    assert Environment.load_from_directory(tmp_path / "saved") == full()
    assert "is there already" in refused(full().save_to_directory, tmp_path / "saved")
    text = Environment.from_dockerfile("full", "FROM a:1\n")
    text.save_to_directory(tmp_path / "saved", overwrite=True)
    assert (tmp_path / "saved" / "BaseDockerfile").read_text() == "FROM a:1\n"
    assert Environment.load_from_directory(tmp_path / "saved") == text


def test_a_directory_that_azures_sdk_wrote_is_read(tmp_path: Path) -> None:
    document = {
        "name": "AzureML-Tutorial",
        "version": "7",
        "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "python": {
            "userManagedDependencies": False,
            "interpreterPath": "python",
            "condaDependenciesFile": None,
            "baseCondaEnvironment": None,
        },
        "docker": {
            "enabled": False,
            "baseImage": "azure.example/azureml/base:latest",
            "baseDockerfile": None,
            "sharedVolumes": True,
            "shmSize": "2g",
            "arguments": [],
            "baseImageRegistry": {"address": None, "username": None, "password": None},
        },
        "spark": {"repositories": [], "packages": [], "precachePackages": True},
        "inferencingStackVersion": None,
    }
    (tmp_path / "azureml_environment.json").write_text(json.dumps(document))
    (tmp_path / "conda_dependencies.yml").write_text(
        "channels: [anaconda, conda-forge]\ndependencies: [python=3.6.2, {pip: [azureml-defaults, pandas]}]\n"
        "name: project_environment\n"
    )
    assert Environment.load_from_directory(tmp_path).to_recipe() == {
        "estimator": {
            "pip_packages": ["pandas"],
            "shm_size": "2g",
        },
        "environment": {"python": "3.6.2"},
    }


def test_a_registered_environment_is_files_of_the_project_with_a_version(project: Project) -> None:
    assert full().register(project).version == "1"
    assert full().register(project).version == "1"
    changed = full()
    changed.environment_variables = {}
    assert changed.register(project).version == "2"
    assert (project.root / "environments" / "full" / "azureml_environment.json").is_file()
    assert Environment.get(project, "full").environment_variables == {}
    assert Environment.get(project, "full", version=2).version == "2"
    assert list(Environment.list(project)) == ["full"]
    assert "the project has version 2\n\nhint: git log environments/full" in refused(
        Environment.get, project, "full", version="1"
    )
    assert "a curated environment is Azure's own" in refused(Environment.get, project, "AzureML-Minimal")


# ---- data


def test_a_dataset_is_an_input_by_its_name() -> None:
    Path("data").mkdir()
    dataset = Dataset.File.from_files("data")
    mounted, copied = dataset.as_named_input("digits").as_mount(), dataset.as_named_input("digits").as_download()
    assert (mounted.name, mounted.to_recipe()) == ("digits", {"path": "data", "mode": "mount"})
    assert copied.to_recipe() == {"path": "data", "mode": "copy"}
    assert isinstance(mounted, Consumed)
    assert recipe_of({"inputs": {"digits": mounted.to_recipe()}}).inputs[0].name == "digits"


def test_a_dataset_without_a_name_says_that_it_has_none() -> None:
    Path("data").mkdir()
    unnamed = Dataset.File.from_files("data").as_mount()
    assert (unnamed.name, unnamed.is_named) == ("input", False)
    assert Dataset.File.from_files("data").as_named_input("x").is_named


def test_azures_words_for_modes_are_known() -> None:
    Path("data").mkdir()
    dataset = Dataset.File.from_files("data")
    modes = {mode: DatasetConsumptionConfig("x", dataset, mode).mode for mode in ("direct", "mount", "download")}
    assert modes == {"direct": "mount", "mount": "mount", "download": "copy"}
    assert "mode: got 'hdfs', expected 'mount' or" in refused(DatasetConsumptionConfig, "x", dataset, "hdfs")


@pytest.mark.parametrize("path", ["run:@1/outputs/model", "model:digits:3", "recipe:prep.toml/outputs/data"])
def test_forms_of_the_recipe_pass_as_they_are(path: str) -> None:
    assert Dataset.File.from_files(path).as_mount().to_recipe() == {"path": path, "mode": "mount"}


def test_an_address_needs_its_digest() -> None:
    address = "https://example.org/digits.csv"
    assert "got sha256=None, expected 64 hex digits" in refused(Dataset.File.from_files, address)
    dataset = Dataset.Tabular.from_delimited_files(address, sha256="A" * 64)
    assert dataset.as_named_input("x").to_recipe() == {"url": address, "sha256": "a" * 64, "mode": "mount"}
    Path("data").mkdir()
    assert "goes with a URL" in refused(Dataset.File.from_files, "data", sha256="a" * 64)
    assert "expected a path of this machine or an http(s) address" in refused(Dataset.File.from_files, "s3://a/b")


def test_a_path_that_is_not_there_is_refused_at_construction() -> None:
    Path("digits").mkdir()
    with pytest.raises(InputError, match="did you mean `digits`"):
        Dataset.File.from_files("digit")
    with pytest.raises(InputError, match="the pattern"):
        Dataset.File.from_files("digits/*.csv")
    assert Dataset.File.from_files("later", validate=False).as_mount().to_recipe()["path"] == "later"


def test_several_paths_are_refused() -> None:
    Path("data").mkdir()
    assert "got 2 paths, expected one" in refused(Dataset.File.from_files, ["data", "data"])
    assert Dataset.File.from_files(["data"]) == Dataset.File.from_files("data")


@pytest.mark.parametrize("name", ["", "a-b", "a b", "ä", 1])
def test_a_name_of_an_input_is_letters_digits_and_underscores(name: Any) -> None:
    Path("data").mkdir()
    assert "expected letters, digits and `_`" in refused(Dataset.File.from_files("data").as_named_input, name)


def test_a_datastore_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "shared" / "digits").mkdir(parents=True)
    store = Datastore("shared", Path("shared"))
    path = str(tmp_path / "shared" / "digits")
    assert Dataset.File.from_files((store, "digits")).as_mount().to_recipe() == {"path": path, "mode": "mount"}
    assert Dataset.File.from_files(DataPath(store, "digits")).as_download().to_recipe()["mode"] == "copy"
    assert store.path("digits").as_mount().to_recipe() == {"path": path, "mode": "mount"}
    assert store.path("digits", "mine").as_download().to_recipe() == {"path": path, "mode": "copy"}
    reference = store.path("digits", "mine")
    assert (reference.name, reference.is_named, isinstance(reference, Consumed)) == ("mine", True, True)
    assert DataReference(store, path_on_datastore="digits").name == "input"
    assert "which is outside of" in refused(store.path, "../other")
    whole = Estimator(entry_script="train.py", script_params={"--data": store}).recipe
    assert [item.name for item in whole.inputs] == ["shared"]


def test_the_stores_of_a_workspace_are_the_directory_of_its_project(project: Project) -> None:
    assert Datastore.get_default(project).directory == project.root
    assert Datastore.get(project, "workspaceblobstore").directory == project.root
    assert 'hint: Datastore("team", DIRECTORY)' in refused(Datastore.get, project, "team")


def test_an_upload_copies_files_and_replaces_none_unasked(tmp_path: Path) -> None:
    (tmp_path / "local" / "deep").mkdir(parents=True)
    (tmp_path / "local" / "deep" / "a.csv").write_text("1")
    store = Datastore("shared", tmp_path / "shared")
    assert store.upload("local", "digits").to_recipe()["path"] == str(tmp_path / "shared" / "digits")
    assert (tmp_path / "shared" / "digits" / "deep" / "a.csv").read_text() == "1"
    store.upload("local", "digits")
    Datastore("here", tmp_path).upload("local", "local")
    (tmp_path / "local" / "deep" / "a.csv").write_text("2")
    assert "hint: overwrite=True" in refused(store.upload, "local", "digits")
    assert "no such directory" in refused(store.upload, "locale", "digits")
    assert "no such file" in refused(store.upload_files, ["local/b.csv"])
    store.upload_files(["local/deep/a.csv"], target_path="digits/deep", overwrite=True)
    assert (tmp_path / "shared" / "digits" / "deep" / "a.csv").read_text() == "2"


def test_a_place_of_azures_machine_is_not_used_and_said_so() -> None:
    Path("data").mkdir()
    named = Dataset.File.from_files("data").as_named_input("x")
    with pytest.warns(UserWarning, match="path_on_compute='/tmp/x' is not used"):
        assert named.as_mount("/tmp/x").to_recipe() == {"path": "data", "mode": "mount"}


def test_what_azures_data_has_and_repro_has_not_says_what_to_do() -> None:
    Path("data").mkdir()
    store = Datastore("shared", Path("data"))
    assert "as_mount() or as_download()" in refused(Dataset.File.from_files("data").as_hdfs)
    assert "write to outputs/" in refused(store.path("x").as_upload)
    assert "a datastore is a directory" in refused(Datastore.register_azure_blob_container, None, "a", "b")
    assert "outputs of a run have a name already" in refused(OutputFileDatasetConfig().register_on_complete, "x")
    assert "a run writes to outputs/ only" in refused(OutputFileDatasetConfig, destination=(store, "x"))


def test_an_output_is_a_directory_below_outputs() -> None:
    assert OutputFileDatasetConfig(name="prepared").as_mount().path == "outputs/prepared"


def test_a_registered_dataset_is_a_line_of_the_project(project: Project) -> None:
    Path("data").mkdir()
    dataset = Dataset.File.from_files("data").register(project, "digits")
    assert (project.root / "datasets.toml").read_text() == '[digits]\npath = "data"\n'
    assert Dataset.get_by_name(project, "digits") == dataset
    assert dataset.as_mount().name == "digits"
    assert dataset.as_mount().to_recipe()["path"] == str(project.root / "data")
    Dataset.File.from_files("data").register(project, "digits")
    Path("other").mkdir()
    other = Dataset.Tabular.from_delimited_files("other")
    assert "hint: create_new_version=True" in refused(other.register, project, "digits")
    other.register(project, "digits", create_new_version=True)
    assert isinstance(Dataset.get_by_name(project, "digits"), TabularDataset)
    assert "there are: digits" in refused(Dataset.get_by_name, project, "digit")
    assert "not versions of it" in refused(Dataset.get_by_name, project, "digits", 2)


def test_a_broken_file_of_datasets_is_refused_by_name(project: Project) -> None:
    for text in ("[a", "a = 1", "[a]\nsize = 1"):
        (project.root / "datasets.toml").write_text(text)
        assert f"{project.root / 'datasets.toml'}: " in refused(Dataset.get_all, project)


def test_files_of_a_dataset_are_listed() -> None:
    Path("data/deep").mkdir(parents=True)
    Path("data/deep/b.csv").write_text("")
    Path("data/a.csv").write_text("")
    assert Dataset.File.from_files("data").to_path() == ["/a.csv", "/deep/b.csv"]
    assert Dataset.File.from_files("data/a.csv").to_path() == ["/a.csv"]
    assert "is read inside a run only" in refused(FileDataset.to_path, Dataset.File.from_files("model:a:1"))


def test_a_table_without_pandas_says_what_to_install() -> None:
    Path("a.csv").write_text("x,y\n1,2\n")
    dataset = Dataset.Tabular.from_delimited_files("a.csv")
    try:
        import pandas  # noqa: F401
    except ImportError:
        assert "hint: pip install pandas" in refused(dataset.to_pandas_dataframe)
    else:
        assert dataset.to_pandas_dataframe().to_dict("list") == {"x": [1], "y": [2]}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.booleans())
def test_a_registered_dataset_reads_back_from_the_file(path: str, tabular: bool) -> None:
    source = Source(f"/data/{path}").absolute()
    entries = {"digits": Entry(source, tabular), "models": Entry(Source("model:digits:1"))}
    write_entries(Path.cwd(), entries)
    assert read_entries(Path.cwd()) == entries

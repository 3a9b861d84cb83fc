"""The presets: what each declares, and when it leaves that to the caller."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from repro_est.api.distributed import MpiConfiguration
from repro_est.api.environment import Environment
from repro_est.api.estimator import Estimator
from repro_est.api.presets import Chainer, FrameworkEstimator, PyTorch, SKLearn, TensorFlow
from repro_est.errors import UsageError
from repro_est.layout import Backend

PRESETS = (PyTorch, TensorFlow, SKLearn, Chainer)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    return tmp_path


def packages(preset: type[FrameworkEstimator], **keywords: Any) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return preset(".", entry_script="train.py", **keywords).recipe.estimator.pip_packages


def refused(preset: type[FrameworkEstimator], **keywords: Any) -> str:
    with pytest.raises(UsageError) as caught:
        packages(preset, **keywords)
    return str(caught.value)


def test_a_preset_is_an_estimator_that_declares_its_framework() -> None:
    preset = PyTorch(entry_script="train.py", framework_version="2.13", pip_packages=["pandas"])
    plain = Estimator(entry_script="train.py", pip_packages=["torch==2.13.*", "pandas"])
    assert preset.to_recipe() == plain.to_recipe()


def test_each_declares_one_minor_version_and_what_that_needs() -> None:
    assert packages(PyTorch, framework_version="2.15") == ("torch==2.15.*",)
    assert packages(TensorFlow, framework_version="2.21") == ("tensorflow==2.21.*",)
    assert packages(SKLearn, framework_version="1.9") == ("scikit-learn==1.9.*",)
    assert packages(Chainer, framework_version="7.8.1") == ("chainer==7.8.1", "numpy<2", "setuptools<60")


def test_a_patch_release_of_a_supported_version_is_taken_as_it_is() -> None:
    assert packages(SKLearn, framework_version="1.7.1") == ("scikit-learn==1.7.1",)


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_version_the_default_is_taken_and_named(preset: type[FrameworkEstimator]) -> None:
    default = preset.framework.default
    with pytest.warns(UserWarning, match=f"{preset.__name__}: framework_version is not given, {default} is") as caught:
        estimator = preset(".", entry_script="train.py")
    assert caught[0].filename == __file__
    assert preset.framework.requirement(default) in estimator.recipe.estimator.pip_packages
    assert default in preset.get_supported_versions()


@pytest.mark.parametrize("version", ["1.6", "2", "2.99", "2.13.0.1", "newest"])
def test_an_unsupported_version_is_refused_with_the_list(version: str) -> None:
    message = refused(PyTorch, framework_version=version)
    assert message.startswith(f"PyTorch: framework_version: got {version!r}, expected one of 2.0, 2.1, ")
    assert f'hint: Estimator(pip_packages=["torch=={version}"]) for any other' in message


def test_a_package_that_the_caller_names_wins() -> None:
    assert packages(PyTorch, pip_packages=["Torch==2.1.0", "pandas"]) == ("Torch==2.1.0", "pandas")
    assert packages(TensorFlow, conda_packages=["tensorflow=2.18"]) == ()
    assert packages(PyTorch, conda_packages=["conda-forge::pytorch=2.5"]) == ()
    assert packages(Chainer, framework_version="7.8.1", pip_packages=["numpy==1.26.4"]) == (
        "chainer==7.8.1",
        "setuptools<60",
        "numpy==1.26.4",
    )


def test_a_file_that_names_the_package_wins() -> None:
    Path("requirements.txt").write_text("scikit_learn==1.7.2\n")
    assert packages(SKLearn, pip_requirements_file="requirements.txt") == ()
    Path("requirements.txt").write_text("-c limits.txt\npandas\n")
    Path("limits.txt").write_text("")
    with_file = {"pip_requirements_file": "requirements.txt", "framework_version": "1.9"}
    assert packages(SKLearn, **with_file) == ("scikit-learn==1.9.*",)


def test_an_environment_or_a_conda_file_is_taken_as_it_is() -> None:
    Path("env.yml").write_text("dependencies: [python=3.11]\n")
    assert packages(PyTorch, conda_dependencies_file="env.yml") == ()
    environment = Environment.from_conda_specification("mine", "env.yml")
    assert packages(PyTorch, environment_definition=environment) == ()


def test_a_version_beside_a_package_of_the_callers_is_refused() -> None:
    message = refused(PyTorch, framework_version="2.13", pip_packages=["torch==2.1"])
    assert message == "PyTorch: got framework_version='2.13' and 'torch==2.1' in pip_packages, expected one of the two"


def test_the_list_of_the_caller_is_never_changed() -> None:
    listed = ["pandas"]
    packages(PyTorch, framework_version="2.13", pip_packages=listed)
    assert listed == ["pandas"]


def test_tensorflow_on_gpus_brings_its_cuda() -> None:
    assert packages(TensorFlow, framework_version="2.21", use_gpu=True) == ("tensorflow[and-cuda]==2.21.*",)
    assert packages(TensorFlow, framework_version="2.12", use_gpu=True) == ("tensorflow==2.12.*",)


def test_tensorflow_takes_azures_older_counts() -> None:
    estimator = TensorFlow(
        entry_script="train.py",
        framework_version="2.21",
        worker_count=2,
        parameter_server_count=1,
        distributed_backend="ps",
    )
    layout = estimator.recipe.estimator.layout
    assert (layout.world_size, layout.backend, layout.parameter_servers) == (3, Backend.TENSORFLOW, 1)
    assert "go with distributed_backend='ps'" in refused(TensorFlow, worker_count=2, distributed_backend="mpi")


@pytest.mark.parametrize(
    "keywords",
    [
        {"node_count": 2},
        {"process_count_per_node": 2},
        {"distributed_training": MpiConfiguration()},
        {"distributed_backend": "mpi"},
    ],
)
def test_scikit_learn_is_for_one_process(keywords: dict[str, Any]) -> None:
    assert "and scikit-learn runs in one process" in refused(SKLearn, framework_version="1.9", **keywords)


def test_what_a_preset_does_not_know_the_estimator_refuses() -> None:
    assert "entry_scripts: no such parameter" in refused(PyTorch, framework_version="2.13", entry_scripts="train.py")
    assert "expected a list of strings" in refused(PyTorch, framework_version="2.13", pip_packages="pandas")


@pytest.mark.parametrize("preset", PRESETS)
def test_versions_are_listed_oldest_first(preset: type[FrameworkEstimator]) -> None:
    versions = preset.get_supported_versions()
    assert versions == sorted(versions, key=lambda text: tuple(map(int, text.split("."))))
    versions.clear()
    assert preset.get_supported_versions(), "a list of the caller's own"

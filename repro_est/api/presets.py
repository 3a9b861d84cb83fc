"""`PyTorch`, `TensorFlow`, `SKLearn` and `Chainer`: estimators that declare the package of their framework.

Each puts requirements in front of `pip_packages`, where the recipe and the lock show them, and does nothing else.
Azure ML's presets brought more (horovod, tensorboard, torchvision, an image): ask for what the script imports. A
package that the caller names wins, and an environment or a conda file of the caller's is taken as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from repro_est.api.condadependencies import requirement_lines, requirement_name, spec_name
from repro_est.api.distributed import TensorflowConfiguration
from repro_est.api.estimator import Estimator
from repro_est.errors import UsageError

_WHOLE = ("environment_definition", "conda_dependencies_file", "conda_dependencies_file_path")
_FILES = ("pip_requirements_file", "pip_requirements_file_path")
_FIRST_WITH_CUDA = (2, 15)  # 2.14 has the extra too, and asks for packages that the index has not


class Framework(NamedTuple):
    """What a preset declares.

    Args:
        package: its name on the index.
        conda: its name as a conda package.
        versions: those that can be had for Python 3.11 or later, oldest first.
        default: taken when the caller names none.
        companions: requirements without which it does not work.
    """

    package: str
    conda: str
    versions: tuple[str, ...]
    default: str
    companions: tuple[str, ...] = ()

    def requirement(self, version: str, extra: str = "") -> str:
        """Returns `torch==2.13.*` for 2.13, and `torch==2.13.0` for 2.13.0."""
        wildcard = ".*" if version.count(".") == 1 else ""
        return f"{self.package}{extra}=={version}{wildcard}"

    def supports(self, version: str) -> bool:
        """Whether this is a supported version, or a patch release of one."""
        return version in self.versions or version.rpartition(".")[0] in self.versions


class FrameworkEstimator(Estimator):
    """An estimator that declares a framework.

    Args:
        pip_packages: requirements beside the framework's; one of the same package wins.
        framework_version: one of `get_supported_versions()`, or a patch release of it; None takes the default and
            warns.
        keywords: as of `Estimator`.

    Raises:
        UsageError: the version is not supported, or the caller names the package as well.
    """

    framework: ClassVar[Framework]

    def __init__(
        self,
        source_directory: str | PathLike[str] | None = ".",
        *,
        pip_packages: Iterable[str] | None = None,
        framework_version: str | None = None,
        **keywords: Any,
    ) -> None:
        adapted = self._adapted(keywords)
        packages: Any = pip_packages
        if not isinstance(pip_packages, str):  # which the estimator refuses
            listed = list(pip_packages or ())
            packages = self._declared(framework_version, listed, Path(source_directory or "."), adapted) + listed
        super().__init__(source_directory, pip_packages=packages or None, **adapted)

    @classmethod
    def get_supported_versions(cls) -> list[str]:
        """Returns what `framework_version` may be, oldest first."""
        return list(cls.framework.versions)

    @classmethod
    def _declared(cls, version: str | None, listed: list[str], source: Path, keywords: Mapping[str, Any]) -> list[str]:
        """Returns the requirements to add to those of the caller."""
        if version is not None and not cls.framework.supports(version):
            known = ", ".join(cls.framework.versions)
            raise UsageError(
                f"{cls.__name__}: framework_version: got {version!r}, expected one of {known}",
                hint=f'Estimator(pip_packages=["{cls.framework.package}=={version}"]) for any other',
            )
        own = cls._own(listed, source, keywords)
        if own is not None:
            if version is not None:
                raise UsageError(
                    f"{cls.__name__}: got framework_version={version!r} and {own}, expected one of the two"
                )
            return []
        if version is None:
            version = cls.framework.default
            warnings.warn(f"{cls.__name__}: framework_version is not given, {version} is taken", stacklevel=3)
        named = {requirement_name(line) for line in listed}
        wanted = [cls._requirement(version, keywords), *cls.framework.companions]
        return [line for line in wanted if requirement_name(line) not in named]

    @classmethod
    def _own(cls, listed: list[str], source: Path, keywords: Mapping[str, Any]) -> str | None:
        """Returns what says that the framework is the caller's own, or None."""
        for name in _WHOLE:
            if keywords.get(name) is not None:
                return name
        for line in listed:
            if requirement_name(line) == requirement_name(cls.framework.package):
                return f"{line!r} in pip_packages"
        for spec in keywords.get("conda_packages") or ():
            if spec_name(spec) in (cls.framework.package, cls.framework.conda):
                return f"{spec!r} in conda_packages"
        base = Path(keywords.get("directory") or ".")
        for name in filter(keywords.get, _FILES):
            files = (base / source / keywords[name], base / keywords[name])
            there = next(filter(Path.is_file, files), None)
            if there and cls.framework.package in map(requirement_name, requirement_lines(there)):
                return f"it in {name}"
        return None

    @classmethod
    def _requirement(cls, version: str, keywords: Mapping[str, Any]) -> str:
        return cls.framework.requirement(version)

    @classmethod
    def _adapted(cls, keywords: dict[str, Any]) -> dict[str, Any]:
        """Returns the keywords as `Estimator` takes them."""
        return keywords


def _minors(major: int, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{major}.{minor}" for minor in range(first, last + 1))


class PyTorch(FrameworkEstimator):
    """An estimator that declares `torch`, and neither torchvision nor horovod."""

    framework = Framework("torch", "pytorch", _minors(2, 0, 15), "2.15")


class TensorFlow(FrameworkEstimator):
    """An estimator that declares `tensorflow`, from 2.15 on with its extra `and-cuda` when `use_gpu` is true.

    Args:
        worker_count, parameter_server_count: Azure ML's older way to say `TensorflowConfiguration`.
    """

    framework = Framework("tensorflow", "tensorflow", _minors(2, 12, 21), "2.21")

    @classmethod
    def _adapted(cls, keywords: dict[str, Any]) -> dict[str, Any]:
        workers, servers = keywords.pop("worker_count", None), keywords.pop("parameter_server_count", None)
        if workers is None and servers is None:
            return keywords
        if keywords.get("distributed_training") is not None or keywords.get("distributed_backend", "ps") != "ps":
            raise UsageError(
                "TensorFlow: worker_count and parameter_server_count go with distributed_backend='ps'",
                hint="distributed_training=TensorflowConfiguration(worker_count=2, parameter_server_count=1)",
            )
        training = TensorflowConfiguration(1 if workers is None else workers, 1 if servers is None else servers)
        return {**keywords, "distributed_training": training, "distributed_backend": None}

    @classmethod
    def _requirement(cls, version: str, keywords: Mapping[str, Any]) -> str:
        minor = tuple(int(part) for part in version.split(".")[:2])
        with_cuda = bool(keywords.get("use_gpu")) and minor >= _FIRST_WITH_CUDA
        return cls.framework.requirement(version, "[and-cuda]" if with_cuda else "")


class SKLearn(FrameworkEstimator):
    """An estimator that declares `scikit-learn`, for one process."""

    framework = Framework("scikit-learn", "scikit-learn", _minors(1, 3, 9), "1.9")

    @classmethod
    def _adapted(cls, keywords: dict[str, Any]) -> dict[str, Any]:
        for name in ("node_count", "process_count_per_node", "distributed_training", "distributed_backend"):
            if keywords.get(name) not in (None, 1):
                raise UsageError(
                    f"SKLearn: {name}: got {keywords[name]!r}, and scikit-learn runs in one process",
                    hint='Estimator(pip_packages=["scikit-learn"], ...) for a script that shares out its work itself',
                )
        return keywords


class Chainer(FrameworkEstimator):
    """An estimator that declares `chainer` with the older NumPy and setuptools it needs, and no cupy.

    Its last release is built from source with a setuptools of before 2026: `as_of="2025-12-31"` takes one.
    """

    framework = Framework("chainer", "chainer", ("7.8.1",), "7.8.1", ("numpy<2", "setuptools<60"))

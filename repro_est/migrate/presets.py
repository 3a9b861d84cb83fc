"""What Azure ML's framework estimators brought along, as packages that a recipe names.

Only the framework itself is sure to be needed; of the rest a recipe gets what its script imports. The versions that
Azure ML took when none was named are its own, of SDK 1.62.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro_est.migrate.entry import imported_modules


@dataclass(frozen=True, slots=True)
class Preset:
    """A framework estimator.

    Args:
        package: the distribution of the framework.
        default: the version Azure ML took.
        more: what came along: by the name that a script imports, the distribution.
    """

    package: str
    default: str
    more: dict[str, str]

    def packages(self, version: str, script: Path, *, use_gpu: bool) -> list[str]:
        """Returns the requirements for one version, and for what the script imports."""
        name = (
            "tensorflow-gpu" if self.package == "tensorflow" and use_gpu and version.startswith("1.") else self.package
        )
        imported = imported_modules(script)
        return [f"{name}=={version}.*", *[package for module, package in self.more.items() if module in imported]]


PRESETS = {
    "PyTorch": Preset(
        "torch", "1.4", {"torchvision": "torchvision", "horovod": "horovod", "tensorboard": "tensorboard"}
    ),
    "TensorFlow": Preset("tensorflow", "1.13", {"horovod": "horovod"}),
    "Chainer": Preset("chainer", "5.1.0", {"mpi4py": "mpi4py", "cupy": "cupy"}),
    "SKLearn": Preset("scikit-learn", "0.20.3", {"scipy": "scipy", "joblib": "joblib", "numpy": "numpy"}),
}
"""By the class of Azure ML."""

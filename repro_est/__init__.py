"""Declarative build-and-run with Nix-like reproducibility for ML training.

    from repro_est import Estimator, Experiment
    run = Experiment("digits").submit(Estimator("digits", entry_script="train.py", pip_packages=["scikit-learn"]))
    run.wait_for_completion(show_output=True)

In a training script: `from repro_est import Run; run = Run.get_context()`. The names of this module are imported when
they are used: the command line needs none of them.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "api.condadependencies": ("CondaDependencies",),
    "api.dataset": ("Dataset", "OutputFileDatasetConfig"),
    "api.datastore": ("DataPath", "DataReference", "Datastore"),
    "api.distributed": (
        "Gloo",
        "Mpi",
        "MpiConfiguration",
        "Nccl",
        "ParameterServer",
        "PyTorchConfiguration",
        "TensorflowConfiguration",
    ),
    "api.docker": ("ContainerRegistry", "DockerConfiguration"),
    "api.environment": ("Environment",),
    "api.estimator": ("Estimator",),
    "api.experiment": ("Experiment",),
    "api.model": ("Model",),
    "api.presets": ("Chainer", "PyTorch", "SKLearn", "TensorFlow"),
    "api.run": ("Run",),
    "api.scriptrunconfig": ("ScriptRunConfig",),
    "api.workspace": ("Workspace",),
    "errors": ("ReproError",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Imports a public name where it is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"repro_est.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]

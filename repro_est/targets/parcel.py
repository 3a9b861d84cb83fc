"""What every run has on its Python path besides its environment: `repro_est` as scripts see it.

    repro_est/__init__.py      the face: `from repro_est import Run`
    repro_est/inside/          standard library only (`repro_est.inside`)
    repro_est_run-1.dist-info  entry points by which MLflow finds the run
    azureml/                   with `[compat] azureml = true`: old names for the same things

It is a part of `repro`, as the supervisor is: no part of the environment's key, and nothing of it decides a result. It
comes after what a recipe puts on PYTHONPATH.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from repro_est import inside

MODULES = "modules"
"""Directory of it, beside the working directory of a run."""

_SHIM = "azureml_shim"
_ENTRY_POINTS = """\
[mlflow.tracking_store]
repro = repro_est.inside.mlflow_store:open_store
[mlflow.model_registry_store]
repro = repro_est.inside.mlflow_registry:open_store
[mlflow.artifact_repository]
file = repro_est.inside.mlflow_artifacts:RunArtifacts
"""


def parcel(*, azureml: bool) -> dict[str, str]:
    """Returns the text of each file by its POSIX path.

    Args:
        azureml: with the modules of Azure ML's names.
    """
    return {name: text for name, text in _everything().items() if azureml or not name.startswith("azureml/")}


def unpack(directory: Path, *, azureml: bool) -> None:
    """Writes the parcel below an empty directory."""
    for name, text in parcel(azureml=azureml).items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")


@cache
def _everything() -> dict[str, str]:
    root = Path(inside.__file__).parent
    files = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}
    shim = {name: text for name, text in files.items() if name.startswith(f"{_SHIM}/")}
    own = {f"repro_est/inside/{name}": text for name, text in files.items() if name not in shim and name != "face.py"}
    return {
        "repro_est/__init__.py": files["face.py"],
        **own,
        "repro_est_run-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: repro-est-run\nVersion: 1\n",
        "repro_est_run-1.dist-info/entry_points.txt": _ENTRY_POINTS,
        **{f"azureml/{name.removeprefix(f'{_SHIM}/')}": text for name, text in shim.items()},
    }

"""From an old file to drafts of recipes: says which kind of file it is, and has it read.

Known are Azure ML's `.runconfig`, a Python script or a notebook with its objects, conda's environment file, MLflow's
`MLproject` and `python_env.yaml`, and a requirements file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro_est.errors import UsageError
from repro_est.migrate.draft import Draft
from repro_est.migrate.yamlfile import YamlFile

_KNOWN = "a .runconfig, a .py or .ipynb, a conda environment file, an MLproject, or a requirements file"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What of a file is wanted.

    Args:
        directory: where the recipes will be.
        name: the variable of an estimator, None for all.
        entry_point: of an MLproject.
        script: the entry script, for a file that names none.
    """

    directory: Path
    name: str | None = None
    entry_point: str = "main"
    script: str | None = None


def read_drafts(path: Path, wishes: Wishes) -> tuple[Draft, ...]:
    """Returns a draft for each recipe an old file makes.

    Raises:
        UsageError: the file is of no kind known here, or cannot be read; the message says where and what.
    """
    if path.is_dir():
        path = _in_directory(path)
    shown = str(path)
    if not path.is_file():
        raise UsageError(f"{shown}: no such file" if not path.exists() else f"{shown}: is no file")
    if path.suffix in (".py", ".ipynb"):
        from repro_est.migrate.python import read_python

        return read_python(path, shown, wishes.directory, wishes.name)
    draft = Draft(path.stem, shown, wishes.directory)
    if path.suffix in (".txt", ".in"):
        from repro_est.migrate.files import read_requirements

        read_requirements(path, shown, draft, wishes.script)
    elif path.suffix in (".runconfig", ".yml", ".yaml") or path.name.lower() == "mlproject":
        _read_yaml(YamlFile(path, shown), draft, wishes)
    else:
        hint = f"repro capsule import {shown}   takes a run that was exported" if path.suffix == ".tar" else None
        raise UsageError(f"{shown}: got a file of an unknown kind, expected {_KNOWN}", hint=hint)
    return (draft,)


def _in_directory(path: Path) -> Path:
    for name in ("MLproject", "MLProject"):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path}: got a directory without an MLproject, expected {_KNOWN}")


def _read_yaml(file: YamlFile, draft: Draft, wishes: Wishes) -> None:
    from repro_est.migrate import files
    from repro_est.migrate.mlproject import read_mlproject
    from repro_est.migrate.runconfig import read_runconfig

    keys = {str(key) for key in file.content}
    if file.path.name.lower() == "mlproject" or keys & {"entry_points", "conda_env", "python_env", "docker_env"}:
        draft.name = wishes.entry_point
        read_mlproject(file, draft, wishes.entry_point)
    elif file.path.suffix == ".runconfig" or keys & {"framework", "communicator", "nodeCount", "node_count"}:
        read_runconfig(file, draft)
    elif {"package", "metadata"} <= keys:
        hint = f'[environment]\nconda_lock_file = "{draft.relative(file.path)}"'
        raise UsageError(f"{file.shown}: is a conda-lock file, which a recipe takes as it is", hint=hint)
    elif keys & {"python", "build_dependencies"} and "channels" not in keys:
        files.read_python_env(file, draft, wishes.script)
    elif "dependencies" in keys:
        files.read_conda(file, draft, wishes.script)
    elif keys & {"$schema", "jobs", "command"}:
        raise UsageError(f"{file.shown}: got a job of Azure ML's CLI v2, expected {_KNOWN}")
    else:
        raise UsageError(f"{file.shown}: got {', '.join(sorted(keys)) or 'nothing'}, expected {_KNOWN}")

"""Files that hold packages alone: conda's environment file, MLflow's python_env.yaml, a requirements file."""

from __future__ import annotations

from pathlib import Path

from repro_est.migrate.draft import Draft, Place
from repro_est.migrate.entry import put_source
from repro_est.migrate.packages import Packages
from repro_est.migrate.text import read_text
from repro_est.migrate.yamlfile import YamlFile


def read_conda(file: YamlFile, draft: Draft, script: str | None) -> None:
    """Fills a draft from a conda environment file."""
    packages = _packages(file.path, file.shown, draft, script)
    packages.conda_file(file)
    packages.finish()


def read_python_env(file: YamlFile, draft: Draft, script: str | None) -> None:
    """Fills a draft from MLflow's python_env.yaml."""
    packages = _packages(file.path, file.shown, draft, script)
    packages.python_file(file)
    packages.finish()


def read_requirements(path: Path, shown: str, draft: Draft, script: str | None) -> None:
    """Fills a draft from a requirements file."""
    read_text(path, shown)
    _packages(path, shown, draft, script).requirements_file(path, Place(shown), path.name)


def _packages(path: Path, shown: str, draft: Draft, script: str | None) -> Packages:
    source = path.absolute().parent
    put_source(draft, source, script, Place(shown))
    return Packages(draft, source)

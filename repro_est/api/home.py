"""Where the files of a workspace are: a workspace is the project around a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from repro_est.project import find_project


class Home(Protocol):
    """A workspace, as far as files go."""

    @property
    def root(self) -> Path:
        """Absolute directory of the project."""


def root_of(workspace: Home | None) -> Path:
    """Returns the directory of a workspace's project; None is the project around the current directory."""
    return find_project().root if workspace is None else workspace.root

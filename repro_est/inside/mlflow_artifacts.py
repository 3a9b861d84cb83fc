"""MLflow's artifacts in a run: files that are where they belong already are left there.

Scripts write into `./outputs` and then tell MLflow to log it, and a run's artifacts are `./outputs`: MLflow's own
repository fails at a file that is its own copy, and goes round in circles with a directory that holds its own target.
MLflow loads this module for `file:` URIs, as it does `mlflow_store`.
"""

from __future__ import annotations

import os

from mlflow.store.artifact.local_artifact_repo import (
    LocalArtifactRepository,
)


class RunArtifacts(LocalArtifactRepository):  # type: ignore[misc]
    """A directory of artifacts that may be logged into itself."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        target = os.path.join(self.artifact_dir, artifact_path or "", os.path.basename(local_file))
        if not (os.path.exists(target) and os.path.samefile(local_file, target)):
            super().log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        target = os.path.realpath(os.path.join(self.artifact_dir, artifact_path or ""))
        for directory, names, files in os.walk(local_dir, followlinks=True):
            names[:] = [name for name in names if os.path.realpath(os.path.join(directory, name)) != target]
            inside = os.path.normpath(os.path.join(artifact_path or "", os.path.relpath(directory, local_dir)))
            for file in files:
                self.log_artifact(os.path.join(directory, file), None if inside == "." else inside.replace(os.sep, "/"))

"""MLflow's model registry in a run: `register_model` and `registered_model_name=` do what `Run.register_model` does.

The model is registered when the run succeeds; its version is known then, and `pending` until then. Whatever else one
does with a registry is done with `repro model`, after the run. MLflow loads this module, as it does `mlflow_store`.
"""

from __future__ import annotations

import os
import time
from urllib.parse import unquote, urlparse

from mlflow.entities.model_registry import (
    ModelVersion,
    RegisteredModel,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.model_registry.abstract_store import (
    AbstractStore,
)

from repro_est.inside.files import check_model_name
from repro_est.inside.mlflow_store import RunStore, refusal, refuse_the_rest, the_store

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_VERSION = "pending"
_FROM_INPUT = (
    'declare it as an input of the recipe, [inputs.model] path = "model:NAME@ALIAS", and load it from its path'
)
_INSTEAD = (
    (("get", "search", "download"), _FROM_INPUT),
    (("alias", "stage"), "give the alias when the run has ended: `repro model promote`"),
    (("tag", "update", "description"), "give tags to register_model, or to the run"),
    (("prompt",), "keep prompts in files of the source directory"),
)


class RunRegistry(AbstractStore):  # type: ignore[misc]
    """What a run asks to be registered."""

    def __init__(self, store: RunStore) -> None:
        super().__init__()
        self._store = store
        self._models: dict[str, RegisteredModel] = {}
        self._versions: list[ModelVersion] = []

    def create_registered_model(
        self, name: str, tags: Any = None, description: str | None = None, deployment_job_id: str | None = None
    ) -> RegisteredModel:
        try:
            check_model_name(name)
        except ValueError as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error
        if name in self._models:
            raise MlflowException(f"model {name!r} is there already", RESOURCE_ALREADY_EXISTS)
        now = int(time.time() * 1000)
        self._models[name] = RegisteredModel(name, now, now, description, tags=list(tags or ()))
        return self._models[name]

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Iterable[Any] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        asked = self.get_registered_model(name)
        path = self._path(source, run_id, model_id)
        given = list(tags or ())
        all_tags = {**asked.tags, **{tag.key: str(tag.value) for tag in given}}
        self._store.register_model(name, path, all_tags, description or asked.description or "")
        now = int(time.time() * 1000)
        version = ModelVersion(name, _VERSION, now, now, description, source=source, run_id=run_id, tags=given)
        self._versions.append(version)
        return version

    def _path(self, source: str, run_id: str | None, model_id: str | None) -> str:
        """Returns where the files of a model are."""
        url = urlparse(source)
        if model_id is None and url.scheme == "models" and url.path.lstrip("/").startswith("m-"):
            model_id = url.path.strip("/")
        if model_id is not None:
            source = self._store.get_logged_model(model_id).artifact_location
        elif url.scheme == "runs":
            run_id, _, inside = url.path.strip("/").partition("/")
            return os.path.join(self._store.artifacts(run_id), inside)
        elif url.scheme == "models":
            raise refusal("create_model_version", _FROM_INPUT)
        return unquote(urlparse(source).path)

    def get_registered_model(self, name: str) -> RegisteredModel:
        if name not in self._models:
            message = f"model {name!r}: not registered by this run\n\nhint: {_FROM_INPUT}"
            raise MlflowException(message, RESOURCE_DOES_NOT_EXIST)
        return self._models[name]

    def _await_model_version_creation(self, mv: ModelVersion, await_creation_for: float | None) -> None:
        """Nothing is to be waited for: it is registered when the run has succeeded."""


refuse_the_rest(RunRegistry, _INSTEAD)


def open_store(store_uri: str | None = None, tracking_uri: str | None = None) -> RunRegistry:
    """Returns the registry for `repro:`; called by MLflow."""
    return RunRegistry(the_store())

"""A run that this process is itself, as in a notebook: recorded in `./logs/offline/`, and pinned by nothing.

It is a script's run (`inside.run`) with two things that a script cannot have: its experiment, and models that are
registered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from repro_est.inside import files
from repro_est.inside.run import Run

if TYPE_CHECKING:
    from repro_est.api.experiment import Experiment
    from repro_est.api.model import Model


class InteractiveRun(Run):
    """One of them; `Experiment.start_logging` begins it."""

    _experiment: Experiment

    @classmethod
    def of(cls, experiment: Experiment) -> InteractiveRun:
        """Begins a run of an experiment; each call another one."""
        made = cls.begin(experiment.name)
        assert isinstance(made, InteractiveRun)
        made._experiment = experiment
        return made

    @property
    def experiment(self) -> Experiment:  # type: ignore[override]
        return self._experiment

    def register_model(  # type: ignore[override]
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        **unknown: Any,
    ) -> Model:
        """Registers a file or directory of `./outputs` now; the model belongs to no run that could be repeated.

        Args:
            model_path: `outputs/model.pkl`; without one, the model's name.

        Raises:
            FileNotFoundError: nothing is there; the candidates are named.
            UsageError: a name that no model may have.
        """
        from repro_est.api.model import Model

        super().register_model(
            model_name, model_path, tags, properties, model_framework, model_framework_version, description, **unknown
        )
        return Model.register(
            self._experiment.workspace,
            files.find_model(model_path or model_name, (self.output_directory,)),
            model_name,
            tags,
            properties,
            description,
            model_framework=model_framework,
            model_framework_version=model_framework_version,
        )

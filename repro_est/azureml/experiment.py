"""`Experiment` of old code: that of `repro_est`, with interactive runs that begin anew each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro_est.api.experiment import Experiment as Plain
from repro_est.api.run import Run

_options = {"relock": False}


def relock() -> None:
    """Lets every estimator from now on have its lock made anew where it no longer satisfies it."""
    _options["relock"] = True


class Experiment(Plain):
    """`repro_est.Experiment`."""

    def submit(self, config: Any, tags: Mapping[str, str] | None = None, **keywords: Any) -> Run:
        """Returns the run of an estimator, as `repro_est.Experiment.submit` does."""
        return super().submit(config, tags, **{**_options, **keywords})

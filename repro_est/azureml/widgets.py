"""`azureml.widgets`: the state of a run, as text."""

from __future__ import annotations

from typing import Any


class RunDetails:
    """Shows a run."""

    def __init__(self, run_instance: Any) -> None:
        self._run = run_instance

    def show(self, *arguments: object, **keywords: object) -> None:
        """Prints what the run is, its state, its metrics so far, and where its page is; does not wait."""
        run = self._run
        print(f"Run {run.id}: {run.get_status()}")
        for name, value in run.get_metrics().items():
            print(f"  {name}: {value}")
        print(f"  {run.get_portal_url()}", flush=True)

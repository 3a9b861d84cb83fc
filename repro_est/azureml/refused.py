"""What of Azure's SDK has no meaning where runs are submitted, as errors of `repro`.

The table is `inside.azureml_shim.refused`, which scripts inside runs share.
"""

from __future__ import annotations

from repro_est.errors import UsageError
from repro_est.inside.azureml_shim.refused import REFUSED, Refusals
from repro_est.inside.azureml_shim.surface import OUTSIDE


class NoMeaning(UsageError, AttributeError):
    """Something of Azure's SDK was used that has no meaning here; also an AttributeError, so that `hasattr` says no."""


class UnknownName(UsageError, ImportError):
    """A name was imported from `azureml` that the shim does not know."""


def _error(name: str, instead: str) -> NoMeaning:
    return NoMeaning(f"{name}: has no meaning here", hint=instead)


def unknown(message: str, hint: str) -> UnknownName:
    """Returns the error for a name that nobody knows."""
    return UnknownName(message, hint=hint)


INSIDE = {"azureml.core.run.Run.input_datasets": "run.get_details()['inputDatasets'] says what it was given"}
"""What has a meaning in a training script only."""

refusals = Refusals({**REFUSED, **INSIDE}, _error)
"""Names that have no meaning, and what to do instead."""

refusals_of_scripts = Refusals({**REFUSED, **OUTSIDE}, _error)
"""Those for a run that this process itself is."""

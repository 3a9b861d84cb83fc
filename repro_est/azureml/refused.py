"""What of Azure's SDK has no meaning where runs are submitted, as errors of `repro`.

The table is `inside.azureml_shim.refused`, which scripts inside runs share.
"""

from __future__ import annotations

from repro_est.errors import UsageError
from repro_est.inside.azureml_shim.refused import REFUSED, Refusals


class NoMeaning(UsageError, AttributeError):
    """Something of Azure's SDK was used that has no meaning here; also an AttributeError, so that `hasattr` says no."""


class UnknownName(UsageError, ImportError):
    """A name was imported from `azureml` that the shim does not know."""


def _error(name: str, instead: str) -> NoMeaning:
    return NoMeaning(f"{name}: has no meaning here", hint=instead)


def unknown(message: str, hint: str) -> UnknownName:
    """Returns the error for a name that nobody knows."""
    return UnknownName(message, hint=hint)


refusals = Refusals(REFUSED, _error)
"""Names that have no meaning, and what to do instead."""

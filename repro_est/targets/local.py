"""The local target: this machine, one process. What a plan needs of it is checked before anything starts."""

from __future__ import annotations

from repro_est.errors import InfrastructureError
from repro_est.targets.facts import gpus


def require(*, use_gpu: bool) -> None:
    """Checks that this machine has what the plan asks for.

    Raises:
        InfrastructureError: a GPU is asked for and there is none.
    """
    if use_gpu and not gpus():
        raise InfrastructureError(
            "use_gpu = true, and nvidia-smi finds no GPU on this machine",
            hint="repro doctor, or use_gpu = false",
        )

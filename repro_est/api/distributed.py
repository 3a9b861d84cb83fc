"""What joins the processes of a run, as Azure ML's classes say it: each is a table of `distributed_training`.

A value is checked whenever it is set, for scripts change it after construction. What stands at Azure ML's default is
left out of the table, so that a count in the estimator's own keywords counts; where both say something, the recipe's
reader sees that they agree.
"""

from __future__ import annotations

from typing import Any

from repro_est.api.settings import Settings, wrong

_MOST = 10_000_000
_COMMUNICATORS = {"nccl": "Nccl", "gloo": "Gloo"}


class DistributedConfiguration(Settings):
    """What `distributed_training` takes."""

    def to_recipe(self) -> dict[str, Any]:
        """Returns keys of `[estimator]`, as TOML has them."""
        return {"distributed_training": self._table()}

    def _table(self) -> dict[str, Any]:
        raise NotImplementedError

    def _off_default(self, **defaults: Any) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in defaults and value != defaults[name]}

    def _checked(self, name: str, value: Any) -> Any:
        if name == "communication_backend":
            spelled = _COMMUNICATORS.get(str(value).lower())
            if spelled is None:
                hint = "MpiConfiguration is for MPI" if str(value).lower() == "mpi" else None
                raise wrong(self, name, value, "'Nccl' or 'Gloo'", hint)
            return spelled
        least = 0 if name == "parameter_server_count" else 1
        if name == "process_count" and value is None:
            return None
        if type(value) is not int or not least <= value <= _MOST:
            raise wrong(self, name, value, f"an integer of at least {least}")
        return value


class MpiConfiguration(DistributedConfiguration):
    """MPI starts the processes.

    Args:
        process_count_per_node: of each node.
        node_count: one host each.
    """

    process_count_per_node: int
    node_count: int

    def __init__(self, process_count_per_node: int = 1, node_count: int = 1) -> None:
        self.process_count_per_node = process_count_per_node
        self.node_count = node_count

    def _table(self) -> dict[str, Any]:
        return {"type": "mpi", **self._off_default(process_count_per_node=1, node_count=1)}


class PyTorchConfiguration(DistributedConfiguration):
    """Processes that find each other by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Args:
        communication_backend: "Nccl" or "Gloo". It says what the script picks, and changes nothing that the script is
            given; the default is not written into the recipe, where "nccl" would need `use_gpu`.
        process_count: all of them; None is one on each node.
        node_count: one host each.
    """

    communication_backend: str
    process_count: int | None
    node_count: int

    def __init__(
        self, communication_backend: str = "Nccl", process_count: int | None = None, node_count: int = 1
    ) -> None:
        self.communication_backend = communication_backend
        self.process_count = process_count
        self.node_count = node_count

    def _table(self) -> dict[str, Any]:
        table = {"type": "torch", **self._off_default(process_count=None, node_count=1)}
        if self.communication_backend != "Nccl":
            table["communication_backend"] = self.communication_backend.lower()
        return table


class TensorflowConfiguration(DistributedConfiguration):
    """Workers and parameter servers, told of each other by TF_CONFIG; a node each.

    Args:
        worker_count: the chief is the first of them.
        parameter_server_count: 0 is for none.
    """

    worker_count: int
    parameter_server_count: int

    def __init__(self, worker_count: int = 1, parameter_server_count: int = 1) -> None:
        self.worker_count = worker_count
        self.parameter_server_count = parameter_server_count

    def _table(self) -> dict[str, Any]:
        return {"type": "tensorflow", **vars(self)}


class Mpi(DistributedConfiguration):
    """Older name of `MpiConfiguration`; the nodes are the estimator's `node_count`."""

    process_count_per_node: int

    def __init__(self, process_count_per_node: int = 1) -> None:
        self.process_count_per_node = process_count_per_node

    def _table(self) -> dict[str, Any]:
        return {"type": "mpi", **self._off_default(process_count_per_node=1)}


class ParameterServer(TensorflowConfiguration):
    """Older name of `TensorflowConfiguration`."""


class Gloo(DistributedConfiguration):
    """Older name of `PyTorchConfiguration("Gloo")`; the nodes are the estimator's `node_count`."""

    def _table(self) -> dict[str, Any]:
        return {"type": "torch", "communication_backend": "gloo"}


class Nccl(DistributedConfiguration):
    """Older name of `PyTorchConfiguration("Nccl")`; the nodes are the estimator's `node_count`, and it needs GPUs."""

    def _table(self) -> dict[str, Any]:
        return {"type": "torch", "communication_backend": "nccl"}

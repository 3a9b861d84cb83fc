"""The rank layout: how many nodes, how many processes on each, and what joins them.

One decision for every target: ranks are node-contiguous, so that rank `r` is local rank `r % P` of node `r // P` with
`P` processes a node, under every launcher. The layout is a part of the plan; which host a node becomes is not
(`targets.placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Backend(StrEnum):
    """What the processes of a run talk through."""

    NONE = "none"
    MPI = "mpi"
    TORCH = "torch"
    TENSORFLOW = "tensorflow"


class Binding(StrEnum):
    """Which GPUs of its host's share a rank sees: all of them, to pick by LOCAL_RANK, or its own only."""

    HOST = "host"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a run, by its place in the layout; all three count from 0."""

    rank: int
    local_rank: int
    node_rank: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes x processes.

    Args:
        gpus_per_process: 0 without GPUs.
        parameter_servers: of TensorFlow: so many of the last ranks are `ps`, the others `worker`.
    """

    node_count: int = 1
    process_count_per_node: int = 1
    backend: Backend = Backend.NONE
    gpus_per_process: int = 0
    gpu_binding: Binding = Binding.HOST
    parameter_servers: int = 0

    @property
    def world_size(self) -> int:
        return self.node_count * self.process_count_per_node

    @property
    def is_single(self) -> bool:
        """Whether this is one plain process, which needs no launcher and is told nothing of ranks."""
        return self.world_size == 1 and self.backend is Backend.NONE

    @property
    def gpus_per_node(self) -> int:
        return self.process_count_per_node * self.gpus_per_process

    def ranks(self) -> tuple[Rank, ...]:
        """Returns every rank, in order."""
        return tuple(map(self.rank, range(self.world_size)))

    def ranks_of(self, node_rank: int) -> tuple[Rank, ...]:
        """Returns the ranks of one node, in order."""
        first = node_rank * self.process_count_per_node
        return tuple(map(self.rank, range(first, first + self.process_count_per_node)))

    def rank(self, number: int) -> Rank:
        node, local = divmod(number, self.process_count_per_node)
        return Rank(number, local, node)

    def task(self, rank: Rank) -> tuple[str, int]:
        """Returns the TensorFlow task of a rank: `worker` or `ps`, and its index among those."""
        workers = self.world_size - self.parameter_servers
        return ("worker", rank.rank) if rank.rank < workers else ("ps", rank.rank - workers)

    def document(self, *, use_gpu: bool) -> dict[str, Any]:
        """Returns what of it is hashed: the fields that are not at their default, so nothing for one plain process.

        Args:
            use_gpu: a process has one GPU by default then, and none otherwise.
        """
        default = Layout(gpus_per_process=int(use_gpu))
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["gpus_per_process"] = max(self.gpus_per_process, default.gpus_per_process)
        return {
            name: str(value) if isinstance(value, StrEnum) else value
            for name, value in values.items()
            if value != getattr(default, name)
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, use_gpu: bool) -> Layout:
        """Reads what `document` returned.

        Raises:
            ValueError: another backend or binding.
            TypeError: a field that a layout does not have.
        """
        values = {"gpus_per_process": int(use_gpu), **document}
        values["backend"] = Backend(values.get("backend", Backend.NONE))
        values["gpu_binding"] = Binding(values.get("gpu_binding", Binding.HOST))
        return cls(**values)

    def __str__(self) -> str:
        """`3 x 2 mpi`: nodes, processes on each, backend."""
        joined = "" if self.backend is Backend.NONE else f" {self.backend}"
        return f"{self.node_count} x {self.process_count_per_node}{joined}"

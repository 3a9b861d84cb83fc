"""The keys of several processes as one layout: new names, Azure ML's tables and its old `distributed_backend`.

A count may stand in `[estimator]` or in the table of `distributed_training`; both must agree. What one count says of
another is worked out here, and nowhere later: a layout is always complete.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from repro_est.layout import Backend, Binding, Layout
from repro_est.recipe.schema import BACKEND_KEYS, OLD_BACKENDS

_TRAINING = "distributed_training"
_AZURE = {"mpiconfiguration": "mpi", "pytorchconfiguration": "torch", "tensorflowconfiguration": "tensorflow"}
_AZURE |= {"pytorch": "torch", "gloo": "torch", "nccl": "torch", "horovod": "mpi", "tf": "tensorflow"}
_DEFAULT_SERVERS = "parameter_server_count = 1 is Azure ML's default; 0 is for none"

OnProblem = Callable[[tuple[str, ...], str, str | None], None]
"""Is told the key below `[estimator]`, what is wrong, and a hint."""


def read_layout(values: Mapping[str, Any], given: Mapping[str, Any], on_problem: OnProblem) -> Layout:
    """Returns the layout of a recipe.

    Args:
        values: the keys of `[estimator]`, of the right type, defaults filled in.
        given: those that the recipe writes.
        on_problem: told everything that is wrong; the layout is of no use then.
    """
    return _Reader(values, given, on_problem).layout()


class _Reader:
    def __init__(self, values: Mapping[str, Any], given: Mapping[str, Any], on_problem: OnProblem) -> None:
        self._values, self._given, self._problem = values, given, on_problem
        training = values[_TRAINING]
        self._table: dict[str, Any] = dict(training) if isinstance(training, dict) else {"type": training}
        self._backend = self._read_backend()
        self._check_table()

    def layout(self) -> Layout:
        servers = self._servers()
        nodes, processes = self._counts(servers)
        if servers >= nodes * processes > 0 and servers:
            self._problem(
                self._place("parameter_server_count"),
                f"got {servers} of {nodes * processes} processes, expected at least one worker",
                None,
            )
        return Layout(
            node_count=nodes,
            process_count_per_node=processes,
            backend=self._backend,
            gpus_per_process=self._gpus(),
            gpu_binding=Binding(self._values["gpu_binding"]),
            parameter_servers=servers,
        )

    # ---- the backend and its table

    def _read_backend(self) -> Backend:
        backend = self._type()
        old = self._values["distributed_backend"]
        if old is None:
            return backend
        if _TRAINING not in self._given:
            return OLD_BACKENDS[old]
        if OLD_BACKENDS[old] is not backend:
            message = f'got "{old}", and distributed_training = "{backend}" says otherwise'
            self._problem(("distributed_backend",), message, "write distributed_training only")
        return backend

    def _type(self) -> Backend:
        kind = self._table.get("type")
        place = self._place("type") if isinstance(self._values[_TRAINING], dict) else (_TRAINING,)
        expected = ", ".join(f'"{backend}"' for backend in Backend)
        if kind is None:
            self._problem((_TRAINING,), f"got a table without `type`, expected one of {expected}", None)
        elif kind not in tuple(Backend):
            self._problem(place, f"got {kind!r}, expected one of {expected}", _meant(kind))
        else:
            return Backend(kind)
        return Backend.NONE

    def _check_table(self) -> None:
        known = BACKEND_KEYS[self._backend]
        if self._table.get("type") not in tuple(Backend):
            return
        for name, value in list(self._table.items()):
            if name == "type":
                continue
            least = 0 if name == "parameter_server_count" else 1
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else None
                self._problem(self._place(name), f'unknown key of type "{self._backend}"', hint)
            elif name == "communication_backend":
                if str(value).lower() not in ("nccl", "gloo"):
                    self._problem(self._place(name), f'got {value!r}, expected "nccl" or "gloo"', None)
                continue
            elif type(value) is not int or not least <= value <= 10_000_000:
                self._problem(self._place(name), f"got {value!r}, expected an integer of at least {least}", None)
            else:
                continue
            del self._table[name]

    # ---- counts

    def _servers(self) -> int:
        """Returns how many parameter servers there are."""
        workers, servers = self._table.get("worker_count"), self._table.get("parameter_server_count")
        if workers is not None and servers is None:
            self._problem(self._place("worker_count"), "needs parameter_server_count beside it", _DEFAULT_SERVERS)
        if servers is None and self._values["distributed_backend"] == "ps":
            return 1
        return servers or 0

    def _counts(self, servers: int) -> tuple[int, int]:
        """Returns nodes and processes on each, whichever of the counts are given."""
        nodes, processes = self._count("node_count"), self._count("process_count_per_node")
        total, name = self._total(servers)
        if total is None:
            if nodes is None and processes is None and servers:
                nodes = servers + 1  # one worker: Azure ML's default
            return nodes or 1, processes or 1
        if nodes is None and processes is None:
            return (1, total) if self._backend is Backend.TORCH else (total, 1)
        if nodes is not None and processes is not None:
            if nodes * processes != total:
                message = f"got {total} processes, expected {nodes} nodes x {processes} = {nodes * processes}"
                self._problem(self._place(name), message, "leave one of the counts out")
            return nodes, processes
        known = nodes or processes or 1
        if total % known:
            what = "nodes" if nodes else "processes a node"
            message = f"got {total} processes, expected a multiple of {known} {what}"
            self._problem(self._place(name), message, None)
        return (known, total // known) if nodes else (total // known, known)

    def _total(self, servers: int) -> tuple[int | None, str]:
        """Returns the number of all processes where the table gives it, and the key that does."""
        workers = self._table.get("worker_count")
        if workers is not None:
            return workers + servers, "worker_count"
        return self._table.get("process_count"), "process_count"

    def _count(self, name: str) -> int | None:
        above: int | None = self._values[name] if name in self._given else None
        inside: int | None = self._table.get(name)
        if above is not None and inside is not None and above != inside:
            self._problem(self._place(name), f"got {inside}, and {name} = {above} says otherwise", None)
        return inside if above is None else above

    # ---- devices

    def _gpus(self) -> int:
        use_gpu: bool = self._values["use_gpu"]
        asked: int | None = self._values["gpus_per_process"]
        wishes = {
            "gpus_per_process": asked is not None,
            "gpu_binding": self._values["gpu_binding"] != Binding.HOST,
            "distributed_backend": self._values["distributed_backend"] == "nccl",
        }
        for name in [name for name, wished in wishes.items() if wished and not use_gpu]:
            self._problem((name,), f'got "{self._values[name]}", expected use_gpu = true beside it', None)
        if str(self._table.get("communication_backend")).lower() == "nccl" and not use_gpu:
            self._problem(self._place("communication_backend"), 'got "nccl", expected use_gpu = true beside it', None)
        return (asked or 1) if use_gpu else 0

    def _place(self, name: str) -> tuple[str, ...]:
        return (_TRAINING, name)


def _meant(kind: object) -> str | None:
    text = str(kind).lower()
    near = _AZURE.get(text) or next(iter(difflib.get_close_matches(text, list(Backend), n=1)), None)
    return f"did you mean `{near}`?" if near else None

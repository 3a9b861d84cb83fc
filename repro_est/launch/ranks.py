"""What one rank is told of itself and of the others: the variables that torchrun, TensorFlow and Azure ML set.

Pure. A script written for any of the three finds the names it reads; one plain process is told nothing, so that the
layout of one changes nothing about a run. What the recipe declares comes on top of these, and is stronger.

    every backend   RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK GROUP_RANK MASTER_ADDR MASTER_PORT
                    REPRO_RANK REPRO_WORLD_SIZE REPRO_LOCAL_RANK REPRO_NODE_RANK REPRO_HOSTS
                    NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME, and the devices (CUDA_VISIBLE_DEVICES or AMD's names)
                    AZ_BATCH_MASTER_NODE AZ_BATCH_HOST_LIST AZ_BATCHAI_MPI_MASTER_NODE AZ_BATCHAI_TASK_INDEX
                    AZ_BATCHAI_PYTORCH_INIT_METHOD AZUREML_NODE_COUNT
    all but mpi     OMPI_COMM_WORLD_RANK _SIZE _LOCAL_RANK _LOCAL_SIZE: scripts of Azure ML read them with any backend;
                    under mpi they are mpirun's own
    torch           GROUP_WORLD_SIZE ROLE_NAME ROLE_RANK ROLE_WORLD_SIZE TORCHELASTIC_RUN_ID and its counts;
                    OMP_NUM_THREADS=1 with several processes a node, as torchrun has it
    tensorflow      TF_CONFIG AZ_BATCHAI_WORKER_HOSTS AZ_BATCHAI_PS_HOSTS
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from repro_est.layout import Backend, Layout, Rank

_EXPANDED = (
    "AZ_BATCHAI_PYTORCH_INIT_METHOD",
    "AZ_BATCHAI_TASK_INDEX",
    "AZ_BATCHAI_WORKER_HOSTS",
    "AZ_BATCHAI_PS_HOSTS",
)


def rank_environment(
    layout: Layout,
    rank: Rank,
    *,
    addresses: Sequence[str],
    head_address: str,
    master_port: int,
    ports: Sequence[int],
    interface: str,
    devices: Sequence[str],
    run_hash: str,
    vendor: str = "nvidia",
) -> dict[str, str]:
    """Returns the variables of one rank.

    Args:
        addresses: by which the other hosts reach each node, by node.
        head_address: of node 0; the loopback address when all nodes are on one host.
        ports: free ports, one for each rank; only TensorFlow's ranks listen on them.
        interface: name of this host's interface in the network of the run, `""` for any.
        devices: IDs this rank sees, none without GPUs.
        vendor: of the devices, `nvidia` or `amd`.
    """
    visible = device_variables(devices, vendor)
    if layout.is_single:
        return visible
    counts = {
        "RANK": rank.rank,
        "WORLD_SIZE": layout.world_size,
        "LOCAL_RANK": rank.local_rank,
        "LOCAL_WORLD_SIZE": layout.process_count_per_node,
        "NODE_RANK": rank.node_rank,
        "GROUP_RANK": rank.node_rank,
    }
    ours = {f"REPRO_{name}": counts[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")}
    master = f"{_bracketed(head_address)}:{master_port}"
    variables = {
        **{name: str(value) for name, value in {**counts, **ours}.items()},
        "REPRO_HOSTS": ",".join(addresses),
        "MASTER_ADDR": head_address,
        "MASTER_PORT": str(master_port),
        "AZ_BATCH_MASTER_NODE": master,
        "AZ_BATCH_HOST_LIST": ",".join(addresses),
        "AZ_BATCHAI_MPI_MASTER_NODE": head_address,
        "AZ_BATCHAI_PYTORCH_INIT_METHOD": f"tcp://{master}",
        "AZ_BATCHAI_TASK_INDEX": str(rank.rank),
        "AZUREML_NODE_COUNT": str(layout.node_count),
        **_interface(interface),
        **visible,
    }
    if layout.backend is not Backend.MPI:
        variables |= _openmpi(layout, rank)
    if layout.backend is Backend.TORCH:
        variables |= _torch(layout, rank, run_hash)
    if layout.backend is Backend.TENSORFLOW:
        variables |= _tensorflow(layout, rank, addresses, ports)
    return variables


def device_variables(devices: Sequence[str], vendor: str = "nvidia") -> dict[str, str]:
    """Returns the variables by which a process sees these devices only.

    AMD's two names filter one after the other, so one of them is set: HIP's takes indices, ROCr's takes UUIDs too.
    """
    if not devices:
        return {}
    listed = ",".join(devices)
    indices = all(device.isdecimal() for device in devices)
    if vendor == "amd":
        return {"HIP_VISIBLE_DEVICES" if indices else "ROCR_VISIBLE_DEVICES": listed}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if indices else {}  # nvidia-smi counts so, CUDA fastest first
    return {"CUDA_VISIBLE_DEVICES": listed, **order}


def expand(words: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Returns a command line with Azure ML's literal words, such as `$AZ_BATCHAI_TASK_INDEX`, replaced for one rank.

    Nothing else is expanded, and those not where there is no such variable.
    """
    values = {f"${name}": environment[name] for name in _EXPANDED if name in environment}
    return [values.get(word, word) for word in words]


def _interface(name: str) -> dict[str, str]:
    """NCCL takes a name for the start of one, unless there is a `=` before it; gloo takes it as it is."""
    return {"NCCL_SOCKET_IFNAME": f"={name}", "GLOO_SOCKET_IFNAME": name} if name else {}


def _openmpi(layout: Layout, rank: Rank) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank.rank),
        "OMPI_COMM_WORLD_SIZE": str(layout.world_size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank.local_rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(layout.process_count_per_node),
    }


def _torch(layout: Layout, rank: Rank, run_hash: str) -> dict[str, str]:
    several = layout.process_count_per_node > 1
    return {
        "GROUP_WORLD_SIZE": str(layout.node_count),
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank.rank),
        "ROLE_WORLD_SIZE": str(layout.world_size),
        "TORCHELASTIC_RUN_ID": run_hash,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        **({"OMP_NUM_THREADS": "1"} if several else {}),
    }


def _tensorflow(layout: Layout, rank: Rank, addresses: Sequence[str], ports: Sequence[int]) -> dict[str, str]:
    cluster: dict[str, list[str]] = {}
    for other in layout.ranks():
        kind, _ = layout.task(other)
        cluster.setdefault(kind, []).append(f"{_bracketed(addresses[other.node_rank])}:{ports[other.rank]}")
    kind, index = layout.task(rank)
    return {
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}),
        "AZ_BATCHAI_WORKER_HOSTS": ",".join(cluster["worker"]),
        "AZ_BATCHAI_PS_HOSTS": ",".join(cluster.get("ps", [])),
        "AZ_BATCHAI_TASK_INDEX": str(index),
    }


def _bracketed(address: str) -> str:
    """An IPv6 address as it stands before a port (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address else address

"""What a rank is told: the names that scripts for torchrun, TensorFlow, Open MPI and Azure ML read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repro_est.launch.ranks import device_variables, expand, rank_environment
from repro_est.layout import Backend, Layout


def told(layout: Layout, number: int, **changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {
        "addresses": [f"10.0.0.{node + 1}" for node in range(layout.node_count)],
        "head_address": "10.0.0.1",
        "master_port": 29500,
        "ports": range(4000, 4000 + layout.world_size),
        "interface": "eth0",
        "devices": (),
        "run_hash": "a" * 32,
        **changes,
    }
    return rank_environment(layout, layout.rank(number), **values)


def test_one_plain_process_is_told_nothing_but_its_devices() -> None:
    assert told(Layout(), 0) == {}
    assert told(Layout(gpus_per_process=1), 0, devices=("GPU-1",)) == {"CUDA_VISIBLE_DEVICES": "GPU-1"}


@pytest.mark.parametrize("backend", [backend for backend in Backend if backend is not Backend.TENSORFLOW])
def test_every_rank_of_several_knows_its_place(backend: Backend) -> None:
    found = told(Layout(2, 3, backend), 4)
    expected = {
        "RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "NODE_RANK": "1", "GROUP_RANK": "1",
        "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
        "REPRO_RANK": "4", "REPRO_WORLD_SIZE": "6", "REPRO_LOCAL_RANK": "1", "REPRO_NODE_RANK": "1",
        "REPRO_HOSTS": "10.0.0.1,10.0.0.2",
        "NCCL_SOCKET_IFNAME": "=eth0", "GLOO_SOCKET_IFNAME": "eth0",
        "AZ_BATCH_MASTER_NODE": "10.0.0.1:29500", "AZ_BATCHAI_MPI_MASTER_NODE": "10.0.0.1",
        "AZ_BATCHAI_PYTORCH_INIT_METHOD": "tcp://10.0.0.1:29500", "AZ_BATCHAI_TASK_INDEX": "4",
        "AZUREML_NODE_COUNT": "2",
    }  # fmt: skip
    assert expected.items() <= found.items()


def test_one_process_with_a_backend_is_told_of_a_world_of_one() -> None:
    assert told(Layout(backend=Backend.TORCH), 0)["WORLD_SIZE"] == "1"


def test_names_of_open_mpi_are_left_to_mpirun_where_there_is_one() -> None:
    assert not [name for name in told(Layout(2, 1, Backend.MPI), 0) if name.startswith("OMPI_")]
    assert told(Layout(2, 2, Backend.TORCH), 3)["OMPI_COMM_WORLD_LOCAL_RANK"] == "1"
    assert told(Layout(2, 2), 3)["OMPI_COMM_WORLD_RANK"] == "3"


def test_torch_gets_the_contract_of_torchrun() -> None:
    found = told(Layout(2, 2, Backend.TORCH), 1)
    assert {"TORCHELASTIC_RUN_ID": "a" * 32, "ROLE_RANK": "1", "OMP_NUM_THREADS": "1"}.items() <= found.items()
    assert "OMP_NUM_THREADS" not in told(Layout(2, 1, Backend.TORCH), 1)
    assert "TORCHELASTIC_RUN_ID" not in told(Layout(2, 2, Backend.MPI), 1)


def test_tensorflow_gets_its_cluster_and_its_task() -> None:
    layout = Layout(2, 2, Backend.TENSORFLOW, parameter_servers=1)
    found = [told(layout, number) for number in range(4)]
    workers = ["10.0.0.1:4000", "10.0.0.1:4001", "10.0.0.2:4002"]
    configs = [json.loads(item["TF_CONFIG"]) for item in found]
    assert all(config["cluster"] == {"worker": workers, "ps": ["10.0.0.2:4003"]} for config in configs)
    assert [tuple(config["task"].values()) for config in configs] == [
        ("worker", 0),
        ("worker", 1),
        ("worker", 2),
        ("ps", 0),
    ]
    assert found[3]["AZ_BATCHAI_TASK_INDEX"] == "0"
    assert found[0]["AZ_BATCHAI_WORKER_HOSTS"] == ",".join(workers)
    alone = json.loads(told(Layout(2, 1, Backend.TENSORFLOW), 0)["TF_CONFIG"])
    assert "ps" not in alone["cluster"]


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    found = told(Layout(2, 1, Backend.TENSORFLOW), 0, addresses=["fd00::1", "fd00::2"], head_address="fd00::1")
    assert found["AZ_BATCHAI_PYTORCH_INIT_METHOD"] == "tcp://[fd00::1]:29500"
    assert json.loads(found["TF_CONFIG"])["cluster"]["worker"] == ["[fd00::1]:4000", "[fd00::2]:4001"]
    assert found["MASTER_ADDR"] == "fd00::1"


@pytest.mark.parametrize(
    ("devices", "vendor", "expected"),
    [
        ((), "nvidia", {}),
        (("0", "3"), "nvidia", {"CUDA_VISIBLE_DEVICES": "0,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        (("MIG-5c8a",), "nvidia", {"CUDA_VISIBLE_DEVICES": "MIG-5c8a"}),
        (("1", "2"), "amd", {"HIP_VISIBLE_DEVICES": "1,2"}),
        (("GPU-ab", "GPU-cd"), "amd", {"ROCR_VISIBLE_DEVICES": "GPU-ab,GPU-cd"}),
    ],
)
def test_devices_are_shown_by_the_one_name_their_vendor_reads(
    devices: tuple[str, ...], vendor: str, expected: dict[str, str]
) -> None:
    assert device_variables(devices, vendor) == expected


def test_only_azures_literal_words_are_expanded() -> None:
    environment = told(Layout(2, 2, Backend.TORCH), 3)
    words = ["--init", "$AZ_BATCHAI_PYTORCH_INIT_METHOD", "--rank", "$AZ_BATCHAI_TASK_INDEX", "$HOME", "a$RANK", "$$"]
    assert expand(words, environment) == ["--init", "tcp://10.0.0.1:29500", "--rank", "3", "$HOME", "a$RANK", "$$"]
    assert expand(words, {}) == words

"""GPUs for real: `make test-gpu`, on a machine that has one. Nothing is needed but NVIDIA's driver.

The scripts ask the driver itself (libcuda) what they see, so that no framework is in between.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from repro_est.hostside.probe import probe
from tests.conftest import Workshop

pytestmark = [
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no nvidia-smi: this machine has no NVIDIA GPU"),
    pytest.mark.xdist_group("gpu"),
]

SEEN = """
import ctypes, json, os, time
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
count = ctypes.c_int()
assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
uuids = []
for number in range(count.value):
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGet(ctypes.byref(device), number) == 0
    assert cuda.cuDeviceGetUuid(uuid, device) == 0
    uuids.append(bytes(uuid).hex())
rank = os.environ.get("RANK", "0")
json.dump({"uuids": uuids, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}, open(f"outputs/{rank}.json", "w"))
time.sleep(float(os.environ.get("SECONDS_TO_SLEEP", "0")))
"""


def gpus() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = probe("/tmp")["gpus"]
    return found


def seen(workshop: Workshop, done: dict[str, Any], rank: int) -> dict[str, Any]:
    path = workshop.root / "cache/runs" / done["run_hash"] / "outputs" / f"{rank}.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def plain(uuid: str) -> str:
    return uuid.removeprefix("GPU-").replace("-", "")


def test_the_probe_finds_the_gpus_of_this_machine() -> None:
    assert gpus()
    assert all(gpu["uuid"].startswith("GPU-") and gpu["memory"] > 1000 and gpu["driver"] for gpu in gpus())


def test_a_script_without_use_gpu_sees_none(workshop: Workshop) -> None:
    script = SEEN.replace("assert cuda.cuInit(0) == 0", "status = cuda.cuInit(0)").replace(
        "assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0", "cuda.cuDeviceGetCount(ctypes.byref(count))"
    )
    assert seen(workshop, workshop.run(workshop.recipe(script)), 0)["uuids"] == []


def test_a_script_with_use_gpu_sees_them(workshop: Workshop) -> None:
    done = workshop.run(workshop.recipe(SEEN, estimator="use_gpu = true"))
    assert len(seen(workshop, done, 0)["uuids"]) == len(gpus())


def test_a_rank_sees_the_share_it_was_given(workshop: Workshop) -> None:
    recipe = workshop.recipe(SEEN, estimator='use_gpu = true\ndistributed_training = "torch"\ngpu_binding = "rank"')
    found = seen(workshop, workshop.run(recipe), 0)
    assert len(found["uuids"]) == 1
    assert found["uuids"][0] in [plain(gpu["uuid"]) for gpu in gpus()]


def test_more_gpus_than_there_are_is_a_usage_error(workshop: Workshop) -> None:
    more = len(gpus()) + 1
    recipe = workshop.recipe(
        SEEN, estimator=f'use_gpu = true\ndistributed_training = "torch"\nprocess_count_per_node = {more}'
    )
    done = workshop.repro("run", recipe)
    assert done.code == 2
    assert f"expected {more}" in done.err


def test_nobody_else_gets_a_gpu_that_is_taken(workshop: Workshop) -> None:
    count = len(gpus())
    layout = f'use_gpu = true\ndistributed_training = "torch"\nprocess_count_per_node = {count}'
    first = workshop.recipe(
        SEEN, "[estimator.environment_variables]\nSECONDS_TO_SLEEP = '6'\n", name="first", estimator=layout
    )
    second = workshop.recipe(SEEN + "\n", name="second", estimator=layout)
    command = [sys.executable, "-m", "repro_est", "run"]
    holder = subprocess.Popen([*command, first], cwd=workshop.root, stderr=subprocess.PIPE)
    time.sleep(3)
    waiting = subprocess.run([*command, second], cwd=workshop.root, capture_output=True, text=True, timeout=100)
    assert holder.wait(60) == 0
    assert waiting.returncode == 0
    assert "Queued" in waiting.stderr

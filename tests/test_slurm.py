"""Slurm as a target: a real slurmctld and real slurmds on the hosts of the lab, whose common file system is /shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workshop
from tests.lab.hosts import Cluster
from tests.lab.slurm import Slurm

LAYOUT = 'node_count = 2\nprocess_count_per_node = 2\ndistributed_training = "torch"'
TELL = """
import json, os, socket, sys, time
from pathlib import Path
rank = os.environ["RANK"]
names = ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES")
told = {name: os.environ.get(name) for name in names}
Path(f"outputs/{rank}.json").write_text(json.dumps({**told, "host": socket.gethostname()}))
print("I am", rank, os.environ.get("SECRET", ""), flush=True)
time.sleep(float(os.environ.get("SECONDS_TO_SLEEP", "0")))
if os.environ.get("FAILS") == rank:
    sys.exit(3)
"""


@pytest.fixture
def batch(workshop: Workshop, lab: Cluster, slurm: Slurm) -> Slurm:
    """An inventory with the target `slurm`."""
    inventory = workshop.root / "inventory.toml"
    text = inventory.read_text().replace("[hosts.h1]", '[hosts.h1]\nstore = "/shared/repro"')
    inventory.write_text(text + slurm.target())
    return slurm


def recipe(workshop: Workshop, *, estimator: str = "", sleep: float = 0, fails: str = "", script: str = TELL) -> str:
    more = f'[estimator.environment_variables]\nSECONDS_TO_SLEEP = "{sleep}"\nFAILS = "{fails}"\n'
    return workshop.recipe(script, more, estimator=f"{LAYOUT}\n{estimator}")


def told(workshop: Workshop, run_hash: str) -> list[dict[str, Any]]:
    root = workshop.root / "cache/runs" / run_hash / "outputs"
    return [json.loads(path.read_text()) for path in sorted(root.glob("*.json"))]


def jobs(batch: Slurm) -> str:
    return batch.run(["squeue", "--noheader"]).stdout.strip()


def started(workshop: Workshop, name: str) -> subprocess.Popen[str]:
    """Starts a client, and returns when all ranks have said who they are."""
    client = subprocess.Popen(
        [sys.executable, "-m", "repro_est", "run", name, "-t", "slurm"],
        cwd=workshop.root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert client.stderr is not None
    seen = ""
    while not all(f"I am {rank}" in seen for rank in range(4)):
        line = client.stderr.readline()
        assert line, seen
        seen += line
    return client


def test_ranks_of_a_job_are_told_what_ranks_of_hosts_are_told(workshop: Workshop, batch: Slurm) -> None:
    name = recipe(workshop)
    done = workshop.run(name, "-t", "slurm")
    ranks = told(workshop, done["run_hash"])
    assert [(item["NODE_RANK"], item["LOCAL_RANK"], item["WORLD_SIZE"]) for item in ranks] == [
        ("0", "0", "4"), ("0", "1", "4"), ("1", "0", "4"), ("1", "1", "4"),
    ]  # fmt: skip
    assert len({item["host"] for item in ranks}) == 2
    assert {item["MASTER_ADDR"] for item in ranks} == {batch.cluster.address(ranks[0]["host"])}
    assert workshop.run(name)["cached"]  # the same run as on this machine
    assert jobs(batch) == ""
    assert list(batch.cluster.path("h1", "/shared/repro/runs").iterdir()) == []


def test_logs_of_all_ranks_are_kept(workshop: Workshop, batch: Slurm) -> None:
    workshop.run(recipe(workshop), "-t", "slurm")
    assert workshop.repro("logs", "@", "--rank", "3").out == "I am 3 \n"
    assert len(workshop.repro("logs", "@", "--rank", "all").out.splitlines()) == 4


def test_slurm_gives_the_gpus(workshop: Workshop, batch: Slurm) -> None:
    done = workshop.run(recipe(workshop, estimator='use_gpu = true\ngpu_binding = "rank"'), "-t", "slurm")
    assert [item["CUDA_VISIBLE_DEVICES"] for item in told(workshop, done["run_hash"])] == ["0", "1", "0", "1"]


def test_a_rank_that_fails_ends_the_job_and_is_named(workshop: Workshop, batch: Slurm) -> None:
    done = workshop.repro("run", recipe(workshop, sleep=1, fails="2"), "-t", "slurm")
    assert done.code == 1
    assert "rank 2 on" in done.err
    assert "exit code 3" in done.err
    assert "I am 2" in done.err
    assert jobs(batch) == ""


def test_ctrl_c_ends_the_job(workshop: Workshop, batch: Slurm) -> None:
    client = started(workshop, recipe(workshop, sleep=100))
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130, err
    assert jobs(batch) == ""


def test_a_killed_client_leaves_a_job_that_can_be_attached_to(workshop: Workshop, batch: Slurm) -> None:
    name = recipe(workshop, sleep=4)
    client = started(workshop, name)
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    assert "detached, running" in workshop.repro("ps").out
    assert workshop.repro("attach", "@").code == 0
    assert workshop.repro("logs", "@", "--rank", "1").out == "I am 1 \n"
    assert workshop.run(name)["cached"]


def test_a_detached_job_is_cancelled(workshop: Workshop, batch: Slurm) -> None:
    assert workshop.repro("run", recipe(workshop, sleep=100), "-t", "slurm", "--detach").code == 0
    assert workshop.repro("logs", "@", "--rank", "2").out == "I am 2 \n"
    assert workshop.repro("cancel", "@").code == 0
    assert jobs(batch) == ""
    assert workshop.repro("ls", "--json").json[0]["status"] == "canceled"


def test_a_job_that_slurm_ends_is_no_success(workshop: Workshop, batch: Slurm) -> None:
    client = started(workshop, recipe(workshop, sleep=100))
    batch.run(["scancel", jobs(batch).split()[0]])
    _, err = client.communicate(timeout=60)
    assert client.returncode != 0, err
    assert jobs(batch) == ""


def test_the_time_limit_is_that_of_the_recipe(workshop: Workshop, batch: Slurm) -> None:
    done = workshop.repro("run", recipe(workshop, estimator="max_run_duration_seconds = 2", sleep=100), "-t", "slurm")
    assert (done.code, "max_run_duration_seconds" in done.err) == (1, True)


def test_a_job_that_can_never_start_is_a_usage_error(workshop: Workshop, batch: Slurm) -> None:
    layout = "node_count = 9"
    name = workshop.recipe(TELL, estimator=layout)
    done = workshop.repro("run", name, "-t", "slurm")
    assert done.code == 2
    assert "Slurm will never start job" in done.err
    assert "PartitionNodeLimit" in done.err
    assert jobs(batch) == ""


def test_options_that_slurm_does_not_know_are_a_usage_error_in_its_words(workshop: Workshop, batch: Slurm) -> None:
    with open(workshop.root / "inventory.toml", "a") as file:
        file.write('[targets.slurm.options]\nqos = "no-such-thing"\nnodelist = "h99"\n')
    done = workshop.repro("run", recipe(workshop), "-t", "slurm")
    assert (done.code, "Slurm does not take the job: sbatch: error" in done.err) == (2, True), done.err


def test_a_secret_is_in_no_file_and_not_in_what_slurm_knows(
    workshop: Workshop, batch: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2-xyz")
    name = recipe(workshop, sleep=3)
    path = workshop.root / name
    path.write_text('secrets = ["SECRET"]\n' + path.read_text())
    client = started(workshop, name)
    time.sleep(0.5)
    job = jobs(batch).split()[0]
    assert "hunter2" not in batch.run(["scontrol", "show", "job", "--details", job]).stdout
    assert batch.run(["grep", "-rl", "hunter2-xyz", "/shared", "/var/lib/slurm-lab"], check=False).stdout == ""
    assert client.wait(60) == 0
    for file in Path(workshop.root / "cache").rglob("*"):
        assert not file.is_file() or b"hunter2-xyz" not in file.read_bytes(), file


def test_words_of_the_user_are_never_taken_for_what_a_node_fills_in(workshop: Workshop, batch: Slurm) -> None:
    words = ["770000000000", "@HOST-0@", "@ADDRESS-0@", "900000000000000000000000000000"]
    script = TELL.replace('print("I am"', 'print(sys.argv[1:] if rank == "0" else ""); print("I am"')
    name = workshop.recipe(script, estimator=f"{LAYOUT}\narguments = {json.dumps(words)}")
    workshop.run(name, "-t", "slurm")
    assert workshop.repro("logs", "@").out.splitlines()[0] == str(words)


def test_a_controller_that_does_not_answer_for_a_while_ends_nothing(workshop: Workshop, batch: Slurm) -> None:
    client = started(workshop, recipe(workshop, sleep=9))
    batch.cluster.run("h1", ["pkill", "-STOP", "-x", "slurmctld"])
    time.sleep(6)
    batch.cluster.run("h1", ["pkill", "-CONT", "-x", "slurmctld"])
    _, err = client.communicate(timeout=90)
    assert client.returncode == 0, err


def test_what_a_script_left_running_ends_with_the_job(workshop: Workshop, batch: Slurm) -> None:
    script = TELL + (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    time.sleep(600)\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "time.sleep(100)\n"
    )
    name = recipe(workshop, script=script)
    assert workshop.repro("run", name, "-t", "slurm", "--detach").code == 0
    assert workshop.repro("cancel", "@").code == 0
    assert jobs(batch) == ""  # that no process is left is what the fixture asserts

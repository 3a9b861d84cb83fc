"""The lab keeps its promises: a fault that the lab only pretends to make would prove nothing of `repro`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from docker import DockerClient

from tests.conftest import Workshop, missing
from tests.lab import docker_image
from tests.lab.hosts import Cluster, LabError, clear_away_abandoned, reserved_subnet, unable, wait
from tests.lab.slurm import Slurm

# Says in one word how a host's sshd looks from another host.
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 22), timeout=1).recv(4)
    print("heard")
except OSError as error:
    print(type(error).__name__)
"""


def ssh(cluster: Cluster, host: str, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    options = ["-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={cluster.known_hosts}", "-o", "ConnectTimeout=2"]
    command = ["ssh", "-i", str(cluster.key), *options, f"{user}@{cluster.address(host)}", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def hears(cluster: Cluster, here: str, there: str) -> bool:
    words = ["python3", "-c", KNOCK, cluster.address(there)]
    return cluster.run(here, words).stdout.strip() == "heard"


def traces(*names: str) -> list[str]:
    """Lines of the machine's namespaces, interfaces, processes and mounts that have one of these names in them."""
    looks = (["ip", "netns", "list"], ["ip", "-o", "link"], ["ps", "-ewwo", "args"], ["cat", "/proc/self/mountinfo"])
    text = "\n".join(subprocess.run(look, capture_output=True, text=True).stdout for look in looks)
    pattern = "|".join(rf"{re.escape(name)}(?!\d)" for name in names)
    return [line for line in text.splitlines() if re.search(pattern, line)]


@pytest.mark.parametrize(("user", "home"), [("root", "/root"), ("alice", "/home/alice")])
def test_the_key_of_the_cluster_lets_both_users_in(hosts: Cluster, user: str, home: str) -> None:
    done = ssh(hosts, "h2", "hostname; whoami; echo $HOME; pwd", user=user)
    assert done.stdout.split() == ["h2", user, home, home], done.stderr


def test_a_host_has_files_processes_and_interfaces_of_its_own(hosts: Cluster, tmp_path: Path) -> None:
    for path in ("/tmp/mine", "/etc/mine", "/root/mine", "/dev/shm/mine"):
        hosts.path("h1", path).write_text("")
    try:
        seen = hosts.run(
            "h2", ["sh", "-c", f"ls {tmp_path} /work /tmp/mine /etc/mine /root/mine /dev/shm/mine; ls /sys/class/net"]
        )
        assert seen.stdout.split() == ["eth0", "lo"]
        assert not any(Path(path).exists() for path in ("/etc/mine", "/root/mine", "/dev/shm/mine"))
        assert {command.partition(" ")[0] for _, command in hosts.processes("h2")} == {"/usr/bin/python3", "sshd:"}
    finally:
        for path in ("/etc/mine", "/root/mine", "/dev/shm/mine"):
            hosts.path("h1", path).unlink()


def test_a_host_has_the_python_of_the_machine_and_the_base_of_this_interpreter(hosts: Cluster) -> None:
    assert hosts.run("h1", ["python3", "-c", "print(1)"]).stdout == "1\n"
    here = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    assert hosts.run("h1", [here, "-c", "print(2)"], user="alice").stdout == "2\n"


def test_no_host_trusts_another(hosts: Cluster) -> None:
    command = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", hosts.address("h2"), "true"]
    assert "Permission denied (publickey" in hosts.run("h1", command, check=False).stderr
    assert len({line.split()[2] for line in hosts.known_hosts.read_text().splitlines()}) == 3


def test_a_cut_host_runs_on_unheard_until_it_is_healed(hosts: Cluster) -> None:
    before = hosts.pid("h2")
    hosts.cut("h2")
    assert not hears(hosts, "h1", "h2")
    assert ssh(hosts, "h2", "true").returncode == 255
    assert ssh(hosts, "h3", "true").returncode == 0
    hosts.heal("h2")
    assert ssh(hosts, "h2", "true").returncode == 0
    assert hears(hosts, "h1", "h2")
    assert hosts.pid("h2") == before


def test_a_short_cut_loses_no_line_of_a_connection(hosts: Cluster) -> None:
    options = ["-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={hosts.known_hosts}", "-i", str(hosts.key)]
    count = "for i in $(seq 15); do echo $i; sleep 0.1; done"
    with subprocess.Popen(["ssh", *options, hosts.address("h1"), count], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "1\n"
        hosts.cut("h1")
        time.sleep(0.5)
        hosts.heal("h1")
        assert client.stdout.read().split() == [str(number) for number in range(2, 16)]


def test_a_partition_parts_two_hosts_and_nobody_else(hosts: Cluster) -> None:
    hosts.partition("h1", "h2")
    assert not hears(hosts, "h1", "h2")
    assert not hears(hosts, "h2", "h1")
    assert hears(hosts, "h1", "h3")
    assert hears(hosts, "h3", "h2")
    assert [ssh(hosts, host, "true").returncode for host in ("h1", "h2")] == [0, 0]
    hosts.heal("h2")
    assert hears(hosts, "h1", "h2")


def test_a_slow_host_is_far_away_and_on_a_narrow_link(hosts: Cluster) -> None:
    def seconds(size: int) -> float:
        began = time.monotonic()
        done = ssh(hosts, "h2", f"head -c {size} /dev/zero | tr '\\0' x")
        assert len(done.stdout) == size, done.stderr
        return time.monotonic() - began

    near = seconds(1000)
    hosts.slow("h2", delay_ms=50)
    assert near + 0.5 < seconds(1000)
    assert hears(hosts, "h1", "h2")
    hosts.slow("h2", delay_ms=5, rate="8mbit")
    assert seconds(2_000_000) > 1.5
    hosts.slow("h2", rate="8mbit")
    assert seconds(2_000_000) > 1.5
    hosts.kill("h2")
    hosts.start("h2")
    assert seconds(2_000_000) < 1.5
    hosts.slow("h2", loss=100)
    assert not hears(hosts, "h1", "h2")
    hosts.heal("h2")
    assert seconds(2_000_000) < 1.5


def test_a_power_cut_leaves_the_disk_and_nothing_else(hosts: Cluster) -> None:
    boot_id = "/proc/sys/kernel/random/boot_id"
    first = hosts.path("h2", boot_id).read_text()
    for path in ("/root/kept", "/tmp/gone", "/dev/shm/gone"):
        hosts.path("h2", path).write_text("")
    hosts.run("h2", ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
    with subprocess.Popen(
        ["ssh", "-i", hosts.key, "-o", f"UserKnownHostsFile={hosts.known_hosts}", hosts.address("h2"), "sleep 1000"]
    ) as client:
        time.sleep(0.5)
        hosts.kill("h2")
        time.sleep(0.3)
        assert client.poll() is None, "a host without power says no goodbye"
        client.kill()
    assert not hosts.is_up("h2")
    assert not hears(hosts, "h1", "h2")

    hosts.start("h2")
    assert hosts.run("h2", ["ls", "/root", "/tmp", "/dev/shm"]).stdout.split() == [
        "/dev/shm:",
        "/root:",
        "kept",
        "/tmp:",
    ]
    assert len(hosts.processes("h2")) == 2
    assert hosts.path("h2", boot_id).read_text() != first
    assert ssh(hosts, "h2", "true").returncode == 0
    assert hears(hosts, "h1", "h2")
    hosts.wipe("h2")
    assert hosts.run("h2", ["ls", "/root"]).stdout == ""


def test_a_changed_host_key_is_refused_until_it_is_healed(hosts: Cluster) -> None:
    hosts.change_host_key("h1")
    assert "Host key verification failed" in ssh(hosts, "h1", "true").stderr
    hosts.heal("h1")
    assert ssh(hosts, "h1", "true").returncode == 0


def test_a_small_disk_is_soon_full(hosts: Cluster) -> None:
    hosts.small_disk("h1", "/root/small", 1 << 20)
    done = hosts.run("h1", ["dd", "if=/dev/zero", "of=/root/small/file", "bs=64k", "count=64"], check=False)
    assert "No space left on device" in done.stderr
    hosts.reset()
    assert hosts.run("h1", ["ls", "/root/small"]).stdout == ""
    hosts.wipe("h1")


def test_what_is_left_on_a_host_is_found_and_cleared_away(hosts: Cluster) -> None:
    hosts.run("h1", ["sh", "-c", "setsid sleep 1234 >/dev/null 2>&1 &"])
    hosts.run("h1", ["mkdir", "-p", "/tmp/repro-abc", "/tmp/.repro-leases"])
    hosts.run("h1", ["sh", "-c", "setsid flock /tmp/.repro-leases/gpu-0 sleep 4321 >/dev/null 2>&1 &"])
    hosts.path("h1", "/dev/shm/segment").write_text("")
    time.sleep(0.2)
    left = " ".join(hosts.all_leftovers(patience=0).pop("h1"))
    for text in ("sleep 1234", "/tmp/repro-abc", "/dev/shm/segment", "lease gpu-0 is held"):
        assert text in left
    hosts.reset()
    assert hosts.all_leftovers(patience=1) == {}


def test_a_test_may_excuse_what_it_leaves(hosts: Cluster) -> None:
    hosts.path("h1", "/dev/shm/segment").write_text("")
    hosts.may_leave("h1", "/dev/shm/segment")
    assert hosts.all_leftovers(patience=0) == {}


def test_one_host_runs_containers_of_its_own(hosts: Cluster, base_tar: Path) -> None:
    if not hosts.dockers:
        missing("no dockerd is installed")
    client = DockerClient(hosts.docker_url("h3"))
    try:
        image = docker_image.load(client, "lab-hosts:1", base_tar)
        client.containers.run(image, [], entrypoint=["sleep", "1000"], network_mode="host", user="0", detach=True)
        (left,) = hosts.all_leftovers(patience=0).values()
        assert [line.split()[0] for line in left] == ["process", "container"]
        assert "Is the docker daemon running" in hosts.run("h1", ["docker", "ps"], check=False).stderr
        hosts.stop_docker("h3")
        assert "sleep 1000" in str(hosts.processes("h3"))
        hosts.reset()
        assert hosts.all_leftovers(patience=1) == {}
        assert client.info()["Name"] == "h3"
        assert image in [one.id for one in client.images.list()]  # as others that tests before left there
    finally:
        client.close()


def test_the_inventory_names_the_hosts_and_their_keys(lab: Cluster, workshop: Workshop) -> None:
    content = tomllib.loads((workshop.root / "inventory.toml").read_text())
    assert content["targets"]["lab"]["hosts"] == ["h1", "h2", "h3"]
    assert content["hosts"]["h2"] == {"address": lab.address("h2"), "user": "root", "key": str(lab.key)}
    assert tomllib.loads((workshop.root / "repro.toml").read_text()) == {"hosts": {"inventory": "inventory.toml"}}


def test_the_stand_in_for_nvidia_smi_answers_as_the_real_one(hosts: Cluster) -> None:
    query = "index,uuid,name,memory.total,driver_version,mig.mode.current,compute_cap"
    words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    hosts.give_gpus("h1", 2, name="NVIDIA A100-SXM4-40GB", memory=40960, mig=2)
    hosts.give_gpus("h2", 1)
    first, second = (line.split(", ") for line in hosts.run("h1", words).stdout.splitlines())
    assert [first[0], *first[2:]] == ["0", "NVIDIA A100-SXM4-40GB", "40960", "550.54.15", "Enabled", "9.0"]
    assert second[0] == "1"
    other = hosts.run("h2", words).stdout.split(", ")
    assert other[5] == "Disabled"
    assert len({first[1], second[1], other[1]}) == 3
    listing = hosts.run("h1", ["nvidia-smi", "-L"]).stdout.splitlines()
    devices = ["  MIG 1g.10gb     Device  0", "  MIG 1g.10gb     Device  1"]
    assert [line.partition(":")[0] for line in listing] == ["GPU 0", *devices, "GPU 1", *devices]
    assert f"(UUID: {first[1]})" in listing[0]
    hosts.give_gpus("h1", 0)
    assert hosts.run("h1", words, check=False).returncode == 6
    hosts.reset()
    assert hosts.run("h1", ["sh", "-c", "command -v nvidia-smi"], check=False).returncode == 127
    assert not Path("/usr/local/bin/nvidia-smi").is_symlink()


def test_slurm_runs_a_job_on_all_hosts_and_cancels_one(slurm: Slurm) -> None:
    assert slurm.run(["sinfo", "-h", "-o", "%P %D %t"]).stdout == "p* 3 idle\n"
    step = ["srun", "-N3", "--ntasks-per-node=2", "--gres=gpu:2", "sh", "-c"]
    lines = slurm.run([*step, "echo $(hostname) $SLURM_PROCID $CUDA_VISIBLE_DEVICES"], user="alice").stdout.splitlines()
    assert sorted(lines) == [f"h{1 + rank // 2} {rank} 0,1" for rank in range(6)]

    script = b"#!/bin/sh\nsrun sleep 1000\n"
    job = slurm.run(["sbatch", "--parsable", "-N3", "--output=/dev/null"], data=script).stdout.strip()
    wait(lambda: "sleep 1000" in str(slurm.cluster.processes("h3")), 10, lambda: slurm.run(["squeue"]).stdout)
    slurm.run(["scancel", job])
    wait(lambda: "sleep 1000" not in str(slurm.cluster.processes("h3")), 10, lambda: "the job is not cancelled")


def test_slurm_answers_on_the_machine_as_well(slurm: Slurm, tmp_path: Path) -> None:
    environment = {**os.environ, **slurm.environment()}
    words = ["sbatch", "--parsable", "-N2", "--output=/root/out", "--wrap", "srun hostname; echo end"]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    output = slurm.cluster.path("h1", "/root/out")
    wait(lambda: output.exists() and "end" in output.read_text(), 20, lambda: slurm.run(["squeue"]).stdout)
    assert sorted(output.read_text().split()) == ["end", "h1", "h2"]
    slurm.cluster.wipe("h1")


def test_a_second_cluster_comes_and_goes_without_a_trace(hosts: Cluster, tmp_path: Path) -> None:
    with reserved_subnet() as subnet:
        switch = f"repro-lab-78-{subnet.rpartition('.')[2]}"
        other = Cluster(tmp_path / "other", subnet)
        other.up(2, dockers=(2,))
        try:
            other.up(2, dockers=(2,))
            assert other.run("h1", ["ip", "-br", "addr", "show", "eth0"]).stdout.split()[2] == f"{subnet}.11/24"
            assert traces(switch)
            assert traces(str(tmp_path))
            with pytest.raises(LabError, match="belong to"):
                Cluster(tmp_path / "another", subnet).up(1)
        finally:
            other.down()
        other.down()
        assert traces(switch) == traces(str(tmp_path / "other")) == []
        assert not (tmp_path / "other").exists()
    assert ssh(hosts, "h1", "true").returncode == 0


def test_hosts_of_killed_tests_are_cleared_away(tmp_path: Path) -> None:
    if reason := unable():
        missing(reason)
    program = f"""
import os
from pathlib import Path
from tests.lab.hosts import Cluster, reserved_subnet
with reserved_subnet() as subnet:
    Cluster(Path({str(tmp_path / "left")!r}), subnet).up(1, dockers=())
    print(subnet, flush=True)
    os._exit(9)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 9
    assert traces(str(tmp_path / "left"))
    clear_away_abandoned()
    assert traces(f"repro-lab-78-{done.stdout.strip().rpartition('.')[2]}", str(tmp_path / "left")) == []

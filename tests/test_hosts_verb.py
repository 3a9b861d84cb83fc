"""`repro hosts`: what is asked of hosts, and what is said of each thing that is not well."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.survey import Needs, gpu_words, judge, seen_address
from repro_est.hostside import probe
from tests.conftest import Workshop
from tests.sshd import Sshd, free_port, sshds

HOSTSIDE = Path(probe.__file__).parent
WELL: dict[str, Any] = {
    "system": "Linux",
    "user": "alice",
    "docker": {"version": "24.0"},
    "disk": {"path": "/home/alice", "free": 10**12, "writable": True},
    "gpus": [],
    "amd": False,
    "addresses": [
        {"interface": "lo", "address": "127.0.0.1", "prefix": 8},
        {"interface": "docker0", "address": "172.17.0.1", "prefix": 16},
        {"interface": "eth0", "address": "10.0.0.7", "prefix": 24},
        {"interface": "ib0", "address": "10.9.0.7", "prefix": 24},
    ],
}


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    with sshds(tmp_path) as start:
        yield start


@pytest.fixture
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    return start_sshd()


def write_inventory(workshop: Workshop, sshd: Sshd, hosts: Mapping[str, str], targets: str) -> None:
    spec = sshd.spec()
    common = f'address = "127.0.0.1"\nuser = "{spec.user}"\nkey = "{spec.key}"\nconnect_seconds = 1\n'
    tables = "".join(
        f"[hosts.{name}]\n{common}" + (more if "port" in more else f"port = {spec.port}\n{more}") + "\n"
        for name, more in hosts.items()
    )
    workshop.write("inventory.toml", f'known_hosts = "{sshd.known_hosts}"\n{tables}\n{targets}\n')


def test_hosts_that_are_well_are_listed(workshop: Workshop, sshd: Sshd) -> None:
    write_inventory(workshop, sshd, {"h1": ""}, '[targets.lab]\nhosts = ["h1"]')
    done = workshop.repro("hosts", "-t", "lab")
    assert done.code == 0, done.out
    header, row = done.out.splitlines()
    assert header.split() == [
        "host",
        "address",
        "state",
        "python",
        "docker",
        "gpus",
        "driver",
        "cpus",
        "free",
        "clock",
        "seen",
        "as",
    ]
    assert row.split()[:3] == ["h1", "127.0.0.1", "ok"]
    assert "Probing  1 host" in done.err


def test_json_holds_all_that_was_found_out(workshop: Workshop, sshd: Sshd) -> None:
    (sshd.home / ".bashrc").write_text("echo welcome\n")
    write_inventory(workshop, sshd, {"h1": ""}, '[targets.lab]\nhosts = ["h1"]')
    done = workshop.repro("hosts", "--json")
    (host,) = done.json
    assert (host["state"], host["problems"], done.err) == ("ok", [], "")
    assert abs(host["clock_skew_seconds"]) < 0.5
    facts = host["facts"]
    assert facts["python"]["version"].startswith("3.")
    assert facts["home"] == str(sshd.home)
    assert facts["disk"]["writable"]
    assert facts["disk"]["path"] == str(sshd.home)
    assert {"interface": "lo", "address": "127.0.0.1", "prefix": 8} in facts["addresses"]


def test_each_problem_is_told_with_what_to_do_and_the_code_is_5(workshop: Workshop, sshd: Sshd) -> None:
    port = free_port()
    hosts = {
        "off": f"port = {port}\n",
        "old": 'python = "no-such-python"\n',
        "cards": "gpus = 2\n",
        "full": 'store = "/proc/repro"\n',
        "net": "",
    }
    targets = '[targets.lab]\nhosts = ["off", "old", "cards", "full"]\n'
    targets += '[targets.fast]\nhosts = ["net"]\ninterface = "ib7"\n'
    write_inventory(workshop, sshd, hosts, targets)
    done = workshop.repro("hosts")
    assert done.code == 5
    assert f"BAD   off: nothing listens at 127.0.0.1:{port}: connection refused\n      -> ssh -p {port} " in done.out
    assert "BAD   old: there is no `no-such-python`" in done.out
    assert "      -> install Python 3.8 or newer there, or set `python` of [hosts.old]" in done.out
    assert "BAD   cards: the inventory names GPU 0, 1, nvidia-smi finds 0" in done.out
    if sys.platform == "linux":
        assert "BAD   full: its store /proc/repro cannot be made" in done.out
    assert "BAD   net: it has no address on the interface ib7 of its target; it has " in done.out
    assert "note  cards: it is the same machine as full, net" in done.out
    states = {row.split()[0]: row.split()[2] for row in done.out.splitlines()[1:6]}
    assert states["off"] == "unreachable"
    assert set(states.values()) == {"unreachable", "problem"}


def test_a_jump_host_alone_is_not_probed(workshop: Workshop, start_sshd: Callable[..., Sshd]) -> None:
    gate, behind = start_sshd(), start_sshd()
    behind.known_hosts.write_text(behind.known_hosts.read_text() + gate.known_hosts.read_text())
    more = f'[hosts.gate]\naddress = "127.0.0.1"\nport = {gate.port}\nkey = "{gate.spec().key}"\n'
    write_inventory(workshop, behind, {"h1": 'jump = "gate"\n'}, f'{more}[targets.lab]\nhosts = ["h1"]')
    done = workshop.repro("hosts", "--json")
    assert [(host["host"], host["state"]) for host in done.json] == [("h1", "ok")]


def test_without_an_inventory_there_is_a_hint(workshop: Workshop) -> None:
    done = workshop.repro("hosts")
    assert done.code == 2
    assert "inventory.toml: there is no inventory" in done.err
    assert "docs/hosts.md" in done.err


def test_an_unknown_target_and_this_machine_are_usage_errors(workshop: Workshop) -> None:
    workshop.write("inventory.toml", '[targets.lab]\nhosts = ["h1"]\n')
    assert "did you mean `lab`?" in workshop.repro("hosts", "-t", "labs").err
    done = workshop.repro("hosts", "-t", "docker")
    assert (done.code, "repro doctor" in done.err) == (2, True)


def test_the_login_host_of_a_scheduler_is_probed(workshop: Workshop) -> None:
    workshop.write("inventory.toml", '[targets.batch]\nscheduler = "slurm"\nlogin = "local"\n')
    (host,) = workshop.repro("hosts", "-t", "batch", "--json").json
    assert (host["host"], host["state"]) == ("local", "ok")


# ---- judging


@pytest.mark.parametrize(
    ("changes", "skew", "needs", "problem", "said"),
    [
        ({}, 6.0, Needs(), False, "its clock is 6 s ahead of the clock here"),
        ({}, -86400.0, Needs(), True, "its clock is 86,400 s behind the clock here"),
        ({"disk": {"path": "/", "free": 10**9, "writable": True}}, 0.0, Needs(), False, "only 1.0 GB are free at /"),
        ({"docker": {"error": "no"}}, 0.0, Needs(docker=True), True, "a target runs containers there: no"),
        ({"gpus": None}, 0.0, Needs(), False, "nvidia-smi is there and does not work"),
        ({"system": "Darwin"}, 0.0, Needs(), True, "its system is Darwin, expected Linux"),
        ({"addresses": []}, 0.0, Needs(has_peers=True), True, "it has no address that other hosts could reach"),
        ({}, 0.0, Needs(interfaces=("10.8.0.0/24",)), True, "it has no address on the interface 10.8.0.0/24"),
    ],
)
def test_what_is_not_well_is_told(changes: dict[str, Any], skew: float, needs: Needs, problem: bool, said: str) -> None:
    (finding,) = judge(HostSpec("h1"), {**WELL, **changes}, skew=skew, needs=needs)
    assert finding.is_problem == problem
    assert finding.what.startswith(said)
    assert finding.remedy


def test_what_nobody_needs_is_no_problem() -> None:
    facts = {**WELL, "docker": {"error": "there is no docker program"}, "addresses": None, "disk": None}
    assert list(judge(HostSpec("h1"), facts, skew=4.0, needs=Needs())) == []


@pytest.mark.parametrize(
    ("spec", "interface", "expected"),
    [
        (HostSpec("h"), None, "10.0.0.7"),
        (HostSpec("h", address="10.9.0.7"), None, "10.9.0.7"),
        (HostSpec("h", address="203.0.113.9"), None, "10.0.0.7"),
        (HostSpec("h"), "ib0", "10.9.0.7"),
        (HostSpec("h"), "10.9.0.0/16", "10.9.0.7"),
        (HostSpec("h"), "eth7", None),
        (HostSpec("h", internal_address="192.0.2.1"), "ib0", "192.0.2.1"),
    ],
)
def test_the_address_that_others_see_is_found(spec: HostSpec, interface: str | None, expected: str | None) -> None:
    assert seen_address(spec, WELL, interface) == expected


# ---- the program that is sent


def test_what_nvidia_smi_prints_is_understood() -> None:
    table = (
        "0, GPU-aa, NVIDIA H100 80GB HBM3, 81559, 550.54.15, 9.0, Disabled\n"
        "1, GPU-bb, NVIDIA A100-SXM4-40GB, 40960, 550.54.15, 8.0, Enabled\n"
        "2, GPU-cc, Tesla T4, [N/A], 550.54.15, 7.5, [N/A]\n"
        "no devices\n"
    )
    listing = (
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aa)\n"
        "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-1)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-2)\n"
    )
    gpus = probe.parse_gpus(table, listing)
    assert [(gpu["index"], gpu["uuid"], gpu["memory"], gpu["mig"]) for gpu in gpus] == [
        (0, "GPU-aa", 81559, []),
        (1, "GPU-bb", 40960, ["MIG-1", "MIG-2"]),
        (2, "GPU-cc", None, []),
    ]
    assert gpus[0]["driver"] == "550.54.15"
    assert gpus[0]["compute_cap"] == "9.0"
    words = gpu_words({"gpus": [*gpus, gpus[0]]})
    assert words == "2x NVIDIA H100 80GB HBM3, 1x NVIDIA A100-SXM4-40GB (2 MIG), 1x Tesla T4"
    assert gpu_words({"gpus": [{"name": "NVIDIA H100", "memory": 81559, "mig": []}]}) == "1x NVIDIA H100 80 GB"


@pytest.mark.parametrize("path", sorted(HOSTSIDE.glob("*.py")), ids=lambda path: path.name)
def test_what_runs_on_hosts_is_python_3_8_and_standard_library(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in names if not name.startswith("repro_est.hostside")}
    assert outside <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13"])
def test_the_probe_runs_under_every_python(version: str) -> None:
    code = f"{Path(probe.__file__).read_text()}\nprint(json.dumps(probe('~/x')))"
    done = subprocess.run([python(version), "-I", "-S", "-"], input=code, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["python"]["version"].startswith(version)


def test_a_python_that_is_too_old_is_named(workshop: Workshop, sshd: Sshd) -> None:
    old = python("3.7")
    write_inventory(workshop, sshd, {"h1": f'python = "{old}"\n'}, '[targets.lab]\nhosts = ["h1"]')
    done = workshop.repro("hosts")
    assert done.code == 5
    assert f"BAD   h1: `{old}` there is Python 3.7, expected 3.8 or newer" in done.out


def python(version: str) -> str:
    """Returns an interpreter of that version; it is no part of the lab, so that its absence is only said."""
    managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = str(managed[0]) if managed else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"there is no Python {version} here")
    return found

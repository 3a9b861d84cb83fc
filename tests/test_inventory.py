"""The inventory: what its file means, and what is said of each mistake in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro_est.errors import UsageError
from repro_est.hosts.inventory import HostSpec, Inventory, find_inventory, load_inventory, this_machine
from repro_est.project import find_project

FULL = """\
known_hosts = "keys/known_hosts"

[hosts.gate]
address = "gate.example.org"

[hosts.h1]
address = "10.77.0.11"
user = "root"
port = 2222
key = "id_ed25519"
jump = "gate"
store = "/data/repro"
python = "python3.11"
slots = 4
gpus = [{ model = "NVIDIA H100", memory = "80g" }, { uuid = "GPU-1" }]
labels = ["h100", "rack-2"]
internal_address = "10.0.0.11"
connect_seconds = 5

[hosts.h2]
gpus = 2

[hosts.h3]
gpus = "auto"

[targets.lab]
hosts = ["h1", "h2", "h3", "trainer"]
runtime = "docker"
interface = "10.0.0.0/24"
lost_after_seconds = 5

[targets.cluster]
scheduler = "slurm"
login = "gate"
partition = "p"
options = { account = "ml", nice = 10 }

[targets.here]
scheduler = "slurm"
login = "local"
"""


def load(tmp_path: Path, text: str) -> Inventory:
    path = tmp_path / "inventory.toml"
    path.write_text(text)
    return load_inventory(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    """Returns what is said of a file, without the path that each line begins with."""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/inventory.toml:") for line in caught.value.message.splitlines()]


def test_every_key_has_a_meaning(tmp_path: Path) -> None:
    inventory = load(tmp_path, FULL)
    known = f"{tmp_path}/keys/known_hosts"
    gate = HostSpec("gate", address="gate.example.org", known_hosts=known)
    h1 = HostSpec(
        "h1",
        address="10.77.0.11",
        user="root",
        port=2222,
        key=f"{tmp_path}/id_ed25519",
        gateway=gate,
        store="/data/repro",
        python="python3.11",
        slots=4,
        gpus=({"model": "NVIDIA H100", "index": 0, "memory_mb": 81920}, {"uuid": "GPU-1"}),
        labels=("h100", "rack-2"),
        internal_address="10.0.0.11",
        known_hosts=known,
        connect_seconds=5,
    )
    h2 = HostSpec("h2", known_hosts=known, gpus=({"index": 0}, {"index": 1}))
    lab = inventory.target("lab")
    assert lab.hosts == (h1, h2, HostSpec("h3", known_hosts=known), HostSpec("trainer", known_hosts=known))
    assert (lab.runtime, lab.interface, lab.lost_after_seconds) == ("docker", "10.0.0.0/24", 5)
    assert not lab.is_local
    cluster = inventory.target("cluster")
    assert (cluster.scheduler, cluster.login, cluster.partition) == ("slurm", gate, "p")
    assert cluster.options == {"account": "ml", "nice": "10"}
    assert cluster.reached == (gate,)
    here = inventory.target("here")
    assert here.login is not None
    assert here.login.is_local
    assert list(inventory.hosts) == ["gate", "h1", "h2", "h3", "trainer"]


def test_a_host_needs_no_table(tmp_path: Path) -> None:
    inventory = load(tmp_path, '[targets.lab]\nhosts = ["trainer"]\n')
    assert inventory.target("lab").hosts == (HostSpec("trainer"),)


def test_a_host_is_the_same_after_a_way_through_json(tmp_path: Path) -> None:
    for spec in load(tmp_path, FULL).hosts.values():
        assert HostSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_this_machine_is_a_target_without_an_inventory(tmp_path: Path) -> None:
    target = this_machine("local", runtime="process", store=tmp_path)
    assert target.is_local
    assert target.hosts == (HostSpec("local", store=str(tmp_path), is_local=True),)


def test_every_mistake_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
known_host = "x"
[hosts.h1]
adress = "10.0.0.1"
port = "22"
key = ""
slots = 0
gpus = "all"
user = "two words"
internal_address = "h1.local"
[hosts.h2]
gpus = [{ modell = "H100" }, { memory = "big" }, { index = 0, uuid = "GPU-1" }]
store = "relative"
[targets.lab]
hosts = ["h1", "h2", "h1"]
runtime = "dokcer"
interface = "10.0.0.0/99"
lost_after_seconds = 0
"""
    assert problems(tmp_path, text) == [
        "1: known_host: unknown key (hint: did you mean `known_hosts`?)",
        "3: hosts.h1.adress: unknown key (hint: did you mean `address`?)",
        "4: hosts.h1.port: got '22', expected an integer from 1 to 65535",
        "5: hosts.h1.key: got '', expected the path of a private key",
        "6: hosts.h1.slots: got 0, expected an integer from 1 to 10,000",
        "7: hosts.h1.gpus: got 'all', expected \"auto\", a number, or an array of tables",
        "8: hosts.h1.user: got 'two words', expected the name of a user",
        "9: hosts.h1.internal_address: got 'h1.local', expected an IP address",
        "11: hosts.h2.gpus.modell: unknown key (hint: did you mean `model`?)",
        "11: hosts.h2.gpus.memory: got 'big', expected a size, such as `80g`",
        "11: hosts.h2.gpus: got a GPU with both index and uuid, expected one of them",
        "12: hosts.h2.store: got 'relative', expected a directory there: absolute, or below `~/`",
        "14: targets.lab.hosts: names h1 twice",
        '15: targets.lab.runtime: got \'dokcer\', expected "process" or "docker" (hint: did you mean `docker`?)',
        "16: targets.lab.interface: got '10.0.0.0/99', expected a network such as `10.0.0.0/24`, or an interface such as"
        " `eth0`",
        "17: targets.lab.lost_after_seconds: got 0, expected a number above 0",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts = 1", "1: hosts: got 1, expected tables: [hosts.NAME]"),
        ("[hosts]\nh1 = '10.0.0.1'", "2: hosts.h1: got '10.0.0.1', expected a table: [hosts.h1]"),
        ("[targets.lab]", "1: targets.lab.hosts: missing, expected an array with one host or more"),
        ("[targets.lab]\nhosts = []", "2: targets.lab.hosts: missing, expected an array with one host or more"),
        (
            "[targets.local]\nhosts = ['h1']",
            '1: targets.local: is a target that needs no inventory; expected a name other than "local" or "docker"',
        ),
        ("[hosts.local]\nport = 1", "1: hosts.local: means this machine; expected another name"),
        ("[hosts.h1]\njump = 'h1'", "2: hosts.h1.jump: goes in a circle: h1 -> h1"),
        (
            "[hosts.a]\njump = 'b'\n[hosts.b]\njump = 'c'\n[hosts.c]\njump = 'a'",
            "6: hosts.c.jump: goes in a circle: a -> b -> c -> a",
        ),
        (
            "[targets.t]\nhosts = ['-oProxyCommand=x']",
            "2: targets.t.hosts: got ['-oProxyCommand=x'], expected an array of",
        ),
        ("[hosts.h]\naddress = 'me@h:22'", "2: hosts.h.address: got 'me@h:22', expected a name or an address, without"),
        ("[targets.t]\nhosts = ['h']\npartition = 'p'", '3: targets.t.partition: goes with scheduler = "slurm"'),
        ("[targets.t]\nscheduler = 'slurm'", "1: targets.t.login: missing, expected the host with sbatch and srun"),
        (
            "[targets.t]\nscheduler = 'slurm'\nlogin = 'h'\nhosts = ['h']",
            "4: targets.t.hosts: goes without a scheduler, which chooses the hosts",
        ),
        ("[targets.t]\nscheduler = 'pbs'\nlogin = 'h'", "2: targets.t.scheduler: got 'pbs', expected \"slurm\""),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        load(tmp_path, "[hosts")


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    inventory = load(tmp_path, '[targets.lab]\nhosts = ["h1"]\n')
    with pytest.raises(UsageError, match="expected one of local, docker, lab") as caught:
        inventory.target("labs")
    assert caught.value.hint == "did you mean `lab`?"


def test_the_inventory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_INVENTORY", raising=False)
    monkeypatch.delenv("REPRO_STORE", raising=False)

    def found() -> list[str]:
        inventory = find_inventory(find_project(tmp_path))
        return [] if inventory is None else list(inventory.targets)

    (tmp_path / "repro.toml").write_text("")
    assert found() == []
    (tmp_path / "inventory.toml").write_text('[targets.beside]\nhosts = ["h"]\n')
    assert found() == ["beside"]
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "hosts.toml").write_text('[targets.named]\nhosts = ["h"]\n')
    (tmp_path / "repro.toml").write_text('[hosts]\ninventory = "team/hosts.toml"\n')
    assert found() == ["named"]
    (tmp_path / "other.toml").write_text('[targets.variable]\nhosts = ["h"]\n')
    monkeypatch.setenv("REPRO_INVENTORY", str(tmp_path / "other.toml"))
    assert found() == ["variable"]
    monkeypatch.setenv("REPRO_INVENTORY", str(tmp_path / "absent.toml"))
    with pytest.raises(UsageError, match="REPRO_INVENTORY: no such file"):
        found()

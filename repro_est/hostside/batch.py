"""One node of a job of a scheduler: `srun` starts it once on each, and it becomes the daemon of that node (`node`).

A controller cannot know which machines a job will get. So what the daemons are told is in a file that all nodes see,
with words in place of what only they know:

    orders.json            {"nodes": [what each daemon is told], "interface", "binding"}; secrets are in it, so only
                           this user may read it, and node 0 removes it when all have
    nodes/<n>.json         what node n is: address, interface, host name, ports
    nodes/<n>/             the directory of its daemon; source, inputs and ranks are those of the run
    stop                   written by a controller: the run is to end
    verdict.json           how it ended, once it has

The words are `@TOKEN:ADDRESS-n@`, `@TOKEN:HOST-n@`, `@TOKEN:INTERFACE@`, `@TOKEN:PYTHON@`, and long numbers made of the
token for port k of node n (`port_word`), so that nothing of a user's own can be taken for one. `MESH` is the port that
the daemons talk over.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
from typing import Any

from repro_est.hostside import frames, mesh, runs
from repro_est.hostside.node import Node
from repro_est.hostside.probe import addresses
from repro_est.hostside.supervisor import prctl

MESH = 9999
_MEETING_SECONDS = 120.0
_SUBREAPER = 36  # linux/prctl.h


def word(token: str, name: str) -> str:
    """Returns what stands for something that only a node will know."""
    return f"@{token}:{name}@"


def port_word(token: str, node: int, number: int) -> int:
    """Returns the number that stands for a port of a node until that is known."""
    return int(f"{_prefix(token)}{node:04d}{number:04d}")


def _prefix(token: str) -> str:
    return f"9{int(token, 16) % 10**19:019d}"


def main(directory: str) -> int:
    """Runs one node; returns 0 when the run has completed."""
    number, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_NNODES"])
    with open(os.path.join(directory, "orders.json"), encoding="utf-8") as file:
        text = file.read()
    orders = json.loads(text)
    mine = _directory(directory, number)
    token = orders["token"]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(runs.link(token))
    os.symlink(mine, runs.link(token))
    address, interface = _address(orders["interface"])
    listener = mesh.listen(address) if number == 0 else None
    ports = {str(k): mesh.free_port(address) for k in range(orders["ports"])}
    if listener is not None:
        ports[str(MESH)] = listener.getsockname()[1]
    facts = {"address": address, "interface": interface, "host": socket.gethostname(), "ports": ports}
    runs.write_json(os.path.join(directory, "nodes", f"{number}.json"), facts)
    met = _meet(directory, nodes)
    if number == 0:
        os.unlink(os.path.join(directory, "orders.json"))
    config = json.loads(_filled(json.dumps(orders["nodes"][number]), token, met, interface))
    _give_devices(config, orders["binding"])
    prctl(_SUBREAPER, 1)
    start = {"token": token, "directory": mine, "name": facts["host"]}
    node = Node(start)
    node.mesh_listener = listener
    threading.Thread(target=_watch_for_stop, args=(directory, token), daemon=True).start()
    node.begin(config)
    node.run()
    return _leave(directory, mine, number)


def _directory(root: str, number: int) -> str:
    mine = os.path.join(root, "nodes", str(number))
    os.makedirs(mine, 0o700)
    for name in ("home", "tmp"):
        os.mkdir(os.path.join(mine, name))
    for name in ("source", "inputs", "ranks"):
        os.symlink(os.path.join(root, name), os.path.join(mine, name))
    return mine


def _address(interface: str) -> tuple[str, str]:
    """Returns this node's address in the network of the target, and its interface."""
    found = [item for item in addresses() if not ipaddress.ip_address(item["address"]).is_link_local]
    for item in found:
        if item["interface"] == interface:
            return item["address"], item["interface"]
        if "/" in interface and ipaddress.ip_address(item["address"]) in ipaddress.ip_network(interface, strict=False):
            return item["address"], item["interface"]
    if interface:
        sys.exit(f"repro: {socket.gethostname()} has no address on {interface}")
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        for item in found:
            if item["address"] == address and not ipaddress.ip_address(address).is_loopback:
                return address, item["interface"]
    outside = [item for item in found if not ipaddress.ip_address(item["address"]).is_loopback]
    if not outside:
        sys.exit(f"repro: {socket.gethostname()} has no address that other nodes could reach")
    return outside[0]["address"], outside[0]["interface"]


def _meet(directory: str, nodes: int) -> list[dict[str, Any]]:
    """Waits until every node has said what it is."""
    until = time.monotonic() + _MEETING_SECONDS
    while True:
        met = [runs.read_json(os.path.join(directory, "nodes", f"{number}.json")) for number in range(nodes)]
        if all(met):
            return met
        if time.monotonic() > until:
            missing = ", ".join(str(number) for number, item in enumerate(met) if not item)
            sys.exit(f"repro: node {missing} did not start within {_MEETING_SECONDS:g} s")
        time.sleep(0.05)


def _filled(text: str, token: str, met: list[dict[str, Any]], interface: str) -> str:
    """Puts what is known now in the place of the words that stood for it."""
    ports = re.compile(_prefix(token) + r"(\d{4})(\d{4})")
    text = ports.sub(lambda found: str(met[int(found.group(1))]["ports"][str(int(found.group(2)))]), text)
    for number, item in enumerate(met):
        text = text.replace(word(token, f"ADDRESS-{number}"), item["address"])
        text = text.replace(word(token, f"HOST-{number}"), item["host"])
    return text.replace(word(token, "INTERFACE"), interface).replace(word(token, "PYTHON"), sys.executable)


def _give_devices(config: dict[str, Any], binding: str) -> None:
    """Hands on the GPUs that the scheduler gave this node: to all its ranks, or to each its share."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        given = [item for item in os.environ.get(name, "").split(",") if item]
        if not given or not config["use_gpu"]:
            continue
        each = len(given) // len(config["ranks"])
        for place, number in enumerate(sorted(config["ranks"], key=int)):
            share = given[place * each : (place + 1) * each] if binding == "rank" and each else given
            config["ranks"][number]["environment"][name] = ",".join(share)


def _watch_for_stop(directory: str, token: str) -> None:
    """Ends the run when a controller asks for it, which can write a file here and reach no socket of a node."""
    while not os.path.exists(os.path.join(directory, "stop")):
        time.sleep(0.3)
    with contextlib.suppress(OSError):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.path.join(runs.link(token), "control.sock"))
        connection.sendall(frames.encode({"op": "stop", "reason": "cancelled by the user", "grace": None}))
        connection.recv(1)


def _leave(directory: str, mine: str, number: int) -> int:
    """Leaves in the run's directory what a controller reads, and nothing of this node's own."""
    with contextlib.suppress(OSError):
        shutil.copyfile(os.path.join(mine, "timeline"), os.path.join(directory, f"timeline.{number}"))
    verdict = runs.read_json(os.path.join(mine, "verdict.json")) or {}
    if number == 0:
        runs.write_json(os.path.join(directory, "verdict.json"), verdict)
    shutil.rmtree(mine, ignore_errors=True)
    return 0 if verdict.get("outcome") == "completed" else 1

"""Probe the hosts of the inventory, all at once, and say what to do about each problem.

repro hosts                           every host of the inventory
repro hosts -t lab                    those of one target
repro hosts --json                    all that was found out

Exit code 0 when all of them can be used, 5 otherwise. docs/hosts.md says how to write an inventory.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from repro_est.cli.common import add_json, shown_path
from repro_est.console import Console, counted, human_size, visible
from repro_est.errors import InfrastructureError, UsageError
from repro_est.project import find_project

if TYPE_CHECKING:
    from repro_est.hosts.inventory import HostSpec, Inventory
    from repro_est.hosts.survey import Surveyed

_HEADER = ("host", "address", "state", "python", "docker", "gpus", "driver", "cpus", "free", "clock", "seen as")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-t", "--target", help="only the hosts of this target; default: all of the inventory")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.hosts.inventory import INVENTORY_NAME, RESERVED, find_inventory
    from repro_est.hosts.survey import survey

    console = Console(quiet=arguments.json)
    if arguments.target in RESERVED:
        raise UsageError(f"target {arguments.target}: is this machine, and has no hosts", hint="repro doctor")
    project = find_project()
    inventory = find_inventory(project)
    if inventory is None:
        raise UsageError(
            f"{shown_path(project.root / INVENTORY_NAME)}: there is no inventory",
            hint="write the hosts there are into it (docs/hosts.md), or name one as [hosts] inventory in repro.toml",
        )
    if arguments.target:
        target = inventory.target(arguments.target)
        targets, specs = [target], list(target.reached)
    else:
        targets, specs = list(inventory.targets.values()), _all(inventory)
    if not specs:
        raise UsageError(
            f"{shown_path(inventory.path)}: names no hosts", hint="docs/hosts.md shows what to write there"
        )
    console.step("Probing", counted(len(specs), "host"))
    found = survey(specs, targets)
    if arguments.json:
        console.json([item.to_json() for item in found])
    else:
        console.table([_row(item) for item in found], header=_HEADER)
        _tell(console, found)
    return 0 if all(item.state == "ok" for item in found) else InfrastructureError.exit_code


def _all(inventory: Inventory) -> list[HostSpec]:
    """Returns every host to speak with, but for those that only lead to others."""
    reached = {spec.name: spec for target in inventory.targets.values() for spec in target.reached}
    jumps = {spec.gateway.name for spec in inventory.hosts.values() if spec.gateway is not None}
    found = {name: spec for name, spec in inventory.hosts.items() if name in reached or name not in jumps}
    return list({**found, **reached}.values())


def _row(item: Surveyed) -> tuple[str, ...]:
    from repro_est.hosts.survey import gpu_words

    facts, spec = item.facts, item.spec
    docker, disk = facts.get("docker") or {}, facts.get("disk")
    drivers = dict.fromkeys(str(gpu["driver"]) for gpu in facts.get("gpus") or ())
    cells = (
        spec.name,
        "this machine" if spec.is_local else spec.address or spec.name,
        item.state,
        (facts.get("python") or {}).get("version"),
        docker.get("version"),
        gpu_words(facts),
        ", ".join(drivers),
        facts.get("cpu_count"),
        human_size(disk["free"]) if disk else None,
        _clock(item.skew),
        item.address,
    )
    return tuple("-" if cell in (None, "") else str(cell) for cell in cells)


def _clock(skew: float | None) -> str | None:
    if skew is None:
        return None
    return "0 s" if abs(skew) < 0.5 else f"{skew:+,.0f} s"


def _tell(console: Console, found: list[Surveyed]) -> None:
    for item in found:
        for finding in item.findings:
            mark = ("BAD ", "red") if finding.is_problem else ("note", "yellow")
            text = f"\n{'':>8}".join(visible(line.strip()) for line in finding.what.splitlines())
            console.out(f"\n{console.style(mark[0], mark[1], out=True)}  {item.spec.name}: {text}")
            if finding.remedy:
                console.out(f"{'':>6}-> {finding.remedy}")

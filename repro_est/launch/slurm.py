"""A run as a job of Slurm: the daemons that hosts have otherwise are started by `srun`, once on each node of the job.

    login host   repro speaks with it: stages there, runs sbatch, squeue and scancel, reads logs and the verdict
    nodes        see its store (a shared file system), and execute `hostside.batch`

So ranks are told the same, agree on the same, end the same, and have the same run hash as anywhere. What differs is who
gives room (Slurm), and that a controller reaches no daemon: it reads files, and writes one to end the run.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import math
import os
import shlex
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro_est.console import counted
from repro_est.errors import Detached, InfrastructureError, LostContact, UsageError
from repro_est.hosts.host import HostError
from repro_est.hosts.inventory import TargetSpec
from repro_est.hosts.pool import host_of
from repro_est.hosts.session import Session
from repro_est.hostside import batch
from repro_est.hostside.clients import STREAMS
from repro_est.launch.berth import Berth
from repro_est.launch.crew import Mate, mate_of
from repro_est.launch.ending import gather, outcome_of, release
from repro_est.launch.follow import Verdict
from repro_est.launch.handle import Handle, remove_handle, write_handle
from repro_est.launch.interrupts import interrupts_go_to
from repro_est.launch.orders import Orders
from repro_est.launch.process import Outcome
from repro_est.launch.provision import Provision
from repro_est.launch.streams import Logs, Prefixed
from repro_est.launch.wishes import Wishes
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.outputs import LOGS
from repro_est.plan import Plan
from repro_est.project import Project
from repro_est.store.store import Store
from repro_est.targets.placement import Placement, Share
from repro_est.targets.stage import Workplace

JOB, NAME = "slurm_job", "slurm_name"
"""Among the facts of a handle: the number of the job, None until Slurm has taken it, and its name, which is its own."""

_POLL_SECONDS = 0.3
_SLOWEST_SECONDS = 1.0
_ASK_SECONDS = 1.5
_PATIENCE_SECONDS = 300.0
_CANCEL_SECONDS = 25.0
_NEVER = ("PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS")
"""Why a job waits that no waiting helps (squeue(1), JOB REASON CODES)."""
_ENDS = {"TIMEOUT": "timed_out", "DEADLINE": "timed_out", "CANCELLED": "canceled", "NODE_FAIL": "host_lost",
         "BOOT_FAIL": "host_lost", "PREEMPTED": "host_lost"}  # fmt: skip
"""What a job without a verdict ended with (squeue(1), JOB STATE CODES), and what that is for a run."""

_STEP = (
    "import sys; sys.path.insert(0, sys.argv[1]); from repro_est.hostside.batch import main; "
    "sys.exit(main(sys.argv[2]))"
)


class Job:
    """One job of Slurm, followed through its login host."""

    def __init__(self, handle: Handle, session: Session, logs: Logs, observer: Observer) -> None:
        self.handle, self.session = handle, session
        self._logs, self._observer = logs, observer
        self._number = str(handle.facts[JOB] or "")
        self._asked = self._reached = time.monotonic()
        self._queued, self._interrupts, self._stopped = "", 0, 0.0
        self._gone = self._size = 0

    def follow(self, *, until_going: bool) -> Verdict | None:
        """Follows the job to its end; None when `until_going` and all ranks have started.

        Raises:
            Detached: the user said for the third time to leave.
            LostContact: the login host cannot be reached.
        """
        pause = _POLL_SECONDS
        with self._interruptible():
            while True:
                try:
                    size = self._size
                    verdict, going = self._look()
                    pause = _POLL_SECONDS if self._size > size else min(_SLOWEST_SECONDS, pause * 1.3)
                    self._reached = time.monotonic()
                except HostError as error:
                    self._lost(error)
                    continue
                if verdict is not None:
                    with contextlib.suppress(InfrastructureError):
                        self._wait_until_gone()  # its daemons are in the directory that is collected now
                        self._read_logs()
                    return verdict
                if until_going and going:
                    return None
                time.sleep(pause)

    def stop(self) -> None:
        """Asks for the end of the run."""
        self._stopped = self._stopped or time.monotonic()
        with contextlib.suppress(InfrastructureError):
            self.session.call("write", token=self.handle.token, name="stop", text="")

    def cancel(self) -> None:
        with contextlib.suppress(InfrastructureError):
            self._slurm("scancel", f"--name={self.handle.facts[NAME]}")

    def end(self) -> None:
        """Cancels the job, and waits a while until nothing of it runs."""
        self.cancel()
        self._wait_until_gone()

    def _wait_until_gone(self) -> None:
        until = time.monotonic() + _CANCEL_SECONDS
        while time.monotonic() < until and self._listed("%i") != "":
            time.sleep(_POLL_SECONDS)

    @property
    def number(self) -> str:
        """The number of the job, found by its name where the client that submitted it was killed in that moment."""
        if not self._number:
            found = self._slurm("squeue", "--noheader", "--format=%i", f"--name={self.handle.facts[NAME]}").split()
            self._number = found[0] if found else ""
        return self._number

    def _look(self) -> tuple[Verdict | None, bool]:
        status = self.session.call("status", token=self.handle.token)
        size = self._size = self._read_logs()
        if status["verdict"] is not None:
            return status["verdict"], True
        if not status["known"]:
            return {"outcome": "host_lost", "words": f"{self.session.name} does not know the run any more"}, False
        now = time.monotonic()
        if self._stopped and now - self._stopped > _CANCEL_SECONDS:
            self.cancel()
        if now - self._asked < _ASK_SECONDS:
            return None, size > 0
        self._asked = now
        return self._state(), size > 0

    def _read_logs(self) -> int:
        keys = [(str(rank), stream) for rank in range(self.handle.world_size) for stream in STREAMS]
        have = {(str(name), str(stream)): int(size) for name, stream, size in self._logs.offsets()}
        offsets = [have.get(key, 0) for key in keys]
        at = list(offsets)

        def take(number: int, data: bytes) -> None:
            self._logs.add(*keys[number], at[number], data)
            at[number] += len(data)

        files = [(f"{rank}/{stream}.log", offset) for (rank, stream), offset in zip(keys, offsets, strict=True)]
        self.session.fetch(self.handle.token, "ranks", files, take)
        self._logs.show_parts()
        return sum(at)

    def _state(self) -> Verdict | None:
        """Asks Slurm; returns how a job ended that has left no verdict."""
        queued = self._listed("%T|%r")
        if queued is None:  # slurmctld does not answer: nothing is known, and nothing follows from that
            return None
        state, _, reason = queued.partition("|")
        if state == "PENDING" and reason in _NEVER:
            self.cancel()
            raise UsageError(
                f"Slurm will never start job {self.number}: {reason}",
                hint=f"sinfo   on {self.session.name}; fewer nodes, or another `partition` in the target",
            )
        if state == "PENDING" and reason != self._queued:
            self._queued = reason
            self._observer.event("queued", reason=f"job {self.number} of Slurm: {reason}")
        if state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"):
            self._gone = 0
            return None
        self._gone += 1
        if self._gone < 3:  # the verdict may be on its way through a shared file system
            return None
        shown = self._slurm("scontrol", "show", "job", "--oneliner", self.number) if self.number else ""
        word = next((item.partition("=")[2] for item in shown.split() if item.startswith("JobState=")), state or "gone")
        outcome = "canceled" if self._stopped else _ENDS.get(word.partition("+")[0], "launcher_failed")
        said = self._said()
        return {"outcome": outcome, "words": f"job {self.number} of Slurm ended as {word}{said and chr(10) + said}"}

    def _said(self) -> str:
        """Returns the end of what the job wrote itself."""
        chunks: list[bytes] = []
        with contextlib.suppress(InfrastructureError):
            self.session.fetch(self.handle.token, "", [("job.log", 0)], lambda _, data: chunks.append(data))
        return b"".join(chunks).decode("utf-8", "replace").strip()[-2000:]

    def _slurm(self, *words: str) -> str:
        return str(self.session.call("execute", words=list(words), environment={})["out"]).strip()

    def _listed(self, form: str) -> str | None:
        """Returns what squeue says of the job, `""` when it is not there any more, None when nobody answers."""
        words = ["squeue", "--noheader", f"--format={form}", f"--name={self.handle.facts[NAME]}"]
        answer = self.session.call("execute", words=words, environment={})
        return str(answer["out"]).strip() if answer["code"] == 0 else None

    def _lost(self, error: HostError) -> None:
        self.session.close()
        self.session.host.close()
        if time.monotonic() - self._reached > _PATIENCE_SECONDS:
            raise LostContact(f"{error.message}; the job goes on", hint="repro attach @   when it is there again")
        time.sleep(1.0)

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Ctrl-C ends the run politely, a second one through Slurm, a third one leaves."""

        def interrupt(number: int) -> None:
            self._interrupts += 1
            if self._interrupts > 2:
                raise Detached("left while Slurm ends the job", hint="repro attach @")
            session = Session(host_of(self.session.host.spec))  # the other one may be in the middle of an answer
            helper = Job(self.handle, session, self._logs, self._observer)
            act = helper.stop if self._interrupts == 1 else helper.cancel
            self._stopped = self._stopped or time.monotonic()
            threading.Thread(target=act, daemon=True).start()

        return interrupts_go_to(interrupt)


class Batch:
    """An attempt as a job of Slurm, new or, with a handle, one that was left.

    Args:
        handle: of the attempt that was left.
        cancel: it is to end.
    """

    survives = True

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        wishes: Wishes,
        *,
        attempt: Path,
        work: Path,
        handle: Handle | None = None,
        cancel: bool = False,
    ) -> None:
        self._plan, self._observer, self._wishes = plan, observer, wishes
        self._attempt, self._work, self._handle, self._cancel = attempt, work, handle, cancel
        self._logs = Logs(attempt / LOGS, Prefixed(observer.output, only=wishes.shown))
        self._facts: dict[str, Any] = dict(handle.facts) if handle else {"layout": str(plan.layout)}
        self._session: Session | None = Session(host_of(handle.members[0].spec)) if handle else None
        self._verdict: Verdict | None = None

    def facts(self) -> Mapping[str, Any]:
        return self._facts

    def prepare(self) -> None:
        return

    def stage(self) -> None:
        return

    def run(self) -> Outcome:
        assert self._handle is not None
        assert self._session is not None
        job = Job(self._handle, self._session, self._logs, self._observer)
        if self._cancel:
            job.stop()
        self._verdict = job.follow(until_going=self._wishes.detach)
        if self._verdict is None:
            raise Detached(
                f"run {self._plan.hash[:12]}: {counted(self._handle.world_size, 'rank')} in job "
                f"{self._facts[JOB]} of Slurm",
                hint=f"repro attach {self._plan.hash[:12]}; repro logs -f {self._plan.hash[:12]}",
            )
        return outcome_of(self._verdict, {0: self._verdict}, self._handle)

    def gather(self) -> tuple[Workplace, list[str]]:
        assert self._handle is not None
        assert self._session is not None
        assert self._verdict is not None
        self._logs.close()
        ended = {0: self._verdict}
        return gather(self._plan, self._handle, {0: self._session}, self._verdict, ended, self._attempt, self._work)

    def release(self) -> None:
        if self._handle is not None and self._session is not None:
            release(self._handle, [self._session], self._attempt)

    def close(self, *, abandon: bool) -> None:
        self._logs.close()
        if self._session is not None:
            if abandon and self._handle is not None:
                with contextlib.suppress(InfrastructureError):
                    Job(self._handle, self._session, self._logs, self._observer).end()
                    self._session.call("release", token=self._handle.token)
                remove_handle(self._attempt)
            self._session.close()
            self._session.host.close()


class NewBatch(Batch):
    """A new job: staged, submitted, and then followed as any other."""

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
        super().__init__(plan, observer, wishes, attempt=attempt, work=work)
        self._target, self._secrets = target, secrets
        self._token = os.urandom(8).hex()
        self._provision = Provision(plan, lock, target, self._token, store, observer, project, work)
        self._berth: Berth | None = None

    def facts(self) -> Mapping[str, Any]:
        return {**self._facts, **self._provision.facts}

    def prepare(self) -> None:
        """Reaches the login host and has the environment in its store."""
        if self._target.runtime == "docker":
            raise UsageError(
                f"target {self._target.name}: Slurm runs processes here, not containers",
                hint='runtime = "process" in the target of the inventory',
            )
        assert self._target.login is not None
        host = host_of(self._target.login)
        host.connect()
        mate = mate_of(host, None)
        self._session = mate.session
        if mate.session.call("which", name="sbatch", path=os.defpath + ":/usr/local/bin")["path"] is None:
            raise UsageError(f"{host.name}: has no sbatch", hint="`login` of the target: a host with Slurm's programs")
        owner = f"{getpass.getuser()}@{socket.gethostname()}"
        about = {"run_hash": self._plan.hash, "owner": owner, "started": time.time(), "scheduler": "slurm",
                 "job_name": self._name}  # fmt: skip
        answer = mate.session.call("reserve", token=self._token, about=about)
        self._berth = Berth(mate, (), directory=answer["directory"])
        self._program = answer["program"]
        self._provision.bring_environment([self._berth])

    def stage(self) -> None:
        assert self._berth is not None
        self._provision.bring_source([self._berth])
        self._provision.bring_inputs([self._berth])

    def run(self) -> Outcome:
        """Submits the job and follows it."""
        assert self._berth is not None
        orders = self._write_orders()
        timelines = [f"timeline.{node}" for node in range(self._plan.layout.node_count)]
        self._facts = {**self.facts(), **orders.facts, JOB: None, NAME: self._name, "timelines": timelines}
        self._write_handle()  # before there is a job: whoever is killed now leaves one that can be found
        number = self._submit()
        self._facts |= {JOB: number, "hosts": [{"host": f"job {number} of Slurm"}]}
        self._write_handle()
        words = f"{counted(self._plan.layout.world_size, 'rank')} in job {number} of Slurm"
        self._observer.event("placed", words=words)
        return super().run()

    @property
    def _name(self) -> str:
        return f"repro-{self._plan.hash[:12]}-{self._token}"

    def _write_handle(self) -> None:
        assert self._berth is not None
        member = self._berth.member(self._plan.layout.ranks())
        lost_after, commit = self._target.lost_after_seconds, self._wishes.commit
        self._handle = Handle(self._token, self._target.name, lost_after, (member,), self._facts, commit)
        write_handle(self._attempt, self._handle)

    def close(self, *, abandon: bool) -> None:
        self._provision.close()
        if abandon and self._handle is None and self._session is not None and self._berth is not None:
            with contextlib.suppress(InfrastructureError):
                self._session.call("release", token=self._token)
        super().close(abandon=abandon)

    def _write_orders(self) -> Orders:
        """Writes what the nodes will be told, and the job that tells them."""
        assert self._berth is not None
        session, layout = self._berth.mate.session, self._plan.layout
        berths = [self._node(number) for number in range(layout.node_count)]
        shares = tuple(berth.shares[0] for berth in berths)
        orders = Orders(self._plan, self._target, self._token, berths, Placement(layout, shares), self._secrets)
        content = {
            "token": self._token,
            "interface": self._target.interface or "",
            "binding": layout.gpu_binding.value,
            "ports": 1 + layout.process_count_per_node,
            "nodes": orders.all(),
        }
        session.call("write", token=self._token, name="orders.json", text=json.dumps(content))
        step = ["srun", f"--nodes={layout.node_count}", f"--ntasks={layout.node_count}", "--ntasks-per-node=1",
                "--mpi=none", "--kill-on-bad-exit=1", "--wait=60", "--export=ALL",
                self._berth.mate.spec.python, "-I", "-S", "-B", "-c", _STEP, self._program,
                self._berth.directory]  # fmt: skip
        script = f"#!/bin/sh\nexec {shlex.join(step)}\n"
        session.call("write", token=self._token, name="job.sh", text=script)
        return orders

    def _submit(self) -> int:
        """Gives the job to Slurm; returns its number.

        Raises:
            UsageError: Slurm does not take it; the message has its words.
        """
        assert self._berth is not None
        session, path = self._berth.mate.session, f"{self._berth.directory}/job.sh"
        answer = session.call("execute", words=["sbatch", *self._options(), path], environment={})
        number = str(answer["out"]).strip().partition(";")[0]
        if answer["code"] != 0 or not number.isdecimal():
            said = str(answer["err"]).strip() or str(answer["out"]).strip()
            raise UsageError(f"{session.name}: Slurm does not take the job: {said}", hint=f"sinfo   on {session.name}")
        return int(number)

    def _options(self) -> list[str]:
        assert self._berth is not None
        layout, seconds = self._plan.layout, self._plan.recorded.timeout_seconds
        options = ["--parsable", f"--job-name={self._name}", "--no-requeue", "--export=PATH,HOME",
                   f"--nodes={layout.node_count}", "--ntasks-per-node=1",
                   f"--cpus-per-task={layout.process_count_per_node}", f"--chdir={self._berth.directory}",
                   f"--output={self._berth.directory}/job.log"]  # fmt: skip
        if self._target.partition:
            options.append(f"--partition={self._target.partition}")
        if self._plan.use_gpu:
            options.append(f"--gres=gpu:{layout.gpus_per_node}")
        if seconds is not None:  # the daemons keep the time from the first step on; Slurm is the net below
            options.append(f"--time={math.ceil(seconds / 60) + 5}")
        return options + [f"--{name}={value}" if value else f"--{name}" for name, value in self._target.options.items()]

    def _node(self, number: int) -> Berth:
        """A node of the job, in words for what only the node will know (`hostside.batch`)."""
        assert self._berth is not None
        real, layout = self._berth, self._plan.layout
        word = functools.partial(batch.word, self._token)
        port_word = functools.partial(batch.port_word, self._token, number)
        address = word(f"ADDRESS-{number}")
        network = self._target.interface if self._target.interface and "/" in self._target.interface else ""
        mate: Mate = replace(
            real.mate,
            facts={
                **real.mate.facts,
                "python": {"executable": word("PYTHON")},
                "gpus": None,
                "cpu_count": None,
            },
            address=address,
            interface=word("INTERFACE"),
            network=network,
            alias=word(f"HOST-{number}"),
        )
        ports = tuple(port_word(port) for port in range(1 + layout.process_count_per_node))
        share = Share(mate.name, address, layout.ranks_of(number))
        return replace(real, mate=mate, shares=(share,), ports=ports, mesh_port=port_word(batch.MESH))

"""A real Slurm on the hosts of the lab: slurmctld on h1, a slurmd and a munged on each, partition `p`.

Each node offers two GPUs of which only the count is true: their device files are consoles. A program on h1 finds
Slurm as on any login node; one on the machine does with `environment()`. Needs Debian's slurmctld, slurmd,
slurm-client and munge, and a mounted /sys/fs/cgroup.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence

from tests.lab.hosts import PATH, Cluster, LabError, wait

PARTITION = "p"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={head}({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
{auth}
StateSaveLocation=/var/lib/slurm-lab/state
SlurmdSpoolDir=/var/lib/slurm-lab/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,defer_batch=0
SlurmdTimeout=10
KillWait=3
MessageTimeout=5
MinJobAge=60
GresTypes=gpu
{nodes}
PartitionName={partition} Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Slurm on the hosts of a cluster; see the module."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.head = "h1"
        self._directory = cluster.root / "slurm"

    def up(self) -> None:
        """Starts what does not run of it, and returns when every node is idle."""
        if lacking := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]:
            raise LabError(f"Slurm in the lab needs {', '.join(lacking)} (`make lab-up` as root installs them)")
        self._directory.mkdir(exist_ok=True)
        key = self._directory / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(128))
            key.chmod(0o400)
        for host in self.cluster.hosts:
            self._configure(host, key.read_bytes())
            self._start(host, "munged", ["munged", "--force"])
        self._start(self.head, "slurmctld", ["slurmctld", "-c"])
        for host in self.cluster.hosts:
            self._start(host, "slurmd", ["slurmd"])
        self._serve_the_machine()
        wait(self._all_idle, 30, self._complaint)

    def down(self) -> None:
        """Cancels every job and stops the daemons."""
        if self._answers():
            self.run(["scancel", "--signal=KILL", "--full", f"--partition={PARTITION}"], check=False)
            self.run(["scancel", f"--partition={PARTITION}"], check=False)
            until = time.monotonic() + 10
            while self.run(["squeue", "-h"], check=False).stdout.strip() and time.monotonic() < until:
                time.sleep(0.1)
        for host in self.cluster.hosts:
            if self.cluster.is_up(host):
                self.cluster.run(host, ["pkill", "-KILL", "-x", "slurmctld|slurmscriptd|slurmd|munged"], check=False)
        pid_file = self._directory / "munged.pid"
        if pid_file.exists():
            subprocess.run(["pkill", "-KILL", "-F", str(pid_file), "munged"], check=False)
            pid_file.unlink()

    def run(
        self, words: Sequence[str], *, user: str = "root", data: bytes = b"", timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login node."""
        return self.cluster.run(self.head, words, user=user, data=data, timeout=timeout, check=check)

    def environment(self) -> dict[str, str]:
        """What sbatch and the others need in their environment on the machine itself, where `login` is `local`."""
        return {"SLURM_CONF": str(self._directory / "slurm.conf")}

    def target(self, *, login: str = "h1") -> str:
        """The lines of an inventory for this Slurm, as the target `slurm`."""
        return (
            f'\n[targets.slurm]\nscheduler = "slurm"\nlogin = "{login}"\npartition = "{PARTITION}"\n'
            f'interface = "{self.cluster.network}"\n'
        )

    def stop_node(self, host: str) -> None:
        """Kills the slurmd of a node; its jobs' processes run on."""
        self.cluster.run(host, ["pkill", "-KILL", "-x", "slurmd"])

    def _configure(self, host: str, key: bytes) -> None:
        etc = self.cluster.path(host, "/etc")
        (etc / "slurm").mkdir(exist_ok=True)
        (etc / "slurm/slurm.conf").write_text(self._configuration())
        (etc / "slurm/cgroup.conf").write_text("CgroupAutomount=no\n")
        (etc / "slurm/gres.conf").write_text(f"NodeName={self._names()} Name=gpu File=/dev/tty[0-1]\n")
        (etc / "munge").mkdir(exist_ok=True)
        place = etc / "munge/munge.key"
        place.unlink(missing_ok=True)
        place.write_bytes(key)
        place.chmod(0o400)
        for name in (
            "/run/munge",
            "/var/log/munge",
            "/var/lib/munge",
            "/var/lib/slurm-lab/state",
            "/var/lib/slurm-lab/spool",
        ):
            directory = self.cluster.path(host, name)
            directory.mkdir(parents=True, exist_ok=True)
            os.chown(directory, 0, 0)

    def _configuration(self, auth: str = "") -> str:
        nodes = "\n".join(
            f"NodeName={host} NodeAddr={self.cluster.address(host)} CPUs=4 RealMemory=1000 Gres=gpu:2 State=UNKNOWN"
            for host in self.cluster.hosts
        )
        return _CONFIGURATION.format(
            head=self.head,
            head_address=self.cluster.address(self.head),
            auth=auth,
            nodes=nodes,
            names=self._names(),
            partition=PARTITION,
        )

    def _names(self) -> str:
        return ",".join(self.cluster.hosts)

    def _start(self, host: str, name: str, words: Sequence[str]) -> None:
        running = {command.split()[0].rpartition("/")[2] for _, command in self.cluster.processes(host)}
        if name not in running:
            self.cluster.run(host, words)

    def _serve_the_machine(self) -> None:
        """A munged on the machine, for its own sbatch."""
        place = self._directory
        auth = f"AuthInfo=socket={place}/munge.sock"
        (place / "slurm.conf").write_text(self._configuration(auth))
        for name in ("cgroup.conf", "gres.conf"):
            (place / name).write_text(self.cluster.path(self.head, f"/etc/slurm/{name}").read_text())
        if not (place / "munged.pid").exists():
            options = {
                "key-file": "munge.key",
                "socket": "munge.sock",
                "pid-file": "munged.pid",
                "log-file": "munged.log",
            }
            options["seed-file"] = "munged.seed"
            words = [f"--{option}={place / name}" for option, name in options.items()]
            subprocess.run(["munged", "--force", *words], check=True, env={"PATH": PATH}, capture_output=True)

    def _answers(self) -> bool:
        return self.cluster.is_up(self.head) and self.run(["scontrol", "ping"], check=False).returncode == 0

    def _all_idle(self) -> bool:
        states = self.run(["sinfo", "-h", "-N", "-o", "%t"], check=False).stdout.split()
        return states == ["idle"] * len(self.cluster.hosts)

    def _complaint(self) -> str:
        logs = [self.cluster.path(self.head, f"/var/log/{name}.log") for name in ("slurmctld", "slurmd")]
        tails = [path.read_text()[-1500:] for path in logs if path.exists()]
        return "Slurm has no idle nodes: " + "\n".join([self.run(["sinfo", "-N"], check=False).stdout, *tails])

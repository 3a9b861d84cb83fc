"""The first process of a host of the lab: gives it a file system of its own, then keeps its sshd running.

    nsenter --net=... unshare --pid --fork --kill-child --mount --uts --ipc python3 -IS init.py NAME DIRECTORY [SHARED]...

Standard library only, for the machine's own python3. DIRECTORY holds the host's disk, and learns here, in `pid`, which
process to kill for a power cut. SHARED directories of the machine, such as the base of a virtual environment, are seen
read-only at the same path.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path


def main(name: str, directory: Path, shared: "list[str]") -> None:
    (directory / "pid").write_text(os.readlink("/proc/self"))  # still the machine's /proc, so its number for us
    socket.sethostname(name)
    make_root(directory, shared)
    sshd = ["/usr/sbin/sshd", "-D", "-e"]
    with open("/var/log/sshd.log", "ab") as log:
        null = open(os.devnull, "rb")  # noqa: SIM115 - for as long as the host is up
        listener = subprocess.Popen(sshd, stdin=null, stdout=log, stderr=log)
        while True:
            ended = reap()
            if ended == listener.pid:  # as an init system that restarts it
                time.sleep(0.2)
                listener = subprocess.Popen(sshd, stdin=null, stdout=log, stderr=log)


def make_root(directory: Path, shared: "list[str]") -> None:
    """The machine's files under a writable layer of the host's own, and nothing of the machine beyond them."""
    root = directory / "root"
    root.mkdir(exist_ok=True)
    layers = f"lowerdir=/,upperdir={directory}/upper,workdir={directory}/work"
    mount("-t", "overlay", "overlay", "-o", layers, root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "sysfs", root / "sys")
    if os.path.isdir("/sys/fs/cgroup"):
        mount("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup")
    mount("--bind", "/dev", root / "dev")
    mount("-t", "devpts", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", root / "dev/pts")
    for place, mode in (("dev/shm", "1777"), ("tmp", "1777"), ("run", "755")):
        mount("-t", "tmpfs", "tmpfs", "-o", f"mode={mode}", root / place)
    (root / "run/sshd").mkdir()
    boot_id = root / "run/boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    mount("--bind", boot_id, root / "proc/sys/kernel/random/boot_id")
    common = root / "shared"  # as a file system that all nodes of a cluster have
    common.mkdir(exist_ok=True)
    mount("--bind", directory.parent / "shared", common)
    for path in shared:
        place = root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", path, place)
        mount("-o", "remount,bind,ro", place)
    if (directory / "docker").exists():  # overlay2 cannot live on an overlay
        place = root / "var/lib/docker"
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", directory / "docker", place)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    subprocess.run(["umount", "-l", "."], check=True)
    os.chdir("/")


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def reap() -> int:
    try:
        return os.wait()[0]
    except ChildProcessError:
        signal.pause()
        return 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

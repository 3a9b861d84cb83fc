"""The attempts of runs on this host: where each is, whether somebody executes it, and an end for those nobody does.

    runs/<token>/about.json    what it is: run hash, user, started; no secret
    runs/<token>/alive         locked by the daemon while it lives
    runs/<token>/source/       working directory of the ranks, with outputs/ and logs/
    runs/<token>/inputs/       links, or private copies
    runs/<token>/ranks/N/      stdout.log, stderr.log of rank N; `timeline` says when each grew
    runs/<token>/verdict.json  how the run ended, written by the daemon
    /tmp/repro-<token>         a link to it: the same path on every host, for MPI, and short, for sockets

The life of one, which only ever goes downwards:

    prepared    the daemon has its GPUs and slots; without word from a controller it gives up
    attesting   the ranks are started, and say who and where they are
    running     all agreed; it needs no controller any more
    stopping    there is a verdict; what still runs is being ended
    ended       verdict.json is there; nothing runs; kept until it is collected, at the latest for `KEPT_SECONDS`
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from typing import Any

from repro_est.hostside.objects import remove_tree

KEPT_SECONDS = 14 * 24 * 3600
_MAKING_SECONDS = 60
_GOING = ".going-"
"""Begins the name of a directory that is being removed."""
LABEL = "repro.token"
"""Label of every container of an attempt."""


def directory(root: str, token: str) -> str:
    return os.path.join(root, "runs", checked(token))


def link(token: str) -> str:
    return os.path.join("/tmp", "repro-" + checked(token))  # its owner is checked where it is made


def checked(token: str) -> str:
    if not token.isalnum():
        raise ValueError(f"a token is letters and digits, got {token!r}")
    return token


def create(root: str, token: str, about: dict[str, Any]) -> str:
    """Makes the directory of an attempt."""
    path = directory(root, token)
    os.mkdir(path, 0o700)
    for name in ("source", "inputs", "home", "tmp", "ranks"):
        os.mkdir(os.path.join(path, name), 0o755)
    write_json(os.path.join(path, "about.json"), about)
    os.symlink(path, link(token))
    return path


def is_alive(root: str, token: str) -> bool:
    """Whether the daemon of an attempt lives."""
    try:
        descriptor = os.open(os.path.join(directory(root, token), "alive"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def status(root: str, token: str) -> dict[str, Any]:
    """Returns whether an attempt is here, lives, and how it ended."""
    path = directory(root, token)
    if not os.path.isdir(path):
        return {"known": False, "alive": False, "verdict": None, "about": {}}
    return {
        "known": True,
        "alive": is_alive(root, token) or is_scheduled(path),
        "verdict": read_json(os.path.join(path, "verdict.json")),
        "about": read_json(os.path.join(path, "about.json")) or {},
    }


def is_scheduled(path: str) -> bool:
    """Whether an attempt is a job of a scheduler that has no verdict yet: its daemons are on other machines."""
    about = read_json(os.path.join(path, "about.json")) or {}
    return bool(about.get("scheduler")) and not os.path.exists(os.path.join(path, "verdict.json"))


def listed(root: str) -> list[dict[str, Any]]:
    """Returns the status of every attempt that is here."""
    return [dict(status(root, token), token=token) for token in tokens(root)]


def tokens(root: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(os.path.join(root, "runs")) if name.isalnum())
    except OSError:
        return []


def reap(root: str) -> None:
    """Ends what dead daemons left: processes, containers, temporary files; old attempts that nobody collected go."""
    for token in tokens(root):
        with contextlib.suppress(FileNotFoundError):  # somebody removes it at this moment
            if not is_alive(root, token):
                _reap_one(root, token)
    for name in os.listdir(os.path.join(root, "runs")):
        if name.startswith(_GOING):
            remove_tree(os.path.join(root, "runs", name))


def _reap_one(root: str, token: str) -> None:
    path = directory(root, token)
    if os.path.exists(os.path.join(path, "verdict.json")):
        if time.time() - os.stat(os.path.join(path, "verdict.json")).st_mtime > KEPT_SECONDS:
            remove(root, token)
        return
    if is_scheduled(path):
        _reap_scheduled(root, token)
        return
    is_new = time.time() - os.lstat(path).st_mtime < _MAKING_SECONDS
    if is_new and not os.path.exists(os.path.join(path, "alive")):
        return  # it is being made
    sweep(token, docker=bool((read_json(os.path.join(path, "about.json")) or {}).get("docker")))
    if not was_begun(root, token):
        remove(root, token)
        return
    clear(root, token)
    verdict = {"outcome": "host_lost", "words": "its daemon died, or the host was restarted"}
    with contextlib.suppress(OSError):
        write_json(os.path.join(path, "verdict.json"), verdict)


def _reap_scheduled(root: str, token: str) -> None:
    """Gives an attempt a verdict whose job is gone and left none; secrets that nobody came to read go with it."""
    path = directory(root, token)
    if time.time() - os.lstat(path).st_mtime < _MAKING_SECONDS:
        return
    name = (read_json(os.path.join(path, "about.json")) or {}).get("job_name", "")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listing = subprocess.run(
            ["squeue", "--noheader", "--format=%i", "--name", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
        )
        if listing.returncode == 0 and not listing.stdout.strip() and is_scheduled(path):
            for secret in ("orders.json", "stop"):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(path, secret))
            verdict = {"outcome": "host_lost", "words": "its job is gone, and has left no verdict"}
            write_json(os.path.join(path, "verdict.json"), verdict)


def was_begun(root: str, token: str) -> bool:
    """Whether a controller ever said what to execute: else there is nothing that anybody could want to collect."""
    try:
        return bool(os.listdir(os.path.join(directory(root, token), "ranks")))
    except OSError:
        return False


def clear(root: str, token: str) -> None:
    """Removes what an attempt needs only while it runs."""
    path = directory(root, token)
    for name in ("tmp", "home"):
        remove_tree(os.path.join(path, name))
    with contextlib.suppress(OSError):
        os.unlink(link(token))
    shutil.rmtree("/dev/shm/repro-" + token, ignore_errors=True)  # its name is ours


def remove(root: str, token: str) -> None:
    """Removes all of an attempt; it is gone for others at once, whole."""
    clear(root, token)
    path = directory(root, token)
    going = os.path.join(root, "runs", _GOING + token)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, going)
    remove_tree(going)


def sweep(token: str, *, docker: bool) -> int:
    """Kills every process and container that carries the token of an attempt; returns how many processes there were."""
    if docker:
        remove_containers(token)
    marker = b"REPRO_TOKEN=" + token.encode()
    killed = set()
    for _ in range(100):
        found = [pid for pid in carriers(marker) if pid != os.getpid()]
        if not found:
            break
        for pid in found:
            killed.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return len(killed)


def carriers(marker: bytes) -> list[int]:
    """Returns the processes with a variable in their environment: those of this user, or all for root."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if marker in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def remove_containers(token: str) -> None:
    """Removes the containers of an attempt, whatever they do."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listing = subprocess.run(
            ["docker", "ps", "-aq", "--filter", f"label={LABEL}={token}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        names = listing.stdout.decode().split()
        if names:
            subprocess.run(
                ["docker", "rm", "-f", "-v", *names],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip


def read_json(path: str) -> Any:
    """Returns the content of a JSON file, None when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)

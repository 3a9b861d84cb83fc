"""Who has which GPU and which slot of a host: kernel locks on files that all users of the host share.

    /tmp/.repro-leases/gpu-<uuid>, slot-<number>      one flock each; the content says who, for people

A lock goes with its last descriptor, kill -9 and reboot included, so none can be stale. The directory is sticky and
world-writable, the files are only ever opened for reading by others (`fs.protected_regular` refuses more), and a lock
wants no more than that. Claims are made one after the other (`.turn`), so that of two that want more than there is one
gets it. Whoever holds a lease also holds a shared lock on the directory, for which systemd-tmpfiles leaves alone what
looks old in it (tmpfiles.d(5)): a file that is made anew would be another lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence

DIRECTORY = "/tmp/.repro-leases"  # shared by all users on purpose; see above
_TURN_SECONDS = 5.0
"""How long to wait for another claim, which takes milliseconds; one that was stopped meanwhile must not stop others."""


class Busy(Exception):
    """Somebody has it; `holders` says who has what."""

    def __init__(self, holders: dict[str, str]) -> None:
        super().__init__(", ".join("{}: {}".format(*item) for item in holders.items()))
        self.holders = holders


def claim(gpus: Sequence[str], slots: int, total_slots: int, owner: str) -> list[int]:
    """Takes these GPUs and any free slots, all or nothing.

    Returns:
        The descriptors that hold the locks.

    Raises:
        Busy: some are held by others; nothing is held by this process then.
    """
    with _turn():
        return _claim(gpus, slots, total_slots, owner)


def _claim(gpus: Sequence[str], slots: int, total_slots: int, owner: str) -> list[int]:
    descriptors: list[int] = []
    holders: dict[str, str] = {}
    for gpu in gpus:
        descriptor = _lock("gpu-" + gpu, owner)
        if descriptor is None:
            holders["gpu-" + gpu] = holder("gpu-" + gpu)
        else:
            descriptors.append(descriptor)
    free = 0
    for number in range(total_slots):
        if free == slots:
            break
        descriptor = _lock(f"slot-{number}", owner)
        if descriptor is not None:
            free += 1
            descriptors.append(descriptor)
        else:
            holders[f"slot-{number}"] = holder(f"slot-{number}")
    if free == slots and not any(name.startswith("gpu-") for name in holders):
        return descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    raise Busy(holders)


def kept_directory() -> int:
    """Returns a descriptor that keeps the files of leases from being tidied away."""
    descriptor = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def holder(name: str) -> str:
    """Returns who has a lease, as it wrote itself down; `""` when nobody has it."""
    try:
        descriptor = os.open(os.path.join(DIRECTORY, name), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            written = json.loads(os.read(descriptor, 4096).decode())
            if os.path.exists("/proc/{}".format(int(written["pid"]))):
                return str(written["owner"])
        return "somebody"  # who may not write into the file of whoever had it before
    finally:
        os.close(descriptor)
    return ""


def held() -> dict[str, str]:
    """Returns every lease of this host that somebody has, with who that is."""
    try:
        names = os.listdir(DIRECTORY)
    except OSError:
        return {}
    found = ((name, holder(name)) for name in sorted(names) if not name.startswith("."))
    return {name: who for name, who in found if who}


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    descriptor = _opened(".turn")
    until = time.monotonic() + _TURN_SECONDS
    try:
        while not _is_mine(descriptor) and time.monotonic() < until:
            time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


def _lock(name: str, owner: str) -> int | None:
    descriptor = _opened(name)
    until = time.monotonic() + 1.0
    while not _is_mine(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if time.monotonic() > until:
                raise BlockingIOError
        except OSError:
            os.close(descriptor)
            return None
        time.sleep(0.001)  # nobody has it: somebody was only asking (`holder`)
    # Two users in turn: the one who did not make the file cannot write into it, and is "somebody".
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"owner": owner, "pid": os.getpid()}).encode())
    return descriptor


def _is_mine(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _opened(name: str) -> int:
    with contextlib.suppress(OSError):
        os.mkdir(DIRECTORY, 0o777)
        os.chmod(DIRECTORY, 0o1777)
    path = os.path.join(DIRECTORY, name)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # another user's file
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o644)  # whatever the umask: others must be able to open it
    return descriptor

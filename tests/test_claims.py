"""Who has a GPU or a slot of a host is one process, however many ask and however they end. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.hostside import claims
from repro_est.hostside.claims import Busy
from tests.conftest import as_root, missing

NOBODY = 65534
PROGRAM = """
import json, os, sys
from repro_est.hostside import claims
wanted = json.loads(sys.argv[1])
if wanted["uid"]:
    os.setgid(wanted["uid"]); os.setuid(wanted["uid"])
os.umask(wanted["umask"])
claims.DIRECTORY = wanted["directory"]
print("ready", flush=True)
sys.stdin.readline()
try:
    held = claims.claim(wanted["gpus"], wanted["slots"], wanted["total"], wanted["owner"])
    print(json.dumps({"held": len(held)}), flush=True)
except claims.Busy as error:
    print(json.dumps({"busy": error.holders}), flush=True)
sys.stdin.read()
"""


class Other:
    """Another process that claims."""

    def __init__(self, directory: Path, gpus: list[str], slots: int, total: int, owner: str, *, uid: int = 0) -> None:
        words = {
            "gpus": gpus,
            "slots": slots,
            "total": total,
            "owner": owner,
            "uid": uid,
            "umask": 0o077,
            "directory": str(directory),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.read()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def claim(self) -> dict[str, object]:
        self.start()
        return dict(json.loads(self.read()))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class Room:
    """Leases in a directory of the test, and processes that end with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.others: list[Other] = []

    def other(self, gpus: list[str], slots: int, total: int, owner: str, *, uid: int = 0) -> Other:
        self.others.append(Other(self.directory, gpus, slots, total, owner, uid=uid))
        return self.others[-1]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o1777)
    room = Room(tmp_path / "leases")
    monkeypatch.setattr(claims, "DIRECTORY", str(room.directory))
    yield room
    for other in room.others:
        other.kill()


def release(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_one_has_another_does_not_get(room: Room) -> None:
    assert claims.held() == {}
    ada = room.other(["A", "B"], 1, 4, "ada, run 12")
    assert ada.claim() == {"held": 3}
    with pytest.raises(Busy) as caught:
        claims.claim(["B", "C"], 1, 4, "bob")
    assert caught.value.holders == {"gpu-B": "ada, run 12", "slot-0": "ada, run 12"}
    assert claims.held() == {"gpu-A": "ada, run 12", "gpu-B": "ada, run 12", "slot-0": "ada, run 12"}
    release(claims.claim(["C"], 3, 4, "bob"))


def test_it_is_all_or_nothing(room: Room) -> None:
    ada = room.other(["B"], 2, 4, "ada")
    ada.claim()
    for gpus, slots in ((["A", "B"], 1), ([], 3), (["A"], 3)):
        with pytest.raises(Busy):
            claims.claim(gpus, slots, 4, "bob")
        assert set(claims.held().values()) == {"ada"}


def test_a_lease_goes_with_its_process(room: Room) -> None:
    ada = room.other(["A"], 1, 1, "ada")
    ada.claim()
    ada.kill()
    assert claims.held() == {}
    descriptors = claims.claim(["A"], 1, 1, "bob")
    assert claims.held() == {"gpu-A": "bob", "slot-0": "bob"}
    release(descriptors)


@pytest.mark.parametrize("round_", range(3))
def test_of_two_that_want_too_much_one_gets_it(room: Room, round_: int) -> None:
    gpus = [str(number) for number in range(8)]
    others = [room.other(gpus[:: 1 if number else -1], 5, 8, f"user{number}") for number in range(4)]
    for other in others:
        other.start()
    answers = [json.loads(other.read()) for other in others]
    assert sum("held" in answer for answer in answers) == 1
    assert len(claims.held()) == 13


def test_asking_who_has_it_takes_it_from_nobody(room: Room) -> None:
    release(claims.claim(["A"], 1, 1, "first"))
    program = f"from repro_est.hostside import claims\nclaims.DIRECTORY = {str(room.directory)!r}\nwhile True: claims.holder('gpu-A')"
    asking = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    try:
        for _ in range(300):
            release(claims.claim(["A"], 0, 1, "bob"))
    finally:
        for process in asking:
            process.kill()
            process.wait()


def test_a_claim_that_was_stopped_does_not_stop_others_for_ever(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(claims, "_TURN_SECONDS", 0.05)
    release(claims.claim([], 1, 1, "ada"))
    with open(room.directory / ".turn") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release(claims.claim([], 1, 1, "bob"))
        assert claims.held() == {}


@pytest.mark.parametrize("first", [0, NOBODY], ids=["root first", "nobody first"])
def test_users_share_leases_and_none_is_taken_for_another(room: Room, first: int) -> None:
    if not as_root():
        missing("being two users needs root")
    second = NOBODY - first
    ada = room.other(["A"], 1, 2, "ada", uid=first)
    assert ada.claim() == {"held": 2}
    assert os.stat(room.directory).st_mode & 0o7777 == 0o1777
    assert room.other(["A"], 1, 2, "bob", uid=second).claim() == {"busy": {"gpu-A": "ada", "slot-0": "ada"}}
    ada.kill()
    assert room.other(["A"], 2, 2, "bob", uid=second).claim() == {"held": 3}
    assert claims.held()["gpu-A"] in ("bob", "somebody")
    assert room.other(["A"], 1, 2, "cleo", uid=first).claim() == {"busy": claims.held()}


def test_a_lease_that_is_a_link_is_not_followed(room: Room, tmp_path: Path) -> None:
    room.directory.mkdir()
    (tmp_path / "precious").write_text("kept")
    (room.directory / "gpu-A").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        claims.claim(["A"], 0, 0, "ada")
    assert (tmp_path / "precious").read_text() == "kept"

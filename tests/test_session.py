"""A session with a host: what is sent there runs on its Python, and every request has its answer. This machine is the host."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro_est.hosts.host import HostError, HostLost
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.local import LocalHost
from repro_est.hosts.session import Bridge, RequestFailed, Session, program
from repro_est.hostside import runs
from tests.conftest import missing
from tests.test_hostside_rules import older_pythons


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., LocalHost]:
    def make(python: str = "python3", store: Path | None = None) -> LocalHost:
        return LocalHost(HostSpec("here", store=str(store or tmp_path / "host"), python=python, is_local=True))

    return make


@pytest.fixture
def session(host: Callable[..., LocalHost]) -> Iterator[Session]:
    session = Session(host())
    yield session
    session.close()


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "bin/python"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def real_python() -> str:
    import sys

    return sys.executable


# ---- start


def test_what_is_sent_runs_there_and_is_kept(session: Session, tmp_path: Path) -> None:
    hello = session.call("hello")
    assert hello["store"] == str(tmp_path / "host")
    kept = tmp_path / "host/programs" / (sha256(program()) + ".zip")
    assert kept.read_bytes() == program()
    kept.write_bytes(b"changed")
    session.close()
    session.call("hello")
    assert kept.read_bytes() == program()
    assert os.listdir(kept.parent) == [kept.name]


def test_what_start_up_files_print_does_not_matter(host: Callable[..., LocalHost], tmp_path: Path) -> None:
    noise = f'echo "Welcome!"; printf "{{\\"ok\\": false}}\\nREPRO-SESS"; exec {real_python()} "$@"'
    session = Session(host(script(tmp_path, noise)))
    assert session.call("hello")["ok"] is True
    session.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'disk on fire' >&2; exit 1", "disk on fire"),
        ("exec yes", "y\ny"),
        ("exit 0", "no answer"),
        (
            f'exec {real_python()} -c "import sys; sys.version_info = (3, 7); exec(sys.argv[-1])" "$@"',
            "Python 3.7, 3.8 or newer is needed",
        ),
    ],
    ids=["fails", "floods", "silent", "old"],
)
def test_a_python_that_is_none_is_told_in_its_own_words(
    host: Callable[..., LocalHost], tmp_path: Path, text: str, said: str
) -> None:
    session = Session(host(script(tmp_path, text)))
    with pytest.raises(HostError, match="could not run what repro sent there") as caught:
        session.open()
    assert said in str(caught.value)


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_a_real_python_that_is_too_old_is_refused(host: Callable[..., LocalHost], version: str) -> None:
    found = sorted(Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python"))
    if not found:
        missing(f"no Python {version} on this machine")
    with pytest.raises(HostError, match=r"3.8 or newer is needed|Unknown option: -I"):
        Session(host(str(found[0]))).open()


def test_old_pythons_that_are_new_enough_keep_a_tree(host: Callable[..., LocalHost], tmp_path: Path) -> None:
    pythons = older_pythons()
    if not pythons:
        missing("no Python 3.8 to 3.10 on this machine")
    for number, python in enumerate(pythons):
        session = Session(host(str(python), tmp_path / str(number)))
        session.put([(sha256(b"hello"), "f", 5, [b"hello"])])
        place = session.call("place", key="k", entries=[["a/b", "f", sha256(b"hello"), 5]])["path"]
        assert Path(place, "a/b").read_bytes() == b"hello"
        assert session.call("placed", key="k")["placed"]
        assert session.call("probe")["facts"]
        session.close()


def test_a_python_that_is_not_there_is_told(host: Callable[..., LocalHost]) -> None:
    with pytest.raises(HostError, match="/nowhere/python: No such file"):
        Session(host("/nowhere/python")).open()


# ---- requests


def test_requests_are_answered_in_their_order(session: Session) -> None:
    session.open()
    for name in ("sh", "no-such-program"):
        session.channel.send(json.dumps({"op": "which", "name": name, "path": os.defpath}).encode() + b"\n")
    answers: list[dict[str, Any]] = []
    while len(answers) < 2:
        answers += [message for message, _ in session.received()]
    assert [bool(answer["path"]) for answer in answers] == [True, False]


def test_an_unknown_request_is_told_and_the_session_goes_on(session: Session) -> None:
    with pytest.raises(RequestFailed, match="here: unknown operation 'fly'"):
        session.call("fly")
    assert session.call("hello")["ok"]


def test_a_session_that_ended_is_told(session: Session) -> None:
    os.kill(session.call("hello")["pid"], 9)
    with pytest.raises(HostLost, match="ended"):
        session.call("hello")


def test_what_is_no_message_ends_the_session(host: Callable[..., LocalHost], tmp_path: Path) -> None:
    session = Session(host(script(tmp_path, 'echo REPRO-SESSION-1; echo "Segmentation fault"; cat >/dev/null')))
    with pytest.raises(HostLost, match=r"no message.*Segmentation"):
        session.call("hello")
    session.close()


# ---- contents


def contents(*files: bytes) -> list[tuple[str, str, int, list[bytes]]]:
    return [(sha256(data), "f", len(data), [data[:1000], data[1000:]]) for data in files]


def test_many_contents_need_one_answer(session: Session) -> None:
    files = [b"%d" % number * 500 for number in range(300)] + [b"", os.urandom(3 << 20)]
    assert session.put(contents(*files)) == sum(map(len, files))
    wanted = [[sha256(data), "f", len(data)] for data in [*files, b"other"]]
    assert session.missing(wanted) == [[sha256(b"other"), "f", 5]]


@pytest.mark.parametrize("sent", [b"hellO", b"hel", b"hello, world", b""], ids=["changed", "shrank", "grew", "emptied"])
def test_a_file_that_changes_meanwhile_is_noticed(session: Session, sent: bytes) -> None:
    good, last = contents(b"good", b"last")
    bad = (sha256(b"HELLO"), "f", 5, [sent])
    with pytest.raises(RequestFailed, match="arrived as") as caught:
        session.put([good, bad, last])
    assert (caught.value.facts["damaged"], caught.value.facts["digest"]) == (True, sha256(b"HELLO"))
    assert session.missing([[sha256(b"good"), "f", 4]]) == []
    session.put([last])
    assert session.missing([[sha256(b"last"), "f", 4]]) == []


def test_a_file_that_cannot_be_read_ends_no_session(session: Session) -> None:
    def broken() -> Iterator[bytes]:
        yield b"he"
        raise PermissionError("no")

    session.open()
    with pytest.raises(PermissionError):
        session.put([(sha256(b"hello"), "f", 5, broken())])
    assert session.call("hello")["ok"]
    assert session.missing([[sha256(b"hello"), "f", 5]]) != []


def test_a_full_disk_is_told_with_the_way_out(
    host: Callable[..., LocalHost], small_disk: Callable[[int], Path]
) -> None:
    session = Session(host(store=small_disk(1 << 20)))
    with pytest.raises(RequestFailed, match="no space left on the disk of") as caught:
        session.put([*contents(os.urandom(4 << 20)), *contents(b"small")])
    assert caught.value.facts["full"]
    assert "free space there" in str(caught.value.hint)
    session.put(contents(b"small"))
    session.close()


# ---- attempts


def test_a_daemon_that_does_not_start_is_ended_and_forgotten(session: Session, tmp_path: Path) -> None:
    token = "unit" + os.urandom(6).hex()
    with pytest.raises(RequestFailed, match=r"(?s)the supervisor did not start.*KeyError"):
        session.call("start", token=token, about={})
    assert session.call("status", token=token)["known"] is False
    assert not os.path.lexists(runs.link(token))
    assert os.listdir(tmp_path / "host/runs") == []


def test_a_bridge_to_no_daemon_says_so(host: Callable[..., LocalHost]) -> None:
    bridge = Bridge(host(), "unit0")
    bridge.open()
    messages: list[dict[str, Any]] = [message for message, _ in bridge.messages()]
    bridge.close()
    assert [message["event"] for message in messages] == ["no daemon"]


def test_a_session_leaves_no_process(session: Session) -> None:
    pid = session.call("hello")["pid"]
    session.close()
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 1

"""Hosts behind SSH, against real sshds on this machine: what a connection promises, and what each failure says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro_est.hosts.host import HostError, HostKeyChanged, HostLost, UnknownHostKey
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.local import LocalHost
from repro_est.hosts.pool import connect_all
from repro_est.hosts.ssh import SshHost
from tests.sshd import Sshd, free_port, new_key, sshds


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    with sshds(tmp_path) as start:
        yield start


@pytest.fixture
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    return start_sshd()


@pytest.fixture
def host(sshd: Sshd) -> Iterator[SshHost]:
    host = sshd.host()
    yield host
    host.close()


# ---- what a connection promises


@pytest.mark.parametrize("word", ["a b", "$HOME", "it's", '"', "*", "a\nb", "é", "-x", ""])
def test_every_word_arrives_as_it_is(host: SshHost, word: str) -> None:
    done = host.run(["printf", "%s|", word, "end"])
    assert (done.code, done.out.decode()) == (0, f"{word}|end|")


def test_a_program_gets_its_input_and_gives_output_errors_and_status(host: SshHost) -> None:
    done = host.run(["sh", "-c", "cat; echo bad >&2; exit 3"], data=b"in\0put")
    assert (done.code, done.out, done.err) == (3, b"in\0put", "bad\n")


def test_a_signal_is_told_as_a_shell_tells_it(host: SshHost) -> None:
    assert host.run(["sh", "-c", "kill -9 $$"]).code == 137
    assert host.run(["sh", "-c", "kill -15 $$"]).code == 143


def test_nothing_of_this_environment_is_passed(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_REPRO", "secret")
    monkeypatch.setenv("REPRO_TEST_SECRET", "secret")
    assert b"secret" not in host.run(["env"]).out


def test_no_shell_stays_beside_a_program(host: SshHost) -> None:
    parent = host.run(["python3", "-c", "import os; print(open(f'/proc/{os.getppid()}/comm').read())"])
    assert parent.out.decode().strip() in ("sshd", "sshd-session")


def test_bytes_pass_both_ways_at_once(host: SshHost) -> None:
    import threading

    channel = host.spawn(["cat"])
    data = os.urandom(1 << 20) * 16

    def send() -> None:
        channel.send(data)
        channel.close_input()

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    while piece := channel.receive():
        received += piece
    sender.join()
    assert bytes(received) == data
    assert channel.wait(10) == 0


def test_errors_that_nobody_reads_do_not_stop_a_program(host: SshHost) -> None:
    done = host.run(["sh", "-c", "head -c 100000000 /dev/zero >&2; echo end >&2; echo out"], timeout=100)
    assert (done.code, done.out) == (0, b"out\n")
    assert done.err.endswith("end\n")
    assert len(done.err) <= 64 << 10


def test_input_that_a_program_does_not_read_is_no_error(host: SshHost) -> None:
    done = host.run(["true"], data=b"x" * (8 << 20))
    assert done.code == 0


def test_a_program_that_takes_too_long_is_given_up(host: SshHost) -> None:
    before = time.monotonic()
    with pytest.raises(HostLost, match="did not end within 1 s"):
        host.run(["sleep", "20"], timeout=1)
    assert time.monotonic() - before < 5
    assert host.run(["true"]).code == 0, "the connection is still good"


def test_a_start_up_file_may_print_before_a_program(sshd: Sshd, host: SshHost) -> None:
    (sshd.home / ".bashrc").write_text("echo welcome; echo to this machine >&2\n")
    done = host.run(["sh", "-c", "echo marker; cat"], data=b"data")
    assert done.out.startswith(b"welcome\n")
    assert done.out.partition(b"marker\n")[2] == b"data"


def test_messages_go_back_and_forth_without_waiting(host: SshHost) -> None:
    channel = host.spawn(["cat"])
    channel.send(b"x")
    channel.receive()
    before = time.monotonic()
    for _ in range(50):
        channel.send(b"x")
        assert channel.receive() == b"x"
    assert time.monotonic() - before < 50 * 0.02, "Nagle would make it 44 ms each"
    channel.close()


# ---- connections that break


def test_a_connection_that_breaks_is_told_and_made_again(sshd: Sshd, host: SshHost) -> None:
    channel = host.spawn(["sleep", "100"])
    for pid in sshd.sessions():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(HostLost, match="the connection broke"):
        channel.receive()
    with pytest.raises(HostLost, match="the connection broke"):
        channel.wait(5)
    assert host.run(["echo", "again"]).out == b"again\n"


def test_one_session_too_many_says_so_and_harms_nothing(start_sshd: Callable[..., Sshd]) -> None:
    host = start_sshd("MaxSessions 2").host()
    first, second = host.spawn(["cat"]), host.spawn(["cat"])
    with pytest.raises(HostError, match="refuses one more session") as caught:
        host.spawn(["true"])
    assert "MaxSessions" in str(caught.value.hint)
    second.close()
    first.send(b"x")
    assert first.receive() == b"x"
    host.close()


def test_twenty_connections_at_once_get_through_a_narrow_door(start_sshd: Callable[..., Sshd]) -> None:
    sshd = start_sshd("MaxStartups 3:100:4")
    hosts = [sshd.host(name=f"h{number}") for number in range(20)]
    found = connect_all(hosts, limit=20)
    assert list(found) == [host.name for host in hosts]
    assert [str(item) for item in found.values() if isinstance(item, HostError)] == []
    assert all(host.run(["true"]).code == 0 for host in hosts)
    for host in hosts:
        host.close()


# ---- connections that cannot be made


def test_an_unknown_host_key_says_which_and_how_to_add_it(sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    sshd.known_hosts.unlink()
    with pytest.raises(UnknownHostKey) as caught:
        sshd.host().connect()
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.directory / "host_key.pub")], capture_output=True, text=True
    ).stdout
    fingerprint = listed.split()[1]
    assert fingerprint in caught.value.message
    command = f"ssh-keyscan -t ed25519 -p {sshd.port} 127.0.0.1 >> {sshd.known_hosts}"
    assert command in str(caught.value.hint)
    subprocess.run(["sh", "-c", command], check=True, stderr=subprocess.DEVNULL)
    assert sshd.host().run(["true"]).code == 0, "the command of the hint helps"
    assert capfd.readouterr().err == ""


def test_a_changed_host_key_shows_both_and_how_to_forget_the_old_one(sshd: Sshd, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other")
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    with pytest.raises(HostKeyChanged) as caught:
        sshd.host().connect()
    assert caught.value.message.count("SHA256:") == 2
    command = f"ssh-keygen -f {sshd.known_hosts} -R '[127.0.0.1]:{sshd.port}'"
    assert command in str(caught.value.hint)
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    with pytest.raises(UnknownHostKey):
        sshd.host().connect()


def test_a_wrong_key_says_user_and_keys_that_were_tried(sshd: Sshd, tmp_path: Path) -> None:
    new_key(tmp_path / "wrong")
    with pytest.raises(HostError, match="permission denied for user") as caught:
        sshd.host(key=str(tmp_path / "wrong")).connect()
    assert str(tmp_path / "wrong") in caught.value.message
    assert caught.value.message.startswith("h1: ")
    assert caught.value.exit_code == 5
    assert str(caught.value.hint).startswith(f"ssh-copy-id -i {tmp_path}/wrong -p {sshd.port} ")


def test_a_key_that_is_not_there_or_is_locked_says_so(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(HostError, match="there is no key"):
        sshd.host(key=str(tmp_path / "absent")).connect()
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words", "-f", str(locked)], check=True)
    with pytest.raises(HostError, match="has a passphrase") as caught:
        sshd.host(key=str(locked)).connect()
    assert caught.value.hint == f"ssh-add {locked}"


def test_a_port_that_nobody_listens_at_says_so_after_some_tries(sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    before = time.monotonic()
    with pytest.raises(HostError, match=f"nothing listens at 127.0.0.1:{port}: connection refused"):
        sshd.host(port=port, connect_seconds=1.0).connect()
    assert time.monotonic() - before < 3
    assert capfd.readouterr().err == ""


def test_a_host_that_still_boots_is_waited_for(sshd: Sshd) -> None:
    import threading

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))  # not listening yet: refused
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port = int(listener.getsockname()[1])
    key = sshd.known_hosts.read_text().split(" ", 1)[1]
    sshd.known_hosts.write_text(f"[127.0.0.1]:{port} {key}")

    def boot() -> None:
        time.sleep(0.7)
        listener.listen()
        inside, _ = listener.accept()
        outside = socket.create_connection(("127.0.0.1", sshd.port))
        for source, sink in ((inside, outside), (outside, inside)):
            threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    threading.Thread(target=boot, daemon=True).start()
    host = sshd.host(port=port)
    assert host.run(["true"]).code == 0
    host.close()
    listener.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_something_that_is_no_sshd_says_so(sshd: Sshd) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host = sshd.host(port=listener.getsockname()[1], connect_seconds=1.0)
        with pytest.raises(HostError, match=r"no SSH connection to|did not answer"):
            host.connect()


def test_a_name_that_is_not_known_says_so(sshd: Sshd) -> None:
    with pytest.raises(HostError, match=r"the name no-such-host\.invalid is not known"):
        sshd.host(address="no-such-host.invalid", connect_seconds=2.0).connect()


# ---- the way there


def test_a_jump_host_leads_to_a_host(start_sshd: Callable[..., Sshd]) -> None:
    gate, behind = start_sshd(), start_sshd()
    behind.known_hosts.write_text(behind.known_hosts.read_text() + gate.known_hosts.read_text())
    host = behind.host(gateway=gate.spec(name="gate"))
    assert host.run(["echo", "there"]).out == b"there\n"
    assert len(gate.sessions()) == len(behind.sessions()) == 1
    host.close()
    for _ in range(50):
        if not gate.sessions():
            break
        time.sleep(0.1)
    assert gate.sessions() == [], "closing a host closes the way to it"


def test_a_jump_host_that_fails_is_named(start_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    gate, behind = start_sshd(), start_sshd()
    known = behind.known_hosts
    known.write_text(known.read_text() + gate.known_hosts.read_text())
    refused = free_port()
    with pytest.raises(HostError, match=f"the jump host failed: nothing listens at 127.0.0.1:{refused}"):
        behind.host(gateway=gate.spec(name="gate", port=refused), connect_seconds=0.5).connect()
    with pytest.raises(HostError, match=f"the jump host 127.0.0.1 cannot reach 127.0.0.1:{refused}"):
        behind.host(gateway=gate.spec(name="gate"), port=refused, connect_seconds=0.5).connect()
    new_key(tmp_path / "wrong")
    with pytest.raises(HostError, match=f"permission denied for user .* at 127.0.0.1:{gate.port}"):
        behind.host(gateway=gate.spec(name="gate", key=str(tmp_path / "wrong"))).connect()
    known.write_text("")
    with pytest.raises(UnknownHostKey, match=f"the host key of 127.0.0.1:{gate.port} is not known"):
        behind.host(gateway=gate.spec(name="gate")).connect()


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes ~/.ssh/config and ~/.ssh/known_hosts of a home of the test's own; `%N` in it is the N-th sshd's port."""

    def write(text: str, *sshds: Sshd) -> None:
        directory = tmp_path / "home" / ".ssh"
        directory.mkdir(parents=True)
        for number, sshd in enumerate(sshds):
            text = text.replace(f"%{number}", str(sshd.port))
        keys = "".join(f"  IdentityFile {sshd.directory}/id_ed25519\n" for sshd in sshds)
        (directory / "config").write_text(f"{text}\nHost *\n  IdentityFile ~/.ssh/absent\n{keys}")
        (directory / "known_hosts").write_text("".join(sshd.known_hosts.read_text() for sshd in sshds))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))

    return write


def test_a_name_of_the_ssh_configuration_works_as_it_is(sshd: Sshd, configure: Callable[..., None]) -> None:
    configure("Host trainer\n  HostName 127.0.0.1\n  Port %0\n", sshd)
    host = SshHost(HostSpec("trainer"))
    assert host.run(["echo", "there"]).out == b"there\n"
    host.close()


def test_several_jump_hosts_of_the_ssh_configuration_are_taken_in_their_order(
    start_sshd: Callable[..., Sshd], configure: Callable[..., None]
) -> None:
    far = start_sshd()
    second = start_sshd(f"PermitOpen 127.0.0.1:{far.port}")
    first = start_sshd(f"PermitOpen 127.0.0.1:{second.port}")
    hosts = "".join(
        f"Host {name}\n  HostName 127.0.0.1\n  Port %{number}\n  ProxyJump {jump}\n"
        for number, (name, jump) in enumerate([("far", "first,second"), ("second", "none"), ("first", "none")])
    )
    configure(hosts, far, second, first)
    host = SshHost(HostSpec("far"))
    assert host.run(["echo", "there"]).out == b"there\n"
    host.close()


def test_a_jump_host_for_all_is_not_its_own(start_sshd: Callable[..., Sshd], configure: Callable[..., None]) -> None:
    far, gate = start_sshd(), start_sshd()
    configure("Host far\n  Port %0\nHost gate\n  Port %1\nHost *\n  HostName 127.0.0.1\n  ProxyJump gate\n", far, gate)
    host = SshHost(HostSpec("far"))
    assert host.run(["echo", "there"]).out == b"there\n"
    assert len(gate.sessions()) == 1
    host.close()


RELAY = """\
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := there.recv(65536):
        os.write(1, data)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    there.sendall(data)
"""


def test_a_proxy_command_leads_to_a_host(sshd: Sshd, configure: Callable[..., None], tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    configure(f"Host far\n  HostName 127.0.0.1\n  Port %0\n  ProxyCommand {sys.executable} {relay} %h %p\n", sshd)
    host = SshHost(HostSpec("far"))
    assert host.run(["echo", "there"]).out == b"there\n"
    host.close()


def test_a_configuration_that_makes_no_sense_says_so(sshd: Sshd, configure: Callable[..., None]) -> None:
    configure('Match nonsense "\n', sshd)
    with pytest.raises(HostError, match="the configuration of ssh cannot be used"):
        SshHost(HostSpec("far")).connect()


def test_an_agent_opens_with_a_key_that_is_locked(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    variables = dict(word.split("=") for word in agent.replace("\n", "").split(";") if "=" in word)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    key = str(sshd.directory / "id_ed25519")
    try:
        subprocess.run(["ssh-add", "-q", key], check=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "words", "-f", key], check=True, capture_output=True)
        host = sshd.host()
        assert host.run(["true"]).code == 0
        host.close()
    finally:
        os.kill(int(variables["SSH_AGENT_PID"]), signal.SIGTERM)


# ---- this machine


def test_this_machine_behaves_as_a_host_does() -> None:
    host = LocalHost(HostSpec("here", is_local=True))
    done = host.run(["sh", "-c", "cat; echo bad >&2; kill -9 $$"], data=b"in")
    assert (done.code, done.out, done.err) == (137, b"in", "bad\n")
    channel = host.spawn(["cat"])
    channel.send(b"x")
    assert channel.receive() == b"x"
    with pytest.raises(TimeoutError):
        channel.wait(0.05)
    channel.close_input()
    assert channel.receive() == b""
    assert channel.wait(5) == 0
    channel.close()
    with pytest.raises(HostError, match="no-such-program: No such file"):
        host.spawn(["no-such-program"])

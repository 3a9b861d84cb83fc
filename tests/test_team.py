"""A team: two people with their own homes, stores, keys and checkouts, and one remote between them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import RunHash, sha256_hex
from repro_est.errors import RemoteError, ReproError
from repro_est.share.directory import DirectoryRemote
from repro_est.share.keys import KeyRing
from repro_est.share.push import push
from repro_est.share.remote import Told, Upload
from repro_est.share.settings import RemoteSpec
from repro_est.store.runs import Runs
from repro_est.store.verify import verify
from tests.conftest import Workshop
from tests.s3 import new_bucket, s3
from tests.sshd import sshds
from tests.team import Team, write

__all__ = ["s3"]


@pytest.fixture
def team(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Team:
    return Team(tmp_path, workshop, monkeypatch)


# ---- what it is for


def test_what_one_has_run_is_a_hit_for_the_other_in_another_directory(team: Team) -> None:
    run = team.made()
    plan = team.bob.repro("plan", "job.toml", "--json")
    assert (plan.code, plan.json["cached"], plan.json["cached_where"]) == (0, True, "team")
    events = team.bob.run()
    assert events[-1]["run_hash"] == run
    assert events[-1]["cached"] is True
    assert events[-1]["metrics"] == {"loss": 0.25}
    assert not team.bob.has_executed(run)
    outputs = Path(events[-1]["outputs"])
    assert (outputs / "model.bin").read_bytes() == bytes(range(256)) * 1000
    assert (outputs / "parts" / "39").read_text() == "39"
    assert team.bob.repro("plan", "job.toml", "--json").json["cached_where"] == "store"


def test_the_one_who_fetched_verifies_registers_and_is_told_what_differs(team: Team) -> None:
    run = team.made()
    team.bob.run()
    assert team.bob.repro("verify").code == 0
    assert verify(team.bob.store).findings == []
    assert team.bob.repro("model", "register", "net", run[:8], "outputs/model.bin").code == 0
    events = team.bob.run("--set", "script_params.--lr=0.2")
    assert events[-1]["cached"] is False
    why = team.bob.repro("why", "@")
    assert "--lr" in why.out
    assert "0.2" in why.out


def test_a_run_is_pulled_by_its_hash_and_can_be_run_again_from_its_plan(team: Team) -> None:
    run = team.made()
    done = team.bob.repro("pull", run)
    assert done.code == 0, done.err
    shown = team.bob.repro("show", run[:8], "--json").json
    assert shown["run_hash"] == run
    assert team.bob.repro("run", run[:8], "--json", "--no-cache").code == 0


def test_one_file_of_a_run_that_is_not_here_is_fetched_alone(team: Team, tmp_path: Path) -> None:
    run = team.made()
    assert team.bob.repro("plan", "job.toml").code == 0
    done = team.bob.repro("get", run, "outputs/model.bin", str(tmp_path / "model.bin"))
    assert done.code == 0, done.err
    assert (tmp_path / "model.bin").read_bytes() == bytes(range(256)) * 1000
    assert team.bob.repro("get", run, "outputs/parts/7", str(tmp_path / "seven")).code == 0
    assert (tmp_path / "seven").read_text() == "7"
    assert Runs(team.bob.store.layout).result(RunHash(run)) is None
    there = [path for path in (team.bob.root / "cache/blobs").rglob("*") if path.is_file()]
    assert len(there) == 3  # these two, and the source that was here
    missing = team.bob.repro("get", run, "outputs/none")
    assert missing.code == 2
    assert "model.bin" in missing.err


def test_an_attempt_that_was_fetched_says_who_made_it_and_where(team: Team) -> None:
    run = team.made()
    team.bob.run()
    record = Runs(team.bob.store.layout).recorded(RunHash(run))[-1]
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    assert record.facts["fetched"] == {"remote": "team", "key": key.id, "signer": "ada"}
    assert record.facts["machine"]["hostname"] == os.uname().nodename


def test_a_second_push_with_nothing_new_writes_nothing(team: Team) -> None:
    run = team.made()
    before = {path: path.stat().st_mtime_ns for path in team.remote.rglob("*") if path.is_file()}
    pushed = team.ada.repro("push", run[:8], "--json").json
    assert pushed == [{"run_hash": run, "remote": "team", "objects": 0, "bytes": 0, "new": False}]
    assert before == {path: path.stat().st_mtime_ns for path in team.remote.rglob("*") if path.is_file()}


def test_only_what_is_missing_travels(team: Team) -> None:
    team.made()
    run = team.ada.run("--set", "script_params.--lr=0.2")[-1]["run_hash"]
    pushed = team.ada.repro("push", run, "--json").json
    assert pushed[0]["bytes"] < 100_000  # the model, 256 kB, is there


def test_forty_small_files_are_one_pack(team: Team) -> None:
    team.made()
    names = [path.name for path in (team.remote / "packs").iterdir()]
    assert len(names) == 2
    assert len(list((team.remote / "objects").rglob("*"))) < 20


def test_a_run_is_pushed_after_success_where_that_is_wanted(team: Team) -> None:
    team.ada.check_out(team.remote, 'push = "after-success"\n')
    run = team.ada.run()[-1]["run_hash"]
    assert team.statement(run).exists()
    assert team.bob.run()[-1]["cached"] is True


def test_without_a_key_nothing_is_pushed_and_the_run_succeeds(team: Team) -> None:
    team.ada.check_out(team.remote, 'push = "after-success"\n')
    shutil.rmtree(team.ada.home / ".config")
    events = team.ada.run()
    assert events[-1]["status"] == "completed"
    assert any("key generate" in event.get("message", "") for event in events)
    assert not (team.remote / "runs").exists()


def test_a_remote_that_is_read_only_here_takes_nothing(team: Team) -> None:
    team.ada.check_out(team.remote, "read_only = true\n")
    team.ada.run()
    done = team.ada.repro("push", "@", "--to", "team")
    assert done.code == 2
    assert "read-only" in done.err
    assert list(team.remote.iterdir()) == []


def test_who_passes_a_run_on_signs_nothing_of_another(team: Team, tmp_path: Path) -> None:
    run = team.made()
    team.bob.run()
    other = tmp_path / "other"
    other.mkdir()
    team.bob.check_out(other)
    assert team.bob.repro("push", run).code == 0
    assert (other / "runs" / run / team.statement(run).name).read_bytes() == team.statement(run).read_bytes()


# ---- faults


def test_a_remote_that_is_not_there_costs_a_warning_and_no_run(team: Team) -> None:
    team.made()
    shutil.move(team.remote, team.remote.with_name("gone"))
    events = team.bob.run()
    assert events[-1]["cached"] is False
    assert any("there is no directory" in event.get("message", "") for event in events)
    assert not team.remote.exists()  # a mount that is missing is not made a directory
    assert team.bob.repro("push", "@").code == 5


class _Dying:
    """A remote that dies at its n-th change, and again at every one after it."""

    def __init__(self, remote: DirectoryRemote, lives: int) -> None:
        self._remote, self._lives = remote, lives
        self.name = remote.name
        self.read, self.exists, self.below, self.close = remote.read, remote.exists, remote.below, remote.close

    def _step(self) -> None:
        self._lives -= 1
        if self._lives < 0:
            raise RemoteError("the remote died")

    def write(self, uploads: Sequence[Upload], told: Told | None = None) -> None:
        for upload in uploads:
            self._step()
            self._remote.write([upload], told)

    def create(self, name: str, data: bytes) -> bool:
        self._step()
        return self._remote.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._step()
        self._remote.replace(name, data)

    def delete(self, name: str) -> None:
        self._step()
        self._remote.delete(name)


class _Quiet:
    def event(self, kind: str, **facts: Any) -> None:
        pass

    def output(self, stream: str, data: bytes) -> None:
        pass


def test_a_remote_that_dies_at_any_step_of_a_push_has_no_half_run_and_the_next_push_goes_on(team: Team) -> None:
    run = RunHash(team.ada.run()[-1]["run_hash"])
    spec = RemoteSpec("team", f"file://{team.remote}")
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    plain = DirectoryRemote("team", team.remote)
    for lives in range(100):
        before = len([path for path in team.remote.rglob("*") if path.is_file()])
        try:
            push(run, team.ada.store, _Dying(plain, lives), spec, key, _Quiet())
        except RemoteError:
            assert not (team.remote / "runs").exists(), lives
            assert len([path for path in team.remote.rglob("*") if path.is_file()]) >= before
            for path in list(team.remote.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        break
    assert lives > 8
    assert team.bob.run()[-1]["cached"] is True


def test_a_push_that_was_cut_off_goes_on_where_it_was(team: Team) -> None:
    run = RunHash(team.ada.run()[-1]["run_hash"])
    spec = RemoteSpec("team", f"file://{team.remote}")
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    plain, total = DirectoryRemote("team", team.remote), 0
    for _ in range(100):  # each time it gets one step further
        try:
            total += push(run, team.ada.store, _Dying(plain, 1), spec, key, _Quiet()).objects
            break
        except RemoteError:
            continue
    assert team.bob.run()[-1]["cached"] is True


def test_a_remote_whose_disk_is_full_says_so_and_keeps_no_half_object(
    team: Team, small_disk: Callable[[int], Path]
) -> None:
    place = small_disk(200 << 10)
    team.ada.check_out(place)
    team.ada.run()
    done = team.ada.repro("push", "@")
    assert done.code == 5
    assert "no space left" in done.err
    assert list((place / "incoming").iterdir()) == []
    for path in (place / "objects").rglob("*"):
        assert path.is_dir() or sha256_hex(path.read_bytes()) == path.name
    assert not (place / "runs").exists()


def test_two_who_push_the_same_at_once_make_one_whole_run(team: Team) -> None:
    run = RunHash(team.ada.run()[-1]["run_hash"])
    spec = RemoteSpec("team", f"file://{team.remote}")
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    failures: list[ReproError] = []

    def one() -> None:
        try:
            push(run, team.ada.store, DirectoryRemote("team", team.remote), spec, key, _Quiet())
        except ReproError as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list((team.remote / "incoming").iterdir()) == []
    assert team.bob.run()[-1]["cached"] is True


def test_a_blob_that_went_bad_here_is_not_pushed(team: Team) -> None:
    run = team.ada.run()[-1]["run_hash"]
    entry = next(e for e in team.ada.store.read_tree(Runs(team.ada.store.layout).result(RunHash(run)).outputs).files()  # type: ignore[union-attr]
                 if e.path == "model.bin")  # fmt: skip
    blob = team.ada.store.layout.blob(entry.xxh3)
    blob.chmod(0o644)
    blob.write_bytes(bytes(entry.size))
    done = team.ada.repro("push", run)
    assert done.code == 4
    assert "model.bin): was changed, so it is not pushed" in done.err
    assert not (team.remote / "runs").exists()


def test_a_clock_that_is_an_hour_off_changes_nothing(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    run, now = team.made(), time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    team.ada.run("--force")
    assert team.ada.repro("push", run).code == 0
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert team.bob.run()[-1]["cached"] is True


# ---- verbs


def test_remotes_are_listed_with_whom_they_believe(team: Team) -> None:
    listed = team.ada.repro("remotes", "--json").json
    assert [(item["name"], item["trust"], item["error"]) for item in listed] == [("team", ["ada"], None)]
    (team.remote / "format").write_text("99\n")
    done = team.ada.repro("remotes")
    assert done.code == 5
    assert "format 99" in done.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "http://x"', "expected file:, ssh: or s3:"),
        ('url = "ssh://u:secret@h/p"', "holds a password"),
        ('url = "file:///x"\npush = "always"', "after-success"),
        ('url = "file:///x"\npriority = "high"', "expected int"),
        ('color = "red"', "unknown key"),
        ("read_only = true", "url: missing"),
    ],
)
def test_a_remote_that_makes_no_sense_is_said_to(text: str, said: str, team: Team) -> None:
    team.ada.at_work().write("repro.toml", f"[remotes.team]\n{text}\n")
    done = team.ada.repro("remotes")
    assert done.code == 2
    assert said in done.err
    assert "remotes.team" in done.err


def test_a_run_that_no_remote_has_is_not_pulled(team: Team) -> None:
    done = team.bob.repro("pull", "0" * 32)
    assert done.code == 4
    assert "no remote has it" in done.err


# ---- single flight


@pytest.mark.usefixtures("unenclosed")
def test_two_who_ask_for_the_same_run_at_once_execute_it_once(team: Team, tmp_path: Path) -> None:
    import subprocess
    import sys

    count = tmp_path / "count"
    script = f"import time\nopen({str(count)!r}, 'a').write('x')\ntime.sleep(2)\nopen('outputs/a', 'w').write('1')\n"
    for person in (team.ada, team.bob):
        person.check_out(team.remote, 'push = "after-success"\n')
        person.at_work().recipe(script)
        person.repro("key", "trust", "bob", team.bob.repro("key", "show").out.strip())
        person.repro("lock", "job.toml")
    running = []
    for person in (team.ada, team.bob):
        person.at_work()
        command = [sys.executable, "-m", "repro_est", "run", "job.toml", "--json"]
        running.append(subprocess.Popen(command, cwd=person.root, stdout=subprocess.PIPE, text=True))
    ends = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in running]
    assert [end["status"] for end in ends] == ["completed", "completed"]
    assert sorted(end["cached"] for end in ends) == [False, True]
    assert count.read_text() == "x"
    assert not list((team.remote / "leases").rglob("*[0-9]/[0-9]*"))


# ---- one remote of each kind


def _through(team: Team, url: str) -> None:
    for person in (team.ada, team.bob):
        person.at_work().write("repro.toml", f'[remotes.team]\nurl = "{url}"\n')
    run = team.made()
    assert team.bob.repro("plan", "job.toml", "--json").json["cached_where"] == "team"
    events = team.bob.run()
    assert (events[-1]["run_hash"], events[-1]["cached"]) == (run, True)
    assert (Path(events[-1]["outputs"]) / "parts" / "7").read_text() == "7"
    assert verify(team.bob.store).findings == []
    assert team.ada.repro("push", run, "--json").json[0]["objects"] == 0


def test_a_team_may_share_through_a_host_of_the_inventory(team: Team, tmp_path: Path) -> None:
    with sshds(tmp_path) as start:
        sshd = start("Subsystem sftp internal-sftp")
        for person in (team.ada, team.bob):
            person.at_work().write(
                "inventory.toml",
                f'known_hosts = "{sshd.known_hosts}"\n[hosts.h1]\naddress = "127.0.0.1"\n'
                f'port = {sshd.port}\nkey = "{sshd.directory}/id_ed25519"\n',
            )
        (sshd.home / "shared").mkdir()
        _through(team, f"ssh://h1{sshd.home}/shared")


def test_a_team_may_share_through_a_bucket(team: Team, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new_bucket(s3, "team-test", monkeypatch)
    _through(team, "s3://team-test/prefix")


def test_a_repair_fetches_what_a_remote_has(team: Team) -> None:
    run = team.made()
    layout = team.ada.store.layout
    model = Path(os.path.realpath(layout.run(RunHash(run)) / "outputs" / "model.bin"))
    write(model, b"bad")
    done = team.ada.repro("verify", "--repair")
    assert "made whole again" in done.out, done.out + done.err
    assert team.ada.repro("verify").code == 0
    assert team.ada.run()[-1]["cached"] is True
    assert model.read_bytes() == bytes(range(256)) * 1000

"""A team: two people with their own homes, stores, keys and checkouts, and one remote between them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import RunHash, canonical, sha256_hex
from repro_est.errors import RemoteError, ReproError
from repro_est.share.directory import DirectoryRemote
from repro_est.share.keys import RUN_PAYLOAD, Key, KeyRing, sign
from repro_est.share.push import push
from repro_est.share.remote import Told, Upload
from repro_est.share.settings import RemoteSpec
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.verify import verify
from tests.conftest import Done, Workshop

SCRIPT = """
import json, os, sys
os.makedirs("outputs/parts", exist_ok=True)
open("outputs/model.bin", "wb").write(bytes(range(256)) * 1000)
for n in range(40):
    open(f"outputs/parts/{n}", "w").write(str(n))
json.dump({"loss": 0.25}, open("outputs/metrics.json", "w"))
print("lr", sys.argv)
"""
RECIPE = 'script_params = { "--lr" = 0.1 }'


class Person:
    """One of the team: a home with a key, a checkout and a store of their own."""

    def __init__(self, name: str, root: Path, workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
        self.name, self.home, self.root = name, root / f"home-{name}", root / f"work-{name}" / "project"
        self._workshop, self._patch = workshop, patch
        self.home.mkdir()
        self.root.mkdir(parents=True)

    def at_work(self) -> Workshop:
        """Everything from now on is done by this person."""
        self._patch.setenv("XDG_CONFIG_HOME", str(self.home / ".config"))
        self._patch.delenv("REPRO_KEY", raising=False)
        self._patch.chdir(self.root)
        self._workshop.root = self.root
        return self._workshop

    def repro(self, *words: str) -> Done:
        return self.at_work().repro(*words)

    def run(self, *words: str) -> list[dict[str, Any]]:
        done = self.repro("run", "job.toml", "--json", *words)
        assert done.code == 0, done.out + done.err
        return [json.loads(line) for line in done.out.splitlines()]

    @property
    def store(self) -> Store:
        return Store.open(self.root / "cache")

    def check_out(self, remote: Path, more: str = "") -> None:
        self.at_work().recipe(SCRIPT, estimator=RECIPE)
        self.at_work().write("repro.toml", f'[remotes.team]\nurl = "file://{remote}"\n{more}')

    def has_executed(self, run: str) -> bool:
        """Whether an attempt was made here, not fetched."""
        records = Runs(self.store.layout).recorded(RunHash(run))
        return any("fetched" not in record.facts for record in records)


class Team:
    def __init__(self, root: Path, workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
        self.remote = root / "remote"
        self.remote.mkdir()
        self.ada, self.bob = (Person(name, root, workshop, patch) for name in ("ada", "bob"))
        for person in (self.ada, self.bob):
            person.check_out(self.remote)
            assert person.repro("key", "generate", person.name).code == 0
        text = self.ada.repro("key", "show").out.strip()
        for person in (self.ada, self.bob):
            assert person.repro("key", "trust", "ada", text).code == 0

    def made(self) -> str:
        """Ada runs the recipe and pushes it; returns its hash."""
        run = str(self.ada.run()[-1]["run_hash"])
        done = self.ada.repro("push", "@")
        assert done.code == 0, done.err
        return run

    def statement(self, run: str) -> Path:
        return next((self.remote / "runs" / run).iterdir())

    def payload(self, run: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(base64.b64decode(json.loads(self.statement(run).read_bytes())["payload"]))
        return content

    def forget_at_ada(self) -> None:
        shutil.rmtree(self.ada.root / "cache")


@pytest.fixture
def team(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    yield Team(tmp_path, workshop, monkeypatch)
    os.umask(0o022)


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


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


# ---- attacks: each is refused by name, kept, and the run executes


def _refused(team: Team, run: str, reason: str) -> None:
    """Bob asks for the run: he is told why it is not used, it is kept, and he executes it."""
    plan = team.bob.repro("plan", "job.toml", "--json")
    events = team.bob.run()
    told = [event["reason"] for event in events if event["event"] == "refused"]
    assert told, events
    assert reason in told[0]
    assert f"runs/{run}/" in told[0]
    assert events[-1]["cached"] is False
    assert team.bob.has_executed(run)
    kept = [json.loads(path.read_bytes()) for path in (team.bob.root / "cache/quarantine").glob("remote-*/reason.json")]
    assert any(reason in item["reason"] for item in kept)
    assert plan.code in (0, 10)
    assert verify(team.bob.store).findings == []


def test_a_record_that_is_not_signed_is_refused(team: Team) -> None:
    run = team.made()
    envelope = json.loads(team.statement(run).read_bytes())
    _write(team.statement(run), json.dumps({**envelope, "signatures": []}).encode())
    _refused(team, run, "is not signed")


def test_a_record_of_somebody_who_is_not_trusted_is_refused(team: Team) -> None:
    run = team.made()
    payload = {**team.payload(run), "builder": Key.generate("x").id}
    mallory = Key.generate("mallory")
    payload["builder"] = mallory.id
    data = json.dumps(sign(mallory, RUN_PAYLOAD, canonical(payload))).encode()
    team.statement(run).unlink()
    (team.remote / "runs" / run / f"{mallory.id}.json").write_bytes(data)
    _refused(team, run, "not trusted here")


def test_a_record_whose_numbers_were_changed_is_refused(team: Team) -> None:
    run = team.made()
    envelope = json.loads(team.statement(run).read_bytes())
    payload = canonical({**team.payload(run), "metrics": {"loss": 0.0}})
    _write(team.statement(run), json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}).encode())
    _refused(team, run, "changed since")


def test_a_record_that_was_cut_off_is_refused(team: Team) -> None:
    run = team.made()
    _write(team.statement(run), team.statement(run).read_bytes()[:100])
    _refused(team, run, "cut off")


def test_two_valid_records_swapped_are_refused(team: Team) -> None:
    run = team.made()
    other = team.ada.run("--set", "script_params.--lr=0.2")[-1]["run_hash"]
    team.ada.repro("push", other)
    one, two = team.statement(run).read_bytes(), team.statement(other).read_bytes()
    _write(team.statement(run), two)
    _write(team.statement(other), one)
    _refused(team, run, f"is a statement about run {other}")


def test_a_record_under_the_name_of_another_key_is_refused(team: Team) -> None:
    run = team.made()
    statement = team.statement(run)
    statement.rename(statement.with_name(f"{'0' * 16}.json"))
    _refused(team, run, "under the name of another key")


def test_an_output_that_was_changed_is_refused(team: Team) -> None:
    run = team.made()
    target = team.remote / "objects"
    path = max((item for item in target.rglob("*") if item.is_file()), key=lambda item: item.stat().st_size)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    _write(path, bytes(data))
    _refused(team, run, "was changed: expected sha256")


def test_an_output_that_was_cut_off_is_refused(team: Team) -> None:
    run = team.made()
    path = max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    _write(path, path.read_bytes()[:-1])
    _refused(team, run, "expected 256,000 bytes, got 255,999")


def test_an_output_that_does_not_end_is_cut_short_and_refused(team: Team) -> None:
    run = team.made()
    path = max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    _write(path, path.read_bytes() * 20)
    _refused(team, run, "got more than 256,000")


def test_an_output_that_is_missing_is_refused(team: Team) -> None:
    run = team.made()
    max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size).unlink()
    _refused(team, run, "is not in the remote")


def test_a_pack_that_was_changed_is_refused(team: Team) -> None:
    run = team.made()
    pack = next(path for path in (team.remote / "packs").iterdir() if path.suffix != ".index")
    data = bytearray(pack.read_bytes())
    data[3] ^= 1
    _write(pack, bytes(data))
    _refused(team, run, "was changed: it does not hold")


def test_a_manifest_that_was_changed_is_refused(team: Team) -> None:
    run = team.made()
    path = team.remote / "trees" / team.payload(run)["outputs"]["sha256"]
    _write(path, path.read_bytes().replace(b"model.bin", b"model.pkl"))
    _refused(team, run, "manifest was changed")


def test_two_manifests_swapped_are_refused(team: Team) -> None:
    run = team.made()
    said = team.payload(run)
    one, two = (team.remote / "trees" / said[name]["sha256"] for name in ("outputs", "logs"))
    first, second = one.read_bytes(), two.read_bytes()
    _write(one, second)
    _write(two, first)
    _refused(team, run, "manifest was changed")


def test_a_plan_that_was_changed_is_refused(team: Team) -> None:
    """What it registers and how it is run again is not in the hash; the signature covers it all the same."""
    run = team.made()
    path = team.remote / "plans" / f"{team.payload(run)['record']['sha256']}.json"
    _write(path, path.read_bytes().replace(b'"models": []', b'"models": [ ]'))
    _refused(team, run, "plan.json was changed")


def test_an_old_result_that_was_put_back_is_refused(team: Team) -> None:
    run = team.made()
    old = team.statement(run).read_bytes()
    team.ada.run("--force")
    team.ada.repro("push", run)
    assert team.payload(run)["revision"] == 1
    team.bob.run()
    shutil.rmtree(team.bob.root / "cache" / "runs")
    _write(team.statement(run), old)
    _refused(team, run, "was put back: it is revision 0")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("l\t-\t-\t-\tlink\t/etc/passwd\n", "leaves the directory"),
        ("l\t-\t-\t-\ta/link\t../../x\n", "leaves the directory"),
        ("f\t{0}\t3\t{1}\t../../escaped\n", "stays inside"),
        ("f\t{0}\t3\t{1}\t/tmp/escaped\n", "stays inside"),
        ("l\t-\t-\t-\tzz\tparts\nf\t{0}\t3\t{1}\tzz/x\n", "which is no directory"),
    ],
)
def test_a_signed_manifest_that_leaves_its_directory_is_refused(line: str, reason: str, team: Team) -> None:
    """Somebody who is trusted may be mistaken, or their machine may not be theirs any more."""
    from repro_est.digest import TreeHash, tagged, xxh3_hex

    run = team.made()
    said = team.payload(run)
    data = (team.remote / "trees" / said["outputs"]["sha256"]).read_bytes().decode()
    body = data.split("\n", 1)[1] + line.format(xxh3_hex(b"abc"), sha256_hex(b"abc"))
    body = "".join(sorted(body.splitlines(keepends=True), key=lambda item: item.split("\t")[4].rstrip("\n").encode()))
    manifest = f"repro-tree 1\n{body}".encode()
    identity = "".join(
        "\t".join([*item.split("\t")[:3], "-", *item.split("\t")[4:]]) for item in body.splitlines(keepends=True)
    )
    tree = TreeHash(tagged("repro:tree:1", identity.encode()))
    said["outputs"] = {"tree": tree, "sha256": sha256_hex(manifest)}
    (team.remote / "trees" / said["outputs"]["sha256"]).write_bytes(manifest)
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    _write(team.statement(run), json.dumps(sign(key, RUN_PAYLOAD, canonical(said))).encode())
    _refused(team, run, reason)
    assert not (team.bob.root / "cache/runs/escaped").exists()


def test_a_signed_statement_of_another_plan_is_refused(team: Team) -> None:
    run = team.made()
    said = {**team.payload(run), "plan_sha256": "0" * 64}
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    _write(team.statement(run), json.dumps(sign(key, RUN_PAYLOAD, canonical(said))).encode())
    _refused(team, run, "is of another plan")


def test_who_is_distrusted_is_believed_no_longer(team: Team) -> None:
    run = team.made()
    team.bob.repro("key", "distrust", "ada")
    _refused(team, run, "not trusted here")


def test_a_remote_may_believe_fewer_people_than_the_project(team: Team) -> None:
    run = team.made()
    bob = team.bob.repro("key", "show").out.strip()
    team.bob.repro("key", "trust", "bob", bob)
    team.bob.check_out(team.remote, 'trust = ["bob"]\n')
    _refused(team, run, "not trusted here")


def test_a_good_record_beside_a_bad_one_is_used(team: Team) -> None:
    run = team.made()
    (team.remote / "runs" / run / f"{'0' * 16}.json").write_bytes(b"junk")
    events = team.bob.run()
    assert events[-1]["cached"] is True
    assert [event for event in events if event["event"] == "refused"]


def test_what_is_refused_again_is_kept_once(team: Team) -> None:
    run = team.made()
    _write(team.statement(run), b"junk")
    for _ in range(3):
        team.bob.repro("plan", "job.toml")
    assert len(list((team.bob.root / "cache/quarantine").iterdir())) == 1


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
    assert team.ada.repro("push", run).code == 2  # it is no result any more
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

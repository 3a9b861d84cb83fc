"""What somebody may do who can write to a remote: each is refused by name and kept, and the run executes."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from repro_est.digest import canonical, sha256_hex
from repro_est.share.keys import RUN_PAYLOAD, Key, KeyRing, sign
from repro_est.store.verify import verify
from tests.conftest import Workshop
from tests.team import Team, write


@pytest.fixture
def team(tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Team:
    return Team(tmp_path, workshop, monkeypatch)


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
    write(team.statement(run), json.dumps({**envelope, "signatures": []}).encode())
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
    write(team.statement(run), json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}).encode())
    _refused(team, run, "changed since")


def test_a_record_that_was_cut_off_is_refused(team: Team) -> None:
    run = team.made()
    write(team.statement(run), team.statement(run).read_bytes()[:100])
    _refused(team, run, "cut off")


def test_two_valid_records_swapped_are_refused(team: Team) -> None:
    run = team.made()
    other = team.ada.run("--set", "script_params.--lr=0.2")[-1]["run_hash"]
    team.ada.repro("push", other)
    one, two = team.statement(run).read_bytes(), team.statement(other).read_bytes()
    write(team.statement(run), two)
    write(team.statement(other), one)
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
    write(path, bytes(data))
    _refused(team, run, "was changed: expected sha256")


def test_an_output_that_was_cut_off_is_refused(team: Team) -> None:
    run = team.made()
    path = max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    write(path, path.read_bytes()[:-1])
    _refused(team, run, "expected 256,000 bytes, got 255,999")


def test_an_output_that_does_not_end_is_cut_short_and_refused(team: Team) -> None:
    run = team.made()
    path = max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    write(path, path.read_bytes() * 20)
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
    write(pack, bytes(data))
    _refused(team, run, "was changed: it does not hold")


def test_a_manifest_that_was_changed_is_refused(team: Team) -> None:
    run = team.made()
    path = team.remote / "trees" / team.payload(run)["outputs"]["sha256"]
    write(path, path.read_bytes().replace(b"model.bin", b"model.pkl"))
    _refused(team, run, "manifest was changed")


def test_two_manifests_swapped_are_refused(team: Team) -> None:
    run = team.made()
    said = team.payload(run)
    one, two = (team.remote / "trees" / said[name]["sha256"] for name in ("outputs", "logs"))
    first, second = one.read_bytes(), two.read_bytes()
    write(one, second)
    write(two, first)
    _refused(team, run, "manifest was changed")


def test_a_plan_that_was_changed_is_refused(team: Team) -> None:
    """What it registers and how it is run again is not in the hash; the signature covers it all the same."""
    run = team.made()
    path = team.remote / "plans" / f"{team.payload(run)['record']['sha256']}.json"
    write(path, path.read_bytes().replace(b'"models": []', b'"models": [ ]'))
    _refused(team, run, "plan.json was changed")


def test_an_old_result_that_was_put_back_is_refused(team: Team) -> None:
    run = team.made()
    old = team.statement(run).read_bytes()
    team.ada.run("--force")
    team.ada.repro("push", run)
    assert team.payload(run)["revision"] == 1
    team.bob.run()
    shutil.rmtree(team.bob.root / "cache" / "runs")
    write(team.statement(run), old)
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
    write(team.statement(run), json.dumps(sign(key, RUN_PAYLOAD, canonical(said))).encode())
    _refused(team, run, reason)
    assert not (team.bob.root / "cache/runs/escaped").exists()


def test_a_signed_statement_of_another_plan_is_refused(team: Team) -> None:
    run = team.made()
    said = {**team.payload(run), "plan_sha256": "0" * 64}
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    write(team.statement(run), json.dumps(sign(key, RUN_PAYLOAD, canonical(said))).encode())
    _refused(team, run, "is of another plan")


def test_a_signed_statement_of_an_attempt_that_failed_is_refused(team: Team) -> None:
    run = team.made()
    said = team.payload(run)
    said["attempt"]["status"] = "failed"
    key = KeyRing(team.ada.home / ".config/repro/keys").load("ada")
    write(team.statement(run), json.dumps(sign(key, RUN_PAYLOAD, canonical(said))).encode())
    _refused(team, run, "its attempt is failed")


def test_a_pipe_in_place_of_an_output_keeps_nobody(team: Team) -> None:
    run = team.made()
    path = max((p for p in (team.remote / "objects").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.unlink()
    os.mkfifo(path)
    events = team.bob.run()
    assert events[-1]["cached"] is False
    assert any("is no file" in event.get("message", "") for event in events)
    assert team.bob.has_executed(run)


def test_a_thousand_junk_records_do_not_hide_a_good_one(team: Team) -> None:
    run = team.made()
    for number in range(1000):
        (team.remote / "runs" / run / f"{number:016x}.json").write_bytes(b"junk")
    events = team.bob.run()
    assert events[-1]["cached"] is True
    assert len([event for event in events if event["event"] == "refused"]) < 100


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
    write(team.statement(run), b"junk")
    for _ in range(3):
        team.bob.repro("plan", "job.toml")
    assert len(list((team.bob.root / "cache/quarantine").iterdir())) == 1

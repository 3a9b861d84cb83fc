"""The record side: attempts, the commit, hits, short names, the index, leases, models, verification, sweeping."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import RunHash, canonical, identify, sha256_hex, xxh3_hex
from repro_est.errors import InfrastructureError, UsageError, VerificationError
from repro_est.store.index import Index
from repro_est.store.leases import Leases
from repro_est.store.models import Model, Models
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.sweep import sweep
from repro_est.store.trees import Entry, Kind, Tree
from repro_est.store.verify import verify
from tests.faults import crash_everywhere


def keep(store: Store, **files: str) -> Tree:
    with store.batch() as batch:
        for text in files.values():
            batch.put(text.encode(), xxh3_hex(text.encode()))
        batch.publish()
    tree = Tree.of(
        Entry(name, Kind.FILE, xxh3_hex(text.encode()), len(text), sha256_hex(text.encode()))
        for name, text in files.items()
    )
    store.write_tree(tree)
    return tree


def begin(
    store: Store, number: int = 1, *, name: str = "job", tags: dict[str, str] | None = None
) -> tuple[RunHash, int]:
    source = keep(store, **{"train.py": "print(1)\n"})
    document = {"format": 1, "n": number, "source": source.hash, "environment": {}}
    run = RunHash(identify("repro:plan:1", document))
    runs = Runs(store.layout)
    runs.write_plan(run, {"format": 1, "plan": document, "recorded": {"name": name, "tags": tags or {}}})
    attempt, _ = runs.begin(run)
    return run, attempt


def attempt(number: int, status: Status, started: str = "2026-01-01T00:00:00.000Z") -> AttemptRecord:
    return AttemptRecord(number, status, started, "" if status is Status.RUNNING else started)


def commit(store: Store, run: RunHash, number: int, text: str = "weights", **metrics: float) -> Result:
    outputs, logs = keep(store, model=text), keep(store)
    runs = Runs(store.layout)
    for name, tree in (("outputs", outputs), ("logs", logs)):
        place = store.layout.attempt(run, number) / name
        if not place.exists() or name == "logs":
            if name == "logs" and place.is_dir() and not os.listdir(place):
                place.rmdir()
            store.view(tree, place)
    result = Result(
        run, number, outputs.hash, logs.hash, metrics, "2026-01-01T00:00:01.000Z", "e",
        sha256_hex(canonical(runs.plan(run)["plan"])), "linux-64",
    )  # fmt: skip
    runs.commit(run, result)
    return result


def finished(
    store: Store,
    number: int = 1,
    *,
    started: str = "2026-01-01T00:00:00.000Z",
    name: str = "job",
    tags: dict[str, str] | None = None,
    **metrics: float,
) -> RunHash:
    run, n = begin(store, number, name=name, tags=tags)
    Runs(store.layout).write_attempt(run, attempt(n, Status.COMPLETED, started))
    commit(store, run, n, **metrics)
    return run


def test_a_committed_run_is_a_hit_with_its_metrics(store: Store) -> None:
    run = finished(store, accuracy=0.5, loss=math.inf, worst=math.nan)
    result = Runs(store.layout).hit(run)
    assert result is not None
    assert (result.metrics["accuracy"], result.metrics["loss"]) == (0.5, math.inf)
    assert math.isnan(result.metrics["worst"])
    assert (store.layout.run(run) / "outputs" / "model").read_text() == "weights"
    json.loads(store.layout.result(run).read_text(), parse_constant=pytest.fail)


def test_attempts_count_up_and_never_overwrite(store: Store) -> None:
    run, first = begin(store)
    numbers = [Runs(store.layout).begin(run)[0] for _ in range(3)]
    assert [first, *numbers] == [1, 2, 3, 4]


def test_a_failed_attempt_is_no_hit(store: Store) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.FAILED))
    assert Runs(store.layout).hit(run) is None
    assert [item.status for item in Runs(store.layout).attempts(run)] == [Status.FAILED]


@pytest.mark.parametrize("damage", ["missing blob", "short blob", "changed blob", "no json", "other run", "tree gone"])
def test_a_result_that_is_not_whole_is_set_aside_and_no_hit(store: Store, damage: str) -> None:
    run = finished(store)
    runs = Runs(store.layout)
    result = runs.result(run)
    assert result is not None
    blob = store.layout.blob(store.read_tree(result.outputs).entries[0].xxh3)
    match damage:
        case "missing blob":
            blob.unlink()
        case "short blob":
            blob.chmod(0o644)
            blob.write_bytes(b"w")
        case "changed blob":
            blob.chmod(0o644)
            blob.write_bytes(b"Weights")
        case "no json":
            store.layout.result(run).write_text("{")
        case "other run":
            content = json.loads(store.layout.result(run).read_text())
            store.layout.result(run).write_text(json.dumps({**content, "run_hash": "0" * 32}))
        case "tree gone":
            store.layout.tree(result.outputs).unlink()
    reasons: list[str] = []
    assert runs.hit(run, on_quarantine=reasons.append) is None
    assert len(reasons) == 1
    (place,) = store.layout.directory("quarantine").glob("run-*")
    told = json.loads((place / "reason.json").read_text())
    assert (told["kind"], told["name"], told["reason"]) == ("run", run, reasons[0])
    assert not store.layout.result(run).exists()
    assert runs.attempts(run)


def test_a_hit_reads_only_what_moved_since_it_was_last_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(store)
    runs, read = Runs(store.layout), list[str]()
    is_good = Store.is_good
    monkeypatch.setattr(Store, "is_good", lambda self, entry: read.append(entry.path) or is_good(self, entry))

    def hit() -> list[str]:
        read.clear()
        assert runs.hit(run) is not None
        return list(read)

    assert hit() == hit() == ["model"]  # written less than two seconds ago: it may change within one time stamp
    time.sleep(2.1)
    assert (hit(), hit()) == (["model"], [])
    result = runs.result(run)
    assert result is not None
    blob = store.layout.blob(store.read_tree(result.outputs).entries[0].xxh3)
    os.link(blob, store.layout.root / "another view")
    assert hit() == ["model"]
    blob.chmod(0o644)
    blob.write_bytes(b"Weights")
    assert runs.hit(run) is None
    assert not blob.exists()


def test_a_kill_at_any_point_of_a_commit_leaves_the_old_or_the_new_state(store: Store) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.COMPLETED))
    commit(store, run, number, text="old")
    second, _ = Runs(store.layout).begin(run)
    Runs(store.layout).write_attempt(run, attempt(second, Status.COMPLETED))
    old = Runs(store.layout).result(run)

    deaths = 0
    for _ in crash_everywhere(lambda: commit(store, run, second, text="new") and None):
        deaths += 1
        result = Runs(store.layout).hit(run)
        assert result is not None
        assert result == old or result.attempt == second
        for entry in store.read_tree(result.outputs).entries:
            assert xxh3_hex(store.layout.blob(entry.xxh3).read_bytes()) == entry.xxh3
    assert deaths > 15
    assert (store.layout.run(run) / "outputs" / "model").read_text() == "new"


def test_a_first_commit_that_dies_is_never_a_hit_on_half_a_result(store: Store) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.COMPLETED))
    for _ in crash_everywhere(lambda: commit(store, run, number) and None):
        result = Runs(store.layout).hit(run)
        if result is not None:
            assert (store.layout.run(run) / "outputs" / "model").read_text() == "weights"


def test_short_names_resolve_like_git(store: Store) -> None:
    old = finished(store, 1, started="2026-01-01T00:00:00.000Z")
    new = finished(store, 2, started="2026-01-02T00:00:00.000Z")
    runs = Runs(store.layout)
    assert [runs.resolve(text) for text in ("@", "@1", "@2", old, new[:6])] == [new, new, old, old, new]
    for text, message in (
        ("@3", "only 2 runs"),
        ("@x", "a number"),
        ("abc", "too short"),
        ("zzzz", "is no run"),
        ("0" * 8, "no run starts"),
    ):
        with pytest.raises(UsageError, match=message):
            runs.resolve(text)


def test_an_ambiguous_name_lists_the_candidates(store: Store) -> None:
    run = finished(store)
    twin = RunHash(run[:8] + "f" * 24)
    os.rename(store.layout.run(run), store.layout.run(twin))
    finished(store)
    with pytest.raises(UsageError, match="several runs") as caught:
        Runs(store.layout).resolve(run[:8])
    assert twin in str(caught.value)


def test_listings_filter_and_sort(store: Store) -> None:
    a = finished(store, 1, started="2026-01-01T00:00:00.000Z", name="a", tags={"team": "x"}, loss=3.0)
    b = finished(store, 2, started="2026-01-02T00:00:00.000Z", name="b", loss=1.0)
    c, number = begin(store, 3, name="a")
    Runs(store.layout).write_attempt(c, attempt(number, Status.FAILED, "2026-01-03T00:00:00.000Z"))
    index = Index(store.layout)

    def hashes(**filters: Any) -> list[str]:
        return [row.run_hash for row in index.rows(**filters)]

    assert hashes() == [c, b, a]
    assert hashes(limit=1) == [c]
    assert hashes(reverse=True) == [a, b, c]
    assert hashes(name="a") == [c, a]
    assert hashes(status=Status.FAILED) == [c]
    assert hashes(sort="loss") == [b, a]
    assert hashes(sort="loss", reverse=True) == [a, b]
    assert hashes(tag="team=x") == hashes(tag="team") == [a]
    assert hashes(tag='te"am=x') == []


@pytest.mark.parametrize("damage", ["gone", "garbage", "other schema"])
def test_the_index_is_made_anew_when_it_is_not_there(store: Store, damage: str) -> None:
    run = finished(store)
    match damage:
        case "gone":
            store.layout.index.unlink()
        case "garbage":
            store.layout.index.write_bytes(b"not a database" * 100)
        case "other schema":
            store.layout.index.unlink()
            with sqlite3.connect(store.layout.index) as connection:
                connection.execute("CREATE TABLE runs (x)")
    assert [row.run_hash for row in Index(store.layout).rows()] == [run]


def test_runs_that_come_and_go_by_another_way_are_noticed(store: Store, tmp_path: Path) -> None:
    first = finished(store, 1)
    other = Store.open(tmp_path / "other")
    second = finished(other, 2)
    assert len(Index(store.layout).rows()) == 1
    os.rename(other.layout.run(second), store.layout.run(second))
    assert {row.run_hash for row in Index(store.layout).rows()} == {first, second}
    os.rename(store.layout.run(first), tmp_path / "away")
    assert {row.run_hash for row in Index(store.layout).rows()} == {second}


def test_a_running_attempt_is_read_again_when_it_is_shown(store: Store) -> None:
    run, number = begin(store)
    runs = Runs(store.layout)
    runs.write_attempt(run, attempt(number, Status.RUNNING))
    with Leases(store.layout).hold(f"run-{run}"):
        assert Index(store.layout).rows()[0].status is Status.RUNNING
    path = store.layout.attempt(run, number) / "attempt.json"
    path.write_text(json.dumps(attempt(number, Status.FAILED).to_json()))
    assert Index(store.layout).rows()[0].status is Status.FAILED


def test_many_writers_lose_no_run(store: Store) -> None:
    def work(start: int) -> None:
        for number in range(start, start + 5):
            finished(store, number)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Index(store.layout).rows()) == 20


HOLDER = """
import sys, time
from pathlib import Path
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
with Leases(Layout(Path(sys.argv[1]))).hold("x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(store: Store) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.layout.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_and_is_told_for_whom(store: Store) -> None:
    process = holder(store)
    owners: list[int] = []
    threading.Timer(0.3, process.communicate).start()
    with Leases(store.layout).hold("x", on_wait=lambda owner: owners.append(owner.pid)):
        pass
    assert owners == [process.pid]


def test_a_lease_that_is_not_free_in_time_names_its_owner(store: Store) -> None:
    process = holder(store)
    with pytest.raises(InfrastructureError, match=f"pid {process.pid}"), Leases(store.layout).hold("x", timeout=0.1):
        pass
    process.communicate()


def test_a_killed_owner_holds_nothing(store: Store) -> None:
    process = holder(store)
    assert Leases(store.layout).is_held("x")
    process.kill()
    process.wait()
    assert not Leases(store.layout).is_held("x")
    with Leases(store.layout).hold("x", timeout=1):
        pass


def model(tree: Tree, name: str = "net") -> Model:
    return Model(name, 0, RunHash("0" * 32), "outputs/m", tree.hash, "2026-01-01T00:00:00Z")


def test_the_same_bytes_are_the_same_version(store: Store) -> None:
    registry = Models(store.layout)
    one, two = keep(store, m="1"), keep(store, m="2")
    assert [registry.register(model(tree)).version for tree in (one, two, one, two)] == [1, 2, 1, 2]
    assert registry.get("net", 2).tree == two.hash
    with pytest.raises(UsageError, match="has: 1, 2"):
        registry.get("net", 3)
    with pytest.raises(UsageError, match="registered ones: net"):
        registry.get("nut", 1)


def test_registering_at_once_gives_every_model_a_version(store: Store) -> None:
    trees = [keep(store, m=str(number)) for number in range(12)]
    threads = [threading.Thread(target=Models(store.layout).register, args=(model(tree),)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.version for item in Models(store.layout).versions("net")] == list(range(1, 13))


def test_a_record_of_another_model_is_refused(store: Store) -> None:
    Models(store.layout).register(model(keep(store, m="1")))
    path = store.layout.model("net", 1)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"net"', '"nut"'))
    with pytest.raises(VerificationError, match="says it is nut"):
        Models(store.layout).versions("net")


def test_a_good_store_verifies(store: Store) -> None:
    finished(store)
    report = verify(store)
    assert report.findings == []
    assert (report.runs, report.blobs) == (1, 2)


@pytest.mark.parametrize("damage", ["blob", "tree", "plan", "result", "package"])
def test_verify_names_what_was_tampered_with_and_repair_sets_it_aside(store: Store, damage: str) -> None:
    run = finished(store)
    result = Runs(store.layout).result(run)
    assert result is not None
    entry = store.read_tree(result.outputs).entries[0]
    package = store.layout.package("f" * 64, "x.whl")  # type: ignore[arg-type]
    path, kind = {
        "blob": (store.layout.blob(entry.xxh3), "blob"),
        "tree": (store.layout.tree(result.outputs), "tree"),
        "plan": (store.layout.plan(run), "run"),
        "result": (store.layout.result(run), "run"),
        "package": (package, "package"),
    }[damage]
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.chmod(0o644)
        data = path.read_bytes()
        path.write_bytes(
            data.replace(b"weights", b"weight5")
            .replace(b'"n": 1', b'"n": 2')
            .replace(b"model", b"modem")
            .replace(b'plan_sha256": "', b'plan_sha256": "0')
        )
    else:
        path.write_bytes(b"evil")
    findings = verify(store).findings
    assert kind in {finding.kind for finding in findings}
    assert verify(store, repair=True).findings
    assert not path.exists()
    assert any(store.layout.directory("quarantine").iterdir())


def test_a_metric_that_was_changed_in_the_record_is_found_and_not_served(store: Store) -> None:
    run = finished(store, accuracy=0.7)
    path = store.layout.result(run)
    path.write_text(path.read_text().replace("0.7", "0.8"))
    (finding,) = verify(store).findings
    assert (finding.kind, finding.name, finding.path) == ("run", run, path)
    assert "was changed" in finding.message
    assert Runs(store.layout).hit(run) is None


def test_a_result_of_before_it_had_a_digest_is_still_a_hit(store: Store) -> None:
    run = finished(store, accuracy=0.7)
    path = store.layout.result(run)
    content = json.loads(path.read_text())
    del content["xxh3"]
    path.write_text(json.dumps(content))
    assert verify(store).findings == []
    result = Runs(store.layout).hit(run)
    assert result is not None
    assert result.metrics == {"accuracy": 0.7}


def test_a_source_that_is_not_whole_is_found_and_taken_again_after_repair(store: Store, tmp_path: Path) -> None:
    run = finished(store)
    source = store.read_tree(Runs(store.layout).plan(run)["plan"]["source"])
    store.layout.blob(source.entries[0].xxh3).unlink()
    (store.layout.directory("stat") / "x.tree").write_text("{}")
    assert "source: 1 file missing" in str(verify(store, repair=True).findings[0])
    assert os.listdir(store.layout.directory("stat")) == []


def test_verify_of_one_run_looks_at_that_run(store: Store) -> None:
    good, bad = finished(store, 1), finished(store, 2)
    store.layout.plan(bad).write_text("{}")
    assert verify(store, runs=[good]).findings == []
    assert verify(store, runs=[bad]).findings


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(store: Store) -> None:
    dead = store.layout.directory("tmp") / "1-dead"
    (dead / "deep").mkdir(parents=True)
    (dead / "deep" / "file").write_bytes(b"x" * 1000)
    (dead / "deep").chmod(0o500)
    (store.layout.directory("trash") / "old").mkdir()
    long_ago = time.time() - 1000
    os.utime(dead, (long_ago, long_ago))
    part = store.layout.package("a" * 64, ".1.part")  # type: ignore[arg-type]
    part.parent.mkdir()
    part.write_bytes(b"x" * 500)
    os.utime(part, (1, 1))
    fresh = store.layout.directory("work") / "2-fresh"
    fresh.mkdir()
    finished(store)
    report = sweep(store.layout)
    assert sorted(path.name for path in report.removed) == [".1.part", "1-dead", "old"]
    assert report.size == 1500
    assert fresh.exists()
    assert verify(store).findings == []


def test_an_attempt_whose_process_died_becomes_lost(store: Store) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.RUNNING))
    with Leases(store.layout).hold(f"run-{run}"):
        assert sweep(store.layout).lost == ()
    assert sweep(store.layout).lost == (run,)
    assert Index(store.layout).rows()[0].status is Status.LOST


def test_a_running_attempt_that_nobody_executes_is_shown_as_lost(store: Store) -> None:
    run, number = begin(store)
    runs = Runs(store.layout)
    runs.write_attempt(run, attempt(number, Status.RUNNING))

    def shown() -> list[Status]:
        return [runs.attempts(run)[0].status, *(row.status for row in Index(store.layout).rows())]

    with Leases(store.layout).hold(f"run-{run}"):
        assert shown() == [Status.RUNNING, Status.RUNNING]
    assert shown() == [Status.LOST, Status.LOST]
    assert [row.run_hash for row in Index(store.layout).rows(status=Status.LOST)] == [run]
    assert Index(store.layout).rows(status=Status.RUNNING) == []
    assert sweep(store.layout).lost == (run,)  # only that writes it down


def test_a_filter_for_a_state_knows_the_state_of_now(store: Store) -> None:
    run, number = begin(store)
    with Leases(store.layout).hold(f"run-{run}"):
        Runs(store.layout).write_attempt(run, attempt(number, Status.RUNNING))
        assert [row.run_hash for row in Index(store.layout).rows(status=Status.RUNNING)] == [run]
    assert [row.run_hash for row in Index(store.layout).rows(status=Status.LOST)] == [run]


def test_who_only_asks_for_a_lease_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = os.open(store.layout.lease("x"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(asker, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.close(asker))
    waited: list[object] = []
    with Leases(store.layout).hold("x", on_wait=waited.append):
        assert Leases(store.layout).is_held("x")
    assert waited == []


def test_an_attempt_record_reads_back(store: Store) -> None:
    run, number = begin(store)
    record = dataclasses.replace(
        attempt(number, Status.TIMED_OUT), exit_code=None, signal="SIGKILL", facts={"a": [1]}, seconds={"run": 1.5}
    )
    Runs(store.layout).write_attempt(run, record)
    assert Runs(store.layout).attempts(run) == [record]


def test_an_attempt_killed_beside_a_result_is_found_lost_and_the_result_stays(store: Store) -> None:
    run = finished(store, loss=1.0)
    number, _ = Runs(store.layout).begin(run)
    Runs(store.layout).write_attempt(run, attempt(number, Status.RUNNING))
    sweep(store.layout)
    assert [record.status for record in Runs(store.layout).attempts(run)] == [Status.COMPLETED, Status.LOST]
    assert Index(store.layout).rows()[0].status is Status.COMPLETED


def test_an_attempt_killed_before_its_first_record_is_found_lost(store: Store) -> None:
    begin(store)
    sweep(store.layout)
    assert [row.status for row in Index(store.layout).rows()] == [Status.LOST]


def test_an_owner_that_finishes_while_the_sweep_looks_is_not_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.RUNNING))
    is_held = Leases.is_held

    def end_first(self: Leases, name: str) -> bool:
        Runs(store.layout).write_attempt(run, attempt(number, Status.COMPLETED))
        return is_held(self, name)

    monkeypatch.setattr(Leases, "is_held", end_first)
    assert sweep(store.layout).lost == ()
    assert [record.status for record in Runs(store.layout).attempts(run)] == [Status.COMPLETED]


def test_a_commit_the_index_did_not_hear_of_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run, number = begin(store)
    Runs(store.layout).write_attempt(run, attempt(number, Status.COMPLETED))
    with monkeypatch.context() as deaf:
        deaf.setattr(Index, "update", lambda self, run: None)
        commit(store, run, number, loss=1.0)
    assert dict(Index(store.layout).rows()[0].metrics) == {"loss": 1.0}
    assert [row.run_hash for row in Index(store.layout).rows(sort="loss")] == [run]


def test_a_run_that_another_machine_is_still_writing_is_listed_when_it_is_whole(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    run = finished(other)
    store.layout.run(run).mkdir()
    assert Index(store.layout).rows() == []
    shutil.copytree(other.layout.run(run), store.layout.run(run), symlinks=True, dirs_exist_ok=True)
    assert [row.run_hash for row in Index(store.layout).rows()] == [run]


ODD: list[Any] = [None, 1, "x", "../../etc", [], {}, {"a": None}, {"a": "x"}, True]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_records_with_odd_types_are_refused_without_a_traceback(store: Store, odd: Any) -> None:
    run = finished(store)
    for path in (store.layout.attempt(run, 1) / "attempt.json", store.layout.result(run), store.layout.plan(run)):
        good = path.read_text()
        undigested = {key: value for key, value in json.loads(good).items() if key != "xxh3"}
        for key in json.loads(good):
            path.write_text(json.dumps({**undigested, key: odd}))
            Index(store.layout).update(run)
            for row in Index(store.layout).rows():
                row.to_json()
            for record in Runs(store.layout).attempts(run):
                record.to_json()
            verify(store)
            Index(store.layout).rows(tag="a=1")
        path.write_text(good)
    assert verify(store).findings == []


def test_a_name_that_is_no_text_does_not_stop_a_listing(store: Store) -> None:
    run = finished(store)
    plan = store.layout.plan(run)
    plan.write_text(plan.read_text().replace('"job"', r'"\udcff"'))
    store.layout.index.unlink()
    assert [row.name for row in Index(store.layout).rows()] == [r"\udcff"]


def test_what_is_no_run_in_runs_is_named_and_not_listed(store: Store) -> None:
    run = finished(store)
    (store.layout.directory("runs") / ".DS_Store").write_text("")
    (store.layout.directory("runs") / "notes").mkdir()
    assert [row.run_hash for row in Index(store.layout).rows()] == [run]
    assert [str(finding) for finding in verify(store).findings] == [
        "run notes: is no run, expected only run hashes here"
    ]


def test_a_repaired_run_is_listed_without_its_result(store: Store) -> None:
    run = finished(store, loss=1.0)
    path = store.layout.result(run)
    path.write_text(path.read_text().replace('plan_sha256": "', 'plan_sha256": "0'))
    verify(store, repair=True)
    assert [dict(row.metrics) for row in Index(store.layout).rows()] == [{}]

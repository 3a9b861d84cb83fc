"""Cleaning: what something keeps stays whole, what nothing keeps goes, and nobody who works meanwhile loses a byte."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro_est.digest import RunHash, canonical, identify, sha256_hex, xxh3_hex
from repro_est.errors import ReproError, UsageError
from repro_est.project import Keeping, parse_size
from repro_est.registration import register_output
from repro_est.store import freshness, gc
from repro_est.store.gc import collect, preview
from repro_est.store.keepers import keepers
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.models import Model, Models
from repro_est.store.notes import TAG, write_notes
from repro_est.store.packs import PACK_FROM, Packs
from repro_est.store.pins import Pins
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree
from repro_est.store.verify import verify
from tests.conftest import Workshop
from tests.faults import crash_everywhere

DAY = 24 * 3600.0
NOTHING = Keeping(keep_days=0, keep_last=0)
"""Keeps only what is named, and what was used within a day."""


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


def finished(
    store: Store,
    number: int,
    *,
    name: str = "job",
    source: str = "print(1)\n",
    output: str | None = None,
    inputs: tuple[RunHash, ...] = (),
    lock: str = "",
    environment: str = "",
) -> RunHash:
    """A completed run; of what it wrote, one file is its own and one is that of all runs."""
    runs, tree = Runs(store.layout), keep(store, **{"train.py": source})
    pinned = {f"in{place}": store.read_tree(runs_result(store, run).outputs).hash for place, run in enumerate(inputs)}
    document = {"format": 1, "n": number, "source": tree.hash, "environment": {}, "inputs": pinned}
    run = RunHash(identify("repro:plan:1", document))
    origins = [
        {"name": f"in{place}", "tree": pinned[f"in{place}"], "copy": False, "origin": {"run": item, "path": "outputs"}}
        for place, item in enumerate(inputs)
    ]
    recorded = {"name": name, "tags": {}, "inputs": origins, "lock": lock}
    runs.write_plan(run, {"format": 1, "plan": document, "recorded": recorded})
    attempt, directory = runs.begin(run)
    outputs = keep(store, model=output if output is not None else f"weights {number}", same="of every run")
    logs = keep(store, log=f"log {number % 3}")
    (directory / "logs").rmdir()
    for part, what in (("outputs", outputs), ("logs", logs)):
        store.view(what, directory / part)
    when = "2026-01-01T00:00:00.000Z"
    runs.write_attempt(run, AttemptRecord(attempt, Status.COMPLETED, when, when, outputs=outputs.hash, logs=logs.hash))
    runs.commit(
        run,
        Result(
            run, attempt, outputs.hash, logs.hash, {}, when, environment, sha256_hex(canonical(document)), "linux-64"
        ),
    )
    return run


def runs_result(store: Store, run: RunHash) -> Result:
    result = Runs(store.layout).result(run)
    assert result is not None
    return result


def age(store: Store, days: float, *runs: RunHash) -> None:
    """Makes runs, or the whole store, as old as if nobody had used it for so many days."""
    when = time.time() - days * DAY
    if runs:
        for run in runs:
            os.utime(store.layout.run(run), (when, when))
        return
    for directory, names, files in os.walk(store.layout.root):
        for name in (*names, *files):
            os.utime(Path(directory) / name, (when, when), follow_symlinks=False)


def there(store: Store) -> set[str]:
    return set(os.listdir(store.layout.directory("runs")))


def blobs(store: Store) -> int:
    return sum(path.is_file() for path in store.layout.directory("blobs").rglob("*"))


def is_hit(store: Store, run: RunHash) -> bool:
    return Runs(store.layout).hit(run) is not None


def test_what_nothing_keeps_goes_with_all_that_only_it_needed(store: Store) -> None:
    old, young = finished(store, 1), finished(store, 2)
    age(store, 100)
    age(store, 2, young)
    report = collect(store.layout, Keeping(keep_last=0))
    assert [facts.run for facts in report.runs] == [old]
    assert there(store) == {young}
    assert is_hit(store, young)
    assert blobs(store) == 4  # source, model, same, log
    assert verify(store).findings == []
    assert not os.listdir(store.layout.directory("trash"))


def test_a_preview_says_what_a_collection_removes_and_removes_nothing(store: Store) -> None:
    for number in range(4):
        finished(store, number)
    age(store, 100)
    before = sorted(str(path) for path in store.layout.root.rglob("*") if "leases" not in str(path))
    said = preview(store.layout, NOTHING)
    assert sorted(str(path) for path in store.layout.root.rglob("*") if "leases" not in str(path)) == before
    done = collect(store.layout, NOTHING)
    assert said.to_json() == done.to_json()
    assert said.count > 4


@pytest.mark.parametrize("root", ["model", "pin", "tag", "executed", "at hosts", "young", "last", "unreadable"])
def test_every_root_keeps_its_run_and_what_it_was_made_of(store: Store, root: str) -> None:
    first = finished(store, 1, name="first")
    second = finished(store, 2, name="second", inputs=(first,))
    other = finished(store, 3, name="second")
    runs, keeping = Runs(store.layout), NOTHING
    match root:
        case "model":
            tree = store.read_tree(runs_result(store, second).outputs)
            Models(store.layout).register(Model("m", 0, second, "outputs", tree.hash, "2026-01-01T00:00:00Z"))
        case "pin":
            Pins(store.layout).add(second, "the paper")
        case "tag":
            write_notes(store.layout, second, [(TAG, "keep", "")])
        case "at hosts":
            (store.layout.attempt(second, 1) / "hosts.json").write_text("{}")
        case "unreadable":
            store.layout.result(second).write_text("{")
    age(store, 100)
    match root:
        case "young":
            age(store, 3, second)
            keeping = Keeping(keep_days=5, keep_last=0)
        case "last":
            age(store, 99, second)
            keeping = Keeping(keep_days=5, keep_last=1)
    if root == "executed":
        with Leases(store.layout).hold(f"run-{second}"):
            collect(store.layout, keeping)
    else:
        collect(store.layout, keeping)
    assert second in there(store)
    assert other not in there(store)
    if root != "unreadable":
        assert first in there(store)
        assert is_hit(store, first)
        assert is_hit(store, second)
    assert store.read_tree(runs.plan(second)["plan"]["source"])


def test_a_model_outlives_its_run_whatever_may_be_read(store: Store) -> None:
    run = finished(store, 1)
    tree = store.read_tree(runs_result(store, run).outputs)
    model = Models(store.layout).register(Model("m", 0, run, "outputs", tree.hash, "2026-01-01T00:00:00Z"))
    Models(store.layout).promote("m", 1, "production")
    chain = store.layout.aliases("m")
    chain.chmod(0o644)
    chain.write_bytes(chain.read_bytes().replace(b"production", b"staging"))
    age(store, 100)
    assert collect(store.layout, NOTHING).unread
    assert all(store.has_blob(entry) for entry in store.read_tree(model.tree).files())


def test_old_versions_go_only_when_the_settings_say_so_and_never_one_an_alias_named(store: Store) -> None:
    registry = Models(store.layout)
    for number in range(1, 5):
        run = finished(store, number)
        tree = store.read_tree(runs_result(store, run).outputs)
        registry.register(Model("m", 0, run, "outputs", tree.hash, "2026-01-01T00:00:00Z"))
    registry.promote("m", 1, "production")
    registry.promote("m", 2, "production")
    age(store, 100)
    assert preview(store.layout, NOTHING).count == 0
    collect(store.layout, Keeping(keep_days=0, keep_last=0, model_versions=1))
    assert [model.version for model in registry.versions("m")] == [1, 2, 4]
    assert len(there(store)) == 3
    assert verify(store).findings == []


def test_a_run_that_is_found_again_is_young_again(store: Store) -> None:
    run = finished(store, 1)
    age(store, 100)
    assert is_hit(store, run)
    collect(store.layout, NOTHING)
    assert is_hit(store, run)


def test_bytes_that_are_found_to_be_there_are_there_to_stay(store: Store) -> None:
    run = finished(store, 1, output="precious")
    age(store, 100)
    outputs = runs_result(store, run).outputs
    text = b"precious"
    with store.batch() as batch:
        batch.put(text, xxh3_hex(text))
        assert collect(store.layout, NOTHING).runs  # the batch relies on a blob of a run that goes
        batch.publish()
    assert store.layout.blob(xxh3_hex(text)).read_bytes() == text
    assert not store.has_tree(outputs)


def test_what_is_used_while_the_sweep_is_under_way_stays_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = finished(store, 1)
    second = finished(store, 2, inputs=(first,))
    age(store, 100)

    class Late(gc.Marked):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            assert is_hit(store, second)  # after all was marked, before anything is removed

    monkeypatch.setattr(gc, "Marked", Late)
    assert not collect(store.layout, NOTHING).runs
    assert is_hit(store, first)
    assert is_hit(store, second)
    assert verify(store).findings == []


def test_a_tree_that_a_process_holds_stays(store: Store) -> None:
    tree = keep(store, **{"train.py": "held"})
    with freshness.holding(store.layout) as hold:
        hold(tree.hash)
        age(store, 100)
        collect(store.layout, NOTHING)
        assert all(store.has_blob(entry) for entry in store.read_tree(tree.hash).files())
    collect(store.layout, NOTHING)
    assert not store.has_tree(tree.hash)


def test_a_pack_that_is_mostly_dead_is_written_anew(store: Store, tmp_path: Path) -> None:
    files = {f"f{number}": f"content {number}" for number in range(PACK_FROM + 10)}
    keep(store, **files)
    assert blobs(store) == 0
    small = keep(store, f1=files["f1"], f2=files["f2"])
    run = finished(store, 1)
    Pins(store.layout).add(run)
    tree = Models(store.layout).register(Model("m", 0, RunHash(""), "f", small.hash, "2026-01-01T00:00:00Z")).tree
    age(store, 100)
    reader = Store.open(store.layout.root)
    assert all(reader.has_blob(entry) for entry in reader.read_tree(tree).files())  # it has read the old index
    collect(store.layout, NOTHING)
    assert [index.number for index in Packs(store.layout).all()] == [2]
    reader.materialise(reader.read_tree(tree), tmp_path / "copy")
    assert (tmp_path / "copy/f2").read_text() == "content 2"
    assert verify(store).findings == []
    assert len(os.listdir(store.layout.directory("packs"))) == 2


def test_a_kill_at_any_point_leaves_a_store_that_verifies(store: Store) -> None:
    kept = finished(store, 1)
    files = {f"f{number}": f"content {number}" for number in range(PACK_FROM + 10)}
    keep(store, **files)
    for number in range(2, 5):
        finished(store, number)
    small = keep(store, f1=files["f1"])
    Models(store.layout).register(Model("m", 0, RunHash(""), "f", small.hash, "2026-01-01T00:00:00Z"))
    Pins(store.layout).add(kept)
    age(store, 100)
    deaths = 0
    for _ in crash_everywhere(lambda: collect(store.layout, NOTHING) and None):
        deaths += 1
        if deaths % 5 == 0:
            assert verify(store).findings == []
            assert is_hit(store, kept)
    assert deaths > 20
    assert there(store) == {kept}
    assert verify(store).findings == []


def test_files_that_a_kept_lock_names_stay_and_others_go_by_their_age(store: Store) -> None:
    def package(kind: str, number: int) -> Path:
        digest = sha256_hex(str(number).encode())
        path = store.layout.directory(kind) / digest / "a-1.0.whl"
        path.parent.mkdir()
        path.write_bytes(str(number).encode())
        return path

    needed, unneeded, fetched = package("packages", 1), package("packages", 2), package("fetched", 3)
    run = finished(store, 1, lock=f'sha256 = "{needed.parent.name}"')
    Pins(store.layout).add(run)
    age(store, 20)
    collect(store.layout, Keeping(keep_days=30))
    assert unneeded.exists()
    assert fetched.exists()
    collect(store.layout, NOTHING)
    assert needed.exists()
    assert not unneeded.parent.exists()
    assert not fetched.parent.exists()


def test_an_environment_stays_with_its_images_and_their_layers_while_a_run_has_it(store: Store) -> None:
    layout, paths = store.layout, dict[str, list[Path]]()
    for key in ("a" * 32, "b" * 32):
        prefix, layer, note = layout.directory("envs") / key, key * 2, "c" + key * 2
        prefix.mkdir()
        whole = keep(store, **{"bin/python": key})
        (prefix / "env.json").write_text(json.dumps({"tree": whole.hash, "whole": whole.hash}))
        prefix.chmod(0o555)
        record = {"environment": key, "layers": [{"name": "all", "diff_id": layer, "size": 3}]}
        image = layout.directory("images") / f"{key}.json"
        image.write_text(json.dumps(record))
        (layout.directory("images") / f"{key}-tag").symlink_to(image.name)
        (layout.directory("layers") / f"{layer}.tar").write_bytes(b"tar")
        (layout.directory("layers") / f"{note}.json").write_bytes(b"digest\n" + json.dumps({"diff_id": layer}).encode())
        paths[key] = [prefix, image, layout.directory("images") / f"{key}-tag", layout.tree(whole.hash)]
        paths[key] += [layout.directory("layers") / name for name in (f"{layer}.tar", f"{note}.json")]
    Pins(layout).add(finished(store, 1, environment="a" * 32))
    age(store, 100)
    collect(layout, NOTHING)
    assert all(path.exists() for path in paths["a" * 32])
    assert not any(os.path.lexists(path) for path in paths["b" * 32])
    (chain,) = keepers(layout, NOTHING, "a" * 64)[:1]
    assert chain[-1].endswith("it is pinned")


def test_a_quota_takes_the_oldest_first_and_no_more_than_it_must(store: Store) -> None:
    runs = [finished(store, number, output=f"{number}" * 10_000) for number in range(1, 7)]
    Pins(store.layout).add(runs[0])
    age(store, 100)
    for days, run in zip((9, 8, 7, 6, 5, 0.1), runs, strict=True):
        age(store, days, run)
    assert preview(store.layout, Keeping()).count == 0
    collect(store.layout, Keeping(quota=50_000))
    assert there(store) == {runs[0], runs[3], runs[4], runs[5]}
    report = collect(store.layout, Keeping(quota=1))
    assert there(store) == {runs[0], runs[5]}
    assert report.over > 20_000
    assert verify(store).findings == []


def test_a_quota_never_takes_what_made_an_input_of_a_run_that_stays(store: Store) -> None:
    source = finished(store, 1, output="s" * 10_000)
    users = [finished(store, number, output=f"{number}" * 10_000, inputs=(source,)) for number in (2, 3)]
    age(store, 100)
    for days, run in zip((20, 9, 8), (source, *users), strict=True):
        age(store, days, run)
    collect(store.layout, Keeping(quota=25_000))
    assert there(store) == {source, users[1]}


def test_why_names_each_step_of_the_chain(store: Store) -> None:
    first = finished(store, 1, name="clean")
    second = finished(store, 2, name="train", inputs=(first,))
    tree = store.read_tree(runs_result(store, second).outputs)
    registry = Models(store.layout)
    registry.register(Model("digits", 0, second, "outputs", tree.hash, "2026-01-01T00:00:00Z"))
    registry.promote("digits", 1, "production")
    age(store, 100)
    (chain,) = keepers(store.layout, NOTHING, first[:12])
    assert chain == [
        f"run {first} (clean): it made an input of run {second[:12]}",
        f"run {second} (train): it made model digits:1 (production)",
    ]
    (chain,) = keepers(store.layout, NOTHING, xxh3_hex(b"weights 1"))
    assert chain[0].startswith("blob ")
    assert chain[-1].endswith("model digits:1 (production)")
    with pytest.raises(UsageError, match="nothing in the store has that hash"):
        keepers(store.layout, NOTHING, "0" * 32)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_history_what_is_kept_is_whole(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store.open(tmp_path_factory.mktemp("history") / "store")
    runs: list[RunHash] = []
    for number in range(data.draw(st.integers(1, 8), label="runs")):
        inputs = data.draw(st.lists(st.sampled_from(runs), max_size=2, unique=True)) if runs else []
        run = finished(
            store,
            number,
            name=data.draw(st.sampled_from("ab")),
            source=data.draw(st.sampled_from(["one\n", "two\n"])),
            output=data.draw(st.sampled_from(["x", "y", "z"])),
            inputs=tuple(inputs),
        )
        runs.append(run)
    for run in data.draw(st.lists(st.sampled_from(runs), max_size=2), label="models"):
        tree = store.read_tree(runs_result(store, run).outputs)
        Models(store.layout).register(Model("m", 0, run, "outputs", tree.hash, "2026-01-01T00:00:00Z"))
    for run in data.draw(st.lists(st.sampled_from(runs), max_size=2), label="pins"):
        Pins(store.layout).add(run)
    age(store, 400)
    for run in runs:
        age(store, data.draw(st.sampled_from([2, 20, 200])), run)
    keeping = Keeping(
        keep_days=data.draw(st.sampled_from([0, 10, 100])),
        keep_last=data.draw(st.integers(0, 2)),
        quota=data.draw(st.sampled_from([None, 1, 3000])),
    )
    said = preview(store.layout, keeping)
    collect(store.layout, keeping)
    assert there(store) == set(runs) - {facts.run for facts in said.runs}
    assert verify(store).findings == []
    for run in there(store):
        inputs = Runs(store.layout).plan(RunHash(run))["recorded"]["inputs"]
        assert {item["origin"]["run"] for item in inputs} <= there(store)
        assert is_hit(store, RunHash(run))
    age(store, 400)
    again = preview(store.layout, Keeping(keep_days=1000))
    assert not any(tally.count for kind, tally in again.kinds.items() if kind in ("trees", "blobs"))


def test_the_verb_says_what_would_go_and_then_removes_it(workshop: Workshop) -> None:
    run, pinned = finished(workshop.store, 1), finished(workshop.store, 2)
    assert workshop.repro("pin", pinned[:8], "--why", "figure 3").code == 0
    assert workshop.repro("pins", "--json").json[0]["why"] == "figure 3"
    age(workshop.store, 100)
    workshop.write("repro.toml", "[gc]\nkeep_last = 0\n")
    said = workshop.repro("gc")
    assert "nothing keeps 1 run" in said.out
    assert "repro gc --collect" in said.err
    assert run in workshop.repro("gc", "--list").out
    assert workshop.repro("gc", "--why", run[:8]).out == f"run {run}: nothing keeps it\n"
    assert there(workshop.store) == {run, pinned}
    assert "collected 1 run" in workshop.repro("gc", "--collect").out
    assert there(workshop.store) == {pinned}
    assert [row["run_hash"] for row in workshop.repro("ls", "--json").json] == [pinned]
    assert workshop.repro("gc", "--why", pinned[:8]).out == f"run {pinned} (job): it is pinned: figure 3\n"
    assert workshop.repro("unpin", pinned[:8]).code == 0
    assert workshop.repro("unpin", pinned[:8]).code == 2


@pytest.mark.parametrize(
    ("text", "size"), [("200 GB", 200 * 1000**3), ("1.5TB", 1500 * 1000**3), ("512 MiB", 512 << 20), ("9", None)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("line", ['quota = "a lot"', "keep_days = -1", "model_versions = 0", "keep = 3"])
def test_settings_that_mean_nothing_are_refused(workshop: Workshop, line: str) -> None:
    workshop.write("repro.toml", f"[gc]\n{line}\n")
    done = workshop.repro("gc")
    assert done.code == 2
    assert "gc." in done.err


def test_a_run_that_was_collected_is_made_again_when_it_is_asked_for(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/x', 'w').write('1')\n")
    assert workshop.repro("run", recipe).code == 0
    age(workshop.store, 100)
    assert workshop.repro("gc", "--collect", "--keep-last", "0").code == 0
    assert there(workshop.store) == set()
    assert not os.listdir(workshop.store.layout.directory("envs"))
    again = workshop.repro("run", recipe)
    assert again.code == 0
    assert "completed" in again.out
    assert workshop.repro("verify").code == 0


def made_again(store: Store) -> None:
    finished(store, 2, inputs=(finished(store, 1),))


def found(store: Store) -> None:
    for run in sorted(there(store)):
        is_hit(store, RunHash(run))


def registered(store: Store) -> None:
    for run in sorted(there(store)):
        if Runs(store.layout).result(RunHash(run)) is not None:
            with contextlib.suppress(ReproError):
                register_output(store, RunHash(run), "outputs/model", "m")


@pytest.mark.parametrize("act", [made_again, found, registered], ids=lambda act: act.__name__)
def test_whoever_works_between_two_steps_of_a_sweep_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Store], None]
) -> None:
    monkeypatch.setattr(gc, "_STEP", 1)
    for step in range(200):
        store = Store.open(tmp_path / f"store{step}")
        made_again(store)
        finished(store, 3)
        age(store, 100)
        remaining = step

        @contextlib.contextmanager
        def removing(layout: Layout, store: Store = store) -> Iterator[None]:
            nonlocal remaining
            if remaining == 0:
                act(store)
            remaining -= 1
            with freshness.removing(layout):
                yield

        monkeypatch.setattr(gc, "removing", removing)
        collect(store.layout, NOTHING)
        assert verify(store).findings == []
        for run in there(store):
            assert is_hit(store, RunHash(run))
        assert act is not made_again or remaining >= 0 or len(there(store)) >= 2
        if remaining >= 0:
            return
    raise AssertionError("still at it after 200 steps")


def test_a_run_that_takes_the_store_over_its_quota_is_told(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/x', 'w').write('1' * 3_000_000)\n")
    workshop.write("repro.toml", '[gc]\nquota = "2 MB"\n')
    told = workshop.repro("run", recipe)
    assert told.code == 0
    assert "its quota is 2.0 MB: repro gc --collect" in told.err
    assert "quota" not in workshop.repro("run", recipe).err

"""`repro du`: what takes the space, and whose it is."""

from __future__ import annotations

from repro_est.store.du import usage
from repro_est.store.models import Model, Models
from repro_est.store.store import Store
from tests.conftest import Workshop
from tests.test_gc import finished, keep, runs_result


def test_what_one_run_has_is_its_own_and_what_two_have_is_shared(store: Store) -> None:
    first = finished(store, 1, output="a" * 5000)
    second = finished(store, 4, output="b" * 700)  # the same log
    by_run = {item.run: item for item in usage(store.layout).runs}
    records = {run: by_run[run].exclusive for run in (first, second)}
    assert 5000 < records[first] < 7000
    assert 700 < records[second] < 2700
    shared = len("print(1)\n") + len("of every run") + len("log 1")
    assert [by_run[run].shared for run in (first, second)] == [shared, shared]


def test_what_a_model_has_is_not_exclusive_to_its_run(store: Store) -> None:
    run = finished(store, 1, output="a" * 5000)
    tree = store.read_tree(runs_result(store, run).outputs).below("model")
    assert tree is not None
    store.write_tree(tree)
    Models(store.layout).register(Model("m", 0, run, "outputs/model", tree.hash, "2026-01-01T00:00:00Z"))
    (item,) = usage(store.layout).runs
    assert item.exclusive < 2000
    assert item.shared == 5000


def test_kinds_add_up_to_what_the_blobs_are(store: Store) -> None:
    finished(store, 1, output="a" * 5000)
    keep(store, lost="nobody's")
    found = usage(store.layout)
    assert found.kinds["blobs"].size == 5000 + len("print(1)\n") + len("of every run") + len("log 1") + len("nobody's")
    assert found.unreferenced == len("nobody's")
    assert found.size == sum(tally.size for tally in found.kinds.values())


def test_the_verb_says_it_in_words_and_as_json(workshop: Workshop) -> None:
    finished(workshop.store, 1, name="train", output="a" * 5_000_000)
    said = workshop.repro("du")
    assert said.code == 0
    assert "train" in said.out
    assert "5.0 MB" in said.out
    answer = workshop.repro("du", "--json").json
    assert answer["recipes"][0]["name"] == "train"
    assert answer["runs"][0]["exclusive"] > 5_000_000

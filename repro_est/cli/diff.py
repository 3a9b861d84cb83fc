"""Compare two runs: what identifies them, their metrics, their outputs.

repro diff @1 @2
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, number, open_store
from repro_est.cli.why import difference_rows, show_differences, tree_reader
from repro_est.console import Console
from repro_est.explain import Difference, compare_trees, differences
from repro_est.store.records import Result
from repro_est.store.runs import Runs
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="a run")
    parser.add_argument("b", help="another run")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.engine import plan_of

    console = Console()
    _, store = open_store()
    runs = Runs(store.layout)
    a, b = runs.resolve(arguments.a), runs.resolve(arguments.b)
    plan_a, plan_b = plan_of(a, store), plan_of(b, store)
    inputs = differences(plan_a.document, plan_b.document, tree_reader(store))
    result_a, result_b = runs.result(a), runs.result(b)
    metrics = _metrics(result_a, result_b)
    outputs = _outputs(result_a, result_b, store)
    if arguments.json:
        console.json(
            {
                "a": a,
                "b": b,
                "differences": [item.to_json() for item in inputs],
                "metrics": {name: {"a": old, "b": new} for name, old, new in metrics},
                "outputs": [item.to_json() for item in outputs],
            }
        )
        return 0
    console.out(f"a {a[:12]}  {_state(result_a)}\nb {b[:12]}  {_state(result_b)}\n")
    show_differences(inputs, plan_a.document, plan_b.document, store, console)
    if metrics:
        console.out("")
        console.table([_metric_row(*row) for row in metrics], header=("metric", "a", "b", "b - a"))
    if outputs:
        console.out("")
        console.table(difference_rows(outputs), header=("output", "a", "b"))
    return 0


def _state(result: Result | None) -> str:
    return f"finished {result.finished}" if result else "no accepted result"


def _metrics(a: Result | None, b: Result | None) -> list[tuple[str, float | None, float | None]]:
    old, new = (dict(result.metrics) if result else {} for result in (a, b))
    return [(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())]


def _metric_row(name: str, old: float | None, new: float | None) -> list[str]:
    change = f"{new - old:+.6g}" if old is not None and new is not None else "-"
    return [name, *("-" if value is None else number(value) for value in (old, new)), change]


def _outputs(a: Result | None, b: Result | None, store: Store) -> list[Difference]:
    if a is None or b is None or a.outputs == b.outputs:
        return []
    return compare_trees("outputs", store.read_tree(a.outputs), store.read_tree(b.outputs))

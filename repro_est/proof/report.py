"""A verdict for people: the outcome with its class and its machines, then every output and metric that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from repro_est.console import counted, visible
from repro_est.proof.machines import differing_facts, machine_in_words
from repro_est.recipe.reproducible import Tolerance


def lines(verdict: Mapping[str, Any]) -> Iterator[str]:
    """Returns the lines of a verdict, as `Verdict.to_json` has it."""
    promise, one, two = verdict["promise"], verdict["expected"], verdict["got"]
    outcome = "reproduced" if verdict["reproduced"] else "NOT reproduced"
    yield f"run      {verdict['run_hash']}  {outcome}, class {promise['class']}"
    for name, side in (("expected", one), ("got", two)):
        what = visible(side.get("source") or f"attempt {side['attempt']}")
        yield f"{name:<8} {what}  {side['finished']}  on {visible(machine_in_words(side['facts']))}"
    for name, before, after in differing_facts(one["facts"], two["facts"]):
        yield f"machine  {visible(name)}: {visible(before)} -> {visible(after)}"
    held = [item for item in (*verdict["files"], *verdict["metrics"]) if item["tolerated"]]
    same = verdict["compared"] - len(verdict["files"])
    yield f"compared {counted(verdict['compared'], 'output')}: {same} the same" + (
        f"; {len(held)} within tolerance, files and metrics" if held else ""
    )
    for path in verdict["ignored"]:
        yield f"ignored  {visible(path)}"
    for item in verdict["metrics"]:
        values = f"{_value(item['expected'])} -> {_value(item['got'])}"
        yield f"{_mark(item)}  metric {visible(item['name'])}: {values}{_allowed(item)}"
    for item in verdict["files"]:
        yield f"{_mark(item)}  {visible(item['path'])}{_allowed(item)}"
        yield from (f"         {visible(line)}" for line in _details(item))


def _details(item: Mapping[str, Any]) -> Iterator[str]:
    if item["offset"] is None:
        yield f"{item['expected'] or 'not there'} -> {item['got'] or 'not there'}"
        return
    yield f"first byte that differs: offset {item['offset']:,}"
    element = item.get("element")
    if element is not None:
        place = element["place"] or "the whole"
        outside = f", {item['outside']:,} beyond tolerance" if item["tolerance"] else ""
        yield f"first value that differs: {place}: {element['expected']} -> {element['got']}"
        yield f"{item['differing']:,} of {counted(item['compared'], 'value')} differ{outside}"
        yield f"largest relative error {_value(item['relative_error'])}, absolute {_value(item['absolute_error'])}"
    elif "differing" in item:
        yield "every value is the same: it is written in another way"
    yield f"{item['expected']} -> {item['got']}"


def _mark(item: Mapping[str, Any]) -> str:
    return "within " if item["tolerated"] else "differs"


def _allowed(item: Mapping[str, Any]) -> str:
    tolerance = item["tolerance"]
    return f"  (allowed: {Tolerance(**tolerance)})" if tolerance and any(tolerance.values()) else ""


def _value(value: float | str | None) -> str:
    if value is None:
        return "not there"
    return value if isinstance(value, str) else f"{value:.9g}"

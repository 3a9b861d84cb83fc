"""A reproducibility checklist in Markdown, for an appendix, filled from what is known of a run.

After the Machine Learning Reproducibility Checklist (Pineau et al., JMLR 22, 2021). A box is ticked only where a record
of the run stands behind it; what only its authors can say is left open, with the question. A run is called reproduced
only with its class and the two machines, as its verdicts have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repro_est.console import counted, human_size, human_time, visible
from repro_est.lineage import in_words
from repro_est.proof.machines import machine_in_words
from repro_est.proof.materials import InputMaterial, Materials
from repro_est.proof.sums import manifest_sum
from repro_est.proof.verdicts import in_words as verdict_in_words
from repro_est.recipe.reproducible import Determinism


def checklist(materials: Materials, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Returns the checklist of a run.

    Args:
        verdicts: what executing it again gave, as `proof.verdicts` reads it.
    """
    plan = materials.plan
    parts = [
        f"# Reproducibility checklist: {_code(plan.recorded.name)}",
        f"Run {_code(plan.hash)}, finished {materials.finished}. Ticked is what its records show; the rest is for its "
        "authors to say.",
        _section("Model and algorithm", _model(materials)),
        _section("Data", _data(materials)),
        _section("Code", _code_lines(materials)),
        _section("Results", _results(materials)),
        _section("Computing infrastructure", _infrastructure(materials)),
        _section("Checked by executing it again", _checked(materials, verdicts)),
    ]
    return "\n\n".join(parts) + "\n"


def _model(materials: Materials) -> Iterator[str]:
    yield _open("A clear description of the setting, the algorithm and the model.")
    yield _open("An analysis of its complexity: time, space, sample size.")
    plan = materials.plan
    params = [f"{name} {' '.join(map(_word, words))}".strip() for name, words in plan.script_params]
    words = list(map(_word, plan.document.get("arguments", ()) or ()))  # type: ignore[arg-type]
    listed = ", ".join(_code(text) for text in (*params, *words)) or "none, all are in the source"
    yield _done(f"Every hyper-parameter given to {_code(plan.entry_script)}: {listed}.")
    variables = ", ".join(_code(f"{name}={value}") for name, value in plan.environment_variables.items())
    if variables:
        yield _done(f"Every variable of the environment: {variables}.")
    yield _open("How they were chosen: the range that was considered, and the method.")


def _data(materials: Materials) -> Iterator[str]:
    if not materials.inputs:
        yield _done("The run has no inputs beside its source.")
    for item in materials.inputs:
        yield _input(item)
    yield _open("How the data were collected, split and pre-processed; what was excluded, and why.")
    yield _open("Where the data can be had, and under which license.")


def _code_lines(materials: Materials) -> Iterator[str]:
    plan, environment = materials.plan, materials.plan.environment
    count = len(list(materials.pip)) + len(materials.conda)
    yield _done(
        f"Every dependency is pinned by SHA-256: {counted(count, 'package')}, Python {environment['python']} on "
        f"{materials.platform}; environment key {_code(materials.result.environment)}."
    )
    if materials.lock.image is not None:
        yield _done(f"Base image {_code(materials.lock.image.name)}, {_code(str(environment['image']))}.")
    files = len(list(materials.source.files()))
    yield _done(
        f"The source that was executed: {counted(files, 'file')}, tree {_code(plan.source)}, manifest sha256 "
        f"{_code(manifest_sum(materials.source))}."
    )
    git = materials.attempt.facts.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        clean = "clean" if not git.get("dirty") else "with changes that were not committed, which the tree has"
        yield _done(f"Commit {_code(str(git['commit']))}, {clean}.")
    else:
        yield _open("The commit it was made of; the source was in no git repository, or that was not recorded.")
    yield _done(f"The command that gives the result: {_code('repro run ' + plan.hash)}, or its recipe.")
    yield _open("Where the source can be had, and under which license.")


def _results(materials: Materials) -> Iterator[str]:
    metrics = materials.result.metrics
    if metrics:
        listed = ", ".join(f"{_code(visible(name))} = {value:.6g}" for name, value in metrics.items())
        yield _done(f"The metrics, as they were measured: {listed}.")
    else:
        yield _open("The metrics: the run recorded none.")
    outputs = list(materials.outputs.files())
    yield _done(
        f"The outputs: {counted(len(outputs), 'file')}, {human_size(materials.outputs.size)}, manifest sha256 "
        f"{_code(manifest_sum(materials.outputs))}."
    )
    yield _open("What the metrics mean, and with which statistics they are reported.")
    yield _open("The number of runs, with the variation between them: this is one.")


def _infrastructure(materials: Materials) -> Iterator[str]:
    attempt, plan = materials.attempt, materials.plan
    yield _done(f"Machine: {visible(machine_in_words(attempt.facts))}.")
    machine = attempt.facts.get("machine")
    if isinstance(machine, Mapping):
        system = " ".join(str(machine.get(name) or "") for name in ("system", "kernel", "libc")).strip()
        yield _done(f"System: {visible(system)}.")
    yield _done(f"Layout: {plan.layout}; {'with' if plan.use_gpu else 'no'} GPU; network {_network(materials)}.")
    took = attempt.seconds.get("run")
    yield (
        _done(f"Run time: {human_time(float(took))}.")
        if took is not None
        else _open("The run time, which is not recorded.")
    )


def _checked(materials: Materials, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    promise = materials.plan.recorded.reproducible
    if promise.kind is Determinism.NONE:
        yield _open('The recipe says `class = "none"`: executing it again need not give the same.')
    if not verdicts:
        yield _open(f"Not executed again yet; {_code('repro check ' + materials.plan.hash[:12])} does it.")
    for verdict in verdicts:
        line = visible(verdict_in_words(verdict))
        yield _done(f"{line}.") if verdict["reproduced"] else _open(f"{line}.")


def _input(item: InputMaterial) -> str:
    planned = item.planned
    what = f"Input {_code(planned.name)}: {_code(visible(in_words(planned.origin)))}, tree {_code(planned.tree)}"
    if item.tree is None:
        return _open(f"{what}; its bytes are not here any more.")
    size = f"{counted(len(list(item.tree.files())), 'file')}, {human_size(item.tree.size)}"
    return _done(f"{what}, {size}, manifest sha256 {_code(manifest_sum(item.tree))}.")


def _network(materials: Materials) -> str:
    return "allowed" if materials.plan.network else "not asked for"


def _word(word: object) -> str:
    return f"{{input {word['input']}}}" if isinstance(word, Mapping) else str(word)


def _section(title: str, lines: Iterator[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines)


def _done(text: str) -> str:
    return f"- [x] {text}"


def _open(text: str) -> str:
    return f"- [ ] {text}"


def _code(text: str) -> str:
    """Returns text as Markdown's code, whatever stands in it."""
    text = visible(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"

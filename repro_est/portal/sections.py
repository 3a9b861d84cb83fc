"""The sections of a page, one function each: facts in, HTML out, nothing where there is nothing to say."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from repro_est.console import counted, human_size, human_time
from repro_est.environment.key import environment_key
from repro_est.inside.history import as_float
from repro_est.lineage import Lineage, in_words
from repro_est.plan import Plan
from repro_est.portal.facts import Embedded, FileFact, RunFacts
from repro_est.portal.logged import Cell, Grid, Logged
from repro_est.portal.markup import EMPTY, Markup, element, escaped, joined, link
from repro_est.portal.plot import COLOURS, legend, line_plot
from repro_est.portal.series import Series
from repro_est.portal.shapes import shape_figures
from repro_est.portal.tables import code, folded, pairs, table
from repro_est.portal.tail import LINES, Tail
from repro_est.portal.words import short, shown, when
from repro_est.store.models import Model
from repro_est.store.records import AttemptRecord

_MAX_ROWS = 200
_MAX_FILES = 500
_MAX_PLOTS = 200
_MAX_COLUMNS = 12
_ROWS_AT_ONCE = 12
_ROWS_DRAWN = 3
_MAX_PATCH = 100_000


def parameters(facts: RunFacts) -> Markup:
    """Arguments of the script, and what it said of itself."""
    said = ((name, shown(value)) for name, value in facts.own.params.items())
    return pairs([*plan_parameters(facts.plan), *said], look="cells")


def plan_parameters(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yields the script's parameters as a person wrote them."""
    params: Any = plan.document.get("script_params", ())
    for name, words in params:
        yield str(name), " ".join(map(_word, words))
    arguments: Any = plan.document.get("arguments", ())
    if arguments:
        yield "arguments", " ".join(map(_word, arguments))
    for name, value in plan.environment_variables.items():
        yield f"${name}", value


def metrics(facts: RunFacts) -> Markup:
    """The last value of each metric, and a plot of each that has several."""
    series = {item.name: item for item in facts.own.series}
    rows = [_metric_row(name, value, series.get(name)) for name, value in facts.metrics.items()]
    head = ("metric", "last", "smallest", "largest", "points")
    numbers = table(head, rows[:_MAX_ROWS], more=_left_out(rows, _MAX_ROWS, "metric"))
    return joined([numbers, _grid_of(_plots(facts)), joined(_texts(facts.own))])


def _metric_row(name: str, value: Cell, series: Series | None) -> list[object]:
    finite = [item for item in series.values if math.isfinite(item)] if series else []
    if series is None or len(series.values) < 2:
        return [name, value, None, None, None]
    return [name, value, *((min(finite), max(finite)) if finite else (None, None)), len(series.values)]


def _plots(facts: RunFacts) -> list[Markup]:
    """One plot a metric, with a line for each rank that logged it."""
    ranks = [item for item in facts.logged if not item.child]
    figures: list[Markup] = []
    for name in dict.fromkeys(series.name for item in ranks for series in item.series):
        lines = [
            Series(f"rank {item.rank}" if len(ranks) > 1 else name, series.steps, series.values)
            for item in ranks
            for series in item.series
            if series.name == name and len(series.values) > 1
        ]
        figures += plot_figure(name, lines, across="step")
    for series in facts.own.lists:
        figures += plot_figure(series.name, [series] if len(series.values) > 1 else [], across="place in the list")
    return figures[:_MAX_PLOTS]


def plot_figure(name: str, lines: Sequence[Series], *, across: str) -> list[Markup]:
    """Returns a plot with its name, its last number and what is no number; none where there is nothing to draw."""
    lines = lines[:COLOURS]
    values = [value for line in lines for value in line.values]
    drawn = line_plot(lines, across=across, note=_described(name, values)) if values else EMPTY
    if not drawn:
        return []
    told = shown(lines[0].values[-1]) if len(lines) == 1 else ""
    odd = sum(not math.isfinite(value) for value in values)
    caption = element(
        "figcaption",
        element("b", name),
        " ",
        element("span", told),
        element("span.odd", f" {counted(odd, 'value')} not finite") if odd else None,
    )
    return [element("figure.card", caption, drawn, legend([line.name for line in lines]))]


def _described(name: str, values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    between = f", from {shown(min(finite))} to {shown(max(finite))}" if finite else ""
    return f"{name}: {counted(len(values), 'value')}{between}"


def _texts(logged: Logged) -> Iterator[Markup]:
    for name, values in logged.texts.items():
        if len(values) > 1:
            lines = "\n".join(map(shown, values[-LINES:]))
            yield folded(f"{name}: {counted(len(values), 'text')}", element("pre", lines))


def tables(facts: RunFacts) -> Markup:
    """Rows and tables as they were logged; columns of numbers are drawn as well."""
    parts: list[Markup] = []
    for grid in facts.own.grids:
        figures = [
            figure for across, column in _drawn(grid) for figure in plot_figure(column.name, [column], across=across)
        ]
        shown_table = table(grid.columns, grid.rows[:_MAX_ROWS], more=_left_out(grid.rows, _MAX_ROWS, "row"))
        title = f"{grid.name}: {counted(len(grid.rows), 'row')}"
        parts += [
            element("h3", grid.name),
            shown_table if len(grid.rows) <= _ROWS_AT_ONCE else folded(title, shown_table),
            _grid_of(figures),
        ]
    return joined(parts)


def _drawn(grid: Grid) -> list[tuple[str, Series]]:
    """Columns of numbers, over the first column where that counts up, else over the row, with what they are over."""
    if len(grid.rows) < _ROWS_DRAWN:
        return []
    columns = list(_numeric(grid))
    first = columns[0].values if columns and columns[0].name == grid.columns[0] else ()
    if len(columns) > 1 and all(before < after for before, after in itertools.pairwise(first)) and first:
        return [(columns[0].name, Series(item.name, first, item.values)) for item in columns[1:]]
    return [("row", item) for item in columns]


def _numeric(grid: Grid) -> Iterator[Series]:
    for place, column in enumerate(grid.columns):
        cells = [row[place] for row in grid.rows]
        if any(isinstance(cell, float | int) for cell in cells) and not any(isinstance(cell, str) for cell in cells):
            values = [as_float(cell) if isinstance(cell, float | int) else math.nan for cell in cells]
            yield Series(column, [float(number) for number in range(len(values))], values)


def shapes(facts: RunFacts) -> Markup:
    """Confusion matrices and their kin."""
    return _grid_of([shape_figures(shape) for shape in facts.own.shapes])


def images(facts: RunFacts) -> Markup:
    """Images, in the page as long as they are small and few."""
    return joined([_grid_of([_image(item) for item in facts.images if item.data]), _image_links(facts.images)])


def _image(item: Embedded) -> Markup:
    data = base64.b64encode(item.data).decode()
    step = f"step {item.picture.step}" if item.picture.step is not None else ""
    return element(
        "figure.card.image",
        element("figcaption", element("b", item.picture.name), " ", element("span", step)),
        link(item.place, element("img", src=f"data:{item.mime};base64,{data}", alt=item.picture.name)),
    )


def _image_links(images: Iterable[Embedded]) -> Markup:
    left = [link(item.place, item.picture.path) for item in images if not item.data]
    if not left:
        return EMPTY
    return element("p.more", "Not in this page: ", *itertools.chain(*((item, ", ") for item in left[:-1])), left[-1])


def children(facts: RunFacts) -> Markup:
    """Child runs: a line each, and a plot of what they have in common."""
    found = facts.children
    if not found:
        return EMPTY
    names = list(dict.fromkeys(name for item in found for name in item.last))[:_MAX_COLUMNS]
    params = list(dict.fromkeys(name for item in found for name in item.params))[:_MAX_COLUMNS]
    rows = [
        [
            item.child,
            item.name,
            item.end or "running",
            *(item.params.get(name) for name in params),
            *(item.last.get(name) for name in names),
        ]
        for item in found
    ]
    figures: list[Markup] = []
    for name in names:
        lines = [
            Series(item.name or item.child, series.steps, series.values)
            for item in found
            for series in item.series
            if series.name == name and len(series.values) > 1
        ]
        figures += plot_figure(name, lines, across="step")
    head = ("child", "name", "status", *params, *names)
    return joined([table(head, rows[:_MAX_ROWS], more=_left_out(rows, _MAX_ROWS, "child run")), _grid_of(figures)])


def logs(facts: RunFacts) -> Markup:
    """The last lines of each rank; those of rank 0 are open."""
    parts = [_log(item, facts) for item in facts.logs]
    if not parts and facts.status == "detached":
        return element("p", "At its hosts: ", code(f"repro logs {short(facts.run_hash)}"))
    return joined(parts)


def _log(item: Tail, facts: RunFacts) -> Markup:
    place = next(file.place for file in facts.log_files if file.path == f"logs/rank-{item.rank}/{item.stream}.log")
    several = any(other.rank for other in facts.logs)
    title = f"rank {item.rank}, {item.stream}" if several else item.stream
    cut = "" if item.whole else f", the last {counted(len(item.lines), 'line')}"
    summary = joined([element("b", title), " ", element("span", f"{human_size(item.size)}{cut}")])
    whole = element("p.more", link(place, "the whole log")) if not item.whole else None
    return folded(summary, element("pre.log", "\n".join(item.lines)), whole, opened=item.rank == 0)


def files(facts: RunFacts) -> Markup:
    """Outputs and logs, each with its size and its digest."""
    return joined([_files(facts.outputs, "output"), _files(facts.log_files, "log")])


def _files(found: Sequence[FileFact], noun: str) -> Markup:
    if not found:
        return EMPTY
    rows = [[link(file.place, file.path), _size(file.size), _digest(file)] for file in found[:_MAX_FILES]]
    listed = table(("file", "size", "SHA-256"), rows, more=_left_out(found, _MAX_FILES, "file"))
    total = human_size(sum(file.size for file in found))
    return folded(
        joined([element("b", counted(len(found), f"{noun} file")), " ", element("span", total)]),
        listed,
        opened=noun == "output" and len(found) <= _MAX_ROWS,
    )


def _size(size: int) -> Markup:
    return element("span.size", human_size(size))


def _digest(file: FileFact) -> Markup:
    if not file.sha256 and not file.xxh3:
        return element("span", "being written")
    return element("code.digest", file.sha256 or f"xxh3 {file.xxh3}", title=file.sha256 or file.xxh3)


def models(facts: RunFacts) -> Markup:
    """What was registered of this run."""
    rows = [
        [item.name, item.version, item.path, _framework(item), item.description, code(item.tree), when(item.created)]
        for item in facts.models
    ]
    return table(("model", "version", "path", "framework", "about", "tree", "registered"), rows)


def _framework(model: Model) -> str:
    return f"{model.framework} {model.framework_version}".strip()


def lineage(facts: RunFacts) -> Markup:
    """What the run reads and what led to that, and which runs read it."""
    rows = [[item.name, in_words(item.origin), code(item.tree)] for item in facts.plan.recorded.inputs]
    parts = [table(("input", "from", "tree"), rows)]
    if facts.lineage is not None and len(facts.lineage.makers) > 1:
        parts += [element("h3", "Made from"), element("ul.tree", *_above(facts, facts.lineage))]
    if facts.lineage is not None and facts.lineage.uses:
        parts += [element("h3", "Used by"), _below(facts, facts.lineage)]
    return joined(parts)


def _above(facts: RunFacts, found: Lineage) -> Iterator[Markup]:
    """A line for each run that leads here, what is further up further in; a run is followed once."""
    told = {facts.run_hash}
    waiting = [(0, item) for item in reversed(found.makers[facts.run_hash].inputs)]
    for _ in range(_MAX_ROWS):
        if not waiting:
            return
        level, source = waiting.pop()
        words = joined([element("b", source.input), " ", in_words(source.origin)])
        maker = found.makers.get(source.run) if source.run else None
        if maker is not None:
            words = joined([element("b", source.input), " of ", _run_link(maker.run, maker.name, facts)])
            words = joined([words, f" {maker.status} ", when(maker.started)])
            if maker.run not in told:
                waiting += [(level + 1, item) for item in reversed(maker.inputs)]
                told.add(maker.run)
        yield element("li", words, style=f"--level:{level}")


def _below(facts: RunFacts, found: Lineage) -> Markup:
    rows = [
        [_run_link(use.user.run_hash, use.user.name, facts), use.user.status.value, use.input, in_words(use.origin)]
        for use in found.uses
    ]
    head = ("run", "status", "as", "from")
    return table(head, rows[:_MAX_ROWS], more=_left_out(rows, _MAX_ROWS, "use"))


def _run_link(run: str, name: str, facts: RunFacts) -> Markup:
    """A link to the page of another run of the same store, when it has one."""
    words = f"{name} {short(run)}"
    return link(f"{facts.home}../{run}/page.html", words, title=run) if run in facts.pages else escaped(words)


def environment(facts: RunFacts) -> Markup:
    """Python and packages."""
    document: Mapping[str, Any] = facts.plan.environment
    packages = document.get("packages", ())
    conda = document.get("conda", ())
    about = pairs(
        [
            ("Python", str(document.get("python", ""))),
            ("platform", str(document.get("platform", ""))),
            ("packages", str(len(packages) + len(conda))),
            ("image", code(document["image"]) if document.get("image") else None),
            ("key", code(environment_key(document))),
        ]
    )
    parts = [about]
    for title, rows in (("package", packages), ("conda package", conda)):
        cells = [
            [name, version, filename, element("code.digest", sha256, title=sha256)]
            for name, version, filename, sha256 in rows
        ]
        listed = table(("package", "version", "file", "SHA-256"), cells)
        parts.append(folded(counted(len(rows), title), listed) if cells else EMPTY)
    return joined(parts)


def source(facts: RunFacts) -> Markup:
    """The snapshot, what git says of it, and the script itself."""
    git: Mapping[str, Any] = (facts.shown.facts.get("git") if facts.shown else None) or {}
    state = ", with changes that were not committed" if git.get("dirty") else ""
    about = pairs(
        [
            ("entry script", code(facts.plan.entry_script)),
            ("snapshot", code(facts.plan.source)),
            ("commit", joined([code(git["commit"]), state]) if git.get("commit") else None),
            ("branch", str(git.get("branch", ""))),
            ("remote", str(git.get("remote", ""))),
        ]
    )
    parts = [about]
    if facts.script:
        parts.append(folded(facts.plan.entry_script, element("pre.log", facts.script)))
    entries = [[item.path, _size(item.size)] for item in facts.source if item.is_file]
    if entries:
        listed = table(("file", "size"), entries[:_MAX_FILES], more=_left_out(entries, _MAX_FILES, "file"))
        parts.append(folded(counted(len(entries), "source file"), listed))
    patch = str(git.get("patch", ""))
    if patch:
        parts.append(folded("What was not committed", element("pre.log", patch[:_MAX_PATCH])))
    return joined(parts)


def attempts(facts: RunFacts) -> Markup:
    """Each execution: how it ended, where, on what, and what took the time."""
    rows = [
        [
            item.number,
            joined([_accepted(item, facts), element("p.reason", item.reason) if item.reason else ""]),
            when(item.started),
            element("span.size", human_time(sum(item.seconds.values()))),
            joined(element("p", line) for line in [*hardware(item), *_sandbox(item)]),
            ", ".join(f"{name} {human_time(seconds)}" for name, seconds in item.seconds.items()),
        ]
        for item in facts.attempts
    ]
    return table(("attempt", "status", "started", "took", "on", "of that"), rows)


def _accepted(item: AttemptRecord, facts: RunFacts) -> str:
    accepted = facts.result is not None and facts.result.attempt == item.number
    return f"{item.status.value}, accepted" if accepted else item.status.value


def _sandbox(item: AttemptRecord) -> list[str]:
    """Returns a line on what closed the script in, or let it out."""
    found = item.facts.get("sandbox")
    if not isinstance(found, dict):
        return []
    if found.get("kind") == "none":
        return [f"no sandbox: {found.get('why')}"]
    return [f"sandbox: {found.get('kind')}" + (", with network, which is impure" if found.get("network") else "")]


def hardware(item: AttemptRecord) -> list[str]:
    """Returns a line for each machine: name, processor, memory, GPUs."""
    hosts = item.facts.get("hosts")
    if isinstance(hosts, list) and hosts:
        return [_machine(str(host.get("host", "?")), host.get("machine")) for host in hosts if isinstance(host, dict)]
    machine = item.facts.get("machine")
    name = machine.get("hostname") if isinstance(machine, dict) else None
    return [_machine(str(name or "?"), machine)]


def _machine(name: str, machine: object) -> str:
    if not isinstance(machine, dict):
        return name
    cores, memory, gpus = machine.get("cpu_count"), machine.get("memory"), machine.get("gpus")
    cpu = machine.get("cpu") or machine.get("cpu_model")
    parts = [
        f"{cores} x {cpu}" if cores and cpu else str(cpu or ""),
        human_size(memory) if isinstance(memory, int) else "",
        *_gpus(gpus if isinstance(gpus, list) else []),
    ]
    return ", ".join(part for part in (name, *parts) if part)


def _gpus(gpus: Sequence[Any]) -> Iterator[str]:
    names = [str(gpu.get("name", "GPU")) for gpu in gpus if isinstance(gpu, dict)]
    for name in dict.fromkeys(names):
        yield f"{names.count(name)} x {name}"
    driver = next((gpu.get("driver_version") for gpu in gpus if isinstance(gpu, dict)), None)
    if driver:
        yield f"driver {driver}"


def reproduce(facts: RunFacts) -> Markup:
    """The commands that make this run again."""
    git: Mapping[str, Any] = (facts.shown.facts.get("git") if facts.shown else None) or {}
    stored = f"repro run {facts.run_hash}"
    lines = ["# from this store, as it was hashed", stored, f"{stored} --force", "repro why " + short(facts.run_hash)]
    if git.get("commit") and not git.get("dirty"):
        lines += ["", "# from the source, on any machine", f"git checkout {git['commit']}"]
        lines += [f"repro run {facts.plan.recorded.name}.toml"]
    return element("pre.log", "\n".join(lines))


def _grid_of(figures: Sequence[Markup]) -> Markup:
    return element("div.grid", *figures) if figures else EMPTY


def _word(word: Any) -> str:
    return f"input {word['input']}" if isinstance(word, Mapping) else str(word)


def _left_out(found: Sequence[object], limit: int, noun: str) -> str:
    return f"and {counted(len(found) - limit, noun)} more" if len(found) > limit else ""

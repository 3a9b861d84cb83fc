"""The page of a run: what it shows, that nothing of a run breaks out of it, and that it needs nothing around it."""

from __future__ import annotations

import base64
import contextlib
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro_est.api.display import run_html
from repro_est.cli.main import main
from repro_est.errors import ReproError
from repro_est.portal.facts import MAX_IMAGES, collect_facts
from repro_est.portal.logged import Logged, Shape, read_logged
from repro_est.portal.markup import Markup, element, escaped, link
from repro_est.portal.page import page, portal_url, write_page
from repro_est.portal.plot import COLUMNS, line_plot, scale_of, tick
from repro_est.portal.series import Series, trace
from repro_est.portal.shapes import shape_figures
from repro_est.portal.tail import LINES, tail
from repro_est.store.runs import Runs
from tests.conftest import Workshop

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EVIL = "<script>alert(1)</script>"

SCRIPT = f"""
import json, pathlib, sys
from repro_est import Run
run = Run.get_context()
for step in range(50):
    run.log("loss", 2.0 / (step + 1) if step != 7 else float("nan"), step=step)
run.log("final", 0.25)
run.log("note", "kept the best")
run.log_list("rates", [0.1, 0.2, 0.4])
for epoch in range(4):
    run.log_row("epochs", epoch=epoch, accuracy=0.5 + epoch / 10)
run.log_table("grid", {{"x": [1, 2], "y": [0.5, float("inf")]}})
run.log_confusion_matrix("confusion", {{"schema_type": "confusion_matrix", "schema_version": "v1",
    "data": {{"class_labels": ["cat", "dog"], "matrix": [[8, 2], [1, 9]]}}}})
pathlib.Path("pixel.png").write_bytes({PIXEL!r})
run.log_image("picture", path="pixel.png")
run.log({EVIL!r}, 1.0)
run.tag("reviewed", {EVIL!r})
child = run.child_run("trial")
child.log("loss", 1.0, step=0)
child.log("loss", 0.5, step=1)
child.complete()
pathlib.Path("outputs/a & b <i>.txt").write_text("x")
pathlib.Path("outputs/metrics.json").write_text(json.dumps({{"accuracy": 0.9312}}))
print("\\x1b[32mtraining", {EVIL!r})
print("10%\\r50%\\r100% done", file=sys.stderr)
"""


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        self.problems += [f"{tag} {name}" for name in known if name.startswith("on")]
        self.links += [known["href"] or ""] if "href" in known else []
        self.sources += [known["src"] or ""] if "src" in known else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def finished(workshop: Workshop, script: str = SCRIPT, more: str = "", **options: str) -> str:
    return str(workshop.run(workshop.recipe(script, more, **options))["run_hash"])


def page_of(workshop: Workshop, run: str = "@") -> str:
    return write_page(Runs(workshop.store.layout).resolve(run), workshop.store).read_text()


def test_a_page_shows_all_that_a_run_logged_and_left(workshop: Workshop) -> None:
    run = finished(workshop, more='[tags]\nteam = "vision"\n', estimator='script_params = { "--rate" = 0.5 }')
    read = Reader(page_of(workshop))
    for word in (
        run, "completed", "--rate", "0.5", "vision", "0.9312", "final", "loss", "rates", "epochs", "grid", "confusion",
        "85.0% of 20 on the diagonal", "trial", "picture", "kept the best", "100% done", "train.py", "Python",
        f"repro run {run}", "outputs/metrics.json", "∞",
    ):  # fmt: skip
        assert word in read.text, word
    assert {"svg", "path", "table", "img", "details"} <= set(read.tags)


def test_a_page_is_whole_html_that_fetches_and_runs_nothing(workshop: Workshop) -> None:
    finished(workshop)
    text = page_of(workshop)
    read = Reader(text)
    assert (read.problems, read.open) == ([], [])
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    assert all(source.startswith("data:image/png;base64,") for source in read.sources)
    assert len(read.sources) == 1
    assert all(urlsplit(place).scheme == "" and place.startswith(("#", "./")) for place in read.links)
    assert "default-src 'none'" in unescape(text)
    assert "http" not in re.sub(r"http-equiv|xmlns=\S+", "", text)


def test_what_a_run_calls_things_is_text_and_never_markup(workshop: Workshop) -> None:
    finished(workshop, more=f'[tags]\n"{EVIL}" = "{EVIL}"\n')
    text = page_of(workshop)
    assert "<script" not in text
    assert Reader(text).text.count(EVIL) >= 4


@given(st.text() | st.text(alphabet="<>&\"'/= \x00\x1b\u202e\ud800a"))
def test_no_text_makes_a_tag_or_leaves_an_attribute(text: str) -> None:
    made = element("p", text, title=text)
    read = Reader(made)
    assert (read.tags, read.problems, read.open) == (["p"], [], [])
    assert made.encode("utf-8")


def test_a_piece_of_markup_is_text_again() -> None:
    made = element("b", "x")
    assert escaped(made) is made
    assert escaped(made[:3]) == "&lt;b&gt;"
    assert escaped(made + "<i>") == "&lt;b&gt;x&lt;/b&gt;&lt;i&gt;"
    assert isinstance(made, Markup)


@pytest.mark.parametrize("name", ["javascript:alert(1)", "//host/x", "a?b#c", "../../etc/passwd", 'q"uote', "%41"])
def test_a_link_leads_below_the_page_whatever_a_file_is_called(name: str) -> None:
    (place,) = Reader(link(name, "file")).links
    parts = urlsplit(place)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    assert unquote(place) == f"./{name}"


def test_every_link_to_a_file_leads_to_it(workshop: Workshop, tmp_path: Path) -> None:
    run = finished(workshop)
    for path in (workshop.store.layout.page(Runs(workshop.store.layout).resolve(run)), tmp_path / "sent" / "r.html"):
        path.parent.mkdir(exist_ok=True)
        done = workshop.repro("page", run, "-o", str(path))
        assert done.out == path.as_uri() + "\n"
        files = [place for place in Reader(path.read_text()).links if place.startswith("./")]
        assert any("a & b <i>.txt" in unquote(place) for place in files)
        for place in files:
            assert (path.parent / unquote(place)).is_file(), place


def test_a_page_is_beside_its_run_and_may_be_written_again(workshop: Workshop) -> None:
    run = Runs(workshop.store.layout).resolve(finished(workshop))
    url = portal_url(run, workshop.store)
    path = workshop.root / "cache" / "runs" / run / "page.html"
    assert url == path.as_uri() == workshop.repro("page", run[:8]).out.strip()
    before = path.read_bytes()
    assert write_page(run, workshop.store).read_bytes() == before
    assert workshop.repro("verify").code == 0


def test_the_same_facts_are_the_same_page(workshop: Workshop) -> None:
    run = Runs(workshop.store.layout).resolve(finished(workshop))
    assert page(collect_facts(run, workshop.store)) == page(collect_facts(run, workshop.store))


def test_a_failed_run_has_a_page_that_says_why(workshop: Workshop) -> None:
    assert workshop.repro("run", workshop.recipe("print('so far'); raise SystemExit(3)\n")).code == 1
    text = Reader(page_of(workshop)).text
    for word in ("failed", "exit code 3", "so far"):
        assert word in text


@contextlib.contextmanager
def going_on(workshop: Workshop, script: str, first: str = "") -> Iterator[None]:
    """A run whose script has written what it writes, and waits."""
    flag = workshop.root / "go"
    waits = f"""
import os, time
open("outputs/ready", "w").close()
while not os.path.exists({str(flag)!r}):
    time.sleep(0.02)
"""
    recipe = workshop.recipe(script + waits)
    workshop.write(recipe, first + (workshop.root / recipe).read_text())
    worker = threading.Thread(target=main, args=(["run", recipe, "-q"],))
    worker.start()
    try:
        until = time.monotonic() + 60
        while not list((workshop.root / "cache").glob("runs/*/attempts/1/live/outputs/ready")):
            assert time.monotonic() < until
            time.sleep(0.05)
        yield
    finally:
        flag.touch()
        worker.join()


@pytest.mark.usefixtures("unenclosed")
def test_a_run_that_goes_on_has_a_page_of_this_moment(workshop: Workshop) -> None:
    script = """
from repro_est import Run
Run.get_context().log("loss", 0.125, step=1)
Run.get_context().tag("phase", "warm-up")
"""
    with going_on(workshop, script):
        text = Reader(page_of(workshop)).text
        for word in ("running", "0.125", "warm-up", "outputs/ready", "being written"):
            assert word in text
    assert "completed" in Reader(page_of(workshop)).text


def test_a_run_of_several_ranks_that_goes_on_is_asked_for_what_it_logged(workshop: Workshop) -> None:
    flag, store = workshop.root / "go", workshop.store
    script = f"""
import os, time
from repro_est import Run
Run.get_context(every_rank=True).log("loss", 5 / 8)
while not os.path.exists({str(flag)!r}):
    time.sleep(0.02)
"""
    recipe = workshop.recipe(script, estimator='process_count_per_node = 2\ndistributed_training = "torch"\n')
    worker = threading.Thread(target=main, args=(["run", recipe, "-q"],))
    worker.start()
    try:
        until, text = time.monotonic() + 60, ""
        while "0.625" not in text and time.monotonic() < until:
            time.sleep(0.2)
            with contextlib.suppress(ReproError):  # no run yet
                run = Runs(store.layout).resolve("@")
                subprocess.run([sys.executable, "-m", "repro_est", "page", run], cwd=workshop.root, check=True)
                text = store.layout.page(run).read_text()
        assert "0.625" in text
        assert "running" in text
    finally:
        flag.touch()
        worker.join()
    assert not (store.layout.attempt(run, 1) / "live").exists()


@pytest.mark.usefixtures("unenclosed")
@pytest.mark.parametrize("known", [True, False])
def test_a_page_of_a_run_that_goes_on_shows_no_secret(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setenv("TOKEN", "s3cr&t")
    script = """
import os
from repro_est import Run
Run.get_context().log("note", "with " + os.environ["TOKEN"])
"""
    with going_on(workshop, script, 'secrets = ["TOKEN"]\n'):
        if not known:
            monkeypatch.delenv("TOKEN")
        text = page_of(workshop)
        assert "s3cr" not in text
        assert ("with ***" in text) == known


def test_a_planned_run_and_an_empty_store_of_trees_still_have_a_page(workshop: Workshop) -> None:
    run = finished(workshop, "print(1)\n")
    for place in ("trees", "packs", "blobs"):
        moved = workshop.root / "cache" / place
        moved.rename(workshop.root / place)
        moved.mkdir()
    assert "completed" in Reader(page_of(workshop, run)).text


def test_pages_of_a_lineage_link_to_each_other(workshop: Workshop) -> None:
    workshop.recipe("open('outputs/data.txt', 'w').write('1')\n", name="prep")
    made = str(workshop.run("prep.toml")["run_hash"])
    user = finished(workshop, "print(1)\n", f'[inputs.data]\npath = "run:{made}/outputs/data.txt"\n')
    after = Reader(page_of(workshop, user))
    assert f"./../{made}/page.html" in after.links
    before = Reader((workshop.root / "cache" / "runs" / made / "page.html").read_text())
    assert f"./../{user}/page.html" in before.links


def test_large_and_many_images_are_linked_not_embedded(workshop: Workshop) -> None:
    script = f"""
import pathlib
for number in range({MAX_IMAGES + 3}):
    pathlib.Path(f"outputs/{{number:02}}.png").write_bytes({PIXEL!r})
pathlib.Path("outputs/00-large.png").write_bytes({PIXEL!r} + bytes(3_000_000))
pathlib.Path("outputs/00-text.png").write_text("<script>alert(1)</script>")
"""
    run = Runs(workshop.store.layout).resolve(finished(workshop, script))
    images = collect_facts(run, workshop.store).images
    assert sum(bool(image.data) for image in images) == MAX_IMAGES
    linked = {image.picture.name for image in images if not image.data}
    assert {"00-large.png", "00-text.png"} < linked


def test_a_link_among_outputs_is_not_followed_into_a_page(workshop: Workshop) -> None:
    secret = workshop.write("elsewhere.png", PIXEL)
    script = f"import os; os.symlink({str(secret)!r}, 'outputs/a.png'); raise SystemExit(1)\n"
    workshop.repro("run", workshop.recipe(script))
    run = Runs(workshop.store.layout).resolve("@")
    assert collect_facts(run, workshop.store).images == ()


def test_a_record_that_makes_no_sense_costs_what_it_says_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "rank-0").mkdir()
    lines = [
        '["m","good",1.5,0,1.0]', '["m","good",2.5,1,1.0]', '["m","huge",1' + "0" * 400 + ",0,1.0]", '["m","short",1]',
        '["m",["x"],1,0,1.0]', '["m","odd",{"a":1},0,1.0]', '["m","text step",1,"x",1.0]', '["row","r",5,0,1.0]',
        '["table","t",{"a":5,"b":[1,2]},0,1.0]', '["object","o","confusion_matrix",{"data":{"matrix":"x"}},0,1.0]',
        '["object","o",5,5,0,1.0]', '["image","i",5,0,1.0]', '["child","../../x","n",1.0]', '["child","1","n",1.0]',
        '["list","l",5,0,1.0]', '["list","l",[1,"a",null],0,1.0]', '["end",5,6,1.0]', '["what","is",1.0]', "{}", "[]",
        '["tag",["x"],1,1.0]', '["param",{"x":1},1,1.0]', '["m","torn',
    ]  # fmt: skip
    (tmp_path / "rank-0" / "run.jsonl").write_text("\n".join(lines))
    (first, *_) = read_logged(tmp_path)
    assert first.last["good"] == 2.5
    assert {item.name: list(item.values) for item in first.series}["huge"] == [math.inf]
    assert [grid.name for grid in first.grids] == ["t", "l"]


@pytest.mark.parametrize(
    "data",
    [
        {}, {"matrix": []}, {"matrix": [[1, 2], [3]]}, {"matrix": [["a"]]}, {"matrix": [[math.nan]]},
        {"matrix": [[-1, 2], [0, 0]], "class_labels": ["a"]}, {"probability_tables": [[[0, 0, 0, 0]]]},
        {"probability_tables": [[["x"]]]}, {"bin_edges": [0, 1], "bin_counts": [1]}, {"bin_edges": [], "bin_counts": []},
        {"bin_edges": [0, 0], "bin_counts": [math.inf], "bin_averages": [math.nan]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["confusion_matrix", "accuracy_table", "residuals", "predictions", "other"])
def test_an_object_of_any_shape_is_drawn_or_shown_as_it_is(kind: str, data: dict[str, object]) -> None:
    read = Reader(shape_figures(Shape("s", kind, data)))
    assert ("figure" in read.tags, read.problems, read.open) == (True, [], [])
    assert "nan" not in " ".join(read.links)


numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4 * COLUMNS))
def test_a_plot_of_any_numbers_stays_inside_its_frame(values: list[float]) -> None:
    series = Series.of("x", [float(step) for step in range(len(values))], values)
    text = line_plot([series], across="step")
    for word in re.findall(r'd="([^"]*)"', text):
        for x, y in re.findall(r"(-?[\d.]+|nan|inf) (-?[\d.]+|nan|inf)", word):
            assert (0 <= float(x) <= 480, 0 <= float(y) <= 250) == (True, True)


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=30), st.integers())
@settings(deadline=None)
def test_thinning_keeps_every_extreme(some: list[float], seed: int) -> None:
    values = Random(seed).choices(some, k=2500)
    finite = [value for value in values if math.isfinite(value)]
    thinned = trace(Series("x", [float(step) for step in range(len(values))], values), 300)
    points = [value for _, value in thinned.points()]
    assert (min(points), max(points)) == (min(finite), max(finite)) if finite else not points
    assert len(points) <= 4 * 300
    assert bool(thinned.odd) == (len(finite) < len(values))


def test_a_gap_is_drawn_where_a_number_is_missing() -> None:
    parts = trace(Series("x", [0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0]), 100)
    assert parts.pieces == [[(0, 1.0)], [(2, 2.0), (3, 3.0)]]
    assert [step for step, _ in parts.odd] == [1]


def test_a_million_points_are_drawn_in_well_under_a_second() -> None:
    values = [math.sin(step / 1e4) + (step % 7) / 10 for step in range(1_000_000)]
    values[500_000] = math.nan
    values[600_000] = 99.0
    steps = [float(step) for step in range(1_000_000)]
    started = time.perf_counter()
    text = line_plot([Series.of("x", steps, values)], across="step")
    assert time.perf_counter() - started < 0.8
    assert len(text) < 60_000


def test_steps_that_start_again_are_put_in_order() -> None:
    assert Series.of("x", [0, 1, 2, 1, 2], [5, 6, 7, 8, 9]) == Series("x", [0, 1, 1, 2, 2], [5, 6, 8, 7, 9])


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([1e-5, 1.0], ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ([1.0, 500.0], ["100", "200", "300", "400", "500"]),
        ([-1.0, 5000.0], ["0", "1k", "2k", "3k", "4k", "5k"]),
        ([7.0, 7.0], ["6.5", "7", "7.5"]),
    ],
)
def test_an_axis_has_round_numbers_and_is_logarithmic_when_that_shows_more(
    values: list[float], ticks: list[str]
) -> None:
    assert [tick(value) for value in scale_of(values).ticks] == ticks


def test_a_log_is_shown_from_its_end_as_a_terminal_would(tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    log.write_bytes(
        b"".join(b"line %d\n" % number for number in range(60_000)) + b"\x1b[1mbold\x1b[0m\n1%\r99%\r\n\xff\n"
    )
    shown = tail(log, 0, "stdout")
    assert (len(shown.lines), shown.whole, shown.lines[-3:]) == (LINES, False, ("bold", "99%", "\ufffd"))
    assert tail(tmp_path / "none", 0, "stdout").lines == ()


@pytest.mark.parametrize(("output", "message"), [(".", "is a directory"), ("no/such/place.html", "no directory")])
def test_a_page_that_cannot_be_put_there_is_refused(workshop: Workshop, output: str, message: str) -> None:
    finished(workshop, "print(1)\n")
    done = workshop.repro("page", "@", "-o", output)
    assert (done.code, message in done.err) == (2, True), done.err


def test_open_starts_the_browser(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    import webbrowser

    finished(workshop, "print(1)\n")
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(asked.append(url)) or True)
    assert workshop.repro("page", "--open").code == 0
    assert asked == [(workshop.root / "cache" / "runs").as_uri() + asked[0][asked[0].index("/runs/") + 5 :]]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "no browser could be started" in workshop.repro("page", "--open").err


def test_nothing_logged_is_nothing_shown() -> None:
    assert (Logged().series, line_plot([], across="step")) == ((), "")


def test_a_notebook_shows_a_run_as_a_small_table(workshop: Workshop) -> None:
    done = workshop.run(workshop.recipe(SCRIPT), "--set", "experiment_name=digits")
    run = Runs(workshop.store.layout).resolve(done["run_hash"])
    read = Reader(run_html(collect_facts(run, workshop.store), portal_url(run, workshop.store)))
    for word in ("digits", run[:12], "completed", "0.9312", "open"):
        assert word in read.text
    assert (read.problems, read.open, {"script", "style"} & set(read.tags)) == ([], [], set())
    assert read.links == [portal_url(run, workshop.store)]

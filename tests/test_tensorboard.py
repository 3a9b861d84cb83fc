"""`repro tensorboard`: the real TensorBoard, on finished runs and on runs that go on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro_est.errors import ReproError
from repro_est.inside.history import History
from repro_est.portal.events import MOST, EventFile
from repro_est.portal.logdir import LogDirectory
from repro_est.store.runs import Runs
from tests.conftest import Workshop

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

_SECONDS = 60.0

SCRIPT = """
import shutil
from repro_est import Run
run = Run.get_context()
for step in (0, 10, 20):
    run.log("loss", 1.0 / (step + 1), step=step)
run.log("accuracy", 0.5)
run.log("accuracy", 0.75)
run.log("note", "kept the best")
run.log_row("epochs", epoch=1, seconds=2.5)
run.child_run("trial").log("loss", 0.25, step=3)
shutil.copytree("written", "logs/train")
"""


class Board:
    """A running `repro tensorboard`, asked over HTTP."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process, self.url = process, process.stdout.readline().strip()

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}data/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)

    def scalar(self, run: str, tag: str) -> list[tuple[int, float]]:
        found = self.get("plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in found]

    def runs(self) -> list[str]:
        return sorted(self.get("runs"))


def until(promise: Callable[[], Any]) -> Any:
    """Waits for something to become true."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            found = promise()
        except (OSError, ValueError, ReproError):
            found = None
        if found or time.monotonic() > end:
            return found
        time.sleep(0.2)


Start = Callable[..., Board]


@pytest.fixture
def start(workshop: Workshop, tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []
    (tmp_path / "tmp").mkdir()

    def begin(*words: str) -> Board:
        process = subprocess.Popen(
            [sys.executable, "-m", "repro_est", "tensorboard", *words],
            cwd=workshop.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        )
        processes.append(process)
        return Board(process)

    yield begin
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def own_events(directory: Path) -> None:
    """An event file as a script would write it with SummaryWriter."""
    written = EventFile(directory)
    history = History()
    history.add([["m", "train loss", 0.125, 7, 1.0]])
    written.update(history)
    written.close()


def test_a_finished_run_is_shown_with_its_own_event_files_and_what_it_logged(workshop: Workshop, start: Start) -> None:
    recipe = workshop.recipe(SCRIPT)
    own_events(workshop.root / "job" / "written")
    run = workshop.run(recipe)["run_hash"]
    name = f"job-{run[:12]}"
    board = start("@", "--port", "0")
    assert until(lambda: len(board.runs()) == 3), board.runs()
    assert board.runs() == [name, f"{name}/child-1", f"{name}/logs/train"]
    assert until(lambda: len(board.scalar(name, "loss")) == 3)
    tags = board.get("plugin/scalars/tags")
    assert set(tags[name]) == {"loss", "accuracy", "epochs/epoch", "epochs/seconds"}
    assert [step for step, _ in board.scalar(name, "loss")] == [0, 10, 20]
    assert board.scalar(name, "accuracy") == [(0, 0.5), (1, 0.75)]
    assert board.scalar(f"{name}/logs/train", "train loss") == [(7, 0.125)]
    assert board.scalar(f"{name}/child-1", "loss") == [(3, 0.25)]
    assert "note" in board.get("plugin/text/tags")[name]


@pytest.mark.usefixtures("unenclosed")
def test_a_run_that_starts_later_is_picked_up_and_followed_to_its_end(workshop: Workshop, start: Start) -> None:
    flag = workshop.root / "go"
    recipe = workshop.recipe(f"""
import os, time
from repro_est import Run
run = Run.get_context()
run.log("loss", 0.5, step=0)
while not os.path.exists({str(flag)!r}):
    time.sleep(0.05)
run.log("loss", 0.25, step=1)
""")
    workshop.repro("lock", recipe)
    run = workshop.repro("plan", recipe, "--json").json["run_hash"]
    name = f"job-{run[:12]}"
    board = start(run, "--port", "0")
    assert board.runs() == []
    from repro_est.cli.main import main

    worker = threading.Thread(target=main, args=(["run", recipe, "-q"],))
    worker.start()
    try:
        assert until(lambda: board.scalar(name, "loss") == [(0, 0.5)])
    finally:
        flag.touch()
        worker.join()
    assert until(lambda: board.scalar(name, "loss") == [(0, 0.5), (1, 0.25)])


def test_ctrl_c_ends_it_and_leaves_nothing(workshop: Workshop, start: Start, tmp_path: Path) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    board = start("@", "--port", "0")
    assert board.url.startswith("http://")
    board.process.send_signal(signal.SIGINT)
    assert board.process.wait(20) == 0
    assert list((tmp_path / "tmp").glob("repro-tensorboard-*")) == []
    with pytest.raises(urllib.error.URLError):
        board.runs()


def test_what_tensorboard_says_of_its_own_end_is_passed_on(workshop: Workshop, start: Start) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    board = start("@", "--port", "0")
    port = urllib.parse.urlsplit(board.url).port
    done = subprocess.run(
        [sys.executable, "-m", "repro_est", "tensorboard", "@", "--port", str(port)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert "TensorBoard ended by itself" in done.stderr
    assert f"port {port}" in done.stderr


def test_only_the_directory_is_kept_for_a_tensorboard_of_yours(workshop: Workshop, start: Start) -> None:
    run = workshop.run(workshop.recipe("print(1)\n"))["run_hash"]
    root = Path(start("@", "--logdir-only").url)
    assert (root / f"job-{run[:12]}" / "logs" / "rank-0" / "stdout.log").read_text() == "1\n"


def test_without_tensorboard_it_says_how_to_get_it(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = workshop.repro("tensorboard", "@")
    assert (done.code, 'pip install "repro-est[tensorboard]"' in done.err) == (2, True), done.err


def test_another_execution_of_a_run_takes_the_place_of_the_one_before(workshop: Workshop, tmp_path: Path) -> None:
    recipe = workshop.recipe("from repro_est import Run\nRun.get_context().log('x', 1.0)\nraise SystemExit(1)\n")
    workshop.repro("run", recipe)
    run = Runs(workshop.store.layout).resolve("@")
    shown = LogDirectory(tmp_path, [run], workshop.store)
    (name,) = shown.refresh()
    assert (tmp_path / name / "logs").resolve().parent.name == "1"
    before = list((tmp_path / name).glob("events*"))
    assert shown.refresh() == [name]
    assert list((tmp_path / name).glob("events*")) == before != []
    workshop.repro("run", recipe)
    shown.refresh()
    assert (tmp_path / name / "logs").resolve().parent.name == "2"
    assert len(list((tmp_path / name).glob("events*"))) == 1
    shown.close()


def test_the_logs_of_a_run_of_several_ranks_are_fetched_while_it_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    flag = workshop.root / "go"
    recipe = workshop.recipe(
        f"""
import os, time
from repro_est import Run
Run.get_context(every_rank=True).log("loss", 0.5, step=4)
while not os.path.exists({str(flag)!r}):
    time.sleep(0.05)
""",
        estimator='process_count_per_node = 2\ndistributed_training = "torch"\n',
    )
    from repro_est.cli.main import main

    store = workshop.store
    worker = threading.Thread(target=main, args=(["run", recipe, "-q"],))
    worker.start()
    (tmp_path / "board").mkdir()
    try:
        run = until(lambda: Runs(store.layout).resolve("@"))
        shown = LogDirectory(tmp_path / "board", [run], store)
        name = f"job-{run[:12]}"
        place = tmp_path / "board" / name
        assert until(lambda: shown.refresh() == [name] and (place / "rank-1").exists()), list(place.rglob("*"))
        assert not (place / "logs").is_symlink()
    finally:
        flag.touch()
        worker.join()
    shown.refresh()
    shown.close()
    assert (place / "logs" / "rank-1" / "stdout.log").exists()
    assert read_back(place) == {"loss": [(4, 0.5)]}


def test_a_growing_record_is_written_once_each(tmp_path: Path) -> None:
    history, file = History(), EventFile(tmp_path / "run")
    history.add([["m", "x", 1.0, None, 5.0], ["m", "y", True, None, 5.0]])
    assert file.update(history) == 2
    history.add([["m", "x", math.nan, None, 6.0], ["table", "t", {"a": [1, 2], "b": "no"}, None, 6.0]])
    assert file.update(history) == 3
    assert file.update(history) == 0
    file.close()
    values = read_back(tmp_path / "run")
    assert values["x"][0] == (0, 1.0)
    assert values["x"][1][0] == 1
    assert math.isnan(values["x"][1][1])
    assert (values["y"], values["t/a"]) == ([(0, 1.0)], [(0, 1.0), (1, 2.0)])


def test_of_very_many_points_the_extremes_are_kept(tmp_path: Path) -> None:
    history, file = History(), EventFile(tmp_path / "run")
    events = [["m", "x", math.sin(step / 999), step, 5.0] for step in range(2 * MOST)]
    events[12_345][2] = 99.0
    history.add(events)
    assert 1000 < file.update(history) < MOST
    file.close()
    assert (12_345, 99.0) in read_back(tmp_path / "run")["x"]


def test_what_never_was_a_number_makes_no_event_file(tmp_path: Path) -> None:
    history, file = History(), EventFile(tmp_path / "run")
    history.add([["image", "x", "outputs/x.png", None, 5.0], ["m", "none", None, None, 5.0]])
    assert file.update(history) == 0
    file.close()
    assert not (tmp_path / "run").exists()


def read_back(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    (path,) = directory.glob("events*")
    found: dict[str, list[tuple[int, float]]] = {}
    for event in LegacyEventFileLoader(str(path)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found

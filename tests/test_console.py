"""What reaches a terminal, a pipe, or nobody."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from repro_est.cli.common import TerminalObserver
from repro_est.console import Console, counted, visible
from tests.conftest import Workshop


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "words", ["ls", "show @", "run job.toml -q --force", "run job.toml", "logs @", "check job.toml"]
)
def test_a_closed_stream_is_no_traceback(workshop: Workshop, words: str, closed: str) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    command = f"{sys.executable} -m repro_est {words} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=workshop.root, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_text_of_a_run_cannot_move_the_cursor() -> None:
    assert visible("loss \u00fc \u640d\u5931") == "loss \u00fc \u640d\u5931"
    assert visible("a\n\x1b[2Jb\x9b\u202ec\udce9") == r"a\n\x1b[2Jb\x9b\u202ec\udce9"


def test_no_table_and_no_summary_passes_on_what_a_script_named_its_metrics(workshop: Workshop) -> None:
    script = "import json, sys\nopen('outputs/' + sys.argv[1], 'w').write('1')\njson.dump({sys.argv[1]: 1}, open('outputs/metrics.json', 'w'))\n"
    recipe = workshop.recipe(script)
    printed = ""
    for name in ("a\x1b[31m\nred", "b\r\x07"):
        words = json.dumps([name])
        done = workshop.repro("run", recipe, "--set", f"arguments={words}")
        assert done.code == 0, done.err
        printed += done.out
    plan = ["plan", recipe, "--set", f"arguments={words}"]
    for command in (["ls"], ["diff", "@2", "@1"], ["why"], plan):
        printed += workshop.repro(*command).out
    assert r"a\x1b[31m\nred" in printed
    assert r"b\r\x07" in printed
    assert not set(printed) & {"\x1b", "\r", "\x07"}
    assert not any(line.startswith("red") for line in printed.splitlines())


def test_a_long_value_is_cut_to_what_differs(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    for end in ("one", "two"):
        workshop.run(recipe, "--set", f"arguments=['{'x' * 5000}{end}{'y' * 5000}']")
    text = workshop.repro("why").out
    assert max(map(len, text.splitlines())) < 250
    assert "xone" in text
    assert "xtwo" in text
    assert "(10,005 characters)" in text
    assert len(workshop.repro("why", "--json").json["differences"][0]["before"]) > 10_000


def test_what_is_waited_for_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    observer = TerminalObserver(Console())
    observer.event("waiting", owner="process 7", run_hash="0123456789abcdef")
    observer.event("waiting", owner="process 7", environment="0123456789abcdef")
    run, environment = (" ".join(line.split()) for line in capfd.readouterr().err.splitlines())
    assert run == "Waiting for the same run, made by process 7"
    assert environment == "Waiting for environment 0123456789ab, made by process 7"


def test_one_is_said_in_the_singular() -> None:
    assert [counted(number, "run") for number in (0, 1, 2, 1234)] == ["0 runs", "1 run", "2 runs", "1,234 runs"]


def test_a_hit_shows_the_metrics_in_the_order_of_the_run(workshop: Workshop) -> None:
    script = "import json; json.dump({'loss': 1, 'accuracy': 2}, open('outputs/metrics.json', 'w'))"
    recipe = workshop.recipe(script)
    first, second = (workshop.repro("run", recipe).out.splitlines()[1] for _ in range(2))
    assert first == second == "metrics  accuracy 2  loss 1"

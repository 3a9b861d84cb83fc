"""The whole story, through the command line: plan, execute, hit, fail, look, and everything that may go wrong."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro_est.digest import sha256_hex
from repro_est.store.runs import Runs
from tests.conftest import Workshop, as_root, missing

WRITES = "import json, sys\nopen('outputs/model.bin', 'w').write(' '.join(sys.argv[1:]))\njson.dump({'loss': 0.5}, open('outputs/metrics.json', 'w'))\nprint('trained')\n"


def repro(workshop: Workshop, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A real process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "repro_est", *words],
        cwd=workshop.root,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def status_of(workshop: Workshop) -> str:
    return str(workshop.repro("show", "@", "--json").json["status"])


def test_a_run_is_executed_once_and_then_returned(workshop: Workshop) -> None:
    recipe = workshop.recipe(
        WRITES, '[outputs]\nrequired = ["outputs/model.bin"]\n[models.net]\npath = "outputs/model.bin"\n'
    )
    first = workshop.repro("run", recipe)
    assert first.code == 0, first.err
    assert "completed" in first.out
    assert "trained" in first.err
    second = workshop.repro("run", recipe)
    assert "cached" in second.out
    assert "trained" not in second.err
    shown = workshop.repro("show", "@", "--json").json
    assert (shown["status"], shown["metrics"]) == ("completed", {"loss": 0.5})
    assert [item["path"] for item in shown["outputs"]] == ["outputs/metrics.json", "outputs/model.bin"]
    assert [item["version"] for item in workshop.repro("models", "--json").json] == [1]
    assert workshop.repro("verify").code == 0


def test_quiet_prints_only_the_path_of_the_outputs(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    done = workshop.repro("run", recipe, "-q")
    assert (Path(done.out.strip()) / "model.bin").exists()
    assert done.out.count("\n") == 1
    assert done.err == ""
    assert workshop.repro("run", recipe, "-q").out == done.out


def test_events_are_one_json_object_a_line(workshop: Workshop) -> None:
    done = workshop.repro("run", workshop.recipe(WRITES), "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["event"] for event in events]
    assert [kinds[0], kinds[-1]] == ["locking", "finished"]
    assert {"event": "output", "stream": "stdout", "text": "trained\n"} in events
    assert events[-1]["metrics"] == {"loss": 0.5}


@pytest.mark.parametrize(
    ("script", "options", "status", "code", "error"),
    [
        ("raise SystemExit(3)", "", "failed", 1, "exit code 3"),
        ("pass", '[outputs]\nrequired = ["outputs/x"]\n', "failed", 1, "not written"),
        ("import time; time.sleep(60)", "", "timed_out", 1, "max_run_duration_seconds = 1"),
        ("pass", 'secrets = ["NOT_THERE"]', "failed", 2, "NOT_THERE"),
    ],
)  # fmt: skip
def test_the_last_event_says_how_a_run_failed(
    workshop: Workshop, script: str, options: str, status: str, code: int, error: str
) -> None:
    recipe = workshop.recipe(script, options if "[" in options[:1] else "", estimator="max_run_duration_seconds = 1")
    if options.startswith("secrets"):
        workshop.write(recipe, f"{options}\n{(workshop.root / recipe).read_text()}")
    process = repro(workshop, "run", recipe, "--json")
    out, err = process.communicate(timeout=60)
    events = [json.loads(line) for line in out.splitlines()]
    last = events[-1]
    assert [event["event"] for event in events].count("finished") == 1
    assert (last["event"], last["status"], last["cached"], last["exit_code"]) == ("finished", status, False, code)
    assert last["run_hash"] == next(event["run_hash"] for event in events if event["event"] == "planned")
    assert (error in last["error"], error in err, process.returncode) == (True, True, code)


def test_an_error_before_there_is_a_plan_is_an_event_too(workshop: Workshop) -> None:
    done = workshop.repro("run", "nothing.toml", "--json")
    (event,) = [json.loads(line) for line in done.out.splitlines()]
    assert (event["event"], event["error"], event["exit_code"]) == ("error", "nothing.toml: no such recipe", 2)
    assert "no such recipe" in done.err


def test_the_hash_is_the_same_elsewhere_and_under_any_settings(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write("data/x.csv", "1\n")
    recipe = workshop.recipe(WRITES, '[inputs.d]\npath = "data"\n', estimator='script_params = {"--d" = {input = "d"}}')
    expected = workshop.run(recipe)["run_hash"]
    copy = tmp_path / "elsewhere" / "deeper"
    copy.parent.mkdir()
    shutil.copytree(workshop.root, copy, ignore=shutil.ignore_patterns("cache"), symlinks=True)
    subprocess.run(["chmod", "-R", "go-rwx", copy], check=True)
    subprocess.run(["find", copy, "-exec", "touch", "-d", "2001-01-01", "{}", "+"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "repro_est", "plan", recipe, "--json"],
        cwd=copy, capture_output=True, text=True, umask=0o077,
        env={"PATH": "/nonexistent", "TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "USER": "somebody", "HOME": "/x"},
    )  # fmt: skip
    assert done.returncode == 10, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["run_hash"], plan["cached"]) == (expected, False)


def test_plan_says_what_would_happen_and_why(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES, estimator='script_params = {"--lr" = 0.1}')
    workshop.run(recipe)
    assert workshop.repro("plan", recipe).code == 0
    done = workshop.repro("plan", recipe, "--set", "script_params.--lr=0.2")
    assert done.code == 10
    assert re.search(r"script_params.--lr +'0.1' +'0.2'", done.out)


def test_why_and_diff_name_exactly_what_differs(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES, estimator='script_params = {"--lr" = 0.1}')
    workshop.run(recipe)
    workshop.write("job/train.py", WRITES + "# changed\n")
    workshop.run(recipe, "--set", "script_params.--lr=0.2")
    why = workshop.repro("why", "@", "--json").json
    assert [item["leaf"] for item in why["differences"]] == ["script_params.--lr", "source/train.py"]
    text = workshop.repro("why", "@").out
    assert "+# changed" in text
    diff = workshop.repro("diff", "@2", "@1", "--json").json
    assert [item["leaf"] for item in diff["outputs"]] == ["outputs/model.bin"]
    assert diff["metrics"]["loss"] == {"a": 0.5, "b": 0.5}


def test_why_without_an_earlier_run_says_so(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(WRITES))
    done = workshop.repro("why")
    assert (done.code, "no earlier run" in done.err) == (2, True)


def test_the_nearest_run_is_of_the_same_recipe(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(WRITES, name="a", estimator='arguments = ["1"]'))
    workshop.run(workshop.recipe(WRITES, name="b", estimator='arguments = ["2"]'))
    workshop.run("a.toml", "--set", "arguments=['2']")
    why = workshop.repro("why", "@", "--json").json
    assert [item["leaf"] for item in why["differences"]] == ["arguments"]


def test_get_copies_and_checks_every_byte(workshop: Workshop, tmp_path: Path) -> None:
    workshop.run(workshop.recipe(WRITES, estimator='arguments = ["x"]'))
    assert workshop.repro("get", "@", "outputs/model.bin", str(tmp_path / "m")).code == 0
    assert (tmp_path / "m").read_text() == "x"
    (tmp_path / "m").write_text("old")
    assert workshop.repro("get", "@", "outputs/model.bin", str(tmp_path / "m")).code == 0
    assert (tmp_path / "m").read_text() == "x"
    assert workshop.repro("get", "@", "outputs", str(tmp_path / "all")).code == 0
    assert workshop.repro("get", "@", "outputs", str(tmp_path / "all")).code == 2
    assert workshop.repro("get", "@", "outputs", str(tmp_path / "all"), "--force").code == 0
    assert sorted(os.listdir(tmp_path / "all")) == ["metrics.json", "model.bin"]
    missing = workshop.repro("get", "@", "outputs/nothing", str(tmp_path / "n"))
    assert (missing.code, "holds: metrics.json, model.bin" in missing.err) == (2, True)
    blob = workshop.store.layout.run(workshop.repro("show", "@", "--json").json["run_hash"]) / "outputs/model.bin"
    blob.chmod(0o644)
    blob.write_text("y")
    done = workshop.repro("get", "@", "outputs/model.bin", str(tmp_path / "bad"))
    assert (done.code, "was changed" in done.err) == (4, True)
    assert not (tmp_path / "bad").exists()
    assert workshop.repro("verify").code == 4


def test_a_run_can_be_run_again_from_its_hash(workshop: Workshop) -> None:
    run = workshop.run(workshop.recipe(WRITES, estimator='arguments = ["x"]'))["run_hash"]
    (workshop.root / "job.toml").unlink()
    shutil.rmtree(workshop.root / "job")
    assert workshop.run(run[:8])["cached"] is True
    assert workshop.run(run, "--force")["cached"] is False
    assert len(workshop.repro("show", run, "--json").json["attempts"]) == 2


def test_force_accepts_the_new_result_and_no_cache_keeps_none(workshop: Workshop) -> None:
    recipe = workshop.recipe("import os\nopen('outputs/r', 'w').write(os.urandom(8).hex())\n")
    workshop.run(recipe)
    first = workshop.repro("show", "@", "--json").json["result"]
    workshop.run(recipe, "--no-cache")
    assert workshop.repro("show", "@", "--json").json["result"] == first
    workshop.run(recipe, "--force")
    second = workshop.repro("show", "@", "--json").json
    assert second["result"]["outputs"] != first["outputs"]
    assert [item["number"] for item in second["attempts"]] == [1, 2, 3]


def test_the_walk_recipe_shows_what_its_comment_says(workshop: Workshop) -> None:
    recipes = Path(__file__).parent.parent / "recipes"
    shutil.copytree(recipes / "walk", workshop.root / "walk")
    shutil.copy(recipes / "walk.toml", workshop.root)
    runs = [workshop.run("walk.toml", "--force") for _ in range(3)]  # two of them end in one place every 200th time
    assert len({run["run_hash"] for run in runs}) == 1
    outputs = {attempt["outputs"] for attempt in workshop.repro("show", "@", "--json").json["attempts"]}
    assert len(outputs) > 1


def test_a_failing_script_is_reported_on_one_screen_and_is_no_hit(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/partial', 'w').write('half')\nimport sklearn\n")
    done = workshop.repro("run", recipe)
    assert done.code == 1
    for part in (
        "phase run: exit code 1",
        "No module named 'sklearn'",
        "likely cause",
        'pip_packages = [..., "scikit-learn"]',
    ):
        assert part in done.err
    assert "Traceback" not in done.err.split("error:")[0].replace("Traceback (most recent call last):\n  File", "", 1)
    shown = workshop.repro("show", "@", "--json").json
    assert (shown["status"], shown["attempts"][0]["exit_code"], shown["outputs"]) == ("failed", 1, [])
    assert (shown["attempts"][0]["phase"], "in phase run: exit code 1" in workshop.repro("show").out) == ("run", True)
    partial = workshop.store.layout.attempt(shown["run_hash"], 1) / "outputs"
    assert (partial / "partial").read_text() == "half"
    assert f"partial outputs: 1 file, 4 B, kept in {partial}" in done.err
    assert workshop.repro("run", recipe).code == 1


@pytest.mark.usefixtures("unenclosed")
def test_partial_outputs_are_shown_and_copied_only_when_asked_for(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write("ok", "")
    script = "import os, sys\nopen('outputs/x', 'w').write('half')\nos.path.exists(os.environ['OK']) or sys.exit(3)\n"
    variables = f"environment_variables = {{OK = '{workshop.root / 'ok'}'}}"
    recipe = workshop.recipe(script, estimator=variables)
    (workshop.root / "ok").unlink()
    assert workshop.repro("run", recipe).code == 1
    shown = workshop.repro("show", "--json").json
    assert [item["path"] for item in shown["partial_outputs"]] == ["outputs/x"]
    assert (Path(shown["partial_outputs_path"]) / "x").read_text() == "half"
    assert (shown["outputs"], shown["outputs_path"]) == ([], None)
    assert re.search(r"^partial  outputs/x  4 B$", workshop.repro("show").out, re.MULTILINE)
    assert workshop.repro("get", "@", "outputs/x", str(tmp_path / "x")).code == 2
    done = workshop.repro("get", "@", "outputs/x", str(tmp_path / "x"), "--attempt", "1")
    assert (done.code, "attempt 1 was not accepted" in done.err) == (0, True)
    assert (tmp_path / "x").read_text() == "half"
    assert workshop.repro("get", "@", "outputs/x", str(tmp_path / "x"), "--attempt", "2").code == 2
    workshop.write("ok", "")
    workshop.run(recipe)
    assert workshop.repro("get", "@", "outputs/x", str(tmp_path / "x"), "--attempt", "2").err == ""
    assert workshop.repro("show", "--json").json["partial_outputs"] == []


def test_show_marks_the_attempt_that_was_accepted(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    workshop.run(recipe)
    workshop.run(recipe, "--no-cache")
    assert [item["accepted"] for item in workshop.repro("show", "--json").json["attempts"]] == [True, False]
    assert re.findall(r"^attempt  (\d  .*?)  \d", workshop.repro("show").out, re.MULTILINE) == [
        "1  completed, accepted",
        "2  completed, not accepted",
    ]


@pytest.mark.parametrize(
    ("script", "more", "message"),
    [
        ("pass", '[outputs]\nrequired = ["outputs/model-*.bin"]\n', "outputs/model-*.bin: declared in [outputs], not written"),
        ("pass", '[models.m]\npath = "outputs/m"\n', "to be registered as model `m`, not written"),
        ("import os; os.symlink('/etc/passwd', 'outputs/leak')", "", "outputs/leak: symlink to the absolute path"),
        ("import os; os.symlink('../../x', 'outputs/leak')", "", "outputs/leak: symlink to ../../x leaves the tree"),
        ("open(b'outputs/bad\\xff', 'w')", "", r"outputs/bad\xff: name is not UTF-8"),
        ("import os; os.mkfifo('outputs/pipe')", "", "outputs/pipe: is a named pipe"),
        ("import shutil; shutil.rmtree('outputs')", "", "outputs/: the script removed or replaced the directory"),
        ("open('outputs/A', 'w'); open('outputs/a', 'w')", "", "collides with"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_a_failure_though_the_script_ended_with_0(
    workshop: Workshop, script: str, more: str, message: str
) -> None:
    done = workshop.repro("run", workshop.recipe(script, more))
    assert (done.code, message in done.err) == (1, True), done.err
    shown = workshop.repro("show", "@", "--json").json
    assert (shown["status"], shown["attempts"][0]["phase"]) == ("failed", "collect")
    assert workshop.repro("verify").code == 0


def test_a_script_that_writes_into_its_input_fails(workshop: Workshop) -> None:
    workshop.write("data/a.csv", "1\n")
    script = "import os\ntry:\n    open(os.environ['REPRO_INPUT_d'] + '/a.csv', 'a').write('2')\nexcept OSError as error:\n    print('refused', error)\n    raise\n"
    done = workshop.repro("run", workshop.recipe(script, '[inputs.d]\npath = "data"\n'))
    assert done.code == 1
    assert "inputs are read-only" in done.err
    if "Read-only file system" in done.err:
        assert (workshop.root / "data/a.csv").read_text() == "1\n"


def test_a_script_cannot_change_its_environment(workshop: Workshop) -> None:
    script = "import os, sys\nopen(os.path.join(sys.prefix, 'evil.pth'), 'w')\n"
    done = workshop.repro("run", workshop.recipe(script))
    assert (done.code, "so is the environment" in done.err) == (1, True), done.err
    assert workshop.repro("env", "verify").code == 0


def test_a_private_copy_of_an_input_may_be_written(workshop: Workshop) -> None:
    workshop.write("data/a.csv", "1\n")
    script = "import os\nopen(os.environ['REPRO_INPUT_d'] + '/a.csv', 'a').write('2')\n"
    workshop.run(workshop.recipe(script, '[inputs.d]\npath = "data"\nmode = "copy"\n'))
    assert (workshop.root / "data/a.csv").read_text() == "1\n"


@pytest.mark.usefixtures("unenclosed")
def test_an_output_that_is_a_link_to_an_input_does_not_share_it(workshop: Workshop) -> None:
    data = workshop.write("data/a.csv", "1\n")
    script = f"import os; os.link({str(data)!r}, 'outputs/linked')"  # by its own path, so that no mount is in between
    run = workshop.run(workshop.recipe(script))
    assert data.stat().st_mode & 0o200
    data.write_text("2\n")
    assert (Path(run["outputs"]) / "linked").read_text() == "1\n"
    assert workshop.repro("verify").code == 0


def test_an_input_that_is_a_file_keeps_its_name(workshop: Workshop) -> None:
    workshop.write("data/a.csv.gz", "1\n")
    script = "import sys; open('outputs/name', 'w').write(sys.argv[1].rsplit('/', 1)[1] + open(sys.argv[1]).read())"
    recipe = workshop.recipe(script, '[inputs.d]\npath = "data/a.csv.gz"\n', estimator='arguments = [{input = "d"}]')
    assert (Path(workshop.run(recipe)["outputs"]) / "name").read_text() == "a.csv.gz1\n"


def test_a_changed_input_is_another_run(workshop: Workshop) -> None:
    workshop.write("data/a.csv", "1\n")
    recipe = workshop.recipe(WRITES, '[inputs.d]\npath = "data"\n')
    first = workshop.run(recipe)
    workshop.write("data/a.csv", "2\n")
    second = workshop.run(recipe)
    assert first["run_hash"] != second["run_hash"]
    why = workshop.repro("why", "@", "--json").json
    assert [item["leaf"] for item in why["differences"]] == ["inputs.d/a.csv"]


def test_runs_and_models_are_inputs_of_other_runs(workshop: Workshop) -> None:
    first = workshop.run(
        workshop.recipe(WRITES, '[models.net]\npath = "outputs/model.bin"\n', estimator='arguments = ["w"]')
    )
    script = (
        "import sys\n"
        "open('outputs/seen', 'w').write(open(sys.argv[1]).read() + open(sys.argv[2] + '/metrics.json').read())\n"
    )
    recipe = workshop.recipe(
        script,
        f'[inputs.m]\npath = "model:net:1"\n[inputs.r]\npath = "run:{first["run_hash"][:8]}/outputs"\n',
        name="second",
        estimator='arguments = [{input = "m"}, {input = "r"}]',
    )
    assert (Path(workshop.run(recipe)["outputs"]) / "seen").read_text() == 'w{"loss": 0.5}'
    missing = workshop.repro("run", recipe, "--set", "inputs.m.path=model:net:7")
    assert (missing.code, "`net` has: 1" in missing.err) == (2, True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "data.csv").write_text("1,2\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_a_url_input_is_fetched_once_and_verified(workshop: Workshop, server: str, tmp_path: Path) -> None:
    digest = sha256_hex(b"1,2\n")
    script = "import sys; open('outputs/seen', 'w').write(open(sys.argv[1]).read())"
    more = f'[inputs.d]\nurl = "{server}/data.csv"\nsha256 = "{digest}"\n'
    recipe = workshop.recipe(script, more, estimator='arguments = [{input = "d"}]')
    assert (Path(workshop.run(recipe)["outputs"]) / "seen").read_text() == "1,2\n"
    (tmp_path / "www" / "data.csv").write_text("evil\n")
    assert workshop.run(recipe)["cached"] is True
    wrong = workshop.recipe(
        script, more.replace(digest, "0" * 64), name="wrong", estimator='arguments = [{input = "d"}]'
    )
    done = workshop.repro("run", wrong)
    assert (done.code, "expected sha256 000" in done.err) == (4, True)


def test_a_secret_reaches_the_script_and_nothing_else(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = workshop.recipe(
        "import os\nprint('token is', os.environ['HF_TOKEN'])\n"
        "open('outputs/n', 'w').write(str(len(os.environ['HF_TOKEN'])))\n"
    )
    text = (workshop.root / recipe).read_text()
    workshop.write(recipe, 'secrets = ["HF_TOKEN"]\n' + text)
    missing = workshop.repro("run", recipe)
    assert (missing.code, "HF_TOKEN not set" in missing.err) == (2, True)
    monkeypatch.setenv("HF_TOKEN", "canary-value-1")
    first = workshop.repro("run", recipe, "--json")
    assert first.code == 0
    assert "token is ***" in first.out
    found = subprocess.run(["grep", "-rl", "canary-value-1", workshop.root], capture_output=True, text=True)
    assert found.stdout == ""
    monkeypatch.setenv("HF_TOKEN", "canary-value-2")
    assert json.loads(workshop.repro("run", recipe, "--json").out.splitlines()[-1])["cached"] is True


def test_a_secret_in_an_output_is_not_kept(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary-value")
    recipe = workshop.recipe("import os; open('outputs/x', 'w').write('a' * (1 << 20) + os.environ['TOKEN'])")
    workshop.write(recipe, 'secrets = ["TOKEN"]\n' + (workshop.root / recipe).read_text())
    done = workshop.repro("run", recipe)
    assert (done.code, "outputs/x: holds the value of the secret TOKEN" in done.err) == (1, True)
    assert subprocess.run(["grep", "-rl", "canary-value", workshop.root], capture_output=True).stdout == b""


def test_a_time_limit_is_kept(workshop: Workshop) -> None:
    recipe = workshop.recipe("import time; time.sleep(60)", estimator="max_run_duration_seconds = 0.5")
    done = workshop.repro("run", recipe)
    assert (done.code, "took longer than max_run_duration_seconds = 0.5" in done.err) == (1, True)
    assert status_of(workshop) == "timed_out"


def test_two_at_once_execute_once_and_both_get_it(workshop: Workshop) -> None:
    recipe = workshop.recipe("import time; time.sleep(1.5)\n" + WRITES)
    assert workshop.repro("lock", recipe).code == 0
    processes = [repro(workshop, "run", recipe, "--json") for _ in range(3)]
    finished = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in processes]
    assert sorted(event["cached"] for event in finished) == [False, True, True]
    assert len(workshop.repro("show", "@", "--json").json["attempts"]) == 1


def test_ctrl_c_is_130_and_no_hit(workshop: Workshop) -> None:
    recipe = workshop.recipe("import time; print('up', flush=True); time.sleep(60)")
    process = repro(workshop, "run", recipe, "--json")
    assert process.stdout is not None
    while '"up' not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    last = json.loads(process.communicate(timeout=30)[0].splitlines()[-1])
    assert process.returncode == 130
    assert (last["event"], last["status"], status_of(workshop)) == ("finished", "canceled", "canceled")


@pytest.mark.usefixtures("unenclosed")
def test_the_record_of_a_running_attempt_names_the_phase_it_is_in(workshop: Workshop) -> None:
    script = (
        "import glob, os; print(open(glob.glob(os.environ['STORE'] + '/runs/*/attempts/1/attempt.json')[0]).read())"
    )
    variables = f"environment_variables = {{STORE = '{workshop.root / 'cache'}'}}"
    workshop.run(workshop.recipe(script, estimator=variables))
    seen = json.loads(workshop.repro("logs").out)
    assert (seen["status"], seen["phase"]) == ("running", "run")


@pytest.mark.usefixtures("unenclosed")
def test_a_killed_client_is_no_hit_and_is_found_lost(workshop: Workshop) -> None:
    recipe = workshop.recipe("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    process = repro(workshop, "run", recipe, "--json")
    assert process.stdout is not None
    pid = 0
    while not pid:
        event = json.loads(process.stdout.readline())
        pid = int(event["text"]) if event["event"] == "output" else 0
    process.kill()
    process.wait()
    give_up = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < give_up:
            os.kill(pid, 0)
            time.sleep(0.05)
        pytest.fail("the script outlived its client")
    assert status_of(workshop) == "lost"
    assert [row["status"] for row in workshop.repro("ls", "--json").json] == ["lost"]
    assert repro(workshop, "logs", "@", "-f").communicate(timeout=20)[0].startswith(str(pid))
    assert workshop.repro("gc", "--json").json["lost"]
    assert status_of(workshop) == "lost"
    assert workshop.repro("plan", recipe, "--json").json["cached"] is False


def test_a_new_attempt_settles_one_that_died(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    run = workshop.run(recipe, "--no-cache")["run_hash"]
    record = workshop.store.layout.attempt(run, 1) / "attempt.json"
    record.write_text(record.read_text().replace('"completed"', '"running"'))
    workshop.run(recipe)
    assert json.loads(record.read_text())["status"] == "lost"


def test_source_that_is_rewritten_all_the_time_never_gives_a_wrong_record(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/n', 'w').write('0')\n")
    workshop.run(recipe)
    stop = threading.Event()

    def rewrite() -> None:
        number = 0
        while not stop.wait(0.005):
            number += 1
            (workshop.root / "job/train.py").write_text(f"open('outputs/n', 'w').write('{number}')\n")

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(4):
            done = workshop.repro("run", recipe, "--json")
            if done.code == 0:
                run = json.loads(done.out.splitlines()[-1])["run_hash"]
                entry = workshop.store.read_tree(
                    workshop.repro("show", run, "--json").json["plan"]["source"]
                ).by_path()["train.py"]
                source = workshop.store.layout.blob(entry.xxh3).read_text()
                made = workshop.store.layout.run(run) / "outputs" / "n"
                # Between its truncation and its write the script is an empty file, and an empty script writes nothing.
                assert source == (f"open('outputs/n', 'w').write('{made.read_text()}')\n" if made.exists() else "")
            else:
                assert "train.py: changed while it was read" in done.err, done.err
    finally:
        stop.set()
        writer.join()
    assert workshop.repro("verify").code == 0


def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    workshop: Workshop, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_STORE", str(small_disk(40 << 20) / "store"))
    small = workshop.recipe(WRITES, name="small")
    assert workshop.repro("run", small).code == 0
    done = workshop.repro("run", workshop.recipe("open('outputs/big', 'wb').write(b'x' * (60 << 20))"))
    assert done.code in (1, 5), done.err
    assert "no space left" in done.err.lower()
    assert workshop.run(small)["cached"] is True
    assert workshop.repro("verify").code == 0


def test_a_script_that_fills_the_disk_is_seen_to_fail_and_recorded(
    workshop: Workshop, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_STORE", str(small_disk(3 << 20) / "store"))
    script = "print('a' * 4000)\ntry: open('outputs/big', 'wb').write(b'x' * (5 << 20))\nexcept OSError: print('b' * 5000); raise\n"
    done = workshop.repro("run", workshop.recipe(script))
    assert done.code == 1
    for part in (
        "a" * 4000,
        "b" * 5000,
        "OSError: [Errno 28]",
        "the disk of the store, on which a run executes, is full",
        "REPRO_STORE",
    ):
        assert part in done.err
    assert done.err.index("b" * 100) < done.err.index("Errno 28")
    shown = workshop.repro("show", "@", "--json").json["attempts"][0]
    assert (shown["status"], shown["phase"], shown["reason"]) == ("failed", "run", "exit code 1")
    assert shown["facts"]["process"]["unlogged"] > 0
    assert workshop.repro("verify").code == 0


@pytest.mark.parametrize("size", [4 << 10, 16 << 10, 64 << 10, 256 << 10, 360 << 10, 400 << 10])
def test_a_store_that_is_too_small_is_named_as_the_reason(
    workshop: Workshop, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store = small_disk(size) / "store"
    monkeypatch.setenv("REPRO_STORE", str(store))
    done = workshop.repro("run", workshop.recipe(WRITES))
    assert done.code == 5
    assert f"error: {store}" in done.err
    assert "no space left on the store's disk" in done.err
    assert "set REPRO_STORE to another disk" in done.err


def test_a_read_only_store_still_answers(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    workshop.run(recipe)
    cache = workshop.root / "cache"
    if not as_root():
        missing("remounting needs root")
    subprocess.run(["mount", "--bind", cache, cache], check=False)
    if subprocess.run(["mount", "-o", "remount,bind,ro", cache], check=False).returncode:
        missing("no permission to remount")
    try:
        assert workshop.run(recipe)["cached"] is True
        assert len(workshop.repro("ls", "--json").json) == 1
        new = workshop.repro("run", recipe, "--set", "salt=x")
        assert (new.code, "read-only" in new.err) == (5, True)
    finally:
        subprocess.run(["umount", "-l", cache], check=False)


def test_a_stale_lock_is_refused_and_relock_makes_it_anew(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    workshop.run(recipe)
    text = (workshop.root / recipe).read_text()
    workshop.write(recipe, text + '[environment]\nplatforms = ["linux-64", "osx-arm64"]\n')
    stale = workshop.repro("run", recipe)
    assert (stale.code, "platforms:" in stale.err, "repro lock" in stale.err) == (3, True, True)
    assert workshop.repro("lock", recipe, "--check").code == 3
    assert workshop.repro("run", recipe, "--relock").code == 0
    assert workshop.repro("lock", recipe, "--check").code == 0


def test_a_lock_with_merge_conflicts_is_solved_by_locking(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    workshop.run(recipe)
    lock = workshop.root / "job.lock"
    before = lock.read_bytes()
    lock.write_bytes(b"<<<<<<< ours\n" + before)
    conflict = workshop.repro("run", recipe)
    assert conflict.code == 3
    assert re.search(r"hint: repro lock .*job.toml", conflict.err)
    assert workshop.repro("lock", recipe).code == 0
    assert lock.read_bytes() == before


def test_a_depfile_in_no_directory_is_refused_before_the_run(workshop: Workshop) -> None:
    name = workshop.recipe("open('outputs/x', 'w')")
    done = workshop.repro("run", name, "--depfile", "nowhere/x.d")
    assert done.code == 2
    assert "nowhere/x.d: no such directory" in done.err
    assert workshop.repro("ls", "--json").json == []


def test_show_escapes_what_a_script_could_have_named(workshop: Workshop) -> None:
    script = "import json\njson.dump({'a\\x1b[31m\\n': 1.0}, open('outputs/metrics.json', 'w'))\n"
    workshop.run(workshop.recipe(script))
    shown = workshop.repro("show", "@").out
    assert "a\\x1b[31m\\n = 1" in shown
    assert "\x1b" not in shown


def test_a_depfile_names_everything_and_make_reruns_only_when_needed(workshop: Workshop) -> None:
    workshop.write("data/a b.csv", "1\n")
    recipe = workshop.recipe(WRITES, '[inputs.d]\npath = "data"\n')
    workshop.write(
        "Makefile",
        f"repro = {sys.executable} -m repro_est\n"
        "model.bin:\n"
        "\t@echo ran\n"
        f"\t@$(repro) run {recipe} -q --depfile .model.d --depfile-target $@ >/dev/null\n"
        "\t@$(repro) get @ outputs/model.bin $@ --force >/dev/null\n"
        "-include .model.d\n",
    )

    def make() -> str:
        done = subprocess.run(["make", "model.bin"], cwd=workshop.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ran" in make()
    assert "ran" not in make()
    time.sleep(1.1)
    workshop.write("data/a b.csv", "2\n")
    assert "ran" in make()
    (workshop.root / "data/a b.csv").unlink()
    workshop.write("data/c.csv", "3\n")
    assert "ran" in make()


def test_logs_of_a_run_and_of_one_going_on(workshop: Workshop) -> None:
    workshop.run(
        workshop.recipe(
            "import sys; print('one'); print('two', file=sys.stderr); open('logs/own.log', 'w').write('three')"
        )
    )
    assert workshop.repro("logs", "@", "--stream", "stdout").out == "one\n"
    assert workshop.repro("logs").out == "one\ntwo\n"
    assert workshop.repro("logs", "@", "own.log").out == "three"
    assert workshop.repro("logs", "--list").out.split() == ["own.log", "rank-0/stderr.log", "rank-0/stdout.log"]
    assert workshop.repro("logs", "@", "../../plan.json").code == 2
    assert workshop.repro("logs", "@", "--rank", "3").code == 2
    slow = workshop.recipe("import time\nfor n in range(3): print(n, flush=True); time.sleep(0.3)\n", name="slow")
    running = repro(workshop, "run", slow)
    give_up = time.monotonic() + 20
    while (
        not list(workshop.store.layout.directory("runs").glob("*/attempts/1/logs/rank-0"))
        or status_of(workshop) != "running"
    ):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    followed = repro(workshop, "logs", "@", "-f")
    assert followed.communicate(timeout=30)[0] == "0\n1\n2\n"
    running.communicate(timeout=30)


def test_ls_shows_runs_as_a_table_and_as_json(workshop: Workshop) -> None:
    assert "no store yet" in workshop.repro("ls").err
    workshop.run(workshop.recipe(WRITES))
    assert re.search(r"[0-9a-f]{12}  job +completed .* loss 0.5", workshop.repro("ls").out)
    assert workshop.repro("ls", "--status", "failed", "--json").json == []


def test_snapshot_env_schema_check_doctor_and_completion(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    workshop.write("job/notes.log", "x")
    workshop.write("job/.gitignore", "*.log\n")
    listed = workshop.repro("snapshot", recipe, "--list", "--json").json
    assert listed["included"] == [{"path": "train.py", "size": len(WRITES)}]
    assert {"path": "notes.log", "reason": ".gitignore:1 *.log"} in listed["ignored"]
    assert workshop.repro("snapshot", recipe, "--json").json["files"] == 1
    assert workshop.repro("env", "show", recipe, "--json").json["built"] is False
    assert workshop.repro("env", "build", recipe).code == 0
    assert workshop.repro("env", "show", recipe, "--json").json["built"] is True
    assert workshop.repro("schema").json["title"] == "repro recipe"
    assert workshop.repro("check", recipe).code == 0
    workshop.write("job/train.py", "import nothing_of_this_name\n")
    bad = workshop.repro("check", recipe, "--json")
    assert (bad.code, bad.json["ok"]) == (2, False)
    assert workshop.repro("doctor").code == 0
    assert "complete" in workshop.repro("completion", "bash").out


def test_env_runs_a_command_with_its_exit_code(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    done = repro(workshop, "env", "run", recipe, "--", "python", "-c", "import sys; print(sys.prefix); sys.exit(7)")
    out, _ = done.communicate(timeout=60)
    assert (done.returncode, out) == (7, workshop.repro("env", "show", recipe, "--json").json["path"] + "\n")
    missing = workshop.repro("env", "run", recipe, "--", "no-such-program", "-x")
    assert (missing.code, "error: no-such-program: no such program in the environment" in missing.err) == (2, True)


def test_env_lists_and_verifies_environments(workshop: Workshop) -> None:
    recipe = workshop.recipe(WRITES)
    assert workshop.repro("env", "ls", "--json").json == []
    assert workshop.repro("env", "verify").code == 2
    assert not (workshop.root / "cache").exists()
    assert workshop.repro("env", "verify", recipe).code == 2
    workshop.repro("env", "build", recipe)
    key = workshop.repro("env", "show", recipe, "--json").json["environment"]
    assert [(row["environment"], row["packages"]) for row in workshop.repro("env", "ls", "--json").json] == [(key, 0)]
    assert key in workshop.repro("env", "ls").out
    assert workshop.repro("env", "verify").code == 0
    assert workshop.repro("env", "verify", recipe, "--json").json["ok"] is True
    (workshop.store.layout.environment(key) / "evil.pth").write_text("")
    bad = workshop.repro("env", "verify", recipe, "--json")
    assert (bad.code, bad.json["findings"]) == (4, [{"environment": key, "message": "not as it was built: evil.pth"}])
    assert "evil.pth" in workshop.repro("env", "verify").out
    assert workshop.repro("verify").code == 4


def test_the_readers_of_a_pipe_may_leave(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(WRITES))
    shell = f"{sys.executable} -m repro_est show @ --json | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=workshop.root, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rnu", "x"], 2, "repro run"),
        (["run", "nothing.toml"], 2, "no such recipe"),
        (["show", "@"], 2, "cache: no store yet"),
        (["run", "deadbeef"], 2, "no run starts with it"),
        (["ls", "--status", "odd"], 2, "invalid choice"),
        (["run"], 2, "required"),
        (["models", "nope"], 2, "is not a registered model"),
    ],
)
def test_mistakes_on_the_command_line(workshop: Workshop, words: list[str], code: int, message: str) -> None:
    done = workshop.repro(*words)
    assert (done.code, message in done.err) == (code, True), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("key", ["salt", "script_params.--x"])
def test_an_override_that_is_not_utf8_is_refused(workshop: Workshop, key: str) -> None:
    done = workshop.repro("run", workshop.recipe(WRITES), "--set", f"{key}={os.fsdecode(b'a-' + bytes([255]))}")
    assert (done.code, f"--set {key}=a-\\xff: got bytes that are not UTF-8" in done.err) == (2, True), done.err


def test_a_recipe_whose_path_is_not_utf8_is_refused(workshop: Workshop) -> None:
    recipe = workshop.root / workshop.recipe(WRITES)
    (workshop.root / os.fsdecode(b"odd-\xff")).symlink_to(".")
    for name in (b"odd-\xff/job.toml", b"job-\xff.toml"):
        place = workshop.root / os.fsdecode(name)
        if not place.exists():
            shutil.copy(recipe, place)
        done = workshop.repro("run", os.fsdecode(name))
        assert (done.code, "got a path that is not UTF-8" in done.err) == (2, True), done.err
    assert workshop.repro("ls", "--json").json == []


def test_a_store_whose_path_is_not_utf8_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_STORE", str(workshop.root / os.fsdecode(b"store-\xff")))
    done = workshop.repro("run", workshop.recipe(WRITES))
    assert (done.code, "set REPRO_STORE to another directory" in done.err) == (5, True), done.err


def test_an_input_file_whose_name_is_not_utf8_is_refused(workshop: Workshop) -> None:
    (workshop.root / os.fsdecode(b"x-\xff")).write_text("")
    (workshop.root / "data").symlink_to(os.fsdecode(b"x-\xff"))
    done = workshop.repro("run", workshop.recipe(WRITES, '[inputs.d]\npath = "data"\n'))
    assert (done.code, r"x-\xff, has a name that is not UTF-8" in done.err) == (2, True), done.err


def test_a_secret_that_is_not_utf8_is_masked_like_any_other(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", os.fsdecode(b"canary-\xff"))
    recipe = workshop.recipe("import os, sys; sys.stdout.buffer.write(b'<' + os.environb[b'TOKEN'] + b'>')")
    workshop.write(recipe, 'secrets = ["TOKEN"]\n' + (workshop.root / recipe).read_text())
    assert workshop.repro("run", recipe).code == 0
    assert workshop.repro("logs").out == "<***>"


def test_a_store_of_a_newer_format_is_refused(workshop: Workshop) -> None:
    workshop.write("cache/format", "9\n")
    done = workshop.repro("ls")
    assert (done.code, "format 9" in done.err) == (5, True)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_broken_stored_result_is_set_aside_and_the_run_executed_again(workshop: Workshop, damage: str) -> None:
    recipe = workshop.recipe(WRITES)
    run = workshop.run(recipe)["run_hash"]
    result = Runs(workshop.store.layout).result(run)
    assert result is not None
    entry = workshop.store.read_tree(result.outputs).entries[0]
    blob = workshop.store.layout.blob(entry.xxh3)
    good = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(good.replace(b"0.5", b"0.6"))
    if damage == "gone":
        blob.unlink()
    done = workshop.repro("run", recipe)
    assert done.code == 0
    assert "set aside" in done.err
    assert "completed" in done.out
    assert blob.read_bytes() == good
    assert workshop.repro("verify").code == 0


def test_a_stored_plan_with_another_lock_is_not_executed(workshop: Workshop) -> None:
    run = workshop.run(workshop.recipe(WRITES))["run_hash"]
    path = workshop.store.layout.plan(run)
    path.write_text(path.read_text().replace('python = \\"3.', 'python = \\"2.'))
    done = workshop.repro("run", run, "--force")
    assert (done.code, "is not the environment that was hashed" in done.err) == (4, True)

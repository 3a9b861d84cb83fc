"""A script closed in by bubblewrap: what it sees, what it cannot, and that all else is as without. Real sandboxes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from repro_est.errors import InfrastructureError
from repro_est.launch import sandbox
from repro_est.launch.process import Launch, NoSandbox, Outcome, run_process
from repro_est.targets.stage import Workplace
from tests.conftest import Workshop, missing
from tests.test_process import FAMILY, gone


@pytest.fixture(autouse=True)
def works() -> None:
    why = sandbox.trial()
    if why:
        missing(why)


def attempt(workshop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = workshop.repro("show", "@", "--json").json["attempts"][-1]
    return found


def told(workshop: Workshop, script: str, more: str = "", *, estimator: str = "") -> Any:
    """Runs a script that writes JSON into `outputs/told`, and returns what it wrote."""
    run = workshop.run(workshop.recipe(script, more, estimator=estimator))
    assert attempt(workshop)["facts"]["sandbox"]["kind"] == "bubblewrap"
    return json.loads((Path(run["outputs"]) / "told").read_text())


LOOKS = """
import json, os, sys
def look(path):
    try:
        return os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        return type(error).__name__
json.dump([look(path) for path in sys.argv[1:]], open("outputs/told", "w"))
"""


def test_a_script_sees_no_home_no_store_and_no_project(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("private")
    monkeypatch.setenv("HOME", str(home))
    secret = workshop.write("secret.txt", "private")
    hidden = [
        home / ".ssh/id_ed25519",
        home,
        secret,
        workshop.root / "cache/runs",
        Path("/etc/shadow"),
        Path("/root/.ssh"),
    ]
    found = told(workshop, LOOKS, estimator=f"arguments = {json.dumps([str(path) for path in hidden])}")
    assert found == ["FileNotFoundError"] * len(hidden)


def test_a_home_below_a_directory_of_the_system_is_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/usr/share")
    seen, outcome = closed_in(tmp_path, "import os; print(os.listdir('/usr/share'))")
    assert (outcome.exit_code, seen) == (0, b"[]\n")


def test_a_script_sees_its_own_processes_only_and_none_of_our_variables(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "leak")
    script = (
        "import glob, json\n"
        "texts = [open(path).read() for path in glob.glob('/proc/[0-9]*/environ')]\n"
        "json.dump([len(texts), 'CANARY' in ''.join(texts)], open('outputs/told', 'w'))\n"
    )
    assert told(workshop, script) == [2, False]


CONNECTS = """
import json, socket
def tried(address):
    try:
        socket.create_connection(address, timeout=3).close()
        return "connected"
    except OSError as error:
        return type(error).__name__
own = socket.create_server(("127.0.0.1", 0))
name = socket.gethostbyname(socket.gethostname())
json.dump([tried(("127.0.0.1", PORT)), tried(own.getsockname()), tried(("192.0.2.1", 9))], open("outputs/told", "w"))
"""


def test_a_script_reaches_its_own_loopback_and_nothing_of_the_machine(workshop: Workshop) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        script = CONNECTS.replace("PORT", str(server.getsockname()[1]))
        closed = told(workshop, script)
        assert closed == ["ConnectionRefusedError", "connected", "OSError"]
        shut = workshop.repro("show", "@").out
        opened = told(workshop, script, "[environment]\nnetwork = true\n")
        assert opened[:2] == ["connected", "connected"]
    assert attempt(workshop)["facts"]["sandbox"] == {"kind": "bubblewrap", "network": True, "why": ""}
    assert "impure   network" in workshop.repro("show", "@").out
    assert "impure" not in shut


def test_what_a_script_binds_is_not_seen_outside(workshop: Workshop) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = (
        f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); time.sleep(60)"
    )
    process = started(workshop, workshop.recipe(script))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130


def test_the_network_moves_the_hash_and_is_an_impurity_in_every_telling(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/n', 'w')")
    pure = workshop.run(recipe)
    recipe = workshop.recipe("open('outputs/n', 'w')", "[environment]\nnetwork = true\n")
    impure = workshop.run(recipe)
    assert (pure["run_hash"] == impure["run_hash"], "impurities" in pure) == (False, False)
    assert list(impure["impurities"]) == ["network"]
    assert "impure   network" in workshop.repro("run", recipe).out
    page = Path(workshop.repro("page", "@", "-o", "page.html").out.strip().removeprefix("file://"))
    assert "sandbox: bubblewrap, with network, which is impure" in page.read_text()


def test_inputs_environment_and_system_cannot_be_written_and_the_rest_can(workshop: Workshop) -> None:
    workshop.write("data/a", "1")
    script = """
import json, os, sys
def write(path):
    try:
        open(path, "w").close()
        return "written"
    except OSError as error:
        return error.strerror
paths = [os.environ["REPRO_INPUT_d"] + "/a", sys.prefix + "/x", os.__file__, "/usr/x", "/x", "/etc/x",
         os.environ["REPRO_INPUT_c"] + "/a", "x", "logs/x", os.environ["HOME"] + "/x", "/tmp/x", "/dev/shm/x"]
json.dump([write(path) for path in paths], open("outputs/told", "w"))
"""
    tables = '[inputs.d]\npath = "data"\n[inputs.c]\npath = "data"\nmode = "copy"\n'
    found = told(workshop, script, tables)
    assert found == ["Read-only file system"] * 6 + ["written"] * 6
    assert (workshop.root / "data/a").read_text() == "1"
    assert attempt(workshop)["facts"]["process"]["read_only_inputs"] == "enforced"


def test_tmp_is_private(workshop: Workshop) -> None:
    script = "import json, os\nopen('/tmp/mine', 'w')\njson.dump(os.listdir('/tmp'), open('outputs/told', 'w'))"
    first = set(told(workshop, script))
    assert {"mine"} <= first <= {"mine", workshop.root.parts[2]}  # which leads to the environment, in a test
    assert not Path("/tmp/mine").exists()


def test_the_paths_of_a_script_do_not_depend_on_where_the_store_is(workshop: Workshop) -> None:
    names = ("REPRO_OUTPUTS", "HOME", "TMPDIR", "REPRO_INPUT_d")
    workshop.write("data/a", "1")
    script = (
        f"import json, os\nfound = [os.getcwd(), *(os.environ[name] for name in {names}), __file__]\n"
        "json.dump(found, open('outputs/told', 'w'))"
    )
    found = told(workshop, script, '[inputs.d]\npath = "data/a"\n')
    assert found == ["/work", "/work/outputs", "/home/repro", "/tmp", "/inputs/d/a", "/work/train.py"]


def test_a_hit_does_not_depend_on_the_sandbox(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = workshop.recipe("open('outputs/n', 'w')")
    monkeypatch.setenv("REPRO_SANDBOX", "none")
    first = workshop.run(recipe)
    assert attempt(workshop)["facts"]["sandbox"] == {"kind": "none", "network": True, "why": "REPRO_SANDBOX=none"}
    monkeypatch.delenv("REPRO_SANDBOX")
    workshop.write(recipe, (workshop.root / recipe).read_text() + "[sandbox]\nrequired = true\n")
    second = workshop.run(recipe)
    assert (second["run_hash"], second["cached"]) == (first["run_hash"], True)


def without_bubblewrap(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir()
    (directory / "git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(directory))


def test_without_bubblewrap_a_run_goes_on_is_recorded_and_is_said_once(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = workshop.recipe("open('outputs/n', 'w')")
    without_bubblewrap(tmp_path / "bin", monkeypatch)
    first = workshop.repro("run", recipe)
    assert (first.code, first.err.count("without a sandbox")) == (0, 1)
    assert "bubblewrap is not installed; they see your files and the network" in first.err
    recorded = {"kind": "none", "network": True, "why": "bubblewrap is not installed"}
    assert attempt(workshop)["facts"]["sandbox"] == recorded
    assert "without a sandbox" not in workshop.repro("run", recipe, "--force").err
    assert ", without a sandbox" in workshop.repro("show", "@").out
    workshop.write(recipe, (workshop.root / recipe).read_text() + "[sandbox]\nrequired = true\n")
    refused = workshop.repro("run", recipe, "--force")
    assert (refused.code, "required = true, and there is none: bubblewrap is not installed" in refused.err) == (5, True)
    sandboxes = [item for item in workshop.repro("doctor", "--json").json if item["name"] == "sandbox"]
    assert sandboxes[0]["found"].startswith("none: bubblewrap is not installed")


def test_a_bubblewrap_that_may_do_nothing_is_as_none_and_says_why(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    recipe = workshop.recipe("open('outputs/n', 'w')")
    done = workshop.repro("run", recipe)
    why = "bubblewrap does not work here: No permissions to create new namespace"
    assert (done.code, why in done.err) == (0, True)
    assert attempt(workshop)["facts"]["sandbox"] == {"kind": "none", "network": True, "why": why}
    assert sandbox.trial() == why


def closed_in(tmp_path: Path, script: str, **options: Any) -> tuple[bytes, Outcome]:
    """Runs a script of this Python in a sandbox; returns its output and how it ended."""
    place = Workplace(*(tmp_path / name for name in ("source", "home", "tmp", "modules")), {}, (), ())
    for directory in (place.source, place.home, place.temporary, place.modules, tmp_path / "logs", tmp_path / "store"):
        directory.mkdir(exist_ok=True)
    (place.source / "train.py").write_text(script)
    python = Path(os.path.realpath(sys.executable))
    enclosure, seen = sandbox.enclose(
        place, tmp_path / "logs", prefix=python.parent.parent, interpreter=python, store=tmp_path / "store",
        writable=frozenset(), network=False, use_gpu=False,
    )  # fmt: skip
    launch = Launch(
        (str(python), "train.py"), Path(seen.work), {"PATH": os.defpath, "PYTHONUNBUFFERED": "1"}, tmp_path / "logs",
        enclosure=enclosure, **{"grace_seconds": 0.5, **options},
    )  # fmt: skip
    outcome = run_process(launch, on_output=lambda *_: None)
    return (tmp_path / "logs/stdout.log").read_bytes(), outcome


def test_exit_codes_signals_and_limits_are_as_without(tmp_path: Path) -> None:
    def ended(script: str, **options: Any) -> tuple[int | None, str | None, bool]:
        outcome = closed_in(tmp_path, script, **options)[1]
        return outcome.exit_code, outcome.signal, outcome.timed_out

    assert ended("raise SystemExit(7)") == (7, None, False)
    assert ended("raise SystemExit(137)") == (137, None, False)
    assert ended("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") == (None, "SIGSEGV", False)
    assert ended("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == (None, "SIGKILL", False)
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert ended(ignores, timeout_seconds=0.5) == (None, "SIGKILL", True)
    saves = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); time.sleep(60)"
    assert ended(saves, timeout_seconds=0.5, grace_seconds=10) == (3, None, True)


def test_daemons_end_with_the_script_secrets_are_masked_and_memory_is_told(tmp_path: Path) -> None:
    text, outcome = closed_in(tmp_path, FAMILY + "print('key', 'hunter' + '2')\n", secrets=("hunter2",))
    assert (outcome.succeeded, outcome.leftovers, text.endswith(b"key ***\n")) == (True, 2, True)
    assert outcome.max_rss > 1 << 20


def test_a_script_cannot_end_its_supervisor(tmp_path: Path) -> None:
    text, outcome = closed_in(tmp_path, "import os, time\nos.kill(1, 9)\ntime.sleep(0.1)\nprint('still here')")
    assert (text, outcome.succeeded) == (b"still here\n", True)


def test_a_sandbox_that_cannot_be_set_up_runs_nothing(tmp_path: Path) -> None:
    _, outcome = closed_in(tmp_path, "open('ran', 'w')")
    assert outcome.succeeded
    assert (tmp_path / "source/ran").exists()
    (tmp_path / "source/ran").unlink()
    enclosure = sandbox.Enclosure(("bwrap", "--ro-bind", "/no/such/thing", "/x", "--"), sys.executable)
    launch = Launch(("/bin/true",), tmp_path, {}, tmp_path / "logs", enclosure=enclosure)
    with pytest.raises(NoSandbox, match="/no/such/thing"):
        run_process(launch, on_output=lambda *_: None)


def test_an_environment_where_a_script_would_have_its_work_keeps_all_paths(tmp_path: Path) -> None:
    place = Workplace(*(tmp_path / name for name in ("source", "home", "tmp", "modules")), {"d": "x"}, (), ())
    kept = sandbox._seen(place, [Path("/work/cache/envs/1")])
    assert kept == sandbox.own_paths(place)
    assert sandbox._seen(place, [Path("/srv/cache/envs/1")]) == sandbox.container_paths(
        dataclasses.replace(place, input_paths={"d": "x"})
    )


def test_of_an_interpreter_in_a_home_only_its_own_part_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("bin/python3.11", "lib/python3.11/os.py", "lib/libpython3.11.so", "letters/love.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(sandbox._pythons(tmp_path / "bin/python3.11", tmp_path / "store"))
    assert found == [tmp_path / name for name in ("bin/python3.11", "lib/python3.11", "lib/libpython3.11.so")]
    assert list(sandbox._pythons(tmp_path / "py/bin/python3.11", tmp_path / "store")) == [tmp_path / "py"]


def test_several_ranks_are_recorded_as_having_none_and_may_be_refused(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)", "[sandbox]\nrequired = true\n", estimator="process_count_per_node = 2")
    refused = workshop.repro("run", recipe)
    assert (refused.code, "several processes, or hosts, run without one" in refused.err) == (5, True)
    with pytest.raises(InfrastructureError, match="required = true"):
        sandbox.required(sandbox.Sandbox("none", network=True, why="x"))


def started(workshop: Workshop, recipe: str) -> subprocess.Popen[str]:
    """Starts `repro run` and returns when the script has said something."""
    process = subprocess.Popen(
        [sys.executable, "-m", "repro_est", "run", recipe, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=workshop.root,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "output":
            return process
    pytest.fail("the script said nothing")


def processes_with(word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_killed_client_leaves_nothing(workshop: Workshop) -> None:
    mark = f"mark-{os.getpid()}-{time.time_ns()}"
    script = "import subprocess, sys, time\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nprint(1, flush=True)\ntime.sleep(600)"
    process = started(workshop, workshop.recipe(script, estimator=f'arguments = ["{mark}"]'))
    inside = processes_with(mark)
    inside = [*inside, *processes_with(str(workshop.store.layout.root / "work"))]
    assert inside
    process.kill()
    process.wait()
    assert all(gone(pid) for pid in inside)

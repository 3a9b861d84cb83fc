"""The life of a run on hosts: it belongs to them, and its client may go, come back, wait, or end it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro_est.api.run import Run
from repro_est.api.workspace import Workspace
from tests.conftest import Workshop
from tests.gang import COUNTS, DAEMONISES, WAITS, Stage, until_true
from tests.lab.hosts import Cluster


@pytest.fixture
def stage(workshop: Workshop, lab: Cluster) -> Iterator[Stage]:
    stage = Stage(workshop, lab)
    yield stage
    stage.close()


def whole(stage: Stage) -> list[str]:
    return [stage.logs(rank) for rank in range(3)]


WHOLE = [f"ready {rank}\ndone {rank}\n" for rank in range(3)]

PAUSES = """\
import os, time
from repro_est.launch.provision import Provision
def pause(self, berths, real=Provision.bring_source):
    real(self, berths)
    open("staged", "w").close()
    while not os.path.exists("begin"):
        time.sleep(0.02)
Provision.bring_source = pause
"""
"""Has a client wait, when all is staged, for a file `begin`."""


# ---- without a client


def test_a_run_whose_client_is_killed_goes_on_and_attach_gives_its_result_and_its_whole_log(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    client.kill()
    stage.go()
    attached = stage.repro("attach", "@").ends()
    assert attached.code == 0, attached.err
    assert "completed" in attached.out
    assert whole(stage) == WHOLE


def test_ps_shows_a_run_whose_client_was_killed(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    client.kill()
    (row,) = stage.workshop.repro("ps", "--json").json
    assert (row["status"], row["outcome"], row["where"]) == ("detached", "running", "h1, h2, h3")
    assert "detached, running" in stage.workshop.repro("ps").out
    stage.go()
    until_true(lambda: not stage.pids("h1", "hostside.node"), 10, lambda: "it does not end")
    (row,) = stage.workshop.repro("ps", "--json").json
    assert (row["status"], row["outcome"]) == ("detached", "completed")
    assert f"detached, completed: repro attach {row['run_hash'][:12]}" in stage.workshop.repro("ps").out
    assert stage.repro("attach", "@").ends().code == 0


def test_the_same_recipe_again_attaches_to_a_run_that_was_left_and_executes_nothing_twice(stage: Stage) -> None:
    recipe = stage.recipe()
    stage.started(recipe).kill()
    stage.go()
    again = stage.repro("run", recipe, "-t", "lab").ends()
    assert again.code == 0, again.err
    assert "Attached" in again.err
    assert len(stage.shown()["attempts"]) == 1
    assert whole(stage) == WHOLE


def test_a_failure_of_a_run_that_was_left_is_found_by_attach(stage: Stage) -> None:
    stage.started(stage.recipe()).kill()
    stage.signal("h2", stage.rank("h2"))
    attached = stage.repro("attach", "@").ends()
    assert attached.code == 1
    assert "rank 1 on h2: was killed by SIGKILL" in attached.err


def test_a_detached_run_is_read_and_cancelled(stage: Stage) -> None:
    client = stage.repro("run", stage.recipe(), "-t", "lab", "--detach")
    done = client.ends()
    assert done.code == 0, done.err
    until_true(lambda: stage.logs(2) == "ready 2\n", 5, lambda: stage.logs(2))
    cancelled = stage.repro("cancel", "@").ends()
    assert cancelled.code == 0, cancelled.err
    assert "canceled" in cancelled.out
    assert stage.shown()["status"] == "canceled"
    assert stage.kept() == ["part-0", "part-1", "part-2"]


def test_logs_of_a_detached_run_are_followed_to_its_end(stage: Stage) -> None:
    assert stage.repro("run", stage.recipe(), "-t", "lab", "--detach").ends().code == 0
    reader = stage.repro("logs", "@", "-f", "--rank", "1", "--stream", "stdout")
    until_true(lambda: stage.logs(1) == "ready 1\n", 5, lambda: stage.logs(1))
    stage.go()
    assert reader.ends().out == "ready 1\ndone 1\n"
    assert stage.repro("attach", "@").ends().code == 0


def test_of_two_that_attach_at_once_one_waits_and_both_have_the_result(stage: Stage) -> None:
    stage.started(stage.recipe()).kill()
    one, other = stage.repro("attach", "@"), stage.repro("attach", "@")
    until_true(lambda: any("Waiting" in client.said for client in (one, other)), 10, lambda: one.said + other.said)
    stage.go()
    assert [one.ends().code, other.ends().code] == [0, 0], one.said + other.said
    assert len(stage.shown()["attempts"]) == 1


def test_who_tidies_up_tmp_does_no_harm_to_a_run(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    (link,) = stage.hosts.run("h2", ["sh", "-c", "ls -d /tmp/repro-*"]).stdout.split()
    stage.hosts.run("h2", ["touch", "-h", "-d", "2020-01-01", link])
    old = stage.hosts.run("h2", ["flock", "--exclusive", "--nonblock", "/tmp/.repro-leases", "true"], check=False)
    assert old.returncode == 1  # what systemd-tmpfiles asks before it looks into a directory
    stage.go()
    assert client.ends().code == 0


# ---- the end, by the user


def test_ctrl_c_lets_the_ranks_end_themselves(stage: Stage) -> None:
    script = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\nprint('ready', os.environ['RANK'])\ntime.sleep(600)\n"
    client = stage.started(stage.recipe(script))
    client.signal(signal.SIGINT)
    done = client.ends()
    assert done.code == 130
    assert [stage.logs(rank) for rank in range(3)] == [f"ready {rank}\nsaved\n" for rank in range(3)]
    assert stage.shown()["status"] == "canceled"


def test_ctrl_c_twice_kills_ranks_that_ignore_term_at_once(stage: Stage) -> None:
    client = stage.started(stage.recipe(DAEMONISES))
    client.signal(signal.SIGINT)
    time.sleep(0.5)
    assert client.process.poll() is None
    client.signal(signal.SIGINT)
    second = time.monotonic()
    assert client.ends().code == 130
    assert time.monotonic() - second < 4


def test_ctrl_c_three_times_leaves_what_cannot_be_reached(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.unplug()
    for _ in range(3):
        client.signal(signal.SIGINT)
        time.sleep(0.2)
    left = client.ends()
    stage.plug_in()
    assert "left; hosts that could be told end the run" in left.err + left.out
    assert stage.repro("cancel", "@").ends().code == 0


def test_ctrl_c_while_staging_gives_back_what_was_taken(stage: Stage) -> None:
    client = stage.repro("run", stage.recipe(), "-t", "lab", before=PAUSES)
    until_true((stage.workshop.root / "staged").exists, 20, lambda: client.said)
    client.signal(signal.SIGINT)
    assert client.ends().code == 130
    assert stage.hosts.all_leftovers(patience=1) == {}


def test_a_client_that_is_killed_while_it_collects_is_no_loss(stage: Stage) -> None:
    dies = (
        "import os\nfrom repro_est.launch import ending\nending.write_driver_log = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    stage.go()
    assert stage.repro("run", stage.recipe(), "-t", "lab", before=dies).ends().code == -9
    assert stage.repro("attach", "@").ends().code == 0
    assert whole(stage) == WHOLE


def test_ctrl_c_while_a_completed_run_is_collected_loses_nothing(stage: Stage) -> None:
    interrupts = "import os\nfrom repro_est.launch import gang\ngang.gather = lambda *_: os.kill(os.getpid(), 2)\n"
    stage.go()
    done = stage.repro("run", stage.recipe(), "-t", "lab", before=interrupts).ends()
    assert done.code == 5
    assert "has completed at its hosts" in done.err
    assert stage.repro("attach", "@").ends().code == 0
    assert whole(stage) == WHOLE


def test_ctrl_c_before_attach_listens_leaves_the_run_as_it_was(stage: Stage) -> None:
    stage.started(stage.recipe()).kill()
    interrupts = (
        "import os\nfrom repro_est.launch.attached import Attached\n"
        "Attached.stage = lambda *_: os.kill(os.getpid(), 2)\n"
    )
    assert stage.repro("attach", "@", before=interrupts).ends().code == 130
    stage.go()
    assert stage.repro("attach", "@").ends().code == 0


def test_two_that_cancel_at_once_both_succeed(stage: Stage) -> None:
    stage.started(stage.recipe()).kill()
    clients = stage.repro("cancel", "@"), stage.repro("cancel", "@")
    assert [client.ends().code for client in clients] == [0, 0], [client.said for client in clients]
    assert stage.shown()["status"] == "canceled"


def test_cancel_ends_a_run_that_another_client_follows(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    assert stage.repro("cancel", "@").ends().code == 0
    assert client.ends().code == 130


# ---- the end, by a limit


def test_a_run_that_takes_too_long_is_ended(stage: Stage) -> None:
    done = stage.repro("run", stage.recipe(estimator="max_run_duration_seconds = 1\n"), "-t", "lab").ends()
    assert done.code == 1
    assert "took longer than max_run_duration_seconds = 1" in done.err
    assert stage.shown()["status"] == "timed_out"


def test_a_rank_that_gives_no_sign_of_life_is_hung(stage: Stage) -> None:
    client = stage.started(stage.recipe(COUNTS, estimator="heartbeat_seconds = 1\n"))
    stage.signal("h3", stage.rank("h3"), number=signal.SIGSTOP)
    done = client.ends()
    assert done.code == 1
    assert "a rank hung: rank 2 wrote nothing and gave no sign of life for 1 s; its process is stopped" in done.err


def test_a_quiet_rank_that_touches_its_heartbeat_is_not_hung(stage: Stage) -> None:
    script = "import os, pathlib, time\nfor _ in range(20):\n    pathlib.Path(os.environ['REPRO_HEARTBEAT']).touch()\n    time.sleep(0.1)\n"
    done = stage.repro("run", stage.recipe(script, estimator="heartbeat_seconds = 1\n"), "-t", "lab").ends()
    assert done.code == 0, done.err


# ---- the start


def test_a_script_that_fails_at_import_is_a_failure_of_its_rank(stage: Stage) -> None:
    done = stage.repro("run", stage.recipe("import nothing_of_that_name\n"), "-t", "lab").ends()
    assert done.code == 1
    assert "ModuleNotFoundError" in done.err


def test_a_missing_interpreter_is_no_failure_of_the_script(stage: Stage) -> None:
    stage.hosts.wipe("h2")  # of the environments of other tests
    client = stage.repro("run", stage.recipe(), "-t", "lab", before=PAUSES)
    until_true((stage.workshop.root / "staged").exists, 20, lambda: client.said)
    (python,) = stage.hosts.run("h2", ["sh", "-c", "ls -d /root/.cache/repro/places/env-*/bin/python"]).stdout.split()
    stage.hosts.run("h2", ["sh", "-c", f"chmod u+w {python.rpartition('/')[0]}; mv {python} {python}.away"])
    (stage.workshop.root / "begin").touch()
    done = client.ends()
    stage.hosts.run("h2", ["mv", f"{python}.away", python])
    assert done.code == 5
    assert "not all ranks could be started: rank 1 on h2: " in done.err
    assert "bin/python: [Errno 2] No such file or directory" in done.err


def test_when_a_host_has_another_source_nothing_is_started_and_a_table_says_where(stage: Stage) -> None:
    other = "def real(self, berths, real=Provision.bring_source):\n    real(self, berths)\n    berths[1].identity['source'] = 'an' + 'other'\n"
    before = f"from repro_est.launch.provision import Provision\n{other}Provision.bring_source = real\n"
    done = stage.repro("run", stage.recipe(), "-t", "lab", before=before).ends()
    assert done.code == 4
    assert "nothing was started: the ranks do not all execute the same thing" in done.err
    (row,) = [line.split() for line in done.err.splitlines() if line.startswith("  h2 ")]
    assert row[:4] == ["h2", "1", "source", "another"]
    assert len(row[4]) == 64
    assert "ready" not in done.err


def test_more_ranks_than_slots_is_a_usage_error_that_names_the_hosts(stage: Stage) -> None:
    done = stage.repro("run", stage.recipe(each=3), "-t", "lab").ends()
    assert done.code == 2
    assert all(f"{host}: 2 slots, expected 3" in done.err for host in stage.hosts.hosts), done.err


def test_a_second_run_waits_for_the_slots_of_the_first_and_says_who_has_them(stage: Stage) -> None:
    first = stage.started(stage.recipe(each=2), ranks=6)
    run = stage.shown()["run_hash"]
    second = stage.repro("run", stage.recipe("print('second')\n", name="second"), "-t", "lab")
    second.waits_for("Queued", "h2: 0 of 2 slots free, expected 1; held by ", f", run {run[:12]}")
    stage.go()
    assert first.ends().code == 0
    assert second.ends().code == 0, second.said


def test_a_client_that_is_killed_between_the_last_word_and_the_start_is_cleaned_up_by_attach(stage: Stage) -> None:
    recipe = stage.recipe()
    dies = "import os\nfrom repro_est.launch.follow import Link\nLink.begin = lambda *_: os.kill(os.getpid(), 9)\n"
    assert stage.repro("run", recipe, "-t", "lab", before=dies).ends().code == -9
    assert stage.repro("attach", "@").ends().code == 130
    stage.go()
    assert stage.repro("run", recipe, "-t", "lab").ends().code == 0


def test_clients_that_are_killed_while_they_wait_or_stage_leave_no_claim_behind(stage: Stage) -> None:
    dies = (
        "import os\nfrom repro_est.launch.provision import Provision\n"
        "Provision.bring_source = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    assert stage.repro("run", stage.recipe(each=2), "-t", "lab", before=dies).ends().code == -9
    killed = time.monotonic()
    waiting = stage.repro("run", stage.recipe(each=2, name="other"), "-t", "lab")
    waiting.waits_for("Queued")
    waiting.kill()
    assert stage.hosts.all_leftovers(patience=25) == {}
    assert time.monotonic() - killed < 25


# ---- what ranks write


def test_bytes_of_any_kind_are_kept_as_they_are(stage: Stage) -> None:
    script = "import os, sys\nsys.stdout.buffer.write(bytes(range(256)) * 4 + b'\\xff\\xfe no text')\n"
    done = stage.repro("run", stage.recipe(script), "-t", "lab").ends()
    assert done.code == 0, done.err
    logs = stage.workshop.root / "cache/runs" / stage.shown()["run_hash"] / "logs"
    for rank in range(3):
        assert (logs / f"rank-{rank}/stdout.log").read_bytes() == bytes(range(256)) * 4 + b"\xff\xfe no text"
    assert "no text" in done.err


def test_a_line_of_50_mb_is_kept_whole_and_costs_no_memory(stage: Stage) -> None:
    script = "import os, sys\nif os.environ['RANK'] == '1':\n    for _ in range(50):\n        sys.stdout.write('x' * 1_000_000)\n"
    status = "[line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]"
    peak = f"import atexit\natexit.register(lambda: print('peak', {status}))\n"
    done = stage.repro("run", stage.recipe(script), "-t", "lab", "--rank", "0", before=peak).ends()
    assert done.code == 0, done.err
    logs = stage.workshop.root / "cache/runs" / stage.shown()["run_hash"] / "logs"
    assert (logs / "rank-1/stdout.log").stat().st_size == 50_000_000
    assert int(done.out.split()[-1]) < 128 << 10  # KiB


def test_secrets_are_in_the_environment_of_ranks_and_nowhere_else(stage: Stage) -> None:
    secret = "hunter2-correct-horse"
    script = WAITS + "print('it is', os.environ['TOKEN_X'])\nprint(os.environ['TOKEN_X'], file=sys.stderr)\n"
    recipe = stage.recipe(script)
    path = stage.workshop.root / recipe
    path.write_text('secrets = ["TOKEN_X"]\n' + path.read_text())
    client = stage.started(recipe, TOKEN_X=secret)
    for host in stage.hosts.hosts:
        ranks = {stage.rank(host)}
        for pid, command in stage.hosts.processes(host):
            assert secret not in command
            environment = stage.hosts.path(host, f"/proc/{pid}/environ").read_bytes()
            assert (secret.encode() in environment) == (pid in ranks), command
        assert files_with(stage, host, secret) == ""
    stage.go()
    assert client.ends().code == 0
    assert secret not in client.said
    assert "it is ***" in stage.workshop.repro("logs", "@", "--rank", "all").out
    assert [files_with(stage, host, secret) for host in stage.hosts.hosts] == [""] * 3
    found = [
        path
        for path in (stage.workshop.root / "cache").rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert found == []


def files_with(stage: Stage, host: str, text: str) -> str:
    return stage.hosts.run(
        host, ["grep", "-rlaF", text, "/root/.cache", "/tmp", "/run", "/dev/shm", "/var/tmp"], check=False
    ).stdout


def test_a_script_that_daemonises_leaves_nothing_when_it_ends(stage: Stage) -> None:
    client = stage.started(stage.recipe(DAEMONISES))
    client.waits_for("daemonised")
    stage.go()
    assert client.ends().code == 0, client.said


# ---- full disks


def test_a_disk_that_is_full_while_staging_is_named_and_nothing_is_left_there(stage: Stage) -> None:
    recipe = stage.recipe()
    (stage.workshop.root / "job/data").write_bytes(os.urandom(8 << 20))
    stage.hosts.small_disk("h2", "/root/.cache/repro", 6 << 20)
    done = stage.repro("run", recipe, "-t", "lab").ends()
    assert done.code == 5
    assert "h2: no space left on the disk" in done.err
    assert "ready" not in done.err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_ranks_fill_ends_the_run_with_that_cause(stage: Stage, rank: int) -> None:
    script = (
        f"import os\nif os.environ['RANK'] == '{rank}':\n"
        "    with open('outputs/big', 'wb', 0) as file:\n        while True:\n            file.write(bytes(4096))\n"
    )
    host = f"h{rank + 1}"
    stage.hosts.small_disk(host, "/root/.cache/repro", 8 << 20)
    done = stage.repro("run", stage.recipe(script), "-t", "lab").ends()
    assert done.code == 1
    assert f"rank {rank} on {host}: exit code 1" in done.err
    assert f"[{rank}] OSError: [Errno 28] No space left on device" in done.err
    assert f"hint: free some space on {host}" in done.err
    assert stage.kept() == ["big"]


def test_a_run_that_a_full_disk_here_has_no_room_for_is_collected_later(
    stage: Stage, small_disk: Callable[[int], Path]
) -> None:
    place = small_disk(12 << 20)
    script = "import os\nprint('x' * 3_000_000)\nopen('outputs/big-' + os.environ['RANK'], 'wb').write(os.urandom(6 << 20))\n"
    recipe = stage.recipe(script)
    done = stage.repro("run", recipe, "-t", "lab", "--rank", "2", REPRO_STORE=str(place)).ends()
    assert done.code == 5
    assert "has completed at its hosts, and could not be brought here" in done.err
    subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
    attached = stage.repro("attach", "@", REPRO_STORE=str(place)).ends()
    assert attached.code == 0, attached.err
    (outputs,) = place.glob("runs/*/outputs")
    assert sorted(path.name for path in outputs.iterdir()) == ["big-0", "big-1", "big-2"]
    (logs,) = place.glob("runs/*/logs")
    assert [(logs / f"rank-{rank}/stdout.log").stat().st_size for rank in range(3)] == [3_000_001] * 3


def test_metrics_of_a_run_on_hosts_are_read_while_it_runs_and_kept(stage: Stage) -> None:
    script = "from repro_est import Run\nrun = Run.get_context(every_rank=os.environ['RANK'] == '2')\n"
    recipe = stage.recipe("import os\n" + script + "run.log('rank', int(os.environ['RANK']))\n" + WAITS)
    assert stage.repro("run", recipe, "-t", "lab", "--detach").ends().code == 0
    run = Run(Workspace(stage.workshop.root), "@")
    until_true(lambda: run.get_metrics() == {"rank": [0, 2]}, 10, lambda: str(run.get_metrics()))
    assert run.get_status() == "Running"
    assert "logs/rank-2/run.jsonl" in run.get_file_names()
    stage.go()
    assert stage.repro("attach", "@").ends().code == 0
    assert (run.get_status(), run.get_metrics()) == ("Completed", {"rank": [0, 2]})
    assert not (stage.workshop.store.layout.attempt(run._hash, 1) / "live").exists()

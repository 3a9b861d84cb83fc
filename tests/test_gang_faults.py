"""What happens to a run on hosts when a part of it dies: one named outcome, and nothing left running anywhere."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.launch.follow import Follower
from tests.conftest import Workshop, missing
from tests.gang import COUNTS, DAEMONISES, LOST_AFTER, TALKS, Stage
from tests.lab.conda_package import Channel
from tests.lab.hosts import Cluster


@pytest.fixture
def stage(workshop: Workshop, lab: Cluster) -> Iterator[Stage]:
    stage = Stage(workshop, lab)
    yield stage
    stage.close()


# ---- a rank


def test_a_killed_rank_is_named_and_takes_the_others_down(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.signal("h2", stage.rank("h2"))
    killed = time.monotonic()
    done = client.ends()
    assert time.monotonic() - killed < 3
    assert done.code == 1
    assert "rank 1 on h2: was killed by SIGKILL" in done.err
    assert "rank 1:\n  | ready 1" in done.err


def test_partial_outputs_of_all_hosts_are_kept_when_a_rank_is_killed(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.signal("h3", stage.rank("h3"))
    client.ends()
    assert stage.kept() == ["part-0", "part-1", "part-2"]


def test_a_rank_that_exits_with_3_is_named_with_its_last_lines(stage: Stage) -> None:
    script = 'import os, sys, time\nif os.environ["RANK"] == "2":\n    sys.exit("no data")\ntime.sleep(60)\n'
    done = stage.repro("run", stage.recipe(script), "-t", "lab").ends()
    assert done.code == 1
    assert "rank 2 on h3: exit code 1" in done.err
    assert "| no data" in done.err


def test_a_killed_supervisor_ends_the_run(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.signal("h2", stage.supervisor("h2"))
    done = client.ends()
    assert done.code == 1
    assert "rank 1 on h2: vanished" in done.err


# ---- a daemon


def test_a_killed_guardian_is_a_lost_host_and_no_cancellation(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.signal("h2", stage.daemon("h2")[0])
    done = client.ends()
    assert done.code == 5
    assert "a host was lost: the daemon of h2 was told to end" in done.err
    assert stage.kept() == ["part-0", "part-1", "part-2"]


def test_a_killed_worker_is_a_lost_host(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.signal("h2", stage.daemon("h2")[1])
    done = client.ends()
    assert done.code == 5
    assert f"a host was lost: h2 did not answer for {LOST_AFTER} s: its daemon died" in done.err


def test_what_is_left_when_guardian_and_worker_are_killed_at_once_ends_at_the_next_contact(stage: Stage) -> None:
    client = stage.started(stage.recipe(DAEMONISES))
    stage.signal("h2", *stage.daemon("h2"))
    assert client.ends().code == 5


# ---- a host


def test_a_host_without_power_is_lost_and_named(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.kill("h2")
    done = client.ends()
    assert done.code == 5
    assert f"a host was lost: h2 did not answer for {LOST_AFTER} s" in done.err
    assert stage.kept() == ["part-0", "part-2"]


def test_ranks_that_fail_because_a_host_died_are_not_the_cause(stage: Stage) -> None:
    client = stage.started(stage.recipe(TALKS, estimator='distributed_training = "torch"\n'))
    stage.hosts.kill("h2")
    done = client.ends()
    assert done.code == 5
    assert f"a host was lost: h2 did not answer for {LOST_AFTER} s" in done.err
    assert "then rank" in done.err


def test_without_the_head_the_others_end_their_ranks(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.kill("h1")
    done = client.ends()
    assert done.code == 5
    assert f"heard nothing from h1, where rank 0 runs, for {LOST_AFTER} s" in done.err
    assert stage.kept() == ["part-1", "part-2"]
    assert not stage.pids("h2", "train.py")


def test_a_lost_host_is_replaced_when_the_recipe_allows_another_try(stage: Stage) -> None:
    client = stage.started(stage.recipe(nodes=2, estimator="retries = 1\n"), ranks=2)
    stage.hosts.kill("h2")
    client.waits_for("attempt 2", "the run goes without it")
    stage.go()
    done = client.ends()
    assert done.code == 0, done.err
    facts = stage.shown()["attempts"][-1]["facts"]
    assert [host["host"] for host in facts["hosts"]] == ["h1", "h3"]


def test_without_enough_hosts_another_try_says_which_one_is_gone(stage: Stage) -> None:
    client = stage.started(stage.recipe(estimator="retries = 1\n"))
    stage.hosts.kill("h2")
    done = client.ends()
    assert done.code == 5
    assert "error: h2: " in done.err


def test_a_host_that_was_started_again_is_reaped_at_the_next_contact(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.kill("h2")
    assert client.ends().code == 5
    stage.hosts.start("h2")
    (token,) = stage.run_directories()["h2"]
    assert stage.workshop.repro("run", stage.recipe("print(1)\n", name="other"), "-t", "lab").code == 0
    verdict = stage.hosts.path("h2", f"/root/.cache/repro/runs/{token}/verdict.json").read_text()
    assert "the host was restarted" in verdict
    stage.forget("h2")


def test_a_host_that_is_back_at_once_does_not_know_the_run_any_more(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.kill("h2")
    stage.hosts.start("h2")
    done = client.ends()
    assert done.code == 5
    assert f"h2 did not answer for {LOST_AFTER} s: its daemon died, or the host was restarted" in done.err


def test_when_all_hosts_were_started_again_attach_says_so(stage: Stage) -> None:
    stage.started(stage.recipe()).kill()
    for host in stage.hosts.hosts:
        stage.hosts.kill(host)
        stage.hosts.start(host)
    attached = stage.repro("attach", "@").ends()
    assert attached.code == 5
    assert "a host was lost: h1: its daemon died, or the host was restarted" in attached.err
    assert stage.kept() == ["part-0", "part-1", "part-2"]


def test_a_run_whose_hosts_are_gone_for_good_can_be_forgotten(stage: Stage) -> None:
    recipe = stage.recipe(nodes=1, each=2)
    stage.started(recipe, "--hosts", "h3", ranks=2).kill()
    stage.hosts.kill("h3")
    cancelled = stage.repro("cancel", "@").ends()
    assert cancelled.code == 5
    assert "repro cancel @ --forget" in cancelled.err
    assert stage.repro("cancel", "@", "--forget").ends().out.endswith("lost\n")
    stage.go()
    assert stage.repro("run", recipe, "-t", "lab", "--hosts", "h1").ends().code == 0


def test_a_script_that_fails_is_never_tried_again(stage: Stage) -> None:
    done = stage.repro("run", stage.recipe("raise SystemExit(3)\n", estimator="retries = 3\n"), "-t", "lab").ends()
    assert done.code == 1
    assert len(stage.shown()["attempts"]) == 1


# ---- the network


def test_hosts_that_cannot_reach_each_other_say_where_to_look(stage: Stage) -> None:
    stage.hosts.partition("h1", "h2")
    done = stage.repro("run", stage.recipe(), "-t", "lab").ends()
    assert done.code == 5
    assert f"h2 cannot reach h1 at {stage.hosts.address('h1')}, port" in done.err
    assert "ready" not in done.err


def test_a_cut_shorter_than_allowed_is_survived_and_no_line_is_lost_or_doubled(stage: Stage) -> None:
    client = stage.started(stage.recipe(COUNTS))
    stage.hosts.cut("h2")
    time.sleep(LOST_AFTER / 2)
    stage.hosts.heal("h2")
    stage.go()
    done = client.ends()
    assert done.code == 0, done.err
    assert_counted(stage, done.err)


def test_sessions_of_sshd_that_are_killed_are_made_again_and_no_line_is_lost_or_doubled(stage: Stage) -> None:
    client = stage.started(stage.recipe(COUNTS))
    for host in ("h1", "h2"):
        stage.signal(host, *stage.sessions(host))
    client.waits_for("Reconnected  h1", "Reconnected  h2")
    stage.go()
    done = client.ends()
    assert done.code == 0, done.err
    assert_counted(stage, done.err)


def test_sessions_of_sshd_that_are_killed_when_all_is_over_do_no_harm(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.cut("h2")
    for host in ("h1", "h3"):
        stage.signal(host, *stage.sessions(host))
    stage.hosts.heal("h2")
    stage.go()
    assert client.ends().code == 0


def test_hosts_that_do_not_hear_the_head_are_lost_though_the_client_hears_all(stage: Stage) -> None:
    client = stage.started(stage.recipe())
    stage.hosts.partition("h1", "h2")
    done = client.ends()
    assert done.code == 5
    assert f"h2 did not answer for {LOST_AFTER} s: h2 heard nothing from h1" in done.err
    assert stage.kept() == ["part-0", "part-1", "part-2"]


def test_a_quiet_run_is_no_lost_contact(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Follower.__init__.__kwdefaults__, "patience", 1.5)
    done = stage.workshop.repro("run", stage.recipe("import time\ntime.sleep(2.5)\n"), "-t", "lab")
    assert done.code == 0, done.err


def test_with_no_host_in_reach_the_client_leaves_and_attach_has_the_result(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Follower.__init__.__kwdefaults__, "patience", 1.5)
    threading.Timer(1.2, stage.unplug).start()
    done = stage.workshop.repro("run", stage.recipe(), "-t", "lab")
    assert done.code == 5
    assert "no host of the run could be reached" in done.err
    stage.plug_in()
    stage.go()
    attached = stage.repro("attach", "@").ends()
    assert attached.code == 0, attached.err
    assert [stage.logs(rank) for rank in range(3)] == [f"ready {rank}\ndone {rank}\n" for rank in range(3)]


# ---- mpirun


@pytest.mark.parametrize(
    ("host", "program", "words"),
    [("h1", "mpirun", "mpirun on h1 ended with 137"), ("h2", "orted", "an MPI daemon on h2 ended with 137")],
)
def test_what_starts_the_ranks_is_named_when_it_is_killed(stage: Stage, host: str, program: str, words: str) -> None:
    if not shutil.which("mpirun"):
        missing("no Open MPI on this machine")
    client = stage.started(stage.recipe(estimator='distributed_training = "mpi"\n'))
    (pid,) = [pid for pid, command in stage.hosts.processes(host) if command.partition(" ")[0].endswith(program)]
    stage.signal(host, pid)
    done = client.ends()
    assert done.code == 5
    assert f"what starts the ranks failed: {words}" in done.err


# ---- containers


@pytest.mark.xdist_group("docker")
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("container", 1, "on h3: vanished"),
        ("dockerd", 5, "what starts the ranks failed: ranks on h3 ended with 125"),
        ("daemons", 5, "a host was lost: h3: its daemon died"),
    ],
)
def test_what_dies_under_ranks_in_a_container_is_named_and_no_container_is_left(
    stage: Stage, channel: Channel, base_tar: Path, fault: str, code: int, words: str
) -> None:
    if not stage.hosts.dockers:
        missing("no host of the lab has Docker")
    with open(stage.workshop.root / "repro.toml", "a") as file:
        file.write(f'[images]\nbase = "{base_tar}"\n')
    environment = f'[environment]\nchannels = ["{channel.root}"]\n'
    recipe = stage.recipe(nodes=1, each=2, estimator='conda_packages = ["python"]\n', more=environment)
    client = stage.repro("run", recipe, "-t", "docker-lab")
    client.waits_for("[0] ready", "[1] ready", seconds=60)
    match fault:
        case "container":
            stage.hosts.run("h3", ["sh", "-c", "docker kill $(docker ps -q)"])
        case "dockerd":
            stage.hosts.stop_docker("h3")
        case "daemons":
            stage.signal("h3", *stage.daemon("h3"))
    done = client.ends()
    assert done.code == code
    assert words in done.err
    assert "part-0" in stage.kept()
    stage.hosts.start("h3")


def assert_counted(stage: Stage, shown: str) -> None:
    for rank in range(3):
        numbers = [int(line.split()[-1]) for line in stage.logs(rank).splitlines() if line.startswith("line ")]
        assert numbers == list(range(len(numbers)))
        live = [line for line in shown.splitlines() if line.startswith(f"[{rank}] line ")]
        assert len(live) == len(numbers)
